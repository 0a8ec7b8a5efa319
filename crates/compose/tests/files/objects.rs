//! A file as the API's objects.

use crate::common::{stack, try_stack};
use serde_json::{Value, json};
use skep_compose::Condition;

/// The spec of the one service of a file.
fn spec(service: &str) -> Value {
    let text = format!("services:\n  web:\n    image: x\n{}", indent(service));
    stack(&text).services.remove(0).spec
}

fn refused(service: &str) -> String {
    let text = format!("services:\n  web:\n    image: x\n{}", indent(service));
    try_stack(&text).expect_err(&text).to_string()
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Fields below the container spec.
fn check(service: &str, expect: Value) {
    same(&spec(service)["TaskTemplate"]["ContainerSpec"], &expect, service);
}

fn same(found: &Value, expect: &Value, what: &str) {
    for (field, value) in expect.as_object().unwrap() {
        assert_eq!(&found[field], value, "{field} of {what}");
    }
}

#[test]
fn the_course_files() {
    let flask = stack(
        "version: \"3.8\"\nservices:\n  flask:\n    image: f\n    build: .\n    environment:\n      - REDIS_HOST=redis-server\n      - REDIS_PASS=${TOKEN}\n    ports:\n      - 8080:5000\n  redis-server:\n    image: redis:latest\n    command: redis-server --requirepass ${TOKEN}\n",
    );
    assert_eq!(flask.networks.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["s_default"]);
    assert_eq!(flask.networks[0].1["Driver"], "overlay");
    assert_eq!(flask.networks[0].1["Labels"], json!({"com.docker.stack.namespace": "s"}));
    let [web, redis] = flask.services.as_slice() else { panic!("two services") };
    assert_eq!((web.name.as_str(), redis.name.as_str()), ("s_flask", "s_redis-server"));
    same(
        &web.spec,
        &json!({
            "Labels": {"com.docker.stack.image": "f", "com.docker.stack.namespace": "s"},
            "Mode": {"Replicated": {"Replicas": null}},
            "EndpointSpec": {"Mode": "", "Ports": [
                {"Protocol": "tcp", "TargetPort": 5000, "PublishedPort": 8080, "PublishMode": "ingress"}]},
        }),
        "flask",
    );
    same(&web.spec["TaskTemplate"], &json!({"Networks": [{"Target": "s_default", "Aliases": ["flask"]}]}), "flask");
    let container = &web.spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Env"], json!(["REDIS_HOST=redis-server", "REDIS_PASS=t0ken"]));
    assert_eq!(redis.spec["TaskTemplate"]["ContainerSpec"]["Args"], json!(["redis-server", "--requirepass", "t0ken"]));

    let mysql = stack(
        "version: \"3.8\"\nservices:\n  db:\n    image: mysql:5.7\n    environment:\n      - MYSQL_ROOT_PASSWORD_FILE=/run/secrets/mysql_pass\n    secrets:\n      - mysql_pass\n    volumes:\n      - data:/var/lib/mysql\nvolumes:\n  data:\nsecrets:\n  mysql_pass:\n    file: pass.txt\n",
    );
    assert_eq!(mysql.secrets[0].name, "s_mysql_pass");
    assert_eq!(mysql.secrets[0].body["Data"], "YWJjMTIzCg==");
    assert!(!format!("{mysql:?}").contains("YWJj"), "a secret's content is never shown");
    same(
        &mysql.services[0].spec["TaskTemplate"]["ContainerSpec"],
        &json!({
            "Secrets": [{"SecretID": "", "SecretName": "s_mysql_pass",
                "File": {"Name": "mysql_pass", "UID": "0", "GID": "0", "Mode": 0o444}}],
            "Mounts": [{"Type": "volume", "Source": "s_data", "Target": "/var/lib/mysql", "ReadOnly": false, "Consistency": "",
                "VolumeOptions": {"Labels": {"com.docker.stack.namespace": "s"}}}],
        }),
        "db",
    );
}

#[test]
fn commands_environment_and_lists() {
    check(
        "command: sh -c 'a b'\nentrypoint: [\"/e\", \"x y\"]",
        json!({"Args": ["sh", "-c", "a b"], "Command": ["/e", "x y"]}),
    );
    check("environment: {B: 1, A: true, C: , TOKEN: }", json!({"Env": ["A=true", "B=1", "C", "TOKEN=t0ken"]}));
    check("environment: [\"A=x=y\", B]", json!({"Env": ["A=x=y", "B"]}));
    check("extra_hosts: [\"a:1.2.3.4\", \"b=::1\"]", json!({"Hosts": ["1.2.3.4 a", "::1 b"]}));
    check(
        "dns: 1.1.1.1\ndns_search: [a, b]\ndns_opt: [ndots:2]",
        json!({"DNSConfig": {"Nameservers": ["1.1.1.1"], "Search": ["a", "b"], "Options": ["ndots:2"]}}),
    );
    check(
        "cap_add: [net_admin, CAP_KILL]\ncap_drop: [all]",
        json!({"CapabilityAdd": ["CAP_KILL", "CAP_NET_ADMIN"], "CapabilityDrop": ["ALL"]}),
    );
    check(
        "ulimits: {nofile: 10, nproc: {soft: 1, hard: 2}}",
        json!({"Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 10}, {"Name": "nproc", "Soft": 1, "Hard": 2}]}),
    );
    check(
        "sysctls: [net.core.somaxconn=1024]\ninit: true\ngroup_add: [5]\nstop_grace_period: 1m\noom_score_adj: -5",
        json!({"Sysctls": {"net.core.somaxconn": "1024"}, "Init": true, "Groups": ["5"], "StopGracePeriod": 60_000_000_000_i64, "OomScoreAdj": -5}),
    );
    check(
        "hostname: '{{.Node.Hostname}}-{{.Task.Slot}}'\nuser: 1000",
        json!({"Hostname": "{{.Node.Hostname}}-{{.Task.Slot}}", "User": "1000"}),
    );
    check("labels: [a=b, c]", json!({"Labels": {"a": "b", "c": "", "com.docker.stack.namespace": "s"}}));
    check(
        "tty: yes\nread_only: \"true\"\nstdin_open: false",
        json!({"TTY": true, "ReadOnly": true, "OpenStdin": false}),
    );
}

#[test]
fn health_checks() {
    check(
        "healthcheck: {test: curl x, interval: 5s, retries: 3, start_period: 1m, timeout: 500ms}",
        json!({"Healthcheck": {
        "Test": ["CMD-SHELL", "curl x"], "Interval": 5_000_000_000_i64, "Retries": 3, "StartPeriod": 60_000_000_000_i64, "Timeout": 500_000_000}}),
    );
    check("healthcheck: {disable: true}", json!({"Healthcheck": {"Test": ["NONE"]}}));
    assert!(refused("healthcheck: {disable: true, test: [CMD, x]}").contains("can't be set at the same time"));
    assert!(refused("healthcheck: {interval: soon}").contains("f.yml:4:29: \"soon\" is not a duration"));
}

#[test]
fn ports_long_and_short() {
    let ports = |text: &str| spec(text)["EndpointSpec"]["Ports"].clone();
    assert_eq!(
        ports("ports: [\"90:9\", {target: 80, published: \"8080\", mode: host, protocol: udp}, 7]"),
        json!([
            {"Protocol": "tcp", "TargetPort": 7, "PublishMode": "ingress"},
            {"Protocol": "tcp", "TargetPort": 9, "PublishedPort": 90, "PublishMode": "ingress"},
            {"Protocol": "udp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"},
        ])
    );
    assert_eq!(ports("ports: [{target: 80, published: 9000-9002}]").as_array().unwrap().len(), 3);
    assert!(refused("ports: [{published: 80}]").contains("needs a target"));
    assert!(refused("ports: [{target: 80, mode: both}]").contains("not known"));
    assert!(refused("ports: [\"70000\"]").contains("f.yml:4:13: invalid port"));
}

#[test]
fn deploy_settings() {
    let spec = spec(
        "deploy:\n  mode: replicated\n  replicas: 3\n  endpoint_mode: DNSRR\n  labels: {a: b}\n  update_config: {parallelism: 2, delay: 10s, failure_action: rollback, monitor: 1m, max_failure_ratio: 0.3, order: start-first}\n  rollback_config: {parallelism: 0}\n  restart_policy: {condition: on-failure, delay: 5s, max_attempts: 3, window: 2m}\n  placement:\n    constraints: [node.role==manager]\n    preferences: [{spread: node.labels.zone}]\n    max_replicas_per_node: 1\n  resources:\n    limits: {cpus: '0.50', memory: 50M, pids: 10}\n    reservations:\n      memory: 20m\n      generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]",
    );
    same(
        &spec,
        &json!({
            "Mode": {"Replicated": {"Replicas": 3}},
            "UpdateConfig": {"Parallelism": 2, "Delay": 10_000_000_000_i64, "FailureAction": "rollback", "Monitor": 60_000_000_000_i64, "MaxFailureRatio": 0.3, "Order": "start-first"},
            "RollbackConfig": {"Parallelism": 0, "FailureAction": "", "MaxFailureRatio": 0.0, "Order": ""},
        }),
        "deploy",
    );
    same(
        &spec["TaskTemplate"],
        &json!({
            "RestartPolicy": {"Condition": "on-failure", "Delay": 5_000_000_000_i64, "MaxAttempts": 3, "Window": 120_000_000_000_i64},
            "Placement": {"Constraints": ["node.role==manager"], "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.zone"}}], "MaxReplicas": 1},
            "Resources": {"Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 50 << 20, "Pids": 10},
                "Reservations": {"MemoryBytes": 20 << 20, "GenericResources": [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]}},
        }),
        "deploy",
    );
    assert_eq!(spec["EndpointSpec"]["Mode"], "dnsrr");
    assert_eq!(spec["Labels"]["a"], "b");
    assert!(refused("deploy: {mode: global, replicas: 2}").contains("replicas can only be used"));
    assert!(refused("deploy: {mode: often}").contains("Unknown mode: often"));
    assert!(refused("deploy: {replicas: -1}").contains("below zero"));
}

#[test]
fn older_keys_say_the_same() {
    let spec_of = spec;
    let spec =
        spec_of("mem_limit: 64m\nmem_reservation: 32m\ncpus: 0.5\npids_limit: 7\nscale: 2\nrestart: on-failure:4");
    assert_eq!(spec["Mode"], json!({"Replicated": {"Replicas": 2}}));
    same(
        &spec["TaskTemplate"],
        &json!({
            "Resources": {"Limits": {"NanoCPUs": 500_000_000, "MemoryBytes": 64 << 20, "Pids": 7}, "Reservations": {"MemoryBytes": 32 << 20}},
            "RestartPolicy": {"Condition": "on-failure", "MaxAttempts": 4},
        }),
        "older keys",
    );
    assert_eq!(spec_of("restart: no")["TaskTemplate"]["RestartPolicy"], Value::Null);
    assert_eq!(spec_of("restart: always")["TaskTemplate"]["RestartPolicy"]["Condition"], "any");
}

#[test]
fn mounts_of_every_kind() {
    let stack = stack(
        "services:\n  a:\n    image: x\n    volumes:\n      - /anonymous\n      - v:/v:ro,nocopy\n      - ./here:/h:rslave\n      - ~/home:/home\n      - {type: tmpfs, target: /t, tmpfs: {size: 1m}}\n      - {type: volume, source: ext, target: /e}\n      - {type: volume, source: named, target: /n, volume: {subpath: s}}\n    tmpfs: /run:size=1k\nvolumes:\n  v: {driver: nfs, driver_opts: {o: rw}, labels: [l=1]}\n  ext: {external: true}\n  named: {name: real}\n",
    );
    let labels = json!({"com.docker.stack.namespace": "s"});
    let base = |kind: &str, source: &str, target: &str| json!({"Type": kind, "Source": source, "Target": target, "ReadOnly": false, "Consistency": ""});
    let with = |mut mount: Value, fields: Value| {
        mount.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        mount
    };
    let expect = json!([
        base("volume", "", "/anonymous"),
        with(base("volume", "s_v", "/v"), json!({"ReadOnly": true, "VolumeOptions": {"NoCopy": true,
            "Labels": {"l": "1", "com.docker.stack.namespace": "s"}, "DriverConfig": {"Name": "nfs", "Options": {"o": "rw"}}}})),
        with(base("bind", "/p/here", "/h"), json!({"BindOptions": {"Propagation": "rslave"}})),
        base("bind", "/home/u/home", "/home"),
        with(base("tmpfs", "", "/t"), json!({"TmpfsOptions": {"SizeBytes": 1 << 20}})),
        with(base("volume", "ext", "/e"), json!({"VolumeOptions": {}})),
        with(base("volume", "real", "/n"), json!({"VolumeOptions": {"NoCopy": false, "Subpath": "s", "Labels": labels}})),
        {"Type": "tmpfs", "Target": "/run", "TmpfsOptions": {"SizeBytes": 1024}},
    ]);
    assert_eq!(stack.services[0].spec["TaskTemplate"]["ContainerSpec"]["Mounts"], expect);
    assert!(refused("volumes: [nowhere:/x]").contains("undefined volume \"nowhere\""));
    assert!(
        refused("volumes: [{type: bind, source: /a, target: /b, tmpfs: {size: 1}}]")
            .contains("incompatible with type bind")
    );
}

#[test]
fn networks_made_and_external() {
    let stack = stack(
        "services:\n  a: {image: x, networks: {front: {aliases: [w]}, host: }}\n  b: {image: x, networks: [back]}\nnetworks:\n  front: {driver_opts: {encrypted: ''}, attachable: true, internal: true, ipam: {config: [{subnet: 10.5.0.0/24, gateway: 10.5.0.1}]}}\n  back: {name: shared, external: true}\n  host: {external: true}\n  unused: {}\n",
    );
    assert_eq!(stack.external_networks, ["shared", "host"]);
    let [(name, body)] = stack.networks.as_slice() else { panic!("one network is made: {:?}", stack.networks) };
    assert_eq!(name, "s_front");
    same(
        body,
        &json!({"Attachable": true, "Internal": true, "Options": {"encrypted": ""},
        "IPAM": {"Driver": "", "Config": [{"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]}}),
        "front",
    );
    assert_eq!(
        stack.services[0].spec["TaskTemplate"]["Networks"],
        json!([{"Target": "host", "Aliases": []}, {"Target": "s_front", "Aliases": ["w", "a"]}])
    );
    assert!(refused("networks: [nowhere]").contains("undefined network \"nowhere\""));
}

#[test]
fn secrets_and_configs() {
    let stack = stack(
        "services:\n  a:\n    image: x\n    secrets: [{source: pw, target: p, uid: '1', gid: '2', mode: 0400}, ext]\n    configs: [{source: c, target: /etc/c, mode: '0440'}]\nsecrets:\n  pw: {file: ./pass.txt, template_driver: golang}\n  ext: {external: true, name: other}\n  env: {environment: TOKEN}\n  drv: {driver: vault, driver_opts: {k: 1}}\nconfigs:\n  c: {content: 'hello $TOKEN', labels: {x: y}}\n",
    );
    let container = &stack.services[0].spec["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        container["Secrets"],
        json!([
            {"File": {"Name": "ext", "UID": "0", "GID": "0", "Mode": 0o444}, "SecretID": "", "SecretName": "other"},
            {"File": {"Name": "p", "UID": "1", "GID": "2", "Mode": 0o400}, "SecretID": "", "SecretName": "s_pw"},
        ])
    );
    assert_eq!(container["Configs"][0]["File"], json!({"Name": "/etc/c", "UID": "0", "GID": "0", "Mode": 0o440}));
    let names: Vec<&str> = stack.secrets.iter().map(|secret| secret.name.as_str()).collect();
    assert_eq!(names, ["s_drv", "s_env", "s_pw"]);
    assert_eq!(stack.secrets[2].body["Templating"], json!({"Name": "golang"}));
    assert_eq!(stack.secrets[0].body["Driver"], json!({"Name": "vault", "Options": {"k": "1"}}));
    assert_eq!(stack.configs[0].body["Data"], "aGVsbG8gdDBrZW4=");
    assert_eq!(stack.configs[0].body["Labels"], json!({"x": "y", "com.docker.stack.namespace": "s"}));
    assert!(refused("secrets: [nowhere]").contains("undefined secret \"nowhere\""));
    assert!(
        try_stack("services: {a: {image: x}}\nsecrets: {p: {file: none.txt}}")
            .unwrap_err()
            .to_string()
            .contains("/p/none.txt")
    );
    assert!(
        try_stack("services: {a: {image: x}}\nsecrets: {p: {}}")
            .unwrap_err()
            .to_string()
            .contains("file, environment or external")
    );
}

#[test]
fn dependencies_come_first() {
    let stack = stack(
        "services:\n  app:\n    image: x\n    depends_on:\n      db: {condition: service_healthy}\n      init: {condition: service_completed_successfully}\n      gone: {condition: service_started, required: false}\n  db: {image: x, healthcheck: {test: t}}\n  init: {image: x, depends_on: [db]}\n",
    );
    let order: Vec<&str> = stack.services.iter().map(|service| service.key.as_str()).collect();
    assert_eq!(order, ["db", "init", "app"]);
    let waits: Vec<(&str, Condition)> =
        stack.services[2].depends_on.iter().map(|d| (d.service.as_str(), d.condition)).collect();
    assert_eq!(waits, [("db", Condition::Healthy), ("init", Condition::Completed)]);
    assert!(stack.services[0].has_health_check && !stack.services[1].has_health_check);
    let said = try_stack("services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: [a]}}")
        .unwrap_err()
        .to_string();
    assert_eq!(said, "depends_on goes in a circle: a -> b -> a");
    assert!(refused("depends_on: [nowhere]").contains("depends on undefined service \"nowhere\""));
}

#[test]
fn a_service_needs_an_image() {
    let said = try_stack("services:\n  a:\n    build: .\n").unwrap_err().to_string();
    assert_eq!(said, "/p/f.yml:3:5: invalid image reference for service a: no image specified");
}
