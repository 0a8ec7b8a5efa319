//! Named and anonymous volumes of the `local` driver, below `<data root>/volumes/<name>/_data`.

pub(crate) mod copy;

use crate::container::inner::{Inner, new_id};
use crate::container::record::write_atomically;
use crate::container::registry::lock;
use crate::container::remove::delete_tree;
use crate::container::shim::now;
use skep_model::id::ContainerId;
use skep_model::volume::VolumeInfo;
use skep_model::{Error, Result, Timestamp};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const RECORD: &str = "volume.json";
const DATA: &str = "_data";

/// Who wants a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use<'a> {
    Named,
    /// A user who gave no name.
    Anonymous,
    /// This container alone: after a crash the volume goes if the container's record is not there.
    Container(&'a ContainerId),
}

/// All volumes of this machine.
#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    table: Mutex<BTreeMap<String, VolumeInfo>>,
}

impl Volumes {
    /// Reads the records; a directory without one is no volume.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root)?;
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o701))?;
        let mut table = BTreeMap::new();
        for entry in std::fs::read_dir(root)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "removing") {
                let _ = std::fs::remove_dir_all(entry.path());
                continue;
            }
            let Ok(bytes) = std::fs::read(entry.path().join(RECORD)) else { continue };
            match serde_json::from_slice::<VolumeInfo>(&bytes) {
                Ok(volume) => drop(table.insert(volume.name.clone(), volume)),
                Err(error) => tracing::warn!(path = %entry.path().display(), %error, "unreadable volume record"),
            }
        }
        Ok(Self { root: root.to_owned(), table: Mutex::new(table) })
    }

    /// The volume of that name, made if need be. Returns whether it was.
    pub(crate) fn ensure(
        &self,
        name: &str,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
        use_for: Use<'_>,
        now: Timestamp,
    ) -> Result<(VolumeInfo, bool)> {
        if !matches!(driver, "" | "local") {
            return Err(Error::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        crate::container::mounts::check_volume_name(name)?;
        check_options(&options)?;
        let mut table = lock(&self.table);
        if let Some(volume) = table.get(name) {
            return Ok((volume.clone(), false));
        }
        let dir = self.root.join(name);
        let data = dir.join(DATA);
        let volume = VolumeInfo {
            name: name.to_owned(),
            driver: "local".into(),
            mountpoint: data.to_string_lossy().into_owned(),
            created: now,
            labels,
            options,
            anonymous: use_for != Use::Named,
            made_for: match use_for {
                Use::Container(id) => id.clone(),
                Use::Named | Use::Anonymous => ContainerId::default(),
            },
        };
        std::fs::create_dir_all(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755))?;
        let bytes = serde_json::to_vec(&volume).map_err(|e| Error::internal(e.to_string()))?;
        // A container's create syncs its own record; a named volume is an answer by itself.
        write_atomically(&dir.join(RECORD), &bytes, use_for == Use::Named)?;
        table.insert(name.to_owned(), volume.clone());
        Ok((volume, true))
    }

    pub(crate) fn find(&self, name: &str) -> Option<VolumeInfo> {
        lock(&self.table).get(name).cloned()
    }

    /// # Errors
    /// `get x: no such volume`
    pub(crate) fn get(&self, name: &str) -> Result<VolumeInfo> {
        self.find(name).ok_or_else(|| Error::not_found(format!("get {name}: no such volume")))
    }

    pub(crate) fn list(&self) -> Vec<VolumeInfo> {
        lock(&self.table).values().cloned().collect()
    }

    /// Lets a container's own volume live on without it.
    pub(crate) fn keep(&self, name: &str) -> Result<()> {
        let mut table = lock(&self.table);
        let Some(volume) = table.get_mut(name).filter(|volume| !volume.made_for.is_empty()) else { return Ok(()) };
        let kept = VolumeInfo { made_for: ContainerId::default(), ..volume.clone() };
        let bytes = serde_json::to_vec(&kept).map_err(|e| Error::internal(e.to_string()))?;
        write_atomically(&self.root.join(name).join(RECORD), &bytes, false)?;
        *volume = kept;
        Ok(())
    }

    /// What a container mounts: the volume's directory, or the device it stands for.
    pub(crate) fn mount_source(&self, volume: &VolumeInfo) -> String {
        match volume.options.get("device") {
            Some(device) => device.clone(),
            None => volume.mountpoint.clone(),
        }
    }

    /// Removes record and data. The caller has made sure that nobody uses it.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let mut table = lock(&self.table);
        if table.remove(name).is_none() {
            return Err(Error::not_found(format!("get {name}: no such volume")));
        }
        delete_tree(&self.root.join(name))
    }
}

impl Inner {
    pub(crate) fn volume_create(
        &self,
        name: &str,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<VolumeInfo> {
        let use_for = if name.is_empty() { Use::Anonymous } else { Use::Named };
        let name = if name.is_empty() { new_id() } else { name.to_owned() };
        let (volume, made) = self.volumes.ensure(&name, driver, options, labels, use_for, now())?;
        if made {
            self.emit_object("volume", "create", &name, &[("driver", "local")]);
        }
        Ok(volume)
    }

    pub(crate) async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let volume = match self.volumes.get(name) {
            Ok(volume) => volume,
            // Forced: what is not there is removed.
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        let users = self.volume_users(&volume.name);
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        self.volumes.delete(&volume.name)?;
        self.emit_object("volume", "destroy", &volume.name, &[("driver", "local")]);
        Ok(())
    }
}

/// Of the local driver's options, those that stand for a directory of the host.
fn check_options(options: &BTreeMap<String, String>) -> Result<()> {
    if options.is_empty() {
        return Ok(());
    }
    for key in options.keys() {
        if !matches!(key.as_str(), "type" | "o" | "device") {
            return Err(Error::invalid(format!("create: invalid option: \"{key}\"")));
        }
    }
    let is_bind = options.get("o").is_some_and(|o| o.split(',').any(|word| matches!(word, "bind" | "rbind")));
    match options.get("device") {
        Some(device) if is_bind && device.starts_with('/') => Ok(()),
        Some(_) => Err(Error::not_implemented(
            "local volumes of other types than a bind mount (o=bind,device=/path) are not supported yet",
        )),
        None => Err(Error::invalid("create: missing required option: \"device\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_survive_reopening_and_deletion_removes_them() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path()).unwrap();
        let none = BTreeMap::new;
        let made = |name| volumes.ensure(name, "", none(), none(), Use::Named, Timestamp(1)).unwrap().1;
        assert!(made("data") && !made("data"));
        assert!(volumes.ensure("../x", "", none(), none(), Use::Named, Timestamp(1)).is_err());
        let again = Volumes::open(dir.path()).unwrap();
        assert_eq!(again.get("data").unwrap().mountpoint, dir.path().join("data/_data").to_string_lossy());
        again.delete("data").unwrap();
        assert!(!dir.path().join("data").exists());
        assert_eq!(again.get("data").unwrap_err().message, "get data: no such volume");
    }
}
