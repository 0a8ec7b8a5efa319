//! Build arguments: what `--build-arg` gave, what `ARG` declared where, who may see it. Pure.

use skep_model::image::host_architecture;
use std::collections::{BTreeMap, BTreeSet};

/// Known without `ARG`, and left out of the history unless declared.
const PREDEFINED: [&str; 8] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy"];

#[derive(Debug, Clone, Default)]
pub(crate) struct BuildArgs {
    given: BTreeMap<String, String>,
    /// Declared before the first FROM, with the value after expansion.
    global: BTreeMap<String, Option<String>>,
    /// Declared in the stage at hand.
    stage: BTreeMap<String, Option<String>>,
    ever_declared: BTreeSet<String>,
}

impl BuildArgs {
    /// `given` as in the API: a null value means the client's environment had none.
    pub(crate) fn new(given: &BTreeMap<String, Option<String>>, platform: &str) -> Self {
        let given = given.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
        let global = platform_args(platform).into_iter().map(|(name, value)| (name.to_owned(), Some(value))).collect();
        Self { given, global, ..Self::default() }
    }

    pub(crate) fn declare_global(&mut self, name: &str, default: Option<String>) {
        self.ever_declared.insert(name.to_owned());
        self.global.insert(name.to_owned(), default);
    }

    pub(crate) fn declare(&mut self, name: &str, default: Option<String>) {
        self.ever_declared.insert(name.to_owned());
        self.stage.insert(name.to_owned(), default);
    }

    /// All that was declared so far.
    pub(crate) fn declared(&self) -> Vec<String> {
        self.ever_declared.iter().cloned().collect()
    }

    /// For `FROM` and for the defaults of global arguments.
    pub(crate) fn global_value(&self, name: &str) -> Option<String> {
        let default = self.global.get(name)?;
        self.given.get(name).cloned().or_else(|| default.clone())
    }

    /// Arguments the stage sees, but for those its `ENV` covers.
    pub(crate) fn visible(&self, env: &[String]) -> BTreeMap<String, String> {
        let names = self.stage.keys().map(String::as_str).chain(PREDEFINED);
        names
            .filter(|name| !env.iter().any(|entry| entry.split_once('=').is_some_and(|(key, _)| key == *name)))
            .filter_map(|name| Some((name.to_owned(), self.value(name)?)))
            .collect()
    }

    fn value(&self, name: &str) -> Option<String> {
        if let Some(given) = self.given.get(name) {
            return Some(given.clone());
        }
        let default = self.stage.get(name).cloned().flatten();
        default.or_else(|| self.stage.get(name).and_then(|_| self.global.get(name).cloned().flatten()))
    }

    /// Whether its value shows in the history and so decides about the cache.
    pub(crate) fn is_recorded(&self, name: &str) -> bool {
        !PREDEFINED.contains(&name) || self.ever_declared.contains(name)
    }

    /// Given, and never asked for.
    pub(crate) fn unused(&self) -> Vec<&str> {
        let names = self.given.keys().map(String::as_str);
        names.filter(|name| !PREDEFINED.contains(name) && !self.ever_declared.contains(*name)).collect()
    }
}

/// `TARGETARCH` and its like. `platform` is `os[/arch[/variant]]` or empty.
fn platform_args(platform: &str) -> Vec<(&'static str, String)> {
    let native = host_architecture();
    let mut parts = platform.split('/').filter(|part| !part.is_empty());
    let os = parts.next().unwrap_or("linux").to_owned();
    let arch = parts.next().unwrap_or(native).to_owned();
    let variant = parts.next().unwrap_or_default().to_owned();
    let target = if variant.is_empty() { format!("{os}/{arch}") } else { format!("{os}/{arch}/{variant}") };
    vec![
        ("BUILDARCH", native.to_owned()),
        ("BUILDOS", "linux".to_owned()),
        ("BUILDPLATFORM", format!("linux/{native}")),
        ("BUILDVARIANT", String::new()),
        ("TARGETARCH", arch),
        ("TARGETOS", os),
        ("TARGETPLATFORM", target),
        ("TARGETVARIANT", variant),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(given: &[(&str, &str)]) -> BuildArgs {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), Some((*v).to_owned()))).collect();
        BuildArgs::new(&given, "")
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_global_argument_is_seen_in_a_stage_only_after_a_declaration() {
        let mut args = args(&[]);
        args.declare_global("v", some("1"));
        assert_eq!(args.global_value("v"), some("1"));
        assert!(args.visible(&[]).is_empty());
        args.declare("v", None);
        assert_eq!(args.visible(&[]).get("v"), Some(&"1".to_owned()));
    }

    #[test]
    fn the_command_line_beats_defaults_and_env_beats_both() {
        let mut args = args(&[("v", "cli")]);
        args.declare("v", some("default"));
        assert_eq!(args.visible(&[]).get("v"), Some(&"cli".to_owned()));
        assert!(args.visible(&["v=env".to_owned()]).is_empty());
    }

    #[test]
    fn proxies_need_no_declaration_and_stay_out_of_the_history() {
        let mut args = args(&[("http_proxy", "p"), ("nope", "x")]);
        assert_eq!(args.visible(&[]).get("http_proxy"), Some(&"p".to_owned()));
        assert!(!args.is_recorded("http_proxy"));
        assert_eq!(args.unused(), vec!["nope"]);
        args.declare("http_proxy", None);
        assert!(args.is_recorded("http_proxy"));
    }

    #[test]
    fn the_platform_is_known_globally() {
        let args = BuildArgs::new(&BTreeMap::new(), "linux/arm/v7");
        assert_eq!(args.global_value("TARGETPLATFORM"), some("linux/arm/v7"));
        assert_eq!(args.global_value("TARGETVARIANT"), some("v7"));
        assert!(args.global_value("BUILDARCH").is_some());
    }
}
