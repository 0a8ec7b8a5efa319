//! Requests from the outside machine without a pause, each on a connection of its own.

use anyhow::{Context, Result, ensure};
use skep_conformance::{Lab, wait};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const THREADS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Failures that are kept for the report.
const FAILURES_MAX: usize = 20;

/// See the module.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    failed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// Starts on one address and port.
    pub(crate) fn start(lab: &Lab, address: &str, port: u16) -> Result<Self> {
        let target: SocketAddr = format!("{address}:{port}").parse()?;
        let mut load = Self {
            stop: Arc::default(),
            done: Arc::default(),
            failures: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..THREADS {
            let (stop, done) = (Arc::clone(&load.stop), Arc::clone(&load.done));
            let (failures, failed) = (Arc::clone(&load.failures), Arc::clone(&load.failed));
            load.threads.push(lab.thread_outside(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = request(target) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        let mut failures = failures.lock().unwrap();
                        if failures.len() < FAILURES_MAX {
                            failures.push(format!("request {}: {error:#}", done.load(Ordering::Relaxed)));
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })?);
        }
        load.wait_for(100)?;
        Ok(load)
    }

    /// Waits until so many requests more have ended.
    pub(crate) fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + more;
        wait::until("further requests", || {
            ensure!(self.done.load(Ordering::Relaxed) >= goal);
            Ok(())
        })
    }

    /// Goes on until `total` requests have ended; all must have succeeded. Gives their number.
    pub(crate) fn finish(self, total: u64) -> Result<u64> {
        let done = self.done.load(Ordering::Relaxed);
        if done < total {
            self.wait_for(total - done)?;
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap()?;
        }
        let (done, failed) = (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        ensure!(failed == 0, "{failed} of {done} requests failed:\n{}", self.failures.lock().unwrap().join("\n"));
        Ok(done)
    }
}

fn request(target: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT).context("connect")?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /bench HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("receive")?;
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n1"), "answer {answer:?}");
    Ok(())
}
