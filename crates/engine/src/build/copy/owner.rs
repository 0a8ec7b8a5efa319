//! `--chown`: names from the image's own `/etc/passwd` and `/etc/group`.

use super::super::error::{BuildError, BuildResult};
use std::io::Read;

/// Bytes read of an image's passwd or group file.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// User and group id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// `user[:group]`; without a group the user's text names the group too. To be called
/// inside the image's tree.
pub(crate) fn resolve(chown: &str) -> BuildResult<Owner> {
    parse(chown, || accounts("/etc/passwd"), || accounts("/etc/group")).map_err(BuildError::Instruction)
}

fn accounts(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What cannot be read holds no account; the lookup then says which is missing.
        let _ = file.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn parse(chown: &str, passwd: impl Fn() -> String, group: impl Fn() -> String) -> Result<Owner, String> {
    let (user, group_name) = chown.split_once(':').unwrap_or((chown, chown));
    let (user, group_name) = if group_name.is_empty() { (user, user) } else { (user, group_name) };
    let uid = number(user)
        .or_else(|| lookup(&passwd(), user))
        .ok_or_else(|| format!("unable to convert uid/gid chown string to host mapping: can't find uid for user {user}: no such user: {user}"))?;
    let gid = number(group_name)
        .or_else(|| lookup(&group(), group_name))
        .ok_or_else(|| format!("unable to convert uid/gid chown string to host mapping: can't find gid for group {group_name}: no such group: {group_name}"))?;
    Ok(Owner { uid, gid })
}

/// The reserved id -1 means "unchanged" to the kernel, so it is nobody's.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

/// The third field of the line whose first is `name`, in either file.
fn lookup(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(number)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chown: &str, expect: Result<(u32, u32), &str>) {
        let passwd = || "root:x:0:0:root:/:/bin/sh\napp:x:1000:1001::/:\n".to_owned();
        let group = || "root:x:0:\napp:x:1001:\nweb:x:33:app\n".to_owned();
        match (parse(chown, passwd, group), expect) {
            (Ok(owner), Ok(expect)) => assert_eq!((owner.uid, owner.gid), expect, "{chown}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, _) => panic!("{chown}: {got:?}"),
        }
    }

    #[test]
    fn names_and_numbers() {
        check("app", Ok((1000, 1001)));
        check("app:web", Ok((1000, 33)));
        check("55", Ok((55, 55)));
        check("5:web", Ok((5, 33)));
        check("nobody", Err("no such user: nobody"));
        check("app:nope", Err("no such group: nope"));
        check("4294967295", Err("no such user"));
    }
}
