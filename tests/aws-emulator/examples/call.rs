//! One signed call to an endpoint without TLS, for trying things out: `call ADDRESS SERVICE VERSION REGION FORM`, the
//! key and its secret in `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Prints status and body.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use timonel_aws_emulator::{Credentials, Request, sign};
use timonel_runtime::{Clock, OnError, Tasks};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, service, version, region, form] = &arguments[..] else {
        anyhow::bail!("call ADDRESS SERVICE VERSION REGION FORM");
    };
    let credentials = Credentials {
        access_key: std::env::var("AWS_ACCESS_KEY_ID").context("AWS_ACCESS_KEY_ID")?,
        secret_key: std::env::var("AWS_SECRET_ACCESS_KEY").context("AWS_SECRET_ACCESS_KEY")?,
        session_token: std::env::var("AWS_SESSION_TOKEN").ok(),
    };
    let content = "application/x-www-form-urlencoded; charset=utf-8".to_owned();
    let mut request = Request {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        headers: vec![("host".to_owned(), address.clone()), ("content-type".to_owned(), content)],
        body: format!("{form}&Version={version}").into_bytes(),
        ..Request::default()
    };
    sign(&mut request, &credentials, region, service, Clock::system().now());
    let stream = tokio::net::TcpStream::connect(address).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let tasks = Tasks::root("call");
    tasks.spawn("connection", OnError::Log, connection);
    let mut built = http::Request::builder().method("POST").uri("/");
    for (name, value) in request.headers {
        built = built.header(name, value);
    }
    let response = client.send_request(built.body(Full::new(Bytes::from(request.body)))?).await?;
    println!("{}", response.status());
    println!("{}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    Ok(())
}
