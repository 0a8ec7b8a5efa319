//! Chapters 2, 3, 5 and 6: containers, images, volumes, networks.

use super::{Desk, same_columns};
use crate::images::start_registry;
use anyhow::{Result, ensure};
use skep_conformance::host::HOST_ADDRESS;
use skep_conformance::{Host, wait};

const CONTAINER_COLUMNS: [&str; 7] = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];

pub(super) fn containers(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    desk.has_nginx()?;
    desk.has_image("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    // 2.4
    for _ in 0..4 {
        let id = desk.types("docker container run -d nginx")?;
        ensure!(id.len() == 64, "{id}");
    }
    let shown = desk.types("docker container ps")?;
    same_columns(&shown, &CONTAINER_COLUMNS)?;
    ensure!(shown.matches("80/tcp").count() == 4 && shown.contains("Up "), "{shown}");
    let refusal = desk.mistypes("docker container rm $(docker container ps -q)")?;
    ensure!(refusal.contains("running container"), "{refusal}");
    let stopped = desk.types("docker container stop $(docker container ps -q)")?;
    ensure!(stopped.lines().count() == 4, "{stopped}");
    let shown = desk.types("docker container ps -a")?;
    ensure!(shown.matches("Exited (").count() == 4 && !shown.contains("80/tcp"), "{shown}");
    let short: Vec<String> = desk.types("docker container ps -aq")?.lines().map(|id| id[..5].to_owned()).collect();
    let gone = desk.types(&format!("docker container rm {}", short.join(" ")))?;
    ensure!(gone.lines().collect::<Vec<_>>() == short, "{gone}");
    // 2.5
    let shown = desk.at_a_terminal("docker container run -it busybox sh", &[("#", "ls\n"), ("bin", "exit\n")])?;
    ensure!(shown.contains("proc"), "{shown}");
    let id = desk.types("docker container run -d busybox sleep 1000")?;
    let line = format!("docker exec -it {} sh", &id[..3]);
    desk.at_a_terminal(&line, &[("#", "hostname; exit\n")])?;
    // 2.7
    desk.types("docker container run -d --publish 80:80 --name webhost nginx")?;
    wait::until("an answer", || host.who_answers("http://127.0.0.1:80/"))?;
    let row = desk.types("docker ps --filter name=webhost")?;
    ensure!(row.contains("0.0.0.0:80->80/tcp") && row.contains("webhost"), "{row}");
    desk.types("docker container rm -f $(docker container ps -aq)")?;
    ensure!(desk.types("docker ps -aq")?.is_empty());
    Ok(())
}

pub(super) fn images(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    let _hub = start_registry(host, 5000, "")?;
    desk.has_nginx()?;
    for name in ["nginx:latest", "nginx:1.20.0", "bitnami/nginx:latest"] {
        desk.types(&format!("docker tag nginx 127.0.0.1:5000/{name} && docker push 127.0.0.1:5000/{name}"))?;
        desk.types(&format!("docker rmi 127.0.0.1:5000/{name}"))?;
    }
    // 3.2
    let help = desk.command("docker image").output()?;
    let help = [help.stdout, help.stderr].concat();
    ensure!(String::from_utf8_lossy(&help).contains("prune"), "docker image says what it can");
    let shown = desk.types("docker pull 127.0.0.1:5000/nginx")?;
    ensure!(shown.contains("Using default tag: latest"), "{shown}");
    ensure!(shown.ends_with("\n127.0.0.1:5000/nginx:latest"), "{shown}");
    desk.types("docker pull 127.0.0.1:5000/nginx:1.20.0")?;
    desk.types("docker pull 127.0.0.1:5000/bitnami/nginx")?;
    let shown = desk.types("docker image ls")?;
    same_columns(&shown, &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"])?;
    ensure!(shown.lines().count() == 5 && shown.contains("1.20.0"), "{shown}");
    let id = desk.types("docker image ls -q nginx")?;
    // One image with several names is only removed by force, or name by name.
    let refusal = desk.mistypes(&format!("docker image rm {id}"))?;
    ensure!(refusal.contains("must be forced"), "{refusal}");
    let gone = desk.types("docker image rm 127.0.0.1:5000/nginx:1.20.0")?;
    ensure!(gone.contains("Untagged: 127.0.0.1:5000/nginx:1.20.0"), "{gone}");
    let gone = desk.types(&format!("docker image rm -f {id}"))?;
    ensure!(gone.contains("Deleted: sha256:"), "{gone}");
    ensure!(desk.types("docker image ls -q")?.is_empty());
    // 3.3
    desk.write("hello.c", "#include <stdio.h>\nint main()\n{\n    printf(\"hello docker\\n\");\n}\n")?;
    desk.types("cc --static -o hello hello.c")?;
    desk.write("Dockerfile", "FROM scratch\nADD hello /\nCMD [\"/hello\"]\n")?;
    let shown = desk.types("docker build -t hello .")?;
    ensure!(
        shown.contains("Step 3/3 : CMD [\"/hello\"]") && shown.contains("Successfully tagged hello:latest"),
        "{shown}"
    );
    ensure!(desk.types("docker image ls hello")?.contains("hello"));
    let shown = desk.at_a_terminal("docker container run -it hello", &[])?;
    ensure!(shown.trim() == "hello docker", "{shown}");
    Ok(())
}

pub(super) fn volumes(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    desk.has_image("SKEP_TEST_BUSYBOX_TAR", "alpine:latest")?;
    // 5.2, with a cron that does not wait for the full minute.
    let cron = "#!/bin/sh\nwhile :; do date >> /app/test.txt; usleep 50000; done\n";
    desk.write("supercronic", cron)?;
    desk.types("chmod 755 supercronic")?;
    desk.write("my-cron", "*/1 * * * * date >> /app/test.txt\n")?;
    let file =
        "FROM alpine:latest\nCOPY supercronic /usr/local/bin/supercronic\nCOPY my-cron /app/my-cron\nWORKDIR /app\n";
    let end = "# RUN cron job\nCMD [\"/usr/local/bin/supercronic\", \"/app/my-cron\"]\n";
    desk.write("Dockerfile", &format!("{file}\nVOLUME [\"/app\"]\n\n{end}"))?;
    desk.types("docker image build -t my-cron .")?;
    desk.types("docker run -d my-cron")?;
    let shown = desk.types("docker volume ls")?;
    same_columns(&shown, &["DRIVER", "VOLUME NAME"])?;
    let name = desk.types("docker volume ls -q")?;
    ensure!(name.len() == 64 && shown.contains(&name), "{shown}");
    let seen: serde_json::Value = serde_json::from_str(&desk.types(&format!("docker volume inspect {name}"))?)?;
    ensure!(seen[0]["Name"] == name.as_str() && seen[0]["Driver"] == "local" && seen[0]["Scope"] == "local", "{seen}");
    desk.write("Dockerfile", &format!("{file}\n{end}"))?;
    desk.types("docker image build -t my-cron .")?;
    desk.types("docker rm -f $(docker container ps -aq)")?;
    desk.types("docker container run -d -v cron-data:/app my-cron")?;
    let place = desk.types("docker volume inspect -f '{{.Mountpoint}}' cron-data")?;
    ensure!(place.ends_with("/volumes/cron-data/_data"), "{place}");
    wait::until("the files in the volume", || {
        let listed = desk.types(&format!("ls {place}"))?;
        ensure!(listed == "my-cron\ntest.txt", "{listed}");
        Ok(())
    })?;
    // Clean up.
    desk.types("docker rm -f $(docker container ps -aq)")?;
    let shown = desk.types("docker system prune -f")?;
    ensure!(shown.contains("Total reclaimed space:"), "{shown}");
    let left = desk.types("docker volume ls -q")?;
    ensure!(left.lines().any(|line| line == "cron-data"), "system prune keeps named volumes: {left}");
    desk.types("docker volume prune -f")?;
    let left = desk.types("docker volume ls -q")?;
    ensure!(!left.contains(&name), "an anonymous volume is left: {left}");
    // 5.3, with a file in the place of a database.
    desk.types("docker container run --name some-mysql -e MYSQL_ROOT_PASSWORD=my-secret-pw -d -v mysql-data:/var/lib/mysql alpine sh -c 'echo $MYSQL_ROOT_PASSWORD > /var/lib/mysql/db; sleep 1000'")?;
    wait::until("the database", || {
        let kept = desk.types("docker container exec some-mysql cat /var/lib/mysql/db")?;
        ensure!(kept == "my-secret-pw", "{kept}");
        Ok(())
    })?;
    desk.types("docker rm -f some-mysql")?;
    ensure!(desk.types("docker run --rm -v mysql-data:/var/lib/mysql alpine cat /var/lib/mysql/db")? == "my-secret-pw");
    Ok(())
}

pub(super) fn bridge(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    desk.has_nginx()?;
    desk.has_image("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    // 6.3
    for name in ["box1", "box2", "client"] {
        let line = format!(
            "docker container run -d --rm --name {name} busybox /bin/sh -c \"while true; do sleep 3600; done\""
        );
        desk.types(&line)?;
    }
    let shown = desk.types("docker container ls")?;
    ensure!(shown.contains("\"/bin/sh -c 'while t…\""), "{shown}");
    let shown = desk.types("docker network ls")?;
    same_columns(&shown, &["NETWORK ID", "NAME", "DRIVER", "SCOPE"])?;
    let rows: Vec<Vec<&str>> = shown.lines().skip(1).map(|line| line.split_whitespace().skip(1).collect()).collect();
    ensure!(rows == [["bridge", "bridge", "local"], ["host", "host", "local"], ["none", "null", "local"]], "{shown}");
    let seen: serde_json::Value = serde_json::from_str(&desk.types("docker network inspect bridge")?)?;
    let options = &seen[0]["Options"];
    ensure!(options["com.docker.network.bridge.name"] == "docker0", "{options}");
    ensure!(options["com.docker.network.bridge.default_bridge"] == "true", "{options}");
    let names: Vec<&str> =
        seen[0]["Containers"].as_object().into_iter().flatten().filter_map(|(_, one)| one["Name"].as_str()).collect();
    ensure!(names.len() == 3 && names.contains(&"box1"), "{seen}");
    let links = host.inside_ok(&["ip", "-o", "link", "show", "master", "docker0"])?;
    ensure!(links.lines().count() == 3, "{links}");
    ensure!(host.inside_ok(&["ip", "route"])?.contains("172.17.0.0/16 dev docker0"));
    desk.types("docker container run -d --rm --name web -p 8080:80 nginx")?;
    let address = desk.types("docker container inspect --format '{{.NetworkSettings.IPAddress}}' web")?;
    ensure!(address.starts_with("172.17.0."), "{address}");
    let ask = skep_conformance::host::http_get(&address, 80);
    wait::until("the neighbour", || {
        let shown = desk.types(&format!("docker container exec client sh -c \"{ask}\""))?;
        ensure!(shown.contains("Hostname:"), "{shown}");
        Ok(())
    })?;
    wait::until("an answer outside", || host.who_answers_outside(&format!("http://{HOST_ADDRESS}:8080/")))?;
    ensure!(desk.types("docker port web")?.contains("80/tcp -> 0.0.0.0:8080"));
    // A network of its own has names, and may be joined and left.
    desk.types("docker network create -d bridge mybridge")?;
    desk.types("docker network connect mybridge box1 && docker network connect mybridge web")?;
    desk.types("docker exec box1 nslookup web")?;
    desk.types("docker network disconnect mybridge web")?;
    desk.mistypes("docker exec box1 nslookup web")?;
    desk.types("docker container rm -f $(docker container ps -aq)")?;
    desk.types("docker network rm mybridge")?;
    Ok(())
}
