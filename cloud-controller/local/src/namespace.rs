//! Doing something inside a network namespace: on a thread of its own, which ends with it, so that no other work ever
//! finds itself in the wrong network.

use crate::{config::namespace_path, error::LocalError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{fs::File, io, os::fd::AsFd, thread};

/// Runs `work` (short, and blocking at most briefly) inside the network namespace. Sockets made there stay there.
pub(crate) fn inside<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, LocalError> {
    let path = namespace_path(name);
    let enter = || -> io::Result<T> {
        let file = File::open(&path)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    let result = thread::scope(|scope| {
        let thread = thread::Builder::new().name("tm-netns".to_owned()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    });
    result.map_err(LocalError::io("working inside a network namespace", path))
}

/// Sets kernel parameters of a namespace: (path below `/proc/sys/net`, value).
pub(crate) fn sysctl(name: &str, values: &[(&str, &str)]) -> Result<(), LocalError> {
    inside(name, || {
        for (key, value) in values {
            std::fs::write(format!("/proc/sys/net/{key}"), value)?;
        }
        Ok(())
    })
}
