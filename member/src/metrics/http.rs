//! The least of HTTP/1.1 (RFC 9112) that a scrape needs: `GET /metrics`, one
//! request a connection. It runs beside the component on threads of its own,
//! few of them, and gives every connection up after a deadline.

use super::Exposition;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest request, headers included, bytes.
const LONGEST: usize = 8 << 10;
/// Connections served at one time; further ones are told to come back.
const MOST: usize = 8;
/// How long a connection may take from its beginning to its end.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long, and how many bytes, it may send on after its answer.
const LINGER: Duration = Duration::from_secs(1);
const MOST_LINGER: usize = 1 << 20;
/// After an error of the listener (out of descriptors).
const PAUSE: Duration = Duration::from_millis(50);

/// Metrics can't be served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address can't be listened at.
    #[error("metrics cannot be served at {addr} (--metrics): {why}; give a free address and port")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// No thread for it.
    #[error("cannot start the thread that serves metrics: {0}")]
    Thread(std::io::Error),
}

/// Serves what `render` gives at `http://ADDR/metrics` from now on; returns
/// the address, whose port the system has chosen where 0 was asked for.
/// `render` is called on threads of the server, for one scrape at a time or
/// for several.
///
/// # Errors
/// [`MetricsError`], naming the address.
pub fn serve_metrics(
    addr: SocketAddr,
    render: impl Fn() -> Exposition + Send + Sync + 'static,
) -> Result<SocketAddr, MetricsError> {
    let listen = |why| MetricsError::Listen { addr, why };
    let listener = TcpListener::bind(addr).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let server = Arc::new(Server {
        render: Box::new(render),
        open: AtomicUsize::new(0),
    });
    let accept = move || accept(&listener, &server);
    spawn(accept).map_err(MetricsError::Thread)?;
    tracing::info!("metrics at http://{bound}/metrics");
    Ok(bound)
}

struct Server {
    render: Box<dyn Fn() -> Exposition + Send + Sync>,
    open: AtomicUsize,
}

/// One of [`MOST`]; given back however its thread ends.
struct Place(Arc<Server>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("metrics".to_owned());
    thread.spawn(work).map(drop)
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => begin(stream, server),
            Err(why) => {
                tracing::debug!("metrics: {why}");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Hands a connection to a thread, if there is room for one.
fn begin(stream: TcpStream, server: &Arc<Server>) {
    let place = Place(server.clone());
    if server.open.fetch_add(1, Ordering::Relaxed) >= MOST {
        // Into an empty buffer: it does not wait.
        let _ = stream.set_nonblocking(true);
        let _ = (&stream).write_all(&response("503 Service Unavailable", "", "busy\n"));
        return;
    }
    let serve = move || {
        if let Err(why) = serve(&stream, &place.0) {
            tracing::debug!("a client of the metrics: {why}");
        }
    };
    if let Err(why) = spawn(serve) {
        tracing::debug!("a client of the metrics is refused: {why}");
    }
}

fn serve(stream: &TcpStream, server: &Server) -> std::io::Result<()> {
    let until = Instant::now() + DEADLINE;
    let answer = match request(stream, until)? {
        None => response("431 Request Header Fields Too Large", "", "too long\n"),
        Some(head) => answer(&head, server),
    };
    write(stream, &answer, until)?;
    linger(stream, until)
}

/// Reads what the peer still sends, for a while: bytes that nobody has read
/// when a connection is closed reset it, and the answer may be lost (RFC 9112,
/// 9.6).
fn linger(mut stream: &TcpStream, until: Instant) -> std::io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let until = until.min(Instant::now() + LINGER);
    let (mut chunk, mut read) = ([0; 4096], 0);
    while read < MOST_LINGER {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// The request's head, to the empty line; `None` if it is too long. What comes
/// after it, no request that is answered here has.
fn request(mut stream: &TcpStream, until: Instant) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend(&chunk[..n]),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
        let ends = |mark: &[u8]| head.windows(mark.len()).any(|w| w == mark);
        if ends(b"\r\n\r\n") || ends(b"\n\n") {
            return Ok(Some(head));
        }
        if head.len() >= LONGEST {
            return Ok(None);
        }
    }
}

fn answer(head: &[u8], server: &Server) -> Vec<u8> {
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|v| v.starts_with("HTTP/1.")) || words.next().is_some() {
        return response("400 Bad Request", "", "this is no HTTP/1 request\n");
    }
    let path = target.and_then(|t| t.split('?').next());
    match (method, path) {
        (Some("GET"), Some("/metrics")) => {
            let kind = "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n";
            response("200 OK", kind, &(server.render)().into_text())
        }
        (_, Some("/metrics")) => response("405 Method Not Allowed", "Allow: GET\r\n", "use GET\n"),
        _ => response("404 Not Found", "", "metrics are at /metrics\n"),
    }
}

fn response(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {len}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body.as_bytes()].concat()
}

/// As `write_all`, of a peer that may read as slowly as it likes.
fn write(mut stream: &TcpStream, bytes: &[u8], until: Instant) -> std::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

fn left(until: Instant) -> std::io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let render = || {
            let mut out = Exposition::default();
            out.counter("x_total", "X.", 3);
            out
        };
        serve_metrics(any, render).unwrap()
    }

    fn ask(to: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(to).unwrap();
        let limit = Some(DEADLINE * 4);
        stream.set_read_timeout(limit).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        // A reset after the answer, for bytes that were not read, is no harm.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn a_scrape() {
        let answer = ask(server(), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        let length = format!("Content-Length: {}", body.len());
        assert!(head.contains(&length), "{head}");
        assert_eq!(
            body,
            "# HELP x_total X.\n# TYPE x_total counter\nx_total 3\n"
        );
    }

    #[test]
    fn other_requests_are_refused_by_the_status_that_fits() {
        let server = server();
        let endless = [&b"GET /metrics HTTP/1.1\r\nX: "[..], &[b'a'; 2 * LONGEST]].concat();
        for (request, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"\0\xff\xfe\n\n", "400"),
            (b"GET /metrics HTTP/1.1 more\n\n", "400"),
            (&endless, "431"),
            (b"GET /metrics?a=b HTTP/1.0\n\n", "200"),
        ] {
            let answer = ask(server, request);
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{status}: {answer}");
        }
    }

    #[test]
    fn who_says_nothing_is_given_up_and_the_others_come_back_later() {
        let server = server();
        let idle: Vec<_> = (0..MOST)
            .map(|_| TcpStream::connect(server).unwrap())
            .collect();
        let scrape = || ask(server, b"GET /metrics HTTP/1.1\r\n\r\n");
        let full = loop {
            let answer = scrape();
            if !answer.starts_with("HTTP/1.1 200") {
                break answer;
            }
        };
        assert!(
            full.is_empty() || full.starts_with("HTTP/1.1 503"),
            "{full}"
        );
        // The silent ones are hung up on, without our doing.
        for mut stream in idle {
            stream.set_read_timeout(Some(DEADLINE * 4)).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        }
        assert!(scrape().starts_with("HTTP/1.1 200"));
    }

    #[test]
    fn a_port_in_use_is_named() {
        let taken = server();
        let why = serve_metrics(taken, Exposition::default).unwrap_err();
        let said = why.to_string();
        assert!(
            said.contains(&taken.to_string()) && said.contains("--metrics"),
            "{said}"
        );
    }
}
