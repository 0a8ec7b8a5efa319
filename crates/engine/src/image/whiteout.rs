//! How a layer says that something of the layers below is gone: in a tar by `.wh.`
//! names, in overlayfs by character devices 0/0 and an attribute on directories.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The directory hides what the layers below have under it.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// overlayfs's own attributes; never copied from or to a tar.
pub(crate) const OVERLAY_XATTR_PREFIX: &[u8] = b"trusted.overlay.";

const PREFIX: &[u8] = b".wh.";
const METADATA_PREFIX: &[u8] = b".wh..wh.";
/// In a tar, the name that makes its directory opaque.
pub(crate) const OPAQUE_NAME: &str = ".wh..wh..opq";

/// What a name in a tar means beyond being a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// The directory that holds it is opaque.
    Opaque,
    /// The given name of the layers below is deleted.
    Whiteout(&'a OsStr),
    /// Bookkeeping of aufs, of no meaning to others.
    Metadata,
    /// A whiteout of nothing, `.` or `..`.
    Illegal,
}

/// Reads a file name of a tar.
pub(crate) fn mark(name: &OsStr) -> Option<Mark<'_>> {
    let bytes = name.as_bytes();
    if bytes == OPAQUE_NAME.as_bytes() {
        return Some(Mark::Opaque);
    }
    if bytes.starts_with(METADATA_PREFIX) {
        return Some(Mark::Metadata);
    }
    Some(match bytes.strip_prefix(PREFIX)? {
        b"" | b"." | b".." => Mark::Illegal,
        hidden => Mark::Whiteout(OsStr::from_bytes(hidden)),
    })
}

/// The tar name that deletes `hidden`.
pub(crate) fn name_for(hidden: &OsStr) -> OsString {
    OsString::from_vec([PREFIX, hidden.as_bytes()].concat())
}

/// Attributes that belong to a file wherever it is stored. overlayfs's own would change
/// what other layers show, and security labels belong to one machine.
pub(crate) fn is_portable_xattr(name: &[u8]) -> bool {
    let starts = |prefix: &[u8]| name.starts_with(prefix);
    let known =
        starts(b"user.") || starts(b"trusted.") || starts(b"system.posix_acl_") || name == b"security.capability";
    known && !starts(OVERLAY_XATTR_PREFIX) && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: Option<Mark<'_>>) {
        assert_eq!(mark(OsStr::new(name)), expect, "{name}");
    }

    #[test]
    fn names_that_mean_deletion() {
        check(".wh.x", Some(Mark::Whiteout(OsStr::new("x"))));
        check(".wh..wh..opq", Some(Mark::Opaque));
        check(".wh..wh.plnk", Some(Mark::Metadata));
        check(".wh...", Some(Mark::Illegal));
        check(".wh.", Some(Mark::Illegal));
        check(".wha", None);
        assert_eq!(name_for(OsStr::new("x")), ".wh.x");
    }

    #[test]
    fn overlay_attributes_do_not_travel() {
        assert!(is_portable_xattr(b"user.x"));
        assert!(is_portable_xattr(b"security.capability"));
        assert!(!is_portable_xattr(b"trusted.overlay.redirect"));
        assert!(!is_portable_xattr(b"security.selinux"));
    }
}
