//! Running `ip`, `nft` and the like: bounded in time, with what they said in the error.

use crate::error::LocalError;
use std::{process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// No command of ours takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a command with `input` and returns what it printed.
pub(crate) async fn run(command: &[&str], input: &str) -> Result<String, LocalError> {
    let failed = |message: String| LocalError::Command { command: command.join(" "), message };
    let (program, arguments) = command.split_first().ok_or_else(|| failed("no program".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            // A command that ends before it has read everything says why by itself.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(TIMEOUT, talk).await.map_err(|_| failed("took too long".to_owned()))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
    }
}

/// `ip -batch` in a namespace, or on the host for `None`.
pub(crate) async fn ip(namespace: Option<&str>, lines: &str) -> Result<(), LocalError> {
    let result = match namespace {
        Some(name) => run(&["ip", "-n", name, "-batch", "-"], lines).await,
        None => run(&["ip", "-batch", "-"], lines).await,
    };
    result.map(drop)
}

/// `nft -f -` in a namespace, or on the host for `None`.
pub(crate) async fn nft(namespace: Option<&str>, rules: &str) -> Result<(), LocalError> {
    let result = match namespace {
        Some(name) => {
            let net = format!("--net=/run/netns/{name}");
            run(&["nsenter", &net, "nft", "-f", "-"], rules).await
        }
        None => run(&["nft", "-f", "-"], rules).await,
    };
    result.map(drop)
}
