//! `network connect` and `disconnect`, also of running containers.

use crate::container::inner::Inner;
use crate::container::record;
use crate::network::endpoints::{check_address, clear_leg};
use skep_model::container::{EndpointConfig, EndpointInfo};
use skep_model::netstate::AttachRequest;
use skep_model::{Error, Result};
use std::path::Path;
use std::sync::Arc;

impl Inner {
    pub(crate) async fn network_connect(
        self: &Arc<Self>,
        network: &str,
        container: &str,
        config: EndpointConfig,
    ) -> Result<()> {
        let network = self.networks.find(network)?;
        let container = self.registry.find(container)?;
        let _owned = container.lock().await;
        let info = container.info();
        let name = network.spec.name.clone();
        if info.host.network_mode == "host" || info.host.network_mode.starts_with("container:") {
            return Err(Error::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if matches!(name.as_str(), "host" | "none") {
            return Err(Error::invalid("container cannot be connected to host network or disconnected from it"));
        }
        if info.endpoints.contains_key(&name) {
            return Err(Error::forbidden(format!("endpoint with name {} already exists in network {name}", info.name)));
        }
        check_address(&network, &config)?;
        let wish = EndpointInfo { network_id: network.id.clone(), config, ..EndpointInfo::default() };
        let leg = if info.state.status.is_running() && !info.sandbox_key.is_empty() {
            self.connect_running(&info, &name, &wish).await?
        } else {
            wish
        };
        let info = container.change(|info| {
            info.endpoints.insert(name.clone(), leg);
            // With its first real network, a container without one has left `none`.
            info.endpoints.remove("none");
            if info.host.network_mode == "none" {
                info.host.network_mode.clone_from(&name);
            }
        });
        record::save(&self.container_dir(&info.id), &info, true)
    }

    async fn connect_running(
        self: &Arc<Self>,
        info: &skep_model::container::ContainerInfo,
        name: &str,
        wish: &EndpointInfo,
    ) -> Result<EndpointInfo> {
        let leg = self.networks.lock().reserve_leg(info, name, wish)?;
        let mut with_leg = info.clone();
        with_leg.endpoints.insert(name.to_owned(), leg.clone());
        let mut request = self.attach_request(&with_leg, Path::new(&info.sandbox_key));
        let present: Vec<String> = info.endpoints.values().map(|leg| leg.endpoint_id.0.clone()).collect();
        request.endpoints.retain(|endpoint| !present.contains(&endpoint.id.0));
        for endpoint in &mut request.endpoints {
            // Those who are there keep their names and the default route, if they have one.
            endpoint.interface = format!("eth{}", next_interface(info));
            endpoint.default_route &= info.endpoints.values().all(|leg| leg.gateway.is_none());
            endpoint.ports.clear();
        }
        let request = AttachRequest { endpoints: request.endpoints, resolver: request.resolver };
        if let Err(error) = self.attach.attach(request).await {
            self.networks.lock().release_leg(info, &leg);
            return Err(error);
        }
        self.emit_network("connect", info, &leg);
        if !leg.dns_names.is_empty() {
            self.resolve_through_us(info)?;
        }
        Ok(leg)
    }

    /// With its first network that has names, a container that asked the host's servers asks us.
    fn resolve_through_us(&self, info: &skep_model::container::ContainerInfo) -> Result<()> {
        let (before, after) = self.resolver_texts(info);
        // What the user wrote there stays.
        if std::fs::read_to_string(&info.resolv_conf_path).is_ok_and(|present| present == before) {
            // In place: the container has this very file mounted.
            std::fs::write(&info.resolv_conf_path, after)?;
        }
        Ok(())
    }

    pub(crate) async fn network_disconnect(
        self: &Arc<Self>,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let network = self.networks.find(network)?;
        let container = match self.registry.find(container) {
            Ok(container) => container,
            // A leg of a container nobody knows any more.
            Err(_) if force => return Ok(()),
            Err(error) => return Err(error),
        };
        let _owned = container.lock().await;
        let info = container.info();
        let name = &network.spec.name;
        let Some(mut leg) = info.endpoints.get(name).cloned() else {
            return Err(Error::internal(format!("container {} is not connected to network {name}", info.id)));
        };
        if !leg.endpoint_id.is_empty() {
            self.attach.detach_endpoint(&leg.endpoint_id).await?;
            self.networks.lock().release_leg(&info, &leg);
            self.emit_network("disconnect", &info, &leg);
            clear_leg(&mut leg);
        }
        let info = container.change(|info| drop(info.endpoints.remove(name)));
        record::save(&self.container_dir(&info.id), &info, true)
    }
}

/// The lowest number that cannot be an interface's: one leg more than there are, unless
/// some were disconnected meanwhile, whose numbers are not used again.
fn next_interface(info: &skep_model::container::ContainerInfo) -> usize {
    let attached = info.endpoints.values().filter(|leg| !leg.endpoint_id.is_empty()).count();
    let inside = Path::new("/proc").join(info.state.pid.to_string()).join("net/dev");
    let text = std::fs::read_to_string(inside).unwrap_or_default();
    let numbers = text.lines().filter_map(|line| line.trim().strip_prefix("eth")?.split(':').next()?.parse().ok());
    numbers.map(|number: usize| number + 1).max().unwrap_or(attached)
}
