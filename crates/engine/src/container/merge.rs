//! The image's config and the user's become the container's.

use skep_model::container::{ContainerConfig, HealthConfig};
use skep_model::{Error, Result};

/// Docker's rules: a value of the user's wins, lists of keys are united, an entrypoint
/// of the user's makes the image's command void.
pub(crate) fn with_image(mut user: ContainerConfig, image: &ContainerConfig) -> ContainerConfig {
    let or = |own: &mut String, theirs: &String| {
        if own.is_empty() {
            own.clone_from(theirs);
        }
    };
    or(&mut user.user, &image.user);
    or(&mut user.working_dir, &image.working_dir);
    or(&mut user.stop_signal, &image.stop_signal);
    user.exposed_ports.extend(image.exposed_ports.iter().copied());
    user.volumes.extend(image.volumes.iter().cloned());
    for (key, value) in &image.labels {
        user.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    user.env = environment(&user.env, &image.env);
    if user.entrypoint.is_none() {
        if user.cmd.as_ref().is_none_or(Vec::is_empty) {
            user.cmd.clone_from(&image.cmd);
        }
        user.entrypoint.clone_from(&image.entrypoint);
    }
    // `--entrypoint ""` resets the image's without setting one.
    if user.entrypoint.as_ref().is_some_and(|list| list.len() == 1 && list[0].is_empty()) {
        user.entrypoint = None;
    }
    if user.shell.is_none() {
        user.shell.clone_from(&image.shell);
    }
    if user.stop_timeout_s.is_none() {
        user.stop_timeout_s = image.stop_timeout_s;
    }
    user.healthcheck = health(user.healthcheck.take(), image.healthcheck.as_ref());
    user
}

/// Executable and arguments.
///
/// # Errors
/// Neither an entrypoint nor a command.
pub(crate) fn command(config: &ContainerConfig) -> Result<(String, Vec<String>)> {
    let entrypoint = config.entrypoint.iter().flatten();
    let mut words = entrypoint.chain(config.cmd.iter().flatten()).cloned();
    let path = words.next().filter(|path| !path.is_empty()).ok_or_else(|| Error::invalid("No command specified"))?;
    Ok((path, words.collect()))
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// The user's entries, then those of the image the user does not mention.
fn environment(user: &[String], image: &[String]) -> Vec<String> {
    let inherited = image.iter().filter(|entry| !user.iter().any(|own| key(own) == key(entry)));
    user.iter().filter(|entry| entry.contains('=')).chain(inherited).cloned().collect()
}

fn health(user: Option<HealthConfig>, image: Option<&HealthConfig>) -> Option<HealthConfig> {
    let Some(mut own) = user else { return image.cloned() };
    let Some(image) = image else { return Some(own) };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    let zero = std::time::Duration::ZERO;
    for (own, theirs) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
    ] {
        if *own == zero {
            *own = theirs;
        }
    }
    if own.retries == 0 {
        own.retries = image.retries;
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    fn check(user: (Option<&str>, Option<&str>), image: (Option<&str>, Option<&str>), expect: &str) {
        let config = |(entrypoint, cmd): (Option<&str>, Option<&str>)| ContainerConfig {
            entrypoint: entrypoint.and_then(|text| if text == "''" { Some(vec![String::new()]) } else { words(text) }),
            cmd: cmd.and_then(words),
            ..Default::default()
        };
        let (path, args) = command(&with_image(config(user), &config(image))).unwrap();
        assert_eq!([vec![path], args].concat().join(" "), expect);
    }

    #[test]
    fn command_and_entrypoint_merge() {
        check((None, None), (Some("/e"), Some("c")), "/e c");
        check((None, Some("x")), (Some("/e"), Some("c")), "/e x");
        check((Some("/u"), None), (Some("/e"), Some("c")), "/u");
        check((Some("/u"), Some("x")), (Some("/e"), Some("c")), "/u x");
        check((Some("''"), Some("x")), (Some("/e"), Some("c")), "x");
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        assert_eq!(command(&ContainerConfig::default()).unwrap_err().message, "No command specified");
    }

    #[test]
    fn environment_merges_by_key_and_bare_keys_remove() {
        let text = |list: &[&str]| list.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>();
        assert_eq!(environment(&text(&["A=1", "B"]), &text(&["A=0", "B=2", "C=3"])), text(&["A=1", "C=3"]));
    }
}
