//! Creates and starts the container's init by libcontainer.

use crate::confine::Confinement;
use crate::error::{EXIT_NOT_EXECUTABLE, LaunchError, ShimError};
use crate::stdio::{self, ChildEnds, ShimEnds};
use crate::{init, lookup, sys};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::{NOTIFY_FILE, NotifySocket};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use serde::{Deserialize, Serialize};
use skep_model::shim::ShimConfig;
use std::collections::HashMap;
use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

/// The socket libcontainer's init sends its terminal over.
const CONSOLE_SOCKET: &str = "console.sock";

/// A created init, waiting for [`Created::start`].
pub(crate) struct Created {
    pub(crate) pid: Pid,
    pub(crate) ends: ShimEnds,
    notify: NotifySocket,
    status: OwnedFd,
}

/// Makes the container from the bundle in `run_dir`; its process does not run yet.
pub(crate) fn create(config: &ShimConfig, run_dir: &Path, spec: &Spec) -> Result<Created, LaunchError> {
    // Left over from a shim that was killed between create and exit.
    let state_dir = config.runtime_root.join(&config.container_id);
    let _ = std::fs::remove_dir_all(&state_dir);
    let (status_read, status_write) =
        pipe2(OFlag::O_CLOEXEC).map_err(|e| LaunchError::runtime(format!("pipe: {e}")))?;
    let no_new_privileges = spec.process().as_ref().and_then(|process| process.no_new_privileges());
    let confinement = Arc::new(Confinement::prepare(config, no_new_privileges.unwrap_or(false))?);
    let executor = ContainerProcess { status: status_write.as_raw_fd(), init: config.init, confinement };
    let builder = ContainerBuilder::new(config.container_id.clone(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&config.runtime_root)
        .map_err(LaunchError::runtime)?;
    let (container, ends) = if config.terminal {
        create_with_terminal(builder, config, run_dir)?
    } else {
        create_with_pipes(builder, config, run_dir, spec)?
    };
    drop(status_write);
    let pid = container.pid().ok_or_else(|| LaunchError::runtime("init has no pid"))?;
    let notify = NotifySocket::new(state_dir.join(NOTIFY_FILE));
    Ok(Created { pid: Pid::from_raw(pid.as_raw()), ends, notify, status: status_read })
}

impl Created {
    /// Ends the process before it runs anything of the container's.
    pub(crate) fn abandon(self) {
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }

    /// Lets the process run, and returns once it was executed.
    pub(crate) fn start(mut self) -> Result<(Pid, ShimEnds), LaunchError> {
        self.notify.notify_container_start().map_err(LaunchError::runtime)?;
        match read_status(self.status)? {
            None => Ok((self.pid, self.ends)),
            Some(failure) => Err(failure),
        }
    }
}

type LibContainer = libcontainer::container::Container;

fn create_with_pipes(
    builder: ContainerBuilder,
    config: &ShimConfig,
    run_dir: &Path,
    spec: &Spec,
) -> Result<(LibContainer, ShimEnds), LaunchError> {
    let (child, ends) = stdio::make_pipes(config.open_stdin).map_err(LaunchError::runtime)?;
    child.give_to(spec.process().as_ref().map_or(0, |process| process.user().uid()));
    let ChildEnds { stdin, stdout, stderr } = child;
    let builder = builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr);
    Ok((build(builder, run_dir)?, ends))
}

fn create_with_terminal(
    builder: ContainerBuilder,
    config: &ShimConfig,
    run_dir: &Path,
) -> Result<(LibContainer, ShimEnds), LaunchError> {
    let path = run_dir.join(CONSOLE_SOCKET);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|e| LaunchError::runtime(format!("console socket: {e}")))?;
    // The connection waits in the backlog and the descriptor in its buffer, so no
    // second thread is needed to take them.
    let container = build(builder.with_console_socket(Some(&path)), run_dir)?;
    let terminal = listener
        .accept()
        .map_err(ShimError::at("accept console socket"))
        .and_then(|(socket, _)| stdio::receive_descriptor(&socket))
        .map_err(LaunchError::runtime)?;
    let _ = std::fs::remove_file(&path);
    if config.console_size != (0, 0) {
        let _ = sys::set_window_size(terminal.as_raw_fd(), config.console_size.0, config.console_size.1);
    }
    let ends = ShimEnds::terminal(terminal, config.open_stdin).map_err(LaunchError::runtime)?;
    Ok((container, ends))
}

fn build(builder: ContainerBuilder, run_dir: &Path) -> Result<LibContainer, LaunchError> {
    builder.as_init(run_dir).with_systemd(false).build().map_err(|error| explain(&error))
}

/// The text between our marks comes from [`ContainerProcess::validate`]; all else is
/// libcontainer's own story, told from the outermost to the innermost cause.
fn explain(error: &dyn std::error::Error) -> LaunchError {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        texts.push(inner.to_string());
        cause = inner.source();
    }
    for text in &texts {
        if let Some(found) = text.split(MARK).nth(1)
            && let Ok(failure) = serde_json::from_str::<ProcessFailure>(found)
        {
            return LaunchError { exit_code: failure.exit_code, text: failure.text };
        }
    }
    texts.dedup();
    LaunchError::runtime(texts.join(": "))
}

/// Surrounds a [`ProcessFailure`] on its way through libcontainer's error texts.
const MARK: char = '\u{1}';

/// A [`LaunchError`] on the wire between the forked child and the shim.
#[derive(Serialize, Deserialize)]
pub(crate) struct ProcessFailure {
    exit_code: i32,
    text: String,
}

/// Writes a failure to the status pipe.
pub(crate) fn write_status(status: RawFd, failure: LaunchError) {
    let failure = ProcessFailure { exit_code: failure.exit_code, text: failure.text };
    let bytes = serde_json::to_vec(&failure).unwrap_or_default();
    sys::write_raw(status, &bytes);
}

/// Reads the status pipe to its end: `None` means that the process was executed.
pub(crate) fn read_status(status: OwnedFd) -> Result<Option<LaunchError>, LaunchError> {
    let mut bytes = Vec::new();
    std::fs::File::from(status)
        .read_to_end(&mut bytes)
        .map_err(|e| LaunchError::runtime(format!("read start status: {e}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let failure: ProcessFailure =
        serde_json::from_slice(&bytes).map_err(|_| LaunchError::runtime(String::from_utf8_lossy(&bytes)))?;
    Ok(Some(LaunchError { exit_code: failure.exit_code, text: failure.text }))
}

/// The container's process, from libcontainer's point of view.
#[derive(Clone)]
struct ContainerProcess {
    /// Closed by a successful exec, else carries why it failed.
    status: RawFd,
    init: bool,
    /// libcontainer is told of no filter, which it would compile anew, and of no
    /// capabilities, without which the filter could not be loaded afterwards.
    confinement: Arc<Confinement>,
}

impl Executor for ContainerProcess {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, env) = command_of(spec);
        let found = match args.first() {
            Some(program) => lookup::find_executable(program, env),
            None => Err(LaunchError::runtime("no command specified")),
        };
        found.map(drop).map_err(|failure| {
            let failure = ProcessFailure { exit_code: failure.exit_code, text: failure.text };
            let text = serde_json::to_string(&failure).unwrap_or_default();
            ExecutorValidationError::ArgValidationError(format!("{MARK}{text}{MARK}"))
        })
    }

    /// The environment is passed to `execve` as it stands in the spec, in its order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = command_of(spec);
        if let Err(failure) = self.confinement.apply() {
            let exit_code = failure.exit_code;
            write_status(self.status, failure);
            sys::exit_now(exit_code);
        }
        let status = if self.init {
            init::become_init(|| execute(args, env, self.status))
        } else {
            sys::reset_signals();
            execute(args, env, self.status)
        };
        sys::exit_now(status)
    }
}

fn command_of(spec: &Spec) -> (&[String], &[String]) {
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_deref()).unwrap_or_default();
    let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    (args, env)
}

/// Executes the command. Returns only if that failed, after telling the status pipe.
pub(crate) fn execute(args: &[String], env: &[String], status: RawFd) -> i32 {
    let failure = match try_execute(args, env) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    let exit_code = failure.exit_code;
    write_status(status, failure);
    exit_code
}

fn try_execute(args: &[String], env: &[String]) -> Result<std::convert::Infallible, LaunchError> {
    let program = args.first().ok_or_else(|| LaunchError::runtime("no command specified"))?;
    let path = lookup::find_executable(program, env)?;
    let text = |list: &[String]| -> Result<Vec<CString>, LaunchError> {
        let convert = |text: &String| CString::new(text.as_bytes());
        list.iter()
            .map(convert)
            .collect::<Result<_, _>>()
            .map_err(|_| LaunchError::process(EXIT_NOT_EXECUTABLE, "an argument contains a zero byte"))
    };
    let path_text = path.to_string_lossy().into_owned();
    let c_path = text(std::slice::from_ref(&path_text))?.remove(0);
    let errno = match nix::unistd::execve(&c_path, &text(args)?, &text(env)?) {
        Ok(never) => return Ok(never),
        Err(errno) => errno,
    };
    let why = match errno {
        nix::Error::ENOEXEC => "exec format error".to_owned(),
        // The file was found a moment ago: what is missing is its interpreter.
        nix::Error::ENOENT => "no such file or directory".to_owned(),
        nix::Error::EACCES => "permission denied".to_owned(),
        other => other.desc().to_owned(),
    };
    let exit_code = if errno == nix::Error::ENOENT { crate::error::EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
    Err(LaunchError::process(exit_code, format!("exec {path_text}: {why}")))
}
