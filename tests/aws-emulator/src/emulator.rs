//! A running emulator: its ports, its tasks, its clock.

use crate::account::Account;
use crate::config::Config;
use crate::health::Prober;
use crate::http;
use crate::iam::PolicyError;
use crate::identity::IdentityError;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use timonel_runtime::{Clock, OnError, Tasks};
use tokio::net::TcpListener;

/// How often the model is told the time, so that what is due happens without a call.
const TICK: Duration = Duration::from_millis(50);
/// The most checks of targets under way at a time.
const MAX_PROBES: usize = 64;

/// Why an emulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A policy in the configuration.
    #[error("reading the configuration")]
    Policy(#[from] PolicyError),
    /// The key of identity documents.
    #[error("making the key of identity documents")]
    Identity(#[from] IdentityError),
    /// A port.
    #[error("listening on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running emulator. It ends with the scope of tasks that it was started in.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// The account, for tests in the same process.
    pub account: Arc<Mutex<Account>>,
    /// Where the API answers.
    pub api: SocketAddr,
    /// Where the admin API and the metadata service of every instance answer.
    pub admin: SocketAddr,
    time: crate::admin::Time,
    tasks: Tasks,
}

impl Emulator {
    /// Starts to listen; port 0 takes a free one. With a `prober`, targets are checked for real.
    ///
    /// # Errors
    /// When the configuration cannot be read or a port not be had.
    pub async fn start(
        config: Config,
        api: SocketAddr,
        admin: SocketAddr,
        prober: Option<Arc<dyn Prober>>,
        (clock, tasks): (Clock, Tasks),
    ) -> Result<Self, StartError> {
        let config = Config { probe_outside: prober.is_some(), ..config };
        let offset = Arc::new(Mutex::new(SignedDuration::ZERO));
        let mut model = Account::new(config, clock.now())?;
        model.sign_identities()?;
        let account = Arc::new(Mutex::new(model));
        let (listener, api) = listen(api).await?;
        let (admin_listener, admin) = listen(admin).await?;
        let shifted = crate::admin::Time { clock: clock.clone(), offset };
        let (model, time) = (account.clone(), shifted.clone());
        let serve = move |taken| http::api(model.clone(), time.clone(), taken);
        tasks.spawn(
            "api",
            OnError::EndScope,
            http::accept(listener, tasks.clone(), ("api connection", || None), serve),
        );
        let (model, time) = (account.clone(), shifted.clone());
        let serve = move |taken| crate::admin::serve(model.clone(), time.clone(), taken);
        tasks.spawn(
            "admin",
            OnError::EndScope,
            http::accept(admin_listener, tasks.clone(), ("admin connection", || None), serve),
        );
        tasks.spawn("time", OnError::EndScope, tick(account.clone(), shifted.clone(), prober, tasks.clone()));
        Ok(Self { account, api, admin, time: shifted, tasks })
    }

    /// The emulator's time, which scripts may have put forward.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// Serves the metadata service of one instance on `listener`, as if at its link-local address: whoever connects is
    /// taken for the instance, and answers live no more hops than its options say.
    pub fn serve_metadata(&self, region: &str, instance: &str, listener: TcpListener) {
        let who = (region.to_owned(), instance.to_owned());
        let (model, time, of) = (self.account.clone(), self.time.clone(), who.clone());
        let serve = move |taken| http::metadata(model.clone(), time.clone(), of.clone(), taken);
        let account = self.account.clone();
        let hops = move || account.lock().metadata_hops(&who.0, &who.1);
        let accept = http::accept(listener, self.tasks.clone(), ("metadata connection", hops), serve);
        self.tasks.spawn("metadata", OnError::Log, accept);
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Tells the model the time, and has due checks made.
async fn tick(
    account: Arc<Mutex<Account>>,
    time: crate::admin::Time,
    prober: Option<Arc<dyn Prober>>,
    tasks: Tasks,
) -> Result<(), std::convert::Infallible> {
    let room = Arc::new(tokio::sync::Semaphore::new(MAX_PROBES));
    let mut every = tokio::time::interval(TICK);
    loop {
        every.tick().await;
        account.lock().advance(time.now());
        let Some(prober) = &prober else { continue };
        while let Ok(place) = room.clone().try_acquire_owned() {
            let Some((region, probe)) = account.lock().next_probe() else { break };
            let (prober, account, time) = (prober.clone(), account.clone(), time.clone());
            tasks.spawn("probe", OnError::Log, async move {
                let finding = prober.probe(&probe).await;
                account.lock().found(&region, &probe, finding, time.now());
                drop(place);
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }
}
