//! Services: the user's wishes.

use super::service_check::{check, check_change};
use super::{check_version, exists, invalid, precondition};
use crate::command::{Object, Write};
use crate::ids::IdSource;
use crate::store::Store;
use skep_model::cluster::Meta;
use skep_model::id::{NetworkId, ServiceId};
use skep_model::network::Protocol;
use skep_model::service::{
    EndpointSpec, JobStatus, PortConfig, PublishMode, Service, ServiceSpec, UpdateState, UpdateStatus,
};
use skep_model::{Error, Result, Timestamp};
use std::sync::Arc;

/// Validates, checks name and port conflicts, resolves network targets to ids.
///
/// # Errors
/// The first rule that is broken, in the reference's words.
pub fn create_service(
    store: &Store,
    spec: ServiceSpec,
    now: Timestamp,
    ids: &mut dyn IdSource,
) -> Result<(ServiceId, Vec<Write>)> {
    check(store, &spec)?;
    let spec = with_network_ids(store, spec)?;
    check_ports(store, &spec.endpoint, None)?;
    check_ingress(store, &spec.endpoint)?;
    if store.service_by_name(&spec.name).is_some() {
        let text = format!("name conflicts with an existing object: service {} already exists", spec.name);
        return Err(exists(text));
    }
    let id = ServiceId(ids.swarm_id());
    let meta = Meta { version: 0, created_at: now, updated_at: now };
    let job_status = spec.mode.is_job().then_some(JobStatus { iteration: 0, last_execution: now });
    let service = Service { id: id.clone(), meta, spec, job_status, ..Service::default() };
    Ok((id, vec![Write::put(Object::Service(Box::new(service)))]))
}

/// A new spec, or with `rollback` the previous one (`spec` is not looked at then).
///
/// # Errors
/// As for `create_service`; mode and name must stay; the version must be the present one.
pub fn update_service(
    store: &Store,
    id: &ServiceId,
    version: u64,
    spec: ServiceSpec,
    rollback: bool,
    now: Timestamp,
) -> Result<Vec<Write>> {
    let present = find(store, id)?;
    check_version(present.meta.version, version)?;
    let mut service = (**present).clone();
    let before = service.spec.clone();
    if rollback {
        let Some(previous) = service.previous_spec.take() else {
            return Err(precondition(format!("service {id} does not have a previous spec")));
        };
        service.spec = *previous;
        service.update_status = (!before.mode.is_job()).then(|| UpdateStatus {
            state: UpdateState::RollbackStarted,
            started_at: now,
            completed_at: Timestamp::NEVER,
            message: "manually requested rollback".into(),
        });
    } else {
        check(store, &spec)?;
        check_change(&before, &spec)?;
        service.spec = with_network_ids(store, spec)?;
        service.update_status = None;
    }
    check_ports(store, &service.spec.endpoint, Some(id))?;
    check_ingress(store, &service.spec.endpoint)?;
    if service.spec.task != before.task || before.mode.is_job() {
        service.restarts.clear();
    }
    // Every update of a job runs it again, as in the reference.
    if let Some(job) = &mut service.job_status {
        *job = JobStatus { iteration: job.iteration + 1, last_execution: now };
    }
    service.previous_spec = Some(Box::new(before));
    Ok(vec![Write::put(Object::Service(Box::new(service)))])
}

/// Its name is free at once; it goes when its tasks have stopped.
///
/// # Errors
/// It does not exist.
pub fn remove_service(store: &Store, id: &ServiceId, _now: Timestamp) -> Result<Vec<Write>> {
    let mut service = (**find(store, id)?).clone();
    service.pending_delete = true;
    Ok(vec![Write::put(Object::Service(Box::new(service)))])
}

fn find<'a>(store: &'a Store, id: &ServiceId) -> Result<&'a Arc<Service>> {
    let present = store.service(id.as_str()).filter(|service| !service.pending_delete);
    present.ok_or_else(|| Error::not_found(format!("service {id} not found")))
}

/// Networks may be named; what is stored is ids.
fn with_network_ids(store: &Store, mut spec: ServiceSpec) -> Result<ServiceSpec> {
    let mut seen: Vec<NetworkId> = Vec::new();
    for config in &mut spec.task.networks {
        let by_id = store.network(&config.target).filter(|network| !network.pending_delete);
        let network = by_id.or_else(|| store.network_by_name(&config.target));
        let Some(network) = network else {
            return Err(Error::not_found(format!("network {} not found", config.target)));
        };
        if network.spec.ingress {
            let name = &network.spec.name;
            return Err(invalid(format!("Service cannot be explicitly attached to the ingress network \"{name}\"")));
        }
        if seen.contains(&network.id) {
            return Err(invalid(format!("network {} is given more than once", network.spec.name)));
        }
        seen.push(network.id.clone());
        config.target = network.id.0.clone();
    }
    Ok(spec)
}

/// A mesh port is the swarm's; a host port collides with mesh ports only.
fn check_ports(store: &Store, endpoint: &EndpointSpec, own: Option<&ServiceId>) -> Result<()> {
    let others = store.services().filter(|service| !service.pending_delete && Some(&service.id) != own);
    for other in others {
        for port in endpoint.ports.iter().filter(|port| port.published_port != 0) {
            let taken = published(other).find(|taken| taken.0 == port.protocol && taken.1 == port.published_port);
            let Some((_, number, mode)) = taken else { continue };
            if mode == PublishMode::Host && port.publish_mode == PublishMode::Host {
                continue;
            }
            let what = if mode == PublishMode::Ingress { "an ingress port" } else { "a host-published port" };
            let (name, id) = (&other.spec.name, &other.id);
            return Err(invalid(format!("port '{number}' is already in use by service '{name}' ({id}) as {what}")));
        }
    }
    Ok(())
}

/// The mesh may have been removed by hand.
fn check_ingress(store: &Store, endpoint: &EndpointSpec) -> Result<()> {
    if publishes_ingress(endpoint) && store.ingress_network().is_none() {
        return Err(precondition("service needs ingress network, but no ingress network is present"));
    }
    Ok(())
}

/// What a service publishes by wish, and what it was given.
fn published(service: &Service) -> impl Iterator<Item = (Protocol, u16, PublishMode)> + '_ {
    let ports = service.spec.endpoint.ports.iter().chain(&service.endpoint.ports);
    let known = ports.filter(|port: &&PortConfig| port.published_port != 0);
    known.map(|port| (port.protocol, port.published_port, port.publish_mode))
}

/// Whether a service takes part in the routing mesh.
pub(super) fn publishes_ingress(endpoint: &EndpointSpec) -> bool {
    endpoint.ports.iter().any(|port| port.publish_mode == PublishMode::Ingress)
}
