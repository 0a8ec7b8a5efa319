//! Chapter 8 of the course, command by command, typed on the machines as the course does.
//! Docker Hub is a registry on the outside machine that the daemons use as their mirror.

mod networks;

use crate::swarm::{nodes_become, settled};
use crate::{Scenario, say};
use anyhow::{Context, Result, bail, ensure};
use skep_conformance::client::{environment, success};
use skep_conformance::{Lab, Node, Options, wait};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "course_8_services_stacks_secrets", options, run: services_stacks_secrets, every_client: true },
    Scenario { name: "course_8_networks", options, run: networks::networks, every_client: true },
];

const HUB: &str = "10.99.0.254:5000";
const MANAGER: &str = "swarm-manager";
const WORKER_1: &str = "swarm-worker1";
const WORKER_2: &str = "swarm-worker2";
/// No command of the course takes longer.
const COMMAND_SECONDS_MAX: &str = "120";
/// What the course pings; the outside machine answers to it.
const THE_INTERNET: &str = "8.8.8.8";

fn options() -> Options {
    let mut options = Options::for_test(3).hosts(&[MANAGER, WORKER_1, WORKER_2]);
    let mirror = format!("http://{HUB}");
    options.daemon_options = vec!["--registry-mirror".into(), mirror, "--insecure-registry".into(), HUB.into()];
    options
}

/// Somebody at the keyboards of three machines.
struct Course<'a> {
    lab: &'a Lab,
    /// Holds a `docker`, which is the client under test.
    bin: PathBuf,
    /// Where the course's files are.
    folder: PathBuf,
}

impl<'a> Course<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let home = lab.node(1).scratch();
        let course = Self { lab, bin: home.join("bin"), folder: home.join("course") };
        fs::create_dir_all(&course.bin)?;
        symlink(&lab.node(1).client().program, course.bin.join("docker"))?;
        success(&Command::new("cp").arg("-r").arg(environment("SKEP_TEST_COURSE")).arg(&course.folder).output()?)?;
        lab.outside_ok(&["ip", "addr", "add", &format!("{THE_INTERNET}/32"), "dev", "br0"])?;
        // The course waits half a minute for its health check; nothing else of it changes.
        let dockerfile = course.folder.join("flask-redis/Dockerfile");
        let text = fs::read_to_string(&dockerfile)?;
        ensure!(text.contains("--interval=30s"), "{text}");
        fs::write(&dockerfile, text.replace("--interval=30s", "--interval=1s"))?;
        course.start_hub()?;
        Ok(course)
    }

    fn start_hub(&self) -> Result<()> {
        let folder = self.lab.node(1).scratch().join("hub");
        fs::create_dir_all(&folder)?;
        let config = folder.join("config.yml");
        let data = folder.join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: {HUB}}}\n",
                data.display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut registry = self.lab.spawn_outside(command)?;
        // It ends with the lab; somebody has to hear of it.
        std::thread::spawn(move || registry.wait());
        wait::until("Docker Hub", || self.lab.outside_ok(&["curl", "-sf", &format!("http://{HUB}/v2/")]).map(drop))
    }

    /// Types a line on a machine and gives what it printed; it must succeed.
    fn on(&self, host: &str, line: &str) -> Result<String> {
        self.on_in(host, Path::new("/"), line)
    }

    fn on_in(&self, host: &str, folder: &Path, line: &str) -> Result<String> {
        let script = format!(
            "export PATH={}:$PATH DOCKER_HOST=unix:///run/skep/skep.sock DOCKER_BUILDKIT=0 DOCKER_CLI_HINTS=false\n\
             cd {}\n{line}",
            self.bin.display(),
            folder.display()
        );
        let begin = Instant::now();
        let outcome = self.lab.by_name(host)?.inside_ok(&["timeout", COMMAND_SECONDS_MAX, "sh", "-c", &script]);
        if std::env::var_os("SKEP_TEST_SHOW_COMMANDS").is_some() {
            say(&format!("{host}$ {line}  ({} ms)", begin.elapsed().as_millis()));
        }
        outcome
    }

    fn refused(&self, host: &str, line: &str) -> Result<String> {
        match self.on(host, &format!("if {line} 2>&1; then echo SUCCEEDED; fi"))? {
            said if said.ends_with("SUCCEEDED") => bail!("{line} should fail: {said}"),
            said => Ok(said),
        }
    }

    /// An image under its name in Docker Hub, and gone from the machine that made it.
    fn publish(&self, name: &str) -> Result<()> {
        let path = if name.contains('/') { name.to_owned() } else { format!("library/{name}") };
        self.on(
            MANAGER,
            &format!("docker tag {name} {HUB}/{path} && docker push {HUB}/{path} && docker rmi {HUB}/{path}"),
        )
        .map(drop)
    }

    fn build(&self, folder: &str, name: &str) -> Result<()> {
        self.on_in(MANAGER, &self.folder.join(folder), &format!("docker build -t {name} .")).map(drop)
    }

    fn import(&self, tar: &str, name: &str) -> Result<()> {
        self.on(MANAGER, &format!("docker import {} {name}", environment(tar).display())).map(drop)
    }

    fn manager(&self) -> &Node {
        self.lab.node(1)
    }

    /// 8.2 and 8.3.
    fn form(&self) -> Result<()> {
        let said = self.on(MANAGER, "docker info")?;
        ensure!(said.contains("Swarm: inactive"), "{said}");
        let said = self.on(MANAGER, "docker swarm init")?;
        ensure!(said.contains("is now a manager."), "{said}");
        let join =
            said.lines().find(|line| line.contains(" swarm join --token SWMTKN-1-")).context("no line to join by")?;
        let join = join.trim().replacen("skep", "docker", 1);
        let said = self.on(MANAGER, "docker node ls")?;
        ensure!(said.contains("* ") && said.contains("Leader") && said.lines().count() == 2, "{said}");
        for worker in [WORKER_1, WORKER_2] {
            ensure!(self.on(worker, &join)? == "This node joined a swarm as a worker.");
        }
        nodes_become(
            self.manager(),
            &["swarm-manager Ready Active Leader", "swarm-worker1 Ready Active", "swarm-worker2 Ready Active"],
        )?;
        let refusal = self.refused(WORKER_1, "docker node ls")?;
        ensure!(refusal.contains("This node is not a swarm manager. Worker nodes can't be used"), "{refusal}");
        Ok(())
    }
}

/// A row of a listing as its columns.
fn row<'a>(listing: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let row = listing.lines().find(|line| line.split_whitespace().any(|word| word == name));
    Ok(row.with_context(|| format!("no row {name} in:\n{listing}"))?.split_whitespace().collect())
}

/// Readers counted so far, as the page says.
fn count(page: &str) -> Result<u64> {
    let number = page.split_once("I have been seen ").and_then(|(_, rest)| rest.split(' ').next());
    number.and_then(|word| word.parse().ok()).with_context(|| page.to_owned())
}

fn services_stacks_secrets(lab: &mut Lab) -> Result<()> {
    let course = Course::new(lab)?;
    course.form()?;
    course.import("SKEP_TEST_PYTHON_TAR", "python:3.9.5-slim")?;
    course.import("SKEP_TEST_REDIS_TAR", "redis:latest")?;
    course.import("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    course.build("flask-redis", "xiaopeng163/flask-redis:latest")?;
    course.build("mysql", "mysql:5.7")?;
    for name in ["redis:latest", "xiaopeng163/flask-redis:latest", "mysql:5.7"] {
        course.publish(name)?;
    }
    let listing = course.on(MANAGER, "docker image ls")?;
    ensure!(row(&listing, "xiaopeng163/flask-redis")?[1] == "latest" && row(&listing, "python")?[1] == "3.9.5-slim");
    services(&course)?;
    stacks(&course)?;
    secrets(&course)?;
    volumes(&course)
}

/// 8.7. Both tasks are kept on one machine where the course lets them go anywhere.
fn services(course: &Course) -> Result<()> {
    course.on(MANAGER, "docker network create -d overlay mynet")?;
    let listing = course.on(MANAGER, "docker network ls")?;
    ensure!(
        row(&listing, "mynet")?[2..] == ["overlay", "swarm"] && row(&listing, "ingress")?[3] == "swarm",
        "{listing}"
    );
    let place = "--constraint node.hostname==swarm-worker2";
    let create = format!(
        "docker service create {place} --network mynet --name redis redis:latest redis-server --requirepass ABC123"
    );
    ensure!(course.on(MANAGER, &create)?.contains("Service converged"));
    let listing = course.on(MANAGER, "docker service ls")?;
    ensure!(row(&listing, "redis")?[2..] == ["replicated", "1/1", "redis:latest"], "{listing}");
    let listing = course.on(MANAGER, "docker service ps redis")?;
    ensure!(row(&listing, "redis.1")?[2..6] == ["redis:latest", WORKER_2, "Running", "Running"], "{listing}");
    let create = format!(
        "docker service create {place} --network mynet --name flask --env REDIS_HOST=redis --env REDIS_PASS=ABC123 \
         -p 8080:5000 xiaopeng163/flask-redis:latest"
    );
    ensure!(course.on(MANAGER, &create)?.contains("Service converged"));
    let listing = course.on(MANAGER, "docker service ls")?;
    ensure!(
        row(&listing, "flask")?[2..] == ["replicated", "1/1", "xiaopeng163/flask-redis:latest", "*:8080->5000/tcp"],
        "{listing}"
    );
    course.on(MANAGER, "docker service ps flask")?;
    counts_up(course, WORKER_2, "127.0.0.1:8080")?;
    // A new page goes on counting where the old one was.
    let before = count(&course.on(WORKER_2, "curl -sS 127.0.0.1:8080")?)?;
    course.on(MANAGER, "docker service update --force flask")?;
    let after = count(&wait::until("the new page", || course.on(WORKER_2, "curl -sSf 127.0.0.1:8080"))?)?;
    ensure!(after > before, "{before} readers, then {after}");
    course.on(MANAGER, "docker service rm flask redis")?;
    Ok(())
}

/// Three readers in a row; the image's health check reads the page too.
fn counts_up(course: &Course, host: &str, address: &str) -> Result<()> {
    let mut last = count(&wait::until("the page", || course.on(host, &format!("curl -sSf {address}")))?)?;
    for _ in 1..=2 {
        let seen = count(&course.on(host, &format!("curl -sSf {address}"))?)?;
        ensure!((last + 1..last + 5).contains(&seen), "after reader {last} comes {seen}");
        last = seen;
    }
    Ok(())
}

/// 8.8. Kept on one machine by a line that the course's file does not have.
fn stacks(course: &Course) -> Result<()> {
    let folder = course.folder.join("flask-redis");
    let file = folder.join("docker-compose.yml");
    let text = fs::read_to_string(&file)?;
    let place = "    deploy:\n      placement:\n        constraints: [node.hostname==swarm-worker1]\n";
    let text = text.replace("    image: ", &format!("{place}    image: "));
    fs::write(&file, text)?;
    let deploy = "env REDIS_PASSWORD=ABC123 docker stack deploy --compose-file docker-compose.yml flask-demo";
    let said = course.on_in(MANAGER, &folder, &format!("{deploy} 2>&1"))?;
    for line in [
        "Creating network flask-demo_default",
        "Creating service flask-demo_flask",
        "Creating service flask-demo_redis-server",
    ] {
        ensure!(said.contains(line), "{said}");
    }
    ensure!(said.contains("unsupported options: build"), "{said}");
    let listing = course.on(MANAGER, "docker stack ls")?;
    ensure!(row(&listing, "flask-demo")?[1] == "2", "{listing}");
    settled(course.manager(), "flask-demo_flask", 1)?;
    settled(course.manager(), "flask-demo_redis-server", 1)?;
    let listing = course.on(MANAGER, "docker stack ps flask-demo")?;
    ensure!(row(&listing, "flask-demo_flask.1")?[3..6] == [WORKER_1, "Running", "Running"], "{listing}");
    let listing = course.on(MANAGER, "docker stack services flask-demo")?;
    ensure!(row(&listing, "flask-demo_flask")?[2..4] == ["replicated", "1/1"], "{listing}");
    let listing = course.on(MANAGER, "docker service ls")?;
    ensure!(row(&listing, "flask-demo_redis-server")?[3] == "1/1", "{listing}");
    counts_up(course, WORKER_1, "127.0.0.1:8080")?;
    let said = course.on_in(MANAGER, &folder, &format!("{deploy} 2>&1"))?;
    // docker sends the same once more; skep sees that it is the same.
    let again = ["Updating service flask-demo_flask", "flask-demo_flask (id: "];
    ensure!(again.iter().any(|line| said.contains(line)) && !said.contains("Creating"), "{said}");
    course.on(MANAGER, "docker stack rm flask-demo")?;
    wait::until("the stack to go", || {
        let left = course.on(MANAGER, "docker stack ls --format '{{.Name}}'; docker service ls -q")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

/// 8.9.
fn secrets(course: &Course) -> Result<()> {
    let folder = &course.folder;
    let id = course.on(MANAGER, "echo abc123 | docker secret create mysql_pass -")?;
    let listing = course.on(MANAGER, "docker secret ls")?;
    ensure!(row(&listing, "mysql_pass")?[0] == id, "{listing}");
    let shown = course.on(MANAGER, "docker secret inspect mysql_pass")?;
    ensure!(shown.contains(&id) && !shown.contains("abc123") && !shown.contains("YWJjMTIz"), "{shown}");
    ensure!(
        course.on(MANAGER, "docker secret rm mysql_pass")? == "mysql_pass"
            || course.on(MANAGER, "docker secret ls -q")?.is_empty()
    );
    course.on_in(MANAGER, folder, "docker secret create mysql_pass mysql_pass.txt")?;
    course.on(
        MANAGER,
        "docker service create --name mysql-demo --secret mysql_pass \
         --env MYSQL_ROOT_PASSWORD_FILE=/run/secrets/mysql_pass mysql:5.7",
    )?;
    let listing = course.on(MANAGER, "docker service ls")?;
    ensure!(row(&listing, "mysql-demo")?[2..] == ["replicated", "1/1", "mysql:5.7"], "{listing}");
    let listing = course.on(MANAGER, "docker service ps mysql-demo")?;
    let host = row(&listing, "mysql-demo.1")?[3];
    let exec = "docker container exec $(docker container ls -q --filter name=mysql-demo)";
    ensure!(course.on(host, &format!("{exec} cat /run/secrets/mysql_pass"))? == "abc123");
    course.on(host, &format!("{exec} mysql -u root -pabc123 -e 'create database demo'"))?;
    let refusal = course.refused(host, &format!("{exec} mysql -u root -pwrong -e show"))?;
    ensure!(refusal.contains("ERROR 1045 (28000): Access denied"), "{refusal}");
    let refusal = course.refused(MANAGER, "docker secret rm mysql_pass")?;
    ensure!(refusal.contains("is in use by the following service: mysql-demo"), "{refusal}");
    course.on(MANAGER, "docker service rm mysql-demo && docker secret rm mysql_pass").map(drop)
}

/// 8.10: a volume keeps its data when the task is replaced, on the machine where it is.
fn volumes(course: &Course) -> Result<()> {
    let folder = &course.folder;
    course.on_in(MANAGER, folder, "docker stack deploy --compose-file docker-compose.yml db")?;
    let host = settled(course.manager(), "db_db", 1)?[0].node.clone();
    ensure!(course.on(&host, "docker volume ls -q")?.lines().any(|name| name == "db_data"));
    let exec = "docker container exec $(docker container ls -q --filter name=db_db)";
    course.on(&host, &format!("{exec} mysql -u root -pabc123 -e 'create database kept'"))?;
    course.on(MANAGER, &format!("docker service update --constraint-add node.hostname=={host} --force db_db"))?;
    settled(course.manager(), "db_db", 1)?;
    ensure!(course.on(&host, &format!("{exec} mysql -u root -pabc123 -e show"))?.contains("create database kept"));
    course.on(MANAGER, "docker stack rm db").map(drop)
}
