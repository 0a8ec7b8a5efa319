//! `system doctor`: what this machine has and lacks, and what each lack costs.
//!
//! [`facts`] looks, [`findings`] judges (pure), this prints.

mod facts;
mod findings;
mod kernel;

use crate::flags::system::Doctor;
use crate::format::text;
use crate::{Client, Failure, Outcome};
use anyhow::anyhow;
use findings::{Finding, Level};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Where the daemon keeps its data, unless it says otherwise.
const DATA_ROOT: &str = "/var/lib/skep";

pub(crate) async fn run(client: &Client, flags: &Doctor) -> Outcome {
    if !matches!(flags.format.as_str(), "" | "text" | "json") {
        return Err(anyhow!("unknown format \"{}\": text or json", flags.format).into());
    }
    // No daemon is a finding, not the end.
    let info = client.get("/info").await;
    let data_root = match (&flags.data_root, &info) {
        (Some(given), _) => PathBuf::from(given),
        (None, Ok(info)) if info["DockerRootDir"].is_string() => PathBuf::from(text(&info["DockerRootDir"])),
        (None, _) => PathBuf::from(DATA_ROOT),
    };
    let daemon = info.as_ref().map_or_else(|failure| Err(failure.to_string()), |info| Ok(info.clone()));
    let facts = facts::probe(&PathBuf::from("/"), &data_root, daemon)?;
    let found = findings::judge(&facts);
    if flags.format == "json" {
        println!("{}", serde_json::to_string_pretty(&found.iter().map(json_of).collect::<Vec<_>>())?);
    } else {
        print!("{}", page(&found));
    }
    if found.iter().any(|finding| finding.level == Level::Problem) { Err(Failure::Code(1)) } else { Ok(()) }
}

fn json_of(finding: &Finding) -> Value {
    json!({
        "Subject": finding.subject, "Level": finding.level.word(), "Found": finding.found,
        "Cost": finding.cost, "Remedy": finding.remedy,
    })
}

/// A line a finding; what is not well says below what it costs and what helps.
fn page(found: &[Finding]) -> String {
    let width = found.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut page = String::new();
    for finding in found {
        page.push_str(&format!("{:<8} {:<width$}  {}\n", finding.level.word(), finding.subject, finding.found));
        for (word, text) in [("costs", &finding.cost), ("do", &finding.remedy)] {
            if !text.is_empty() {
                page.push_str(&format!("{:<8} {:<width$}  {word}: {text}\n", "", ""));
            }
        }
    }
    let count = |level: Level| found.iter().filter(|finding| finding.level == level).count();
    page.push_str(&format!("\n{} problems, {} warnings\n", count(Level::Problem), count(Level::Warning)));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_says_what_it_costs() {
        let found = [
            Finding::ok("kernel", "6.1.0"),
            Finding {
                level: Level::Warning,
                subject: "ip_vs".into(),
                found: "missing".into(),
                cost: "slow".into(),
                remedy: String::new(),
            },
        ];
        assert_eq!(
            page(&found),
            "ok       kernel  6.1.0\nwarning  ip_vs   missing\n                 costs: slow\n\n0 problems, 1 warnings\n"
        );
    }
}
