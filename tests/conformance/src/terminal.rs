//! A person at a terminal.

use anyhow::{Context, Result, anyhow, bail, ensure};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use skep_lab::wait::DEADLINE;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const RESIZE_EVERY: Duration = Duration::from_millis(200);

/// A command on a terminal of its own. Dropping it hangs up.
pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    screen: Receiver<Vec<u8>>,
    /// All that appeared, as it appeared.
    pub shown: String,
}

impl Terminal {
    /// Starts the command on a terminal of so many rows and columns.
    ///
    /// # Errors
    /// When there is no terminal, or the program does not start.
    pub fn start(command: &Command, rows: u16, cols: u16) -> Result<Self> {
        let pair = native_pty_system().openpty(size(rows, cols))?;
        let mut builder = CommandBuilder::new(command.get_program());
        builder.args(command.get_args());
        for (key, value) in command.get_envs() {
            builder.env(key, value.unwrap_or_default());
        }
        let child = pair.slave.spawn_command(builder)?;
        let mut reader = pair.master.try_clone_reader()?;
        let (sender, screen) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal nobody has open any more ends in an error.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keyboard = pair.master.take_writer()?;
        Ok(Self { master: pair.master, keyboard, child, screen, shown: String::new() })
    }

    /// Waits until the text has appeared.
    ///
    /// # Errors
    /// When the command ends or the deadline passes before.
    pub fn expect(&mut self, text: &str) -> Result<()> {
        ensure!(self.appears(text, DEADLINE)?, "{text:?} did not appear: {:?}", self.shown);
        Ok(())
    }

    /// Changes the size of the window until the text has appeared. Once is not enough: a client
    /// that has just started may not listen yet.
    ///
    /// # Errors
    /// As [`Self::expect`].
    pub fn resize_until(&mut self, rows: u16, cols: u16, text: &str) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            // Only a change is told to the client.
            self.master.resize(size(rows, cols + 1))?;
            self.master.resize(size(rows, cols))?;
            if self.appears(text, RESIZE_EVERY)? {
                return Ok(());
            }
        }
        bail!("{text:?} did not appear: {:?}", self.shown)
    }

    fn appears(&mut self, text: &str, deadline: Duration) -> Result<bool> {
        let begin = Instant::now();
        while !self.shown.contains(text) {
            match self.screen.recv_timeout(deadline.saturating_sub(begin.elapsed())) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => bail!("ended without {text:?}: {:?}", self.shown),
            }
        }
        Ok(true)
    }

    /// Types the text.
    ///
    /// # Errors
    /// When nobody reads it.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(text.as_bytes())?;
        self.keyboard.flush().context("typing")
    }

    /// Waits for the end and gives all that appeared.
    ///
    /// # Errors
    /// When the command fails or does not end.
    pub fn finish(mut self) -> Result<String> {
        let begin = Instant::now();
        loop {
            match self.screen.recv_timeout(DEADLINE.saturating_sub(begin.elapsed())) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(anyhow!("does not end: {:?}", self.shown)),
            }
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "{status:?}: {:?}", self.shown);
        Ok(std::mem::take(&mut self.shown))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, or to be ended: either way nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, cols: u16) -> PtySize {
    PtySize { rows, cols, pixel_width: 0, pixel_height: 0 }
}
