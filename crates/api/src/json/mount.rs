//! `Mount` in the long form, the same for containers and services, and `MountPoint`.

use super::{refuse, unsupported, wire, zero};
use skep_model::container::{Mount as ModelMount, MountKind, MountPoint as ModelMountPoint};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

wire!(
    Mount {
        #[serde(rename = "Type", skip_serializing_if = "zero")]
        kind: String,
        #[serde(skip_serializing_if = "zero")]
        source: String,
        #[serde(skip_serializing_if = "zero")]
        target: String,
        #[serde(skip_serializing_if = "zero")]
        read_only: bool,
        #[serde(skip_serializing_if = "zero")]
        consistency: String,
        #[serde(skip_serializing_if = "zero")]
        bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "zero")]
        volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "zero")]
        image_options: Option<serde_json::Value>,
        #[serde(skip_serializing_if = "zero")]
        tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "zero")]
        cluster_options: Option<serde_json::Value>,
    }
);

wire!(BindOptions {
    #[serde(skip_serializing_if = "zero")]
    propagation: String,
    #[serde(skip_serializing_if = "zero")]
    non_recursive: bool,
    #[serde(skip_serializing_if = "zero")]
    create_mountpoint: bool,
    #[serde(skip_serializing_if = "zero")]
    read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "zero")]
    read_only_force_recursive: bool,
});

wire!(
    VolumeOptions {
        #[serde(skip_serializing_if = "zero")]
        no_copy: bool,
        #[serde(skip_serializing_if = "zero")]
        labels: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "zero")]
        subpath: String,
        #[serde(skip_serializing_if = "zero")]
        driver_config: Option<Driver>,
    }
);

wire!(
    /// A driver's name and options: of volumes, logs, networks and IPAM.
    Driver {
        #[serde(skip_serializing_if = "zero")]
        name: String,
        #[serde(skip_serializing_if = "zero")]
        options: BTreeMap<String, String>,
    }
);

wire!(
    TmpfsOptions {
        #[serde(skip_serializing_if = "zero")]
        size_bytes: i64,
        #[serde(skip_serializing_if = "zero")]
        mode: u32,
        #[serde(skip_serializing_if = "zero")]
        options: Vec<Vec<String>>,
    }
);

impl Mount {
    /// The bind creates its source: what the short form (`Binds`) does and the model's
    /// mounts do not.
    pub(crate) fn creates_source(&self) -> bool {
        self.kind == "bind" && self.bind_options.as_ref().is_some_and(|options| options.create_mountpoint)
    }

    /// The `source:target:options` form of a bind.
    ///
    /// # Errors
    /// A path that the short form cannot carry.
    pub(crate) fn into_bind(mut self) -> Result<String> {
        if let Some(options) = &mut self.bind_options {
            options.create_mountpoint = false;
        }
        let mount = self.into_model()?;
        if mount.source.contains(':') || mount.target.contains(':') {
            return Err(Error::invalid("a bind with CreateMountpoint cannot have a colon in its paths"));
        }
        let mut options = vec![if mount.readonly { "ro" } else { "rw" }.to_owned()];
        if !mount.propagation.is_empty() {
            options.push(mount.propagation);
        }
        Ok(format!("{}:{}:{}", mount.source, mount.target, options.join(",")))
    }

    /// The model's form.
    ///
    /// # Errors
    /// 400 for contradictions with Docker's texts, 501 for kinds that skep does not have.
    pub(crate) fn into_model(self) -> Result<ModelMount> {
        let kind = match self.kind.as_str() {
            "bind" => MountKind::Bind,
            "volume" | "" => MountKind::Volume,
            "tmpfs" => MountKind::Tmpfs,
            "image" | "npipe" | "cluster" => return Err(unsupported(&format!("mount type {:?}", self.kind))),
            other => return Err(Error::invalid(format!("mount type unknown: {other:?}"))),
        };
        let invalid = |why: &str| Err(Error::invalid(format!("invalid mount config for type {:?}: {why}", self.kind)));
        if self.target.is_empty() {
            return invalid("field Target must not be empty");
        }
        let misplaced = [
            ("BindOptions", self.bind_options.is_some(), MountKind::Bind),
            ("VolumeOptions", self.volume_options.is_some(), MountKind::Volume),
            ("TmpfsOptions", self.tmpfs_options.is_some(), MountKind::Tmpfs),
        ];
        if let Some((field, ..)) = misplaced.iter().find(|(_, set, owner)| *set && *owner != kind) {
            return invalid(&format!("field {field} must not be specified"));
        }
        match kind {
            MountKind::Bind if self.source.is_empty() => return invalid("field Source must not be empty"),
            MountKind::Tmpfs if !self.source.is_empty() => return invalid("field Source must not be specified"),
            MountKind::Bind | MountKind::Tmpfs | MountKind::Volume => {}
        }
        refuse(&[("ImageOptions", self.image_options.is_some()), ("ClusterOptions", self.cluster_options.is_some())])?;
        let bind = self.bind_options.unwrap_or_default();
        refuse(&[
            ("BindOptions.NonRecursive", bind.non_recursive),
            ("BindOptions.CreateMountpoint", bind.create_mountpoint),
            ("BindOptions.ReadOnlyNonRecursive", bind.read_only_non_recursive),
            ("BindOptions.ReadOnlyForceRecursive", bind.read_only_force_recursive),
        ])?;
        check_propagation(&bind.propagation)?;
        let volume = self.volume_options.unwrap_or_default();
        let driver = volume.driver_config.unwrap_or_default();
        let tmpfs = self.tmpfs_options.unwrap_or_default();
        refuse(&[("TmpfsOptions.Options", !tmpfs.options.is_empty())])?;
        let Ok(tmpfs_size_bytes) = u64::try_from(tmpfs.size_bytes) else {
            return Err(Error::invalid("TmpfsOptions.SizeBytes cannot be negative"));
        };
        Ok(ModelMount {
            kind,
            source: self.source,
            target: self.target,
            readonly: self.read_only,
            propagation: bind.propagation,
            volume_no_copy: volume.no_copy,
            volume_labels: volume.labels,
            volume_driver: driver.name,
            volume_options: driver.options,
            volume_subpath: volume.subpath,
            tmpfs_size_bytes,
            tmpfs_mode: tmpfs.mode,
        })
    }

    pub(crate) fn of(mount: &ModelMount) -> Self {
        let bind = BindOptions { propagation: mount.propagation.clone(), ..BindOptions::default() };
        let driver = Driver { name: mount.volume_driver.clone(), options: mount.volume_options.clone() };
        let volume = VolumeOptions {
            no_copy: mount.volume_no_copy,
            labels: mount.volume_labels.clone(),
            subpath: mount.volume_subpath.clone(),
            driver_config: set(driver),
        };
        let tmpfs = TmpfsOptions {
            size_bytes: i64::try_from(mount.tmpfs_size_bytes).unwrap_or(i64::MAX),
            mode: mount.tmpfs_mode,
            options: vec![],
        };
        Self {
            kind: kind_word(mount.kind).into(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            read_only: mount.readonly,
            bind_options: set(bind),
            volume_options: set(volume),
            tmpfs_options: set(tmpfs),
            ..Self::default()
        }
    }
}

fn set<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn kind_word(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
    }
}

fn check_propagation(text: &str) -> Result<()> {
    match text {
        "" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => Ok(()),
        other => Err(Error::invalid(format!("invalid propagation mode: {other}"))),
    }
}

wire!(
    /// A mount as it is, in `inspect` and `ps`.
    MountPoint {
        #[serde(rename = "Type", skip_serializing_if = "zero")]
        kind: String,
        #[serde(skip_serializing_if = "zero")]
        name: String,
        source: String,
        destination: String,
        #[serde(skip_serializing_if = "zero")]
        driver: String,
        mode: String,
        #[serde(rename = "RW")]
        rw: bool,
        propagation: String,
    }
);

impl MountPoint {
    pub(crate) fn of(point: &ModelMountPoint) -> Self {
        Self {
            kind: kind_word(point.kind).into(),
            name: point.name.clone(),
            source: point.source.clone(),
            destination: point.destination.clone(),
            driver: point.driver.clone(),
            mode: point.mode.clone(),
            rw: point.rw,
            propagation: point.propagation.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Result<ModelMount> {
        serde_json::from_value::<Mount>(value).unwrap().into_model()
    }

    #[test]
    fn every_kind_round_trips() {
        for wire in [
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rshared"}}),
            json!({"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"NoCopy": true, "Labels": {"a": "b"}, "Subpath": "s", "DriverConfig": {"Name": "local", "Options": {"o": "p"}}}}),
            json!({"Type": "volume", "Target": "/anonymous"}),
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 448}}),
        ] {
            assert_eq!(serde_json::to_value(Mount::of(&read(wire.clone()).unwrap())).unwrap(), wire);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            json!({"Type": "bind", "Target": "/b"}),
            json!({"Type": "bind", "Source": "/a"}),
            json!({"Type": "tmpfs", "Source": "x", "Target": "/b"}),
            json!({"Type": "volume", "Target": "/b", "BindOptions": {}}),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "x"}}),
            json!({"Type": "what", "Target": "/b"}),
            json!({"Type": "npipe", "Source": "a", "Target": "/b"}),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"NonRecursive": true}}),
            json!({"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": -1}}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bind_that_creates_its_source_takes_the_short_form() {
        let wire = json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
            "BindOptions": {"CreateMountpoint": true, "Propagation": "rslave"}});
        let mount: Mount = serde_json::from_value(wire).unwrap();
        assert!(mount.creates_source());
        assert_eq!(mount.into_bind().unwrap(), "/a:/b:ro,rslave");
    }
}
