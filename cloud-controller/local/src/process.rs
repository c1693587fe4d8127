//! Naming a process so that a reused number is never mistaken for it: number, start time and boot.

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

/// A process for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    start: u64,
    boot: String,
}

impl ProcessId {
    /// The process that has this number at this moment.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start: stat(pid)?.1, boot: boot_id() })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot == boot_id() && stat(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z')
    }

    /// Sends a signal if it still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            // It may end in between; then there is nothing to signal.
            let _ = kill_process(pid, signal);
        }
    }

    /// Its children.
    pub(crate) fn children(&self) -> Vec<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let text = if self.is_alive() { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        text.split_whitespace().filter_map(|pid| Self::of(pid.parse().ok()?)).collect()
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// State letter and start time in clock ticks since boot.
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(PathBuf::from("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_reused_number_is_not_it() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { start: me.start + 1, ..me.clone() }.is_alive());
        assert!(!ProcessId { boot: "before".to_owned(), ..me }.is_alive());
    }
}
