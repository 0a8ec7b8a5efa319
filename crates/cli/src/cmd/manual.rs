//! Completion scripts and man pages, from the one definition of the grammar.

use crate::Outcome;
use anyhow::Context;
use std::path::Path;

pub(crate) fn completion(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut crate::grammar(), "skep", &mut std::io::stdout());
}

/// Writes `skep.1` and one page for each verb (`skep-stack-deploy.1`) into a folder.
pub(crate) fn man(folder: &str) -> Outcome {
    std::fs::create_dir_all(folder).with_context(|| folder.to_owned())?;
    clap_mangen::generate_to(crate::grammar(), Path::new(folder)).with_context(|| folder.to_owned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_shell_and_page_can_be_made() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut crate::grammar(), "skep", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("stack") && script.contains("compose-file"), "{shell}");
        }
        let folder = std::env::temp_dir().join(format!("skep-man-{}", std::process::id()));
        super::man(&folder.to_string_lossy()).unwrap();
        let page = std::fs::read_to_string(folder.join("skep-stack-deploy.1")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(page.contains("compose\\-file"), "{page}");
    }
}
