//! Detach keys: the sequence that ends an attach without ending the process.

use skep_model::{Error, Result};

/// ctrl-p, ctrl-q
const DEFAULT_KEYS: [u8; 2] = [16, 17];

/// Watches a client's input for the detach sequence.
#[derive(Debug, Clone)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`; empty is that default.
    ///
    /// # Errors
    /// Docker's text for keys nobody can press.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self { keys: DEFAULT_KEYS.to_vec(), matched: 0 });
        }
        let keys: Option<Vec<u8>> = text.split(',').map(parse_key).collect();
        match keys {
            Some(keys) => Ok(Self { keys, matched: 0 }),
            None => Err(Error::invalid(format!("Invalid detach keys ({text}) provided"))),
        }
    }

    /// What to pass on of `input`, and whether the sequence is complete. A begun
    /// sequence is held back until it is completed or broken.
    pub(crate) fn feed(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len() + self.matched);
        for &byte in input {
            if byte != self.keys[self.matched] {
                passed.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
                if byte != self.keys[0] {
                    passed.push(byte);
                    continue;
                }
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                self.matched = 0;
                return (passed, true);
            }
        }
        (passed, false)
    }
}

fn parse_key(text: &str) -> Option<u8> {
    match text.strip_prefix("ctrl-").map(str::as_bytes) {
        Some(&[letter @ b'a'..=b'z']) => Some(letter - b'a' + 1),
        Some(&[letter @ b'A'..=b'Z']) => Some(letter - b'A' + 1),
        Some(b"@") => Some(0),
        Some(b"[") => Some(27),
        Some(b"\\") => Some(28),
        Some(b"]") => Some(29),
        Some(b"^") => Some(30),
        Some(b"_") => Some(31),
        Some(_) => None,
        None => match text.as_bytes() {
            &[single] if single.is_ascii() => Some(single),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str, pieces: &[&[u8]], passed: &[u8], detached: bool) {
        let mut watch = DetachKeys::parse(keys).unwrap();
        let mut out = Vec::new();
        let mut ended = false;
        for piece in pieces {
            let (bytes, done) = watch.feed(piece);
            out.extend(bytes);
            ended |= done;
        }
        assert_eq!((out.as_slice(), ended), (passed, detached), "{keys} {pieces:?}");
    }

    #[test]
    fn the_sequence_is_found_in_one_piece_or_several() {
        check("", &[b"ls\n\x10\x11"], b"ls\n", true);
        check("", &[b"\x10", b"\x11"], b"", true);
        check("a,b", &[b"xaab"], b"xa", true);
        check("ctrl-c", &[b"1\x032"], b"1", true);
    }

    #[test]
    fn a_broken_sequence_is_passed_on() {
        check("", &[b"\x10", b"x"], b"\x10x", false);
        check("", &[b"\x10\x10x"], b"\x10\x10x", false);
    }

    #[test]
    fn unpressable_keys_are_refused() {
        for bad in ["ctrl-", "ctrl-1", "ab", ",", "ctrl-p,", "é"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
