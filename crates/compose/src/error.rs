//! What can be wrong with a compose file, and where.

use std::fmt;
use std::sync::Arc;

/// Longer messages are cut.
const MESSAGE_LETTERS_MAX: usize = 500;

/// A point in a file; lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why a compose file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open {path}: {}", reason(source))]
    Read { path: String, source: std::io::Error },
    #[error("{path}: the file is larger than {limit} bytes")]
    TooLarge { path: String, limit: usize },
    /// Wrong at one point: syntax, an unknown key, a value of the wrong kind.
    #[error("{place}: {message}")]
    At { place: Place, message: String },
    /// `extends`, `include` or `depends_on` that come back to where they began.
    #[error("{what} goes in a circle: {}", chain.join(" -> "))]
    Loop { what: &'static str, chain: Vec<String> },
    /// Wrong as a whole, with no one line to blame.
    #[error("{0}")]
    Whole(String),
}

/// Result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// What a file holds may be part of the message, but not all of it.
    pub(crate) fn at(place: &Place, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_LETTERS_MAX) {
            message.truncate(end);
            message.push('…');
        }
        Self::At { place: place.clone(), message }
    }
}

/// The kernel's words without the number that Rust adds to them.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::IsADirectory => "is a directory".into(),
        _ => error.to_string(),
    }
}
