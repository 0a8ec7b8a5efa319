//! A machine's disk: a folder, or a file system in an image file, whose unsynced part a
//! power cut drops.

use crate::client::success;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What machines keep their files on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disk {
    /// A folder of the machine that runs the lab. Cheap; cannot lose what was not synced.
    #[default]
    Folder,
    /// An ext4 file system in a sparse image file of this many MiB.
    Image { size_mib: u32 },
}

/// ext4's "go down now": `EXT4_IOC_SHUTDOWN` with `NOLOGFLUSH`, as file system tests do it.
/// From then on nothing reaches the device: neither dirty pages nor the journal in memory.
const GO_DOWN: &str =
    r#"open(F, "<", $ARGV[0]) or die "$!"; my $how = pack("L", 2); ioctl(F, 0x8004587d, $how) or die "$!""#;

/// One machine's disk. An image is mounted in the machine's own mount namespace only, so
/// that the end of the machine is its unmounting and nobody else can hold on to it.
#[derive(Debug)]
pub(crate) struct MachineDisk {
    kind: Disk,
    image: PathBuf,
    folder: PathBuf,
}

impl MachineDisk {
    /// A new, empty disk in `home`.
    pub(crate) fn create(kind: Disk, home: &Path) -> Result<Self> {
        let disk = Self { kind, image: home.join("disk.img"), folder: home.join("disk") };
        fs::create_dir_all(&disk.folder)?;
        if let Disk::Image { size_mib } = kind {
            fs::File::create(&disk.image)?.set_len(u64::from(size_mib) << 20)?;
            let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
            run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", options]).arg(&disk.image))?;
        }
        Ok(disk)
    }

    /// Where its files are, on the machine.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The line of a machine's start that makes the files appear; an image's file system
    /// repairs itself from its journal.
    pub(crate) fn mount_line(&self) -> String {
        match self.kind {
            Disk::Folder => String::new(),
            Disk::Image { .. } => format!("mount -o loop,noatime {} {}", self.image.display(), self.folder.display()),
        }
    }

    /// The program, run on the machine, that drops everything that was not synced; the disk
    /// is of no use until it is mounted again. `None` for a folder, which cannot lose it.
    pub(crate) fn drop_unsynced(&self) -> Option<Command> {
        let Disk::Image { .. } = self.kind else { return None };
        let mut command = Command::new("perl");
        command.args(["-e", GO_DOWN]).arg(&self.folder);
        Some(command)
    }

    /// Waits until the machine's end has unmounted it.
    pub(crate) fn wait_unmounted(&self) -> Result<()> {
        let Disk::Image { .. } = self.kind else { return Ok(()) };
        wait::until("the disk to be unmounted", || {
            let output = Command::new("losetup").arg("-j").arg(&self.image).output()?;
            let users = success(&output)?;
            ensure!(users.is_empty(), "{users}");
            Ok(())
        })
    }
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    success(&command.stdin(Stdio::null()).output().with_context(|| shown.clone())?).map(drop).context(shown)
}
