//! One writer and one socket for the three netlink families that netd speaks
//! (routing, nftables, conntrack). The attributes are written by hand because half
//! of what nftables needs has no type in the packet crates, and because a dump must
//! not fail on an attribute that a newer kernel adds: readers take what they know.

use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR, NlaBuffer, NlasIterator};
use netlink_sys::{Socket as RawSocket, SocketAddr};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const CREATE: u16 = 0x400;
pub const EXCLUSIVE: u16 = 0x200;
pub const REPLACE: u16 = 0x100;
pub const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER_LENGTH: usize = 16;
/// A dump that was interrupted by a change is started again this often.
const DUMP_ATTEMPTS_MAX: usize = 8;
/// What the kernel puts into one datagram at most.
const DATAGRAM_BYTES_MAX: usize = 32 * 1024;
const DUMP_INTERRUPTED: u16 = 0x10;
/// The kernel answers while it handles the request; a longer silence is a lost answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes netlink attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attrs(pub Vec<u8>);

impl Attrs {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A NUL-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// In the machine's byte order, as routing messages have it.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as netfilter messages have it.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::new();
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// One netlink request: type, flags, and the family's own header with attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub message_type: u16,
    pub flags: u16,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(message_type: u16, flags: u16, header: &[u8], attrs: &Attrs) -> Self {
        let mut body = header.to_vec();
        body.extend_from_slice(&attrs.0);
        Self { message_type, flags, body }
    }

    fn write(&self, sequence: u32, extra_flags: u16, out: &mut Vec<u8>) {
        let length = u32::try_from(HEADER_LENGTH + self.body.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.message_type.to_ne_bytes());
        out.extend_from_slice(&(self.flags | REQUEST | extra_flags).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0_u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// One message of an answer, without the netlink header.
#[derive(Debug, Clone)]
pub struct Answer {
    pub message_type: u16,
    pub body: Vec<u8>,
}

/// The attributes behind a header of `skip` bytes, by kind; the last one wins.
pub fn attributes(body: &[u8], skip: usize) -> BTreeMap<u16, &[u8]> {
    attribute_list(body.get(skip..).unwrap_or_default()).into_iter().collect()
}

/// The attributes in order; reading stops at the first malformed one.
pub fn attribute_list(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    let mut position = 0;
    for attribute in NlasIterator::new(bytes) {
        let Ok(attribute) = attribute else { break };
        let attribute: NlaBuffer<&[u8]> = attribute;
        let length = usize::from(attribute.length());
        let Some(value) = bytes.get(position + 4..position + length) else { break };
        list.push((attribute.kind() & TYPE_MASK, value));
        position += length.next_multiple_of(4);
    }
    list
}

/// A string attribute without its terminator.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

pub fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

pub fn ne32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// A blocking netlink socket; lives in the namespace of the thread that opened it.
pub struct Socket {
    inner: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// # Errors
    /// What the kernel says, usually a missing protocol family.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = RawSocket::new(protocol)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        inner.set_cap_ack(true)?;
        set_receive_timeout(&inner, ANSWER_TIMEOUT)?;
        Ok(Self { inner, sequence: 0, buffer: Vec::new() })
    }

    /// Sends all requests with one system call and returns each one's outcome.
    /// The kernel goes on after a failure.
    ///
    /// # Errors
    /// When the socket itself fails.
    pub fn send_all(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(self.sequence, ACK, &mut buffer);
        }
        let mut outcomes: Vec<Option<io::Result<()>>> = requests.iter().map(|_| None).collect();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.inner.send(&buffer, 0)?;
        let mut missing = outcomes.len();
        while missing > 0 {
            let datagram = self.receive()?;
            for message in Messages(&datagram) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.message_type == NLMSG_ERROR
                    && let Some(slot @ None) = outcomes.get_mut(index)
                {
                    *slot = Some(error_of(message.body));
                    missing -= 1;
                }
            }
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.unwrap_or(Ok(()))).collect())
    }

    /// One request, acknowledged.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn send_one(&mut self, request: &Request) -> io::Result<()> {
        self.send_all(std::slice::from_ref(request))?.pop().unwrap_or(Ok(()))
    }

    /// A netfilter transaction: all requests or none.
    ///
    /// # Errors
    /// The first refusal; nothing was changed then.
    pub fn transact(&mut self, begin: &Request, requests: &[Request], end: &Request) -> io::Result<()> {
        let Some((last, others)) = requests.split_last() else { return Ok(()) };
        let begin_sequence = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        begin.write(begin_sequence, 0, &mut buffer);
        let mut sequence = begin_sequence;
        for request in others {
            sequence = sequence.wrapping_add(1);
            request.write(sequence, 0, &mut buffer);
        }
        let last_sequence = sequence.wrapping_add(1);
        last.write(last_sequence, ACK, &mut buffer);
        self.sequence = last_sequence.wrapping_add(1);
        end.write(self.sequence, 0, &mut buffer);
        self.inner.send(&buffer, 0)?;
        let mut outcome = Ok(());
        loop {
            let datagram = self.receive()?;
            for message in Messages(&datagram).filter(|message| message.message_type == NLMSG_ERROR) {
                let result = error_of(message.body);
                // A failed commit is answered with the header of the first message.
                let finished = message.sequence == last_sequence || message.sequence == begin_sequence;
                if outcome.is_ok() {
                    outcome = result;
                }
                if finished {
                    return outcome;
                }
            }
        }
    }

    /// A dump, repeated when the kernel says that it changed meanwhile.
    ///
    /// # Errors
    /// The kernel's answer, or `Interrupted` when it never was stable.
    pub fn dump(&mut self, request: &Request) -> io::Result<Vec<Answer>> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            match self.dump_once(request) {
                Ok(Some(answers)) => return Ok(answers),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "the kernel changed during every dump"))
    }

    /// A question with exactly one answer message.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn ask(&mut self, request: &Request) -> io::Result<Option<Answer>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        request.write(self.sequence, ACK, &mut buffer);
        self.inner.send(&buffer, 0)?;
        let mut answer = None;
        loop {
            let datagram = self.receive()?;
            for message in Messages(&datagram).filter(|message| message.sequence == self.sequence) {
                if message.message_type == NLMSG_ERROR {
                    return error_of(message.body).map(|()| answer);
                }
                answer = Some(Answer { message_type: message.message_type, body: message.body.to_vec() });
            }
        }
    }

    fn dump_once(&mut self, request: &Request) -> io::Result<Option<Vec<Answer>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut buffer = Vec::new();
        request.write(self.sequence, DUMP, &mut buffer);
        self.inner.send(&buffer, 0)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive()?;
            for message in Messages(&datagram).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match message.message_type {
                    NLMSG_DONE => {
                        return match error_of(message.body) {
                            Ok(()) => Ok((!interrupted).then_some(answers)),
                            Err(error) => Err(error),
                        };
                    }
                    NLMSG_ERROR => return error_of(message.body).map(|()| Some(answers)),
                    message_type => answers.push(Answer { message_type, body: message.body.to_vec() }),
                }
            }
        }
    }

    /// One datagram. The kernel packs dumps as densely as the reader's buffer allows,
    /// but never more than 32 KiB.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        self.buffer.reserve(DATAGRAM_BYTES_MAX);
        loop {
            self.buffer.clear();
            match self.inner.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(self.buffer.clone()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn set_receive_timeout(socket: &RawSocket, timeout: Duration) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
    use nix::sys::time::{TimeVal, TimeValLike};
    debug_assert!(socket.as_raw_fd() >= 0);
    let value = TimeVal::milliseconds(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket.as_fd(), ReceiveTimeout, &value).map_err(io::Error::from)
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_abs())),
    }
}

struct Message<'a> {
    message_type: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

/// Splits a datagram into messages; stops at the first malformed one.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = ne32(self.0)? as usize;
        let message = self.0.get(..length)?;
        let field = |range: std::ops::Range<usize>| message.get(range);
        let item = Message {
            message_type: u16::from_ne_bytes(field(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(field(6..8)?.try_into().ok()?),
            sequence: ne32(field(8..12)?)?,
            body: message.get(HEADER_LENGTH..)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip_with_padding_and_nesting() {
        let mut attrs = Attrs::new();
        attrs.text(1, "br0").be32(2, 7).nest(3, |inner| {
            inner.u8(4, 9);
        });
        let read = attributes(&attrs.0, 0);
        assert_eq!(text(read[&1]), "br0");
        assert_eq!(be32(read[&2]), Some(7));
        assert_eq!(attribute_list(read[&3]), vec![(4, &[9_u8][..])]);
    }

    #[test]
    fn malformed_bytes_end_the_reading() {
        assert!(attribute_list(&[1, 0, 0, 0]).is_empty());
        assert!(attribute_list(&[200, 0, 1, 0, 0]).is_empty());
        assert_eq!(Messages(&[3, 0, 0, 0]).count(), 0);
        assert_eq!(Messages(&[255; 40]).count(), 0);
    }
}
