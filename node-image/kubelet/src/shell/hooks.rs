//! Acts of probes and lifecycle hooks: run a command in a container, ask over HTTP, TCP or gRPC. Never decides what
//! a result means.

use super::runtime::Runtime;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, ExecAction, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Most of an answer that is read and shown.
const BODY_LIMIT: usize = 10 << 10;

/// What came of an act: success or not, and what to tell.
pub(crate) type Outcome = Result<String, String>;

/// Where and how acts happen.
#[derive(Clone, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) container_id: &'a str,
    pub(crate) container: &'a Container,
    pub(crate) pod_ip: &'a str,
    pub(crate) user_agent: &'a str,
}

/// The number of a port given by number or name.
pub(crate) fn port(container: &Container, wanted: &IntOrString) -> Option<u16> {
    match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.and_then(|port| u16::try_from(port.container_port).ok()).or_else(|| name.parse().ok())
        }
    }
}

impl Target<'_> {
    fn port(&self, wanted: &IntOrString) -> Result<u16, String> {
        port(self.container, wanted).ok_or_else(|| format!("invalid port {wanted:?}"))
    }

    pub(crate) async fn exec(&self, action: &ExecAction, limit: Duration) -> Outcome {
        let command = action.command.clone().unwrap_or_default();
        match self.runtime.exec_sync(self.container_id, command, limit).await {
            Ok(answer) => {
                let mut text = String::from_utf8_lossy(&answer.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&answer.stderr));
                text.truncate(text.floor_char_boundary(BODY_LIMIT));
                if answer.exit_code == 0 { Ok(text) } else { Err(text) }
            }
            Err(error) => Err(error.to_string()),
        }
    }

    pub(crate) async fn http(&self, action: &HTTPGetAction, limit: Duration) -> Outcome {
        let port = self.port(&action.port)?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(self.pod_ip);
        let path = action.path.as_deref().unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let secure = action.scheme.as_deref() == Some("HTTPS");
        let mut request = http::Request::get(&path).header("connection", "close");
        let headers = action.http_headers.as_deref().unwrap_or_default();
        let given = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
        let shown_host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        for (name, value) in [
            ("host", format!("{shown_host}:{port}")),
            ("user-agent", self.user_agent.to_owned()),
            ("accept", "*/*".to_owned()),
        ] {
            if !given(name) {
                request = request.header(name, value);
            }
        }
        for header in
            headers.iter().filter(|header| !header.value.is_empty() || !given("accept") || header.name != "Accept")
        {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let scheme = if secure { "https" } else { "http" };
        let url = format!("{scheme}://{shown_host}:{port}{path}");
        match tokio::time::timeout(limit, fetch(host, port, secure, request)).await {
            Ok(Ok((code, _))) if (200..400).contains(&code) => Ok(code.to_string()),
            Ok(Ok((code, _))) => Err(format!("HTTP probe failed with statuscode: {code}")),
            Ok(Err(error)) => Err(format!("Get {url:?}: {error}")),
            Err(_) => {
                Err(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
            }
        }
    }

    pub(crate) async fn tcp(&self, action: &TCPSocketAction, limit: Duration) -> Outcome {
        let port = self.port(&action.port)?;
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(self.pod_ip);
        match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Ok(String::new()),
            Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
            Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
        }
    }

    pub(crate) async fn grpc(&self, action: &GRPCAction, limit: Duration) -> Outcome {
        use timonel_cri::health::{
            HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        };
        let host = if self.pod_ip.contains(':') { format!("[{}]", self.pod_ip) } else { self.pod_ip.to_owned() };
        let url = format!("http://{host}:{}", action.port);
        let ask = async {
            let endpoint = tonic::transport::Endpoint::from_shared(url).map_err(|error| error.to_string())?;
            let channel = endpoint.connect().await.map_err(|error| format!("failed to connect service: {error}"))?;
            let service = action.service.clone().unwrap_or_default();
            let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
            let status = answer.map_err(|status| status.message().to_owned())?.into_inner().status();
            if status == ServingStatus::Serving {
                return Ok(String::new());
            }
            Err(format!("service unhealthy (responded with {:?})", status.as_str_name()))
        };
        tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err("timeout: health rpc did not complete".into()))
    }
}

/// One request over a connection of its own; gives the status code and the beginning of the body.
async fn fetch(
    host: &str,
    port: u16,
    secure: bool,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, Bytes), String> {
    let stream = TcpStream::connect((host, port)).await.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
    if !secure {
        return exchange(stream, request).await;
    }
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let stream = TRUSTING.connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, request).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, Bytes), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_LIMIT).collect().await;
        Ok((code, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
    };
    tokio::pin!(talk);
    tokio::select! {
        done = &mut talk => done,
        ended = connection => match ended {
            Ok(()) => talk.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

/// Probes ask whether something answers, not who it is: pods serve certificates that nobody signed.
static TRUSTING: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(schemes)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

#[derive(Debug)]
struct AnyCertificate(Vec<rustls::SignatureScheme>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn served(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let port = listener.local_addr().expect("address").port();
        Tasks::root("test").spawn("serve", OnError::Log, async move {
            let (mut stream, _) = listener.accept().await?;
            let mut buffer = [0; 1024];
            let length = stream.read(&mut buffer).await?;
            assert!(String::from_utf8_lossy(&buffer[..length]).starts_with("GET /healthz HTTP/1.1"));
            stream.write_all(answer.as_bytes()).await
        });
        port
    }

    use timonel_runtime::{OnError, Tasks};

    #[tokio::test]
    async fn http_codes_are_verdicts() {
        let channel = timonel_cri::connect_lazy("/nonexistent").expect("channel");
        let runtime = Runtime::new(&channel);
        let container = Container::default();
        let target = Target {
            runtime: &runtime,
            container_id: "",
            container: &container,
            pod_ip: "127.0.0.1",
            user_agent: "kube-probe/1.36",
        };
        for (answer, fine) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n", false),
            ("nonsense", false),
        ] {
            let port = served(answer).await;
            let action = HTTPGetAction {
                path: Some("healthz".into()),
                port: IntOrString::Int(i32::from(port)),
                ..HTTPGetAction::default()
            };
            let outcome = target.http(&action, Duration::from_secs(5)).await;
            assert_eq!(outcome.is_ok(), fine, "{answer}: {outcome:?}");
        }
    }

    #[test]
    fn ports_by_number_or_name() {
        let container: Container =
            serde_json::from_value(serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
                .expect("container");
        for (wanted, expected) in [
            (IntOrString::Int(80), Some(80)),
            (IntOrString::Int(0), None),
            (IntOrString::String("web".into()), Some(8080)),
            (IntOrString::String("81".into()), Some(81)),
            (IntOrString::String("x".into()), None),
        ] {
            assert_eq!(port(&container, &wanted), expected);
        }
    }
}
