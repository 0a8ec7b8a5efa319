//! `RUN --mount=...`. Pure.

use super::words::csv;

/// One mount of a RUN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunMount {
    pub(crate) kind: RunMountKind,
    /// Relative ones are below the working directory; empty is the kind's own place.
    pub(crate) target: String,
    /// Below the context, or the root of `from`.
    pub(crate) source: String,
    /// Stage or image.
    pub(crate) from: Option<String>,
    /// Of a cache, a secret or an agent; empty is the kind's own.
    pub(crate) id: String,
    pub(crate) read_only: bool,
    /// The step fails if the client has no such secret or agent.
    pub(crate) required: bool,
    /// Bytes of a tmpfs; 0 is half of memory.
    pub(crate) size: u64,
    pub(crate) sharing: Sharing,
    /// Permission bits; `None` is the kind's own.
    pub(crate) mode: Option<u32>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RunMountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Sharing {
    #[default]
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

/// Expands the variables of a value.
pub(crate) type Expand<'a> = &'a dyn Fn(&str) -> Result<String, String>;

impl RunMount {
    /// `type=cache,target=/x,...` with its variables expanded.
    ///
    /// # Errors
    /// Which key or value is wrong, in BuildKit's words where it has some.
    pub(crate) fn parse(text: &str, expand: Expand<'_>) -> Result<Self, String> {
        let mut pairs = Vec::new();
        for field in csv(text)? {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key.trim().to_ascii_lowercase(), Some(value.to_owned())),
                None => (field.trim().to_ascii_lowercase(), None),
            };
            pairs.push((key, value));
        }
        let kind = kind(&pairs)?;
        let mut mount = Self {
            kind,
            target: String::new(),
            source: String::new(),
            from: None,
            id: String::new(),
            // Binds are looked at; what is written to one is lost.
            read_only: kind == RunMountKind::Bind,
            required: false,
            size: 0,
            sharing: Sharing::default(),
            mode: None,
            uid: 0,
            gid: 0,
        };
        for (key, value) in &pairs {
            mount.set(key, value.as_deref(), expand)?;
        }
        mount.check()
    }

    /// The mount without its variables expanded, for what the text alone says.
    pub(crate) fn parse_unexpanded(text: &str) -> Result<Self, String> {
        Self::parse(text, &|value| Ok(value.to_owned()))
    }

    fn set(&mut self, key: &str, value: Option<&str>, expand: Expand<'_>) -> Result<(), String> {
        use RunMountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
        let kind = self.kind;
        let fits = match key {
            "type" => return Ok(()),
            "target" | "dst" | "destination" => true,
            "source" | "src" | "from" => matches!(kind, Bind | Cache),
            "readonly" | "ro" | "readwrite" | "rw" => matches!(kind, Bind | Cache),
            "id" => matches!(kind, Cache | Secret | Ssh),
            "required" => matches!(kind, Secret | Ssh),
            "size" => kind == Tmpfs,
            "sharing" => kind == Cache,
            "mode" | "uid" | "gid" => matches!(kind, Cache | Secret | Ssh),
            "env" if kind == Secret => {
                return Err("a secret as an environment variable (env) is not supported yet: use its file".into());
            }
            _ => return Err(format!("unexpected key '{key}' for mount type '{}'", kind.name())),
        };
        if !fits {
            return Err(format!("unexpected key '{key}' for mount type '{}'", kind.name()));
        }
        if matches!(key, "readonly" | "ro" | "readwrite" | "rw" | "required") {
            let value = value.map(expand).transpose()?;
            let on = flag(key, value.as_deref())?;
            match key {
                "required" => self.required = on,
                "readonly" | "ro" => self.read_only = on,
                _ => self.read_only = !on,
            }
            return Ok(());
        }
        let value = value.ok_or_else(|| format!("invalid field '{key}' must be a key=value pair"))?;
        if key == "from" {
            if value.contains('$') {
                return Err(format!("'{value}' from a mount: variables are not expanded there; use a stage's alias"));
            }
            self.from = Some(value.to_owned());
            return Ok(());
        }
        let value = expand(value)?;
        // Checked again once its variables are known.
        let is_open = value.contains('$');
        let bad = |what: &str| format!("invalid value {value} for {what}");
        match key {
            "target" | "dst" | "destination" => self.target = value,
            "source" | "src" => self.source = value,
            "id" => self.id = value,
            _ if is_open => {}
            "size" => self.size = size(&value).ok_or_else(|| bad("size"))?,
            "sharing" => {
                self.sharing = match value.to_ascii_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => return Err(format!("unsupported sharing value {value}")),
                }
            }
            "mode" => {
                self.mode =
                    Some(u32::from_str_radix(&value, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(|| bad("mode"))?)
            }
            "uid" => self.uid = value.parse().map_err(|_| bad("uid"))?,
            _ => self.gid = value.parse().map_err(|_| bad("gid"))?,
        }
        Ok(())
    }

    fn check(self) -> Result<Self, String> {
        use RunMountKind::{Bind, Cache, Secret, Tmpfs};
        if self.target.is_empty() && matches!(self.kind, Bind | Cache | Tmpfs) {
            return Err("target is required".to_owned());
        }
        if self.kind == Secret && self.id.is_empty() && self.target.is_empty() {
            return Err("secret mount requires an id or a target".to_owned());
        }
        Ok(self)
    }
}

impl RunMountKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

fn kind(pairs: &[(String, Option<String>)]) -> Result<RunMountKind, String> {
    let Some((_, value)) = pairs.iter().find(|(key, _)| key == "type") else { return Ok(RunMountKind::Bind) };
    match value.as_deref().unwrap_or_default().to_ascii_lowercase().as_str() {
        "bind" => Ok(RunMountKind::Bind),
        "cache" => Ok(RunMountKind::Cache),
        "tmpfs" => Ok(RunMountKind::Tmpfs),
        "secret" => Ok(RunMountKind::Secret),
        "ssh" => Ok(RunMountKind::Ssh),
        other => Err(format!("unsupported mount type {other:?}")),
    }
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) if value.contains('$') => Ok(false),
        Some(value) => Err(format!("invalid value for {key}: {value}")),
    }
}

/// `64m`, `1g`, `512k`, `100`, also with a `b` at the end.
fn size(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, unit) = match plain.char_indices().last()? {
        (at, 'k') => (&plain[..at], 1 << 10),
        (at, 'm') => (&plain[..at], 1 << 20),
        (at, 'g') => (&plain[..at], 1 << 30),
        _ => (plain, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<RunMount, String> {
        RunMount::parse_unexpanded(text)
    }

    #[test]
    fn every_kind_has_its_keys() {
        let bind = parse("target=/x,source=sub,from=stage,rw").unwrap();
        assert_eq!((bind.kind, bind.from.as_deref(), bind.read_only), (RunMountKind::Bind, Some("stage"), false));
        assert!(parse("type=bind,target=x").unwrap().read_only);
        let cache = parse("type=cache,id=go,dst=/c,sharing=locked,mode=0700,uid=5,gid=6,ro=false").unwrap();
        assert_eq!((cache.sharing, cache.mode, cache.uid, cache.gid), (Sharing::Locked, Some(0o700), 5, 6));
        assert_eq!(parse("type=tmpfs,target=/t,size=64m").unwrap().size, 64 << 20);
        let secret = parse("type=secret,id=a,required=true").unwrap();
        assert!(secret.required && secret.target.is_empty());
        assert_eq!(parse("type=ssh").unwrap().kind, RunMountKind::Ssh);
        assert_eq!(parse("\"type=cache\",\"target=/a,b\"").unwrap().target, "/a,b");
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, expect) in [
            ("type=nope,target=/x", "unsupported mount type \"nope\""),
            ("type=cache", "target is required"),
            ("type=secret", "secret mount requires an id or a target"),
            ("type=tmpfs,target=/x,from=y", "unexpected key 'from' for mount type 'tmpfs'"),
            ("type=cache,target=/x,sharing=maybe", "unsupported sharing value maybe"),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
            ("type=cache,target", "invalid field 'target' must be a key=value pair"),
            ("type=bind,target=/x,from=$A", "variables are not expanded"),
            ("type=ssh,required=maybe", "invalid value for required: maybe"),
            ("type=secret,id=a,env=A", "not supported yet"),
            ("\"target=/x", "quote"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }

    #[test]
    fn variables_are_expanded_when_they_are_known() {
        assert!(parse("type=cache,target=$T,mode=$M").is_ok());
        let expand = |text: &str| Ok(text.replace("$T", "/t").replace("$M", "99"));
        assert!(RunMount::parse("type=cache,target=$T,mode=$M", &expand).unwrap_err().contains("mode"));
        assert_eq!(RunMount::parse("type=cache,target=$T", &expand).unwrap().target, "/t");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(type=(cache|bind|ssh|secret|tmpfs),)?[a-z=,\"$0-9/]{0,40}|.{0,40}") {
            let _ = parse(&text);
        }
    }
}
