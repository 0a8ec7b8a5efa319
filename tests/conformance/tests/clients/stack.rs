//! Stacks, secrets and configs: what a compose file becomes.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_conformance::client::{failure, success};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Client, Host, wait};
use std::fs;
use std::io::Write as _;
use std::process::{Output, Stdio};

/// With every client.
pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_stack_from_deploy_to_rm", a_stack_from_deploy_to_rm),
    ("secrets_and_configs_in_their_places", secrets_and_configs_in_their_places),
    ("deploying_again_changes_only_what_differs", deploying_again_changes_only_what_differs),
    ("secret_and_config_verbs", secret_and_config_verbs),
];

/// What only our own client does.
pub(crate) const OWN: &[Scenario] = &[
    ("the_same_file_gives_the_same_objects", the_same_file_gives_the_same_objects),
    ("dependencies_start_first", dependencies_start_first),
    ("malformed_compose_files", malformed_compose_files),
];

const LABEL: &str = "label=com.docker.stack.namespace=demo";

fn begin(host: &Host) -> Result<()> {
    host.import_busybox()?;
    host.ok(&["swarm", "init", "--advertise-addr", HOST_ADDRESS]).map(drop)
}

/// A file in a folder of its own; gives its path.
fn file(host: &Host, name: &str, text: &str) -> Result<String> {
    let folder = host.scratch().join("stack");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

fn with_input(host: &Host, args: &[&str], input: &[u8]) -> Result<Output> {
    let mut child = host.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A client that refuses early does not read all.
    let _ = child.stdin.take().context("a pipe")?.write_all(input);
    Ok(child.wait_with_output()?)
}

fn converged(host: &Host, expect: &[&str]) -> Result<()> {
    wait::until("the services to run", || {
        let rows = host.ok(&["stack", "services", "demo", "--format", "{{.Name}} {{.Replicas}}"])?;
        let mut rows: Vec<&str> = rows.lines().collect();
        rows.sort_unstable();
        ensure!(rows == expect, "{rows:?}");
        Ok(())
    })
}

fn a_stack_from_deploy_to_rm(host: &mut Host) -> Result<()> {
    host.build_whoami()?;
    begin(host)?;
    let path = file(
        host,
        "docker-compose.yml",
        "version: \"3.8\"\nservices:\n  flask:\n    image: whoami\n    build: .\n    ports:\n      - 8080:80\n    environment:\n      - REDIS_HOST=redis-server\n  redis-server:\n    image: busybox:latest\n    command: sleep 1000\n    stop_grace_period: 100ms\n",
    )?;
    let output = host.command(&["stack", "deploy", "--compose-file", &path, "demo"]).output()?;
    let shown = success(&output)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &shown;
    for line in ["Ignoring unsupported options: build", "Creating network demo_default"] {
        ensure!(said.contains(line), "{said}");
    }
    ensure!(
        shown.contains("Creating service demo_flask") && shown.contains("Creating service demo_redis-server"),
        "{shown}"
    );
    converged(host, &["demo_flask 1/1", "demo_redis-server 1/1"])?;
    ensure!(host.ok(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])? == "demo 2");
    let table = host.ok(&["stack", "ls"])?;
    ensure!(table.lines().next().is_some_and(|head| head.starts_with("NAME      SERVICES")), "{table}");
    let tasks = host.ok(&["stack", "ps", "demo", "--format", "{{.Name}} {{.DesiredState}}"])?;
    ensure!(tasks.lines().collect::<Vec<_>>() == ["demo_flask.1 Running", "demo_redis-server.1 Running"], "{tasks}");
    wait::until("an answer", || host.who_answers("http://127.0.0.1:8080/"))?;

    let removed = host.ok(&["stack", "rm", "demo"])?;
    for line in ["Removing service demo_flask", "Removing service demo_redis-server", "Removing network demo_default"] {
        ensure!(removed.contains(line), "{removed}");
    }
    wait::until("everything to go", || {
        ensure!(host.ok(&["ps", "-aq"])?.is_empty() && host.ok(&["network", "ls", "-q", "-f", LABEL])?.is_empty());
        Ok(())
    })?;
    let output = host.command(&["stack", "rm", "demo"]).output()?;
    success(&output)?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("Nothing found in stack: demo"));
    let said = host.refused(&["stack", "ps", "demo"])?;
    ensure!(said.contains("othing found in stack: demo"), "{said}");
    Ok(())
}

fn secrets_and_configs_in_their_places(host: &mut Host) -> Result<()> {
    begin(host)?;
    file(host, "pass.txt", "abc123\n")?;
    file(host, "app.conf", "level=1\n")?;
    file(host, "filled.conf", "{{.Service.Name}} {{.Task.Slot}} {{env \"WHO\"}} {{secret \"pass\"}}")?;
    success(&with_input(host, &["secret", "create", "outside", "-"], b"external\n")?)?;
    let path = file(
        host,
        "f.yml",
        "version: \"3.9\"\nservices:\n  db:\n    image: busybox\n    command: sleep 1000\n    stop_grace_period: 100ms\n    secrets:\n      - pass\n      - outside\n      - {source: pass, target: /root/own, uid: '7', gid: '8', mode: 0400}\n    environment: [WHO=me]\n    configs:\n      - {source: filled, target: /filled}\n      - {source: app, target: /etc/app.conf, uid: '5', mode: 0440}\n    volumes:\n      - data:/var/lib/data\nvolumes:\n  data:\nsecrets:\n  pass: {file: ./pass.txt}\n  outside: {external: true}\nconfigs:\n  app: {file: ./app.conf}\n  filled: {file: ./filled.conf, template_driver: golang}\n",
    )?;
    host.ok(&["stack", "deploy", "-c", &path, "demo"])?;
    converged(host, &["demo_db 1/1"])?;
    let id = host.ok(&["ps", "-q", "--filter", "name=demo_db"])?;
    let shown = |script: &str| host.ok(&["exec", &id, "sh", "-c", script]);
    ensure!(
        shown("cat /run/secrets/pass /run/secrets/outside /root/own /etc/app.conf")?
            == "abc123\nexternal\nabc123\nlevel=1"
    );
    ensure!(shown("stat -c '%a %u %g' /run/secrets/pass /root/own /etc/app.conf")? == "444 0 0\n400 7 8\n440 5 0");
    ensure!(shown("cat /filled")? == "demo_db 1 me abc123", "{}", shown("cat /filled")?);
    ensure!(host.ok(&["volume", "ls", "-q"])?.contains("demo_data"));
    let secrets = host.ok(&["secret", "ls", "-f", LABEL, "--format", "{{.Name}}"])?;
    ensure!(secrets == "demo_pass", "{secrets}");
    let removed = host.ok(&["stack", "rm", "demo"])?;
    ensure!(removed.contains("Removing secret demo_pass") && removed.contains("Removing config demo_app"), "{removed}");
    ensure!(host.ok(&["secret", "ls", "--format", "{{.Name}}"])? == "outside");
    Ok(())
}

fn version_of(host: &Host, service: &str) -> Result<u64> {
    host.inspect(&["service", "inspect", service])?["Version"]["Index"].as_u64().context("a version")
}

fn deploying_again_changes_only_what_differs(host: &mut Host) -> Result<()> {
    begin(host)?;
    file(host, "pass.txt", "one")?;
    let text = |env: &str, third: &str| {
        format!(
            "version: \"3.9\"\nservices:\n  a: {{image: busybox, command: sleep 1000, stop_grace_period: 100ms, environment: [{env}], secrets: [p]}}\n  b:\n    image: busybox\n    command: sleep 1000\n    stop_grace_period: 100ms\n    hostname: '{{{{.Service.Name}}}}'\n    deploy:\n      labels: {{x: z}}\n      update_config: {{parallelism: 2, max_failure_ratio: 0.3}}\n      resources: {{limits: {{cpus: '0.5', memory: 64M}}}}\n{third}secrets:\n  p: {{file: pass.txt}}\n"
        )
    };
    let third = "  c: {image: busybox, command: sleep 1000, stop_grace_period: 100ms}\n";
    let path = file(host, "f.yml", &text("A=1", third))?;
    host.ok(&["stack", "deploy", "-c", &path, "demo"])?;
    converged(host, &["demo_a 1/1", "demo_b 1/1", "demo_c 1/1"])?;
    let untouched = (version_of(host, "demo_b")?, host.ok(&["ps", "-q", "--filter", "name=demo_b"])?);

    file(host, "f.yml", &text("A=2", ""))?;
    let shown = host.ok(&["stack", "deploy", "-c", &path, "demo"])?;
    ensure!(shown.contains("Updating service demo_a (id: "), "{shown}");
    converged(host, &["demo_a 1/1", "demo_b 1/1", "demo_c 1/1"])?;
    let container = host.ok(&["ps", "-q", "--filter", "name=demo_b"])?;
    ensure!(container == untouched.1, "an unchanged service got another container");
    if shown.contains("is up to date") {
        ensure!(version_of(host, "demo_b")? == untouched.0, "an unchanged service was touched");
    }
    wait::until("the new environment", || {
        let seen = host.inspect(&["service", "inspect", "demo_a"])?;
        ensure!(seen["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"] == json!(["A=2"]), "{seen}");
        // The stock client does not ask again when a service changes under its hands.
        ensure!(seen["UpdateStatus"]["State"] == "completed", "{seen}");
        Ok(())
    })?;
    let shown = host.ok(&["stack", "deploy", "--prune", "-c", &path, "demo"])?;
    ensure!(shown.contains("Removing service demo_c"), "{shown}");
    converged(host, &["demo_a 1/1", "demo_b 1/1"])?;

    file(host, "pass.txt", "two")?;
    // The new content restarts its service, which the stock client may trip over once.
    wait::until("the deployment", || host.ok(&["stack", "deploy", "-c", &path, "demo"]))?;
    wait::until("the new content", || {
        let id = host.ok(&["ps", "-q", "--filter", "name=demo_a"])?;
        let shown = host.ok(&["exec", &id, "cat", "/run/secrets/p"])?;
        ensure!(shown == "two", "{shown}");
        Ok(())
    })
}

fn secret_and_config_verbs(host: &mut Host) -> Result<()> {
    begin(host)?;
    let create = |kind: &str, name: &str, bytes: usize| {
        with_input(host, &[kind, "create", "-l", "k=v", name, "-"], &vec![b'x'; bytes])
    };
    for (kind, limit) in [("secret", 512_000), ("config", 1_024_000)] {
        let text = format!("{kind} data must be larger than 0 and less than {limit} bytes");
        for bytes in [0, limit, limit + 1] {
            let said = failure(&create(kind, "bad", bytes)?)?;
            // A newer client looks at an empty input itself.
            ensure!(said.contains(&text) || bytes == 0 && said.contains("data is empty"), "{said}");
        }
        let id = success(&create(kind, "good", limit - 1)?)?;
        ensure!(id.len() == 25, "{id}");
        let said = failure(&create(kind, "good", 3)?)?;
        ensure!(said.contains(&format!("{kind} good already exists")), "{said}");
        ensure!(host.ok(&[kind, "ls", "-q"])? == id);
        ensure!(host.ok(&[kind, "ls", "--format", "{{.Name}} {{.Labels}}"])? == "good k=v");
        ensure!(host.ok(&[kind, "ls", "-q", "--filter", "label=k=w"])?.is_empty());
        ensure!(host.ok(&[kind, "ls", "-q", "--filter", "name=go"])? == id);
        let pretty = host.ok(&[kind, "inspect", "--pretty", "good"])?;
        ensure!(
            pretty.contains("Name:\t\t\tgood") && pretty.contains("- k=v") || pretty.contains(" - k=v"),
            "{pretty}"
        );
        ensure!(host.ok(&[kind, "inspect", "-f", "{{.Spec.Name}}", &id])? == "good");
        ensure!(host.ok(&[kind, "rm", "good"])? == "good");
        let said = host.refused(&[kind, "inspect", "good"])?;
        ensure!(
            said.to_lowercase().contains(&format!("no such {kind}: good"))
                || said.contains(&format!("{kind} good not found")),
            "{said}"
        );
    }
    Ok(())
}

/// Ids differ from deploy to deploy; names do not.
fn comparable(host: &Host, service: &str) -> Result<Value> {
    let mut spec = host.inspect(&["service", "inspect", service])?["Spec"].clone();
    for network in spec["TaskTemplate"]["Networks"].as_array_mut().into_iter().flatten() {
        let id = network["Target"].as_str().context("a target")?.to_owned();
        network["Target"] = host.ok(&["network", "inspect", "-f", "{{.Name}}", &id])?.into();
    }
    let container = &mut spec["TaskTemplate"]["ContainerSpec"];
    for (list, id) in [("Secrets", "SecretID"), ("Configs", "ConfigID")] {
        for reference in container[list].as_array_mut().into_iter().flatten() {
            reference[id] = Value::Null;
        }
    }
    // The stock client of that time leaves this order to chance.
    for list in ["Env", "Ulimits", "Secrets", "Configs"] {
        if let Some(list) = container[list].as_array_mut() {
            list.sort_by_key(Value::to_string);
        }
    }
    Ok(spec)
}

const EVERYTHING: &str = r#"
version: "3.9"
x-common: &common
  image: busybox
  command: sh -c 'sleep 1000'
services:
  web:
    <<: *common
    cap_add: [NET_ADMIN, sys_time]
    cap_drop: [MKNOD]
    environment: {B: "2", A: 1, PLAIN: "true", FROM_OUTSIDE: , NOWHERE: }
    env_file: vars.env
    extra_hosts: ["db:10.1.2.3"]
    dns: [1.1.1.1]
    dns_search: example.org
    healthcheck: {test: "true", interval: 2s, timeout: 1s, retries: 5, start_period: 3s}
    hostname: "{{.Service.Name}}-{{.Task.Slot}}"
    init: true
    labels: [container=yes]
    logging: {driver: json-file, options: {max-size: "1m"}}
    networks:
      front: {aliases: [www]}
      back:
    ports:
      - "8081:80"
      - {target: 81, published: 8082, protocol: udp, mode: host}
    read_only: true
    stop_grace_period: 500ms
    stop_signal: SIGINT
    sysctls: {net.core.somaxconn: 1024}
    tty: true
    stdin_open: true
    ulimits: {nofile: {soft: 100, hard: 200}, nproc: 50}
    user: "1000:1000"
    working_dir: /tmp
    volumes:
      - data:/data
      - type: tmpfs
        target: /scratch
        tmpfs: {size: 1000000}
      - /tmp:/host:ro
      - {type: volume, source: outside, target: /outside, volume: {nocopy: true}}
    secrets: [pass, {source: pass, target: other, uid: "1", gid: "2", mode: 0400}]
    configs: [{source: conf, target: /conf, mode: 0440}]
    deploy:
      endpoint_mode: vip
      labels: {service: label}
      mode: replicated
      replicas: 2
      placement:
        constraints: [node.role == manager]
        preferences: [{spread: node.labels.zone}]
        max_replicas_per_node: 2
      resources:
        limits: {cpus: "0.25", memory: 50M}
        reservations: {cpus: "0.01", memory: 20M}
      restart_policy: {condition: on-failure, delay: 1s, max_attempts: 3, window: 10s}
      update_config: {parallelism: 2, delay: 1s, failure_action: rollback, monitor: 2s, max_failure_ratio: 0.3, order: start-first}
      rollback_config: {parallelism: 0, order: stop-first}
  plain:
    image: busybox:latest
    entrypoint: ["sleep"]
    command: ["1000"]
    stop_grace_period: 100ms
    deploy: {mode: global}
networks:
  front: {driver: overlay, attachable: true, labels: {net: work}, ipam: {config: [{subnet: 10.77.0.0/24}]}}
  back: {internal: true}
volumes:
  data: {labels: {v: w}}
  outside: {external: true, name: elsewhere}
secrets:
  pass: {file: ./pass.txt, labels: {s: t}}
configs:
  conf: {file: ./pass.txt}
"#;

fn deploy_and_read(host: &Host, client: &Client, path: &str) -> Result<Vec<Value>> {
    let mut command = client.command(&host.socket(), &["stack", "deploy", "--resolve-image", "never", "-c", path]);
    if client.label == "skep" {
        command.arg("--detach");
    }
    success(&command.arg("demo").env("FROM_OUTSIDE", "o").output()?)?;
    let mut all = vec![comparable(host, "demo_plain")?, comparable(host, "demo_web")?];
    for network in ["demo_front", "demo_back"] {
        let mut seen = host.inspect(&["network", "inspect", network])?;
        for field in ["Id", "Created", "Containers", "Options", "Peers", "IPAM"] {
            let kept =
                if field == "IPAM" && network == "demo_front" { seen["IPAM"]["Config"].clone() } else { Value::Null };
            seen[field] = kept;
        }
        all.push(seen);
    }
    for (kind, name) in [("secret", "demo_pass"), ("config", "demo_conf")] {
        all.push(host.inspect(&[kind, "inspect", name])?["Spec"].clone());
    }
    success(&client.command(&host.socket(), &["stack", "rm", "demo"]).output()?)?;
    wait::until("everything to go", || {
        ensure!(host.ok(&["ps", "-aq"])?.is_empty() && host.ok(&["network", "ls", "-q", "-f", LABEL])?.is_empty());
        ensure!(host.ok(&["service", "ls", "-q"])?.is_empty());
        Ok(())
    })?;
    Ok(all)
}

fn the_same_file_gives_the_same_objects(host: &mut Host) -> Result<()> {
    begin(host)?;
    file(host, "pass.txt", "abc123\n")?;
    file(host, "vars.env", "# comment\nFILE=\"quoted\"\nA=from-file\n")?;
    let path = file(host, "f.yml", EVERYTHING)?;
    let stock = deploy_and_read(host, &Client::debian_docker(), &path)?;
    let own = deploy_and_read(host, &Client::skep(), &path)?;
    for (stock, own) in stock.iter().zip(&own) {
        ensure!(stock == own, "docker made\n{stock:#}\nskep made\n{own:#}");
    }
    Ok(())
}

fn dependencies_start_first(host: &mut Host) -> Result<()> {
    begin(host)?;
    let path = file(
        host,
        "f.yml",
        "services:\n  app:\n    image: busybox\n    command: sleep 1000\n    stop_grace_period: 100ms\n    depends_on:\n      db: {condition: service_healthy}\n      prepare: {condition: service_completed_successfully}\n  db:\n    image: busybox\n    command: sh -c 'sleep 1; touch /ok; sleep 1000'\n    stop_grace_period: 100ms\n    healthcheck: {test: test -f /ok, interval: 200ms, start_period: 1m}\n  prepare:\n    image: busybox\n    command: 'true'\n    depends_on: [db]\n    deploy: {restart_policy: {condition: none}}\n",
    )?;
    let shown = host.ok(&["stack", "deploy", "-d", "-c", &path, "demo"])?;
    let place = |line: &str| shown.find(line).with_context(|| format!("{line} is not in {shown}"));
    ensure!(place("Creating service demo_db")? < place("Waiting for service demo_db to be healthy")?);
    ensure!(place("Waiting for service demo_db to be healthy")? < place("Creating service demo_prepare")?);
    ensure!(place("Creating service demo_prepare")? < place("Creating service demo_app")?);
    let time = |service: &str, field: &str| -> Result<String> {
        let task = host.ok(&["service", "ps", "-q", "--no-trunc", service])?;
        let task = host.inspect(&["inspect", task.lines().next().context("a task")?])?;
        Ok(if field == "Timestamp" { &task["Status"]["Timestamp"] } else { &task[field] }
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    let healthy = time("demo_db", "Timestamp")?;
    ensure!(healthy < time("demo_prepare", "CreatedAt")? && healthy < time("demo_app", "CreatedAt")?);
    ensure!(time("demo_prepare", "Timestamp")? < time("demo_app", "CreatedAt")?);

    let bad = file(
        host,
        "bad.yml",
        "services:\n  app: {image: busybox, command: sleep 1000, depends_on: {init: {condition: service_completed_successfully}}}\n  init: {image: busybox, command: 'false', deploy: {restart_policy: {condition: none}}}\n",
    )?;
    let said = host.refused(&["stack", "deploy", "-c", &bad, "bad"])?;
    ensure!(
        said.contains("service bad_app waits for bad_init to complete, which failed: task: non-zero exit (1)"),
        "{said}"
    );
    host.ok(&["stack", "rm", "demo", "bad"])?;
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "rm waits until everything is gone");
    ensure!(host.ok(&["network", "ls", "-q", "-f", "label=com.docker.stack.namespace"])?.is_empty());
    Ok(())
}

fn malformed_compose_files(host: &mut Host) -> Result<()> {
    begin(host)?;
    let refused = |text: &str| -> Result<String> {
        let path = file(host, "bad.yml", text)?;
        let said = host.refused(&["stack", "deploy", "-c", &path, "demo"])?;
        ensure!(said.lines().count() <= 3 && said.len() < 1000, "{said}");
        Ok(said.replace(&path, "bad.yml"))
    };
    let cases = [
        ("services:\n  web:\n\timage: x\n", "bad.yml:3:1: found a tab in the indentation"),
        (
            "services:\n  web:\n    imgae: x\n",
            "bad.yml:3:5: services.web Additional property imgae is not allowed; did you mean \"image\"?",
        ),
        (
            "services: {a: {image: x, extends: b}, b: {extends: a}}\n",
            "extends goes in a circle: a (bad.yml) -> b (bad.yml) -> a (bad.yml)",
        ),
        ("include: [bad.yml]\n", "include goes in a circle: bad.yml -> bad.yml"),
        (
            "services: {a: {image: '${NEEDED:?set it}'}}\n",
            "bad.yml:1:23: required variable NEEDED is missing a value: set it",
        ),
        ("services: {a: {image: x, ports: ['80:x']}}\n", "bad.yml:1:34: invalid port \"80:x\""),
        ("services: {a: {image: x, volumes: ['v:/v']}}\n", "undefined volume \"v\""),
    ];
    for (text, expect) in cases {
        let said = refused(text)?;
        ensure!(said.contains(expect), "{said}\ninstead of {expect}");
    }
    let mut bomb = "x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n".to_owned();
    for level in 1..20 {
        bomb.push_str(&format!("x{level}: &x{level} [{}]\n", vec![format!("*x{}", level - 1); 10].join(", ")));
    }
    ensure!(refused(&bomb)?.contains("aliases count in full"));
    ensure!(refused(&"# a large file\n".repeat(3_500_000))?.contains("the file is larger than"));
    let said =
        failure(&with_input(host, &["stack", "deploy", "-c", "-", "demo"], b"services: {a: {image: x, prots: []}}")?)?;
    ensure!(
        said.contains("-:1:26: services.a Additional property prots is not allowed; did you mean \"ports\"?"),
        "{said}"
    );
    ensure!(
        host.ok(&["service", "ls", "-q"])?.is_empty() && host.ok(&["network", "ls", "-q", "-f", LABEL])?.is_empty()
    );
    let said = host.refused(&["stack", "deploy", "-c", "/nowhere/f.yml", "demo"])?;
    ensure!(said.contains("open /nowhere/f.yml: no such file or directory"), "{said}");
    Ok(())
}
