//! `/swarm/backup` and `/swarm/restore`, which the reference does not have.

use crate::backend::{Backend, InitRequest, Restore};
use crate::error::{Reply, ok};
use crate::request::Query;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use skep_model::{Error, Result};

/// The passphrase or unlock key, in base64.
const SECRET_HEADER: &str = "X-Skep-Secret";
const SECRET_BYTES_MAX: usize = 4096;
/// Bytes of a backup; it has to fit into memory.
const BACKUP_BYTES_MAX: usize = 512 << 20;

pub(crate) async fn backup(State(backend): State<Backend>, headers: HeaderMap) -> Reply {
    let passphrase = secret(&headers)?;
    let file = backend.swarm.control()?.backup(passphrase).await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], file).into_response())
}

pub(crate) async fn restore(State(backend): State<Backend>, query: Query, headers: HeaderMap, body: Body) -> Reply {
    let secret = secret(&headers)?.ok_or_else(|| Error::invalid(format!("the header {SECRET_HEADER} is needed")))?;
    let read = Limited::new(body, BACKUP_BYTES_MAX).collect().await;
    let file = read.map_err(|e| Error::invalid(format!("cannot read the backup: {e}")))?.to_bytes().to_vec();
    let request = InitRequest {
        listen_addr: query.get("listenAddr").to_owned(),
        advertise_addr: query.get("advertiseAddr").to_owned(),
        data_path_addr: query.get("dataPathAddr").to_owned(),
        restore: Some(Restore { file, secret }),
        ..InitRequest::default()
    };
    ok(&backend.swarm.init(request).await?)
}

fn secret(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(SECRET_HEADER) else { return Ok(None) };
    let malformed = || Error::invalid(format!("the header {SECRET_HEADER} is not text in base64"));
    let bytes = STANDARD.decode(value.as_bytes()).map_err(|_| malformed())?;
    if bytes.len() > SECRET_BYTES_MAX {
        return Err(malformed());
    }
    String::from_utf8(bytes).map(Some).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_travel_in_base64() {
        let read = |value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            value.map(|value| headers.insert(SECRET_HEADER, value.parse().unwrap()));
            secret(&headers).map_err(|_| ())
        };
        assert_eq!(read(None), Ok(None));
        assert_eq!(read(Some("Y29ycmVjdCBow7Zyc2U=")), Ok(Some("correct h\u{f6}rse".into())));
        assert_eq!(read(Some("not base64")), Err(()));
        assert_eq!(read(Some("/w==")), Err(()));
    }
}
