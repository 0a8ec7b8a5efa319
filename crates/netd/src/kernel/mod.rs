//! The kernel's side: netlink sockets, network namespaces and sysctls. Everything
//! here is synchronous and belongs to netd's one worker thread; nothing decides.

pub mod apply;
pub mod conntrack;
pub mod counters;
pub mod events;
pub mod ipvs;
pub mod neighbour;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod observe;
pub mod place;
pub mod policy;
pub mod route;
pub mod sysctl;
