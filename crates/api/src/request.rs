//! What handlers take from a request: path names, queries and JSON bodies, all failing
//! with a message a client can show.

use crate::error::ApiError;
use crate::filters::Filters;
use crate::folded::Folded;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use skep_engine::image::RegistryAuth;
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;

/// Bytes of a JSON body. A service spec with its largest config is below 2 MiB in base64.
const JSON_BODY_MAX: usize = 4 << 20;
/// Bytes of an `X-Registry-Auth` or `X-Registry-Config` header's content.
const REGISTRY_AUTH_MAX: usize = 64 << 10;

/// The one name in a path.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(error) => Err(Error::invalid(format!("malformed name in the path: {error}")).into()),
        }
    }
}

/// The decoded query string.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// The first value of a key, empty if there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.find(key).unwrap_or_default()
    }

    /// The first value of a key, if it is there and not empty.
    pub(crate) fn nonempty(&self, key: &str) -> Option<&str> {
        self.find(key).filter(|value| !value.is_empty())
    }

    fn find(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// A boolean as the daemon reads one: anything but a few words for "no" is yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.flag_or(key, false)
    }

    /// Like [`Query::flag`], with another value for an absent key.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.find(key) {
            None => default,
            Some(text) => !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none"),
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>> {
        let Some(text) = self.nonempty(key) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::invalid(format!("invalid value for {key}: {text:?} is not a number"))),
        }
    }

    /// Terminal size from `h` and `w`.
    pub(crate) fn terminal_size(&self) -> Result<(u16, u16)> {
        let side = |key: &str| {
            let text = self.get(key);
            text.parse::<u16>().map_err(|_| Error::invalid(format!("invalid resize {key}: {text:?}")))
        };
        Ok((side("h")?, side("w")?))
    }

    /// `since` and `until`: seconds with optional nanoseconds, or RFC 3339; 0 and absence are `None`.
    pub(crate) fn time(&self, key: &str) -> Result<Option<Timestamp>> {
        let Some(text) = self.nonempty(key) else { return Ok(None) };
        match parse_time(text) {
            Some(at) if at.is_set() => Ok(Some(at)),
            Some(_) => Ok(None),
            None => Err(Error::invalid(format!("invalid value for {key}: {text:?} is not a time"))),
        }
    }

    /// The version an update is based on.
    pub(crate) fn object_version(&self) -> Result<u64> {
        let text = self.get("version");
        text.parse().map_err(|_| Error::invalid(format!("invalid version {text:?}: a number is needed")))
    }

    /// The `filters` parameter; keys outside `known` are refused.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters> {
        let filters = Filters::parse(self.get("filters"))?;
        filters.check(known)?;
        Ok(filters)
    }
}

/// `1500000000`, `1500000000.000000012` or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    if let Some(at) = Timestamp::parse_rfc3339(text) {
        return Some(at);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Timestamp)
}

/// A JSON body that must be there.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read_json_body(request).await?;
        if body.is_empty() {
            return Err(Error::invalid("invalid JSON: got EOF while reading request body").into());
        }
        Ok(Self(decode(&body)?))
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read_json_body(request).await?;
        // Some clients encode a body that they do not have.
        if body.is_empty() || body.trim_ascii() == b"null" {
            return Ok(Self(T::default()));
        }
        Ok(Self(decode(&body)?))
    }
}

/// Decodes a JSON value; the message never repeats the body, which may hold a secret.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    // Two steps: the second one's messages name the field instead of a byte.
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|e| {
        Error::invalid(format!("invalid JSON: syntax error at line {} column {}", e.line(), e.column()))
    })?;
    if !value.is_object() {
        return Err(Error::invalid("invalid JSON: an object is needed"));
    }
    T::deserialize(Folded(value))
        .map_err(|e| Error::invalid(format!("invalid JSON: {}", without_quotes(&e.to_string()))))
}

/// serde quotes offending strings; they may be secret, so cut them out.
fn without_quotes(message: &str) -> String {
    match (message.find("string \""), message.find(", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}string{}", &message[..start], &message[end..]),
        _ => message.chars().take(400).collect(),
    }
}

async fn read_json_body(request: Request) -> Result<bytes::Bytes> {
    let declared = request.headers().get(CONTENT_TYPE).map(|v| v.to_str().unwrap_or_default().to_owned());
    let body = read_limited(request, JSON_BODY_MAX).await?;
    let media_type = declared.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !body.is_empty() && !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Error::invalid(format!(
            "unsupported Content-Type header ({media_type}): must be 'application/json'"
        )));
    }
    Ok(body)
}

async fn read_limited(request: Request, bytes_max: usize) -> Result<bytes::Bytes> {
    match Limited::new(request.into_body(), bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Error::invalid(format!("request body is larger than {bytes_max} bytes")))
        }
        Err(error) => Err(Error::invalid(format!("cannot read the request body: {error}"))),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthHeader {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl AuthHeader {
    fn into_auth(self) -> Option<RegistryAuth> {
        let mut username = self.username.unwrap_or_default();
        let mut password = self.password.unwrap_or_default();
        if let Some((user, pass)) = self.auth.as_deref().and_then(decode_basic)
            && username.is_empty()
        {
            (username, password) = (user, pass);
        }
        let identity_token = self.identitytoken.unwrap_or_default();
        let given = !username.is_empty() || !password.is_empty() || !identity_token.is_empty();
        given.then_some(RegistryAuth { username, password, identity_token })
    }
}

fn decode_basic(text: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(user, pass)| (user.to_owned(), pass.to_owned()))
}

/// Credentials from `X-Registry-Auth`; an empty object is none.
pub(crate) fn registry_auth(headers: &http::HeaderMap) -> Result<Option<RegistryAuth>> {
    let Some(json) = decoded_header(headers, "X-Registry-Auth")? else { return Ok(None) };
    let header: AuthHeader = serde_json::from_slice(&json)
        .map_err(|_| Error::invalid("invalid X-Registry-Auth header: not the JSON of an AuthConfig"))?;
    Ok(header.into_auth())
}

/// Credentials for several registries from `X-Registry-Config`, by host.
pub(crate) fn registry_config(headers: &http::HeaderMap) -> Result<BTreeMap<String, RegistryAuth>> {
    let Some(json) = decoded_header(headers, "X-Registry-Config")? else { return Ok(BTreeMap::new()) };
    let all: BTreeMap<String, AuthHeader> =
        serde_json::from_slice(&json).map_err(|_| Error::invalid("invalid X-Registry-Config header"))?;
    Ok(all.into_iter().filter_map(|(host, header)| header.into_auth().map(|auth| (host, auth))).collect())
}

fn decoded_header(headers: &http::HeaderMap, name: &str) -> Result<Option<Vec<u8>>> {
    /// Clients differ in whether they pad.
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(text) = headers.get(name) else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    if text.len() > REGISTRY_AUTH_MAX {
        return Err(Error::invalid(format!("invalid {name} header: too long")));
    }
    // Standard base64 differs from the URL form in two characters only.
    let normal: Vec<u8> = text
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    match LENIENT.decode(normal) {
        Ok(json) => Ok(Some(json)),
        Err(_) => Err(Error::invalid(format!("invalid {name} header: not base64"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_like_the_daemon_does() {
        let query = Query::parse("a=1&b=0&c=true&d=False&e=&f=yes&g");
        for (key, value) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", false), ("f", true)] {
            assert_eq!(query.flag(key), value, "{key}");
        }
        assert!(!query.flag("g") && !query.flag("absent") && query.flag_or("absent", true));
    }

    #[test]
    fn times() {
        assert_eq!(parse_time("1500000000"), Some(Timestamp(1_500_000_000_000_000_000)));
        assert_eq!(parse_time("1500000000.5"), Some(Timestamp(1_500_000_000_500_000_000)));
        assert_eq!(parse_time("1500000000.000000012"), Some(Timestamp(1_500_000_000_000_000_012)));
        assert_eq!(parse_time("2017-07-14T02:40:00Z"), Some(Timestamp(1_500_000_000_000_000_000)));
        for bad in ["", "x", "1.x", "1.0000000000", "99999999999999999999"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn registry_credentials_are_read_padded_or_not() {
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let json = r#"{"username":"u>?","password":"p~~","serveraddress":"r"}"#;
        for text in [STANDARD.encode(json), URL_SAFE_NO_PAD.encode(json)] {
            let mut headers = http::HeaderMap::new();
            headers.insert("X-Registry-Auth", text.parse().unwrap());
            let auth = registry_auth(&headers).unwrap().unwrap();
            assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u>?", "p~~"));
        }
        let mut headers = http::HeaderMap::new();
        assert!(registry_auth(&headers).unwrap().is_none());
        headers.insert("X-Registry-Auth", URL_SAFE_NO_PAD.encode("{}").parse().unwrap());
        assert!(registry_auth(&headers).unwrap().is_none());
        headers.insert("X-Registry-Auth", "!!".parse().unwrap());
        assert!(registry_auth(&headers).is_err());
    }

    #[test]
    fn decode_errors_never_repeat_a_value() {
        #[derive(Deserialize)]
        struct Body {
            #[expect(dead_code, reason = "only its type matters")]
            number: u32,
        }
        let message = decode::<Body>(br#"{"number":"hunter2"}"#).err().unwrap().message;
        assert!(message.starts_with("invalid JSON: ") && !message.contains("hunter2"), "{message}");
        assert!(decode::<Body>(b"[1]").is_err() && decode::<Body>(b"{").is_err() && decode::<Body>(b"null").is_err());
    }
}
