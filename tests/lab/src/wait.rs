//! Waiting for a fact, with a deadline and the last reason in the error.

use anyhow::{Result, anyhow};
use std::time::{Duration, Instant};

/// How long anything may take on a busy two-core machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Time between two looks.
pub const POLL: Duration = Duration::from_millis(30);
/// The same where a look costs nothing.
pub(crate) const SHORT_POLL: Duration = Duration::from_millis(3);

/// Calls `fact` until it holds.
///
/// # Errors
/// What `fact` said last, after [`DEADLINE`].
pub fn until<T>(what: &str, fact: impl FnMut() -> Result<T>) -> Result<T> {
    within(DEADLINE, what, fact)
}

/// The same with another deadline.
///
/// # Errors
/// What `fact` said last, after `deadline`.
pub fn within<T>(deadline: Duration, what: &str, mut fact: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match fact() {
            Ok(value) => return Ok(value),
            Err(reason) if begin.elapsed() > deadline => {
                return Err(anyhow!("{what}: not within {deadline:?}: {reason:#}"));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}
