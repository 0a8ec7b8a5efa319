//! Gives out what there is only one of: subnets, VXLAN identifiers, addresses, ports.
//! What cannot be given yet leaves its waiter with the reason.

mod addresses;
mod networks;
mod services;
mod tasks;

pub(crate) use addresses::{Family, any_is_nearly_full, first_host, is_overlay, overlapping};
pub(crate) use networks::{VNI_MIN, VNI_OPTION, free_subnet, free_subnet_ipv6, has_family, networks, wanted_vni};
pub(crate) use services::services;
pub(crate) use tasks::{nodes, tasks};
