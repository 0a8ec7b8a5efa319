//! Chapter 4: the Dockerfile.

use super::{Desk, same_columns};
use anyhow::{Result, ensure};
use skep_conformance::{Client, Host, wait};
use std::fs;

pub(super) fn dockerfiles(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    desk.has_image("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    desk.types("docker tag busybox ubuntu:21.04 && docker tag busybox alpine:3.13.5")?;
    // 4.2
    desk.write("Dockerfile", "FROM ubuntu:21.04\nRUN echo one > /one\nRUN echo two > /two\nRUN rm /one\n")?;
    desk.types("docker image build -t many .")?;
    desk.write(
        "Dockerfile.good",
        "FROM ubuntu:21.04\nRUN echo one > /one && \\\n    echo two > /two && \\\n    rm /one\n",
    )?;
    desk.types("docker image build -t few -f Dockerfile.good .")?;
    let lines = |name: &str| desk.types(&format!("docker image history {name}"));
    same_columns(&lines("many")?, &["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"])?;
    ensure!(lines("many")?.lines().count() == lines("few")?.lines().count() + 2, "one layer a RUN");
    // 4.3
    desk.write("project/app.py", "print('hi')\n")?;
    desk.types("tar -C project -czf app.tar.gz app.py")?;
    desk.write(
        "Dockerfile",
        "FROM ubuntu:21.04\nWORKDIR /app\nCOPY project/app.py .\nADD app.tar.gz /unpacked/\nCOPY app.tar.gz /packed/\n",
    )?;
    desk.types("docker build -t copies .")?;
    let shown = desk.types("docker run --rm copies ls /app /unpacked /packed")?;
    ensure!(shown == "/app:\napp.py\n\n/packed:\napp.tar.gz\n\n/unpacked:\napp.py", "{shown}");
    // 4.4
    desk.write("Dockerfile-arg", "FROM ubuntu:21.04\nARG VERSION=2.0.1\nRUN echo $VERSION > /version\n")?;
    desk.types("docker image build -f ./Dockerfile-arg -t ipinfo-arg-2.0.0 --build-arg VERSION=2.0.0 .")?;
    let shown = desk.types("docker run --rm ipinfo-arg-2.0.0 sh -c 'cat /version; echo ${VERSION-gone}'")?;
    ensure!(shown == "2.0.0\ngone", "{shown}");
    desk.write("Dockerfile-env", "FROM ubuntu:21.04\nENV VERSION=2.0.1\nRUN echo $VERSION > /version\n")?;
    desk.types("docker image build -f ./Dockerfile-env -t ipinfo-env .")?;
    ensure!(desk.types("docker run --rm ipinfo-env sh -c 'cat /version; echo $VERSION'")? == "2.0.1\n2.0.1");
    // 4.6 and 4.7
    for (name, last, alone, with) in [
        ("demo-cmd", "CMD [\"echo\", \"hello docker\"]", "hello docker", "hello world"),
        ("demo-entrypoint", "ENTRYPOINT [\"echo\", \"hello docker\"]", "hello docker", "hello docker echo hello world"),
        ("demo-both", "ENTRYPOINT [\"echo\"]\nCMD []", "", "echo hello world"),
        ("demo-shell", "ENV NAME=docker\nCMD echo \"hello $NAME\"", "hello docker", "hello world"),
        ("demo-exec", "ENV NAME=docker\nCMD [\"echo\", \"hello $NAME\"]", "hello $NAME", "hello world"),
        ("demo-sh", "ENV NAME=docker\nCMD [\"sh\", \"-c\", \"echo hello $NAME\"]", "hello docker", "hello world"),
    ] {
        desk.write("Dockerfile", &format!("FROM ubuntu:21.04\n{last}\n"))?;
        desk.types(&format!("docker build -t {name} ."))?;
        let shown = desk.at_a_terminal(&format!("docker container run -it --rm {name}"), &[])?;
        ensure!(shown.trim() == alone, "{name}: {shown}");
        let shown = desk.at_a_terminal(&format!("docker container run -it --rm {name} echo \"hello world\""), &[])?;
        ensure!(shown.trim() == with, "{name} with a command: {shown}");
    }
    // 4.9
    desk.types("head -c 1000000 /dev/zero > big; mkdir -p env; echo x > env/x")?;
    desk.write(".dockerignore", "env/\nbig\n")?;
    desk.write("Dockerfile", "FROM ubuntu:21.04\nCOPY . /all\n")?;
    desk.types("docker image build -t demo .")?;
    let shown = desk.types("docker run --rm demo ls -A /all")?;
    ensure!(!shown.lines().any(|name| name == "big" || name == "env") && shown.contains("project"), "{shown}");
    stages(&desk)
}

/// 4.10
fn stages(desk: &Desk<'_>) -> Result<()> {
    desk.write(
        "stages/hello.c",
        "#include <stdio.h>\nint main(int argc, char *argv[])\n{\n    printf(\"hello %s\\n\", argv[argc - 1]);\n}\n",
    )?;
    // An image with a compiler is large; this one knows how to compile one program.
    desk.types("cc --static -o stages/compiled stages/hello.c")?;
    desk.write("stages/gcc", "#!/bin/sh\ntest -f hello.c && cp /usr/lib/compiled hello\n")?;
    desk.types("chmod 755 stages/gcc")?;
    desk.write("stages/Dockerfile-gcc", "FROM busybox\nCOPY gcc /usr/bin/gcc\nCOPY compiled /usr/lib/compiled\n")?;
    desk.types("cd stages && docker build -t gcc:9.4 -f Dockerfile-gcc .")?;
    let one = "COPY hello.c /src/hello.c\nWORKDIR /src\nRUN gcc --static -o hello hello.c\n";
    let end = "ENTRYPOINT [ \"/src/hello\" ]\nCMD []\n";
    desk.write("stages/Dockerfile", &format!("FROM gcc:9.4\n{one}{end}"))?;
    desk.write(
        "stages/Dockerfile-new",
        &format!("FROM gcc:9.4 AS builder\n{one}FROM alpine:3.13.5\nCOPY --from=builder /src/hello /src/hello\n{end}"),
    )?;
    let shown = desk.types("cd stages && docker build -t hello .")?;
    ensure!(shown.contains("Step 6/6 : CMD []"), "{shown}");
    let shown = desk.types("cd stages && docker build -t hello-alpine -f Dockerfile-new .")?;
    ensure!(shown.contains("Step 5/8 : FROM alpine:3.13.5") && shown.matches("Using cache").count() == 3, "{shown}");
    for name in ["hello", "hello-alpine"] {
        for word in ["docker", "world", "friends"] {
            let shown = desk.at_a_terminal(&format!("docker run --rm -it {name} {word}"), &[])?;
            ensure!(shown.trim() == format!("hello {word}"), "{name} {word}: {shown}");
        }
    }
    let size = |name: &str| -> Result<u64> {
        Ok(desk.types(&format!("docker image inspect -f '{{{{.Size}}}}' {name}"))?.parse()?)
    };
    ensure!(size("hello-alpine")? < size("hello")?, "the second stage holds only the program");
    Ok(())
}

const FLASK: &str = "FROM python:3.9.5-slim\n\nRUN pip install flask\n\nCOPY app.py /src/app.py\n\nWORKDIR /src\nENV FLASK_APP=app.py\n\nEXPOSE 5000\n\nCMD [\"flask\", \"run\", \"-h\", \"0.0.0.0\"]\n";
const FLASK_NO_ROOT: &str = "FROM python:3.9.5-slim\n\nRUN pip install flask && \\\n    groupadd -r flask && useradd -r -g flask flask && \\\n    mkdir /src && \\\n    chown -R flask:flask /src\n\nUSER flask\n\nCOPY app.py /src/app.py\n\nWORKDIR /src\nENV FLASK_APP=app.py\n\nEXPOSE 5000\n\nCMD [\"flask\", \"run\", \"-h\", \"0.0.0.0\"]\n";
const APP: &str = "from flask import Flask\napp = Flask(__name__)\n\n\n@app.route('/')\ndef hello_world():\n    return 'Hello, World!'\n";

pub(super) fn flask_and_users(host: &mut Host) -> Result<()> {
    let desk = Desk::new(host)?;
    desk.has_image("SKEP_TEST_PYTHON_TAR", "python:3.9.5-slim")?;
    desk.has_image("SKEP_TEST_BUSYBOX_TAR", "busybox:latest")?;
    // 4.8 and 4.11
    desk.write("app.py", APP)?;
    desk.write("Dockerfile", FLASK)?;
    desk.types("docker build -t flask-demo .")?;
    desk.write("Dockerfile", FLASK_NO_ROOT)?;
    desk.types("docker build -t flask-no-root .")?;
    // The client that has BuildKit's side built in may use it for the same file.
    if host.client().label == Client::debian_docker().label {
        desk.types("DOCKER_BUILDKIT=1 docker build -t flask-no-root --no-cache .")?;
    }
    let shown = desk.types("docker image ls")?;
    ensure!(shown.contains("flask-no-root") && shown.contains("3.9.5-slim"), "{shown}");
    desk.types("docker run -d --name flask-root flask-demo")?;
    desk.types("docker run -d --name flask-no-root flask-no-root")?;
    let shown = desk.types("docker container ps")?;
    ensure!(
        shown.matches("\"flask run -h 0.0.0.0\"").count() == 2 && shown.matches("5000/tcp").count() == 2,
        "{shown}"
    );
    for (name, user) in [("flask-root", "0"), ("flask-no-root", "flask")] {
        let seen = desk.types(&format!("docker exec {name} id -u"))?;
        ensure!((seen == "0") == (user == "0"), "{name} runs as {seen}");
        let address = desk.types(&format!("docker inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {name}"))?;
        wait::until("an answer of flask", || {
            let page = host.inside_ok(&["curl", "-s", &format!("http://{address}:5000/")])?;
            ensure!(page == "Hello, World!", "{page}");
            Ok(())
        })?;
    }
    desk.write("secret/sudoers", "root ALL\n")?;
    let line = format!("docker run -it -v {}/secret/sudoers:/root/sudoers busybox sh", desk.folder.display());
    desk.at_a_terminal(&line, &[("#", "echo demo >> /root/sudoers; more /root/sudoers | grep demo; exit\n")])?;
    ensure!(fs::read_to_string(desk.folder.join("secret/sudoers"))? == "root ALL\ndemo\n");
    let line = format!("docker run -it -v {}/secret/:/root/tmp busybox sh", desk.folder.display());
    let shown = desk.at_a_terminal(&line, &[("#", "cd /root/tmp; ls -l; exit\n")])?;
    ensure!(shown.contains("sudoers"), "{shown}");
    Ok(())
}
