//! `cargo xtask lab`: machines to try a cluster on by hand.

use crate::sh::{cmd, run as run_command, say, target};
use crate::{images, setup};
use anyhow::{Context, Result, ensure};
use skep_lab::{Client, Disk, Lab, Options};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The lab is found again by its name.
const NAME: &str = "skl-lab";

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Bring machines up, a daemon on each
    Up {
        /// How many
        nodes: usize,
        /// Form a swarm with so many managers; the others join as workers
        #[arg(long)]
        managers: Option<usize>,
        /// Disks that lose in a power cut what was not synced
        #[arg(long)]
        images: bool,
        /// A built skep, instead of building one
        #[arg(long)]
        skep: Option<PathBuf>,
    },
    /// Remove every trace of it
    Down,
}

/// Size of a disk in MiB; it takes only what is written.
const DISK_MIB: u32 = 4096;

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Up { nodes, managers, images, skep } => {
            let program = match skep {
                Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
                None => build()?,
            };
            up(*nodes, *managers, *images, &program)
        }
        Command::Down => {
            skep_lab::sweep::remove(NAME)?;
            say("nothing of the lab is left");
            Ok(())
        }
    }
}

fn build() -> Result<PathBuf> {
    setup::packages()?;
    say("building skep (release; the first time takes a few minutes)");
    run_command(&mut cmd("cargo", ["build", "--release", "--locked", "--package", "skep-daemon"]))?;
    Ok(target().join("release/skep"))
}

fn up(nodes: usize, managers: Option<usize>, images: bool, program: &Path) -> Result<()> {
    let options = Options {
        name: NAME.to_owned(),
        hosts: (1..=nodes).map(|number| format!("h{number}")).collect(),
        disk: if images { Disk::Image { size_mib: DISK_MIB } } else { Disk::Folder },
        client: Client { label: "skep", program: program.to_owned() },
        program: program.to_owned(),
        home: target(),
        daemon_options: Vec::new(),
        ends_with_process: false,
    };
    ensure!(managers.is_none_or(|count| (1..=nodes).contains(&count)), "--managers: 1 to {nodes}");
    let begin = Instant::now();
    let lab = Lab::up(&options)?;
    say(&format!("{nodes} machines are up after {} ms", begin.elapsed().as_millis()));
    if let Some(managers) = managers {
        lab.form_swarm(managers, &[])?;
        say(&format!("a swarm of {managers} managers and {} workers", nodes - managers));
    }
    show(&lab)?;
    lab.keep();
    Ok(())
}

fn show(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        println!("    {}  {:<12} unix://{}", node.name(), node.address(), node.socket());
    }
    let first = lab.nodes().first().context("a lab has a machine")?;
    let tar = images::busybox_tar()?;
    say("how to go on");
    println!("    export DOCKER_HOST=unix://{}        # skep, docker, SDKs", first.socket());
    println!("    skep swarm init --advertise-addr {}", first.address());
    println!("    skep import {} busybox     # once on each machine", tar.display());
    println!("    nsenter -t {} -m -u -i -n -p -C sh      # a shell on {}", first.first_pid()?, first.name());
    println!("    less {}", first.log_path().display());
    println!(
        "    ip netns exec {NAME}{} curl http://{}:8080/   # from outside",
        skep_lab::SWITCH_SUFFIX,
        first.address()
    );
    println!("    ip -n {NAME}{} link set p2 down     # pull the cable of the second machine", skep_lab::SWITCH_SUFFIX);
    println!("    cargo xtask lab down                # remove every trace");
    Ok(())
}
