//! Base images for the course's Dockerfiles, made of Debian's packages, so that nothing is
//! fetched from an image registry.

use crate::sh::{cmd, output, run, say, target};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Packages that a base image does not need although others name them.
const LEFT_OUT: [&str; 14] = [
    "perl",
    "libperl",
    "dpkg",
    "debconf",
    "adduser",
    "usrmerge",
    "init-system-helpers",
    "sysvinit-utils",
    "lsb-base",
    "libjs-jquery",
    "libnumber-compare",
    "libtext-glob",
    "libfile-find",
    "tar_",
];
/// Folders without which a program runs as well.
const DOCUMENTS: [&str; 5] =
    ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/javascript", "usr/share/lintian"];

/// What the course installs with pip is in the image already; this says so, or fails.
const PIP: &str = "#!/bin/sh\n\
    [ \"$1\" = install ] || exit 1\n\
    shift\n\
    for module; do python3 -c \"import $module\" || exit 1; echo \"Requirement already satisfied: $module\"; done\n";
/// Knows of one package, and its program is a page of Python.
const APT_GET: &str = "#!/bin/sh\n\
    case \"$*\" in\n\
    update) ;;\n\
    'install -y curl') cp /usr/share/curl.py /usr/bin/curl; chmod 755 /usr/bin/curl ;;\n\
    *) echo \"E: Unable to locate package: $*\" >&2; exit 100 ;;\n\
    esac\n";
const CURL: &str = "#!/usr/bin/python3\n\
    import sys, urllib.request\n\
    url = sys.argv[-1]\n\
    url = url if '://' in url else 'http://' + url\n\
    try:\n    print(urllib.request.urlopen(url, timeout=5).read().decode(), end='')\n\
    except OSError as error:\n    sys.exit(f'curl: {error}')\n";

/// Tars of root file systems, for `docker import`.
pub(crate) struct Bases {
    /// Python with what the course installs by pip.
    pub(crate) python: PathBuf,
    pub(crate) redis: PathBuf,
}

/// Makes them, or finds them made.
pub(crate) fn bases() -> Result<Bases> {
    let folder = target().join("tools/course");
    let bases = Bases { python: folder.join("python.tar"), redis: folder.join("redis.tar") };
    if bases.python.exists() && bases.redis.exists() {
        return Ok(bases);
    }
    say("making base images of the course from Debian's packages");
    fs::create_dir_all(&folder)?;
    run(&mut cmd("apt-get", ["update", "-qq"]))?;
    let python = tempfile::tempdir()?;
    unpack(&["python3-flask", "python3-redis", "passwd"], python.path())?;
    busybox(python.path())?;
    for (name, text) in [("usr/bin/pip", PIP), ("usr/bin/apt-get", APT_GET), ("usr/share/curl.py", CURL)] {
        let path = python.path().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    pack(python.path(), &bases.python)?;
    let redis = tempfile::tempdir()?;
    unpack(&["redis-server"], redis.path())?;
    busybox(redis.path())?;
    pack(redis.path(), &bases.redis)?;
    Ok(bases)
}

/// The packages and what they need, unpacked without running their scripts.
fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    let archives = tempfile::tempdir()?;
    fs::create_dir_all(archives.path().join("partial"))?;
    let cache = format!("Dir::Cache::archives={}", archives.path().display());
    let mut args = vec!["install", "--download-only", "-y", "-qq", "--no-install-recommends", "-o", &cache];
    // As if nothing were installed: all that is needed, not what this machine lacks.
    args.extend(["-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
    args.extend(packages);
    output(&mut cmd("apt-get", args))?;
    // Where the packages' own folders lead.
    for name in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for entry in fs::read_dir(archives.path())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".deb") && !LEFT_OUT.iter().any(|left| name.starts_with(left)) {
            let tar = root.join("package.tar");
            run(cmd("dpkg-deb", ["--fsys-tarfile"]).arg(&path).stdout(fs::File::create(&tar)?))?;
            run(cmd("tar", ["--keep-directory-symlink", "-xf"]).arg(&tar).arg("-C").arg(root))?;
            fs::remove_file(tar)?;
        }
    }
    for folder in DOCUMENTS {
        let path = root.join(folder);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// A shell and the usual tools, where no package brought them.
fn busybox(root: &Path) -> Result<()> {
    fs::copy("/bin/busybox", root.join("usr/bin/busybox")).context("package busybox-static is missing")?;
    for applet in output(&mut cmd("/bin/busybox", ["--list"]))?.lines().filter(|name| *name != "busybox") {
        let path = root.join("usr/bin").join(applet);
        if path.symlink_metadata().is_err() && root.join("usr/sbin").join(applet).symlink_metadata().is_err() {
            symlink("busybox", path)?;
        }
    }
    for folder in ["etc", "tmp", "root", "proc", "sys", "dev", "var", "data", "home"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/shadow"), "root:*:19000:0:99999:7:::\n")?;
    Ok(fs::write(root.join("etc/gshadow"), "root:*::\n")?)
}

fn pack(root: &Path, tar: &Path) -> Result<()> {
    let partial = tar.with_extension("partial");
    run(cmd("tar", ["--owner=0", "--group=0", "-C"]).arg(root).arg("-cf").arg(&partial).arg("."))?;
    Ok(fs::rename(partial, tar)?)
}
