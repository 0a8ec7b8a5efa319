//! The client's folder as a tar: it lists its files, we ask for one after the other.
//!
//! The list comes first (one packet a file, an empty one at the end). Then we ask by number,
//! a few files ahead, and the content comes in pieces, of several files at a time.

use crate::proto::filesync::file_sync_client::FileSyncClient;
use crate::proto::filesync::packet::Type;
use crate::proto::filesync::{Packet, Stat};
use crate::session::Session;
use bytes::Bytes;
use skep_model::{Error, Result};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use tokio::io::{AsyncRead, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::SyncIoBridge;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Request, Streaming};

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// Files of one folder.
const FILES_MAX: usize = 2_000_000;
/// Bytes asked for ahead of what is written.
const AHEAD_BYTES_MAX: u64 = 4 << 20;
/// Pieces of one file that wait to be written.
const PIECES_MAX: usize = 64;
/// Entries that wait to be written.
const ENTRIES_MAX: usize = 64;
/// Bytes between the tar's writer and its reader.
const PIPE_BYTES: usize = 256 << 10;
/// Messages of the client: a piece of a file, or the names and attributes of one.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Go's bits for kinds of files.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_PIPE: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

/// Which folder, and which of its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// `context` or `dockerfile`.
    pub(crate) folder: String,
    pub(crate) include: Vec<String>,
    pub(crate) exclude: Vec<String>,
}

/// The folder as a tar that comes while it is read. An error is one of the reading.
pub(crate) async fn tar(session: &Session, wanted: Wanted) -> Result<TarReader> {
    let (ask, packets) = open(session, wanted).await?;
    let (writer, reader) = tokio::io::duplex(PIPE_BYTES);
    let (entries, to_write) = mpsc::channel(ENTRIES_MAX);
    let (failed, failure) = mpsc::channel(1);
    let receiving = failed.clone();
    tokio::spawn(async move {
        if let Err(error) = receive(ask, packets, entries).await {
            // The reader learns of the first one.
            let _ = receiving.try_send(error);
        }
    });
    let bridge = SyncIoBridge::new(writer);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(bridge, to_write) {
            let _ = failed.try_send(Error::from(error));
        }
    });
    Ok(TarReader { reader, failure, error: None })
}

/// All files of a small folder in memory, by path.
pub(crate) async fn small(session: &Session, wanted: Wanted, bytes_max: u64) -> Result<HashMap<String, Vec<u8>>> {
    let (ask, mut packets) = open(session, wanted).await?;
    let stats = list(&mut packets).await?;
    let mut files = HashMap::new();
    let mut left = bytes_max;
    for (number, stat) in stats.iter().enumerate().filter(|(_, stat)| is_plain(stat)) {
        let mut content = Vec::new();
        if stat.size > 0 {
            let id = u32::try_from(number).unwrap_or(u32::MAX);
            send(&ask, Type::Req, id).await?;
            loop {
                let packet = next(&mut packets).await?;
                if packet.data.is_empty() {
                    break;
                }
                left = left
                    .checked_sub(packet.data.len() as u64)
                    .ok_or_else(|| Error::invalid(format!("{} is larger than {bytes_max} bytes", stat.path)))?;
                content.extend_from_slice(&packet.data);
            }
        }
        files.insert(stat.path.clone(), content);
    }
    finish(&ask, &mut packets).await?;
    Ok(files)
}

type Asking = mpsc::Sender<Packet>;

async fn open(session: &Session, wanted: Wanted) -> Result<(Asking, Streaming<Packet>)> {
    if !session.serves(METHOD) {
        return Err(Error::invalid("the client's session offers no files"));
    }
    let (ask, asked) = mpsc::channel(ENTRIES_MAX);
    let mut request = Request::new(ReceiverStream::new(asked));
    let metadata = request.metadata_mut();
    put(metadata, "dir-name", &[wanted.folder])?;
    put(metadata, "include-patterns", &wanted.include)?;
    put(metadata, "exclude-patterns", &wanted.exclude)?;
    let mut client = FileSyncClient::new(session.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let packets = client.diff_copy(request).await.map_err(refused)?.into_inner();
    Ok((ask, packets))
}

/// Puts values under a key; those that are not ASCII are encoded, which a second key says.
fn put(metadata: &mut MetadataMap, key: &str, values: &[String]) -> Result<()> {
    let is_encoded = values.iter().any(|value| !value.is_ascii());
    let key_of =
        |name: String| AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| Error::internal("a bad metadata key"));
    for value in values {
        let text: String = match is_encoded {
            true => url::form_urlencoded::byte_serialize(value.as_bytes()).collect(),
            false => value.clone(),
        };
        let text = AsciiMetadataValue::try_from(text.as_str())
            .map_err(|_| Error::invalid(format!("a pattern with control characters: {value:?}")))?;
        metadata.append(key_of(key.to_owned())?, text);
    }
    if is_encoded {
        metadata.append(key_of(format!("{key}-encoded"))?, AsciiMetadataValue::from_static("1"));
    }
    Ok(())
}

async fn list(packets: &mut Streaming<Packet>) -> Result<Vec<Stat>> {
    let mut stats = Vec::new();
    loop {
        let packet = next(packets).await?;
        match (packet.r#type(), packet.stat) {
            (Type::Stat, Some(stat)) if stats.len() < FILES_MAX => stats.push(stat),
            (Type::Stat, Some(_)) => return Err(Error::invalid(format!("more than {FILES_MAX} files"))),
            (Type::Stat, None) => return Ok(stats),
            _ => return Err(Error::invalid("the client sent content it was not asked for")),
        }
    }
}

async fn next(packets: &mut Streaming<Packet>) -> Result<Packet> {
    let packet = packets.message().await.map_err(refused)?;
    let packet = packet.ok_or_else(|| Error::invalid("the client stopped sending files"))?;
    if packet.r#type() == Type::Err {
        return Err(Error::invalid(format!("error from sender: {}", String::from_utf8_lossy(&packet.data))));
    }
    Ok(packet)
}

async fn send(ask: &Asking, kind: Type, id: u32) -> Result<()> {
    let packet = Packet { r#type: kind.into(), id, ..Packet::default() };
    ask.send(packet).await.map_err(|_| Error::invalid("the client's session is closed"))
}

/// Says that nothing more is wanted, and waits for the client to agree.
async fn finish(ask: &Asking, packets: &mut Streaming<Packet>) -> Result<()> {
    send(ask, Type::Fin, 0).await?;
    while let Some(packet) = packets.message().await.map_err(refused)? {
        if packet.r#type() == Type::Fin {
            break;
        }
    }
    Ok(())
}

fn refused(status: tonic::Status) -> Error {
    Error::invalid(format!("the client's files: {}", status.message()))
}

/// What the tar's writer is told.
enum Item {
    Plain { header: Box<tar::Header>, path: String, link: String },
    File { header: Box<tar::Header>, path: String, pieces: mpsc::Receiver<Bytes> },
}

async fn receive(ask: Asking, mut packets: Streaming<Packet>, entries: mpsc::Sender<Item>) -> Result<()> {
    let stats = list(&mut packets).await?;
    let mut arrivals = Arrivals { ask, packets, asked: VecDeque::new(), waiting: HashMap::new(), ahead: 0 };
    let mut to_ask = 0;
    for (number, stat) in stats.iter().enumerate() {
        let item = match (is_plain(stat), kind_of(stat)) {
            (true, _) => {
                let (pieces, to_write) = mpsc::channel(PIECES_MAX);
                let header = Box::new(header(stat, tar::EntryType::Regular));
                let item = Item::File { header, path: stat.path.clone(), pieces: to_write };
                if entries.send(item).await.is_err() {
                    return Ok(());
                }
                to_ask = arrivals.ask_ahead(&stats, number, to_ask).await?;
                arrivals.pass_on(number, stat, &pieces).await?;
                continue;
            }
            (false, Some(kind)) => Item::Plain {
                header: Box::new(header(stat, kind)),
                path: stat.path.clone(),
                link: stat.linkname.clone(),
            },
            // A socket belongs to a process.
            (false, None) => continue,
        };
        if entries.send(item).await.is_err() {
            return Ok(());
        }
    }
    finish(&arrivals.ask, &mut arrivals.packets).await
}

/// Content on its way.
struct Arrivals {
    ask: Asking,
    packets: Streaming<Packet>,
    /// Numbers that were asked for, in order, with their sizes.
    asked: VecDeque<(usize, u64)>,
    /// Pieces of files whose turn has not come, and whether they are complete.
    waiting: HashMap<usize, (Vec<Bytes>, bool)>,
    ahead: u64,
}

impl Arrivals {
    /// Asks for files from `from` on as far as there is room; returns where to go on.
    async fn ask_ahead(&mut self, stats: &[Stat], current: usize, from: usize) -> Result<usize> {
        let mut number = from.max(current);
        while let Some(stat) = stats.get(number) {
            let size = u64::try_from(stat.size).unwrap_or_default();
            if is_plain(stat) && size > 0 {
                if !self.asked.is_empty() && (self.ahead + size > AHEAD_BYTES_MAX || self.asked.len() >= ENTRIES_MAX) {
                    break;
                }
                let id = u32::try_from(number).map_err(|_| Error::invalid("too many files"))?;
                send(&self.ask, Type::Req, id).await?;
                self.asked.push_back((number, size));
                self.ahead += size;
            }
            number += 1;
        }
        Ok(number)
    }

    /// Passes one file's content on, all of it and not more.
    async fn pass_on(&mut self, number: usize, stat: &Stat, pieces: &mpsc::Sender<Bytes>) -> Result<()> {
        let size = u64::try_from(stat.size).unwrap_or_default();
        if size == 0 {
            return Ok(());
        }
        let (early, mut is_complete) = self.waiting.remove(&number).unwrap_or_default();
        let mut received = 0;
        for piece in early {
            received += piece.len() as u64;
            // The writer has gone: its error is the one to tell.
            let _ = pieces.send(piece).await;
        }
        while !is_complete {
            let packet = next(&mut self.packets).await?;
            let id = packet.id as usize;
            if packet.r#type() != Type::Data || !self.asked.iter().any(|(asked, _)| *asked == id) {
                return Err(Error::invalid("the client sent content it was not asked for"));
            }
            if id == number && packet.data.is_empty() {
                is_complete = true;
            } else if id == number {
                received += packet.data.len() as u64;
                let _ = pieces.send(packet.data.into()).await;
            } else {
                self.keep(id, packet.data)?;
            }
            if received > size {
                break;
            }
        }
        if received != size {
            return Err(Error::invalid(format!("{} changed while it was sent", stat.path)));
        }
        self.asked.retain(|(asked, _)| *asked != number);
        self.ahead -= size;
        Ok(())
    }

    /// Keeps a piece for later, but never more than was asked for.
    fn keep(&mut self, id: usize, data: Vec<u8>) -> Result<()> {
        let (kept, is_complete) = self.waiting.entry(id).or_default();
        if data.is_empty() {
            *is_complete = true;
            return Ok(());
        }
        kept.push(data.into());
        let bytes: u64 = kept.iter().map(|piece| piece.len() as u64).sum();
        match self.asked.iter().find(|(asked, _)| *asked == id) {
            Some((_, size)) if bytes <= *size => Ok(()),
            _ => Err(Error::invalid("a file changed while it was sent")),
        }
    }
}

/// Whether the file has content to ask for; hard links have none.
fn is_plain(stat: &Stat) -> bool {
    let kinds = GO_DIRECTORY | GO_LINK | GO_DEVICE | GO_PIPE | GO_SOCKET | (1 << 19) | (1 << 21);
    stat.mode & kinds == 0 && stat.linkname.is_empty()
}

fn kind_of(stat: &Stat) -> Option<tar::EntryType> {
    let is = |bit: u32| stat.mode & bit != 0;
    if is(GO_DIRECTORY) {
        Some(tar::EntryType::Directory)
    } else if is(GO_LINK) {
        Some(tar::EntryType::Symlink)
    } else if is(GO_PIPE) {
        Some(tar::EntryType::Fifo)
    } else if is(GO_SOCKET) || is(GO_DEVICE) {
        None
    } else {
        Some(tar::EntryType::Link)
    }
}

fn header(stat: &Stat, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let mut mode = stat.mode & 0o777;
    for (go, unix) in [(GO_SETUID, 0o4000), (GO_SETGID, 0o2000), (GO_STICKY, 0o1000)] {
        if stat.mode & go != 0 {
            mode |= unix;
        }
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(stat.uid.into());
    header.set_gid(stat.gid.into());
    // Nanoseconds; times before 1970 do not fit into a tar.
    header.set_mtime(u64::try_from(stat.mod_time / 1_000_000_000).unwrap_or_default());
    let size = if kind == tar::EntryType::Regular { u64::try_from(stat.size).unwrap_or_default() } else { 0 };
    header.set_size(size);
    header
}

fn write(bridge: SyncIoBridge<DuplexStream>, mut entries: mpsc::Receiver<Item>) -> io::Result<()> {
    let mut archive = tar::Builder::new(bridge);
    while let Some(item) = entries.blocking_recv() {
        match item {
            Item::Plain { mut header, path, link } if link.is_empty() => {
                archive.append_data(&mut header, &path, io::empty())?;
            }
            Item::Plain { mut header, path, link } => archive.append_link(&mut header, &path, &link)?,
            Item::File { mut header, path, pieces } => {
                let expected = header.size()?;
                let mut content = Pieces { pieces, current: Bytes::new(), read: 0 };
                archive.append_data(&mut header, &path, (&mut content).take(expected))?;
                if content.read < expected {
                    return Err(io::Error::other(format!("{path} ended early")));
                }
            }
        }
    }
    archive.finish()
}

/// Pieces from a channel as a reader.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    read: u64,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        self.read += count as u64;
        Ok(count)
    }
}

/// The tar, whose end is an error if it was cut short.
pub(crate) struct TarReader {
    reader: DuplexStream,
    failure: mpsc::Receiver<Error>,
    error: Option<String>,
}

impl AsyncRead for TarReader {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        use std::task::Poll;
        let before = buffer.filled().len();
        let polled = std::pin::Pin::new(&mut self.reader).poll_read(context, buffer);
        if !matches!(polled, Poll::Ready(Ok(()))) || buffer.filled().len() > before {
            return polled;
        }
        // The end: both sides have dropped their senders by now, or are about to.
        if self.error.is_none() {
            match self.failure.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(found) => self.error = Some(found.map(|error| error.message).unwrap_or_default()),
            }
        }
        match self.error.as_deref() {
            None | Some("") => Poll::Ready(Ok(())),
            Some(text) => Poll::Ready(Err(io::Error::other(text.to_owned()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mode: u32, linkname: &str) -> Stat {
        Stat { mode, linkname: linkname.into(), size: 5, ..Stat::default() }
    }

    #[test]
    fn gos_kinds_of_files_become_tars() {
        assert!(is_plain(&stat(0o644, "")) && !is_plain(&stat(0o644, "other")));
        assert_eq!(kind_of(&stat(GO_DIRECTORY | 0o755, "")), Some(tar::EntryType::Directory));
        assert_eq!(kind_of(&stat(GO_LINK | 0o777, "x")), Some(tar::EntryType::Symlink));
        assert_eq!(kind_of(&stat(0o644, "x")), Some(tar::EntryType::Link));
        assert_eq!(kind_of(&stat(GO_SOCKET, "")), None);
        let header = header(&stat(GO_SETUID | GO_STICKY | 0o755, ""), tar::EntryType::Regular);
        assert_eq!((header.mode().unwrap(), header.size().unwrap()), (0o5755, 5));
    }

    #[test]
    fn patterns_travel_in_headers_whatever_is_in_them() {
        let mut metadata = MetadataMap::new();
        put(&mut metadata, "exclude-patterns", &["a b".to_owned(), "!c".to_owned()]).unwrap();
        assert_eq!(metadata.get_all("exclude-patterns").iter().count(), 2);
        assert!(metadata.get("exclude-patterns-encoded").is_none());
        put(&mut metadata, "include-patterns", &["é".to_owned()]).unwrap();
        assert_eq!(metadata.get("include-patterns").unwrap(), "%C3%A9");
        assert!(metadata.get("include-patterns-encoded").is_some());
        assert!(put(&mut metadata, "dir-name", &["a\nb".to_owned()]).is_err());
    }
}
