//! What the user wants mounted: parsing and checking, before any effect.

use skep_model::container::{ContainerConfig, HostConfig, Mount, MountKind};
use skep_model::{Error, Result, validate};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One mount, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wish {
    pub(crate) kind: MountKind,
    /// Host path or volume name; empty for an anonymous volume.
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) rw: bool,
    /// As the user wrote them.
    pub(crate) mode: String,
    pub(crate) propagation: String,
    pub(crate) no_copy: bool,
    /// A missing host directory is made (`-v`), or an error (`--mount`).
    pub(crate) create_source: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) driver: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) subpath: String,
}

/// All wishes of a container; `-v` and `--mount` before the image's volumes.
///
/// # Errors
/// Docker's texts for malformed, missing or duplicate mounts.
pub(crate) fn wishes(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<Wish>> {
    let mut out = Vec::new();
    for bind in &host.binds {
        out.push(parse_bind(bind)?);
    }
    for mount in &host.mounts {
        if let Some(wish) = check_mount(mount)? {
            out.push(wish);
        }
    }
    for target in host.tmpfs.keys() {
        check_target("tmpfs", target)?;
    }
    let mut seen = BTreeSet::new();
    let tmpfs_mounts = host.mounts.iter().filter(|m| m.kind == MountKind::Tmpfs).map(|m| &m.target);
    for target in out.iter().map(|wish| &wish.target).chain(tmpfs_mounts).chain(host.tmpfs.keys()) {
        if !seen.insert(clean(target)) {
            return Err(Error::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    for target in &config.volumes {
        check_target("volume", target)?;
        if seen.insert(clean(target)) {
            out.push(Wish { kind: MountKind::Volume, target: clean(target), rw: true, ..Wish::default() });
        }
    }
    Ok(out)
}

/// `source:target[:options]`, or `target` for an anonymous volume.
fn parse_bind(text: &str) -> Result<Wish> {
    let bad = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(bad()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(bad());
    }
    if clean(target) == "/" {
        return Err(Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
        )));
    }
    let is_path = source.starts_with('/');
    let kind = if is_path { MountKind::Bind } else { MountKind::Volume };
    check_target(kind_name(kind), target).map_err(|error| error.context(format!("invalid volume specification: '{text}'")))?;
    if !is_path && !source.is_empty() {
        check_volume_name(source)?;
    }
    let mut wish = Wish {
        kind,
        source: if is_path { clean(source) } else { source.to_owned() },
        target: clean(target),
        rw: true,
        mode: mode.to_owned(),
        create_source: true,
        ..Wish::default()
    };
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => {}
            "ro" | "readonly" => wish.rw = false,
            "nocopy" if !is_path => wish.no_copy = true,
            "z" | "Z" | "delegated" | "cached" | "consistent" => {}
            option if is_path && is_propagation(option) => wish.propagation = option.to_owned(),
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(wish)
}

fn check_mount(mount: &Mount) -> Result<Option<Wish>> {
    let kind = kind_name(mount.kind);
    check_target(kind, &mount.target)?;
    let invalid = |why: &str| Error::invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    match mount.kind {
        MountKind::Tmpfs => return Ok(None),
        MountKind::Bind => {
            if mount.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            if !mount.source.starts_with('/') {
                return Err(invalid(&format!("invalid mount path: '{}' mount path must be absolute", mount.source)));
            }
            if !Path::new(&mount.source).exists() {
                return Err(invalid(&format!("bind source path does not exist: {}", mount.source)));
            }
            if !mount.propagation.is_empty() && !is_propagation(&mount.propagation) {
                return Err(invalid(&format!("invalid propagation mode: {}", mount.propagation)));
            }
        }
        MountKind::Volume if !mount.source.is_empty() => check_volume_name(&mount.source)?,
        MountKind::Volume => {}
    }
    Ok(Some(Wish {
        kind: mount.kind,
        source: mount.source.clone(),
        target: clean(&mount.target),
        rw: !mount.readonly,
        mode: String::new(),
        propagation: mount.propagation.clone(),
        no_copy: mount.volume_no_copy,
        create_source: false,
        labels: mount.volume_labels.clone(),
        driver: mount.volume_driver.clone(),
        options: mount.volume_options.clone(),
        subpath: mount.volume_subpath.clone(),
    }))
}

fn check_target(kind: &str, target: &str) -> Result<()> {
    if target.starts_with('/') && !target.contains('\0') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid mount config for type \"{kind}\": invalid mount path: '{target}' mount path must be absolute"
    )))
}

/// Names of volumes, with the hint for those who meant a directory.
pub(crate) fn check_volume_name(name: &str) -> Result<()> {
    validate::object_name("volume", name).map_err(|_| {
        Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        ))
    })
}

fn kind_name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    }
}

fn is_propagation(text: &str) -> bool {
    matches!(text, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
}

/// Without `.`, `..` and doubled slashes; what it names is not looked at.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(bind: &str, text: &str) {
        let error = parse_bind(bind).unwrap_err();
        assert!(error.message.contains(text), "{bind}: {}", error.message);
    }

    #[test]
    fn binds_and_volumes_parse() {
        let bind = parse_bind("/a/../b:/c/:ro,z").unwrap();
        assert_eq!((bind.kind, bind.source.as_str(), bind.target.as_str(), bind.rw), (MountKind::Bind, "/b", "/c", false));
        let volume = parse_bind("data:/d:nocopy").unwrap();
        assert_eq!((volume.kind, volume.no_copy, volume.rw), (MountKind::Volume, true, true));
        assert_eq!(parse_bind("/d").unwrap().kind, MountKind::Volume);
    }

    #[test]
    fn malformed_binds_are_told_apart() {
        check_error("", "invalid volume specification: ''");
        check_error("a:b:c:d", "invalid volume specification");
        check_error("/a:b", "mount path must be absolute");
        check_error("/a:/", "destination can't be '/'");
        check_error("a/b:/c", "includes invalid characters for a local volume name");
        check_error("/a:/b:nonsense", "invalid mode: nonsense");
    }

    #[test]
    fn a_target_is_used_once_and_an_image_volume_yields() {
        let host = HostConfig { binds: vec!["aa:/x".into(), "bb:/x/".into()], ..Default::default() };
        let error = wishes(&ContainerConfig::default(), &host).unwrap_err();
        assert_eq!(error.message, "Duplicate mount point: /x");
        let host = HostConfig { binds: vec!["data:/x".into()], ..Default::default() };
        let config = ContainerConfig { volumes: ["/x".to_owned(), "/y".to_owned()].into(), ..Default::default() };
        let found = wishes(&config, &host).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].source, "");
    }

    #[test]
    fn a_missing_source_of_a_long_mount_is_an_error() {
        let mount = Mount { source: "/nosuchdir2".into(), target: "/x".into(), ..Default::default() };
        let error = check_mount(&mount).unwrap_err();
        assert_eq!(
            error.message,
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuchdir2"
        );
    }
}
