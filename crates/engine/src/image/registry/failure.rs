//! Why a registry did not do what was asked, and how that is told to users.

use super::super::error::ImageError;
use serde::Deserialize;
use skep_model::image::Reference;
use skep_model::{Error, ErrorKind};

/// Result of one exchange with a registry.
pub(crate) type Attempt<T> = Result<T, Failure>;

const BODY_SHOWN_CHARACTERS: usize = 200;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody answered, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// 401 and 403: the text says why, in the registry's words.
    #[error("{0}")]
    Denied(String),
    /// The credentials themselves are wrong.
    #[error("{0}")]
    BadCredentials(String),
    /// 404 with the registry's code.
    #[error("{text}")]
    NotFound { code: String, text: String },
    /// Any other answer that is no success.
    #[error("{text}")]
    Refused { status: u16, text: String },
    #[error("{0}")]
    Store(#[from] ImageError),
    #[error("the receiver of the progress went away")]
    Cancelled,
    #[error("{0}")]
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

#[derive(Debug, Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<RemoteError>,
    /// Token servers answer with this.
    #[serde(default)]
    details: String,
}

#[derive(Debug, Deserialize)]
struct RemoteError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Failure {
    /// From an answer that is no success.
    pub(crate) fn from_answer(status: u16, body: &[u8]) -> Self {
        let envelope: Envelope = serde_json::from_slice(body).unwrap_or_default();
        let first = envelope.errors.first();
        let code = first.map(|error| error.code.clone()).unwrap_or_default();
        let text = match first {
            Some(error) => {
                let words = error.code.to_ascii_lowercase().replace('_', " ");
                if error.message.is_empty() { words } else { format!("{words}: {}", error.message) }
            }
            None if !envelope.details.is_empty() => format!("unauthorized: {}", envelope.details),
            None => shown(status, body),
        };
        match status {
            401 | 403 => Self::Denied(text),
            404 => Self::NotFound { code, text },
            _ => Self::Refused { status, text },
        }
    }

    /// Worth another try.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            Self::Denied(_)
            | Self::BadCredentials(_)
            | Self::NotFound { .. }
            | Self::Store(_)
            | Self::Cancelled
            | Self::Other(_) => false,
        }
    }

    /// For the one who pulls.
    pub(crate) fn into_pull_error(self, reference: &Reference) -> Error {
        let name = reference.familiar_name();
        match self {
            Self::Denied(cause) => Error::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {cause}"
            )),
            Self::NotFound { code, text } if code == "NAME_UNKNOWN" => {
                Error::not_found(format!("repository {name} not found: {text}"))
            }
            Self::NotFound { text, .. } => {
                Error::not_found(format!("manifest for {} not found: {text}", reference.familiar()))
            }
            other => other.into_error(),
        }
    }

    /// Without a reference to blame.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Denied(cause) => Error::forbidden(cause),
            Self::BadCredentials(cause) => Error::unauthenticated(cause),
            Self::NotFound { text, .. } => Error::not_found(text),
            Self::Unreachable(text) | Self::Refused { text, .. } => Error::internal(text),
            Self::Store(error) => error.into(),
            Self::Cancelled => Error { kind: ErrorKind::Internal, message: "context canceled".into() },
            Self::Other(error) => error,
        }
    }
}

/// An answer in no known format, for the user to make sense of.
fn shown(status: u16, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).trim().chars().take(BODY_SHOWN_CHARACTERS).collect();
    match (status, text.is_empty()) {
        (401 | 403, true) => "denied: requested access to the resource is denied".to_owned(),
        (404, _) => "manifest unknown: manifest unknown".to_owned(),
        (_, true) => format!("received unexpected HTTP status: {status}"),
        (_, false) => format!("received unexpected HTTP status: {status}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, kind: ErrorKind, text: &str) {
        let reference = Reference::parse("127.0.0.1:5000/a:1").unwrap();
        let error = Failure::from_answer(status, body.as_bytes()).into_pull_error(&reference);
        assert_eq!((error.kind, error.message.as_str()), (kind, text));
    }

    #[test]
    fn answers_become_dockers_texts() {
        check(
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"1"}}]}"#,
            ErrorKind::NotFound,
            "manifest for 127.0.0.1:5000/a:1 not found: manifest unknown: manifest unknown",
        );
        check(
            401,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
            ErrorKind::NotFound,
            "pull access denied for 127.0.0.1:5000/a, repository does not exist or may require 'docker login': \
             denied: requested access to the resource is denied",
        );
        check(500, "oops\n", ErrorKind::Internal, "received unexpected HTTP status: 500: oops");
        check(
            404,
            "<html>",
            ErrorKind::NotFound,
            "manifest for 127.0.0.1:5000/a:1 not found: manifest unknown: manifest unknown",
        );
    }
}
