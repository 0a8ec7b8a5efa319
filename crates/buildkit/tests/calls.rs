//! A client of BuildKit's calls, with a session in which it serves a folder and a secret,
//! against a real engine. As root.
#![allow(clippy::unwrap_used, reason = "a failed test is what a panic is for")]

use async_trait::async_trait;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use skep_buildkit::BuildKit;
use skep_buildkit::proto::control::control_client::ControlClient;
use skep_buildkit::proto::control::{
    DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, SolveRequest, StatusRequest,
};
use skep_buildkit::proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use skep_buildkit::proto::filesync::packet::Type;
use skep_buildkit::proto::filesync::{Packet, Stat};
use skep_buildkit::proto::gateway::llb_bridge_client::LlbBridgeClient;
use skep_buildkit::proto::gateway::{self, PingRequest, ReturnRequest};
use skep_buildkit::session::Announced;
use skep_engine::attach::NoNetwork;
use skep_engine::{Engine, EngineConfig};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

const DIRECTORY: u32 = (1 << 31) | 0o755;
const DOCKERFILE: &str = "FROM scratch AS first\nCOPY . /all/\nFROM scratch\nCOPY --from=first /all/sub /\n";

/// A folder as a client serves it.
struct Folder {
    files: Vec<(&'static str, u32, Vec<u8>)>,
    /// What was asked of it: folder, include and exclude patterns.
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl FileSync for Folder {
    type DiffCopyStream = Pin<Box<dyn Stream<Item = std::result::Result<Packet, Status>> + Send>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> std::result::Result<Response<Self::DiffCopyStream>, Status> {
        let values = |key: &str| {
            let all = request.metadata().get_all(key).iter().map(|value| value.to_str().unwrap().to_owned());
            all.collect::<Vec<_>>()
        };
        let (include, exclude) = (values("include-patterns"), values("exclude-patterns"));
        self.asked.lock().unwrap().push(format!("{:?} {include:?} {exclude:?}", values("dir-name")));
        let chosen = |path: &str| {
            let is = |patterns: &[String]| patterns.iter().any(|p| p == path || path.starts_with(&format!("{p}/")));
            (include.is_empty() || is(&include)) && !is(&exclude)
        };
        let files: Vec<_> = self.files.iter().filter(|(path, ..)| chosen(path)).cloned().collect();
        let (sender, packets) = mpsc::channel(8);
        let mut asked = request.into_inner();
        tokio::spawn(async move {
            let packet =
                |kind: Type, id: u32, data: &[u8]| Packet { r#type: kind.into(), id, data: data.into(), stat: None };
            for (path, mode, content) in &files {
                let stat = Stat { path: (*path).into(), mode: *mode, size: content.len() as i64, ..Stat::default() };
                sender.send(Ok(Packet { stat: Some(stat), ..packet(Type::Stat, 0, b"") })).await.unwrap();
            }
            sender.send(Ok(packet(Type::Stat, 0, b""))).await.unwrap();
            while let Ok(Some(asked)) = asked.message().await {
                match asked.r#type() {
                    Type::Req => {
                        for piece in files[asked.id as usize].2.chunks(1000) {
                            sender.send(Ok(packet(Type::Data, asked.id, piece))).await.unwrap();
                        }
                        sender.send(Ok(packet(Type::Data, asked.id, b""))).await.unwrap();
                    }
                    _ => {
                        let _ = sender.send(Ok(packet(Type::Fin, 0, b""))).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(packets))))
    }
}

struct Lab {
    engine: Engine,
    buildkit: BuildKit,
    calls: Channel,
    _dir: tempfile::TempDir,
}

impl Lab {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            data_root: dir.path().join("data"),
            exec_root: dir.path().join("exec"),
            program: "/proc/self/exe".into(),
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            cgroup_parent: format!("/skep-buildkit-test-{}", std::process::id()),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            bridge_address: None,
        };
        let engine = Engine::open(config, Arc::new(NoNetwork)).await.unwrap();
        let buildkit = BuildKit::new(engine.clone());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = buildkit.clone();
        tokio::spawn(async move { server.serve_calls(TokioIo::new(ours)).await });
        let calls = channel(theirs).await;
        Self { engine, buildkit, calls, _dir: dir }
    }

    /// Opens a session that serves a folder.
    async fn session(&self, id: &str, files: Vec<(&'static str, u32, Vec<u8>)>) -> Arc<Mutex<Vec<String>>> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let routes = tonic::service::Routes::new(FileSyncServer::new(Folder { files, asked: Arc::clone(&asked) }));
        tokio::spawn(async move {
            let service = hyper_util::service::TowerToHyperService::new(routes);
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(theirs), service).await;
        });
        let methods = ["/moby.filesync.v1.FileSync/DiffCopy".to_owned()].into();
        let (buildkit, announced) = (self.buildkit.clone(), Announced { id: id.to_owned(), methods });
        tokio::spawn(async move { buildkit.serve_session(announced, TokioIo::new(ours)).await });
        asked
    }

    fn exists(&self, image: &str, path: &str) -> bool {
        self.engine.images().layer_dirs(image).unwrap().iter().any(|layer| layer.join(path).exists())
    }
}

async fn channel(io: tokio::io::DuplexStream) -> Channel {
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    let connector = tower::service_fn(move |_: http::Uri| {
        let taken = slot.lock().unwrap().take();
        async move { taken.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    Endpoint::from_static("http://buildkit").connect_with_connector(connector).await.unwrap()
}

fn folder() -> Vec<(&'static str, u32, Vec<u8>)> {
    vec![
        (".dockerignore", 0o644, b"secret\n# no\n./skipped/\n".to_vec()),
        ("Dockerfile", 0o644, DOCKERFILE.as_bytes().to_vec()),
        ("empty", 0o644, Vec::new()),
        ("secret", 0o600, b"not to be sent".to_vec()),
        ("sub", DIRECTORY, Vec::new()),
        ("sub/large", 0o755, vec![7; 300_000]),
        ("sub/small", 0o644, b"x".to_vec()),
    ]
}

fn solve(name: &str, session: &str, tag: &str) -> SolveRequest {
    SolveRequest {
        r#ref: name.into(),
        session: session.into(),
        exporter: "moby".into(),
        exporter_attrs: [("name".to_owned(), tag.to_owned())].into(),
        ..SolveRequest::default()
    }
}

#[tokio::test]
async fn a_dockerfile_is_built_from_the_files_of_a_session_and_its_steps_are_told() {
    let lab = Lab::open().await;
    let asked = lab.session("s", folder()).await;
    let mut control = ControlClient::new(lab.calls.clone());
    let mut listener = control.clone();
    let request = SolveRequest { frontend: "dockerfile.v0".into(), ..solve("b", "s", "built:1") };
    let told = async {
        let mut messages = listener.status(StatusRequest { r#ref: "b".into() }).await.unwrap().into_inner();
        let mut names = Vec::new();
        while let Some(message) = messages.message().await.unwrap() {
            names.extend(message.vertexes.into_iter().filter(|vertex| vertex.completed.is_some()).map(|v| v.name));
        }
        names
    };
    let (answer, names) = tokio::join!(control.solve(request), told);
    let answer = answer.unwrap().into_inner().exporter_response;
    let image = lab.engine.images().resolve("built:1").unwrap();
    assert_eq!(answer["containerimage.digest"], image.id);
    assert!(lab.exists(&image.id, "large") && lab.exists(&image.id, "small") && !lab.exists(&image.id, "secret"));
    for expect in [
        "[internal] load build definition from Dockerfile",
        "[internal] load build context",
        "[first 2/2] COPY . /all/",
        "[stage-1 2/2] COPY --from=first /all/sub /",
    ] {
        assert!(names.iter().any(|name| name == expect), "{expect}: {names:?}");
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.last().unwrap(), r#"["context"] [] ["secret", "skipped"]"#);
}

#[tokio::test]
async fn a_client_may_steer_its_build_and_return_the_result() {
    let lab = Lab::open().await;
    lab.session("s", folder()).await;
    let mut control = ControlClient::new(lab.calls.clone());
    let mut bridge = LlbBridgeClient::new(lab.calls.clone());
    let steer = async {
        let named = |message| {
            let mut request = Request::new(message);
            request.metadata_mut().insert("buildkit-controlapi-buildid", "g".parse().unwrap());
            request
        };
        let caps = bridge.ping(named(PingRequest {})).await.unwrap().into_inner().frontend_api_caps;
        assert!(caps.iter().any(|cap| cap.id == "return" && cap.enabled));
        let request = gateway::SolveRequest { frontend: "dockerfile.v0".into(), ..gateway::SolveRequest::default() };
        let mut request = Request::new(request);
        request.metadata_mut().insert("buildkit-controlapi-buildid", "g".parse().unwrap());
        let result = bridge.solve(request).await.unwrap().into_inner().result;
        let mut request = Request::new(ReturnRequest { result, error: None });
        request.metadata_mut().insert("buildkit-controlapi-buildid", "g".parse().unwrap());
        bridge.r#return(request).await.unwrap();
    };
    let (answer, ()) = tokio::join!(control.solve(solve("g", "s", "steered:1")), steer);
    let answer = answer.unwrap().into_inner().exporter_response;
    assert_eq!(answer["containerimage.digest"], lab.engine.images().resolve("steered:1").unwrap().id);
}

#[tokio::test]
async fn what_cannot_be_is_an_error_that_says_so() {
    let lab = Lab::open().await;
    lab.session("s", vec![("x", 0o644, b"1".to_vec())]).await;
    let mut control = ControlClient::new(lab.calls.clone());
    let attributes = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let dockerfile = |name: &str| SolveRequest { frontend: "dockerfile.v0".into(), ..solve(name, "s", "a") };
    let cases = [
        (dockerfile("1"), "open Dockerfile: no such file"),
        (
            SolveRequest { frontend_attrs: attributes(&[("context", "https://x/y.git")]), ..dockerfile("2") },
            "not supported yet",
        ),
        (SolveRequest { exporter: "oci".into(), ..dockerfile("3") }, "output type oci"),
        (SolveRequest { frontend: "gateway.v0".into(), ..dockerfile("4") }, "the frontend gateway.v0 is not supported"),
        (SolveRequest { definition: Some(vec![1]), ..solve("5", "s", "a") }, "not graphs"),
    ];
    for (request, expect) in cases {
        let status = control.solve(request).await.unwrap_err();
        assert!(status.message().contains(expect), "{expect}: {status}");
    }
}

#[tokio::test]
async fn clients_learn_what_is_here() {
    let lab = Lab::open().await;
    let mut control = ControlClient::new(lab.calls.clone());
    let info = control.info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.buildkit_version.unwrap().package, "skep");
    let workers = control.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner().record;
    assert_eq!((workers.len(), workers[0].platforms[0].os.as_str()), (1, "linux"));
    assert!(control.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record.is_empty());
    let mut pruned = control.prune(PruneRequest::default()).await.unwrap().into_inner();
    assert!(pruned.message().await.unwrap().is_none());
    let filtered = PruneRequest { filter: vec!["type==x".into()], ..PruneRequest::default() };
    assert!(control.prune(filtered).await.is_err());
}
