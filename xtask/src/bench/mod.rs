//! `cargo xtask bench`: the same scenarios, by the same clients, against skep and against
//! Debian's Docker, in one run on one machine; and what only skep can be asked.

mod agents;
mod api;
mod cluster;
mod engine;
mod images;
mod machines;
mod plan;
mod scenario;
mod table;

use crate::sh::{cmd, root, run as run_command, say, target};
use crate::{images as test_images, setup};
use anyhow::{Context, Result};
use engine::{Docker, Engine, Skep};
use scenario::Scenario;
use std::fs;
use std::path::{Path, PathBuf};
use table::{Column, Line};

/// What is measured together and stands in one table.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Containers and services on one node
    Engine,
    /// Builds, images, many containers
    Images,
    /// Managers that agree
    Cluster,
    /// The planner alone
    Plan,
    /// A leader with thousands of agents
    Agents,
}

impl Group {
    const ALL: [Self; 5] = [Self::Engine, Self::Images, Self::Cluster, Self::Plan, Self::Agents];

    /// Name of its table in the document.
    fn mark(self) -> &'static str {
        match self {
            Self::Engine => "engine",
            Self::Images => "images",
            Self::Cluster => "cluster",
            Self::Plan => "plan",
            Self::Agents => "agents",
        }
    }
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Scenarios of the groups engine and images to run; all when none is named
    scenarios: Vec<String>,
    /// Groups to run; all when none is named
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Use what is built already, in release, instead of building
    #[arg(long)]
    no_build: bool,
    /// Leave Docker out
    #[arg(long)]
    no_docker: bool,
    /// Write the tables into docs/benchmarks.md
    #[arg(long)]
    write: bool,
}

/// Runs the wanted groups and prints a table of each.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::packages()?;
    let groups: Vec<Group> = match options.only.as_slice() {
        [] if options.scenarios.is_empty() => Group::ALL.to_vec(),
        [] => vec![Group::Engine, Group::Images],
        only => only.to_vec(),
    };
    let run = Run::prepare(options, &groups)?;
    for group in groups {
        let table = run.group(group)?;
        println!("{table}");
        if options.write {
            let path = root().join("docs/benchmarks.md");
            let text = fs::read_to_string(&path)?;
            fs::write(&path, table::replace(&text, group.mark(), &table))?;
            say(&format!("docs/benchmarks.md: the table {} is up to date", group.mark()));
        }
    }
    Ok(())
}

/// What all groups need.
struct Run<'a> {
    options: &'a Options,
    cli: PathBuf,
    skep: Skep,
    /// Where it can run.
    docker: Option<Docker>,
}

impl<'a> Run<'a> {
    fn prepare(options: &'a Options, groups: &[Group]) -> Result<Self> {
        let cli = setup::docker_cli()?;
        let beside_docker = groups.iter().any(|group| !matches!(group, Group::Plan | Group::Agents));
        let docker = if options.no_docker || !beside_docker {
            None
        } else {
            Docker::unpack().map_err(|reason| say(&format!("Docker is left out: {reason:#}"))).ok()
        };
        if !options.no_build && groups.iter().any(|group| *group != Group::Plan) {
            say("building skep (release)");
            run_command(&mut cmd("cargo", ["build", "--release", "--locked", "--package", "skep-daemon"]))?;
        }
        let skep = Skep { program: target().join("release/skep"), core: None };
        Ok(Self { options, cli, skep, docker })
    }

    fn engines(&self) -> impl Iterator<Item = &dyn Engine> {
        let skep: &dyn Engine = &self.skep;
        std::iter::once(skep).chain(self.docker.iter().map(|docker| docker as &dyn Engine))
    }

    fn group(&self, group: Group) -> Result<String> {
        match group {
            Group::Engine => self.scenarios(scenario::SCENARIOS),
            Group::Images => self.scenarios(images::SCENARIOS),
            Group::Cluster => {
                let columns: Vec<Column> =
                    self.engines().map(|engine| cluster::measure(engine, &self.cli)).collect::<Result<_>>()?;
                Ok(table::comparison(&cluster::LINES, &columns))
            }
            Group::Plan => plan::measure(!self.options.no_build),
            Group::Agents => agents::measure(&self.skep.program, &self.cli, !self.options.no_build),
        }
    }

    fn scenarios(&self, scenarios: &[Scenario]) -> Result<String> {
        let names = &self.options.scenarios;
        let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.line.name);
        let scenarios: Vec<&Scenario> = scenarios.iter().filter(wanted).collect();
        let inputs = scenario::Inputs {
            busybox_tar: test_images::busybox_tar().context("the image busybox")?,
            whoami_context: test_images::whoami_context().context("the image whoami")?,
        };
        let columns: Vec<Column> =
            self.engines().map(|engine| measure(engine, &self.cli, &inputs, &scenarios)).collect::<Result<_>>()?;
        let lines: Vec<Line> = scenarios.iter().map(|scenario| scenario.line).collect();
        Ok(table::comparison(&lines, &columns))
    }
}

fn measure(engine: &dyn Engine, cli: &Path, inputs: &scenario::Inputs, scenarios: &[&Scenario]) -> Result<Column> {
    let mut values = Vec::new();
    let mut bed = scenario::Bed::new(engine, cli, inputs)?;
    for scenario in scenarios {
        say(&format!("{}: {}", engine.label(), scenario.line.title));
        match (scenario.run)(&mut bed) {
            Ok(value) => {
                println!("    {}", value.show());
                values.push((scenario.line.name, value));
            }
            Err(reason) => println!("    failed: {reason:#}"),
        }
        bed.clean()?;
    }
    Ok(Column { label: engine.label(), values })
}
