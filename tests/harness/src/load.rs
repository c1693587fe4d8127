//! A client that requests without pause, on connections that it keeps and on fresh ones, and remembers what failed.
//! Nothing is tried again: whatever a person would have seen fail is a failure.

use anyhow::{Context, bail, ensure};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Clients at once; every other one keeps its connection.
const CLIENTS: usize = 8;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time for anything to come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that are told; all are counted.
const MOST_TOLD: usize = 20;
/// Longest body that is read.
const MAX_BODY: usize = 1 << 20;

/// What came of a load.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that were answered with 200.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// Some of these: seconds since the start, and why.
    pub told: Vec<String>,
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Requests `paths` of `address` (with its port) in turn.
    ///
    /// # Errors
    /// When `address` is none.
    pub fn start(address: &str, paths: &[&str]) -> anyhow::Result<Self> {
        let to: SocketAddr = address.parse().with_context(|| address.to_owned())?;
        let paths: Arc<[String]> = paths.iter().map(|path| (*path).to_owned()).collect();
        let (stop, started) = (Arc::new(AtomicBool::new(false)), Instant::now());
        #[allow(clippy::disallowed_methods, reason = "clients block; `stop` joins them")]
        let client = |number: usize| {
            let (stop, paths) = (Arc::clone(&stop), Arc::clone(&paths));
            #[allow(clippy::disallowed_methods, reason = "a test's own threads, joined by `stop`")]
            std::thread::spawn(move || client(number, to, &paths, &stop, started))
        };
        Ok(Self { clients: (0..CLIENTS).map(client).collect(), stop })
    }

    /// Ends it.
    ///
    /// # Panics
    /// When a client panicked.
    #[must_use]
    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.join().expect("a client does not panic");
            all.answered += one.answered;
            all.failed += one.failed;
            all.told.extend(one.told);
        }
        all.told.sort();
        all.told.truncate(MOST_TOLD);
        all
    }
}

fn client(number: usize, to: SocketAddr, paths: &[String], stop: &AtomicBool, started: Instant) -> Tally {
    let keep = number.is_multiple_of(2);
    let mut tally = Tally::default();
    let mut connection: Option<BufReader<TcpStream>> = None;
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        let (path, reused) = (&paths[turn % paths.len()], connection.is_some());
        turn += 1;
        let begun = Instant::now();
        match exchange(&mut connection, to, path, keep) {
            Ok(()) => tally.answered += 1,
            Err(error) => {
                connection = None;
                tally.failed += 1;
                let at = started.elapsed().as_secs_f32();
                let took = begun.elapsed().as_secs_f32();
                let kind = if reused { "a kept connection" } else { "a fresh connection" };
                tally.told.push(format!("{at:7.2} s: {path} on {kind} after {took:.2} s: {error:#}"));
                tally.told.truncate(MOST_TOLD);
            }
        }
        #[allow(clippy::disallowed_methods, reason = "a test's own thread paces its requests")]
        std::thread::sleep(PAUSE);
    }
    tally
}

/// One request and its answer, on the connection that is there or on a fresh one.
fn exchange(
    connection: &mut Option<BufReader<TcpStream>>,
    to: SocketAddr,
    path: &str,
    keep: bool,
) -> anyhow::Result<()> {
    if connection.is_none() {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE)).context("time limit")?;
        stream.set_nodelay(true).context("no delay")?;
        *connection = Some(BufReader::new(stream));
    }
    let stream = connection.as_mut().context("just made")?;
    let wish = if keep { "keep-alive" } else { "close" };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: {wish}\r\n\r\n", to.ip());
    stream.get_mut().write_all(request.as_bytes()).context("sending")?;
    let answer = read_answer(stream)?;
    if answer.closes || !keep {
        *connection = None;
    }
    ensure!(answer.status == 200, "status {}", answer.status);
    Ok(())
}

struct Answer {
    status: u16,
    closes: bool,
}

fn read_answer(stream: &mut impl BufRead) -> anyhow::Result<Answer> {
    let first = line(stream).context("status line")?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| first.clone())?;
    let (mut length, mut chunked, mut closes) = (None, false, false);
    loop {
        let header = line(stream).context("headers")?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        let Some((name, value)) = header.split_once(':') else { bail!("header {header:?}") };
        match (name, value.trim()) {
            ("content-length", value) => length = Some(value.parse::<usize>().context("length")?),
            ("transfer-encoding", value) => chunked = value.contains("chunked"),
            ("connection", value) => closes = value.contains("close"),
            _ => {}
        }
    }
    match length {
        Some(length) => skip(stream, length)?,
        None if chunked => loop {
            let size = usize::from_str_radix(&line(stream).context("chunk")?, 16).context("chunk's size")?;
            skip(stream, size)?;
            line(stream).context("end of chunk")?;
            if size == 0 {
                break;
            }
        },
        None => bail!("an answer without an end"),
    }
    Ok(Answer { status, closes })
}

fn line(stream: &mut impl BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = stream.by_ref().take(MAX_BODY as u64).read_line(&mut text)?;
    ensure!(read > 0, "the connection ended");
    Ok(text.trim_end().to_owned())
}

fn skip(stream: &mut impl BufRead, length: usize) -> anyhow::Result<()> {
    ensure!(length <= MAX_BODY, "a body of {length} bytes");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).context("body")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_their_end() {
        for (text, status, closes) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, false),
            ("HTTP/1.1 503 No\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n", 503, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, false),
        ] {
            let mut stream = text.as_bytes();
            let answer = read_answer(&mut stream).unwrap();
            assert_eq!((answer.status, answer.closes, stream), (status, closes, &b""[..]), "{text}");
        }
    }

    #[test]
    fn half_an_answer_is_a_failure() {
        for text in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "HTTP/1.1 200 OK\r\n\r\n"]
        {
            assert!(read_answer(&mut text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
