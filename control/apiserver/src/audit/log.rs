//! The log backend: a file of JSON lines that is put aside when it gets large, and forgotten when it gets old.

use super::{
    event::alone,
    queue::{Batch, Queue},
};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::counter::Counter;
use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use timonel_runtime::Clock;
use tokio::{fs, io::AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Events written at once.
const BATCH: Batch = Batch { events: 512, bytes: 4 << 20, linger: Duration::ZERO };
/// Size at which a file is put aside where the user does not say.
const DEFAULT_MEGABYTES: u32 = 100;
/// Files put aside that are looked at.
const MAX_LISTED: usize = 10_000;
/// Owner may read and write, nobody else.
const MODE: u32 = 0o600;
/// How the time stands in the name of a file that was put aside.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Where the log goes, and how much of it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditLog {
    /// The file.
    pub path: PathBuf,
    /// Days that files put aside are kept; 0 keeps them.
    pub max_age_days: u32,
    /// Files put aside that are kept; 0 keeps all.
    pub max_backups: u32,
    /// Megabytes at which a file is put aside; 0 is upstream's 100.
    pub max_size_mb: u32,
}

/// The open file.
pub(super) struct LogFile {
    options: AuditLog,
    clock: Clock,
    open: Option<(fs::File, u64)>,
}

impl LogFile {
    pub(super) fn new(options: AuditLog, clock: Clock) -> Self {
        Self { options, clock, open: None }
    }

    /// Writes what comes until `stop`, then what is left. A batch that cannot be written is lost and counted.
    pub(super) async fn run(mut self, queue: Arc<Queue>, stop: CancellationToken, lost: Counter) {
        loop {
            let batch = queue.take(BATCH, &stop).await;
            if batch.is_empty() {
                return;
            }
            if let Err(error) = self.write(&batch).await {
                lost.inc_by(batch.len() as u64);
                self.open = None;
                tracing::error!(path = %self.options.path.display(), events = batch.len(), %error, "audit log not written");
            }
        }
    }

    async fn write(&mut self, events: &[Bytes]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(events.iter().map(|event| event.len() + 64).sum());
        for event in events {
            alone(event).for_each(|part| lines.extend_from_slice(part));
            lines.push(b'\n');
        }
        let megabytes = if self.options.max_size_mb == 0 { DEFAULT_MEGABYTES } else { self.options.max_size_mb };
        let limit = u64::from(megabytes) << 20;
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => open(&self.options.path).await?,
        };
        if size > 0 && size + lines.len() as u64 > limit {
            drop(file);
            self.put_aside().await?;
            (file, size) = open(&self.options.path).await?;
        }
        file.write_all(&lines).await?;
        file.flush().await?;
        self.open = Some((file, size + lines.len() as u64));
        Ok(())
    }

    /// Renames the file after the time and forgets what is too old or too much.
    async fn put_aside(&self) -> io::Result<()> {
        let now = self.clock.now();
        let Some(aside) = aside(&self.options.path, now) else { return Ok(()) };
        fs::rename(&self.options.path, aside).await?;
        for path in expired(&self.list().await?, &self.options, now) {
            fs::remove_file(path).await?;
        }
        Ok(())
    }

    async fn list(&self) -> io::Result<Vec<PathBuf>> {
        let folder = self.options.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut entries = fs::read_dir(folder.unwrap_or(Path::new("."))).await?;
        let mut paths = Vec::new();
        while let Some(entry) = entries.next_entry().await? {
            paths.push(entry.path());
            if paths.len() >= MAX_LISTED {
                break;
            }
        }
        Ok(paths)
    }
}

async fn open(path: &Path) -> io::Result<(fs::File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).await?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(MODE);
    let file = fs::OpenOptions::from(options).open(path).await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}

/// What a file's name starts and ends with.
fn halves(path: &Path) -> Option<(String, String)> {
    let stem = path.file_stem()?.to_str()?;
    let extension = path.extension().and_then(|extension| extension.to_str());
    Some((format!("{stem}-"), extension.map_or_else(String::new, |extension| format!(".{extension}"))))
}

/// The name under which a file is put aside; pure.
fn aside(path: &Path, now: Timestamp) -> Option<PathBuf> {
    let (start, end) = halves(path)?;
    Some(path.with_file_name(format!("{start}{}{end}", now.strftime(STAMP))))
}

/// When a file was put aside, if its name says so; pure.
fn put_aside_at(name: &str, (start, end): &(String, String)) -> Option<Timestamp> {
    let stamp = name.strip_prefix(start.as_str())?.strip_suffix(end.as_str())?;
    jiff::civil::DateTime::strptime(STAMP, stamp).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// Files put aside that are not to be kept; pure.
fn expired(paths: &[PathBuf], options: &AuditLog, now: Timestamp) -> Vec<PathBuf> {
    let Some(halves) = halves(&options.path) else { return Vec::new() };
    let stamped = |path: &PathBuf| {
        let at = put_aside_at(path.file_name()?.to_str()?, &halves)?;
        Some((at, path.clone()))
    };
    let mut aside: Vec<(Timestamp, PathBuf)> = paths.iter().filter_map(stamped).collect();
    aside.sort();
    aside.reverse();
    let keep = if options.max_backups == 0 { usize::MAX } else { options.max_backups as usize };
    let age = SignedDuration::from_hours(24 * i64::from(options.max_age_days));
    let too_old = |at: Timestamp| options.max_age_days > 0 && now.duration_since(at) > age;
    let gone = aside.into_iter().enumerate().filter(|(place, (at, _))| *place >= keep || too_old(*at));
    gone.map(|(_, (_, path))| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{event::Event, policy::Stage};

    #[test]
    fn files_are_put_aside_under_their_time_and_forgotten() {
        let now: Timestamp = "2026-11-21T12:00:00.25Z".parse().unwrap();
        let path = PathBuf::from("/var/log/audit.log");
        assert_eq!(aside(&path, now).unwrap(), PathBuf::from("/var/log/audit-2026-11-21T12-00-00.250.log"));
        let days: Vec<PathBuf> = [1, 2, 5, 9]
            .iter()
            .map(|day| aside(&path, now - SignedDuration::from_hours(24 * day)).unwrap())
            .chain(["/var/log/audit.log".into(), "/var/log/audit-x.log".into(), "/var/log/other".into()])
            .collect();
        for (max_age_days, max_backups, gone) in [(0, 0, 0), (4, 0, 2), (0, 3, 1), (8, 1, 3)] {
            let options = AuditLog { path: path.clone(), max_age_days, max_backups, max_size_mb: 1 };
            assert_eq!(expired(&days, &options, now), days[4 - gone..4], "{max_age_days} {max_backups}");
        }
    }

    #[tokio::test]
    async fn a_large_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/audit.log");
        let clock = Clock::simulated("2026-11-21T12:00:00Z".parse().unwrap());
        let options = AuditLog { path: path.clone(), max_age_days: 0, max_backups: 1, max_size_mb: 1 };
        let (queue, stop, lost) = (Arc::new(Queue::default()), CancellationToken::new(), Counter::default());
        let event = Event { user_agent: "x".repeat(700 << 10), ..Event::default() };
        let mut file = LogFile::new(options.clone(), clock.clone());
        for _ in 0..2 {
            let bytes = event.encode(Stage::ResponseComplete, clock.now());
            file.write(&[bytes.into()]).await.unwrap();
        }
        let left = std::fs::read(&path).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&left).unwrap();
        assert_eq!((line["kind"].as_str(), left.last()), (Some("Event"), Some(&b'\n')));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
        // A folder where the file should be: events are lost and counted, and the task goes on.
        let bad = AuditLog { path: folder.path().to_owned(), ..options };
        queue.push(Bytes::from_static(b"{}"));
        stop.cancel();
        LogFile::new(bad, clock).run(queue, stop, lost.clone()).await;
        assert_eq!(lost.get(), 1);
    }
}
