//! One logical line through the `parse-dockerfile` crate into our own words.

use super::instruction::{Command, CopySource, Health, Instruction, MountText, Run, Step, Transfer};
use super::lines::{Heredoc, Line};
use super::{ParseError, words};
use parse_dockerfile as syntax;
use std::time::Duration;

/// Shortest health probe duration, as in Docker.
const HEALTH_DURATION_MIN: Duration = Duration::from_millis(1);

type Flags = [(String, Option<String>)];

/// Parses the line, with Docker's message on failure.
pub(crate) fn step(line: &Line, escape: char) -> Result<Step, ParseError> {
    let instruction = instruction(line, escape)?;
    Ok(Step { line: line.number, text: line.text.clone(), instruction })
}

/// What may not follow `ONBUILD`.
pub(crate) fn check_trigger(step: &Step) -> Result<(), ParseError> {
    let refused = match step.instruction {
        Instruction::Onbuild(_) => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        Instruction::Maintainer(_) => "MAINTAINER isn't allowed as an ONBUILD trigger",
        Instruction::From { .. } => "FROM isn't allowed as an ONBUILD trigger",
        _ => return Ok(()),
    };
    Err(ParseError::at(step.line, refused))
}

fn instruction(line: &Line, escape: char) -> Result<Instruction, ParseError> {
    let (keyword, rest) = line.text.split_once(char::is_whitespace).unwrap_or((&line.text, ""));
    let (keyword, rest) = (keyword.to_ascii_uppercase(), rest.trim_start());
    let at = |message: String| ParseError::at(line.number, message);
    // These the crate hands over as raw text, or reads differently from Docker.
    match keyword.as_str() {
        "ENV" => return words::pairs("ENV", rest, escape).map(Instruction::Env).map_err(at),
        "LABEL" => return words::pairs("LABEL", rest, escape).map(Instruction::Label).map_err(at),
        "ARG" => return words::optional_pairs(rest, escape).map(Instruction::Arg).map_err(at),
        "ONBUILD" => return onbuild(line, rest, escape),
        "ENTRYPOINT" if is_empty_array(rest) => return Ok(Instruction::Entrypoint(Command::Exec(Vec::new()))),
        _ => {}
    }

    let text = crate_input(line, keyword == "FROM");
    let failed = |error: &syntax::Error| at(docker_message(&keyword, rest, error));
    let mut parsed = syntax::parse_iter(&text).map_err(|e| failed(&e))?;
    if keyword != "FROM" {
        // The stage put before the line to make it a file of its own.
        parsed.next();
    }
    match parsed.next() {
        Some(Ok(found)) => typed(found, line),
        Some(Err(error)) => Err(failed(&error)),
        None => Err(at(format!("unknown instruction: {keyword}"))),
    }
}

/// The line as a Dockerfile of its own; here-documents shrink to their last lines.
fn crate_input(line: &Line, is_from: bool) -> String {
    let mut text = if is_from { String::new() } else { "FROM scratch\n".to_owned() };
    text.push_str(&line.text);
    for heredoc in &line.heredocs {
        text.push('\n');
        text.push_str(&heredoc.name);
    }
    text
}

fn is_empty_array(rest: &str) -> bool {
    rest.strip_prefix('[').and_then(|r| r.trim_end().strip_suffix(']')).is_some_and(|inner| inner.trim().is_empty())
}

/// The trigger keeps its source text; it is checked now and run by the image's children.
fn onbuild(line: &Line, rest: &str, escape: char) -> Result<Instruction, ParseError> {
    if rest.is_empty() {
        return Err(ParseError::at(line.number, "ONBUILD requires at least one argument"));
    }
    let trigger = Line { number: line.number, text: rest.to_owned(), heredocs: line.heredocs.clone() };
    check_trigger(&step(&trigger, escape)?)?;
    let mut source = rest.to_owned();
    for heredoc in &line.heredocs {
        source.push('\n');
        source.push_str(&heredoc.content);
        source.push_str(&heredoc.name);
    }
    Ok(Instruction::Onbuild(source))
}

/// Docker's words for what the crate found wrong.
fn docker_message(keyword: &str, rest: &str, error: &syntax::Error) -> String {
    let found = format!("{error:#}");
    if found.starts_with("unknown instruction") {
        return format!("unknown instruction: {keyword}");
    }
    match keyword {
        "FROM" => "FROM requires either one or three arguments".into(),
        "COPY" | "ADD" if found.contains("at least two") && !rest.is_empty() => format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined."
        ),
        "COPY" | "ADD" if found.contains("at least two") => format!("{keyword} requires at least two arguments"),
        "SHELL" => "SHELL requires the arguments to be in JSON form".into(),
        "HEALTHCHECK" if rest.is_empty() => "HEALTHCHECK requires at least one argument".into(),
        "HEALTHCHECK" if found.starts_with("expected CMD") => {
            format!("Unknown type {:?} in HEALTHCHECK (try CMD)", rest.split_whitespace().next().unwrap_or_default())
        }
        _ if found.contains("at least one argument") => format!("{keyword} requires at least one argument"),
        _ if found.contains("exactly one argument") => format!("{keyword} requires exactly one argument"),
        _ => found,
    }
}

fn typed(found: syntax::Instruction<'_>, line: &Line) -> Result<Instruction, ParseError> {
    use syntax::Instruction as Found;
    let at = |message: String| ParseError::at(line.number, message);
    let one = |keyword: &str, value: String| {
        if value.is_empty() { Err(at(format!("{keyword} requires exactly one argument"))) } else { Ok(value) }
    };
    Ok(match found {
        Found::From(from) => stage(from, line.number)?,
        Found::Run(run) => {
            let flags = flags(&run.options);
            let (network, mounts) = run_flags(&flags, line.number)?;
            let command = match command(run.arguments) {
                // The crate cuts a leading here-document off; the joined line has it all.
                Command::Shell(_) if !line.heredocs.is_empty() => Command::Shell(after_flags(&line.text, flags.len())),
                Command::Shell(text) if text.is_empty() => return Err(at("RUN requires at least one argument".into())),
                other => other,
            };
            Instruction::Run(Run { command, heredocs: line.heredocs.clone(), network, mounts })
        }
        Found::Cmd(cmd) => Instruction::Cmd(command(cmd.arguments)),
        Found::Entrypoint(entrypoint) => Instruction::Entrypoint(command(entrypoint.arguments)),
        Found::Shell(shell) => Instruction::Shell(shell.arguments.into_iter().map(text_of).collect()),
        Found::Copy(copy) => transfer(false, &copy.options, copy.src, copy.dest, line)?,
        Found::Add(add) => transfer(true, &add.options, add.src, add.dest, line)?,
        Found::Workdir(workdir) => Instruction::Workdir(one("WORKDIR", text_of(workdir.arguments))?),
        Found::User(user) => Instruction::User(one("USER", text_of(user.arguments))?),
        Found::Expose(expose) => Instruction::Expose(expose.arguments.into_iter().map(text_of).collect()),
        Found::Volume(volume) => Instruction::Volume(volumes(volume.arguments, line.number)?),
        Found::Stopsignal(signal) => Instruction::StopSignal(one("STOPSIGNAL", text_of(signal.arguments))?),
        Found::Maintainer(maintainer) => Instruction::Maintainer(text_of(maintainer.name)),
        Found::Healthcheck(check) => Instruction::Healthcheck(health(check, line.number)?),
        // Taken apart before the crate sees them, or newer than this builder.
        other => {
            let message = format!("instruction is not supported: {}", line.text);
            tracing::debug!(?other, "the Dockerfile parser knows an instruction that the builder does not");
            return Err(ParseError::Unsupported { line: line.number, message });
        }
    })
}

fn text_of(value: syntax::UnescapedString<'_>) -> String {
    value.value.trim().to_owned()
}

fn command(found: syntax::Command<'_>) -> Command {
    match found {
        syntax::Command::Exec(words) => {
            Command::Exec(words.value.into_iter().map(|word| word.value.into_owned()).collect())
        }
        syntax::Command::Shell(text) => Command::Shell(text.value.trim().to_owned()),
        // The crate's enum is open; only these two forms exist in the language.
        _ => Command::Shell(String::new()),
    }
}

fn flags(found: &[syntax::Flag<'_>]) -> Vec<(String, Option<String>)> {
    found.iter().map(|f| (f.name.value.to_string(), f.value.as_ref().map(|v| v.value.to_string()))).collect()
}

/// The text after the keyword and `count` flags.
fn after_flags(text: &str, count: usize) -> String {
    let mut rest = text;
    for _ in 0..=count {
        rest = rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start());
    }
    rest.to_owned()
}

fn flag_value<'a>(name: &str, value: &'a Option<String>, line: usize) -> Result<&'a str, ParseError> {
    value.as_deref().ok_or_else(|| ParseError::at(line, format!("Missing a value on flag: {name}")))
}

fn stage(from: syntax::FromInstruction<'_>, line: usize) -> Result<Instruction, ParseError> {
    let mut platform = None;
    for (name, value) in &flags(&from.options) {
        match name.as_str() {
            "platform" => platform = Some(flag_value(name, value, line)?.to_owned()),
            _ => return Err(ParseError::at(line, format!("Unknown flag: {name}"))),
        }
    }
    let name = from.as_.map(|(_, name)| name.value.to_lowercase());
    if let Some(name) = &name {
        let legal = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        if !legal {
            let message =
                format!("invalid name for build stage: {name:?}, name can't start with a number or contain symbols");
            return Err(ParseError::at(line, message));
        }
    }
    Ok(Instruction::From { image: text_of(from.image), name, platform })
}

/// The network of a RUN and its mounts.
fn run_flags(flags: &Flags, line: usize) -> Result<(Option<String>, Vec<MountText>), ParseError> {
    let mut network = None;
    let mut mounts = Vec::new();
    for (name, value) in flags {
        match (name.as_str(), value.as_deref()) {
            ("network", Some("default")) => network = None,
            ("network", Some(mode @ ("none" | "host"))) => network = Some(mode.to_owned()),
            ("network", _) => {
                let message = "invalid network mode: RUN --network takes default, none or host";
                return Err(ParseError::at(line, message));
            }
            ("mount", _) => {
                let text = flag_value(name, value, line)?;
                mounts.push(MountText::new(text).map_err(|message| ParseError::at(line, message))?);
            }
            ("security", Some("sandbox")) => {}
            ("security" | "device", value) => {
                let message = format!("RUN --{name}={} is not supported yet", value.unwrap_or_default());
                return Err(ParseError::Unsupported { line, message });
            }
            _ => return Err(ParseError::at(line, format!("Unknown flag: {name}"))),
        }
    }
    Ok((network, mounts))
}

fn transfer<'a>(
    add: bool,
    options: &[syntax::Flag<'_>],
    sources: impl IntoIterator<Item = syntax::Source<'a>>,
    destination: syntax::UnescapedString<'_>,
    line: &Line,
) -> Result<Instruction, ParseError> {
    let mut transfer = Transfer::new(add, text_of(destination));
    transfer_flags(&mut transfer, &flags(options), line.number)?;
    let mut heredocs = line.heredocs.iter();
    for source in sources {
        transfer.sources.push(match source {
            syntax::Source::Path(path) => CopySource::Path(path.value.into_owned()),
            _ => CopySource::Inline(heredocs.next().cloned().ok_or_else(|| {
                ParseError::at(line.number, format!("{} has a here-document without a body", transfer.keyword()))
            })?),
        });
    }
    Ok(Instruction::Transfer(transfer))
}

fn transfer_flags(transfer: &mut Transfer, flags: &Flags, line: usize) -> Result<(), ParseError> {
    let at = |message: String| ParseError::at(line, message);
    for (name, value) in flags {
        match (name.as_str(), transfer.add) {
            ("from", false) => transfer.from = Some(flag_value(name, value, line)?.to_owned()),
            ("chown", _) => transfer.chown = Some(flag_value(name, value, line)?.to_owned()),
            ("chmod", _) => {
                let text = flag_value(name, value, line)?;
                if !text.contains('$') {
                    permissions(text).map_err(at)?;
                }
                transfer.chmod = Some(text.to_owned());
            }
            ("exclude", _) => transfer.excludes.push(flag_value(name, value, line)?.to_owned()),
            ("checksum", true) => transfer.checksum = Some(flag_value(name, value, line)?.to_owned()),
            ("keep-git-dir", true) => transfer.keep_git_dir = switch(name, value.as_deref(), line)?,
            ("unpack", true) => transfer.unpack = Some(switch(name, value.as_deref(), line)?),
            // Layers are always made independently of what is below them.
            ("link", _) => drop(switch(name, value.as_deref(), line)?),
            ("parents", false) => {
                let message = "COPY --parents is not supported yet".to_owned();
                return Err(ParseError::Unsupported { line, message });
            }
            _ => return Err(at(format!("Unknown flag: {name}"))),
        }
    }
    Ok(())
}

fn switch(name: &str, value: Option<&str>, line: usize) -> Result<bool, ParseError> {
    match value {
        None | Some("true") => Ok(true),
        Some("false") => Ok(false),
        Some(value) => {
            let message = format!("expecting boolean value for flag {name}, not: {value}");
            Err(ParseError::at(line, message))
        }
    }
}

/// The permission bits of `--chmod`.
pub(crate) fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"))
}

fn volumes(found: syntax::JsonOrStringArray<'_, 1>, line: usize) -> Result<Vec<String>, ParseError> {
    let words: Vec<String> = match found {
        syntax::JsonOrStringArray::Json(words) => words.value.into_iter().map(text_of).collect(),
        syntax::JsonOrStringArray::String(words) => words.into_iter().map(text_of).collect(),
    };
    if words.is_empty() {
        return Err(ParseError::at(line, "VOLUME requires at least one argument"));
    }
    if words.iter().any(String::is_empty) {
        return Err(ParseError::at(line, "VOLUME specified can not be an empty string"));
    }
    Ok(words)
}

fn health(found: syntax::HealthcheckInstruction<'_>, line: usize) -> Result<Health, ParseError> {
    let at = |message: String| ParseError::at(line, message);
    let arguments = match found.arguments {
        syntax::HealthcheckArguments::Cmd { arguments, .. } => arguments,
        syntax::HealthcheckArguments::None { .. } => return Ok(Health::None),
        _ => return Err(at("Unknown type in HEALTHCHECK (try CMD)".into())),
    };
    let command = command(arguments);
    if command == Command::Shell(String::new()) {
        return Err(at("Missing command after HEALTHCHECK CMD".into()));
    }
    let (mut interval, mut timeout, mut start_period, mut start_interval, mut retries) = (None, None, None, None, None);
    for (name, value) in &flags(&found.options) {
        let value = flag_value(name, value, line)?;
        match name.as_str() {
            "interval" => interval = Some(health_duration(name, value).map_err(at)?),
            "timeout" => timeout = Some(health_duration(name, value).map_err(at)?),
            "start-period" => start_period = Some(health_duration(name, value).map_err(at)?),
            "start-interval" => start_interval = Some(health_duration(name, value).map_err(at)?),
            "retries" => {
                let count = value.parse::<u32>().ok().filter(|count| *count > 0 && i32::try_from(*count).is_ok());
                retries = Some(count.ok_or_else(|| at(format!("--retries must be at least 1 (not {value})")))?);
            }
            _ => return Err(at(format!("Unknown flag: {name}"))),
        }
    }
    Ok(Health::Check { command, interval, timeout, start_period, start_interval, retries })
}

fn health_duration(name: &str, value: &str) -> Result<Duration, String> {
    let duration = go_duration(value).ok_or_else(|| format!("time: invalid duration {value:?}"))?;
    if duration != Duration::ZERO && duration < HEALTH_DURATION_MIN {
        return Err(format!("Interval {name:?} cannot be less than {HEALTH_DURATION_MIN:?}"));
    }
    Ok(duration)
}

/// `1h2m3.5s`, as Go reads it; no negative ones.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_s = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(amount * unit_s).ok()?)?;
        rest = &rest[end..];
    }
    Some(total)
}

/// The command a RUN with here-documents hands to the shell: alone, the body is the
/// script; inside a longer command, the shell reads the bodies itself.
pub(crate) fn with_bodies(command: &str, heredocs: &[Heredoc]) -> String {
    let alone = !command.contains(char::is_whitespace) && command.starts_with("<<");
    match heredocs {
        [only] if alone => only.content.clone(),
        _ => heredocs.iter().fold(format!("{command}\n"), |mut text, heredoc| {
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
            text.push('\n');
            text
        }),
    }
}
