//! Reading a container's json-file log: the end first if only that is wanted, rotated
//! files included, and what is being written if followed.

use crate::container::inner::Inner;
use crate::container::{LogLine, LogOptions, Stream};
use bytes::Bytes;
use serde::Deserialize;
use skep_model::{Error, Result, Timestamp};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Lines between reader and client.
const LINES_MAX: usize = 256;
/// Rotated files looked for.
const ROTATED_MAX: u32 = 100;
/// Read backwards in pieces of this size.
const BLOCK_LENGTH: u64 = 64 * 1024;
/// An entry is a line of at most 16 KiB, escaped at worst sixfold.
const ENTRY_LENGTH_MAX: usize = 256 * 1024;

#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
}

impl Inner {
    pub(crate) async fn logs(self: &Arc<Self>, name: &str, options: LogOptions) -> Result<mpsc::Receiver<LogLine>> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("You must choose at least one stream"));
        }
        let container = self.registry.find(name)?;
        let info = container.info();
        if info.host.log_config.driver == "none" {
            return Err(Error::not_implemented("configured logging driver does not support reading"));
        }
        let path = self.log_path(&info);
        let (sender, receiver) = mpsc::channel(LINES_MAX);
        let mut snapshots = container.subscribe();
        let closing = self.closing.clone();
        self.watch(async move {
            let position = match read_present(&path, options, &sender).await {
                Ok(Some(position)) if options.follow => position,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot read log");
                    return;
                }
            };
            let ended = async move {
                let over = |s: &super::registry::Snapshot| s.removed || !s.info.state.status.is_running();
                let _ = snapshots.wait_for(over).await;
            };
            tokio::select! {
                () = closing.cancelled() => {}
                () = sender.closed() => {}
                result = follow(&path, position, options, &sender, ended) => {
                    if let Err(error) = result {
                        tracing::warn!(path = %path.display(), %error, "cannot follow log");
                    }
                }
            }
        });
        Ok(receiver)
    }
}

/// Where reading goes on: an open file, and what follows its last whole line.
struct Position {
    file: File,
    rest: Vec<u8>,
}

/// Sends what is there. `None` if the client left or the end of the wanted time was passed.
async fn read_present(
    path: &Path,
    options: LogOptions,
    sender: &mpsc::Sender<LogLine>,
) -> std::io::Result<Option<Position>> {
    let path = path.to_owned();
    let sender = sender.clone();
    let work = move || {
        let mut current = open_log(&path)?;
        let mut files: Vec<PathBuf> = (1..ROTATED_MAX)
            .map(|number| PathBuf::from(format!("{}.{number}", path.display())))
            .take_while(|path| path.exists())
            .collect();
        files.reverse();
        if let Some(count) = options.tail {
            let skip = skip_for_tail(&files, &mut current, count, options)?;
            return send_from(&files, current, skip, options, &sender);
        }
        send_from(&files, current, (0, 0), options, &sender)
    };
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

/// A log nobody has written yet is an empty one.
fn open_log(path: &Path) -> std::io::Result<File> {
    std::fs::OpenOptions::new().read(true).append(true).create(true).open(path)
}

/// Where the last `count` wanted lines begin: index into `files` (its length is the
/// current one) and offset.
fn skip_for_tail(
    files: &[PathBuf],
    current: &mut File,
    count: u64,
    options: LogOptions,
) -> std::io::Result<(usize, u64)> {
    let mut missing = count;
    let length = current.metadata()?.len();
    if missing == 0 {
        return Ok((files.len(), length));
    }
    for index in (0..=files.len()).rev() {
        let found = match files.get(index) {
            Some(path) => tail_offset(&mut File::open(path)?, missing, options)?,
            None => tail_offset(current, missing, options)?,
        };
        if found.1 >= missing || index == 0 {
            return Ok((index, found.0));
        }
        missing -= found.1;
    }
    Ok((0, 0))
}

/// Offset at which the last `count` wanted lines begin, and how many there are.
fn tail_offset(file: &mut File, count: u64, options: LogOptions) -> std::io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    let mut carried: Vec<u8> = Vec::new();
    let mut found = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_LENGTH);
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact(&mut block)?;
        block.append(&mut carried);
        let first =
            if start == 0 { 0 } else { block.iter().position(|&b| b == b'\n').map_or_else(|| block.len(), |i| i + 1) };
        let mut line_end = block.len();
        while line_end > first {
            let before = &block[first..line_end - 1];
            let line_start = before.iter().rposition(|&b| b == b'\n').map_or(first, |i| first + i + 1);
            if parse(&block[line_start..line_end]).is_some_and(|line| is_wanted(&line, options)) {
                found += 1;
                if found == count {
                    return Ok((start + line_start as u64, found));
                }
            }
            line_end = line_start;
        }
        block.truncate(first);
        carried = block;
        end = start;
        if carried.len() > ENTRY_LENGTH_MAX {
            carried.clear();
        }
    }
    Ok((0, found))
}

fn send_from(
    files: &[PathBuf],
    current: File,
    (first, offset): (usize, u64),
    options: LogOptions,
    sender: &mpsc::Sender<LogLine>,
) -> std::io::Result<Option<Position>> {
    for (index, path) in files.iter().enumerate().skip(first) {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(if index == first { offset } else { 0 }))?;
        if send_lines(&mut BufReader::new(file), &mut Vec::new(), options, sender)?.is_none() {
            return Ok(None);
        }
    }
    let mut file = current;
    file.seek(SeekFrom::Start(if first == files.len() { offset } else { 0 }))?;
    let mut rest = Vec::new();
    let mut reader = BufReader::new(file);
    if send_lines(&mut reader, &mut rest, options, sender)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Position { file: reader.into_inner(), rest }))
}

/// Sends whole lines to the end of the file; what is unfinished stays in `rest`.
fn send_lines(
    reader: &mut impl BufRead,
    rest: &mut Vec<u8>,
    options: LogOptions,
    sender: &mpsc::Sender<LogLine>,
) -> std::io::Result<Option<()>> {
    loop {
        if reader.read_until(b'\n', rest)? == 0 || !rest.ends_with(b"\n") {
            return Ok(Some(()));
        }
        if let Some(line) = parse(rest) {
            if options.until.is_some_and(|until| line.at > until) {
                return Ok(None);
            }
            if is_wanted(&line, options) && sender.blocking_send(line).is_err() {
                return Ok(None);
            }
        }
        rest.clear();
    }
}

fn parse(bytes: &[u8]) -> Option<LogLine> {
    let entry: Entry = serde_json::from_slice(bytes).ok()?;
    let stream = if entry.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
    Some(LogLine { stream, at: Timestamp::parse_rfc3339(&entry.time)?, data: Bytes::from(entry.log) })
}

fn is_wanted(line: &LogLine, options: LogOptions) -> bool {
    let stream = match line.stream {
        Stream::Stdout => options.stdout,
        Stream::Stderr => options.stderr,
    };
    stream && options.since.is_none_or(|since| line.at >= since) && options.until.is_none_or(|until| line.at <= until)
}

/// Sends what is appended, over rotations, until the container has ended.
async fn follow(
    path: &Path,
    mut position: Position,
    options: LogOptions,
    sender: &mpsc::Sender<LogLine>,
    ended: impl Future<Output = ()>,
) -> std::io::Result<()> {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let dir = path.parent().unwrap_or(path);
    // The directory, so that a rotation is seen as well as a write.
    inotify.add_watch(dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
    let events = crate::sys::process::watch(inotify.as_fd().try_clone_to_owned()?, tokio::io::Interest::READABLE)?;
    tokio::pin!(ended);
    let mut over = false;
    loop {
        let moved = path.to_owned();
        let (options_now, sender_now) = (options, sender.clone());
        let step = tokio::task::spawn_blocking(move || catch_up(&moved, position, options_now, &sender_now));
        position = match step.await.map_err(std::io::Error::other)?? {
            Some(position) => position,
            None => return Ok(()),
        };
        if over {
            return Ok(());
        }
        tokio::select! {
            // One more round after the end: the last lines were written before it.
            () = &mut ended => over = true,
            ready = events.readable() => {
                let _ = inotify.read_events();
                ready?.clear_ready();
            }
        }
    }
}

fn catch_up(
    path: &Path,
    position: Position,
    options: LogOptions,
    sender: &mpsc::Sender<LogLine>,
) -> std::io::Result<Option<Position>> {
    let Position { mut file, mut rest } = position;
    if file.metadata()?.len() < file.stream_position()? {
        // Truncated: the log keeps a single file.
        file.seek(SeekFrom::Start(0))?;
        rest.clear();
    }
    let mut reader = BufReader::new(file);
    if send_lines(&mut reader, &mut rest, options, sender)?.is_none() {
        return Ok(None);
    }
    let file = reader.into_inner();
    let rotated = std::fs::metadata(path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() != now.ino()));
    if !rotated {
        return Ok(Some(Position { file, rest }));
    }
    let mut reader = BufReader::new(File::open(path)?);
    let mut rest = Vec::new();
    if send_lines(&mut reader, &mut rest, options, sender)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Position { file: reader.into_inner(), rest }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write_log(path: &Path, numbers: std::ops::Range<u32>) {
        let mut file = File::create(path).unwrap();
        for number in numbers {
            let stream = if number % 2 == 0 { "stdout" } else { "stderr" };
            writeln!(
                file,
                "{{\"log\":\"{number}\\n\",\"stream\":\"{stream}\",\"time\":\"2017-07-14T02:40:{:02}Z\"}}",
                number % 60
            )
            .unwrap();
        }
    }

    async fn read(path: &Path, options: LogOptions) -> String {
        let (sender, mut receiver) = mpsc::channel(LINES_MAX);
        let path = path.to_owned();
        tokio::spawn(async move { read_present(&path, options, &sender).await.unwrap() });
        let mut out = Vec::new();
        while let Some(line) = receiver.recv().await {
            out.extend_from_slice(&line.data);
        }
        String::from_utf8(out).unwrap().replace('\n', " ").trim().to_owned()
    }

    const BOTH: LogOptions =
        LogOptions { stdout: true, stderr: true, follow: false, since: None, until: None, tail: None };

    #[tokio::test]
    async fn tail_counts_wanted_lines_over_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        write_log(&path, 6..9);
        write_log(&dir.path().join("x.log.1"), 3..6);
        write_log(&dir.path().join("x.log.2"), 0..3);
        let check = |options, expect| {
            let path = path.clone();
            async move { assert_eq!(read(&path, options).await, expect) }
        };
        check(BOTH, "0 1 2 3 4 5 6 7 8").await;
        check(LogOptions { tail: Some(4), ..BOTH }, "5 6 7 8").await;
        check(LogOptions { tail: Some(2), stdout: false, ..BOTH }, "5 7").await;
        check(LogOptions { tail: Some(0), ..BOTH }, "").await;
        check(LogOptions { tail: Some(99), ..BOTH }, "0 1 2 3 4 5 6 7 8").await;
        let at = |text| Timestamp::parse_rfc3339(text);
        check(LogOptions { since: at("2017-07-14T02:40:07Z"), ..BOTH }, "7 8").await;
        check(LogOptions { until: at("2017-07-14T02:40:01Z"), ..BOTH }, "0 1").await;
    }

    #[tokio::test]
    async fn a_long_log_is_tailed_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        write_log(&path, 0..5000);
        assert_eq!(read(&path, LogOptions { tail: Some(3), ..BOTH }).await, "4997 4998 4999");
        assert_eq!(read(&path, LogOptions { tail: Some(2000), ..BOTH }).await.split(' ').count(), 2000);
    }
}
