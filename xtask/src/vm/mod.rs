//! `cargo xtask vm -- COMMAND`: runs a command of this machine on Debian's stock kernel,
//! in an emulated virtual machine. The guest sees this machine's files, copied on write,
//! and nothing of its processes, network or control groups. That is how cgroup v2, an
//! older kernel and IPVS are tested wherever the tests run.

mod image;

use crate::setup;
use crate::sh::root;
use anyhow::{Context, Result, bail};
use image::Image;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The emulator and what it needs; the second one only to look at the balancer.
const PACKAGES: [(&str, &str); 3] = [
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("ipvsadm", "/usr/sbin/ipvsadm"),
    ("busybox-static", "/bin/busybox"),
];
const FILE_SERVER: &str = "/usr/lib/qemu/virtiofsd";
/// A file server makes its socket before it does anything else.
const SOCKET_DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);
/// Lines of the console that an error shows.
const CONSOLE_LINES: usize = 30;

/// What is asked of a machine.
pub(crate) struct Job<'a> {
    /// Program and arguments, as they would be run here from the workspace's root.
    pub(crate) command: &'a [String],
    /// Set for the command besides its path.
    pub(crate) environment: &'a [(String, String)],
    pub(crate) memory_mib: u32,
    pub(crate) processors: u32,
    pub(crate) timeout: Duration,
}

/// Runs a command, shows its output while it comes, and gives its exit code.
///
/// # Errors
/// When the machine cannot be had, dies, or takes too long.
pub(crate) fn run(job: &Job<'_>) -> Result<u8> {
    let image = prepare()?;
    Machine::start(&image, job)?.finish(job.timeout)
}

/// Installs the emulator and unpacks the kernel, unless that was done before.
///
/// # Errors
/// When the packages cannot be had.
pub(crate) fn prepare() -> Result<Image> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machine is made for x86-64 only");
    }
    setup::install(&PACKAGES)?;
    image::prepare()
}

/// A running machine. Dropping it ends it.
struct Machine {
    folder: TempDir,
    emulator: Child,
    servers: Vec<Child>,
}

impl Machine {
    fn start(image: &Image, job: &Job<'_>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("skep-vm-").tempdir()?;
        let shared = folder.path().join("job");
        fs::create_dir(&shared)?;
        fs::write(shared.join("start"), include_str!("start.sh"))?;
        fs::write(shared.join("modules"), image.modules.as_os_str().as_encoded_bytes())?;
        fs::write(shared.join("command"), script(job))?;
        File::create(shared.join("output"))?;
        let servers = vec![
            serve_files(Path::new("/"), &folder.path().join("root.sock"), "always")?,
            serve_files(&shared, &folder.path().join("job.sock"), "none")?,
        ];
        let emulator = emulator(image, job, folder.path()).spawn().context("cannot start qemu-system-x86_64")?;
        let machine = Self { folder, emulator, servers };
        Ok(machine)
    }

    fn finish(mut self, timeout: Duration) -> Result<u8> {
        let shared = self.folder.path().join("job");
        let begin = Instant::now();
        let mut output = File::open(shared.join("output"))?;
        loop {
            // Looked at before the output, so that none is missed after the end.
            let code = fs::read_to_string(shared.join("code")).ok();
            let ended = self.emulator.try_wait()?;
            pass_on(&mut output)?;
            if let Some(code) = code {
                return code.trim().parse().with_context(|| format!("not an exit code: {code}"));
            }
            if let Some(status) = ended {
                bail!("the virtual machine ended before its command ({status}):\n{}", self.console());
            }
            if begin.elapsed() > timeout {
                bail!("the command did not end within {timeout:?}:\n{}", self.console());
            }
            std::thread::sleep(POLL);
        }
    }

    fn console(&self) -> String {
        let text = fs::read(self.folder.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.emulator).chain(&mut self.servers) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pass_on(output: &mut File) -> Result<()> {
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes)?;
    stdout.flush()?;
    Ok(())
}

/// The command with its surroundings, for the guest's shell.
fn script(job: &Job<'_>) -> String {
    let mut text = format!("cd {}\n", quoted(&root().to_string_lossy()));
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let fixed = [("PATH".to_owned(), path), ("HOME".to_owned(), "/root".to_owned())];
    for (name, value) in fixed.iter().chain(job.environment) {
        text.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    text + &words.join(" ") + "\n"
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn serve_files(folder: &Path, socket: &Path, cache: &str) -> Result<Child> {
    let mut child = Command::new(FILE_SERVER)
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", &format!("source={}", folder.display()), "-o", &format!("cache={cache}")])
        // Its limit of open files stays as it is: raising it takes a right that root may lack.
        .args(["-o", "sandbox=chroot", "--rlimit-nofile=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {FILE_SERVER}"))?;
    let begin = Instant::now();
    while !socket.exists() {
        let ended: Option<ExitStatus> = child.try_wait()?;
        if ended.is_some() || begin.elapsed() > SOCKET_DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{FILE_SERVER} does not serve {}", folder.display());
        }
        std::thread::sleep(POLL);
    }
    Ok(child)
}

/// Full emulation: a machine that is virtual itself often has a `/dev/kvm` on which a
/// stock kernel never finishes booting.
fn emulator(image: &Image, job: &Job<'_>, folder: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    let memory = format!("memory-backend-memfd,id=memory,size={}M,share=on", job.memory_mib);
    command
        .args(["-accel", "tcg", "-machine", "q35,memory-backend=memory", "-cpu", "max"])
        .args(["-smp", &job.processors.to_string(), "-m", &format!("{}M", job.memory_mib), "-object", &memory])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", folder.join("console").display()))
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1"]);
    for tag in ["root", "job"] {
        let socket: PathBuf = folder.join(format!("{tag}.sock"));
        command.arg("-chardev").arg(format!("socket,id={tag},path={}", socket.display()));
        command.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_gets_every_word_as_it_is() {
        let job = Job {
            command: &["echo".into(), "it's".into(), "$HOME".into()],
            environment: &[("A".into(), "b c".into())],
            memory_mib: 1,
            processors: 1,
            timeout: Duration::ZERO,
        };
        let text = script(&job);
        assert!(text.contains("export A='b c'\n"), "{text}");
        assert!(text.ends_with("'echo' 'it'\\''s' '$HOME'\n"), "{text}");
    }
}
