//! The user's terminal: raw mode that is always undone, and its size.

use nix::sys::termios::{self, SetArg, Termios};
use std::io::{IsTerminal, stdin, stdout};

/// Puts standard input into raw mode until dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    /// `None` when standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done for a terminal that is gone.
        let _ = termios::tcsetattr(stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Keeps the terminal from showing what is typed until dropped.
pub(crate) struct Hidden(Termios);

impl Hidden {
    /// `None` when standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        if !stdin().is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(termios::LocalFlags::ECHO);
        termios::tcsetattr(stdin(), SetArg::TCSANOW, &hidden).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // As above.
        let _ = termios::tcsetattr(stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Height and width of the terminal, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    console::Term::stdout().size_checked()
}

/// Standard input is a terminal.
pub(crate) fn input_is_terminal() -> bool {
    stdin().is_terminal()
}

/// Standard output is a terminal.
pub(crate) fn output_is_terminal() -> bool {
    stdout().is_terminal()
}
