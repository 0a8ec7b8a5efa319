//! Writable root filesystems on top of image layers: directories for the shim to
//! mount as overlayfs, and short-lived mounts of our own for `cp`, `diff`, build steps.
//!
//! Below `<data root>/overlay/<container id>`: `diff/` (upper), `work/`, `merged/`.
