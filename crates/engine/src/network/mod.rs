//! Local networks and the addresses of their endpoints. Records live in
//! `<data root>/network/networks.json`; the kernel's side is netd's.
