//! A file as containers, networks and volumes of one machine.

use crate::common::Memory;
use serde_json::{Value, json};
use skep_compose::{Condition, Error, Input, Local, LocalRequest, Project, Request, load};

fn project(files: &[(&str, &str)], profiles: &[&str], enabled: &[&str]) -> Result<Project, Error> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let request = Request {
        inputs: vec![Input { path: "/srv/shop/compose.yaml".into(), text: None }],
        folder: "/srv/shop".into(),
        environment: [("TOKEN".to_owned(), "t0ken".to_owned())].into(),
        profiles: words(profiles),
        interpolate: true,
        local: Some(LocalRequest { name: None, variables: vec![], enabled: words(enabled) }),
    };
    load(&request, &Memory::new(files))
}

fn local(text: &str) -> Local {
    let files = [("/srv/shop/compose.yaml", text)];
    let project = project(&files, &[], &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
    project.to_local(&Memory::new(&files)).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    let files = [("/srv/shop/compose.yaml", text)];
    match project(&files, &[], &[]) {
        Err(error) => error.to_string(),
        Ok(project) => project.to_local(&Memory::new(&files)).expect_err(text).to_string(),
    }
}

/// Fields of the one service's create body.
fn check(service: &str, expect: Value) {
    let indented: String = service.lines().map(|line| format!("    {line}\n")).collect();
    let body =
        local(&format!("services:\n  web:\n    image: x\n{indented}volumes: {{data: }}\n")).services.remove(0).body;
    contains(&body, &expect, service);
}

fn contains(found: &Value, expect: &Value, what: &str) {
    match expect {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| contains(&found[key], value, &format!("{what}: {key}")))
        }
        value => assert_eq!(found, value, "{what}"),
    }
}

#[test]
fn names_are_those_of_docker_compose() {
    let shop = local(
        "services:\n  web: {build: ./web, volumes: [data:/d], depends_on: [db]}\n  db: {image: redis}\nvolumes: {data: , unused: }\nnetworks: {unused: }\n",
    );
    assert_eq!(shop.name, "shop");
    assert_eq!(shop.networks.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["shop_default"]);
    assert_eq!(shop.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["shop_data"]);
    let [db, web] = shop.services.as_slice() else { panic!("two services") };
    assert_eq!((db.image.as_str(), web.image.as_str()), ("redis", "shop-web"));
    let build = web.build.as_ref().unwrap();
    assert_eq!((build.context.as_str(), build.tags[0].as_str()), ("/srv/shop/web", "shop-web"));
    contains(
        &web.body,
        &json!({
            "Image": "shop-web",
            "HostConfig": {"NetworkMode": "shop_default", "Binds": ["shop_data:/d:rw"]},
            "NetworkingConfig": {"EndpointsConfig": {"shop_default": {"Aliases": ["web"]}}},
        }),
        "web",
    );
    assert_eq!(web.body["Cmd"], Value::Null, "what the image says stays");
}

#[test]
fn what_a_swarm_ignores_counts_here() {
    check(
        "privileged: true\ncontainer_name: one\nshm_size: 64m\nrestart: on-failure:3\nexpose: [90, 91/udp]\nmemswap_limit: -1\nmem_limit: 1g",
        json!({"ExposedPorts": {"90/tcp": {}, "91/udp": {}}, "HostConfig": {
            "Privileged": true, "ShmSize": 67_108_864, "MemorySwap": -1, "Memory": 1_073_741_824,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}}),
    );
    check(
        "ports: ['127.0.0.1:8080:80', '9000-9002:90', 53/udp]",
        json!({"HostConfig": {"PortBindings": {
            "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
            "90/tcp": [{"HostIp": "", "HostPort": "9000-9002"}],
            "53/udp": [{"HostIp": "", "HostPort": ""}]}}}),
    );
    check(
        "volumes: ['/anonymous', './here:/there:ro', {type: bind, source: /a, target: /b, bind: {create_host_path: false}}]\ntmpfs: /run:size=1m",
        json!({"HostConfig": {
            "Binds": ["/srv/shop/here:/there:ro"], "Tmpfs": {"/run": "size=1m"},
            "Mounts": [
                {"Type": "volume", "Target": "/anonymous", "ReadOnly": false, "VolumeOptions": {"NoCopy": false}},
                {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": false,
                    "BindOptions": {"Propagation": "", "CreateMountpoint": false}}]}}),
    );
    check(
        "deploy: {restart_policy: {condition: any}, resources: {limits: {cpus: '0.5', pids: 9}}}",
        json!({
        "HostConfig": {"RestartPolicy": {"Name": "always"}, "NanoCpus": 500_000_000, "PidsLimit": 9}}),
    );
    check(
        "stop_grace_period: 1m30s\ndevices: ['/dev/fuse', '/dev/a:/dev/b:r']",
        json!({
        "StopTimeout": 90,
        "HostConfig": {"Devices": [
            {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
            {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}]}}),
    );
}

#[test]
fn variables_without_a_value_are_left_out_and_empty_ones_stay() {
    check("environment: [TOKEN, NOWHERE, EMPTY=]", json!({"Env": ["EMPTY=", "TOKEN=t0ken"]}));
}

#[test]
fn services_share_spaces_and_thereby_depend() {
    let shop = local(
        "services:\n  a: {image: x, network_mode: 'service:b', pid: 'service:c'}\n  b: {image: x}\n  c: {image: x}\n",
    );
    let a = shop.services.last().unwrap();
    assert_eq!((a.key.as_str(), &a.body["HostConfig"]["NetworkMode"]), ("a", &json!("service:b")));
    assert_eq!(a.depends_on.iter().map(|d| d.service.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(a.body["NetworkingConfig"]["EndpointsConfig"], json!({}));
}

#[test]
fn profiles_choose_and_a_name_enables() {
    let files = [(
        "/srv/shop/compose.yaml",
        "services:\n  a: {image: x}\n  b: {image: x, profiles: [dev]}\n  c: {image: x, profiles: [dev]}\n",
    )];
    let check = |profiles: &[&str], enabled: &[&str], there: &[&str], left_out: &[&str]| {
        let project = project(&files, profiles, enabled).unwrap();
        let shop = project.to_local(&Memory::new(&files)).unwrap();
        assert_eq!(shop.services.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(), there);
        assert_eq!(project.left_out().collect::<Vec<_>>(), left_out);
    };
    check(&[], &[], &["a"], &["b", "c"]);
    check(&["dev"], &[], &["a", "b", "c"], &[]);
    check(&[], &["b"], &["a", "b", "c"], &[]);
}

#[test]
fn files_of_the_project_itself_are_placed_and_others_mounted() {
    let shop = local(
        "services:\n  a:\n    image: x\n    secrets: [token, {source: file, target: /etc/f}]\n    configs: [{source: text, target: /etc/c, mode: 0400, uid: '7'}]\nsecrets:\n  token: {environment: TOKEN}\n  file: {file: ./f}\nconfigs:\n  text: {content: 'hello ${TOKEN}'}\n",
    );
    let a = &shop.services[0];
    let placed: Vec<(&str, u32, u64, &[u8])> =
        a.files.iter().map(|f| (f.path.as_str(), f.mode, f.user, f.content.as_slice())).collect();
    assert_eq!(
        placed,
        [("/run/secrets/token", 0o444, 0, b"t0ken".as_slice()), ("/etc/c", 0o400, 7, b"hello t0ken".as_slice())]
    );
    let mount = &a.body["HostConfig"]["Mounts"][0];
    assert_eq!(
        (&mount["Source"], &mount["Target"], &mount["ReadOnly"]),
        (&json!("/srv/shop/f"), &json!("/etc/f"), &json!(true))
    );
    assert!(!format!("{a:?} {:?}", a.files).contains("t0ken"), "secrets stay out of Debug");
}

#[test]
fn the_definition_changes_with_what_a_container_is() {
    let of = |more: &str| local(&format!("services: {{a: {{image: x, {more}}}}}")).services.remove(0).definition;
    assert_eq!(of("scale: 2, pull_policy: never"), of("scale: 3"));
    assert_eq!(of("deploy: {replicas: 2}"), of(""));
    assert_ne!(of("environment: [A=b]"), of("environment: [A=c]"));
    assert_ne!(of("deploy: {resources: {limits: {cpus: 1}}}"), of(""));
}

#[test]
fn dependencies_keep_what_they_ask_for() {
    let shop = local(
        "services:\n  a: {image: x, depends_on: {b: {condition: service_completed_successfully, restart: true, required: false}}}\n  b: {image: x}\n",
    );
    let wish = &shop.services[1].depends_on[0];
    assert_eq!((wish.condition, wish.restart, wish.required), (Condition::Completed, true, false));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, part) in [
        ("services: {a: {command: x}}", "neither an image nor a build context"),
        ("services: {a: {image: x, container_name: n, scale: 2}}", "container name must be unique"),
        ("services: {a: {image: x, network_mode: host, networks: [n]}}\nnetworks: {n: }", "mutually exclusive"),
        ("services: {a: {image: x, volumes: ['v:/v']}}", "undefined volume v"),
        ("services: {a: {image: x, networks: [n]}}", "undefined network n"),
        ("services: {a: {image: x, secrets: [s]}}\nsecrets: {s: {external: true}}", "unsupported external secret"),
        ("services: {a: {image: x, pid: 'service:b'}}", "undefined service \"b\""),
        ("services: {a: {image: x, restart: sometimes}}", "unknown restart policy"),
        ("services: {a: {image: x, build: {platforms: [a, b]}}}", "several platforms"),
    ] {
        let said = refused(text);
        assert!(said.contains(part), "{text}: {said}");
    }
}

#[test]
fn the_explicit_form_names_everything() {
    let files =
        [("/srv/shop/compose.yaml", "version: '3'\nservices: {a: {image: x, volumes: ['v:/v']}}\nvolumes: {v: }\n")];
    let yaml = project(&files, &[], &[]).unwrap().to_local_yaml();
    assert!(
        yaml.contains("name: shop\n") && yaml.contains("name: shop_default") && yaml.contains("name: shop_v"),
        "{yaml}"
    );
    assert!(!yaml.contains("version"), "{yaml}");
}
