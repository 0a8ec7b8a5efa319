//! The engines that are measured, each started in a network namespace of the bench's.

use crate::sh::{cmd, output, run, say, target};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something that serves the Docker API.
pub(crate) trait Engine: Sync {
    fn label(&self) -> &'static str;
    /// Starts it (it may fork helpers) with its state below `state` and its socket at `socket`.
    fn command(&self, state: &Path, run_folder: &Path, socket: &str) -> Result<Command>;
    /// Helper processes to start before it; they end with the bench's namespace.
    fn helpers(&self, state: &Path, run_folder: &Path) -> Result<Vec<Command>>;
    /// Whether a command line belongs to it (daemon, helpers, shims; not the containers).
    fn owns(&self, command_line: &str, run_folder: &str) -> bool;
}

pub(crate) struct Skep {
    pub(crate) program: PathBuf,
    /// The only core that it may use.
    pub(crate) core: Option<usize>,
}

impl Engine for Skep {
    fn label(&self) -> &'static str {
        "skep"
    }

    fn command(&self, state: &Path, run_folder: &Path, socket: &str) -> Result<Command> {
        let mut command = match self.core {
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.args(["-c", &core.to_string()]).arg(&self.program);
                pinned
            }
            None => Command::new(&self.program),
        };
        command.arg("daemon").arg("--data-root").arg(state).arg("--exec-root").arg(run_folder);
        command.args(["--host", &format!("unix://{socket}"), "--cgroup-parent", "/skep-bench", "--log-level", "warn"]);
        command.arg("--pidfile").arg(run_folder.join("pid"));
        Ok(command)
    }

    fn helpers(&self, _state: &Path, _run_folder: &Path) -> Result<Vec<Command>> {
        Ok(Vec::new())
    }

    fn owns(&self, command_line: &str, run_folder: &str) -> bool {
        command_line.contains("skep") && command_line.contains(run_folder)
    }
}

/// Debian's Docker, unpacked and not installed.
pub(crate) struct Docker {
    tools: PathBuf,
}

const DOCKER_PACKAGES: [&str; 3] = ["docker.io", "containerd", "runc"];

impl Docker {
    pub(crate) fn unpack() -> Result<Self> {
        let tools = target().join("tools/dockerd");
        if !tools.join("usr/sbin/dockerd").exists() {
            say("unpacking Debian's docker.io, containerd and runc to compare with");
            let download = tempfile::tempdir()?;
            run(&mut cmd("apt-get", ["update", "-qq"]))?;
            run(&mut cmd("apt-get", ["install", "-y", "-qq", "--no-install-recommends", "iptables"]))?;
            run(cmd("apt-get", ["-o", "APT::Sandbox::User=root", "download", "-qq"])
                .args(DOCKER_PACKAGES)
                .current_dir(download.path()))?;
            fs::create_dir_all(&tools)?;
            for entry in fs::read_dir(download.path())? {
                run(cmd("dpkg-deb", ["-x"]).arg(entry?.path()).arg(&tools))?;
            }
        }
        output(Command::new(tools.join("usr/sbin/dockerd")).arg("--version")).context("dockerd does not run here")?;
        Ok(Self { tools })
    }

    fn path(&self) -> String {
        let old = std::env::var("PATH").unwrap_or_default();
        format!("{0}/usr/sbin:{0}/usr/bin:{old}:/usr/sbin:/sbin", self.tools.display())
    }
}

impl Engine for Docker {
    fn label(&self) -> &'static str {
        "Docker 20.10"
    }

    fn command(&self, state: &Path, run_folder: &Path, socket: &str) -> Result<Command> {
        let mut command = Command::new(self.tools.join("usr/sbin/dockerd"));
        command.env("PATH", self.path());
        command.arg("--data-root").arg(state.join("docker")).arg("--exec-root").arg(run_folder.join("docker"));
        command.arg("--pidfile").arg(run_folder.join("pid")).args(["--host", &format!("unix://{socket}")]);
        command.arg("--containerd").arg(run_folder.join("containerd.sock")).args(["--log-level", "warn"]);
        Ok(command)
    }

    fn helpers(&self, state: &Path, run_folder: &Path) -> Result<Vec<Command>> {
        let config = state.join("containerd.toml");
        fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
        let mut containerd = Command::new(self.tools.join("usr/bin/containerd"));
        containerd.env("PATH", self.path()).arg("--config").arg(config);
        containerd.arg("--root").arg(state.join("containerd")).arg("--state").arg(run_folder.join("containerd"));
        containerd.arg("--address").arg(run_folder.join("containerd.sock")).args(["--log-level", "warn"]);
        containerd.stdin(Stdio::null());
        Ok(vec![containerd])
    }

    fn owns(&self, command_line: &str, run_folder: &str) -> bool {
        let ours = command_line.contains(run_folder) || command_line.contains(&*self.tools.to_string_lossy());
        ours && ["dockerd", "containerd", "docker-proxy"].iter().any(|name| command_line.contains(name))
    }
}
