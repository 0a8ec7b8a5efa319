//! The lab itself: a fault that does nothing would prove nothing.

use crate::Scenario;
use anyhow::{Result, ensure};
use skep_conformance::{Lab, Options, wait};
use std::fs;
use std::time::Duration;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "machines_are_apart",
        options: || Options::for_test(3),
        run: machines_are_apart,
        every_client: false,
    },
    Scenario {
        name: "cables_can_be_cut",
        options: || Options::for_test(3),
        run: cables_can_be_cut,
        every_client: false,
    },
    Scenario {
        name: "a_power_cut_drops_what_was_not_synced",
        options: || Options::for_test(1).images(512),
        run: a_power_cut_drops_what_was_not_synced,
        every_client: false,
    },
    Scenario {
        name: "a_frozen_machine_is_silent",
        options: || Options::for_test(2),
        run: a_frozen_machine_is_silent,
        every_client: false,
    },
    Scenario { name: "no_trace_stays", options: || Options::for_test(2), run: no_trace_stays, every_client: false },
];

fn machines_are_apart(lab: &mut Lab) -> Result<()> {
    for node in lab.nodes() {
        node.import_busybox()?;
        ensure!(node.ok(&["info", "--format", "{{.Name}}"])? == node.name());
        let id = node.ok(&["run", "-d", "--name", "same", "busybox", "sleep", "1000"])?;
        ensure!(node.ok(&["ps", "-q", "--no-trunc"])? == id, "containers of another machine");
    }
    // A group of the same name on each, and all of them seen from outside.
    for node in lab.nodes() {
        let daemons = node.role_pids("daemon")?;
        let group = fs::read_to_string(format!("/proc/{}/cgroup", daemons[0]))?;
        ensure!(group.contains(&format!("/h{}", node.number())), "{group}");
        ensure!(daemons.len() == 1 && node.role_pids("shim")?.len() == 1, "{daemons:?}");
        ensure!(node.inside_ok(&["cat", "/proc/1/comm"])? == "sleep");
    }
    Ok(())
}

fn ping(lab: &Lab, from: usize, to: usize) -> bool {
    let address = lab.node(to).address();
    lab.node(from).inside_ok(&["busybox", "ping", "-c", "1", "-W", "1", &address]).is_ok()
}

fn cables_can_be_cut(lab: &mut Lab) -> Result<()> {
    let check = |text: &str, alive: &[(usize, usize)], dead: &[(usize, usize)]| {
        for (from, to) in alive {
            wait::within(Duration::from_secs(5), text, || {
                ensure!(ping(lab, *from, *to), "{from} does not reach {to}");
                Ok(())
            })?;
        }
        for (from, to) in dead {
            ensure!(!ping(lab, *from, *to), "{text}: {from} reaches {to}");
        }
        Ok(())
    };
    check("all connected", &[(1, 2), (2, 3), (3, 1)], &[])?;
    lab.part(&[1], &[2])?;
    check("a pair cut", &[(1, 3), (2, 3)], &[(1, 2)])?;
    lab.heal()?;
    check("healed", &[(1, 2)], &[])?;
    lab.cut(&[3])?;
    check("a cable pulled", &[(1, 2)], &[(1, 3), (3, 2)])?;
    lab.mend(&[3])?;
    lab.cut_ways(&[1], &[2])?;
    // What 2 hears of 1 is nothing, so neither gets an answer; 1 hears 2 all the same.
    check("one direction cut", &[(1, 3), (2, 3)], &[(1, 2), (2, 1)])?;
    lab.heal()?;
    check("all connected again", &[(1, 2), (2, 3), (3, 1)], &[])
}

fn a_power_cut_drops_what_was_not_synced(lab: &mut Lab) -> Result<()> {
    let node = lab.node(1);
    node.import_busybox()?;
    let id = node.ok(&["run", "-d", "--name", "lives", "busybox", "sleep", "1000"])?;
    node.inside_ok(&[
        "sh",
        "-c",
        "echo synced > /var/lib/a; sync /var/lib/a; echo not > /var/lib/b; echo here > /run/c",
    ])?;
    node.inside_ok(&["ip", "link", "add", "left", "type", "bridge"])?;
    for round in 1..=2 {
        node.power_off()?;
        ensure!(node.ok(&["ps"]).is_err(), "somebody answers on a machine that is off");
        node.power_on()?;
        ensure!(node.inside_ok(&["cat", "/var/lib/a"])? == "synced", "round {round}");
        for gone in ["/var/lib/b", "/run/c", "/sys/class/net/left"] {
            ensure!(!node.inside(&["test", "-e", gone])?.status.success(), "{gone} survived a power cut");
        }
        node.start_daemon()?;
        ensure!(node.ok(&["ps", "-aq", "--no-trunc"])? == id, "a container that was acknowledged is lost");
        ensure!(node.ok(&["run", "--rm", "busybox", "echo", "works"])? == "works");
    }
    Ok(())
}

fn a_frozen_machine_is_silent(lab: &mut Lab) -> Result<()> {
    let node = lab.node(2);
    node.freeze()?;
    ensure!(node.ping().is_err(), "a frozen daemon answers");
    ensure!(lab.node(1).ping().is_ok(), "the other machine froze too");
    node.thaw()?;
    node.ping()?;
    let before = node.role_pids("netd")?;
    node.kill_netd()?;
    wait::until("another netd", || {
        let now = node.role_pids("netd")?;
        ensure!(now.len() == 1 && now != before, "{now:?}");
        Ok(())
    })?;
    node.kill_daemon()?;
    ensure!(node.ping().is_err());
    node.start_daemon()?;
    node.stop_daemon()?;
    ensure!(node.leftovers()?.is_empty(), "{:?}", node.leftovers()?);
    Ok(())
}

fn no_trace_stays(lab: &mut Lab) -> Result<()> {
    let options = Options::for_test(2).images(256);
    let name = options.name.clone();
    let other = Lab::up(&options)?;
    other.node(1).import_busybox()?;
    other.node(1).ok(&["run", "-d", "busybox", "sleep", "1000"])?;
    other.node(2).freeze()?;
    let pid = other.node(1).role_pids("shim")?[0];
    drop(other);
    for path in [format!("/run/{name}"), format!("/proc/{pid}"), options.home.join(&name).display().to_string()] {
        ensure!(!std::path::Path::new(&path).exists(), "{path} stays");
    }
    ensure!(skep_lab::below("/").iter().all(|folder| !folder.ends_with(&name)), "control groups stay");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&name), "mounts stay");
    let namespaces: Vec<_> = fs::read_dir("/run/netns")?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(!namespaces.iter().any(|found| found.to_string_lossy().starts_with(&name)), "{namespaces:?}");
    lab.node(1).ping()
}
