//! What can go wrong with images, before it becomes a user-visible error.

use super::digest::Digest;
use skep_model::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// Result inside the image store.
pub(crate) type ImageResult<T> = std::result::Result<T, ImageError>;

/// An error of the image store, of archives and of registries.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{what} {}: {source}", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
    #[error("invalid tar: {0}")]
    Tar(std::io::Error),
    #[error("invalid tar: entry \"{name}\": {source}")]
    Entry { name: String, source: std::io::Error },
    #[error("invalid tar: \"{0}\" is outside of the archive's root")]
    Climbs(String),
    #[error("invalid tar: \"{name}\": {why}")]
    BadEntry { name: String, why: &'static str },
    #[error("{0} archives are not supported: use tar, gzip or zstd")]
    Compression(&'static str),
    #[error("the content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch { expected: Digest, actual: Digest },
    #[error("invalid digest \"{0}\"")]
    BadDigest(String),
    #[error("invalid image config: {0}")]
    Config(String),
    #[error("invalid archive: {0}")]
    Archive(String),
    #[error("{0}")]
    Limit(String),
    #[error("cannot make a layer of {name}: {why}")]
    Pack { name: String, why: String },
    #[error("the receiver of the progress went away")]
    Cancelled,
    #[error("{0}")]
    Model(#[from] Error),
}

impl ImageError {
    /// For `map_err` around file operations.
    pub(crate) fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::File { what, path: path.to_owned(), source }
    }

    /// For `map_err` around calls that have no path.
    pub(crate) fn io<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { what, source: source.into() }
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::Model(inner) => return inner.clone(),
            ImageError::File { .. } | ImageError::Io { .. } | ImageError::Cancelled => ErrorKind::Internal,
            ImageError::Tar(_)
            | ImageError::Entry { .. }
            | ImageError::Climbs(_)
            | ImageError::BadEntry { .. }
            | ImageError::Compression(_)
            | ImageError::DigestMismatch { .. }
            | ImageError::BadDigest(_)
            | ImageError::Config(_)
            | ImageError::Archive(_)
            | ImageError::Limit(_)
            | ImageError::Pack { .. } => ErrorKind::InvalidArgument,
        };
        Self { kind, message: error.to_string() }
    }
}
