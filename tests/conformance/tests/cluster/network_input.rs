//! Networks and ports that cannot be had: clear text where somebody asked, nothing half-made.

use crate::Scenario;
use crate::network_truth::verified;
use crate::swarm::{create, formed, settled, tasks};
use anyhow::{Context, Result, ensure};
use skep_conformance::{Client, Lab, Node, Options, wait};
use std::net::TcpListener;
use std::sync::mpsc;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "networks_that_cannot_be_are_refused",
        options: || Options::for_test(2),
        run: networks_that_cannot_be_are_refused,
        every_client: true,
    },
    Scenario {
        name: "a_port_taken_on_one_node_is_named",
        options: || Options::for_test(2),
        run: a_port_taken_on_one_node_is_named,
        every_client: false,
    },
];

fn networks_that_cannot_be_are_refused(lab: &mut Lab) -> Result<()> {
    let first = lab.node(1);
    for (pool, size, text) in [
        ("10.20.0.0/25", "24", "default address pool 10.20.0.0/25 is too small for a subnet of size 24"),
        ("10.20.0.0/16", "30", "subnet size"),
        ("10.20.0.0/33", "24", "10.20.0.0/33"),
        ("nonsense", "24", "nonsense"),
    ] {
        let pool = ["--default-addr-pool", pool, "--default-addr-pool-mask-length", size];
        let address = first.address();
        let said = first.refused(&[["swarm", "init", "--advertise-addr", &address].as_slice(), &pool].concat())?;
        ensure!(said.contains(text), "{pool:?}: {said}");
        ensure!(first.ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])? == "inactive");
    }
    // Two subnets in all, of which the mesh takes one.
    lab.form_swarm(1, &["--default-addr-pool", "10.20.0.0/28", "--default-addr-pool-mask-length", "29"])?;
    first.import_busybox()?;
    refused(first)?;
    exhausted(first)?;
    in_use(lab)
}

fn refused(manager: &Node) -> Result<()> {
    let before = manager.ok(&["network", "ls", "-q"])?;
    let overlay = ["network", "create", "-d", "overlay"];
    for (args, text) in [
        (["--subnet", "10.20.0.0/24"].as_slice(), "Pool overlaps with other one on this address space"),
        (&["--subnet", "10.30.0.0/30"], "subnet 10.30.0.0/30 is too small"),
        (&["--subnet", "10.30.0.7/24"], "10.30.0.7/24"),
        (&["--subnet", "10.30.0.0/24", "--gateway", "10.31.0.1"], "10.31.0.1"),
        (&["-o", "com.docker.network.driver.mtu=67"], "MTU \"67\" is not a number between 68 and 65485"),
        (&["-o", "com.docker.network.driver.mtu=huge"], "MTU \"huge\" is not a number"),
        (&["-o", "com.docker.network.driver.overlay.vxlanid_list=0"], "0 is not a VXLAN identifier"),
        (&["-o", "com.docker.network.driver.overlay.vxlanid_list=4096"], "VXLAN identifier 4096 is used by network"),
        (&["-o", "encrypted"], "an encrypted overlay is not supported"),
    ] {
        let said = manager.refused(&[overlay.as_slice(), args, &["wrong"]].concat())?;
        ensure!(said.contains(text), "{args:?}: {said}");
    }
    let said = manager.refused(&["network", "create", "-d", "weave", "wrong"])?;
    ensure!(said.contains("could not find plugin weave"), "{said}");
    let said = manager.refused(&["network", "create", "-o", "com.docker.network.driver.mtu=1", "wrong"])?;
    ensure!(said.contains("invalid MTU \"1\""), "{said}");
    ensure!(manager.ok(&["network", "ls", "-q"])? == before, "a network was half-made");
    Ok(())
}

/// Subnets, then addresses.
fn exhausted(manager: &Node) -> Result<()> {
    manager.ok(&["network", "create", "-d", "overlay", "last"])?;
    wait::until("a subnet", || {
        let subnet = manager.ok(&["network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", "last"])?;
        ensure!(subnet == "10.20.0.8/29", "{subnet}");
        Ok(())
    })?;
    let said = manager.refused(&["network", "create", "-d", "overlay", "more"])?;
    ensure!(said.contains("could not find an available, non-overlapping IPv4 address pool"), "{said}");
    // Six addresses: the gateway's, the service's, and at most four for tasks.
    let here =
        ["--constraint", "node.hostname==h1", "--network", "last", "--replicas", "5", "busybox", "sleep", "1000"];
    create(manager, "many", &here)?;
    wait::until("those without an address to say so", || {
        let waiting: Vec<_> = tasks(manager, "many")?.into_iter().filter(|task| !task.is_running()).collect();
        let says = waiting.iter().filter(|task| task.error.contains("network last has no free address")).count();
        ensure!(says >= 1 && waiting.len() == says, "{waiting:?}");
        Ok(())
    })?;
    manager.ok(&["service", "scale", "--detach", "many=2"])?;
    settled(manager, "many", 2).map(drop)
}

fn in_use(lab: &Lab) -> Result<()> {
    let manager = lab.node(1);
    let said = manager.refused(&["network", "rm", "last"])?;
    ensure!(said.contains("is in use by service"), "{said}");
    manager.ok(&["network", "create", "--subnet", "10.40.0.0/24", "local"])?;
    let with = |address| ["run", "-d", "--network", "local", "--ip", address, "busybox", "sleep", "1000"];
    manager.ok(&with("10.40.0.9"))?;
    let said = manager.refused(&with("10.40.0.9"))?;
    ensure!(said.contains("Address already in use"), "{said}");
    let said = manager.refused(&with("10.41.0.9"))?;
    ensure!(said.contains("10.41.0.9") || said.contains("no configured subnet"), "{said}");
    let said = manager.refused(&["network", "rm", "local"])?;
    ensure!(said.contains("has active endpoints"), "{said}");
    verified(lab)
}

/// Another program of the second machine has the port.
fn a_port_taken_on_one_node_is_named(lab: &mut Lab) -> Result<()> {
    formed(lab, 1)?;
    let manager = lab.node(1);
    let holder = Holder::new(lab, 2, 8080)?;
    let on_second = ["--constraint", "node.hostname==h2", "--restart-condition", "none"];
    let host_port = ["--publish", "mode=host,published=8080,target=80", "busybox", "sleep", "1000"];
    create(manager, "host", &[on_second.as_slice(), &host_port].concat())?;
    wait::until("the task to say what is taken", || {
        let tasks = tasks(manager, "host")?;
        let error = &tasks.first().context("no task")?.error;
        ensure!(
            ["node h2: ", "Bind for 0.0.0.0:8080 failed", "already in use"].iter().all(|part| error.contains(part)),
            "{tasks:?}"
        );
        Ok(())
    })?;
    manager.ok(&["service", "rm", "host"])?;
    // A port of the mesh works everywhere else, and the trace says where it does not.
    create(manager, "mesh", &["-p", "8080:80", "--constraint", "node.hostname==h1", "busybox", "sleep", "1000"])?;
    settled(manager, "mesh", 1)?;
    let skep = manager.with(Client::skep());
    wait::until("the trace to name the node", || {
        let said = skep.ok(&["network", "trace", "--all-nodes", "mesh"])?;
        let (first, second) = said.split_once("node h2").context("no h2")?;
        ensure!(second.contains("PROBLEM: Bind for 0.0.0.0:8080 failed") && !first.contains("PROBLEM"), "{said}");
        Ok(())
    })?;
    let said = skep.refused(&["network", "verify", "--all-nodes"])?;
    ensure!(said.contains("difference"), "{said}");
    drop(holder);
    verified(lab)
}

/// Somebody who listens on a machine.
struct Holder(Option<mpsc::Sender<()>>, Option<std::thread::JoinHandle<Result<()>>>);

impl Holder {
    fn new(lab: &Lab, machine: usize, port: u16) -> Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = lab.node(machine).thread_in_network(move || {
            let _listener = TcpListener::bind(("0.0.0.0", port))?;
            ready.send(())?;
            // Ends when the other side is dropped.
            let _ = stopped.recv();
            Ok(())
        })?;
        is_ready.recv().context("the port cannot be taken")?;
        Ok(Self(Some(stop), Some(thread)))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.take());
        // Its outcome was told when it was ready.
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}
