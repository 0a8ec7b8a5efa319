//! Test images made from what Debian ships, so that nothing is fetched from a registry.

use crate::sh::{cmd, root, run, target};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// A tar of a root filesystem with busybox and its applets, for `docker import`.
pub(crate) fn busybox_tar() -> Result<PathBuf> {
    let tar = target().join("tools/busybox.tar");
    if tar.exists() {
        return Ok(tar);
    }
    let folder = tempfile::tempdir()?;
    let at = |path: &str| folder.path().join(path);
    for path in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "usr/bin", "var"] {
        fs::create_dir_all(at(path))?;
    }
    fs::copy("/bin/busybox", at("bin/busybox")).context("package busybox-static is missing")?;
    let applets = crate::sh::output(&mut cmd("/bin/busybox", ["--list"]))?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        symlink("busybox", at("bin").join(applet))?;
    }
    fs::write(
        at("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(at("etc/group"), "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n")?;
    run(&mut cmd("chmod", ["1777".as_ref(), at("tmp").as_os_str()]))?;
    fs::create_dir_all(target().join("tools"))?;
    let partial = tar.with_extension("partial");
    run(cmd("tar", ["--owner=0", "--group=0", "-C"]).arg(folder.path()).arg("-cf").arg(&partial).arg("."))?;
    fs::rename(partial, &tar)?;
    Ok(tar)
}

/// The build context of the example service, with its program compiled statically.
pub(crate) fn whoami_context() -> Result<PathBuf> {
    let source = root().join("examples/whoami");
    let context = target().join("tools/whoami");
    fs::create_dir_all(&context)?;
    fs::copy(source.join("Dockerfile"), context.join("Dockerfile"))?;
    let flags = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cpanic=abort", "-Cstrip=symbols", "-o"];
    run(cmd("rustc", flags).arg(context.join("whoami")).arg(source.join("whoami.rs")))?;
    Ok(context)
}
