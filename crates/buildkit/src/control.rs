//! The service a client asks for builds by.

use crate::attrs::{DOCKERFILE_FRONTEND, Request as BuildRequest};
use crate::proto::control::control_server::Control;
use crate::proto::control::{
    BuildkitVersion, DiskUsageRequest, DiskUsageResponse, Exporter, InfoRequest, InfoResponse, ListWorkersRequest,
    ListWorkersResponse, Platform, PruneRequest, SolveRequest, SolveResponse, StatusRequest, StatusResponse,
    UsageRecord, WorkerRecord,
};
use crate::services::BuildKit;
use crate::status::Told;
use crate::trace::{Tracer, wire};
use futures_util::Stream;
use futures_util::stream;
use skep_engine::build::{CacheRecord, PruneOptions, prune};
use skep_engine::progress::Progress;
use skep_model::image::host_architecture;
use skep_model::{Error, ErrorKind, Timestamp};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status};

/// Events that wait to become messages.
const EVENTS_MAX: usize = 64;
const WORKER_ID: &str = "skep";

/// The calls of one connection.
pub(crate) struct ControlService(pub(crate) BuildKit);

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlService {
    type PruneStream = Streamed<UsageRecord>;
    type StatusStream = Streamed<StatusResponse>;

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let request = request.into_inner();
        let exporter = exporter(&request).map_err(status)?;
        let told = self.0.0.board.entry(&request.ref_name()).ok_or_else(|| status(too_many()))?;
        // Whatever happens, who listens learns of the end.
        let _over = Over { buildkit: self.0.clone(), name: request.ref_name(), told: Arc::clone(&told) };
        let image = match request.frontend.as_str() {
            "" if request.definition.as_ref().is_none_or(Vec::is_empty) => {
                self.0.gateway_build(&request, &told, &exporter).await
            }
            DOCKERFILE_FRONTEND => {
                let mut build =
                    BuildRequest::of_attributes(&request.session, &request.frontend_attrs).map_err(status)?;
                build.export(&exporter.r#type, &exporter.attrs).map_err(status)?;
                cache_imports(&mut build, &request);
                self.0.build_and_tell(build, &request.ref_name(), &told).await
            }
            "" => Err(Error::not_implemented("only Dockerfiles are built, not graphs")),
            other => {
                Err(Error::not_implemented(format!("the frontend {other} is not supported: use {DOCKERFILE_FRONTEND}")))
            }
        };
        let image = image.map_err(status)?;
        let mut exporter_response: HashMap<String, String> = HashMap::new();
        if !image.is_empty() {
            exporter_response.insert("containerimage.digest".into(), image.clone());
            exporter_response.insert("containerimage.config.digest".into(), image);
        }
        if let Some(names) = exporter.attrs.get("name") {
            exporter_response.insert("image.name".into(), names.clone());
        }
        Ok(Response::new(SolveResponse { exporter_response }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let name = request.into_inner().r#ref;
        let told = self.0.0.board.entry(&name).ok_or_else(|| status(too_many()))?;
        let messages = stream::unfold((told, 0), |(told, from)| async move {
            let next = told.next(from).await?;
            let count = from + next.len();
            let next: Vec<_> = next.into_iter().map(|message| Ok((*message).clone())).collect();
            Some((stream::iter(next), (told, count)))
        });
        Ok(Response::new(Box::pin(futures_util::StreamExt::flatten(messages))))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse { buildkit_version: Some(version()) }))
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        let labels = [
            ("org.mobyproject.buildkit.worker.executor", "skep"),
            ("org.mobyproject.buildkit.worker.snapshotter", "overlay"),
        ];
        let record = WorkerRecord {
            id: WORKER_ID.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            platforms: vec![Platform {
                architecture: host_architecture().to_owned(),
                os: "linux".to_owned(),
                variant: String::new(),
            }],
            buildkit_version: Some(version()),
        };
        Ok(Response::new(ListWorkersResponse { record: vec![record] }))
    }

    async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        let records = self.0.0.engine.builds().list().await.map_err(status)?;
        Ok(Response::new(DiskUsageResponse { record: records.iter().map(usage).collect() }))
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        if let Some(filter) = request.filter.first() {
            return Err(Status::unimplemented(format!("the filter {filter} is not supported yet")));
        }
        let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let options = PruneOptions {
            all: request.all,
            keep_bytes: u64::try_from(request.keep_bytes).unwrap_or_default(),
            unused_since: (request.keep_duration > 0).then(|| Timestamp(now.saturating_sub(request.keep_duration))),
            id: None,
        };
        let engine = &self.0.0.engine;
        let before = engine.builds().list().await.map_err(status)?;
        let pruned = prune(engine, options).await.map_err(status)?;
        let known: u64 = before.iter().filter(|record| pruned.ids.contains(&record.id)).map(|record| record.size).sum();
        let mut steps = pruned.bytes.saturating_sub(known);
        let records: Vec<_> = pruned
            .ids
            .into_iter()
            .map(|id| match before.iter().find(|record| record.id == id) {
                Some(record) => Ok(usage(record)),
                // What steps had is told with the first of them: they share it.
                None => Ok(UsageRecord {
                    id,
                    size: i64::try_from(std::mem::take(&mut steps)).unwrap_or(i64::MAX),
                    record_type: "regular".to_owned(),
                    ..UsageRecord::default()
                }),
            })
            .collect();
        Ok(Response::new(Box::pin(stream::iter(records))))
    }
}

impl BuildKit {
    /// Builds, and tells of it to whoever asks for the build's status.
    pub(crate) async fn build_and_tell(
        &self,
        request: BuildRequest,
        name: &str,
        told: &Told,
    ) -> skep_model::Result<String> {
        let (progress, mut events) = mpsc::channel(EVENTS_MAX);
        let mut tracer = Tracer::new(name);
        let tell = async {
            while let Some(progress) = events.recv().await {
                if let Progress::Build(event) = progress {
                    told.push(tracer.message(&event));
                }
            }
        };
        let (built, ()) = tokio::join!(self.solve(request, progress), tell);
        built
    }
}

impl SolveRequest {
    pub(crate) fn ref_name(&self) -> String {
        self.r#ref.clone()
    }
}

/// Takes the build off the board when it is over, however it ended.
struct Over {
    buildkit: BuildKit,
    name: String,
    told: Arc<Told>,
}

impl Drop for Over {
    fn drop(&mut self) {
        self.told.finish();
        self.buildkit.0.board.remove(&self.name);
    }
}

/// The one output of a request, in its old or new form.
fn exporter(request: &SolveRequest) -> skep_model::Result<Exporter> {
    match request.exporters.as_slice() {
        [] => Ok(Exporter { r#type: request.exporter.clone(), attrs: request.exporter_attrs.clone() }),
        [only] => Ok(only.clone()),
        _ => Err(Error::not_implemented("several outputs of one build are not supported yet")),
    }
}

fn cache_imports(build: &mut BuildRequest, request: &SolveRequest) {
    for import in request.cache.iter().flat_map(|cache| &cache.imports) {
        build.import_cache(&import.r#type, import.attrs.get("ref"));
    }
    for export in request.cache.iter().flat_map(|cache| &cache.exports) {
        // An image of this builder can be a cache as it is.
        if export.r#type != "inline" {
            build.warnings.push(format!("no cache of type {} is written", export.r#type));
        }
    }
}

fn usage(record: &CacheRecord) -> UsageRecord {
    UsageRecord {
        id: record.id.clone(),
        mutable: true,
        in_use: record.in_use,
        size: i64::try_from(record.size).unwrap_or(i64::MAX),
        created_at: Some(wire(record.created)),
        last_used_at: Some(wire(record.last_used)),
        usage_count: i64::try_from(record.uses).unwrap_or(i64::MAX),
        description: record.description.clone(),
        record_type: "exec.cachemount".to_owned(),
        shared: false,
    }
}

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "skep".to_owned(),
        version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
        revision: String::new(),
    }
}

fn too_many() -> Error {
    Error::unavailable("too many builds are under way")
}

/// An error as gRPC tells it.
pub(crate) fn status(error: Error) -> Status {
    let code = match error.kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::AlreadyExists,
        ErrorKind::NotImplemented => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        _ => Code::Unknown,
    };
    Status::new(code, error.message)
}
