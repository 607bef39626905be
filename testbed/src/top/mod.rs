//! `testbed top`: what a testbed does now.

mod frame;
mod report;
mod screen;
mod snapshot;

use crate::cli::TopArgs;
use crate::ending::Ending;
use crate::out::show;
use crate::signals::Signals;
use crate::standing::Standing;
use anyhow::{Context, Result};
use frame::{Frame, between};
use report::{fit, report};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use rustix::process::{Signal, getpid, kill_process};
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use snapshot::Snapshot;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Shows it as the arguments say.
pub(crate) fn top(args: &TopArgs) -> Result<Ending> {
    let standing = Standing::choose(args.name.as_deref())?;
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    if live {
        return watch(standing, args.interval);
    }
    let mut old = Snapshot::take(&standing)?;
    loop {
        std::thread::sleep(args.interval);
        let new = Snapshot::take(&standing)?;
        let frame = between(standing.name(), &old, &new);
        if args.json {
            show(&format!("{}\n", serde_json::to_string(&frame)?))?;
        } else {
            show(&report(&frame))?;
        }
        if args.once || !args.json {
            return Ok(Ending::Exit(0));
        }
        old = new;
    }
}

/// On the terminal, until a person has seen enough.
fn watch(standing: Standing, interval: Duration) -> Result<Ending> {
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let mut frames = Frames::begin(standing, interval)?;
    let mut screen = take_screen()?;
    let mut shown = "looking...\n".to_owned();
    loop {
        draw(&mut screen, &shown)?;
        let [signalled, pressed, looked] = wait(&signals, &screen, &frames)?;
        if looked {
            shown = report(&frames.next()?) + "\nq ends\n";
        }
        if pressed {
            let keys = screen.read_keys();
            if keys.is_empty() || keys.iter().any(|key| matches!(key, b'q' | b'Q')) {
                return Ok(Ending::Exit(0));
            }
        }
        if !signalled {
            continue;
        }
        for signal in signals.take() {
            match signal {
                SIGINT => return Ok(Ending::Exit(0)),
                SIGTERM | SIGHUP | SIGQUIT => return Ok(Ending::Signal(signal)),
                SIGTSTP => {
                    drop(screen);
                    // Here until a shell has us go on.
                    let _ = kill_process(getpid(), Signal::STOP);
                    screen = take_screen()?;
                }
                // A resized window, above all: draw again.
                _ => {}
            }
        }
    }
}

fn take_screen() -> Result<Screen> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let context = "cannot draw on the terminal (try --once)";
    Screen::take(terminal.context(context)?).context(context)
}

fn draw(screen: &mut Screen, text: &str) -> Result<()> {
    let (rows, columns) = screen.size();
    let lines = fit(text, rows, columns);
    screen.draw(&lines).context("the terminal is gone")
}

/// Until a signal, a key, or a frame has come.
fn wait(signals: &Signals, screen: &Screen, frames: &Frames) -> Result<[bool; 3]> {
    let events = [signals.event(), screen.keys(), frames.event.as_fd()];
    let mut waits = events.map(|event| PollFd::from_borrowed_fd(event, PollFlags::IN));
    match poll(&mut waits, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(why) => return Err(why).context("poll"),
    }
    Ok(waits.map(|wait| !wait.revents().is_empty()))
}

/// Frames made on a thread of their own: components that take their time to
/// answer don't make the keyboard wait.
struct Frames {
    made: Receiver<Result<Frame>>,
    /// Readable when there is one.
    event: UnixStream,
}

impl Frames {
    fn begin(standing: Standing, interval: Duration) -> Result<Frames> {
        let (event, wake) = UnixStream::pair().context("a socket")?;
        let (to, made) = channel();
        let make = move || {
            if let Err(why) = make(&standing, interval, &to, &wake) {
                let _ = to.send(Err(why));
                let _ = (&wake).write_all(&[0]);
            }
        };
        let thread = std::thread::Builder::new().name("frames".to_owned());
        thread.spawn(make).context("cannot start a thread")?;
        Ok(Frames { made, event })
    }

    /// To be called when the event has come.
    fn next(&mut self) -> Result<Frame> {
        self.event.read_exact(&mut [0])?;
        self.made.recv().context("nobody looks any more")?
    }
}

/// Until nobody wants any more, or the testbed is gone.
fn make(
    standing: &Standing,
    interval: Duration,
    to: &Sender<Result<Frame>>,
    mut wake: &UnixStream,
) -> Result<()> {
    let mut old = Snapshot::take(standing)?;
    loop {
        let next = old.at + interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let new = Snapshot::take(standing)?;
        if to.send(Ok(between(standing.name(), &old, &new))).is_err() {
            return Ok(());
        }
        wake.write_all(&[0])?;
        old = new;
    }
}
