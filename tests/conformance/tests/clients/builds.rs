//! Builds: mounts of RUN, their caches, BuildKit's session with the stock client, and our own.

use crate::Scenario;
use anyhow::{Context, Result, ensure};
use skep_conformance::Host;
use skep_lab::client::{failure, success};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

pub(crate) const SCENARIOS: &[Scenario] =
    &[("build_mounts_and_prune", mounts_and_prune), ("build_errors_name_the_line", errors_name_the_line)];

/// With the client that has BuildKit's side built in.
pub(crate) const BUILDKIT: &[Scenario] =
    &[("buildkit_session", buildkit_session), ("buildkit_upload_and_errors", buildkit_upload_and_errors)];

pub(crate) const OWN: &[Scenario] = &[("skep_build_shows_steps", skep_build_shows_steps)];

/// Writes files into a folder of the host's own.
fn folder(host: &Host, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let folder = host.scratch().join(name);
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("below the folder")?)?;
        fs::write(path, content)?;
    }
    Ok(folder)
}

fn mounts_and_prune(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let dockerfile = "\
# syntax=docker/dockerfile:1
FROM busybox AS made
RUN echo made > /made
FROM busybox
ARG N
RUN --mount=type=cache,target=/var/cache/x echo $N >> /var/cache/x/log && cp /var/cache/x/log /log
RUN --mount=type=bind,target=/ctx --mount=type=bind,from=made,target=/m --mount=type=tmpfs,target=/t \\
    cat /ctx/file /m/made > /both && touch /t/x && ! touch /ctx/no
RUN --network=none <<EOF
#!/bin/sh
echo script > /script
EOF
COPY --chown=5:6 --chmod=640 --link <<FILE /inline
here $N
FILE
CMD cat /log /both /script /inline
";
    let context = folder(host, "mounts", &[("Dockerfile", dockerfile), ("file", "context\n")])?;
    let path = context.to_string_lossy().into_owned();
    for n in ["N=1", "N=2"] {
        host.ok(&["build", "-t", "mounts", "--build-arg", n, &path])?;
    }
    let shown = host.ok(&["run", "--rm", "mounts"])?;
    ensure!(shown == "1\n2\ncontext\nmade\nscript\nhere 2", "{shown}");
    let left = host.ok(&["run", "--rm", "mounts", "ls", "/var", "/ctx"]);
    ensure!(left.is_err(), "a mount point stayed: {left:?}");
    ensure!(host.ok(&["run", "--rm", "mounts", "stat", "-c", "%a %u %g", "/inline"])? == "640 5 6");
    let usage = host.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"])?;
    ensure!(usage.lines().any(|line| line == "Build Cache 1 0"), "{usage}");
    let pruned = host.ok(&["builder", "prune", "-f"])?;
    ensure!(pruned.contains("Total") && !pruned.contains("Total reclaimed space: 0B"), "{pruned}");
    let usage = host.ok(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"])?;
    ensure!(usage.lines().any(|line| line == "Build Cache 0 0"), "{usage}");
    Ok(())
}

fn errors_name_the_line(host: &mut Host) -> Result<()> {
    for (dockerfile, expect) in [
        ("FROM scratch\n\nRUN --mount=type=nope,target=/x y\n", "line 3: unsupported mount type \"nope\""),
        ("FROM scratch\nRUN --security=insecure y\n", "line 2: RUN --security=insecure is not supported yet"),
        ("FROM scratch\nCOPY --parents a /b\n", "line 2: COPY --parents is not supported yet"),
        ("FROM scratch\nADD --checksum=x http://127.0.0.1:1/a /b\n", "invalid checksum x"),
    ] {
        let context = folder(host, "errors", &[("Dockerfile", dockerfile)])?;
        let said = host.refused(&["build", "-t", "never", &context.to_string_lossy()])?;
        ensure!(said.contains(expect), "{dockerfile}: {said}");
    }
    Ok(())
}

/// Runs a verb with BuildKit's side of the stock client.
fn with_buildkit(host: &Host, args: &[&str], input: Option<&[u8]>) -> Result<Output> {
    let mut command = host.command(args);
    command.env("DOCKER_BUILDKIT", "1").env("BUILDKIT_PROGRESS", "plain");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a piped input")?;
    stdin.write_all(input.unwrap_or_default())?;
    drop(stdin);
    Ok(child.wait_with_output()?)
}

fn buildkit_session(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let dockerfile = "\
FROM busybox AS one
RUN --mount=type=secret,id=token cp /run/secrets/token /dev/null && wc -c < /run/secrets/token > /length
FROM busybox AS two
RUN echo two > /two
FROM busybox
ENV GREETING=hello
COPY . /src/
COPY --from=one /length /length
COPY --from=two /two /two
RUN ls /src > /list
CMD [\"cat\", \"/length\", \"/two\", \"/list\"]
";
    let large = "x".repeat(3_000_000);
    let context = folder(
        host,
        "session",
        &[("a", "1"), ("ignored/b", "2"), ("large", &large), (".dockerignore", "ignored\n"), ("sub/ü", "3")],
    )?;
    let aside = folder(host, "aside", &[("Other", dockerfile), ("token", "top-secret-token")])?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let secret = format!("id=token,src={}", text(aside.join("token")));
    let (file, path, id_file) = (text(aside.join("Other")), text(context.clone()), text(aside.join("id")));
    let build = ["build", "-t", "kit:1", "-f", &file, "--secret", &secret, "--iidfile", &id_file, &path];
    let output = with_buildkit(host, &build, None)?;
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    success(&output)?;
    for step in ["[internal] load build context", "[one 2/2] RUN --mount=type=secret", "[stage-2 2/5] COPY . /src/"] {
        ensure!(shown.contains(step), "{step}: {shown}");
    }
    let ran = host.ok(&["run", "--rm", "kit:1"])?;
    ensure!(ran == "16\ntwo\na\nlarge\nsub", "{ran}");
    let id = host.ok(&["images", "-q", "--no-trunc", "kit:1"])?;
    ensure!(fs::read_to_string(&id_file)? == id);
    let again = with_buildkit(host, &build, None)?;
    let shown = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(shown.matches("CACHED").count() >= 6, "{shown}");
    let quiet = with_buildkit(host, &["build", "-q", "-f", &file, "--secret", &secret, &path], None)?;
    ensure!(success(&quiet)? == id);
    fs::write(context.join("a"), "changed")?;
    success(&with_buildkit(host, &build, None)?)?;
    ensure!(host.ok(&["run", "--rm", "kit:1", "cat", "/src/a"])? == "changed");
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "a build left a container");
    is_only_in(host, "top-secret-token", &aside.join("token"))
}

/// Nothing the daemon keeps holds the secret: no layer, no record of a cache, no log.
fn is_only_in(host: &Host, secret: &str, own: &Path) -> Result<()> {
    let (scratch, run) = (host.scratch().to_string_lossy(), host.exec_root().to_string_lossy());
    let found = host.inside_ok(&["grep", "-rlF", "-D", "skip", "-e", secret, &scratch, &run])?;
    ensure!(Path::new(&found) == own, "the secret is in {found}");
    Ok(())
}

fn buildkit_upload_and_errors(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let context = folder(host, "upload", &[("Dockerfile", "FROM busybox\nCOPY x /x\n"), ("x", "sent\n")])?;
    let tar = host.inside(&["tar", "-C", &context.to_string_lossy(), "-c", "."]).output()?.stdout;
    success(&with_buildkit(host, &["build", "-t", "sent", "-"], Some(&tar))?)?;
    ensure!(host.ok(&["run", "--rm", "sent", "cat", "/x"])? == "sent");
    let from_stdin = with_buildkit(host, &["build", "-t", "piped", "-"], Some(b"FROM busybox\nRUN echo y > /y\n"))?;
    success(&from_stdin)?;
    ensure!(host.ok(&["run", "--rm", "piped", "cat", "/y"])? == "y");
    let bad = folder(host, "bad", &[("Dockerfile", "FROM busybox\nRUN echo before && exit 9\n")])?;
    let said = failure(&with_buildkit(host, &["build", "-t", "never", &bad.to_string_lossy()], None)?)?;
    ensure!(said.contains("before") && said.contains("returned a non-zero code: 9"), "{said}");
    let typo = folder(host, "typo", &[("Dockerfile", "FROM busybox\nRUNN x\n")])?;
    let said = failure(&with_buildkit(host, &["build", &typo.to_string_lossy()], None)?)?;
    ensure!(said.contains("dockerfile parse error line 2: unknown instruction: RUNN"), "{said}");
    ensure!(host.ok(&["ps", "-aq"])?.is_empty(), "a build left a container");
    Ok(())
}

fn skep_build_shows_steps(host: &mut Host) -> Result<()> {
    host.import_busybox()?;
    let dockerfile = "\
FROM busybox AS base
RUN --mount=type=secret,id=TOKEN test $(wc -c < /run/secrets/TOKEN) = 6 && printf 'se%s\\n' en
FROM base
RUN echo last > /last
";
    let context = folder(host, "steps", &[("Dockerfile", dockerfile), ("token", "s3cret")])?;
    let path = context.to_string_lossy().into_owned();
    let secret = format!("id=TOKEN,src={path}/token");
    let shown = host.ok(&["build", "--progress", "plain", "--secret", &secret, "-t", "steps", &path])?;
    for line in [
        "#1 [base 1/2] FROM busybox",
        " seen\n",
        "[stage-1 2/2] RUN echo last > /last",
        "DONE",
        "Successfully tagged steps",
    ] {
        ensure!(shown.contains(line), "{line}: {shown}");
    }
    let again = host.ok(&["build", "--progress", "plain", "--secret", &secret, "-t", "steps", &path])?;
    ensure!(again.contains("CACHED") && !again.contains(" seen\n"), "{again}");
    let said = host.refused(&["build", "--progress", "plain", "--no-cache", &path])?;
    ensure!(said.contains(" > [base 2/2] RUN") && said.contains("/run/secrets/TOKEN"), "{said}");
    is_only_in(host, "s3cret", &context.join("token"))?;
    host.ok(&["builder", "prune", "-a", "-f"])?;
    host.ok(&["build", "--cache-from", "steps", "--secret", &secret, "-t", "again", &path]).map(drop)
}
