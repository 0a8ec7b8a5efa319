//! Several machines for one kind of engine: a network namespace each, a private `/run`, and
//! a switch between them.

use super::api::Api;
use super::engine::Engine;
use crate::sh::{cmd, output, run, target};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// Where a machine's own folder is seen from inside.
const RUN_INSIDE: &str = "/run";

/// A machine; its processes end with it.
struct Machine {
    namespace: String,
    address: String,
    state: PathBuf,
    run_folder: PathBuf,
    holder: Child,
    helpers: Vec<Child>,
    daemon: Option<Child>,
}

/// All machines of one engine.
pub(crate) struct Machines<'a> {
    engine: &'a dyn Engine,
    cli: &'a Path,
    name: String,
    machines: Vec<Machine>,
}

impl<'a> Machines<'a> {
    /// Brings up `count` machines with a daemon each.
    pub(crate) fn up(engine: &'a dyn Engine, cli: &'a Path, count: usize) -> Result<Self> {
        let mut all = Self { engine, cli, name: format!("skc{}", std::process::id()), machines: Vec::new() };
        let switch = all.switch();
        run(&mut cmd("ip", ["netns", "add", &switch]))?;
        ip(&switch, "link add br0 type bridge stp_state 0 forward_delay 0")?;
        ip(&switch, "link set br0 up")?;
        for number in 0..count {
            all.add(number)?;
        }
        for number in 0..count {
            all.spawn_daemon(number)?;
        }
        for number in 0..count {
            all.wait_for_daemon(number)?;
        }
        Ok(all)
    }

    fn switch(&self) -> String {
        format!("{}sw", self.name)
    }

    fn add(&mut self, number: usize) -> Result<()> {
        let (switch, namespace) = (self.switch(), format!("{}m{number}", self.name));
        let address = format!("10.97.0.{}", number + 1);
        run(&mut cmd("ip", ["netns", "add", &namespace]))?;
        ip(&switch, &format!("link add p{number} type veth peer name eth0 netns {namespace}"))?;
        ip(&switch, &format!("link set p{number} master br0 up"))?;
        ip(&namespace, "link set lo up")?;
        ip(&namespace, &format!("addr add {address}/24 dev eth0"))?;
        ip(&namespace, "link set eth0 up")?;
        let state = target().join("bench").join(&self.name).join(number.to_string());
        let run_folder = PathBuf::from(format!("/run/{}/{number}", self.name));
        fs::create_dir_all(&state)?;
        fs::create_dir_all(&run_folder)?;
        // A resolver that refuses at once; nobody asks it anything that matters.
        fs::write(run_folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        let script = format!(
            "hostname m{number}; mount --bind {} /etc/resolv.conf; mount --bind {} {RUN_INSIDE}; echo ready; exec sleep infinity",
            run_folder.join("resolv.conf").display(),
            run_folder.display()
        );
        let mut holder = Command::new("nsenter");
        holder.arg(format!("--net=/run/netns/{namespace}")).args(["--", "unshare", "--mount", "--uts"]);
        holder.args(["--propagation", "private", "sh", "-euc", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = holder.spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().context("a piped output")?).read_line(&mut line)?;
        self.machines.push(Machine {
            namespace,
            address,
            state,
            run_folder,
            holder,
            helpers: Vec::new(),
            daemon: None,
        });
        ensure!(line.trim() == "ready", "machine {number} did not come up");
        let machine = &self.machines[number];
        for helper in self.engine.helpers(&machine.state, Path::new(RUN_INSIDE))? {
            let helper = self.machines[number].spawn(&helper)?;
            self.machines[number].helpers.push(helper);
        }
        Ok(())
    }

    fn spawn_daemon(&mut self, number: usize) -> Result<()> {
        let machine = &mut self.machines[number];
        let socket = format!("{RUN_INSIDE}/api.sock");
        let command = self.engine.command(&machine.state, Path::new(RUN_INSIDE), &socket)?;
        machine.daemon = Some(machine.spawn(&command)?);
        Ok(())
    }

    fn wait_for_daemon(&self, number: usize) -> Result<()> {
        let mut api = self.api(number)?;
        let text = format!("{} does not answer", self.engine.label());
        until(START_DEADLINE, &text, || Ok(api.call("GET", "/_ping", None).is_ok_and(|(status, _)| status == 200)))
            .with_context(|| self.machines[number].log())
    }

    /// The API of machine `number`, counted from 0.
    pub(crate) fn api(&self, number: usize) -> Result<Api> {
        Api::new(&self.socket(number))
    }

    pub(crate) fn socket(&self, number: usize) -> PathBuf {
        self.machines[number].run_folder.join("api.sock")
    }

    fn docker(&self, number: usize, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.cli);
        command.args(args).env("DOCKER_HOST", format!("unix://{}", self.socket(number).display()));
        output(&mut command)
    }

    /// Founds a swarm on the first machine.
    pub(crate) fn found(&self) -> Result<()> {
        self.docker(0, &["swarm", "init", "--advertise-addr", &self.machines[0].address]).map(drop)
    }

    /// All other machines join as managers.
    pub(crate) fn join_all(&self) -> Result<()> {
        let token = self.docker(0, &["swarm", "join-token", "--quiet", "manager"])?;
        let remote = format!("{}:2377", self.machines[0].address);
        for (number, machine) in self.machines.iter().enumerate().skip(1) {
            let address = &machine.address;
            self.docker(number, &["swarm", "join", "--token", &token, "--advertise-addr", address, &remote])?;
        }
        self.wait_for_managers()
    }

    /// Waits until every machine is a manager that the first one which answers can reach.
    pub(crate) fn wait_for_managers(&self) -> Result<()> {
        let wanted = self.machines.len();
        until(START_DEADLINE, "the managers do not find each other", || {
            let reachable = |node: &Value| node["ManagerStatus"]["Reachability"] == "reachable";
            let seen = |number: usize| {
                let nodes = self.nodes(number).unwrap_or_default();
                nodes.iter().filter(|node| reachable(node)).count() == wanted
            };
            Ok((0..wanted).all(seen))
        })
    }

    fn nodes(&self, number: usize) -> Result<Vec<Value>> {
        Ok(self.api(number)?.get("/nodes")?.as_array().cloned().unwrap_or_default())
    }

    /// Number of the machine that leads, as the first one sees it.
    pub(crate) fn leader(&self) -> Result<usize> {
        let nodes = self.nodes(0)?;
        let leader = nodes.iter().find(|node| node["ManagerStatus"]["Leader"] == true).context("nobody leads")?;
        let address = leader["ManagerStatus"]["Addr"].as_str().unwrap_or_default();
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        self.machines.iter().position(|machine| machine.address == host).context("an unknown leader")
    }

    /// Ends a daemon as a crash would.
    pub(crate) fn kill_daemon(&mut self, number: usize) -> Result<()> {
        let mut daemon = self.machines[number].daemon.take().context("no daemon")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    pub(crate) fn start_daemon(&mut self, number: usize) -> Result<()> {
        self.spawn_daemon(number)?;
        self.wait_for_daemon(number)
    }
}

impl Machine {
    /// Starts a program inside; what is returned is the program itself.
    fn spawn(&self, command: &Command) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut inside = Command::new("nsenter");
        inside.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--uts", "--"]);
        inside.arg(command.get_program()).args(command.get_args());
        inside.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for (key, value) in command.get_envs() {
            inside.env(key, value.unwrap_or_default());
        }
        Ok(inside.spawn()?)
    }

    fn log_path(&self) -> PathBuf {
        self.state.join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Machines<'_> {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            for child in machine.daemon.iter_mut().chain(&mut machine.helpers) {
                let _ = child.kill();
                let _ = child.wait();
            }
            // Those that the daemon started; all of a machine are in its network.
            let pids = Command::new("ip").args(["netns", "pids", &machine.namespace]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            for pid in pids.split_whitespace() {
                let _ = Command::new("kill").args(["-9", pid]).status();
            }
            let _ = machine.holder.wait();
            let _ = Command::new("ip").args(["netns", "del", &machine.namespace]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.switch()]).status();
        let _ = fs::remove_dir_all(target().join("bench").join(&self.name));
        let _ = fs::remove_dir_all(format!("/run/{}", self.name));
    }
}

/// Looks again until it is so.
pub(crate) fn until(deadline: Duration, otherwise: &str, check: impl FnMut() -> Result<bool>) -> Result<()> {
    until_every(POLL, deadline, otherwise, check)
}

/// The same for questions that cost much to answer.
pub(crate) fn until_every(
    poll: Duration,
    deadline: Duration,
    otherwise: &str,
    mut check: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    while !check()? {
        if begin.elapsed() > deadline {
            bail!("{otherwise} after {deadline:?}");
        }
        std::thread::sleep(poll);
    }
    Ok(())
}

fn ip(namespace: &str, words: &str) -> Result<()> {
    run(&mut cmd("ip", ["-n", namespace].into_iter().chain(words.split(' '))))
}
