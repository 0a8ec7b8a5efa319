//! Processes that end with the test that started them.

use std::process::Child;

/// Killed and reaped when it is dropped.
pub struct Ending(pub Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
