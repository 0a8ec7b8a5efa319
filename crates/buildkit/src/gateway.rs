//! Clients that steer a build themselves, as buildx does: they ask for a build under the name
//! of one they asked for by `Solve`, and then say which result is to be kept.

use crate::attrs::{DOCKERFILE_FRONTEND, Request as BuildRequest};
use crate::control::status;
use crate::proto::control::{Exporter, SolveRequest};
use crate::proto::gateway::llb_bridge_server::LlbBridge;
use crate::proto::gateway::result::Result as Reference;
use crate::proto::gateway::{
    Capability, PingRequest, PongResponse, Ref, Result as BuildResult, ReturnRequest, ReturnResponse,
    SolveRequest as BridgeRequest, SolveResponse as BridgeResponse,
};
use crate::services::BuildKit;
use crate::status::Told;
use skep_model::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// Where a client says which of its builds it means.
const BUILD_KEY: &str = "buildkit-controlapi-buildid";
/// How long a call waits for the `Solve` it belongs to: both come at the same time.
const SOLVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Results one build may hold.
const RESULTS_MAX: usize = 64;
/// What we can do, in BuildKit's words.
const CAPABILITIES: [&str; 6] =
    ["solve.base", "solve.inlinereturn", "return", "returnmap", "proto.refarray", "importcaches"];

/// Builds that their clients steer, by name.
#[derive(Default)]
pub(crate) struct Gateways {
    open: Mutex<HashMap<String, Arc<Gateway>>>,
    changes: watch::Sender<u64>,
}

struct Gateway {
    session: String,
    told: Arc<Told>,
    /// Images by the names their results were given.
    results: Mutex<HashMap<String, String>>,
    returned: Mutex<Option<oneshot::Sender<Result<String>>>>,
}

/// Closes the build for its client's calls.
struct Closing<'a>(&'a BuildKit, String);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.0.gateways.open().remove(&self.1);
    }
}

impl BuildKit {
    /// Waits for the client to build and to return a result; gives its image.
    pub(crate) async fn gateway_build(
        &self,
        request: &SolveRequest,
        told: &Arc<Told>,
        exporter: &Exporter,
    ) -> Result<String> {
        let mut wish = BuildRequest::default();
        wish.export(&exporter.r#type, &exporter.attrs)?;
        let (sender, returned) = oneshot::channel();
        let gateway = Gateway {
            session: request.session.clone(),
            told: Arc::clone(told),
            results: Mutex::default(),
            returned: Mutex::new(Some(sender)),
        };
        let name = request.ref_name();
        self.0.gateways.open().insert(name.clone(), Arc::new(gateway));
        self.0.gateways.changes.send_modify(|count| *count += 1);
        let _closing = Closing(self, name);
        let session = self.0.sessions.wait(&request.session).await?;
        let image = tokio::select! {
            image = returned => image.map_err(|_| Error::internal("the build was given up"))??,
            () = session.closed.cancelled() => return Err(Error::internal("the client closed its session")),
        };
        for tag in wish.options.tags.iter().filter(|_| !image.is_empty()) {
            self.0.engine.images().tag(&image, tag)?;
        }
        Ok(image)
    }

    async fn gateway(&self, metadata: &MetadataMap) -> std::result::Result<(String, Arc<Gateway>), Status> {
        let name = metadata.get(BUILD_KEY).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let mut changes = self.0.gateways.changes.subscribe();
        let found = async {
            loop {
                if let Some(gateway) = self.0.gateways.open().get(&name).cloned() {
                    return gateway;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout(SOLVE_WAIT_MAX, found).await {
            Ok(gateway) => Ok((name, gateway)),
            Err(_) => Err(Status::not_found(format!("no such job {name}"))),
        }
    }
}

impl Gateways {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Gateway>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The calls of one connection.
pub(crate) struct Bridge(pub(crate) BuildKit);

#[tonic::async_trait]
impl LlbBridge for Bridge {
    async fn ping(&self, request: Request<PingRequest>) -> std::result::Result<Response<PongResponse>, Status> {
        self.0.gateway(request.metadata()).await?;
        let capability = |id: &&str| Capability { id: (*id).to_owned(), enabled: true };
        let frontend_api_caps = CAPABILITIES.iter().map(capability).collect();
        Ok(Response::new(PongResponse { frontend_api_caps, llb_caps: Vec::new() }))
    }

    async fn solve(&self, request: Request<BridgeRequest>) -> std::result::Result<Response<BridgeResponse>, Status> {
        let (name, gateway) = self.0.gateway(request.metadata()).await?;
        let request = request.into_inner();
        match (request.frontend.as_str(), request.definition.as_ref().is_none_or(Vec::is_empty)) {
            (DOCKERFILE_FRONTEND, _) => {}
            ("", true) => return Ok(Response::new(answer(String::new()))),
            ("", false) => return Err(Status::unimplemented("only Dockerfiles are built, not graphs")),
            (other, _) => return Err(Status::unimplemented(format!("the frontend {other} is not supported"))),
        }
        let mut build = BuildRequest::of_attributes(&gateway.session, &request.frontend_opt).map_err(status)?;
        for import in &request.cache_imports {
            build.import_cache(&import.r#type, import.attrs.get("ref"));
        }
        let image = self.0.build_and_tell(build, &name, &gateway.told).await.map_err(status)?;
        let id = hex::encode(rand::random::<[u8; 12]>());
        let mut results = gateway.results.lock().unwrap_or_else(PoisonError::into_inner);
        if results.len() >= RESULTS_MAX {
            return Err(Status::resource_exhausted("too many results of one build"));
        }
        results.insert(id.clone(), image);
        Ok(Response::new(answer(id)))
    }

    async fn r#return(&self, request: Request<ReturnRequest>) -> std::result::Result<Response<ReturnResponse>, Status> {
        let (_, gateway) = self.0.gateway(request.metadata()).await?;
        let request = request.into_inner();
        let outcome = match request.error {
            Some(error) => Err(Error::invalid(error.message)),
            None => gateway.image(request.result),
        };
        if let Some(sender) = gateway.returned.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The `Solve` may have been given up.
            let _ = sender.send(outcome);
        }
        Ok(Response::new(ReturnResponse {}))
    }
}

impl Gateway {
    fn image(&self, result: Option<BuildResult>) -> Result<String> {
        let id = match result.and_then(|result| result.result) {
            None => return Ok(String::new()),
            Some(Reference::RefDeprecated(id)) => id,
            Some(Reference::Ref(reference)) => reference.id,
            Some(Reference::Refs(map)) => only(map.refs.into_values().map(|reference| reference.id))?,
            Some(Reference::RefsDeprecated(map)) => only(map.refs.into_values())?,
        };
        if id.is_empty() {
            return Ok(String::new());
        }
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.get(&id).cloned().ok_or_else(|| Error::invalid(format!("no such result {id}")))
    }
}

fn only(mut ids: impl Iterator<Item = String>) -> Result<String> {
    let first = ids.next().unwrap_or_default();
    match ids.next() {
        None => Ok(first),
        Some(_) => Err(Error::not_implemented("a build of several platforms is not supported yet")),
    }
}

fn answer(id: String) -> BridgeResponse {
    let result = BuildResult { result: Some(Reference::Ref(Ref { id })), metadata: HashMap::new() };
    BridgeResponse { r#ref: String::new(), result: Some(result) }
}
