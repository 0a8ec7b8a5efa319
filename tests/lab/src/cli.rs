//! One client program, pointed at one daemon.

use crate::client::{Client, environment, failure, success};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A daemon that is up answers a ping at once.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// No verb of a test takes longer.
const VERB_SECONDS_MAX: &str = "120";
/// For everything else that is asked without a client program.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Debug, Clone)]
pub struct Cli {
    client: Client,
    socket: String,
}

impl Cli {
    /// `socket` is the path of the daemon's unix socket.
    #[must_use]
    pub fn new(client: Client, socket: String) -> Self {
        Self { client, socket }
    }

    /// The same daemon, asked with another program.
    #[must_use]
    pub fn with(&self, client: Client) -> Self {
        Self { client, socket: self.socket.clone() }
    }

    /// The program.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Path of the API socket.
    #[must_use]
    pub fn socket(&self) -> String {
        self.socket.clone()
    }

    /// The client's command with its connection set.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.client.command(&self.socket, args)
    }

    /// The same, ended when it takes too long: one that waits for ever would hold up all tests.
    fn timed(&self, args: &[&str]) -> Command {
        let command = self.command(args);
        let mut timed = Command::new("timeout");
        timed.args(["--foreground", VERB_SECONDS_MAX]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            timed.env(key, value.unwrap_or_default());
        }
        timed.stdin(Stdio::null());
        timed
    }

    /// Runs a client verb that must succeed and gives its output.
    ///
    /// # Errors
    /// With the verb and both outputs.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.timed(args).output().with_context(|| format!("{:?}", self.client.program))?;
        success(&output).with_context(|| format!("{} {}", self.client.label, args.join(" ")))
    }

    /// Runs a client verb that must fail and gives what it says.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.timed(args).output().with_context(|| format!("{:?}", self.client.program))?;
        failure(&output).with_context(|| format!("{} {}", self.client.label, args.join(" ")))
    }

    /// Runs a verb with `input` on its standard input.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a piped input")?.write_all(input.as_bytes())?;
        success(&child.wait_with_output()?).with_context(|| args.join(" "))
    }

    /// `inspect` of anything, as JSON.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn inspect(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(args)?;
        let list: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        list.get(0).cloned().context("an empty list")
    }

    /// Makes the image `busybox` from Debian's static busybox.
    ///
    /// # Errors
    /// When importing fails.
    pub fn import_busybox(&self) -> Result<()> {
        let tar = environment("SKEP_TEST_BUSYBOX_TAR");
        self.ok(&["import", "-c", "CMD [\"sh\"]", &tar.to_string_lossy(), "busybox:latest"]).map(drop)
    }

    /// Builds the image `whoami` from its Dockerfile.
    ///
    /// # Errors
    /// When building fails.
    pub fn build_whoami(&self) -> Result<String> {
        let context = environment("SKEP_TEST_WHOAMI_CONTEXT");
        self.ok(&["build", "-t", "whoami", &context.to_string_lossy()])
    }

    /// One request on a connection of its own, with a JSON body if one is given; gives status
    /// and body of the answer.
    ///
    /// # Errors
    /// When nobody listens, the connection breaks, or the answer takes longer than `timeout`.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>, timeout: Duration) -> Result<(u16, String)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = "Host: skep\r\nContent-Type: application/json\r\nContent-Length";
        write!(stream, "{method} {path} HTTP/1.0\r\n{head}: {}\r\n\r\n{body}", body.len())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    /// A GET whose answer is JSON.
    ///
    /// # Errors
    /// When there is no answer or it is an error.
    pub fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request("GET", path, None, ANSWER_TIMEOUT)?;
        ensure!(status == 200, "GET {path}: {status}: {body}");
        serde_json::from_str(&body).with_context(|| body)
    }

    /// Whether the daemon answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&self) -> Result<()> {
        let (status, body) = self.request("GET", "/_ping", None, PING_TIMEOUT)?;
        ensure!(status == 200, "{status}: {body}");
        Ok(())
    }
}
