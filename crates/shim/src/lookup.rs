//! Finding an executable as runc does, with its words for what is wrong.

use crate::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, LaunchError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Resolves `program` against `PATH` in `environment` inside the present root.
pub(crate) fn find_executable(program: &str, environment: &[String]) -> Result<PathBuf, LaunchError> {
    if program.contains('/') {
        return check(Path::new(program)).map(|()| PathBuf::from(program)).map_err(|why| why.describe(program));
    }
    let path = environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let found = path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program));
    for candidate in found {
        if check(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(LaunchError::process(EXIT_NOT_FOUND, format!("exec: {program:?}: executable file not found in $PATH")))
}

enum Unfit {
    Missing(String),
    Forbidden,
}

impl Unfit {
    fn describe(&self, program: &str) -> LaunchError {
        match self {
            Self::Missing(text) => {
                LaunchError::process(EXIT_NOT_FOUND, format!("exec: {program:?}: stat {program}: {text}"))
            }
            Self::Forbidden => {
                LaunchError::process(EXIT_NOT_EXECUTABLE, format!("exec: {program:?}: permission denied"))
            }
        }
    }
}

fn check(path: &Path) -> Result<(), Unfit> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Unfit::Missing("no such file or directory".into()),
        ErrorKind::NotADirectory => Unfit::Missing("not a directory".into()),
        _ => Unfit::Forbidden,
    })?;
    let executable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    executable.then_some(()).ok_or(Unfit::Forbidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(program: &str, exit_code: i32, text: &str) {
        let error = find_executable(program, &["PATH=/usr/bin:/bin".into()]).unwrap_err();
        assert_eq!(error.exit_code, exit_code);
        assert!(error.text.contains(text), "{}", error.text);
    }

    #[test]
    fn missing_and_unfit_programs_are_told_as_docker_tells_them() {
        check_text("nosuchcmd", 127, "exec: \"nosuchcmd\": executable file not found in $PATH: unknown");
        check_text("/nosuch", 127, "exec: \"/nosuch\": stat /nosuch: no such file or directory");
        check_text("/etc", 126, "exec: \"/etc\": permission denied");
        check_text("/etc/passwd", 126, "exec: \"/etc/passwd\": permission denied");
    }

    #[test]
    fn the_last_path_wins_and_is_searched_in_order() {
        let environment = ["PATH=/nowhere".to_owned(), "PATH=/nowhere:/bin".to_owned()];
        assert_eq!(find_executable("sh", &environment).unwrap(), PathBuf::from("/bin/sh"));
    }
}
