//! Work that takes long without waiting for anybody: kept away from the threads that answer.

use tokio::task::JoinError;

/// Runs `work` on a thread of its own. In the simulation everything happens on one thread, or
/// a seed would not decide what comes first.
///
/// # Errors
/// `work` panicked.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(not(skep_simulated))]
    let running = tokio::task::spawn_blocking(work);
    #[cfg(skep_simulated)]
    let running = tokio::spawn(async { work() });
    running.await
}
