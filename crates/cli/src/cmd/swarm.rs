//! Verbs on the swarm itself.

use super::{swarm_backup, swarm_ca, swarm_lock};
use crate::client::query;
use crate::flags::swarm::{Init, Join, JoinToken, Leave, Settings, Swarm, Update};
use crate::format::text;
use crate::{Client, Outcome, parse};
use serde_json::{Value, json};

pub(crate) async fn dispatch(client: &Client, verb: Swarm) -> Outcome {
    match verb {
        Swarm::Backup(flags) => swarm_backup::backup(client, &flags).await,
        Swarm::Ca(flags) => swarm_ca::run(client, &flags).await,
        Swarm::Init(flags) => init(client, &flags).await,
        Swarm::Join(flags) => join(client, &flags).await,
        Swarm::JoinToken(flags) => join_token(client, &flags).await,
        Swarm::Leave(flags) => leave(client, &flags).await,
        Swarm::Restore(flags) => swarm_backup::restore(client, &flags).await,
        Swarm::Unlock => swarm_lock::unlock(client).await,
        Swarm::UnlockKey(flags) => swarm_lock::unlock_key(client, &flags).await,
        Swarm::Update(flags) => update(client, &flags).await,
    }
}

async fn init(client: &Client, flags: &Init) -> Outcome {
    let mut spec = json!({});
    apply(&mut spec, &flags.settings)?;
    spec["EncryptionConfig"]["AutoLockManagers"] = flags.autolock.into();
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "DataPathPort": flags.data_path_port,
        "DefaultAddrPool": flags.default_addr_pool,
        "SubnetSize": flags.default_addr_pool_mask_length,
        "Availability": flags.availability,
        "ForceNewCluster": flags.force_new_cluster,
        "AutoLockManagers": flags.autolock,
        "Spec": spec,
    });
    let id = text(&client.post("/swarm/init", body).await?);
    println!("Swarm initialized: current node ({id}) is now a manager.\n");
    print_join_command(client, "worker").await?;
    println!("To add a manager to this swarm, run 'skep swarm join-token manager' and follow the instructions.\n");
    if flags.autolock {
        swarm_lock::print_key(&swarm_lock::read_key(client).await?);
    }
    Ok(())
}

fn apply(spec: &mut Value, settings: &Settings) -> anyhow::Result<()> {
    if !settings.external_ca.is_empty() {
        spec["CAConfig"]["ExternalCAs"] = swarm_ca::external_cas(&settings.external_ca)?.into();
    }
    if let Some(expiry) = &settings.cert_expiry {
        spec["CAConfig"]["NodeCertExpiry"] = parse::duration_ns(expiry)?.into();
    }
    if let Some(period) = &settings.dispatcher_heartbeat {
        spec["Dispatcher"]["HeartbeatPeriod"] = parse::duration_ns(period)?.into();
    }
    if let Some(count) = settings.max_snapshots {
        spec["Raft"]["KeepOldSnapshots"] = count.into();
    }
    if let Some(interval) = settings.snapshot_interval {
        spec["Raft"]["SnapshotInterval"] = interval.into();
    }
    if let Some(limit) = settings.task_history_limit {
        spec["Orchestration"]["TaskHistoryRetentionLimit"] = limit.into();
    }
    Ok(())
}

async fn print_join_command(client: &Client, role: &str) -> Outcome {
    let swarm = client.get("/swarm").await?;
    let info = client.get("/info").await?;
    let token = text(&swarm["JoinTokens"][capital_role(role)]);
    let node = text(&info["Swarm"]["NodeID"]);
    let managers = info["Swarm"]["RemoteManagers"].as_array().cloned().unwrap_or_default();
    let address = managers.iter().find(|m| text(&m["NodeID"]) == node).map(|m| text(&m["Addr"])).unwrap_or_default();
    println!(
        "To add a {role} to this swarm, run the following command:\n\n    skep swarm join --token {token} {address}\n"
    );
    Ok(())
}

fn capital_role(role: &str) -> &'static str {
    if role == "manager" { "Manager" } else { "Worker" }
}

async fn join(client: &Client, flags: &Join) -> Outcome {
    let body = json!({
        "ListenAddr": flags.listen_addr,
        "AdvertiseAddr": flags.advertise_addr,
        "DataPathAddr": flags.data_path_addr,
        "RemoteAddrs": [flags.remote],
        "JoinToken": flags.token,
        "Availability": flags.availability,
    });
    client.post("/swarm/join", body).await?;
    let info = client.get("/info").await?;
    let role = if info["Swarm"]["ControlAvailable"] == true { "manager" } else { "worker" };
    println!("This node joined a swarm as a {role}.");
    Ok(())
}

async fn join_token(client: &Client, flags: &JoinToken) -> Outcome {
    if flags.rotate {
        let swarm = client.get("/swarm").await?;
        let version = swarm["Version"]["Index"].to_string();
        let rotate = if flags.role == "manager" { "rotateManagerToken" } else { "rotateWorkerToken" };
        client
            .post(&format!("/swarm/update{}", query(&[("version", &version), (rotate, "true")])), swarm["Spec"].clone())
            .await?;
        if !flags.quiet {
            println!("Successfully rotated {} join token.\n", flags.role);
        }
    }
    if flags.quiet {
        let swarm = client.get("/swarm").await?;
        println!("{}", text(&swarm["JoinTokens"][capital_role(&flags.role)]));
        return Ok(());
    }
    print_join_command(client, &flags.role).await
}

async fn leave(client: &Client, flags: &Leave) -> Outcome {
    client
        .post(&format!("/swarm/leave{}", query(&[("force", if flags.force { "1" } else { "" })])), Value::Null)
        .await?;
    println!("Node left the swarm.");
    Ok(())
}

async fn update(client: &Client, flags: &Update) -> Outcome {
    let swarm = client.get("/swarm").await?;
    let mut spec = swarm["Spec"].clone();
    apply(&mut spec, &flags.settings)?;
    if let Some(autolock) = flags.autolock {
        spec["EncryptionConfig"]["AutoLockManagers"] = autolock.into();
    }
    let version = swarm["Version"]["Index"].to_string();
    client.post(&format!("/swarm/update{}", query(&[("version", &version)])), spec).await?;
    println!("Swarm updated.");
    let was_locked = swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"] == true;
    if flags.autolock == Some(true) && !was_locked {
        swarm_lock::print_key(&swarm_lock::read_key(client).await?);
    }
    Ok(())
}
