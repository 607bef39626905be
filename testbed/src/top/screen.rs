//! The terminal while something is drawn on it: taken over, and given back
//! as it was, whatever happens.

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

/// The alternate screen, without cursor (ctlseqs, "xterm").
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l";
const GIVE_BACK: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// A terminal that is ours while this lives. Dropped, also by a panic, it is
/// as it was before.
pub(super) struct Screen {
    terminal: File,
    before: Termios,
}

impl Screen {
    /// Takes over a terminal, open for reading and writing. Keys come at once
    /// and are not shown; Ctrl-C and Ctrl-Z remain signals.
    pub(super) fn take(terminal: File) -> io::Result<Screen> {
        let before = tcgetattr(&terminal)?;
        let mut screen = Screen { terminal, before };
        let mut now = screen.before.clone();
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        // Ctrl-S would have us wait in a write for a Ctrl-Q.
        now.input_modes -= InputModes::IXON;
        tcsetattr(&screen.terminal, OptionalActions::Now, &now)?;
        screen.write(TAKE)?;
        Ok(screen)
    }

    /// Its rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.terminal) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (size.ws_row.into(), size.ws_col.into())
            }
            _ => (24, 80),
        }
    }

    /// Shows these lines, which must fit, from the top.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        // Overwritten line by line, which does not flicker as clearing does.
        let body = lines.join("\x1b[K\r\n");
        self.write(format!("\x1b[H{body}\x1b[K\x1b[J").as_bytes())
    }

    /// Readable when a key was pressed.
    pub(super) fn keys(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }

    /// The keys pressed; none: the terminal is gone.
    pub(super) fn read_keys(&self) -> Vec<u8> {
        let mut keys = [0; 64];
        let count = rustix::io::read(&self.terminal, &mut keys).unwrap_or(0);
        keys[..count].to_vec()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.terminal.write_all(bytes)?;
        self.terminal.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = self.write(GIVE_BACK);
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::wait_all;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    /// A terminal and what a person sees of it.
    fn terminal() -> (File, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal: OwnedFd = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        (terminal.into(), person.into())
    }

    fn modes(terminal: &File) -> (LocalModes, InputModes) {
        let now = tcgetattr(terminal).unwrap();
        (now.local_modes, now.input_modes)
    }

    /// All that came until the terminal was given back: it comes in pieces.
    fn seen(mut person: &File) -> String {
        let (mut seen, mut bytes) = (String::new(), [0; 4096]);
        while !seen.ends_with("\x1b[?1049l") {
            assert!(
                wait_all(&[person.as_fd()], Duration::from_secs(30)),
                "{seen:?}"
            );
            let count = person.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        seen
    }

    #[test]
    fn given_back_as_it_was() {
        let (terminal, person) = terminal();
        let before = modes(&terminal);
        let mut screen = Screen::take(terminal.try_clone().unwrap()).unwrap();
        assert!(!modes(&terminal).0.contains(LocalModes::ECHO));
        screen.draw(&["one".to_owned(), "two".to_owned()]).unwrap();
        drop(screen);
        assert_eq!(modes(&terminal), before);
        let seen = seen(&person);
        assert!(
            seen.starts_with("\x1b[?1049h") && seen.contains("one"),
            "{seen:?}"
        );
        assert!(seen.ends_with("\x1b[?25h\x1b[?1049l"), "{seen:?}");
    }

    #[test]
    fn also_by_a_panic() {
        let (terminal, person) = terminal();
        let before = modes(&terminal);
        let ours = terminal.try_clone().unwrap();
        let panicked = std::panic::catch_unwind(move || {
            let _screen = Screen::take(ours).unwrap();
            panic!("on purpose");
        });
        assert!(panicked.is_err());
        assert_eq!(modes(&terminal), before);
        assert!(seen(&person).ends_with("\x1b[?1049l"));
    }
}
