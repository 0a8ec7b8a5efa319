//! skep-identity
