//! Health checks for real: a connection, or a request over HTTP.

use crate::health::{Asks, Finding, Probe, Prober, is_expected};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes of an answer's first line.
const MAX_LINE: usize = 1_024;

/// Asks over the machine's own network. HTTPS is checked as a connection only.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetworkProber;

#[async_trait::async_trait]
impl Prober for NetworkProber {
    async fn probe(&self, probe: &Probe) -> Finding {
        tokio::time::timeout(probe.timeout, ask(probe)).await.unwrap_or(Finding::Timeout)
    }
}

async fn ask(probe: &Probe) -> Finding {
    let Ok(mut stream) = TcpStream::connect((probe.address, probe.port)).await else { return Finding::Refused };
    if probe.asks != Asks::Http {
        return Finding::Healthy;
    }
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}:{}\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n",
        probe.path, probe.address, probe.port
    );
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Finding::Refused;
    }
    let mut answer = Vec::new();
    let mut part = [0; MAX_LINE];
    while answer.len() < MAX_LINE && !answer.contains(&b'\n') {
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&part[..read]),
        }
    }
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|it| it.parse().ok());
    match status {
        Some(status) if is_expected(&probe.matcher, status) => Finding::Healthy,
        Some(status) => Finding::Status(status),
        None => Finding::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpListener;

    async fn found(answer: &'static str, asks: Asks) -> Finding {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let probe = Probe {
            group: String::new(),
            target: String::new(),
            address: address.ip(),
            port: address.port(),
            asks,
            path: "/".to_owned(),
            matcher: "200-299".to_owned(),
            timeout: Duration::from_millis(200),
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            let _read = stream.read(&mut request).await.unwrap();
            if !answer.is_empty() {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        };
        tokio::select! {
            finding = NetworkProber.probe(&probe) => finding,
            () = serve => Finding::Refused,
        }
    }

    #[tokio::test]
    async fn answers_are_judged() {
        assert_eq!(found("HTTP/1.1 204 No Content\r\n\r\n", Asks::Http).await, Finding::Healthy);
        assert_eq!(found("HTTP/1.1 503 Sorry\r\n\r\n", Asks::Http).await, Finding::Status(503));
        assert_eq!(found("", Asks::Http).await, Finding::Timeout);
        assert_eq!(found("", Asks::Tcp).await, Finding::Healthy);
    }
}
