//! Three managers as processes; whoever leads is killed again and again while clients write
//! through all of them: what was acknowledged is there once, and a new leader is there soon.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use common::*;
use skep_identity::{CertStore, Identity};
use skep_manager::{Manager, ManagerConfig};
use skep_model::secret::ConfigSpec;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const DIR_VARIABLE: &str = "SKEP_TEST_MANAGER_DIR";
const LISTEN_VARIABLE: &str = "SKEP_TEST_MANAGER_LISTEN";
/// Leaders killed.
const ROUNDS: usize = 8;
/// Writes acknowledged between two kills.
const WRITES_PER_ROUND: usize = 30;
/// Without a leader for longer, something is wrong even on a loaded machine.
const GAP_MAX: Duration = Duration::from_secs(10);

/// Not a test by itself: a manager that is killed. Says who leads and which of its configs
/// were acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below"]
async fn victim() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else { return };
    let listen_addr = std::env::var(LISTEN_VARIABLE).unwrap().parse().unwrap();
    let stored = CertStore::new(config(&dir).certificates_dir()).load().unwrap().unwrap();
    let config = ManagerConfig { listen_addr, ..config(&dir) };
    let manager = Manager::open(config, Identity::new(&stored).unwrap()).await.unwrap();
    let control = manager.control();
    let mut led = false;
    for number in 0.. {
        let leads = control.leader().as_ref() == Some(control.node_id());
        if leads != led {
            println!("{}", if leads { "leads" } else { "follows" });
            led = leads;
        }
        let name = format!("config-{}-{number}", std::process::id());
        let spec = ConfigSpec { name: name.clone(), data: vec![b'x'; 100], ..Default::default() };
        match control.create_config(spec).await {
            Ok(_) => println!("acknowledged {name}"),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
}

/// What a process said.
struct Said {
    process: usize,
    line: String,
}

struct Process {
    child: Child,
    reader: std::thread::JoinHandle<()>,
}

impl Process {
    fn start(number: usize, dir: &Path, listen: SocketAddr, said: Sender<Said>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR_VARIABLE, dir)
            .env(LISTEN_VARIABLE, listen.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The test is over.
                if said.send(Said { process: number, line }).is_err() {
                    return;
                }
            }
        });
        Self { child, reader }
    }

    /// Kills it and waits until all it said is in the channel.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
    }
}

/// What is known from what was said.
#[derive(Default)]
struct Watch {
    acknowledged: BTreeSet<String>,
    leader: Option<usize>,
    /// When each acknowledgement came in.
    times: Vec<Instant>,
}

impl Watch {
    fn hear(&mut self, said: &Said) {
        match said.line.rsplit(' ').next() {
            Some(name) if said.line.contains("acknowledged ") => {
                assert!(self.acknowledged.insert(name.to_owned()), "{name} was acknowledged twice");
                self.times.push(Instant::now());
            }
            Some("leads") => self.leader = Some(said.process),
            Some("follows") if self.leader == Some(said.process) => self.leader = None,
            _ => {}
        }
    }

    fn until(&mut self, lines: &Receiver<Said>, what: &str, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let said = lines.recv_timeout(GAP_MAX).unwrap_or_else(|_| panic!("never: {what}"));
            self.hear(&said);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_loss_of_leaders() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let addresses = found(&dirs).await;
    let (sender, lines) = channel();
    let start = |number: usize| Process::start(number, dirs[number].path(), addresses[number], sender.clone());
    let mut processes: Vec<Option<Process>> = (0..3).map(|number| Some(start(number))).collect();
    let mut watch = Watch::default();
    let mut gaps = Vec::new();
    for round in 0..ROUNDS {
        let goal = watch.acknowledged.len() + WRITES_PER_ROUND;
        watch.until(&lines, "a leader and writes", |w| w.leader.is_some() && w.acknowledged.len() >= goal);
        let leader = watch.leader.take().unwrap();
        processes[leader].take().unwrap().kill();
        let killed_at = Instant::now();
        // What it had said before counts too, but not as an answer of those that are left.
        lines.try_iter().for_each(|said| watch.hear(&said));
        watch.leader = watch.leader.filter(|number| *number != leader);
        watch.until(&lines, "a write after the kill", |w| w.times.last().is_some_and(|at| *at > killed_at));
        gaps.push(watch.times.last().unwrap().duration_since(killed_at));
        eprintln!("round {round}: the next write was acknowledged after {:?}", gaps.last().unwrap());
        processes[leader] = Some(start(leader));
    }
    processes.into_iter().flatten().for_each(Process::kill);
    lines.try_iter().for_each(|said| watch.hear(&said));
    gaps.sort();
    eprintln!("median {:?}, worst {:?}", gaps[gaps.len() / 2], gaps.last().unwrap());
    assert!(gaps[gaps.len() / 2] < Duration::from_secs(3), "failover is slow: {gaps:?}");
    check(&dirs, &addresses, &watch.acknowledged).await;
}

/// A swarm of three managers, shut down again.
async fn found(dirs: &[tempfile::TempDir]) -> Vec<SocketAddr> {
    let first = Manager::bootstrap(settled_config(dirs[0].path()), Default::default()).await.unwrap();
    let mut managers = vec![first];
    for dir in &dirs[1..] {
        let config = settled_config(dir.path());
        let store = CertStore::new(config.certificates_dir());
        let token = managers[0].control().tokens().unwrap().manager;
        let identity = join_and_keep(managers[0].advertise_addr(), &token, &store).await;
        let through = [managers[0].advertise_addr().to_owned()];
        managers.push(Manager::join_through(config, identity, &through).await.unwrap());
    }
    let addresses = managers.iter().map(Manager::local_addr).collect();
    for manager in managers {
        manager.shutdown().await;
    }
    addresses
}

/// All three stores hold all that was acknowledged, once, and nothing differs.
async fn check(dirs: &[tempfile::TempDir], addresses: &[SocketAddr], acknowledged: &BTreeSet<String>) {
    let mut managers = Vec::new();
    for (dir, listen_addr) in dirs.iter().zip(addresses) {
        let stored = CertStore::new(config(dir.path()).certificates_dir()).load().unwrap().unwrap();
        let config = ManagerConfig { listen_addr: *listen_addr, ..config(dir.path()) };
        managers.push(Manager::open(config, Identity::new(&stored).unwrap()).await.unwrap());
    }
    for manager in &managers {
        wait_for(&manager.control(), "all acknowledged configs are there", |control| {
            let there: BTreeSet<String> = control.configs().iter().map(|config| config.spec.name.clone()).collect();
            acknowledged.is_subset(&there)
        })
        .await;
    }
    let digests = || managers.iter().map(|manager| manager.control().digest()).collect::<BTreeSet<_>>();
    let begin = Instant::now();
    while digests().len() > 1 {
        assert!(begin.elapsed() < DEADLINE, "the stores differ: {:?}", digests());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for manager in managers {
        manager.shutdown().await;
    }
}
