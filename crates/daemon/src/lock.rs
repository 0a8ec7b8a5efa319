//! One daemon per data root, and a PID file that says which.

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "daemon.lock";

/// Held as long as the daemon lives; the kernel lets go of it however the daemon ends.
#[derive(Debug)]
pub(crate) struct DataRootLock {
    _lock: Flock<File>,
}

impl DataRootLock {
    /// # Errors
    /// When another daemon uses the data root.
    pub(crate) fn take(data_root: &Path) -> Result<Self> {
        let path = data_root.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, nix::errno::Errno::EAGAIN)) => {
                bail!("data root {} is in use by another daemon", data_root.display())
            }
            Err((_, error)) => Err(error).with_context(|| path.display().to_string()),
        }
    }
}

/// Removed when the daemon ends in order.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes this process's id. A file left by a process that is gone, or whose number
    /// another program has by now, is replaced.
    ///
    /// # Errors
    /// When a living daemon is named in it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        if let Some(pid) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok())
            && pid != std::process::id()
            && is_our_program(pid)
        {
            bail!("process with PID {pid} is still running: pid file {} found", path.display());
        }
        let temporary = path.with_extension("pid.new");
        std::fs::write(&temporary, std::process::id().to_string()).with_context(|| temporary.display().to_string())?;
        std::fs::rename(&temporary, path).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // The next start replaces what stays.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_our_program(pid: u32) -> bool {
    let name =
        |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    let theirs = std::fs::read_link(format!("/proc/{pid}/exe")).ok().and_then(name);
    let ours = std::env::current_exe().ok().and_then(name);
    theirs.is_some() && theirs == ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("skep-lock-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_data_root_has_one_daemon() {
        let directory = directory();
        let lock = DataRootLock::take(&directory).unwrap();
        let error = DataRootLock::take(&directory).unwrap_err().to_string();
        assert!(error.contains("in use by another daemon"), "{error}");
        drop(lock);
        DataRootLock::take(&directory).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn stale_pid_files_are_replaced() {
        let directory = directory();
        let path = directory.join("x.pid");
        for stale in ["", "text", "4194304", "1"] {
            std::fs::write(&path, stale).unwrap();
            let file = PidFile::create(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
            drop(file);
            assert!(!path.exists());
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
