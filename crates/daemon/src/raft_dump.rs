//! `skep raft dump`: shows what lies in the files of a manager that does not run.

use anyhow::{Context, Result, bail};
use clap::{Arg, Command, value_parser};
use skep_manager::{Manager, ManagerConfig};
use std::ffi::OsString;
use std::io::{BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

const KEY_BYTES_MAX: u64 = 1024;

pub(crate) fn run(args: Vec<OsString>) -> Result<()> {
    let matches = command().try_get_matches_from(args)?;
    let Some(("dump", dump)) = matches.subcommand() else { bail!("a verb is needed: skep raft dump") };
    let path = |name: &str| dump.get_one::<PathBuf>(name).cloned();
    let state_dir = path("data-root").unwrap_or_default().join("swarm");
    let vault = ManagerConfig::vault_of(&state_dir);
    if let Some(file) = path("unlock-key-file") {
        vault.unlock(&read_key(&file)?.parse()?)?;
    }
    if vault.needs_unlocking()? {
        bail!("this manager is locked: --unlock-key-file is needed");
    }
    let listen_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ManagerConfig { state_dir, listen_addr, advertise_addr: String::new(), vault };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = BufWriter::new(std::io::stdout());
    let summary = runtime.block_on(Manager::dump(&config, &mut out))?;
    out.flush()?;
    print_summary(&summary)?;
    if summary.damaged > 0 {
        bail!("{} records are damaged", summary.damaged);
    }
    Ok(())
}

fn command() -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).num_args(1).value_parser(value_parser!(PathBuf));
    let dump = Command::new("dump")
        .about("Prints the replicated state and log of a stopped manager as JSON lines, without secrets")
        .arg(path("data-root").default_value("/var/lib/skep").help("The daemon's data root"))
        .arg(path("unlock-key-file").help("File with the unlock key of a locked manager, or - for standard input"));
    Command::new("skep raft")
        .bin_name("skep raft")
        .no_binary_name(true)
        .about("Looks into a manager's files")
        .subcommand_required(true)
        .subcommand(dump)
}

fn read_key(path: &Path) -> Result<String> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().take(KEY_BYTES_MAX).read_to_string(&mut text)?;
    } else {
        let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
        file.take(KEY_BYTES_MAX).read_to_string(&mut text)?;
    }
    Ok(text)
}

/// On standard error, so that standard output holds nothing but JSON.
fn print_summary(summary: &skep_manager::DumpSummary) -> Result<()> {
    let skep_manager::DumpSummary { objects, entries, damaged } = summary;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{objects} objects in the snapshot, {entries} entries in the log, {damaged} damaged")?;
    Ok(())
}
