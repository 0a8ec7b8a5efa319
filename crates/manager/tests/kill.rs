//! Killed without warning again and again, a manager keeps all that it acknowledged.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::*;
use skep_model::secret::ConfigSpec;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const DIR_VARIABLE: &str = "SKEP_TEST_MANAGER_DIR";
const ROUNDS: usize = 6;

/// Not a test by itself: the process that is killed. Names each config once it is acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below"]
async fn victim() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else { return };
    let has_identity = config(&dir).certificates_dir().join("swarm-node.crt").exists();
    let manager = if has_identity { reopen(&dir).await } else { bootstrap(&dir).await };
    let control = manager.control();
    for number in control.configs().len().. {
        let name = format!("config-{}-{number}", std::process::id());
        let spec = ConfigSpec { name: name.clone(), data: vec![b'x'; 100 + number % 7 * 3000], ..Default::default() };
        control.create_config(spec).await.unwrap();
        println!("acknowledged {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, name)) = line.split_once("acknowledged ") {
                acknowledged.insert(name.to_owned());
                count += 1;
            }
            if count >= 5 + 20 * round {
                break;
            }
        }
        child.kill().unwrap();
        // What it had said before it died counts too.
        for line in lines.map_while(Result::ok) {
            if let Some((_, name)) = line.split_once("acknowledged ") {
                acknowledged.insert(name.to_owned());
            }
        }
        child.wait().unwrap();
        assert!(count > 0, "round {round}: nothing was acknowledged");
    }
    let manager = reopen(dir.path()).await;
    let control = manager.control();
    wait_for(&control, "all acknowledged configs are there", |control| {
        let there: BTreeSet<String> = control.configs().iter().map(|config| config.spec.name.clone()).collect();
        acknowledged.is_subset(&there)
    })
    .await;
    manager.shutdown().await;
}
