//! Trying credentials against a registry.

use super::super::RegistryAuth;
use super::client::{Access, Client};
use super::endpoint::Registries;
use super::failure::Failure;
use skep_model::image::Reference;
use skep_model::{Error, Result};

/// How clients call Docker's own registry when they log in.
const DOCKER_HUB_LOGIN: [&str; 4] = ["", "docker.io", "index.docker.io", "registry-1.docker.io"];

/// Asks `server` (`host[:port]`, or a URL as old clients keep it) whether it knows us.
///
/// # Errors
/// `Unauthenticated` when it refuses the credentials.
pub(crate) async fn login(registries: &Registries, server: &str, auth: &RegistryAuth) -> Result<()> {
    let reference = reference(server)?;
    let endpoint = registries.origin(&reference);
    let asked = async { Client::new(&endpoint, &reference, Some(auth), Access::Login)?.ping().await };
    asked.await.map_err(|failure: Failure| match failure {
        Failure::Denied(_) | Failure::BadCredentials(_) => Error::unauthenticated(format!(
            "login attempt to {}/v2/ failed with status: 401 Unauthorized",
            endpoint.base
        )),
        other => other.into_error(),
    })
}

/// Some image of that registry.
fn reference(server: &str) -> Result<Reference> {
    let host = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = host.split('/').next().unwrap_or_default();
    if DOCKER_HUB_LOGIN.contains(&host) {
        return Reference::parse("login");
    }
    let parsed = Reference::parse(&format!("{host}/login"))?;
    if parsed.registry == host {
        Ok(parsed)
    } else {
        Err(Error::invalid(format!("invalid registry address {server:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_or_urls() {
        let check = |server: &str, expect: Option<&str>| {
            assert_eq!(reference(server).ok().map(|r| r.registry).as_deref(), expect, "{server}");
        };
        check("127.0.0.1:5000", Some("127.0.0.1:5000"));
        check("http://registry.lan:5000/v2/", Some("registry.lan:5000"));
        check("https://index.docker.io/v1/", Some("docker.io"));
        check("", Some("docker.io"));
        check("plainword", None);
        check("a b:1", None);
    }
}
