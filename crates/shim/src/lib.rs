//! skep-shim
