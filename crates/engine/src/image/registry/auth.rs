//! Who we are to a registry: the challenge it sends, and the answer to it.

use super::super::RegistryAuth;
use super::failure::{Attempt, Failure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

const CLIENT_ID: &str = "skep";
const TOKEN_BYTES_MAX: u64 = 1024 * 1024;

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The value of an `Authorization` header. Never shown.
#[derive(Clone)]
pub(crate) struct Authorization(pub(crate) String);

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorization { .. }")
    }
}

/// Reads a `WWW-Authenticate` header; `None` when it asks for something we do not know.
pub(crate) fn parse_challenge(header: &str) -> Option<Challenge> {
    let header = header.trim();
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let find = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer { realm: find("realm")?, service: find("service"), scope: find("scope") })
}

/// `key="value", key=value`: quoted values may contain commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim().trim_start_matches(',').trim().to_owned();
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"').unwrap_or((quoted, ""));
                (value, after.split_once(',').map_or("", |(_, after)| after))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = after;
    }
    found
}

/// Answers a challenge. `scope` is what we need if the registry does not say.
pub(crate) async fn answer(
    http: &reqwest::Client,
    challenge: &Challenge,
    scope: &str,
    auth: Option<&RegistryAuth>,
    may_be_plain: bool,
) -> Attempt<Authorization> {
    let login = auth.filter(|auth| !auth.username.is_empty() || !auth.identity_token.is_empty());
    let Challenge::Bearer { realm, service, scope: asked } = challenge else {
        let login = login.filter(|auth| !auth.username.is_empty());
        let login = login.ok_or_else(|| Failure::Denied("no basic auth credentials".to_owned()))?;
        return Ok(basic(login));
    };
    // A registry over TLS must not make us send the password in the clear.
    let is_fit = realm.starts_with("https://") || (may_be_plain && realm.starts_with("http://"));
    if !is_fit {
        return Err(Failure::Denied(format!("the registry's token server \"{realm}\" is not an https address")));
    }
    let scope = asked.as_deref().unwrap_or(scope);
    let service = service.as_deref().unwrap_or_default();
    let request = match login {
        Some(auth) if !auth.identity_token.is_empty() => http.post(realm).form(&[
            ("grant_type", "refresh_token"),
            ("service", service),
            ("scope", scope),
            ("client_id", CLIENT_ID),
            ("refresh_token", &auth.identity_token),
        ]),
        Some(auth) => http
            .get(realm)
            .query(&[("service", service), ("scope", scope), ("account", &auth.username)])
            .header(reqwest::header::AUTHORIZATION, basic(auth).0),
        None => http.get(realm).query(&[("service", service), ("scope", scope)]),
    };
    let response = super::client::send(request, realm).await?;
    let status = response.status().as_u16();
    let body = super::client::body(response, TOKEN_BYTES_MAX, realm).await?;
    if status != 200 {
        return Err(match Failure::from_answer(status, &body) {
            Failure::Denied(text) if login.is_some() => Failure::BadCredentials(text),
            other => other,
        });
    }
    token(&body).map(|token| Authorization(format!("Bearer {token}")))
}

fn basic(auth: &RegistryAuth) -> Authorization {
    Authorization(format!("Basic {}", STANDARD.encode(format!("{}:{}", auth.username, auth.password))))
}

fn token(body: &[u8]) -> Attempt<String> {
    #[derive(Deserialize)]
    struct Tokens {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
    }
    let bad = || Failure::Denied("authorization server did not include a token in the response".to_owned());
    let tokens: Tokens = serde_json::from_slice(body).map_err(|_| bad())?;
    [tokens.token, tokens.access_token].into_iter().find(|token| !token.is_empty()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expect: Option<(&str, Option<&str>, Option<&str>)>) {
        let expect = expect.map(|(realm, service, scope)| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        });
        assert_eq!(parse_challenge(header), expect, "{header}");
    }

    #[test]
    fn challenges_are_read() {
        check(
            r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
            Some(("https://a/t", Some("s"), Some("repository:x:pull,push"))),
        );
        check(r#"bearer Realm = "https://a?x=y" , service=plain"#, Some(("https://a?x=y", Some("plain"), None)));
        check("Bearer service=\"s\"", None);
        check("Negotiate", None);
        check("", None);
        check("Bearer realm=\"open", Some(("open", None, None)));
        assert_eq!(parse_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
    }

    #[test]
    fn credentials_do_not_show() {
        let auth = RegistryAuth { username: "u".into(), password: "p".into(), ..Default::default() };
        assert_eq!(basic(&auth).0, "Basic dTpw");
        assert!(!format!("{:?}", basic(&auth)).contains("dTpw"));
    }
}
