//! The one error type that crosses the engine's and the manager's public
//! boundary. Its kind decides the HTTP status; its message is what a user reads.

use std::fmt;

/// What went wrong, in terms a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named object does not exist (404).
    NotFound,
    /// The request is malformed or asks for something illegal (400).
    InvalidArgument,
    /// The request conflicts with the object's present state or a name in use (409).
    Conflict,
    /// Nothing to do: the object is already in the wanted state (304).
    NotModified,
    /// Valid, but not for this caller (403).
    Forbidden,
    /// Missing or wrong credentials (401).
    Unauthenticated,
    /// The service cannot answer now, e.g. this node is not a swarm manager (503).
    Unavailable,
    /// A known feature that skep does not provide (501).
    NotImplemented,
    /// Anything else (500).
    Internal,
}

/// An error with the text a user sees, identical to Docker's where clients match it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
}

/// Result at the public boundary of the engine and the manager.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            })*
        }
    };
}

constructors! {
    not_found => NotFound,
    invalid => InvalidArgument,
    conflict => Conflict,
    not_modified => NotModified,
    forbidden => Forbidden,
    unauthenticated => Unauthenticated,
    unavailable => Unavailable,
    not_implemented => NotImplemented,
    internal => Internal,
}

impl Error {
    /// Prefixes the message with what was being done, keeping the kind.
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Self::internal(e.to_string())
    }
}
