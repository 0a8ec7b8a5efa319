//! `skep compose`, alone and in turns with docker-compose as Debian ships it: each must be
//! able to take over the other's project.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::client::{environment, success};
use skep_conformance::{Host, wait};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Scenarios that run once, since they bring their own client.
pub(crate) const SCENARIOS: &[Scenario] = &[
    ("compose_everyday", everyday),
    ("compose_dependencies", dependencies),
    ("compose_profiles_and_files", profiles_and_files),
    ("compose_follows_until_the_end", follows_until_the_end),
    ("compose_takes_over_from_docker_compose", takes_over),
    ("compose_is_taken_over_by_docker_compose", is_taken_over),
];

pub(crate) const SHOP: &str = r#"
services:
  web:
    build: CONTEXT
    image: whoami
    ports: ["8085:80"]
    depends_on: [store]
  store:
    image: busybox
    command: ["sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    environment: {COLOUR: blue}
    volumes: ["data:/data", "./notes:/notes:ro", "/scratch"]
    networks: {default: {aliases: [shelf]}}
volumes:
  data: {}
"#;

/// A folder with a compose file, and the tools to use it with.
pub(crate) struct Project<'h> {
    host: &'h Host,
    folder: PathBuf,
}

impl<'h> Project<'h> {
    pub(crate) fn new(host: &'h Host, text: &str) -> Result<Self> {
        host.import_busybox()?;
        let folder = host.scratch().join("shop");
        fs::create_dir_all(folder.join("notes"))?;
        fs::write(folder.join("notes/one"), "from the host\n")?;
        let project = Self { host, folder };
        project.write(text)?;
        Ok(project)
    }

    pub(crate) fn write(&self, text: &str) -> Result<()> {
        let context = environment("SKEP_TEST_WHOAMI_CONTEXT");
        Ok(fs::write(self.folder.join("docker-compose.yml"), text.replace("CONTEXT", &context.to_string_lossy()))?)
    }

    fn command(&self, program: PathBuf, before: &[&str], args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(before).args(args).current_dir(&self.folder).stdin(Stdio::null());
        command.env("DOCKER_HOST", format!("unix://{}", self.host.socket()));
        command
    }

    fn skep_command(&self, args: &[&str]) -> Command {
        self.command(environment("SKEP_TEST_SKEP"), &["compose"], args)
    }

    fn skep(&self, args: &[&str]) -> Result<String> {
        success(&self.skep_command(args).output()?).with_context(|| format!("skep compose {}", args.join(" ")))
    }

    /// What it said when it failed.
    fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.skep_command(args).output()?;
        ensure!(!output.status.success(), "skep compose {} succeeded", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub(crate) fn other(&self, args: &[&str]) -> Result<String> {
        let output = self.command("/usr/bin/docker-compose".into(), &[], args).output()?;
        success(&output).with_context(|| format!("docker-compose {}", args.join(" ")))
    }

    pub(crate) fn nothing_is_left(&self) -> Result<()> {
        for args in [
            ["ps", "-aq"].as_slice(),
            &["volume", "ls", "-q"],
            &["network", "ls", "-q", "--filter", "label=com.docker.compose.project=shop"],
        ] {
            let left = self.host.ok(args)?;
            ensure!(left.is_empty(), "{args:?} after down: {left}");
        }
        Ok(())
    }
}

fn everyday(host: &mut Host) -> Result<()> {
    let shop = Project::new(host, SHOP)?;
    shop.skep(&["up", "-d", "--build"])?;
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8085/"))?;
    let names = host.ok(&["ps", "--format", "{{.Names}}"])?;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    ensure!(names == ["shop-store-1", "shop-web-1"], "{names:?}");
    let listed = shop.skep(&["ps"])?;
    ensure!(
        listed.starts_with("NAME") && listed.contains("0.0.0.0:8085->80/tcp") && listed.contains("store"),
        "{listed}"
    );
    ensure!(shop.skep(&["port", "web", "80"])?.starts_with("0.0.0.0:8085"));
    wait::until("the log", || {
        let log = shop.skep(&["logs", "--no-color", "store"])?;
        ensure!(log == "store-1  | started", "{log}");
        Ok(())
    })?;
    let seen = shop.skep(&["exec", "-T", "store", "sh", "-c", "echo $COLOUR; cat /notes/one; nslookup shelf"])?;
    ensure!(seen.starts_with("blue\nfrom the host\n") && seen.contains("Name:"), "{seen}");
    shop.skep(&["exec", "-T", "store", "sh", "-c", "echo kept > /data/file; echo too > /scratch/file"])?;

    // Nothing changed: nothing happens. One changed: it alone is replaced, with its volumes.
    let before = (shop.skep(&["ps", "-q", "store"])?, shop.skep(&["ps", "-q", "web"])?);
    ensure!(before.0.len() == 64, "{before:?}");
    shop.skep(&["up", "-d"])?;
    ensure!((shop.skep(&["ps", "-q", "store"])?, shop.skep(&["ps", "-q", "web"])?) == before, "replaced without need");
    shop.write(&SHOP.replace("COLOUR: blue", "COLOUR: green"))?;
    shop.skep(&["up", "-d"])?;
    ensure!(shop.skep(&["ps", "-q", "store"])? != before.0, "a changed container stayed");
    ensure!(shop.skep(&["ps", "-q", "web"])? == before.1, "an unchanged container was replaced");
    let kept = shop.skep(&["exec", "-T", "store", "sh", "-c", "echo $COLOUR; cat /data/file /scratch/file"])?;
    ensure!(kept == "green\nkept\ntoo", "{kept}");
    shop.skep(&["up", "-d", "--force-recreate", "--no-deps", "web"])?;
    ensure!(shop.skep(&["ps", "-q", "web"])? != before.1, "--force-recreate replaced nothing");

    shop.skep(&["up", "-d", "--scale", "store=3"])?;
    ensure!(shop.skep(&["ps", "-q", "store"])?.lines().count() == 3, "three of store");
    shop.skep(&["scale", "store=1"])?;
    ensure!(shop.skep(&["ps", "--format", "{{.Name}}", "store"])? == "shop-store-1", "the first stays");
    // The anonymous volumes of those that went are nobody's now.
    host.ok(&["volume", "prune", "-f"])?;
    let once = shop.skep(&["run", "--rm", "-T", "store", "echo", "once"])?;
    ensure!(once == "once", "{once}");
    shop.skep(&["cp", "store:/data/file", "copied"])?;
    ensure!(fs::read_to_string(shop.folder.join("copied"))? == "kept\n");
    ensure!(shop.skep(&["top", "store"])?.contains("shop-store-1"));
    ensure!(shop.skep(&["images"])?.contains("whoami"));
    ensure!(shop.skep(&["ls"])?.contains("running(2)"));
    shop.skep(&["restart", "-t", "5", "web"])?;
    shop.skep(&["stop"])?;
    ensure!(shop.skep(&["ps", "-q"])?.is_empty() && shop.skep(&["ps", "-aq"])?.lines().count() == 2, "stopped ones");
    shop.skep(&["start"])?;
    wait::until("an answer after start", || host.who_answers("http://127.0.0.1:8085/"))?;

    // Without its files a project goes by its name.
    let elsewhere = success(&shop.skep_command(&["-p", "shop", "ps", "-q"]).current_dir("/").output()?)?;
    ensure!(elsewhere.lines().count() == 2, "{elsewhere}");
    shop.skep(&["down", "-v", "-t", "5"])?;
    shop.nothing_is_left()
}

const CHAIN: &str = r#"
services:
  front:
    image: busybox
    command: ["sh", "-c", "cat /order/log; sleep 1000"]
    init: true
    volumes: ["order:/order"]
    depends_on:
      store: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
  migrate:
    image: busybox
    command: ["sh", "-c", "echo migrated >> /order/log; exit CODE"]
    volumes: ["order:/order"]
    depends_on: {store: {condition: service_healthy}}
  store:
    image: busybox
    command: ["sh", "-c", "while [ ! -e /order/go ]; do usleep 20000; done; echo ready >> /order/log; touch /order/ready; sleep 1000"]
    init: true
    volumes: ["order:/order"]
    healthcheck: {test: "touch /order/go; test -e /order/ready", interval: 100ms, retries: 100}
volumes: {order: }
"#;

fn dependencies(host: &mut Host) -> Result<()> {
    let shop = Project::new(host, &CHAIN.replace("CODE", "0"))?;
    shop.skep(&["up", "-d", "--wait"])?;
    wait::until("the order", || {
        let log = shop.skep(&["logs", "--no-log-prefix", "front"])?;
        ensure!(log == "ready\nmigrated", "{log}");
        Ok(())
    })?;
    ensure!(shop.skep(&["ps", "store"])?.contains("(healthy)"));
    let label =
        host.ok(&["inspect", "-f", "{{index .Config.Labels \"com.docker.compose.depends_on\"}}", "shop-front-1"])?;
    ensure!(label == "migrate:service_completed_successfully:false,store:service_healthy:false", "{label}");
    shop.skep(&["down", "-v", "-t", "0"])?;

    // A step that fails keeps what waits for it from starting.
    shop.write(&CHAIN.replace("CODE", "3"))?;
    let said = shop.refused(&["up", "-d"])?;
    ensure!(said.contains("didn't complete successfully: exit 3"), "{said}");
    let state = host.ok(&["inspect", "-f", "{{.State.Status}}", "shop-front-1"])?;
    ensure!(state == "created", "{state}");
    shop.skep(&["down", "-v", "-t", "0"])?;

    shop.write("services: {a: {image: busybox, depends_on: [b]}, b: {image: busybox, depends_on: [a]}}")?;
    let said = shop.refused(&["up", "-d"])?;
    ensure!(said.contains("depends_on goes in a circle: a -> b -> a"), "{said}");
    shop.nothing_is_left()
}

fn profiles_and_files(host: &mut Host) -> Result<()> {
    let text = r#"
services:
  app:
    image: busybox
    command: sleep 1000
    init: true
    env_file: [values.env]
    environment: [OUTSIDE, NOWHERE]
    secrets: [word]
    configs: [{source: text, target: /etc/text, mode: 0400}]
  tool:
    image: busybox
    command: sleep 1000
    init: true
    profiles: [debug]
    network_mode: "service:app"
secrets: {word: {environment: WORD}}
configs: {text: {content: "hello ${WORD}\n"}}
"#;
    let shop = Project::new(host, text)?;
    fs::write(shop.folder.join("values.env"), "ONE=1\nTWO=\"${ONE} and ${WORD}\"\n")?;
    fs::write(shop.folder.join("special"), "WORD=magic\n")?;
    fs::write(shop.folder.join("docker-compose.override.yml"), "services: {app: {environment: {MORE: there}}}\n")?;
    let up = |more: &[&str]| -> Result<String> {
        let args = [&["--env-file", "special"], more, &["up", "-d"]].concat();
        success(&shop.skep_command(&args).env("OUTSIDE", "given").output()?)
    };
    up(&[])?;
    let seen = shop.skep(&[
        "--env-file",
        "special",
        "exec",
        "-T",
        "app",
        "sh",
        "-c",
        "echo $TWO $OUTSIDE $MORE ${NOWHERE-unset}; cat /run/secrets/word /etc/text; stat -c %a /etc/text",
    ])?;
    ensure!(seen == "1 and magic given there unset\nmagichello magic\n400", "{seen}");
    ensure!(shop.skep(&["--env-file", "special", "ps", "--services"])? == "app", "a profile that nobody asked for");
    up(&["--profile", "debug"])?;
    ensure!(shop.skep(&["--env-file", "special", "--profile", "debug", "ps", "--services"])? == "app\ntool");
    let space = |name: &str| -> Result<String> {
        let pid = host.ok(&["inspect", "-f", "{{.State.Pid}}", name])?;
        Ok(fs::read_link(format!("/proc/{pid}/ns/net"))?.to_string_lossy().into_owned())
    };
    ensure!(space("shop-app-1")? == space("shop-tool-1")?, "network_mode service:app");
    let config = shop.skep(&["--env-file", "special", "config"])?;
    ensure!(config.contains("name: shop") && config.contains("TWO: \"1 and magic\""), "{config}");

    // Which files there are may stand in the file of variables.
    fs::write(shop.folder.join(".env"), "COMPOSE_FILE=one.yml:two.yml\nCOMPOSE_PROJECT_NAME=other\n")?;
    fs::write(shop.folder.join("one.yml"), "services: {app: {image: busybox}}\n")?;
    fs::write(shop.folder.join("two.yml"), "services: {app: {command: 'true'}, more: {image: busybox}}\n")?;
    ensure!(shop.skep(&["config", "--services"])? == "app\nmore" && shop.skep(&["config"])?.contains("name: other"));
    fs::remove_file(shop.folder.join(".env"))?;

    // What the files do not name any more is an orphan, removed only on demand.
    fs::remove_file(shop.folder.join("docker-compose.override.yml"))?;
    shop.write("services: {app: {image: busybox, command: sleep 1000, init: true, models: [x]}}")?;
    let output = shop.skep_command(&["up", "-d"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("Found orphan containers ([shop-tool-1])"), "{said}");
    ensure!(said.matches("models is not supported").count() == 1, "{said}");
    shop.skep(&["up", "-d", "--remove-orphans"])?;
    ensure!(host.ok(&["ps", "-a", "--format", "{{.Names}}"])? == "shop-app-1");
    shop.skep(&["down", "-t", "0"])?;
    shop.nothing_is_left()
}

fn follows_until_the_end(host: &mut Host) -> Result<()> {
    let text = r#"
services:
  short: {image: busybox, command: ["sh", "-c", "echo one; echo two >&2; exit 7"]}
  long: {image: busybox, init: true, command: ["sh", "-c", "echo here; sleep 1000"]}
"#;
    let shop = Project::new(host, text)?;
    let output = shop.skep_command(&["up", "--exit-code-from", "short", "-t", "0"]).output()?;
    let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(7), "{:?}: {shown}{errors}", output.status);
    ensure!(shown.contains("short-1  | one\n") && shown.contains("short-1 exited with code 7"), "{shown}");
    ensure!(errors.contains("short-1  | two\n"), "{errors}");
    ensure!(shop.skep(&["ps", "-q"])?.is_empty(), "something still runs");

    // Ctrl-C stops what it started.
    let mut child =
        shop.skep_command(&["up", "-t", "0", "long"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    wait::until("the container", || {
        ensure!(shop.skep(&["ps", "-q", "long"])?.len() == 64, "not yet");
        Ok(())
    })?;
    wait::until("the end", || {
        success(&Command::new("kill").args(["-INT", &child.id().to_string()]).output()?)?;
        child.try_wait()?.context("still running")
    })?;
    ensure!(shop.skep(&["ps", "-q"])?.is_empty(), "Ctrl-C stopped nothing");
    shop.skep(&["down"])?;
    shop.nothing_is_left()
}

fn takes_over(host: &mut Host) -> Result<()> {
    let shop = Project::new(host, SHOP)?;
    shop.other(&["up", "-d", "--build"])?;
    shop.other(&["exec", "-T", "store", "sh", "-c", "echo kept > /data/file; echo too > /scratch/file"])?;
    ensure!(shop.skep(&["ps", "-q"])?.lines().count() == 2, "its containers are ours");
    shop.skep(&["up", "-d"])?;
    let names = host.ok(&["ps", "-a", "--format", "{{.Names}}"])?;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    ensure!(names == ["shop-store-1", "shop-web-1"], "{names:?}");
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8085/"))?;
    let kept = shop.skep(&["exec", "-T", "store", "cat", "/data/file", "/scratch/file"])?;
    ensure!(kept == "kept\ntoo", "{kept}");
    shop.skep(&["down", "-v", "-t", "5"])?;
    shop.nothing_is_left()
}

fn is_taken_over(host: &mut Host) -> Result<()> {
    let shop = Project::new(host, SHOP)?;
    shop.skep(&["up", "-d", "--build"])?;
    shop.skep(&["exec", "-T", "store", "sh", "-c", "echo kept > /data/file; echo too > /scratch/file"])?;
    ensure!(shop.other(&["ps", "-q"])?.lines().count() == 2, "our containers are its");
    shop.other(&["up", "-d"])?;
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8085/"))?;
    let kept = shop.other(&["exec", "-T", "store", "cat", "/data/file", "/scratch/file"])?;
    ensure!(kept == "kept\ntoo", "{kept}");
    ensure!(host.ok(&["ps", "-aq"])?.lines().count() == 2, "two containers, not more");
    // And back again.
    shop.skep(&["up", "-d"])?;
    ensure!(shop.skep(&["exec", "-T", "store", "cat", "/data/file"])? == "kept");
    // It keeps anonymous volumes that it took over, so the last word is ours.
    shop.skep(&["down", "-v", "-t", "5"])?;
    shop.nothing_is_left()?;
    shop.skep(&["up", "-d"])?;
    shop.other(&["down", "-v", "-t", "5"])?;
    shop.nothing_is_left()
}
