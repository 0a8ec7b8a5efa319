//! What a machine boots from: Debian's kernel for clouds, unpacked and not installed,
//! and a first file system that finds this machine's files.

use crate::sh::{cmd, output, run, say, target};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Loaded before any file of the host can be seen, with what they depend on.
const EARLY_MODULES: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];

/// Paths of the parts.
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// As `/lib/modules`.
    pub(crate) modules: PathBuf,
}

/// Makes what is missing.
pub(crate) fn prepare() -> Result<Image> {
    let folder = target().join("tools/vm");
    let unpacked = folder.join("kernel");
    if !unpacked.exists() {
        unpack_kernel(&folder, &unpacked)?;
    }
    let modules = unpacked.join("lib/modules");
    let version = only_entry(&modules)?;
    let initramfs = folder.join("initramfs.gz");
    // Made each time: it takes a tenth of a second and holds our own script.
    make_initramfs(&modules.join(&version), &initramfs)?;
    Ok(Image { kernel: unpacked.join(format!("boot/vmlinuz-{version}")), initramfs, modules })
}

fn unpack_kernel(folder: &Path, unpacked: &Path) -> Result<()> {
    say("unpacking Debian's kernel for the virtual machine");
    run(&mut cmd("apt-get", ["update", "-qq"]))?;
    let depends = output(&mut cmd("apt-cache", ["depends", META_PACKAGE]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")))
        .with_context(|| format!("{META_PACKAGE} names no kernel: {depends}"))?;
    let download = tempfile::tempdir()?;
    run(cmd("apt-get", ["-o", "APT::Sandbox::User=root", "download", "-qq", package]).current_dir(download.path()))?;
    let file = download.path().join(only_entry(download.path())?);
    let partial = folder.join("kernel.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    run(cmd("dpkg-deb", ["-x"]).arg(file).arg(&partial))?;
    let version = only_entry(&partial.join("lib/modules"))?;
    run(cmd("/bin/busybox", ["depmod", "-b"]).arg(&partial).arg(version))?;
    Ok(fs::rename(partial, unpacked)?)
}

fn only_entry(folder: &Path) -> Result<String> {
    let entry = fs::read_dir(folder)?.next().with_context(|| format!("{} is empty", folder.display()))??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn make_initramfs(modules: &Path, initramfs: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |path: &str| folder.path().join(path);
    for path in ["bin", "modules", "proc", "sys", "dev", "lower", "written", "new"] {
        fs::create_dir(at(path))?;
    }
    fs::copy("/bin/busybox", at("bin/busybox")).context("package busybox-static is missing")?;
    fs::write(at("init"), include_str!("init.sh"))?;
    run(cmd("chmod", ["755"]).arg(at("init")))?;
    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    let mut order = String::new();
    for path in load_order(&dependencies, &EARLY_MODULES)? {
        let name = Path::new(&path).file_name().context("a module without a name")?;
        fs::copy(modules.join(&path), at("modules").join(name))?;
        order.push_str(&format!("{}\n", name.to_string_lossy()));
    }
    fs::write(at("modules/order"), order)?;
    let partial = tempfile::NamedTempFile::new_in(initramfs.parent().context("the image has a folder")?)?;
    let pack = "busybox find . | busybox cpio -o -H newc 2>/dev/null | gzip -1";
    run(cmd("sh", ["-c", pack]).current_dir(folder.path()).stdout(partial.reopen()?))?;
    partial.persist(initramfs)?;
    Ok(())
}

/// Files to insert, each after those it needs, from the lines of `modules.dep`. A name
/// that is not there is built into the kernel.
fn load_order(dependencies: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let lines: BTreeMap<&str, Vec<&str>> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (file, needs.split_whitespace().collect()))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        let ending = format!("/{name}.ko");
        if let Some(file) = lines.keys().find(|file| file.ends_with(&ending)) {
            insert(file, &lines, &mut order);
        }
    }
    Ok(order)
}

fn insert(file: &str, lines: &BTreeMap<&str, Vec<&str>>, order: &mut Vec<String>) {
    if order.iter().any(|present| present == file) {
        return;
    }
    for needed in lines.get(file).into_iter().flatten() {
        insert(needed, lines, order);
    }
    order.push(file.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let text = "k/c.ko: k/b.ko k/a.ko\nk/b.ko: k/a.ko\nk/a.ko:\nk/d.ko: k/a.ko\n";
        let order = load_order(text, &["c", "d", "builtin"]).unwrap();
        assert_eq!(order, ["k/a.ko", "k/b.ko", "k/c.ko", "k/d.ko"]);
    }
}
