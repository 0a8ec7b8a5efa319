//! What a client asks for, from the attributes of BuildKit's Dockerfile frontend. Pure.

use serde::Deserialize;
use skep_engine::build::{BuildOptions, Style};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

/// The one frontend there is.
pub(crate) const DOCKERFILE_FRONTEND: &str = "dockerfile.v0";

/// A build that a client with a session asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub session: String,
    pub options: BuildOptions,
    /// Names of the client's folders.
    pub(crate) context_folder: String,
    pub(crate) dockerfile_folder: String,
    /// What is not done, for the client to be told.
    pub(crate) warnings: Vec<String>,
}

/// Attributes that change nothing for this builder.
const HARMLESS: [&str; 8] = [
    "source",
    "multi-platform",
    "frontend.caps",
    "cmdline",
    "platform-split",
    "build-arg-defaults",
    "requestid",
    "sharedkeyhint",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CacheImport {
    #[serde(default, rename = "Type")]
    kind: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

impl Request {
    /// Of a session, with options as `POST /build` has them.
    #[must_use]
    pub fn new(session: &str, options: BuildOptions) -> Self {
        Self {
            session: session.to_owned(),
            options: BuildOptions { style: Style::Events, ..options },
            context_folder: "context".to_owned(),
            dockerfile_folder: "dockerfile".to_owned(),
            warnings: Vec::new(),
        }
    }

    /// # Errors
    /// Attributes that this builder does not know, or that make no sense.
    pub(crate) fn of_attributes<'a>(
        session: &str,
        attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self> {
        let mut request = Self::new(session, BuildOptions::default());
        for (name, value) in attributes {
            request.set(name, value)?;
        }
        Ok(request)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let options = &mut self.options;
        if let Some(argument) = name.strip_prefix("build-arg:") {
            options.build_args.insert(argument.to_owned(), Some(value.to_owned()));
            return Ok(());
        }
        if let Some(label) = name.strip_prefix("label:") {
            options.labels.insert(label.to_owned(), value.to_owned());
            return Ok(());
        }
        match name {
            "filename" => value.clone_into(&mut options.dockerfile),
            "target" => value.clone_into(&mut options.target),
            "no-cache" if value.is_empty() => options.no_cache = true,
            "no-cache" => {
                options.no_cache = true;
                self.warnings.push(format!("every stage is built anew, not only {value}"));
            }
            "image-resolve-mode" => options.pull = value == "pull",
            "platform" if value.contains(',') => {
                return Err(Error::not_implemented("building for several platforms at once is not supported yet"));
            }
            "platform" => value.clone_into(&mut options.platform),
            "force-network-mode" => value.clone_into(&mut options.network_mode),
            "add-hosts" => options.extra_hosts = hosts(value),
            "shm-size" => {
                options.shm_size = value.parse().map_err(|_| Error::invalid(format!("invalid shm-size {value}")))?;
            }
            "cache-from" => {
                options.cache_from = value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
            }
            "cache-imports" => self.cache_imports(value)?,
            "contextkey" => value.clone_into(&mut self.context_folder),
            "dockerfilekey" => value.clone_into(&mut self.dockerfile_folder),
            "ulimit" | "cgroup-parent" | "hostname" if !value.is_empty() => {
                self.warnings.push(format!("{name} is ignored: build steps have none of it"));
            }
            "context" if !value.is_empty() => {
                return Err(Error::not_implemented(format!("building from {value} is not supported yet")));
            }
            "context" | "ulimit" | "cgroup-parent" | "hostname" => {}
            _ if HARMLESS.contains(&name) || name.starts_with("vcs:") => {}
            _ if name.starts_with("attest:") => {
                self.warnings.push(format!("{name} is ignored: images get no attestations"));
            }
            _ => return Err(Error::not_implemented(format!("the build option {name} is not supported yet"))),
        }
        Ok(())
    }

    fn cache_imports(&mut self, value: &str) -> Result<()> {
        let imports: Vec<CacheImport> =
            serde_json::from_str(value).map_err(|error| Error::invalid(format!("cache-imports: {error}")))?;
        for import in imports {
            self.import_cache(&import.kind, import.attrs.get("ref"));
        }
        Ok(())
    }

    /// A cache that the client would have used.
    pub(crate) fn import_cache(&mut self, kind: &str, name: Option<&String>) {
        match (kind, name) {
            ("registry", Some(name)) => self.options.cache_from.push(name.clone()),
            (kind, _) => self.warnings.push(format!("a cache of type {kind} is not used")),
        }
    }

    /// Reads what is to become of the image: its names.
    ///
    /// # Errors
    /// Anything but an image of this machine.
    pub(crate) fn export<'a>(
        &mut self,
        kind: &str,
        attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<()> {
        if !matches!(kind, "" | "moby" | "image") {
            return Err(Error::not_implemented(format!(
                "the output type {kind} is not supported yet: the image is kept here, `save` writes it to a file"
            )));
        }
        for (name, value) in attributes {
            match (name.as_str(), value.as_str()) {
                ("name", names) => {
                    self.options.tags = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                }
                ("push", "true") => {
                    return Err(Error::not_implemented(
                        "pushing the image of a build is not supported yet: push it then",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `name=ip,name=ip` as `name:ip`.
fn hosts(text: &str) -> Vec<String> {
    text.split(',').filter(|entry| !entry.is_empty()).map(|entry| entry.replacen('=', ":", 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(attributes: &[(&str, &str)]) -> Result<Request> {
        let attributes: BTreeMap<String, String> =
            attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::of_attributes("s", &attributes)
    }

    #[test]
    fn what_buildx_sends_is_understood() {
        let request = request(&[
            ("filename", "Dockerfile.x"),
            ("target", "t"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "a=1.2.3.4,b=::1"),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"r/c:1"}},{"Type":"gha"}]"#),
            ("force-network-mode", "none"),
            ("vcs:revision", "abc"),
            ("attest:provenance", "mode=min"),
        ])
        .unwrap();
        let options = request.options;
        assert_eq!((options.dockerfile.as_str(), options.target.as_str()), ("Dockerfile.x", "t"));
        assert_eq!(options.build_args["A"].as_deref(), Some("1"));
        assert!(options.no_cache && options.pull);
        assert_eq!(options.extra_hosts, ["a:1.2.3.4", "b:::1"]);
        assert_eq!((options.cache_from, options.network_mode.as_str()), (vec!["r/c:1".to_owned()], "none"));
        assert_eq!(request.warnings.len(), 2);
    }

    #[test]
    fn what_is_not_done_is_said() {
        for bad in [("context", "https://x/y.git"), ("context:base", "x"), ("platform", "linux/amd64,linux/arm64")] {
            assert!(request(&[bad]).is_err(), "{bad:?}");
        }
        let mut plain = request(&[]).unwrap();
        let names: BTreeMap<String, String> = [("name".to_owned(), "a,b:2".to_owned())].into();
        plain.export("moby", &names).unwrap();
        assert_eq!(plain.options.tags, ["a", "b:2"]);
        assert!(plain.export("local", &names).is_err());
        let push: BTreeMap<String, String> = [("push".to_owned(), "true".to_owned())].into();
        assert!(plain.export("image", &push).is_err());
    }
}
