//! Users and groups of a container, from its own `/etc/passwd` and `/etc/group`.

use skep_model::{Error, Result};

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user[:group]` (names or numbers, empty for root) and extra groups.
///
/// # Errors
/// A name that the files do not know, in Docker's words.
pub(crate) fn resolve(wanted: &str, extra_groups: &[String], passwd: &str, group: &str) -> Result<User> {
    let (user, group_wanted) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let number = user.parse::<u32>().ok();
    let by_name = |entry: &PasswdEntry<'_>| {
        if user.is_empty() { entry.uid == 0 } else { entry.name == user || number == Some(entry.uid) }
    };
    let entry = passwd_entries(passwd).find(by_name);
    let mut resolved = match (&entry, number) {
        (Some(entry), _) => {
            User { uid: entry.uid, gid: entry.gid, groups: groups_of(entry.name, group), home: entry.home.to_owned() }
        }
        (None, Some(uid)) => User { uid, home: "/".into(), ..User::default() },
        (None, None) if user.is_empty() => User { home: "/root".into(), ..User::default() },
        (None, None) => {
            return Err(Error::invalid(format!("unable to find user {user}: no matching entries in passwd file")));
        }
    };
    if let Some(wanted) = group_wanted {
        resolved.gid = group_number(wanted, group)?;
        // An explicit group replaces all that the files say.
        resolved.groups.clear();
    }
    for extra in extra_groups {
        let gid = group_number(extra, group)?;
        if !resolved.groups.contains(&gid) {
            resolved.groups.push(gid);
        }
    }
    if resolved.home.is_empty() {
        resolved.home = "/".into();
    }
    Ok(resolved)
}

fn group_number(wanted: &str, group: &str) -> Result<u32> {
    let known = group_entries(group).find(|entry| entry.name == wanted).map(|entry| entry.gid);
    known
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| Error::invalid(format!("unable to find group {wanted}: no matching entries in group file")))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    group_entries(group)
        .filter(|entry| entry.members.split(',').any(|member| member.trim() == user))
        .map(|entry| entry.gid)
        .collect()
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(PasswdEntry { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupEntry { name, gid, members: fields.next().unwrap_or_default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no\nbroken\nweb:x:33:34:web:/srv:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nwww:x:34:\naudio:x:29:\n";

    fn check(wanted: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let expect = User { uid, gid, groups: groups.to_vec(), home: home.into() };
        assert_eq!(resolve(wanted, &[], PASSWD, GROUP).unwrap(), expect, "{wanted}");
    }

    #[test]
    fn names_and_numbers_resolve() {
        check("", 0, 0, &[10], "/root");
        check("web", 33, 34, &[10], "/srv");
        check("33", 33, 34, &[10], "/srv");
        check("web:audio", 33, 29, &[], "/srv");
        check("1000", 1000, 0, &[], "/");
        check("1000:1000", 1000, 1000, &[], "/");
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = resolve("nobody", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(error.message, "unable to find user nobody: no matching entries in passwd file");
        assert!(resolve("web:nogroup", &[], PASSWD, GROUP).is_err());
    }

    #[test]
    fn extra_groups_are_added_once() {
        let extra = ["wheel".to_owned(), "77".to_owned()];
        assert_eq!(resolve("web", &extra, PASSWD, GROUP).unwrap().groups, [10, 77]);
    }
}
