//! Compose files: not part of this version yet.
