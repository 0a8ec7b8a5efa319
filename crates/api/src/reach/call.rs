//! Which calls may cross to another node: those that look into one container or exec.
//! What changes a container's life is the swarm's business.

use http::Method;

/// Calls about a container: method and what follows its name in the path.
const CONTAINER_CALLS: [(Method, &str); 12] = [
    (Method::GET, "json"),
    (Method::GET, "logs"),
    (Method::GET, "top"),
    (Method::GET, "stats"),
    (Method::GET, "changes"),
    (Method::GET, "export"),
    (Method::GET, "archive"),
    (Method::HEAD, "archive"),
    (Method::PUT, "archive"),
    (Method::POST, "exec"),
    (Method::POST, "attach"),
    (Method::POST, "resize"),
];
const EXEC_CALLS: [(Method, &str); 3] = [(Method::POST, "start"), (Method::POST, "resize"), (Method::GET, "json")];

/// A call that may be answered by the node of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    Container { name: &'a str, verb: &'a str },
    Exec { id: &'a str, verb: &'a str },
}

impl<'a> Call<'a> {
    /// `path` without its version. `None`: the call stays where it is.
    pub(crate) fn parse(method: &Method, path: &'a str) -> Option<Self> {
        let mut words = path.strip_prefix('/')?.split('/');
        let (kind, name, verb) = (words.next()?, words.next()?, words.next()?);
        if name.is_empty() || words.next().is_some() {
            return None;
        }
        let listed = |calls: &[(Method, &str)]| calls.iter().any(|(m, v)| m == method && *v == verb);
        match kind {
            "containers" if listed(&CONTAINER_CALLS) => Some(Self::Container { name, verb }),
            "exec" if listed(&EXEC_CALLS) => Some(Self::Exec { id: name, verb }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, expect: Option<Call<'_>>) {
        assert_eq!(Call::parse(&method, path), expect, "{method} {path}");
    }

    #[test]
    fn looking_crosses_and_changing_does_not() {
        let container = |name, verb| Some(Call::Container { name, verb });
        check(Method::GET, "/containers/web.1/logs", container("web.1", "logs"));
        check(Method::POST, "/containers/web.1/exec", container("web.1", "exec"));
        check(Method::HEAD, "/containers/web.1/archive", container("web.1", "archive"));
        check(Method::POST, "/exec/abc/start", Some(Call::Exec { id: "abc", verb: "start" }));
        for verb in ["start", "stop", "kill", "restart", "pause", "unpause", "rename", "update", "wait"] {
            check(Method::POST, &format!("/containers/web.1/{verb}"), None);
        }
        check(Method::DELETE, "/containers/web.1", None);
        check(Method::DELETE, "/containers/web.1/json", None);
        check(Method::POST, "/containers/web.1/json", None);
    }

    #[test]
    fn other_paths_stay() {
        for path in
            ["", "/", "/containers/json", "/containers//json", "/exec/a", "/images/x/json", "/containers/a/b/json"]
        {
            check(Method::GET, path, None);
        }
        check(Method::POST, "/containers/create", None);
    }
}
