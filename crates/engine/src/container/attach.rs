//! Clients at a process's standard streams.

use crate::container::inner::Inner;
use crate::container::registry::{Container, lock};
use crate::container::{AttachOptions, Attached, Chunk, LogOptions, Stream, shim};
use bytes::{Bytes, BytesMut};
use skep_model::container::ContainerStatus;
use skep_model::shim::{ShimReply, ShimRequest};
use skep_model::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Chunks between a shim and a client; a chunk is at most 32 KiB.
const CHUNKS_MAX: usize = 16;
/// Clients waiting for one container to start.
const PENDING_MAX: usize = 64;
/// A frame larger than this is no frame of a shim.
const FRAME_LENGTH_MAX: usize = 1024 * 1024;

/// A client that attached before there is a process.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    options: AttachOptions,
    output: mpsc::Sender<Chunk>,
    input: Option<mpsc::Receiver<Bytes>>,
}

impl PendingAttach {
    /// Held by whoever must finish before the client may see the end of the output.
    pub(crate) fn hold(&self) -> mpsc::Sender<Chunk> {
        self.output.clone()
    }
}

/// A client's end and the process's.
pub(crate) fn channels(tty: bool, options: AttachOptions) -> (Attached, PendingAttach) {
    let (output_sender, output) = mpsc::channel(CHUNKS_MAX);
    let (input, input_receiver) = match options.stdin {
        true => {
            let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
            (Some(sender), Some(receiver))
        }
        false => (None, None),
    };
    let pending = PendingAttach { options, output: output_sender, input: input_receiver };
    (Attached { tty, output, input }, pending)
}

impl Inner {
    pub(crate) async fn attach(self: &Arc<Self>, name: &str, mut options: AttachOptions) -> Result<Attached> {
        let container = self.registry.find(name)?;
        let info = container.info();
        match info.state.status {
            ContainerStatus::Paused if options.stream => {
                return Err(Error::conflict(format!(
                    "Container {} is paused. Unpause the container before attach",
                    info.id
                )));
            }
            ContainerStatus::Restarting if options.stream => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting. Wait until the container is running",
                    info.id
                )));
            }
            _ => {}
        }
        options.stdin &= info.config.open_stdin && options.stream;
        let (attached, pending) = channels(info.config.tty, options);
        self.emit(&info, "attach", &[]);
        let replay = if options.logs {
            let wanted = LogOptions { stdout: options.stdout, stderr: options.stderr, ..Default::default() };
            Some(self.logs(name, wanted).await?)
        } else {
            None
        };
        let run_dir = self.run_dir(&info.id);
        // Nobody may start it between our look and our place in the queue.
        let guard = container.lock().await;
        let running = guard.running.is_some();
        if !running && replay.is_none() && options.stream {
            let mut queue = lock(&container.pending);
            queue.retain(|client| !client.output.is_closed());
            if queue.len() >= PENDING_MAX {
                return Err(Error::conflict("too many clients wait for this container to start"));
            }
            queue.push(pending);
            return Ok(attached);
        }
        let live = match (running, options.stream) {
            (true, true) => Some(shim::attach(&run_dir, options.stdin, options.stdout, options.stderr).await?),
            _ => None,
        };
        drop(guard);
        self.tasks.spawn(async move {
            if let Some(mut lines) = replay {
                while let Some(line) = lines.recv().await {
                    if pending.output.send(Chunk { stream: line.stream, data: line.data }).await.is_err() {
                        return;
                    }
                }
            }
            if let Some(stream) = live {
                bridge(stream, pending).await;
            }
        });
        Ok(attached)
    }

    /// Connects those who wait, before the process runs.
    pub(crate) async fn connect_pending(&self, container: &Container, run_dir: &Path) -> Result<()> {
        for pending in container.take_pending() {
            if pending.output.is_closed() {
                continue;
            }
            let PendingAttach { options, .. } = pending;
            let stream = shim::attach(run_dir, options.stdin, options.stdout, options.stderr).await?;
            self.tasks.spawn(bridge(stream, pending));
        }
        Ok(())
    }

    pub(crate) async fn resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let container = self.registry.find(name)?;
        let info = container.info();
        if !info.state.status.is_running() {
            return Err(Error::conflict(format!("Container {} is not running", info.id)));
        }
        resize_process(&self.run_dir(&info.id), height, width).await?;
        self.emit(&info, "resize", &[("height", &height.to_string()), ("width", &width.to_string())]);
        Ok(())
    }
}

/// Tells a shim the new size of its terminal.
pub(crate) async fn resize_process(run_dir: &Path, height: u16, width: u16) -> Result<()> {
    match shim::request(run_dir, &ShimRequest::Resize { height, width }).await {
        Ok(ShimReply::Ok | ShimReply::Exited(_)) => Ok(()),
        Ok(ShimReply::Error { message }) => Err(Error::internal(message)),
        Err(error) => Err(Error::conflict(format!("process is not running: {error}"))),
    }
}

/// Moves bytes both ways until the process's output ends or the client leaves.
pub(crate) async fn bridge(stream: BufReader<UnixStream>, client: PendingAttach) {
    let buffered = stream.buffer().to_vec();
    let (read, write) = stream.into_inner().into_split();
    let PendingAttach { output, input, .. } = client;
    let gone = output.clone();
    let forward_input = async move {
        if let Some(mut input) = input {
            // An error means that the process ended, which the other half will see.
            let _ = write_input(&mut input, write).await;
        } else {
            // Kept open: closing our half would mean end of input.
            let _write = write;
            std::future::pending::<()>().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = read_output(buffered, read, output) => {}
        () = forward_input => {}
        () = gone.closed() => {}
    }
}

async fn write_input(input: &mut mpsc::Receiver<Bytes>, mut write: OwnedWriteHalf) -> std::io::Result<()> {
    while let Some(bytes) = input.recv().await {
        write.write_all(&bytes).await?;
    }
    write.shutdown().await
}

async fn read_output(buffered: Vec<u8>, mut read: OwnedReadHalf, output: mpsc::Sender<Chunk>) -> std::io::Result<()> {
    let mut buffer = BytesMut::from(&buffered[..]);
    loop {
        while let Some(chunk) = take_frame(&mut buffer)? {
            if output.send(chunk).await.is_err() {
                return Ok(());
            }
        }
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// The next whole frame, if it has arrived.
fn take_frame(buffer: &mut BytesMut) -> std::io::Result<Option<Chunk>> {
    const HEADER: usize = 8;
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let length = u32::from_be_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]) as usize;
    let stream = match buffer[0] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Err(std::io::ErrorKind::InvalidData.into()),
    };
    if length > FRAME_LENGTH_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    let _header = buffer.split_to(HEADER);
    Ok(Some(Chunk { stream, data: buffer.split_to(length).freeze() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x05er"[..]);
        let chunk = take_frame(&mut buffer).unwrap().unwrap();
        assert_eq!((chunk.stream, &chunk.data[..]), (Stream::Stdout, &b"hi"[..]));
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
        assert!(take_frame(&mut BytesMut::from(&b"\x07\0\0\0\0\0\0\0"[..])).is_err());
    }
}
