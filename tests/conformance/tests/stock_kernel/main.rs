//! What differs on a stock Debian 12: cgroup v2 alone, a kernel of before 6.5, IPVS. Runs
//! in a virtual machine where this machine is another one (`cargo xtask test`), so the
//! scenarios are few and long: each start of a daemon costs seconds there.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is its assertion")]

mod cgroup_v2;
mod ipvs;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use skep_conformance::{Client, Host};
use std::path::Path;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each is a client and a daemon that wait for each other.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let has_ipvs = std::process::Command::new("modprobe").arg("ip_vs").status().is_ok_and(|status| status.success());
    let trials = vec![
        trial("containers_on_cgroup_v2", cgroup_v2::run).with_ignored_flag(!unified),
        trial("a_service_balanced_by_ipvs", ipvs::run).with_ignored_flag(!has_ipvs),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: &str, run: fn(&mut Host) -> Result<()>) -> Trial {
    Trial::test(name, move || {
        let mut host = Host::start(&Client::debian_docker()).map_err(failed)?;
        run(&mut host).map_err(|error| Failed::from(format!("{error:#}\n\nthe daemon's log:\n{}", host.log())))
    })
}

fn failed(error: anyhow::Error) -> Failed {
    Failed::from(format!("{error:#}"))
}
