//! The certificate that a cluster's API shows to extension API servers: because of it they believe the headers that
//! say who the user of a request is.

use crate::tenant::CERTIFICATE_AGE;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{SignatureScheme, client::ResolvesClientCert, crypto::aws_lc_rs, sign::CertifiedKey};
use std::{error::Error, fmt, sync::Arc};
use timonel_pki::ClusterPki;
use timonel_runtime::Clock;

/// Issues the certificate on first use, and a new one when it gets old.
pub(crate) struct FrontProxy {
    pki: Arc<ClusterPki>,
    clock: Clock,
    current: Mutex<Option<(Timestamp, Arc<CertifiedKey>)>>,
}

impl FrontProxy {
    pub(crate) fn new(pki: Arc<ClusterPki>, clock: Clock) -> Self {
        Self { pki, clock, current: Mutex::default() }
    }

    fn issue(&self, now: Timestamp) -> Result<CertifiedKey, Box<dyn Error + Send + Sync>> {
        let (chain, key) = self.pki.front_proxy_client(now)?.rustls()?;
        Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
    }
}

impl fmt::Debug for FrontProxy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("FrontProxy")
    }
}

impl ResolvesClientCert for FrontProxy {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let now = self.clock.now();
        let mut current = self.current.lock();
        if let Some((made, known)) = &*current
            && now.duration_since(*made) <= CERTIFICATE_AGE
        {
            return Some(known.clone());
        }
        match self.issue(now) {
            Ok(key) => *current = Some((now, Arc::new(key))),
            Err(error) => tracing::error!(%error, "certificate for extension API servers not issued"),
        }
        current.as_ref().map(|(_, known)| known.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_until_it_is_old() {
        let (clock, shift) = Clock::shifted();
        let pki = Arc::new(ClusterPki::create(clock.now()).unwrap());
        let proxy = FrontProxy::new(pki, clock);
        let show = || proxy.resolve(&[], &[]).unwrap();
        let first = show();
        let subject = timonel_pki::subject_of(&first.cert[0]).unwrap();
        assert_eq!(subject.common_name, "front-proxy-client", "the name that extension API servers are told to expect");
        assert!(Arc::ptr_eq(&first, &show()));
        shift.set(CERTIFICATE_AGE * 2);
        assert!(!Arc::ptr_eq(&first, &show()));
    }
}
