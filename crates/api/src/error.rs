//! How an error looks to a client.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;
use skep_model::{Error, ErrorKind};

/// What handlers fail with: `{"message": ...}` and the status of the error's kind.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) Error);

/// A handler's answer.
pub(crate) type Reply = Result<Response, ApiError>;

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = status_of(self.0.kind);
        if status == StatusCode::NOT_MODIFIED {
            return status.into_response();
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(error = %self.0, "request failed");
        }
        json_reply(status, &json!({ "message": self.0.message }))
    }
}

/// The HTTP status clients expect for a kind of error.
pub(crate) fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A JSON body the way Go's encoder ends it: with a newline.
pub(crate) fn json_reply(status: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot encode an answer");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// 200 with a JSON body.
pub(crate) fn ok(value: &impl serde::Serialize) -> Reply {
    Ok(json_reply(StatusCode::OK, value))
}

/// 204.
pub(crate) fn no_content() -> Reply {
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_statuses_clients_expect() {
        assert_eq!(status_of(ErrorKind::NotFound), 404);
        assert_eq!(status_of(ErrorKind::InvalidArgument), 400);
        assert_eq!(status_of(ErrorKind::Conflict), 409);
        assert_eq!(status_of(ErrorKind::Unavailable), 503);
        assert_eq!(status_of(ErrorKind::NotImplemented), 501);
    }

    #[test]
    fn not_modified_has_no_body() {
        let reply = ApiError(Error::not_modified("x")).into_response();
        assert_eq!(reply.status(), 304);
        assert!(reply.headers().get(header::CONTENT_TYPE).is_none());
    }
}
