//! `config`: the files as they are understood.

use super::project::{self, Need};
use super::{labels, order};
use crate::Outcome;
use crate::flags::compose::{Config, Files};
use anyhow::{Context as _, anyhow};

pub(super) fn config(files: &Files, flags: &Config) -> Outcome {
    let mut chosen = files.clone();
    if flags.profiles {
        // All of them are asked for, so all services must be there.
        chosen.profile = vec!["*".into()];
    }
    let loaded = project::load(&chosen, &flags.names, !flags.no_interpolate, Need::Files)?;
    let found = loaded.files.context("files were asked for")?;
    let services = &found.local.services;
    let keys = order::select(services, &flags.names, true)?;
    let of_each = |line: fn(&skep_compose::LocalService) -> String| {
        services.iter().filter(|one| keys.contains(&one.key)).map(line).collect::<Vec<_>>().join("\n")
    };
    let shown = if let Some(which) = &flags.hash {
        let wanted: Vec<&str> = which.split(',').collect();
        let asked = |key: &str| which == "*" || wanted.contains(&key);
        let lines = services.iter().filter(|one| asked(&one.key));
        lines.map(|one| format!("{} {}", one.key, labels::hash(one))).collect::<Vec<_>>().join("\n")
    } else if flags.services {
        of_each(|one| one.key.clone())
    } else if flags.images {
        of_each(|one| one.image.clone())
    } else if flags.volumes {
        found.local.volumes.iter().map(|one| one.key.clone()).collect::<Vec<_>>().join("\n")
    } else if flags.profiles {
        found.project.profiles().into_iter().collect::<Vec<_>>().join("\n")
    } else {
        match flags.format.as_str() {
            "yaml" => found.project.to_local_yaml().trim_end().to_owned(),
            "json" => serde_json::to_string_pretty(&found.project.to_local_json())?,
            other => return Err(anyhow!("unsupported format \"{other}\": yaml or json").into()),
        }
    };
    if flags.quiet {
        return Ok(());
    }
    match &flags.output {
        Some(path) => std::fs::write(path, format!("{shown}\n")).with_context(|| path.clone())?,
        None if shown.is_empty() => {}
        None => println!("{shown}"),
    }
    Ok(())
}
