//! skep-compose
