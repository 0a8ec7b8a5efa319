//! `top`: what `ps` would print of a container's processes.

use crate::container::inner::Inner;
use chrono::{Local, TimeZone};
use skep_model::{Error, Result};
use std::collections::BTreeMap;
use std::fs;

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// Clock ticks per second, fixed on Linux for what `/proc` shows.
const TICKS_PER_SECOND: u64 = 100;

/// One process as `/proc` tells it.
struct Row {
    uid: u32,
    pid: u32,
    parent: u32,
    start_s: i64,
    terminal: String,
    cpu_s: u64,
    run_s: i64,
    command: String,
    name: String,
    resident_kb: u64,
    virtual_kb: u64,
    state: char,
}

impl Inner {
    pub(crate) fn top(&self, name: &str, ps_args: &str) -> Result<(Vec<String>, Vec<Vec<String>>)> {
        let info = self.registry.find(name)?.info();
        if !info.state.status.is_running() || info.state.pid == 0 {
            return Err(Error::conflict(format!("Container {} is not running", info.id)));
        }
        let columns = columns(ps_args)?;
        let users = users();
        let boot_s = boot_time_s();
        let rows = self.pids_of(&self.cgroup_path(&info)).into_iter().filter_map(|pid| read_row(pid, boot_s));
        let rows = rows.map(|row| columns.iter().map(|column| cell(&row, column, &users)).collect()).collect();
        Ok((columns.iter().map(|column| title(column)).collect(), rows))
    }

    /// Processes in a control group, children of it included.
    pub(crate) fn pids_of(&self, cgroup_path: &str) -> Vec<u32> {
        let controller =
            ["pids", "memory", "cpu", "freezer"].iter().find(|name| self.kernel.controllers.contains(**name));
        let dir = self.kernel.cgroup_dir(controller.unwrap_or(&"pids"), cgroup_path);
        let mut pids: Vec<u32> = walkdir::WalkDir::new(dir)
            .into_iter()
            .flatten()
            .filter(|entry| entry.file_name() == "cgroup.procs")
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>())
            .collect();
        pids.sort_unstable();
        pids
    }
}

/// Columns for the arguments of `ps` people use: `-ef` (the default), `aux`, `-o a,b`.
fn columns(ps_args: &str) -> Result<Vec<String>> {
    let words: Vec<&str> = ps_args.split_whitespace().collect();
    let own = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
    match words.as_slice() {
        [] | ["-ef" | "-f" | "ef"] => Ok(own(&["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"])),
        ["aux" | "-aux" | "au"] => {
            Ok(own(&["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "command"]))
        }
        words => {
            let mut columns: Vec<String> = Vec::new();
            let mut rest = words.iter();
            while let Some(word) = rest.next() {
                let list = match *word {
                    "-o" | "o" | "-eo" | "-axo" | "axo" => rest.next().copied().unwrap_or_default(),
                    "-e" | "-a" | "-x" | "ax" | "-ax" => continue,
                    word => word
                        .strip_prefix("-o")
                        .ok_or_else(|| Error::invalid(format!("ps: unsupported arguments: {ps_args}")))?,
                };
                columns.extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_lowercase));
            }
            if !columns.iter().any(|name| name == "pid") {
                return Err(Error::internal("Couldn't find PID field in ps output"));
            }
            Ok(columns)
        }
    }
}

fn title(column: &str) -> String {
    match column {
        "args" => "COMMAND".into(),
        "comm" => "COMMAND".into(),
        "stime" => TITLES[4].into(),
        "tty" => TITLES[5].into(),
        name => name.to_uppercase(),
    }
}

fn cell(row: &Row, column: &str, users: &BTreeMap<u32, String>) -> String {
    let user = || users.get(&row.uid).cloned().unwrap_or_else(|| row.uid.to_string());
    match column {
        "uid" | "user" | "euser" => user(),
        "pid" => row.pid.to_string(),
        "ppid" => row.parent.to_string(),
        "c" => percent(row).to_string(),
        "%cpu" | "pcpu" => format!("{}.0", percent(row)),
        "%mem" | "pmem" => "0.0".into(),
        "stime" | "start" => start_text(row.start_s),
        "tty" => row.terminal.clone(),
        "time" => clock(row.cpu_s),
        "etime" => clock(u64::try_from(row.run_s).unwrap_or(0)),
        "cmd" | "args" | "command" => row.command.clone(),
        "comm" => row.name.clone(),
        "rss" => row.resident_kb.to_string(),
        "vsz" => row.virtual_kb.to_string(),
        "stat" | "s" => row.state.to_string(),
        _ => "-".into(),
    }
}

fn percent(row: &Row) -> u64 {
    let run = u64::try_from(row.run_s).unwrap_or(0).max(1);
    row.cpu_s * 100 / run
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The hour of a process of today, else the day.
fn start_text(start_s: i64) -> String {
    let Some(start) = Local.timestamp_opt(start_s, 0).single() else { return "?".into() };
    let today = Local::now().date_naive() == start.date_naive();
    start.format(if today { "%H:%M" } else { "%b%d" }).to_string()
}

fn read_row(pid: u32, boot_s: i64) -> Option<Row> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let size = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let start_s = boot_s + i64::try_from(number(19)? / TICKS_PER_SECOND).ok()?;
    Some(Row {
        uid: uid.split_ascii_whitespace().next()?.parse().ok()?,
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        start_s,
        terminal: terminal_name(number(4).unwrap_or(0)),
        cpu_s: (number(11)? + number(12)?) / TICKS_PER_SECOND,
        run_s: (chrono::Utc::now().timestamp() - start_s).max(0),
        command: if command.is_empty() { format!("[{name}]") } else { command },
        name,
        resident_kb: size("VmRSS:").unwrap_or(0),
        virtual_kb: size("VmSize:").unwrap_or(0),
        state: fields.first().and_then(|state| state.chars().next()).unwrap_or('?'),
    })
}

fn terminal_name(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 if minor < 64 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn boot_time_s() -> i64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

/// Names of the host's users, as `ps` on the host shows them.
fn users() -> BTreeMap<u32, String> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ps_arguments_choose_columns() {
        assert_eq!(columns("").unwrap().iter().map(|name| title(name)).collect::<Vec<_>>(), TITLES);
        assert_eq!(columns("-o pid,comm").unwrap(), ["pid", "comm"]);
        assert!(columns("-o comm").is_err());
        assert!(columns("--nonsense").is_err());
    }

    #[test]
    fn our_own_process_can_be_read() {
        let row = read_row(std::process::id(), boot_time_s()).unwrap();
        assert_eq!(row.pid, std::process::id());
        assert_eq!(clock(3725), "01:02:05");
    }
}
