//! Bringing machines up, connecting and disconnecting them, and leaving no trace.

use crate::cli::Cli;
use crate::client::{Client, environment};
use crate::disk::{Disk, MachineDisk, run};
use crate::network::Switch;
use crate::node::{Node, Site, curl_outside};
use crate::{inside, sweep, wait};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// A switch has so many ports in this address plan.
const NODES_MAX: usize = 200;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Beginning of every name taken on this machine; short, since link names are.
    pub name: String,
    /// Host names of the machines.
    pub hosts: Vec<String>,
    pub disk: Disk,
    /// What verbs run with.
    pub client: Client,
    /// The program `skep`.
    pub program: PathBuf,
    /// Folder in which the lab makes its own.
    pub home: PathBuf,
    /// Options of every daemon.
    pub daemon_options: Vec<String>,
    /// Whether the lab goes when the process that made it has ended.
    pub ends_with_process: bool,
}

impl Options {
    /// For a test that `cargo xtask test` started: `nodes` machines called `h1`, `h2` and so
    /// on, a name that nobody else has, Debian's docker as the client.
    ///
    /// # Panics
    /// When the test was started otherwise.
    #[must_use]
    pub fn for_test(nodes: usize) -> Self {
        let program = environment("SKEP_TEST_SKEP");
        Self {
            name: format!("skl{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
            hosts: (1..=nodes).map(|number| format!("h{number}")).collect(),
            disk: Disk::Folder,
            client: Client::debian_docker(),
            home: program.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf),
            program,
            daemon_options: Vec::new(),
            ends_with_process: true,
        }
    }

    /// The same with verbs run by another client.
    #[must_use]
    pub fn client(mut self, client: &Client) -> Self {
        self.client = client.clone();
        self
    }

    /// The same with disks that can lose what was not synced.
    #[must_use]
    pub fn images(mut self, size_mib: u32) -> Self {
        self.disk = Disk::Image { size_mib };
        self
    }

    /// The same with other host names, one a machine.
    #[must_use]
    pub fn hosts(mut self, names: &[&str]) -> Self {
        self.hosts = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }
}

/// See the crate. Dropping it removes every trace.
#[derive(Debug)]
pub struct Lab {
    name: String,
    nodes: Vec<Node>,
    switch: Switch,
    kept: bool,
}

impl Lab {
    /// Brings the machines up and starts their daemons.
    ///
    /// # Errors
    /// When the kernel or a daemon refuses; nothing stays then.
    pub fn up(options: &Options) -> Result<Self> {
        let lab = Self::without_daemons(options)?;
        for node in &lab.nodes {
            node.spawn_daemon()?;
        }
        for node in &lab.nodes {
            node.wait_for_daemon()?;
        }
        Ok(lab)
    }

    /// Brings the machines up.
    ///
    /// # Errors
    /// When the kernel refuses; nothing stays then.
    pub fn without_daemons(options: &Options) -> Result<Self> {
        ensure!((1..=NODES_MAX).contains(&options.hosts.len()), "a lab has 1 to {NODES_MAX} machines");
        sweep::abandoned();
        let run_root = sweep::run_root(&options.name);
        if run_root.exists() {
            bail!("a lab called {} is there already", options.name);
        }
        let mut lab =
            Self { name: options.name.clone(), nodes: Vec::new(), switch: Switch::new(&options.name), kept: false };
        let lab_home = options.home.join(&options.name);
        fs::create_dir_all(&lab_home).with_context(|| lab_home.display().to_string())?;
        fs::create_dir_all(&run_root)?;
        mount_memory(&run_root)?;
        sweep::enter(&options.name, &lab_home, options.ends_with_process)?;
        let site = Site {
            lab: options.name.clone(),
            switch: lab.switch.clone(),
            program: options.program.clone(),
            daemon_options: options.daemon_options.clone(),
        };
        lab.switch.create()?;
        for (position, host) in options.hosts.iter().enumerate() {
            let number = position + 1;
            let (home, run) = (lab_home.join(format!("h{number}")), run_root.join(format!("h{number}")));
            fs::create_dir_all(&home)?;
            let disk = MachineDisk::create(options.disk, &home)?;
            let socket = run.join("skep/skep.sock").to_string_lossy().into_owned();
            let cli = Cli::new(options.client.clone(), socket);
            lab.nodes.push(Node::new(site.clone(), number, host, home, run, (disk, cli)));
        }
        std::thread::scope(|scope| {
            let starts: Vec<_> = lab.nodes.iter().map(|node| scope.spawn(|| node.power_on())).collect();
            starts.into_iter().try_for_each(|start| match start.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        Ok(lab)
    }

    /// All machines.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Machine `number`, counted from 1.
    ///
    /// # Panics
    /// When there is none of that number.
    #[must_use]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number - 1]
    }

    /// The machine of that host name.
    ///
    /// # Errors
    /// When there is none.
    pub fn by_name(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no machine {name}"))
    }

    /// Founds a swarm on the first machine and joins the others by token: the first
    /// `managers` as managers, the rest as workers. `options` are given to `swarm init`.
    ///
    /// # Errors
    /// When a verb fails.
    pub fn form_swarm(&self, managers: usize, options: &[&str]) -> Result<()> {
        let first = self.node(1);
        let address = first.address();
        first.ok(&[&["swarm", "init", "--advertise-addr", &address], options].concat())?;
        let token = |role: &str| first.ok(&["swarm", "join-token", "--quiet", role]);
        let (manager, worker) = (token("manager")?, token("worker")?);
        let remote = format!("{}:2377", first.address());
        for node in &self.nodes[1..] {
            let token = if node.number() <= managers { &manager } else { &worker };
            // On a busy machine a fresh cable may carry nothing for a while.
            wait::until("a way to the first manager", || {
                match node.ok(&["swarm", "join", "--token", token, &remote]) {
                    Err(error) if format!("{error:#}").contains("cannot connect to") => Err(error),
                    joined => Ok(joined),
                }
            })??;
        }
        Ok(())
    }

    /// Output of a program on the outside machine.
    ///
    /// # Errors
    /// When it fails.
    pub fn outside_ok(&self, args: &[&str]) -> Result<String> {
        curl_outside(&self.switch, args)
    }

    /// Starts a program on the outside machine; it ends with the lab.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_outside(&self, command: Command) -> Result<Child> {
        inside::spawn_in_network(&self.switch.namespace, command)
    }

    /// Runs `work` on a thread whose sockets are the outside machine's.
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn thread_outside<T, F>(&self, work: F) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        inside::thread_in_network(&self.switch.namespace, work)
    }

    /// Pulls the cables of these machines.
    ///
    /// # Errors
    /// When one is off.
    pub fn cut(&self, machines: &[usize]) -> Result<()> {
        machines.iter().try_for_each(|number| self.switch.set_cable(*number, false))
    }

    /// Plugs them in again.
    ///
    /// # Errors
    /// When one is off.
    pub fn mend(&self, machines: &[usize]) -> Result<()> {
        machines.iter().try_for_each(|number| self.switch.set_cable(*number, true))
    }

    /// Drops what each of `from` sends to each of `to`, and nothing else.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut_ways(&self, from: &[usize], to: &[usize]) -> Result<()> {
        self.switch.set_ways(&pairs(from, to), true)
    }

    /// Drops everything between the two sides, in both directions.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn part(&self, one_side: &[usize], other_side: &[usize]) -> Result<()> {
        self.cut_ways(one_side, other_side)?;
        self.cut_ways(other_side, one_side)
    }

    /// Passes everything again between all machines.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heal(&self) -> Result<()> {
        self.switch.clear_ways()
    }

    /// Logs of all machines, for the text of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        self.nodes.iter().map(Node::log).collect::<Vec<_>>().join("\n")
    }

    /// Leaves the lab running when this process ends; [`crate::sweep::remove`] removes it.
    pub fn keep(mut self) {
        self.kept = true;
        self.nodes.iter().for_each(Node::release);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::env::var_os("SKEP_TEST_SHOW_LOG").is_some() {
            #[expect(clippy::print_stderr, reason = "asked for by whoever debugs a test")]
            {
                eprintln!("{}", self.logs());
            }
        }
        sweep::end_processes(&self.name);
        self.nodes.iter().for_each(Node::discard);
        let outcome = sweep::remove(&self.name);
        if let Err(error) = outcome
            && !std::thread::panicking()
        {
            panic!("the lab {} leaves a trace: {error:#}", self.name);
        }
    }
}

fn pairs(from: &[usize], to: &[usize]) -> Vec<(usize, usize)> {
    from.iter().flat_map(|a| to.iter().map(move |b| (*a, *b))).collect()
}

/// Mounts a small memory file system, for what does not survive a power cut.
pub(crate) fn mount_memory(folder: &Path) -> Result<()> {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "tmpfs"]).arg(folder))
}
