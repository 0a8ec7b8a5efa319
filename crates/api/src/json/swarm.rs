//! The swarm itself: init, join, settings, tokens; and the parts that every swarm object has.

use super::mount::Driver;
use super::{Redacted, duration, nanos, unsupported, wire, zero};
use crate::backend::{InitRequest, JoinRequest};
use serde::Serialize;
use skep_model::cluster::{Cluster, ClusterSpec, ExternalCa as ModelExternalCa, Meta as ModelMeta, SecretBytes};
use skep_model::node::{Availability, NodeDescription};
use skep_model::{Error, Result};
use std::collections::BTreeMap;

/// The one protocol of external CAs.
const CA_PROTOCOL: &str = "cfssl";
/// Ports that VXLAN may use.
const DATA_PATH_PORTS: std::ops::RangeInclusive<u32> = 1024..=49151;

/// Version and times, flattened into every object.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Meta {
    version: Version,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Version {
    pub(crate) index: u64,
}

impl Meta {
    pub(crate) fn of(meta: &ModelMeta) -> Self {
        Self {
            version: Version { index: meta.version },
            created_at: meta.created_at.to_rfc3339(),
            updated_at: meta.updated_at.to_rfc3339(),
        }
    }
}

wire!(
    SwarmSpec {
        #[serde(skip_serializing_if = "zero")]
        name: String,
        labels: Option<BTreeMap<String, String>>,
        orchestration: Orchestration,
        raft: Raft,
        dispatcher: Dispatcher,
        #[serde(rename = "CAConfig")]
        ca_config: CaConfig,
        task_defaults: TaskDefaults,
        encryption_config: EncryptionConfig,
    }
);
wire!(Orchestration { #[serde(skip_serializing_if = "zero")] task_history_retention_limit: Option<i64> });
wire!(
    Raft {
        #[serde(skip_serializing_if = "zero")]
        snapshot_interval: u64,
        #[serde(skip_serializing_if = "zero")]
        keep_old_snapshots: Option<u64>,
        #[serde(skip_serializing_if = "zero")]
        log_entries_for_slow_followers: u64,
        election_tick: u32,
        heartbeat_tick: u32,
    }
);
wire!(Dispatcher {
    #[serde(skip_serializing_if = "zero")]
    heartbeat_period: i64
});
wire!(
    CaConfig {
        #[serde(skip_serializing_if = "zero")]
        node_cert_expiry: i64,
        #[serde(rename = "ExternalCAs", skip_serializing_if = "zero")]
        external_cas: Vec<ExternalCa>,
        #[serde(rename = "SigningCACert", skip_serializing_if = "zero")]
        signing_ca_cert: String,
        #[serde(rename = "SigningCAKey", skip_serializing)]
        signing_ca_key: Redacted,
        #[serde(skip_serializing_if = "zero")]
        force_rotate: u64,
    }
);
wire!(
    ExternalCa {
        protocol: String,
        #[serde(rename = "URL")]
        url: String,
        #[serde(skip_serializing_if = "zero")]
        options: BTreeMap<String, String>,
        #[serde(rename = "CACert")]
        ca_cert: String,
    }
);
wire!(TaskDefaults { #[serde(skip_serializing_if = "zero")] log_driver: Option<Driver> });
wire!(EncryptionConfig { auto_lock_managers: bool });

impl SwarmSpec {
    /// What is set here over what is `present`; zero and absent keep it.
    ///
    /// # Errors
    /// Settings that are malformed or that skep does not have.
    pub(crate) fn merge(self, present: &ClusterSpec) -> Result<ClusterSpec> {
        if !matches!(self.name.as_str(), "" | "default") {
            return Err(Error::invalid(r#"invalid swarm spec: expected name to be "default""#));
        }
        super::refuse(&[(
            "TaskDefaults.LogDriver",
            self.task_defaults.log_driver.is_some_and(|d| d != Driver::default()),
        )])?;
        let mut spec = present.clone();
        if let Some(labels) = self.labels {
            spec.labels = labels;
        }
        if let Some(limit) = self.orchestration.task_history_retention_limit {
            spec.task_history_retention_limit = limit;
        }
        keep_zero(&mut spec.snapshot_interval, self.raft.snapshot_interval);
        if let Some(count) = self.raft.keep_old_snapshots {
            spec.keep_old_snapshots = count;
        }
        keep_zero(&mut spec.log_entries_for_slow_followers, self.raft.log_entries_for_slow_followers);
        keep_zero(&mut spec.election_tick, self.raft.election_tick);
        keep_zero(&mut spec.heartbeat_tick, self.raft.heartbeat_tick);
        if spec.heartbeat_tick >= spec.election_tick {
            return Err(Error::invalid("invalid raft configuration: ElectionTick must be greater than HeartbeatTick"));
        }
        keep_zero(&mut spec.heartbeat_period, duration("HeartbeatPeriod", self.dispatcher.heartbeat_period)?);
        keep_zero(&mut spec.node_cert_expiry, duration("NodeCertExpiry", self.ca_config.node_cert_expiry)?);
        spec.ca_force_rotate = spec.ca_force_rotate.max(self.ca_config.force_rotate);
        spec.external_cas =
            self.ca_config.external_cas.into_iter().map(ExternalCa::into_model).collect::<Result<_>>()?;
        spec.signing_ca_cert = self.ca_config.signing_ca_cert;
        spec.signing_ca_key = SecretBytes(self.ca_config.signing_ca_key.0.into_bytes());
        spec.auto_lock_managers = self.encryption_config.auto_lock_managers;
        Ok(spec)
    }

    pub(crate) fn of(spec: &ClusterSpec) -> Self {
        Self {
            name: spec.name.clone(),
            labels: Some(spec.labels.clone()),
            orchestration: Orchestration { task_history_retention_limit: Some(spec.task_history_retention_limit) },
            raft: Raft {
                snapshot_interval: spec.snapshot_interval,
                keep_old_snapshots: Some(spec.keep_old_snapshots),
                log_entries_for_slow_followers: spec.log_entries_for_slow_followers,
                election_tick: spec.election_tick,
                heartbeat_tick: spec.heartbeat_tick,
            },
            dispatcher: Dispatcher { heartbeat_period: nanos(spec.heartbeat_period) },
            ca_config: CaConfig {
                node_cert_expiry: nanos(spec.node_cert_expiry),
                force_rotate: spec.ca_force_rotate,
                external_cas: spec.external_cas.iter().map(ExternalCa::of).collect(),
                signing_ca_cert: spec.signing_ca_cert.clone(),
                ..CaConfig::default()
            },
            task_defaults: TaskDefaults::default(),
            encryption_config: EncryptionConfig { auto_lock_managers: spec.auto_lock_managers },
        }
    }
}

impl ExternalCa {
    fn into_model(self) -> Result<ModelExternalCa> {
        if self.protocol != CA_PROTOCOL {
            return Err(Error::invalid(format!("invalid CAProtocol: {:?}", self.protocol)));
        }
        if !self.url.starts_with("https://") {
            return Err(Error::invalid(format!(
                "invalid URL of an external CA: {:?} must begin with https://",
                self.url
            )));
        }
        Ok(ModelExternalCa { url: self.url, options: self.options, ca_cert: self.ca_cert })
    }

    fn of(external: &ModelExternalCa) -> Self {
        let ModelExternalCa { url, options, ca_cert } = external.clone();
        Self { protocol: CA_PROTOCOL.into(), url, options, ca_cert }
    }
}

fn keep_zero<T: Default + PartialEq>(present: &mut T, wanted: T) {
    if wanted != T::default() {
        *present = wanted;
    }
}

wire!(
    InitBody {
        listen_addr: String,
        advertise_addr: String,
        data_path_addr: String,
        data_path_port: u32,
        force_new_cluster: bool,
        spec: SwarmSpec,
        auto_lock_managers: bool,
        availability: String,
        default_addr_pool: Vec<String>,
        subnet_size: u32,
    }
);

impl InitBody {
    /// # Errors
    /// Malformed pools, ports, sizes or settings.
    pub(crate) fn into_model(self) -> Result<InitRequest> {
        if self.data_path_port != 0 && !DATA_PATH_PORTS.contains(&self.data_path_port) {
            return Err(Error::invalid(
                "Datapath port number must be in valid range (>=1024 and <=49151) or can be 0 to use default port 4789",
            ));
        }
        let pools = self.default_addr_pool.iter().map(|text| {
            text.parse().map_err(|_| Error::invalid(format!("invalid CIDR address in DefaultAddrPool: {text}")))
        });
        let Ok(subnet_size) = u8::try_from(self.subnet_size) else {
            return Err(Error::invalid(format!("subnet size {} is not a prefix length", self.subnet_size)));
        };
        if subnet_size != 0 && !(8..=29).contains(&subnet_size) {
            return Err(Error::invalid(format!("subnet size {subnet_size} must be between 8 and 29")));
        }
        let auto_lock = self.auto_lock_managers || self.spec.encryption_config.auto_lock_managers;
        let mut spec = self.spec.merge(&ClusterSpec::default())?;
        spec.auto_lock_managers = auto_lock;
        Ok(InitRequest {
            listen_addr: self.listen_addr,
            advertise_addr: self.advertise_addr,
            data_path_addr: self.data_path_addr,
            data_path_port: u16::try_from(self.data_path_port).unwrap_or_default(),
            default_addr_pool: pools.collect::<Result<_>>()?,
            subnet_size,
            availability: read_availability(&self.availability)?,
            force_new_cluster: self.force_new_cluster,
            spec,
            restore: None,
        })
    }
}

wire!(
    JoinBody {
        listen_addr: String,
        advertise_addr: String,
        data_path_addr: String,
        remote_addrs: Vec<String>,
        join_token: Redacted,
        availability: String,
    }
);

impl JoinBody {
    /// # Errors
    /// No address or no token to join with.
    pub(crate) fn into_model(self) -> Result<JoinRequest> {
        if self.remote_addrs.is_empty() {
            return Err(Error::invalid("at least 1 RemoteAddr is required to join"));
        }
        if self.join_token.0.is_empty() {
            return Err(Error::invalid("a join token is required to join"));
        }
        Ok(JoinRequest {
            listen_addr: self.listen_addr,
            advertise_addr: self.advertise_addr,
            data_path_addr: self.data_path_addr,
            remote_addrs: self.remote_addrs,
            join_token: self.join_token.0,
            availability: read_availability(&self.availability)?,
        })
    }
}

wire!(UnlockBody { unlock_key: Redacted });

/// # Errors
/// The word is none of the three.
pub(crate) fn read_availability(text: &str) -> Result<Availability> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(Error::invalid(format!("invalid Availability: {other:?}"))),
    }
}

/// `GET /swarm`, and without tokens `.Swarm.Cluster` of `/info`.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterInfo {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Spec")]
    spec: SwarmSpec,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo,
    #[serde(rename = "RootRotationInProgress")]
    root_rotation_in_progress: bool,
    #[serde(rename = "DefaultAddrPool")]
    default_addr_pool: Option<Vec<String>>,
    #[serde(rename = "SubnetSize")]
    subnet_size: u8,
    #[serde(rename = "DataPathPort")]
    data_path_port: u16,
    #[serde(rename = "JoinTokens", skip_serializing_if = "Option::is_none")]
    join_tokens: Option<JoinTokens>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct JoinTokens {
    worker: String,
    manager: String,
}

/// Whom a node trusts; DER in base64.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TlsInfo {
    #[serde(skip_serializing_if = "zero")]
    pub(crate) trust_root: String,
    #[serde(skip_serializing_if = "zero")]
    pub(crate) cert_issuer_subject: String,
    #[serde(skip_serializing_if = "zero")]
    pub(crate) cert_issuer_public_key: String,
}

impl TlsInfo {
    pub(crate) fn of(description: &NodeDescription) -> Self {
        Self {
            trust_root: description.trust_root_pem.clone(),
            cert_issuer_subject: base64(&description.cert_issuer_subject_der),
            cert_issuer_public_key: base64(&description.cert_issuer_public_key_der),
        }
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

impl ClusterInfo {
    /// `trust` is what a node tells of itself that trusts and was certified as the swarm wants.
    pub(crate) fn of(cluster: &Cluster, trust: &NodeDescription, with_tokens: bool) -> Self {
        let pools: Vec<String> = cluster.default_address_pools.iter().map(ToString::to_string).collect();
        Self {
            id: cluster.id.to_string(),
            meta: Meta::of(&cluster.meta),
            spec: SwarmSpec::of(&cluster.spec),
            tls_info: TlsInfo::of(trust),
            root_rotation_in_progress: cluster.root_ca.rotation.is_some(),
            default_addr_pool: super::list_or_null(pools),
            subnet_size: cluster.subnet_size,
            data_path_port: cluster.data_path_port,
            join_tokens: with_tokens.then(|| JoinTokens {
                worker: cluster.root_ca.worker_token.clone(),
                manager: cluster.root_ca.manager_token.clone(),
            }),
        }
    }
}

/// A driver in specs; only one name is possible.
pub(crate) fn only_driver(field: &str, driver: Option<&Driver>, allowed: &[&str]) -> Result<()> {
    match driver {
        Some(driver) if !allowed.contains(&driver.name.as_str()) => {
            Err(unsupported(&format!("{field} {:?}", driver.name)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sample_spec() -> Value {
        json!({
            "Name": "default", "Labels": {}, "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 0, "LogEntriesForSlowFollowers": 500,
                     "ElectionTick": 10, "HeartbeatTick": 1},
            "Dispatcher": {"HeartbeatPeriod": 5_000_000_000i64}, "CAConfig": {"NodeCertExpiry": 7_776_000_000_000_000i64},
            "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": false}
        })
    }

    fn merge(value: Value) -> Result<ClusterSpec> {
        serde_json::from_value::<SwarmSpec>(value).unwrap().merge(&ClusterSpec::default())
    }

    #[test]
    fn the_default_spec_prints_like_dockers_and_comes_back() {
        assert_eq!(serde_json::to_value(SwarmSpec::of(&ClusterSpec::default())).unwrap(), sample_spec());
        assert_eq!(merge(sample_spec()).unwrap(), ClusterSpec::default());
    }

    #[test]
    fn zero_and_absent_keep_what_is_there() {
        assert_eq!(merge(json!({})).unwrap(), ClusterSpec::default());
        let changed =
            merge(json!({"Orchestration": {"TaskHistoryRetentionLimit": 0}, "Raft": {"SnapshotInterval": 7}}));
        let changed = changed.unwrap();
        assert_eq!((changed.task_history_retention_limit, changed.snapshot_interval), (0, 7));
        assert_eq!(changed.log_entries_for_slow_followers, 500);
    }

    #[test]
    fn unsupported_settings_are_refused() {
        for bad in [
            json!({"Name": "x"}),
            json!({"CAConfig": {"ExternalCAs": [{"URL": "https://x"}]}}),
            json!({"CAConfig": {"ExternalCAs": [{"Protocol": "cfssl", "URL": "http://x"}]}}),
            json!({"TaskDefaults": {"LogDriver": {"Name": "syslog"}}}),
            json!({"Raft": {"ElectionTick": 1}}),
            json!({"Dispatcher": {"HeartbeatPeriod": -1}}),
        ] {
            assert!(merge(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn external_cas_come_back_as_they_were_given() {
        let given = json!([{"Protocol": "cfssl", "URL": "https://ca/sign", "Options": {"a": "b"}, "CACert": "PEM"}]);
        let spec = merge(json!({"CAConfig": {"ExternalCAs": given}})).unwrap();
        assert_eq!(spec.external_cas[0].ca_cert, "PEM");
        assert_eq!(serde_json::to_value(SwarmSpec::of(&spec)).unwrap()["CAConfig"]["ExternalCAs"], given);
    }

    #[test]
    fn init_requests() {
        let read = |value| serde_json::from_value::<InitBody>(value).unwrap().into_model();
        let request = read(json!({
            "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.0.0.1", "DataPathAddr": "", "DataPathPort": 0,
            "DefaultAddrPool": null, "ForceNewCluster": false, "AutoLockManagers": true, "SubnetSize": 24,
            "Availability": "drain", "Spec": {"Labels": null, "Raft": {"ElectionTick": 0, "HeartbeatTick": 0}}
        }))
        .unwrap();
        assert!(request.spec.auto_lock_managers && request.availability == Availability::Drain);
        for bad in [
            json!({"DataPathPort": 80}),
            json!({"SubnetSize": 31}),
            json!({"SubnetSize": 300}),
            json!({"DefaultAddrPool": ["10.0.0.0"]}),
            json!({"Availability": "asleep"}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
        let join = |value| serde_json::from_value::<JoinBody>(value).unwrap().into_model();
        assert!(join(json!({"JoinToken": "t"})).is_err() && join(json!({"RemoteAddrs": ["a:2377"]})).is_err());
    }

    #[test]
    fn the_key_of_the_root_never_leaves() {
        let mut cluster = Cluster::default();
        cluster.root_ca.key_pem = "PRIVATE".into();
        cluster.root_ca.worker_token = "SWMTKN-w".into();
        let with = serde_json::to_string(&ClusterInfo::of(&cluster, &NodeDescription::default(), true)).unwrap();
        let without = serde_json::to_string(&ClusterInfo::of(&cluster, &NodeDescription::default(), false)).unwrap();
        assert!(with.contains("SWMTKN-w") && !without.contains("SWMTKN-w"));
        assert!(!with.contains("PRIVATE") && !without.contains("JoinTokens"));
    }
}
