//! Servers as processes: started, measured from outside, ended.

use anyhow::Context;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// `/proc/PID/stat` counts in these units, which Linux fixes at 100 a second for programs.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fields of `/proc/PID/stat` after the name: user and system time.
const USER_FIELD: usize = 11;
const SYSTEM_FIELD: usize = 12;
/// Lines of a log that an error shows.
const LOG_TAIL: usize = 8;

/// CPU seconds (user and system) and resident megabytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: f64,
    pub(crate) resident: f64,
}

/// What a process has used so far, and holds.
pub(crate) fn usage(pid: i32) -> Usage {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    Usage {
        cpu: cpu_seconds(&read("stat")).unwrap_or(0.0),
        resident: resident_megabytes(&read("status")).unwrap_or(0.0),
    }
}

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Fails, with the end of its log, when the process is no more.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        anyhow::bail!("ended with {status}:\n{}", lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n"))
    }

    /// What it has used so far, and holds.
    pub(crate) fn usage(&self) -> Usage {
        i32::try_from(self.child.id()).map(usage).unwrap_or_default()
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("wait")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already, or about to be.
        let _ = self.kill();
    }
}

/// CPU seconds that this thread has used so far: what a computation takes, whoever else uses the machine.
pub(crate) fn own_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    cpu_seconds(&stat).unwrap_or(0.0)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(f64::from(ticks(USER_FIELD)?.checked_add(ticks(SYSTEM_FIELD)?)?) / TICKS_PER_SECOND)
}

fn resident_megabytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_read() {
        let stat = "77 (a) b) S 1 77 77 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 4 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(resident_megabytes("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2.0));
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(Command::new("sleep").arg("60"), &folder.path().join("log")).unwrap();
        process.check().unwrap();
        assert!(process.usage().resident > 0.0);
        process.kill().unwrap();
        let error = process.check().unwrap_err().to_string();
        assert!(error.contains("signal"), "{error}");
    }
}
