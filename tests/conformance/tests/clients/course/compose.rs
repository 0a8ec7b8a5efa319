//! Chapter 7: docker-compose.

use super::Desk;
use anyhow::{Result, ensure};
use skep_conformance::client::environment;
use skep_conformance::{Host, wait};
use std::fs;

fn flask_redis(desk: &Desk<'_>) -> Result<()> {
    desk.has_image("SKEP_TEST_PYTHON_TAR", "python:3.9.5-slim")?;
    desk.has_image("SKEP_TEST_REDIS_TAR", "redis:latest")?;
    let from = environment("SKEP_TEST_COURSE").join("flask-redis");
    for name in ["app.py", "Dockerfile"] {
        fs::copy(from.join(name), desk.folder.join(name))?;
    }
    let file = desk.folder.join("Dockerfile");
    let text = fs::read_to_string(&file)?;
    ensure!(text.contains("--interval=30s"), "{text}");
    Ok(fs::write(&file, text.replace("--interval=30s", "--interval=200ms"))?)
}

pub(super) fn compose(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    flask_redis(&desk)?;
    // 7.3
    desk.types("docker image build -t flask-demo .")?;
    desk.types("docker network create -d bridge demo-network")?;
    desk.types(
        "docker container run -d --name redis-server --network demo-network redis redis-server --protected-mode no",
    )?;
    desk.types("docker container run -d --network demo-network --name flask-demo --env REDIS_HOST=redis-server -p 5000:5000 flask-demo")?;
    let page = |port: u16| host.inside_ok(&["curl", "-sf", &format!("http://127.0.0.1:{port}/")]);
    wait::until("the page", || {
        let shown = page(5000)?;
        ensure!(shown.contains("I have been seen"), "{shown}");
        Ok(())
    })?;
    desk.types("docker container rm -f $(docker container ps -aq) && docker network rm demo-network")?;
    // The same as a file.
    let text = "version: \"3.8\"\n\nservices:\n  flask-demo:\n    image: flask-demo:latest\n    environment:\n      - REDIS_HOST=redis-server\n    networks:\n      - demo-network\n    ports:\n      - 8080:5000\n\n  redis-server:\n    image: redis:latest\n    command: redis-server --protected-mode no\n    networks:\n     - demo-network\n\nnetworks:\n  demo-network:\n";
    desk.write("one/docker-compose.yml", text)?;
    desk.types("cd one && docker-compose up -d")?;
    wait::until("the page", || page(8080).map(drop))?;
    let shown = desk.types("cd one && docker-compose ps")?;
    ensure!(shown.contains("0.0.0.0:8080->5000/tcp"), "{shown}");
    desk.types("cd one && docker-compose stop && docker-compose rm -f && docker-compose down")?;
    // 7.4
    let text = "version: \"3.8\"\n\nservices:\n  flask:\n    build:\n      context: ..\n    image: scaled\n    environment:\n      - REDIS_HOST=redis-server\n\n  redis-server:\n    image: redis:latest\n    command: redis-server --protected-mode no\n\n  client:\n    image: python:3.9.5-slim\n    command: sh -c \"while true; do sleep 3600; done;\"\n    init: true\n";
    desk.write("compose-scale-example/docker-compose.yml", &text.replace("3.8", "3.7"))?;
    let types = |line: &str| desk.types(&format!("cd compose-scale-example && docker-compose {line}"));
    types("build")?;
    types("up -d")?;
    types("up -d --scale flask=3")?;
    ensure!(types("ps -q")?.lines().count() == 5, "three of flask and one each");
    wait::until("all three by name", || {
        let found = types(
            "exec -T client python3 -c \"import socket; print(len(set(a[4][0] for a in socket.getaddrinfo('flask', 5000))))\"",
        )?;
        ensure!(found == "3", "{found}");
        Ok(())
    })?;
    types("up -d --scale flask=1")?;
    ensure!(types("ps -q flask")?.lines().count() == 1, "one of flask");
    types("down")?;
    desk.types("docker system prune -a -f")?;
    ensure!(desk.types("docker image ls -q")?.is_empty(), "prune -a leaves no image");
    Ok(())
}

pub(super) fn health(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    flask_redis(&desk)?;
    // 7.6
    desk.types("docker image build -t flask-demo .")?;
    desk.types("docker network create mybridge")?;
    let id = desk.types("docker container run -d --network mybridge --env REDIS_PASS=abc123 flask-demo")?;
    let shown = desk.types("docker container ls")?;
    ensure!(shown.contains("(health: starting)") || shown.contains("(unhealthy)"), "{shown}");
    let status = |wanted: &str| {
        wait::until(wanted, || {
            let shown = desk.types("docker container ls --format '{{.Image}} {{.Status}}'")?;
            ensure!(shown.lines().any(|line| line.starts_with("flask-demo") && line.contains(wanted)), "{shown}");
            Ok(())
        })
    };
    status("(unhealthy)")?;
    let log: serde_json::Value =
        serde_json::from_str(&desk.types(&format!("docker container inspect -f '{{{{json .State.Health}}}}' {id}"))?)?;
    ensure!(log["FailingStreak"].as_u64() >= Some(3) && log["Log"][0]["ExitCode"] != 0, "{log}");
    desk.types(
        "docker container run -d --network mybridge --name redis redis:latest redis-server --requirepass abc123",
    )?;
    status("(healthy)")?;
    desk.types("docker container rm -f $(docker container ps -aq)")?;
    // With compose: flask starts once redis is healthy.
    let text = "version: \"3.8\"\n\nservices:\n  flask:\n    build:\n      context: ../\n    image: checked\n    environment:\n      - REDIS_HOST=redis-server\n      - REDIS_PASS=${REDIS_PASSWORD}\n    healthcheck:\n      test: [\"CMD\", \"curl\", \"-f\", \"http://localhost:5000\"]\n      interval: 200ms\n      timeout: 3s\n      retries: 50\n    depends_on:\n      redis-server:\n        condition: service_healthy\n\n  redis-server:\n    image: redis:latest\n    command: redis-server --requirepass ${REDIS_PASSWORD}\n    healthcheck:\n      test: [\"CMD\", \"redis-cli\", \"-a\", \"${REDIS_PASSWORD}\", \"ping\"]\n      interval: 200ms\n      timeout: 3s\n      retries: 50\n";
    desk.write("checked/docker-compose.yml", text)?;
    desk.write("checked/.env", "REDIS_PASSWORD=ABC123\n")?;
    let types = |line: &str| desk.types(&format!("cd checked && docker-compose {line}"));
    types("up -d")?;
    let order = desk.types("docker inspect -f '{{.State.StartedAt}}' $(cd checked && docker-compose ps -q redis-server) $(cd checked && docker-compose ps -q flask)")?;
    let times: Vec<&str> = order.lines().collect();
    ensure!(times.len() == 2 && times[0] < times[1], "{order}");
    wait::until("both healthy", || {
        let shown = types("ps")?;
        ensure!(shown.matches("healthy)").count() == 2, "{shown}");
        Ok(())
    })?;
    types("down")?;
    Ok(())
}
