//! Ids as keys of ordered maps.

/// Ids of swarm objects have 25 characters.
const HEAD_BYTES: usize = 27;

/// An id that is compared where it lies: following a pointer for every comparison is what
/// look-ups among a million tasks would spend their time on. Ordered as the text is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    /// Zero padded.
    head: [u8; HEAD_BYTES],
    /// What a longer id has beyond the head.
    tail: Option<Box<[u8]>>,
    /// Bytes in the head, since an id may end in zeros.
    len: u8,
}

impl Id {
    pub(super) fn of(text: &str) -> Self {
        let (start, rest) = text.as_bytes().split_at(text.len().min(HEAD_BYTES));
        let mut head = [0; HEAD_BYTES];
        head[..start.len()].copy_from_slice(start);
        let len = u8::try_from(start.len()).expect("a head is shorter than 256 bytes");
        Self { head, tail: (!rest.is_empty()).then(|| rest.into()), len }
    }

    /// The first two bytes, by which tables are split.
    pub(super) fn prefix(&self) -> [u8; 2] {
        [self.head[0], self.head[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ordered_as_their_texts() {
        let long = "x".repeat(HEAD_BYTES);
        let texts = ["", "a", "a\0", "ab", "b", &long, &format!("{long}a"), &format!("{long}b"), "y", "é"];
        for pair in texts.windows(2) {
            assert!(Id::of(pair[0]) < Id::of(pair[1]), "{pair:?}");
            assert_eq!(Id::of(pair[0]), Id::of(pair[0]));
        }
    }
}
