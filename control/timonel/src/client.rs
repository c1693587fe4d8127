//! The fleet's API from outside: the administrator's kubeconfig, and waiting.

use anyhow::Context;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{future::Future, path::Path, process::ExitCode, time::Duration};
use tokio::time::Instant;

/// The fleet's context.
pub(crate) const FLEET: &str = "timonel";
/// Between two looks while waiting.
const LOOK: Duration = Duration::from_millis(150);

/// An ending with an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ending {
    #[error("{0} not found")]
    NotFound(String),
    #[error("{0}")]
    Stopped(String),
    #[error("timed out after {seconds} s while waiting for {what}")]
    TimedOut { what: String, seconds: u64 },
}

impl Ending {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotFound(_) => ExitCode::from(3),
            Self::Stopped(_) => ExitCode::FAILURE,
            Self::TimedOut { .. } => ExitCode::from(4),
        }
    }
}

/// A client for a context of the kubeconfig in `data`.
pub(crate) async fn connect(data: &Path, context: &str) -> anyhow::Result<Client> {
    Client::try_from(config(data, context).await?).context("client")
}

/// How the kubeconfig in `data` reaches a context.
pub(crate) async fn config(data: &Path, context: &str) -> anyhow::Result<kube::Config> {
    let path = data.join("kubeconfig");
    let file = Kubeconfig::read_from(&path)
        .with_context(|| format!("{}: is the service running with this data directory?", path.display()))?;
    let options = KubeConfigOptions { context: Some(context.to_owned()), ..KubeConfigOptions::default() };
    kube::Config::from_custom_kubeconfig(file, &options)
        .await
        .with_context(|| format!("context {context} in {}", path.display()))
}

/// A client of the fleet.
pub(crate) async fn fleet(data: &Path) -> anyhow::Result<Client> {
    connect(data, FLEET).await
}

/// Looks until `look` says that it is so (`Ok(Some)`), or the time is over. What it says meanwhile is shown by `note`.
pub(crate) async fn wait<T, F>(
    what: &str,
    seconds: u64,
    mut note: impl FnMut(String),
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Result<T, String>>>,
{
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let last = match look().await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(state)) => {
                note(state.clone());
                state
            }
            // What will not get better is not waited for.
            Err(error) if error.is::<Ending>() => return Err(error),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() > end {
            let ending = Ending::TimedOut { what: what.to_owned(), seconds };
            return Err(anyhow::Error::new(ending).context(format!("last seen: {last}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
