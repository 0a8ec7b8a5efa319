//! Which features a kernel has, from its configuration and modules. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// How a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Built in, or its module is loaded.
    There,
    /// Its module is loaded when it is asked for.
    OnDemand,
    Missing,
    /// The kernel does not tell.
    Unknown,
}

/// A feature that skep uses.
pub(super) struct Feature {
    /// As the kernel's configuration names it, without `CONFIG_`.
    pub(super) option: &'static str,
    /// Its module, empty where it can only be built in.
    pub(super) module: &'static str,
    /// Without it nothing works.
    pub(super) required: bool,
    /// What does not work without it.
    pub(super) cost: &'static str,
}

const fn must(option: &'static str, module: &'static str, cost: &'static str) -> Feature {
    Feature { option, module, required: true, cost }
}

const fn may(option: &'static str, module: &'static str, cost: &'static str) -> Feature {
    Feature { option, module, required: false, cost }
}

pub(super) const FEATURES: &[Feature] = &[
    must("OVERLAY_FS", "overlay", "no container gets a file system"),
    must("NAMESPACES", "", "no container can be isolated"),
    must("PID_NS", "", "no container can be isolated"),
    must("NET_NS", "", "no container gets a network of its own"),
    must("VETH", "veth", "containers cannot be connected to networks"),
    must("BRIDGE", "bridge", "no bridge networks, which is what containers join by default"),
    must("NF_TABLES", "nf_tables", "no published ports, no way out for containers"),
    must("NFT_NAT", "nft_chain_nat", "no published ports"),
    must("NFT_MASQ", "nft_masq", "containers cannot reach other machines"),
    must("NFT_CT", "nft_ct", "answers to containers are not let in"),
    must("NF_CONNTRACK", "nf_conntrack", "no published ports"),
    may("NFT_NUMGEN", "nft_numgen", "connections are not spread over a service's tasks where IPVS is missing too"),
    may("VXLAN", "vxlan", "no overlay networks: services of a swarm cannot reach other nodes"),
    may(
        "IP_VS",
        "ip_vs",
        "services are balanced by nftables instead, which is as good for few and slower for thousands of tasks",
    ),
    may("INET_ESP", "esp4", "overlay networks with --opt encrypted cannot be made"),
    may("MACVLAN", "macvlan", "no macvlan networks"),
    may("SECCOMP_FILTER", "", "containers may make every system call: run nothing you do not trust"),
    may("USER_NS", "", "no user namespaces"),
    may("MEMCG", "", "--memory limits nothing"),
    may("CFS_BANDWIDTH", "", "--cpus limits nothing"),
    may("CGROUP_PIDS", "", "--pids-limit limits nothing"),
    may("CPUSETS", "", "--cpuset-cpus has no effect"),
    may("BLK_CGROUP", "", "no limits of disk traffic"),
    may("CGROUP_FREEZER", "", "pause does not work on cgroup v1"),
    may("IPV6", "ipv6", "no networks with IPv6"),
    may("FUSE_FS", "fuse", "volumes of the driver sshfs cannot be mounted"),
    may("NFS_FS", "nfs", "volumes with type=nfs cannot be mounted"),
];

/// What is known of a kernel.
#[derive(Debug, Default, Clone)]
pub(super) struct Kernel {
    pub(super) release: String,
    /// `OVERLAY_FS` to `y` or `m`; `None` where the kernel keeps its configuration to itself.
    pub(super) options: Option<BTreeMap<String, String>>,
    /// Names with `_` for `-`.
    pub(super) loaded: BTreeSet<String>,
    /// Names of modules that could be loaded, and of those that are built in.
    pub(super) available: BTreeSet<String>,
}

impl Kernel {
    pub(super) fn presence(&self, feature: &Feature) -> Presence {
        let is = |set: &BTreeSet<String>| !feature.module.is_empty() && set.contains(feature.module);
        if is(&self.loaded) {
            return Presence::There;
        }
        let option = self.options.as_ref().map(|options| options.get(feature.option).map(String::as_str));
        match option {
            Some(Some("y")) => Presence::There,
            Some(Some("m")) if is(&self.available) => Presence::OnDemand,
            Some(_) => Presence::Missing,
            None if is(&self.available) => Presence::OnDemand,
            None => Presence::Unknown,
        }
    }
}

/// `CONFIG_X=y` lines.
pub(super) fn options(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Names out of `modules.dep` or `modules.builtin`: `kernel/net/bridge/bridge.ko.xz: ...`.
pub(super) fn modules(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let path = line.split(':').next()?;
        let file = path.rsplit('/').next()?;
        Some(file.split(".ko").next()?.replace('-', "_")).filter(|name| !name.is_empty())
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_there_when_built_in_or_loaded_and_on_demand_when_its_module_lies_ready() {
        let feature = must("VXLAN", "vxlan", "");
        let kernel = |config: Option<&str>, loaded: &[&str], available: &[&str]| Kernel {
            release: "6".into(),
            options: config.map(options),
            loaded: loaded.iter().map(|name| (*name).to_owned()).collect(),
            available: available.iter().map(|name| (*name).to_owned()).collect(),
        };
        let check = |config: Option<&str>, loaded: &[&str], available: &[&str], expect: Presence| {
            assert_eq!(
                kernel(config, loaded, available).presence(&feature),
                expect,
                "{config:?} {loaded:?} {available:?}"
            );
        };
        check(Some("CONFIG_VXLAN=y"), &[], &[], Presence::There);
        check(Some("CONFIG_VXLAN=m"), &[], &["vxlan"], Presence::OnDemand);
        check(Some("CONFIG_VXLAN=m"), &[], &[], Presence::Missing);
        check(Some("# CONFIG_VXLAN is not set"), &[], &[], Presence::Missing);
        check(None, &["vxlan"], &[], Presence::There);
        check(None, &[], &["vxlan"], Presence::OnDemand);
        check(None, &[], &[], Presence::Unknown);
    }

    #[test]
    fn module_lists_are_read() {
        let found = modules("kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko\nkernel/net/ipv4/nf-x.ko.xz:\n\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["bridge", "nf_x"]);
    }
}
