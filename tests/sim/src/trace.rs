//! What happened, as a hash to compare runs by, and as lines to read when asked.

use std::fmt::Arguments;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

pub struct Trace {
    hash: u64,
    pub events: u64,
    /// Print every event.
    show: bool,
}

struct Hasher<'a>(&'a mut u64);

impl std::fmt::Write for Hasher<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(())
    }
}

impl Trace {
    pub fn new(show: bool) -> Self {
        Self { hash: FNV_OFFSET, events: 0, show }
    }

    /// Notes an event: `[time] who: what`.
    #[allow(clippy::print_stdout, reason = "showing a seed is what `--show` is for")]
    pub fn note(&mut self, now_ms: u64, event: Arguments<'_>) {
        self.events += 1;
        if std::fmt::write(&mut Hasher(&mut self.hash), format_args!("{now_ms} {event}\n")).is_err() {
            self.hash ^= 1;
        }
        if self.show {
            println!("{:>9.3} {event}", now_ms as f64 / 1000.0);
        }
    }

    /// Whether details are worth preparing. They are not part of the hash.
    pub fn shows(&self) -> bool {
        self.show
    }

    #[allow(clippy::print_stdout, reason = "showing a seed is what `--show` is for")]
    pub fn detail(&self, text: Arguments<'_>) {
        if self.show {
            println!("          {text}");
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}
