//! The whole table over a real engine in a directory of its own: what clients get without
//! a container ever running, and how the listener behaves.

#![allow(clippy::unwrap_used, reason = "a test's unwrap is its assertion")]

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skep_api::backend::{InitRequest, JoinRequest, NodeNetwork, Swarm, SwarmStatus, SystemInfo};
use skep_api::{Backend, Listener, router, serve};
use skep_engine::attach::NoNetwork;
use skep_engine::{Engine, EngineConfig};
use skep_manager::Control;
use skep_model::id::NodeId;
use skep_model::net_trace::ServiceTrace;
use skep_model::netstate::NetdStatus;
use skep_model::{Error, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                             connect this node to swarm and try again.";
/// Nothing here may take longer; a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node outside any swarm.
struct Alone;

#[async_trait]
impl Swarm for Alone {
    async fn init(&self, _: InitRequest) -> Result<NodeId> {
        Ok("node1".into())
    }
    async fn join(&self, _: JoinRequest) -> Result<()> {
        Ok(())
    }
    async fn leave(&self, _: bool) -> Result<()> {
        Err(Error::unavailable("This node is not part of a swarm"))
    }
    fn control(&self) -> Result<Control> {
        Err(Error::unavailable(NOT_A_MANAGER))
    }
    fn status(&self) -> SwarmStatus {
        SwarmStatus::default()
    }
}

#[async_trait]
impl NodeNetwork for Alone {
    async fn status(&self) -> Result<NetdStatus> {
        Ok(NetdStatus { balancer: "nftables".into(), ..NetdStatus::default() })
    }
    async fn verify(&self) -> Result<Vec<String>> {
        Ok(vec!["host: link br0 is missing".into()])
    }
    async fn trace(&self, _: &str) -> Result<ServiceTrace> {
        Ok(ServiceTrace::default())
    }
}

struct Daemon {
    backend: Backend,
    _root: tempfile::TempDir,
}

impl Daemon {
    async fn new() -> Self {
        let root = tempfile::Builder::new().prefix("skep-api").tempdir().unwrap();
        let config = EngineConfig {
            data_root: root.path().join("data"),
            exec_root: root.path().join("exec"),
            program: "/proc/self/exe".into(),
            insecure_registries: vec![],
            registry_mirrors: vec![],
            cgroup_parent: format!("/skep-api-{}", std::process::id()),
            dns: vec![],
            dns_search: vec![],
            dns_options: vec![],
            bridge_address: None,
        };
        let engine = Engine::open(config, Arc::new(NoNetwork)).await.unwrap();
        let system = Arc::new(SystemInfo { hostname: "host1".into(), ..SystemInfo::default() });
        Self { backend: Backend { engine, swarm: Arc::new(Alone), network: Arc::new(Alone), system }, _root: root }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        tokio::time::timeout(PATIENCE, router(self.backend.clone()).oneshot(request)).await.unwrap().unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(Request::get(path).body(Body::empty()).unwrap()).await).await
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = Request::post(path).header("Content-Type", "application/json");
        read(self.send(request.body(Body::from(body.to_string())).unwrap()).await).await
    }

    async fn delete(&self, path: &str) -> (StatusCode, Value) {
        read(self.send(Request::delete(path).body(Body::empty()).unwrap()).await).await
    }
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
}

fn message(answer: (StatusCode, Value), status: u16) -> String {
    assert_eq!(answer.0, status, "{}", answer.1);
    answer.1["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn ping_tells_versions_and_role() {
    let daemon = Daemon::new().await;
    for method in ["GET", "HEAD"] {
        let request = Request::builder().method(method).uri("/_ping").body(Body::empty()).unwrap();
        let response = daemon.send(request).await;
        assert_eq!(response.status(), 200);
        for (header, value) in [
            ("api-version", "1.50"),
            ("swarm", "inactive"),
            ("builder-version", "1"),
            ("ostype", "linux"),
            ("docker-experimental", "false"),
            ("cache-control", "no-cache, no-store, must-revalidate"),
            ("pragma", "no-cache"),
        ] {
            assert_eq!(response.headers()[header], value, "{method} {header}");
        }
    }
}

#[tokio::test]
async fn info_and_version_name_the_balancer_and_the_engine() {
    let daemon = Daemon::new().await;
    let (status, info) = daemon.get("/v1.41/info").await;
    assert_eq!((status, &info["Name"], &info["Containers"]), (StatusCode::OK, &json!("host1"), &json!(0)));
    assert!(info["DriverStatus"].as_array().unwrap().contains(&json!(["Load Balancer", "nftables"])));
    assert_eq!(daemon.get("/version").await.1["ApiVersion"], "1.50");
    assert_eq!(daemon.get("/plugins").await.1, json!([]));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_dockers_words() {
    let daemon = Daemon::new().await;
    assert_eq!(message(daemon.get("/v1.41/containers/nosuch/json").await, 404), "No such container: nosuch");
    assert!(message(daemon.get("/images/a.b/c/nosuch/json").await, 404).starts_with("No such image: a.b/c/nosuch"));
    assert_eq!(message(daemon.get("/networks/nosuch").await, 404), "network nosuch not found");
    assert_eq!(message(daemon.get("/nosuchpath").await, 404), "page not found");
    assert_eq!(message(daemon.delete("/containers/nosuch").await, 404), "No such container: nosuch");
    let create = daemon.post("/containers/create", &json!({"Image": "nosuch"})).await;
    assert!(message(create, 404).starts_with("No such image: nosuch"));
    assert!(message(daemon.get("/volumes/nosuch").await, 404).contains("nosuch"));
    assert!(message(daemon.get("/exec/nosuch/json").await, 404).contains("nosuch"));
}

#[tokio::test]
async fn swarm_paths_outside_a_swarm_answer_503() {
    let daemon = Daemon::new().await;
    for path in
        ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/services/x", "/tasks/x/logs?stdout=1"]
    {
        assert_eq!(message(daemon.get(path).await, 503), NOT_A_MANAGER, "{path}");
    }
    let overlay = daemon.post("/networks/create", &json!({"Name": "n1", "Driver": "overlay"})).await;
    assert_eq!(message(overlay, 503), NOT_A_MANAGER);
    assert_eq!(message(daemon.post("/swarm/leave", &json!({})).await, 503), "This node is not part of a swarm");
    assert_eq!(
        daemon.post("/swarm/init", &json!({"ListenAddr": "0.0.0.0:2377"})).await,
        (StatusCode::OK, json!("node1"))
    );
}

#[tokio::test]
async fn odd_requests_are_clean_400s() {
    let daemon = Daemon::new().await;
    let long = "n".repeat(10_000);
    for name in [long.as_str(), "%C3%BC%C3%B1%C3%AF", "a%2Fb", "-x", "%00"] {
        let created = daemon.post(&format!("/containers/create?name={name}"), &json!({"Image": "i"})).await;
        assert!(message(created, 400).len() < 1000);
    }
    assert_eq!(daemon.get(&format!("/containers/{long}/json")).await.0, 404);
    assert_eq!(daemon.post("/volumes/create", &json!({"Name": long})).await.0, 400);
    assert_eq!(daemon.post("/networks/create", &json!({"Name": "é".repeat(10_000)})).await.0, 400);
    assert_eq!(daemon.get("/containers/json?filters=%7B%22x%22%3A%5B%221%22%5D%7D").await.0, 400);
    assert_eq!(daemon.get("/containers/json?filters=nonsense").await.0, 400);
    assert_eq!(daemon.get("/containers/%FF/json").await.0, 400);
    let plain = Request::post("/containers/create").body(Body::from("{}")).unwrap();
    let text = message(read(daemon.send(plain).await).await, 400);
    assert!(text.starts_with("unsupported Content-Type header"), "{text}");
    let large = json!({"Image": "x".repeat(5 << 20)});
    assert!(message(daemon.post("/containers/create", &large).await, 400).contains("larger than"));
    let broken = Request::post("/containers/create").header("Content-Type", "application/json");
    assert_eq!(daemon.send(broken.body(Body::from("{")).unwrap()).await.status(), 400);
}

#[tokio::test]
async fn networks_and_volumes_live() {
    let daemon = Daemon::new().await;
    let created = daemon.post("/networks/create", &json!({"Name": "mine", "Labels": {"a": "b"}})).await;
    assert_eq!(created.0, 201, "{}", created.1);
    let id = created.1["Id"].as_str().unwrap().to_owned();
    let (_, network) = daemon.get(&format!("/networks/{}", &id[..12])).await;
    assert_eq!(
        (&network["Name"], &network["Scope"], &network["Driver"]),
        (&json!("mine"), &json!("local"), &json!("bridge"))
    );
    let (_, listed) = daemon.get("/networks?filters=%7B%22label%22%3A%5B%22a%3Db%22%5D%7D").await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let twice = daemon.post("/networks/create", &json!({"Name": "mine"})).await;
    assert_eq!(message(twice, 409), "network with name mine already exists");
    assert_eq!(daemon.delete("/networks/mine").await.0, 204);
    assert_eq!(
        message(daemon.delete("/networks/bridge").await, 403),
        "bridge is a pre-defined network and cannot be removed"
    );

    let (status, volume) = daemon.post("/volumes/create", &json!({"Name": "data", "Labels": {"x": "y"}})).await;
    assert_eq!((status, &volume["Name"], &volume["Scope"]), (StatusCode::CREATED, &json!("data"), &json!("local")));
    assert_eq!(daemon.get("/volumes").await.1["Volumes"].as_array().unwrap().len(), 1);
    let (_, usage) = daemon.get("/system/df").await;
    assert_eq!(usage["Volumes"][0]["UsageData"], json!({"RefCount": 0, "Size": 0}));
    assert_eq!(daemon.delete("/volumes/data").await.0, 204);
}

#[tokio::test]
async fn past_events_end_the_stream() {
    let daemon = Daemon::new().await;
    daemon.post("/volumes/create", &json!({"Name": "data"})).await;
    let until = chrono::Utc::now().timestamp() + 1;
    let filters = "%7B%22type%22%3A%5B%22volume%22%5D%7D";
    let (status, line) = daemon.get(&format!("/events?since=1&until={until}&filters={filters}")).await;
    assert_eq!(status, 200);
    assert_eq!((&line["Type"], &line["Action"], &line["scope"]), (&json!("volume"), &json!("create"), &json!("local")));
}

#[tokio::test]
async fn the_listener_answers_over_its_socket_and_ends_when_told() {
    let daemon = Daemon::new().await;
    let path = daemon._root.path().join("api.sock");
    let listener = Listener::bind_unix(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(serve(daemon.backend.clone(), vec![listener], stopped));
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    // An event stream never ends by itself: shutdown has to cut it.
    let mut follower = tokio::net::UnixStream::connect(&path).await.unwrap();
    follower.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    follower.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    client.write_all(b"GET /v1.41/_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nOK"), "{answer}");
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    assert!(tokio::net::UnixStream::connect(&path).await.is_err(), "nobody listens any more");
}
