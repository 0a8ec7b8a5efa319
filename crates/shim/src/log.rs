//! The json-file log: one object a line, as every reader of Docker's logs expects.

use crate::error::ShimError;
use crate::forward::Forwarder;
use skep_model::Timestamp;
use skep_model::shim::ShimLog;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A line longer than this is logged in pieces, all but the last without a newline.
const LINE_LENGTH_MAX: usize = 16 * 1024;

/// Which of a process's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    /// Its number in the frames sent to clients.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An open log and the beginnings of lines that are not complete yet.
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    max_size_bytes: u64,
    max_files: u32,
    size_bytes: u64,
    partial_stdout: Vec<u8>,
    partial_stderr: Vec<u8>,
    forwarder: Option<Forwarder>,
}

impl LogFile {
    /// Opens for appending; a restarted container goes on in its old log.
    pub(crate) fn open(config: &ShimLog, forwarder: Option<Forwarder>) -> Result<Self, ShimError> {
        let file =
            open_for_append(&config.path).map_err(|source| ShimError::File { path: config.path.clone(), source })?;
        let size_bytes = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self {
            file,
            path: config.path.clone(),
            max_size_bytes: config.max_size_bytes,
            max_files: config.max_files.max(1),
            size_bytes,
            partial_stdout: Vec::new(),
            partial_stderr: Vec::new(),
            forwarder,
        })
    }

    /// Logs what a read returned. A full disk loses log lines, never the container.
    pub(crate) fn append(&mut self, stream: OutputStream, mut bytes: &[u8], at: Timestamp) {
        let mut partial = std::mem::take(self.partial(stream));
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let room = LINE_LENGTH_MAX - partial.len();
            let newline = bytes.iter().take(room).position(|&byte| byte == b'\n');
            let taken = newline.map_or_else(|| room.min(bytes.len()), |index| index + 1);
            partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if newline.is_some() || partial.len() >= LINE_LENGTH_MAX {
                encode_entry(&mut out, stream, &partial, at);
                self.forward(stream, &partial, at);
                partial.clear();
            }
        }
        *self.partial(stream) = partial;
        self.write(&out);
    }

    /// Logs what is left of unfinished lines.
    pub(crate) fn finish(&mut self, at: Timestamp) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let partial = std::mem::take(self.partial(stream));
            if !partial.is_empty() {
                let mut out = Vec::new();
                encode_entry(&mut out, stream, &partial, at);
                self.write(&out);
                self.forward(stream, &partial, at);
            }
        }
    }

    fn forward(&self, stream: OutputStream, line: &[u8], at: Timestamp) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.send(stream, line, at);
        }
    }

    fn partial(&mut self, stream: OutputStream) -> &mut Vec<u8> {
        match stream {
            OutputStream::Stdout => &mut self.partial_stdout,
            OutputStream::Stderr => &mut self.partial_stderr,
        }
    }

    fn write(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        if self.max_size_bytes > 0 && self.size_bytes >= self.max_size_bytes {
            // A log that cannot be rotated still takes lines.
            let _ = self.rotate();
        }
        if self.file.write_all(entries).is_ok() {
            self.size_bytes += entries.len() as u64;
        }
    }

    /// `x.log` becomes `x.log.1`, `x.log.1` becomes `x.log.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> std::io::Result<()> {
        if self.max_files == 1 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.max_files - 1).rev() {
                let _ = std::fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
            }
            std::fs::rename(&self.path, numbered(&self.path, 1))?;
            self.file = open_for_append(&self.path)?;
        }
        self.size_bytes = 0;
        Ok(())
    }
}

fn open_for_append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// `{"log":"text\n","stream":"stdout","time":"..."}` and a newline.
fn encode_entry(out: &mut Vec<u8>, stream: OutputStream, line: &[u8], at: Timestamp) {
    out.extend_from_slice(b"{\"log\":");
    let text = String::from_utf8_lossy(line);
    // Writing a string into memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &text);
    let _ = writeln!(out, ",\"stream\":\"{}\",\"time\":\"{}\"}}", stream.name(), at.to_rfc3339());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, max_size_bytes: u64, max_files: u32) -> LogFile {
        LogFile::open(&ShimLog { path: dir.join("x.log"), max_size_bytes, max_files, forward: None }, None).unwrap()
    }

    const AT: Timestamp = Timestamp(1_500_000_000_000_000_000);

    #[test]
    fn lines_are_logged_when_complete_and_the_rest_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0, 1);
        log.append(OutputStream::Stdout, b"a\nb", AT);
        log.append(OutputStream::Stderr, b"err\xff\n", AT);
        log.append(OutputStream::Stdout, b"c\n\"d", AT);
        log.finish(AT);
        let text = std::fs::read_to_string(dir.path().join("x.log")).unwrap();
        let time = "\"time\":\"2017-07-14T02:40:00Z\"}\n";
        let expect = [
            format!("{{\"log\":\"a\\n\",\"stream\":\"stdout\",{time}"),
            format!("{{\"log\":\"err\u{fffd}\\n\",\"stream\":\"stderr\",{time}"),
            format!("{{\"log\":\"bc\\n\",\"stream\":\"stdout\",{time}"),
            format!("{{\"log\":\"\\\"d\",\"stream\":\"stdout\",{time}"),
        ];
        assert_eq!(text, expect.concat());
    }

    #[test]
    fn long_lines_are_split_at_16_kib_without_a_newline() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 0, 1);
        let mut line = vec![b'x'; LINE_LENGTH_MAX + 5];
        line.push(b'\n');
        log.append(OutputStream::Stdout, &line, AT);
        let text = std::fs::read_to_string(dir.path().join("x.log")).unwrap();
        let lengths: Vec<usize> = text
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["log"].as_str().unwrap().len())
            .collect();
        assert_eq!(lengths, [LINE_LENGTH_MAX, 6]);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 10, 3);
        for number in 0..6 {
            log.append(OutputStream::Stdout, format!("{number}\n").as_bytes(), AT);
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(read("x.log").contains("\"5\\n\""));
        assert!(read("x.log.1").contains("\"4\\n\""));
        assert!(read("x.log.2").contains("\"3\\n\""));
        assert!(!dir.path().join("x.log.3").exists());
    }
}
