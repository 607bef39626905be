//! The agent and its client, joined by pipes.

use super::message::{CHUNK, WINDOW};
use super::*;
use proto::process::End;
use std::io::Write;
use std::path::PathBuf;
use std::thread::JoinHandle;

const SOON: Duration = Duration::from_secs(30);

/// The agent's end. Dropped, it is done, and has removed what it made.
struct Agent {
    client: Client,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.client.say_goodbye();
        self.thread.take().map(JoinHandle::join);
    }
}

/// A client, and the agent's end.
fn pair(binaries: &Path) -> (Client, Agent) {
    let (mut requests, to_agent) = std::io::pipe().unwrap();
    let (answers, from_agent) = std::io::pipe().unwrap();
    let binaries = binaries.to_owned();
    let thread = std::thread::spawn(move || {
        let options = server::Options {
            binaries: Some(&binaries),
            janitor: false,
        };
        server::serve(&mut requests, Box::new(from_agent), options)
    });
    let client = Client::connect("h", "t", Box::new(answers), Box::new(to_agent), SOON);
    let client = client.unwrap();
    let agent = Agent {
        client: client.clone(),
        thread: Some(thread),
    };
    (client, agent)
}

fn shell(client: &Client, script: &str) -> super::client::Output {
    client
        .output(words(&["/bin/sh", "-c", script]), SOON)
        .unwrap()
}

fn words(argv: &[&str]) -> Vec<Vec<u8>> {
    argv.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn commands_give_output_and_status() {
    let place = tempfile::tempdir().unwrap();
    let (client, _agent) = pair(place.path());
    let output = shell(&client, "echo out; echo err >&2; exit 7");
    assert_eq!(output.end, End::Exit(7));
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(shell(&client, "kill -TERM $$").end, End::Signal(15));
    let why = client
        .output(words(&["/no/such"]), SOON)
        .unwrap_err()
        .to_string();
    assert!(
        why.contains("host h") && why.contains("cannot execute"),
        "{why}"
    );
}

#[test]
fn much_output_comes_whole_and_a_stalled_reader_stalls_nobody_else() {
    let place = tempfile::tempdir().unwrap();
    let (client, _agent) = pair(place.path());
    // Nobody reads this one's output: more than a window and a pipe hold.
    let (unread, out) = std::io::pipe().unwrap();
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
    };
    let script = format!("head -c {} /dev/zero", 4 * WINDOW);
    let argv = words(&["/bin/sh", "-c", &script]);
    let stalled = client.exec(argv, [null().into(), out.into(), null().into()]);
    let stalled = stalled.unwrap();
    let output = shell(&client, &format!("head -c {} /dev/zero", 100 * CHUNK + 1));
    assert_eq!(output.stdout.len(), 100 * CHUNK + 1);
    // Then its reader leaves, and it ends as in any pipeline.
    drop(unread);
    let end = stalled.wait(SOON).unwrap();
    assert!(end != End::Exit(0), "{end:?}");
}

#[test]
fn input_is_passed_on_to_its_end() {
    let place = tempfile::tempdir().unwrap();
    let (client, _agent) = pair(place.path());
    let (stdin, mut input) = std::io::pipe().unwrap();
    let (mut output, out) = std::io::pipe().unwrap();
    let null = std::fs::File::create("/dev/null").unwrap();
    let program = client.exec(
        vec![b"/bin/cat".to_vec()],
        [stdin.into(), out.into(), null.into()],
    );
    let program = program.unwrap();
    let sent: Vec<u8> = (0..3 * WINDOW).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || input.write_all(&copy));
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| bytes)
    });
    assert_eq!(program.wait(SOON).unwrap(), End::Exit(0));
    writer.join().unwrap().unwrap();
    assert!(reader.join().unwrap().unwrap() == sent);
}

#[test]
fn a_program_nobody_wants_is_ended() {
    let place = tempfile::tempdir().unwrap();
    let (client, _agent) = pair(place.path());
    let mark = place.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000",
        mark.display()
    );
    let argv = words(&["/bin/sh", "-c", &script]);
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap()
    };
    let stdio = [null().into(), null().into(), null().into()];
    let program = client.exec(argv, stdio).unwrap();
    let text = until(|| std::fs::read_to_string(&mark).ok());
    let process = PathBuf::from("/proc").join(text.trim());
    assert!(process.exists());
    drop(program);
    until(|| (!process.exists()).then_some(()));
}

fn until<T>(mut happened: impl FnMut() -> Option<T>) -> T {
    let most = std::time::Instant::now() + SOON;
    loop {
        if let Some(value) = happened() {
            return value;
        }
        assert!(std::time::Instant::now() < most, "it never happened");
        std::thread::sleep(Duration::from_millis(10));
    }
}
