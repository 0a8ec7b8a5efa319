//! Everything that can be checked without running the product.

use crate::sh::{self, cmd, say};
use crate::{setup, tidy};
use anyhow::Result;

/// Checks; writes nothing but build output.
pub(crate) fn run() -> Result<()> {
    setup::packages()?;
    say("formatting");
    sh::run(&mut cmd("cargo", ["fmt", "--all", "--check"]))?;
    say("rules of the tree");
    tidy::run()?;
    say("clippy");
    let args = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    sh::run(&mut cmd("cargo", args))
}

/// Repairs.
pub(crate) fn fix() -> Result<()> {
    setup::packages()?;
    let args = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged", "--quiet"];
    sh::run(&mut cmd("cargo", args))?;
    sh::run(&mut cmd("cargo", ["fmt", "--all"]))
}
