//! Container logs: the runtime's line format, reading with all of `kubectl logs`' options, and rotation.

use super::runtime::{Runtime, RuntimeError};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::mpsc;

/// One record of a log: `TIME STREAM TAG TEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) time: &'a str,
    pub(crate) stream: &'a str,
    /// The program's line goes on in the next record.
    pub(crate) partial: bool,
    pub(crate) text: &'a str,
}

/// Reads a record; nothing when it is none.
pub(crate) fn parse_line(raw: &str) -> Option<Line<'_>> {
    let raw = raw.strip_suffix('\n').unwrap_or(raw);
    let (time, rest) = raw.split_once(' ')?;
    let (stream, rest) = rest.split_once(' ')?;
    let (tag, text) = rest.split_once(' ').unwrap_or((rest, ""));
    matches!(stream, "stdout" | "stderr").then(|| Line {
        time,
        stream,
        partial: tag.split(':').next() == Some("P"),
        text,
    })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) previous: bool,
    /// `Stdout`, `Stderr` or both.
    pub(crate) stream: Option<&'static str>,
}

impl LogOptions {
    /// From a query string's pairs, as the API passes them on. The error is for the user.
    pub(crate) fn parse(pairs: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut out = Self::default();
        for (key, value) in pairs {
            let number = || value.parse::<i64>().map_err(|_| format!("invalid value {value:?} for {key}"));
            let yes = || matches!(value.as_str(), "" | "true" | "1");
            match key.as_str() {
                "follow" => out.follow = yes(),
                "previous" => out.previous = yes(),
                "timestamps" => out.timestamps = yes(),
                "tailLines" => out.tail = usize::try_from(number()?).ok(),
                "limitBytes" => {
                    out.limit_bytes = Some(u64::try_from(number()?).map_err(|_| "limitBytes must be positive")?)
                }
                "sinceSeconds" => out.since = now.checked_sub(SignedDuration::from_secs(number()?)).ok(),
                "sinceTime" => out.since = Some(value.parse().map_err(|_| format!("invalid sinceTime {value:?}"))?),
                "stream" => {
                    out.stream = match value.as_str() {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        Ok(out)
    }

    /// What of a record goes out.
    fn show(&self, raw: &str) -> Option<Vec<u8>> {
        let line = parse_line(raw)?;
        if self.stream.is_some_and(|stream| stream != line.stream) {
            return None;
        }
        if let Some(since) = self.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return None;
        }
        let mut out = Vec::with_capacity(line.text.len() + 1);
        if self.timestamps {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text.as_bytes());
        if !line.partial {
            out.push(b'\n');
        }
        Some(out)
    }
}

/// How long a follower waits between two looks at the file's end.
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// Longest record that is read: the runtime splits lines at 16 KiB.
const RECORD_LIMIT: u64 = 1 << 20;

/// Reads a log into `out` until its end, or while `alive` says that the container may write on.
pub(crate) async fn read(
    path: &Path,
    options: LogOptions,
    alive: impl Fn() -> bool,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    let mut reader = Reader::open(path).await?;
    if let Some(tail) = options.tail {
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        while let Some(raw) = reader.record().await? {
            let Some(shown) = options.show(&raw) else { continue };
            last.push_back(shown);
            if last.len() > tail {
                last.pop_front();
            }
        }
        for shown in last {
            if !send(&out, shown, &mut left).await {
                return Ok(());
            }
        }
    }
    loop {
        if !drain(&mut reader, &options, &out, &mut left).await? || !options.follow || out.is_closed() {
            return Ok(());
        }
        if reader.rotated(path).await {
            // There is a new file: the container writes no more to the old one, which is read to its end first.
            if !drain(&mut reader, &options, &out, &mut left).await? {
                return Ok(());
            }
            reader = Reader::open(path).await?;
            continue;
        }
        if !alive() {
            // What was written between the last look and the end.
            drain(&mut reader, &options, &out, &mut left).await?;
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

/// Sends what the file has; whether more is wanted.
async fn drain(
    reader: &mut Reader,
    options: &LogOptions,
    out: &mpsc::Sender<io::Result<Bytes>>,
    left: &mut u64,
) -> io::Result<bool> {
    while let Some(raw) = reader.record().await? {
        if let Some(shown) = options.show(&raw)
            && !send(out, shown, left).await
        {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn send(out: &mpsc::Sender<io::Result<Bytes>>, mut shown: Vec<u8>, left: &mut u64) -> bool {
    let length = u64::try_from(shown.len()).unwrap_or(u64::MAX);
    if length > *left {
        shown.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
    }
    *left = left.saturating_sub(length);
    out.send(Ok(shown.into())).await.is_ok() && *left > 0
}

struct Reader {
    file: BufReader<tokio::fs::File>,
    inode: u64,
    /// Start of a record whose end is not written yet.
    pending: Vec<u8>,
}

impl Reader {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = tokio::fs::File::open(path).await?;
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata().await?);
        Ok(Self { file: BufReader::new(file), inode, pending: Vec::new() })
    }

    /// The next whole record.
    async fn record(&mut self) -> io::Result<Option<String>> {
        let mut limited = tokio::io::AsyncReadExt::take(&mut self.file, RECORD_LIMIT);
        limited.read_until(b'\n', &mut self.pending).await?;
        let whole = self.pending.ends_with(b"\n") || self.pending.len() as u64 >= RECORD_LIMIT;
        if !whole {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()))
    }

    async fn rotated(&mut self, path: &Path) -> bool {
        let Ok(meta) = tokio::fs::metadata(path).await else { return false };
        let position = self.file.stream_position().await.unwrap_or(0);
        std::os::unix::fs::MetadataExt::ino(&meta) != self.inode || meta.len() < position
    }
}

/// Rotates the log of a running container when it is too large, and drops the oldest files.
pub(crate) async fn rotate(
    runtime: &Runtime,
    container: &str,
    path: &Path,
    largest: u64,
    files: usize,
    now: Timestamp,
) -> Result<(), RotateError> {
    if std::fs::metadata(path).map(|meta| meta.len()).unwrap_or(0) < largest {
        return Ok(());
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S");
    let rotated = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &rotated).map_err(RotateError::Rename)?;
    if let Err(error) = runtime.reopen_log(container).await {
        // Without a reopened log the container would write on into the renamed file.
        std::fs::rename(&rotated, path).map_err(RotateError::Rename)?;
        return Err(RotateError::Reopen(error));
    }
    for old in surplus(path, files.saturating_sub(1)) {
        let _ = std::fs::remove_file(old);
    }
    Ok(())
}

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error("rename the log")]
    Rename(#[source] io::Error),
    #[error("reopen the log")]
    Reopen(#[source] RuntimeError),
}

/// Rotated files beyond the `keep` newest.
fn surplus(path: &Path, keep: usize) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    rotated.sort();
    rotated.reverse();
    rotated.split_off(keep.min(rotated.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n\
        2026-01-01T00:00:02Z stderr F two\n\
        2026-01-01T00:00:03Z stdout P thr\n\
        2026-01-01T00:00:03Z stdout F ee\n";

    async fn shown(options: LogOptions) -> String {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let (sender, mut receiver) = mpsc::channel(16);
        read(&path, options, || false, sender).await.expect("read");
        let mut out = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            out.extend_from_slice(&chunk.expect("bytes"));
        }
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn options() {
        let base = LogOptions::default;
        for (options, expected) in [
            (base(), "one\ntwo\nthree\n"),
            (LogOptions { follow: true, ..base() }, "one\ntwo\nthree\n"),
            (LogOptions { tail: Some(0), ..base() }, ""),
            (LogOptions { tail: Some(3), ..base() }, "two\nthree\n"),
            (LogOptions { limit_bytes: Some(5), ..base() }, "one\nt"),
            (LogOptions { stream: Some("stderr"), ..base() }, "two\n"),
            (LogOptions { since: "2026-01-01T00:00:02Z".parse().ok(), ..base() }, "two\nthree\n"),
            (LogOptions { timestamps: true, tail: Some(0), ..base() }, ""),
            (LogOptions { timestamps: true, limit_bytes: Some(25), ..base() }, "2026-01-01T00:00:01Z one\n"),
        ] {
            assert_eq!(shown(options.clone()).await, expected, "{options:?}");
        }
    }

    #[test]
    fn queries() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("time");
        let pairs =
            |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
        let got = LogOptions::parse(&pairs(&[("follow", "true"), ("tailLines", "5"), ("sinceSeconds", "10")]), now)
            .expect("options");
        assert!(got.follow);
        assert_eq!((got.tail, got.since), (Some(5), "2026-01-01T00:00:50Z".parse().ok()));
        assert!(LogOptions::parse(&pairs(&[("tailLines", "x")]), now).is_err());
        assert!(LogOptions::parse(&pairs(&[("sinceTime", "x")]), now).is_err());
    }

    #[test]
    fn records() {
        assert_eq!(parse_line("t stdout F a b\n").map(|line| (line.partial, line.text)), Some((false, "a b")));
        assert_eq!(parse_line("t stderr P:x a").map(|line| line.partial), Some(true));
        assert_eq!(parse_line("t stdout F").map(|line| line.text), Some(""));
        assert_eq!(parse_line("nonsense"), None);
    }

    #[test]
    fn the_oldest_go() {
        let folder = tempfile::tempdir().expect("folder");
        let log = folder.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3", "1.log.0"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        assert_eq!(surplus(&log, 2), [folder.path().join("0.log.1")]);
    }
}
