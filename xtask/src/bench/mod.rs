//! `cargo xtask bench`: the same scenarios, by the same stock command line, against
//! skep and against Debian's Docker, in one run on one machine.

mod engine;
mod scenario;

use crate::sh::{cmd, root, run as run_command, say, target};
use crate::{images, setup};
use anyhow::Result;
use engine::{Docker, Engine, Skep};
use scenario::{Measured, SCENARIOS};
use std::fmt::Write as _;
use std::fs;

/// Runs the named scenarios (all when none is named) and prints a table.
pub(crate) fn run(names: &[String], write: bool) -> Result<()> {
    setup::packages()?;
    let cli = setup::docker_cli()?;
    let inputs = scenario::Inputs { busybox_tar: images::busybox_tar()?, whoami_context: images::whoami_context()? };
    say("building skep (release)");
    run_command(&mut cmd("cargo", ["build", "--release", "--locked", "--package", "skep-daemon"]))?;

    let mut columns = Vec::new();
    let skep = Skep { program: target().join("release/skep") };
    columns.push(measure(&skep, &cli, &inputs, names)?);
    match Docker::unpack() {
        Ok(docker) => columns.push(measure(&docker, &cli, &inputs, names)?),
        Err(reason) => say(&format!("Docker is left out: {reason:#}")),
    }
    let table = table(&columns);
    println!("{table}");
    if write {
        let path = root().join("docs/benchmarks.md");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, replace_table(&text, &table))?;
        say("docs/benchmarks.md is up to date");
    }
    Ok(())
}

struct Column {
    label: &'static str,
    values: Vec<(&'static scenario::Scenario, Measured)>,
}

fn measure(engine: &dyn Engine, cli: &std::path::Path, inputs: &scenario::Inputs, names: &[String]) -> Result<Column> {
    let mut values = Vec::new();
    let mut bed = scenario::Bed::new(engine, cli, inputs)?;
    for scenario in SCENARIOS.iter().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name)) {
        say(&format!("{}: {}", engine.label(), scenario.title));
        match (scenario.run)(&mut bed) {
            Ok(value) => {
                println!("    {}", value.show());
                values.push((scenario, value));
            }
            Err(reason) => println!("    failed: {reason:#}"),
        }
        bed.clean()?;
    }
    Ok(Column { label: engine.label(), values })
}

fn table(columns: &[Column]) -> String {
    let mut text = String::from("| scenario |");
    for column in columns {
        let _ = write!(text, " {} |", column.label);
    }
    text.push_str(" ratio | must | aim |\n|---|");
    text.push_str(&"---|".repeat(columns.len() + 3));
    text.push('\n');
    let find =
        |column: &Column, name: &str| column.values.iter().find(|(s, _)| s.name == name).map(|(_, value)| *value);
    for scenario in SCENARIOS {
        let cells: Vec<Option<Measured>> = columns.iter().map(|column| find(column, scenario.name)).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| {} |", scenario.title);
        for cell in &cells {
            let _ = write!(text, " {} |", cell.map_or_else(|| "-".to_owned(), |value| value.show()));
        }
        let ratio = match cells.as_slice() {
            [Some(ours), Some(theirs)] if theirs.value > 0.0 => format!("{:.2}", ours.value / theirs.value),
            _ => "-".into(),
        };
        let _ = writeln!(text, " {ratio} | {} | {} |", scenario.must, scenario.aim);
    }
    text
}

const BEGIN: &str = "<!-- table: begin -->";
const END: &str = "<!-- table: end -->";

fn replace_table(text: &str, table: &str) -> String {
    let (Some((head, _)), Some((_, tail))) = (text.split_once(BEGIN), text.split_once(END)) else {
        return format!("{text}\n{BEGIN}\n{table}{END}\n");
    };
    format!("{head}{BEGIN}\n{table}{END}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(replace_table(&text, "new\n"), format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
    }
}
