use super::*;
use skep_model::container::{EndpointInfo, Health, MountPoint as ModelMountPoint};

const NOW: Timestamp = Timestamp(1_500_000_100_000_000_000);

fn at(seconds: i64) -> Timestamp {
    Timestamp((1_500_000_000 + seconds) * 1_000_000_000)
}

fn container(id: &str, name: &str, status: ContainerStatus) -> ContainerInfo {
    let mut info = ContainerInfo { id: id.into(), name: name.into(), path: "sh".into(), ..ContainerInfo::default() };
    info.state.status = status;
    info.state.started_at = at(70);
    info
}

/// Newest first: a running `web`, an exited `job`, a created `new`.
fn some() -> Vec<Arc<ContainerInfo>> {
    let mut web = container("aa1", "web", ContainerStatus::Running);
    web.created = at(30);
    web.image_id = "sha256:1".into();
    web.config.labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    web.config.exposed_ports = ["80/tcp".parse().unwrap(), "443/tcp".parse().unwrap()].into();
    web.ports.insert("80/tcp".parse().unwrap(), vec![PortBinding { host_port: 8080, ..PortBinding::default() }]);
    web.endpoints.insert("net1".into(), EndpointInfo { network_id: "n1".into(), ..EndpointInfo::default() });
    web.mounts.push(ModelMountPoint { name: "data".into(), destination: "/data".into(), ..ModelMountPoint::default() });
    let mut job = container("bb2", "job", ContainerStatus::Exited);
    job.created = at(20);
    job.state.finished_at = at(40);
    job.state.exit_code = 3;
    let mut new = container("cc3", "new", ContainerStatus::Created);
    new.created = at(10);
    vec![web.into(), job.into(), new.into()]
}

fn check(filters: &str, all: bool, expect: &[&str]) {
    let filters = Filters::parse(filters).unwrap();
    filters.check(&FILTERS).unwrap();
    let image = |name: &str| (name == "busybox").then(|| ImageInfo { id: "sha256:1".into(), ..ImageInfo::default() });
    let request = ListRequest { all, limit: None, filters };
    let chosen = select(&some(), &request, image).unwrap();
    let names: Vec<_> = chosen.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, expect, "{request:?}");
}

#[test]
fn filters_choose() {
    check("", false, &["web"]);
    check("", true, &["web", "job", "new"]);
    check(r#"{"name":["^/we"]}"#, true, &["web"]);
    check(r#"{"name":["^job$"]}"#, true, &["job"]);
    check(r#"{"id":["bb"]}"#, true, &["job"]);
    check(r#"{"label":["tier=front"]}"#, true, &["web"]);
    check(r#"{"status":["exited","created"]}"#, false, &["job", "new"]);
    check(r#"{"exited":["3"]}"#, false, &["job"]);
    check(r#"{"exited":["0"]}"#, false, &[]);
    check(r#"{"ancestor":["busybox"]}"#, true, &["web"]);
    check(r#"{"ancestor":["nosuch"]}"#, true, &[]);
    check(r#"{"before":["web"]}"#, false, &["job", "new"]);
    check(r#"{"since":["cc3"]}"#, false, &["web", "job"]);
    check(r#"{"network":["n1"]}"#, true, &["web"]);
    check(r#"{"volume":["/data"]}"#, true, &["web"]);
    check(r#"{"publish":["8000-8090"]}"#, true, &["web"]);
    check(r#"{"publish":["443"]}"#, true, &[]);
    check(r#"{"expose":["443/tcp"]}"#, true, &["web"]);
    check(r#"{"health":["none"]}"#, true, &["web", "job", "new"]);
    check(r#"{"is-task":["true"]}"#, true, &[]);
}

#[test]
fn meaningless_values_are_refused() {
    for bad in [
        r#"{"status":["asleep"]}"#,
        r#"{"exited":["x"]}"#,
        r#"{"health":["ok"]}"#,
        r#"{"publish":["9-1"]}"#,
        r#"{"before":["nosuch"]}"#,
        r#"{"is-task":["maybe"]}"#,
    ] {
        let request = ListRequest { filters: Filters::parse(bad).unwrap(), ..ListRequest::default() };
        assert!(select(&some(), &request, |_| None).is_err(), "{bad}");
    }
}

#[test]
fn a_limit_counts_stopped_ones() {
    let request = ListRequest { limit: Some(2), ..ListRequest::default() };
    assert_eq!(select(&some(), &request, |_| None).unwrap().len(), 2);
}

#[test]
fn statuses_read_like_dockers() {
    let text = |status, change: fn(&mut ContainerInfo)| {
        let mut info = container("a", "a", status);
        info.state.finished_at = at(40);
        change(&mut info);
        status_text(&info, NOW)
    };
    let health = |status| Some(Health { status, ..Health::default() });
    assert_eq!(text(ContainerStatus::Running, |_| {}), "Up 30 seconds");
    assert_eq!(text(ContainerStatus::Paused, |_| {}), "Up 30 seconds (Paused)");
    assert_eq!(text(ContainerStatus::Exited, |i| i.state.exit_code = 137), "Exited (137) About a minute ago");
    assert_eq!(text(ContainerStatus::Restarting, |i| i.state.exit_code = 1), "Restarting (1) About a minute ago");
    assert_eq!(text(ContainerStatus::Created, |_| {}), "Created");
    let mut info = container("a", "a", ContainerStatus::Running);
    info.state.health = health(HealthStatus::Starting);
    assert_eq!(status_text(&info, NOW), "Up 30 seconds (health: starting)");
    info.state.health = health(HealthStatus::Unhealthy);
    assert_eq!(status_text(&info, NOW), "Up 30 seconds (unhealthy)");
}

#[test]
fn a_summary_has_dockers_fields() {
    let wire = serde_json::to_value(Summary::of(&some()[0], None, NOW)).unwrap();
    assert_eq!(wire["Names"], serde_json::json!(["/web"]));
    assert_eq!(
        wire["Ports"],
        serde_json::json!([
            {"PrivatePort": 443, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}
        ])
    );
    assert_eq!(wire["HostConfig"]["NetworkMode"], "default");
    assert!(wire.get("SizeRw").is_none());
}
