//! Chapters 2 to 7 of the course, command by command, typed as the course types them. Images
//! that the course fetches are made of Debian's packages and imported under their names; Docker
//! Hub is a registry on the loopback.

mod compose;
mod containers;
mod dockerfiles;

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::client::{environment, failure, success};
use skep_conformance::{Client, Host};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("course_2_containers", containers::containers),
    ("course_3_images", containers::images),
    ("course_4_dockerfiles", dockerfiles::dockerfiles),
    ("course_4_flask_and_users", dockerfiles::flask_and_users),
    ("course_5_volumes", containers::volumes),
    ("course_6_bridge", containers::bridge),
    ("course_7_compose", compose::compose),
    ("course_7_health", compose::health),
];

/// Somebody at the keyboard of one machine.
struct Desk<'h> {
    host: &'h Host,
    /// Holds `docker` and `docker-compose`, which are the clients under test.
    bin: PathBuf,
    /// Where commands are typed.
    folder: PathBuf,
}

impl<'h> Desk<'h> {
    fn new(host: &'h Host) -> Result<Self> {
        let bin = host.scratch().join("bin");
        let folder = host.scratch().join("course");
        fs::create_dir_all(&bin)?;
        fs::create_dir_all(&folder)?;
        let client = host.client();
        symlink(&client.program, bin.join("docker"))?;
        let compose = bin.join("docker-compose");
        if client.label == Client::skep().label {
            fs::write(&compose, "#!/bin/sh\nexec docker compose \"$@\"\n")?;
            success(&Command::new("chmod").arg("755").arg(&compose).output()?)?;
        } else {
            symlink("/usr/bin/docker-compose", &compose)?;
        }
        Ok(Self { host, bin, folder })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = self.host.inside(&["sh", "-c", line]);
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap_or_default());
        command
            .current_dir(&self.folder)
            .env("PATH", path)
            .env("DOCKER_HOST", format!("unix://{}", self.host.socket()))
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
        command
    }

    /// What a line prints when it is typed.
    fn types(&self, line: &str) -> Result<String> {
        success(&self.command(line).output()?).with_context(|| format!("$ {line}"))
    }

    /// The complaint about a line.
    fn mistypes(&self, line: &str) -> Result<String> {
        failure(&self.command(line).output()?).with_context(|| format!("$ {line}"))
    }

    /// `-it`: on a terminal, with more typed into the container.
    fn at_a_terminal(&self, line: &str, typed: &[(&str, &str)]) -> Result<String> {
        let mut terminal = skep_conformance::terminal::Terminal::start(&self.command(line), 33, 101)?;
        for (prompt, text) in typed {
            terminal.expect(prompt)?;
            terminal.send(text)?;
        }
        let shown = terminal.finish().with_context(|| format!("$ {line}"))?;
        // What the stock client says when a container ended before it could ask for its size.
        Ok(shown.replace("failed to resize tty, using default size", ""))
    }

    /// Imports a base image under the name that the course gives it.
    fn has_image(&self, variable: &str, name: &str) -> Result<()> {
        self.types(&format!("docker import {} {name}", environment(variable).display())).map(drop)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.folder.join(path);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        Ok(fs::write(path, text)?)
    }

    /// Makes something that answers at port 80, which the course calls nginx.
    fn has_nginx(&self) -> Result<()> {
        self.types(&format!("docker build -t nginx {}", environment("SKEP_TEST_WHOAMI_CONTEXT").display())).map(drop)
    }
}

fn same_columns(shown: &str, columns: &[&str]) -> Result<()> {
    let head = shown.lines().next().unwrap_or_default();
    let found: Vec<&str> = head.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    ensure!(found == columns, "{found:?} instead of {columns:?}");
    Ok(())
}
