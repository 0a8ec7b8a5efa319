//! What a fresh Debian machine lacks. Only packages of the distribution are used, and
//! none that starts a daemon.

use crate::sh::{cmd, output, run, say, target};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Package and the file that shows it is there.
const PACKAGES: [(&str, &str); 14] = [
    ("gcc", "/usr/bin/gcc"),
    ("pkg-config", "/usr/bin/pkg-config"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("busybox-static", "/bin/busybox"),
    ("curl", "/usr/bin/curl"),
    ("iproute2", "/sbin/ip"),
    ("nftables", "/usr/sbin/nft"),
    ("openssl", "/usr/bin/openssl"),
    ("util-linux", "/usr/bin/nsenter"),
    ("docker-registry", "/usr/bin/docker-registry"),
    // Brings the SDK for Python with it.
    ("docker-compose", "/usr/bin/docker-compose"),
    ("e2fsprogs", "/sbin/mkfs.ext4"),
    ("perl-base", "/usr/bin/perl"),
    // ADD of a repository.
    ("git", "/usr/bin/git"),
];

/// Stops package scripts from starting services, for the time of one installation.
struct PolicyGuard(Option<PathBuf>);

impl PolicyGuard {
    fn new() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self(None));
        }
        std::fs::write(&path, "#!/bin/sh\nexit 101\n").context("cannot write /usr/sbin/policy-rc.d")?;
        run(&mut cmd("chmod", ["755", "/usr/sbin/policy-rc.d"]))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for PolicyGuard {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Installs what building and testing need.
pub(crate) fn packages() -> Result<()> {
    install(&PACKAGES)
}

/// Installs what is missing of these packages, each given with a file that shows it is there.
pub(crate) fn install(packages: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        packages.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    if output(&mut cmd("id", ["-u"]))? != "0" {
        bail!("root is needed to install {}; run this command as root", missing.join(" "));
    }
    let _policy = PolicyGuard::new()?;
    run(&mut cmd("apt-get", ["update", "-qq"]))?;
    let args = ["install", "-y", "-qq", "--no-install-recommends"];
    run(cmd("apt-get", args.iter().chain(&missing)).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// A stock docker command line: Debian's, unpacked and not installed, so that no
/// second daemon starts.
pub(crate) fn docker_cli() -> Result<PathBuf> {
    let folder = target().join("tools/docker.io");
    let program = folder.join("usr/bin/docker");
    if program.exists() {
        return Ok(program);
    }
    say("unpacking the stock docker command line from Debian's docker.io package");
    let download = tempfile::tempdir()?;
    run(&mut cmd("apt-get", ["update", "-qq"]))?;
    run(cmd("apt-get", ["-o", "APT::Sandbox::User=root", "download", "-qq", "docker.io"]).current_dir(download.path()))?;
    let package = std::fs::read_dir(download.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("apt-get download docker.io gave no package")?;
    std::fs::create_dir_all(&folder)?;
    run(cmd("dpkg-deb", ["-x"]).arg(package).arg(&folder))?;
    Ok(program)
}
