//! The emulator over real sockets, by a client that signs.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use timonel_aws_emulator::{Config, Credentials, Emulator, Request, sign};
use timonel_runtime::{Clock, Tasks};

const REGION: &str = "eu-central-1";
const EC2: (&str, &str) = ("ec2", "2016-11-15");
const STS: (&str, &str) = ("sts", "2011-06-15");

struct Running {
    emulator: Emulator,
    _tasks: Tasks,
}

async fn start(config: Config) -> Running {
    let tasks = Tasks::root("test");
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let emulator = Emulator::start(config, any, any, None, (Clock::system(), tasks.clone())).await.unwrap();
    Running { emulator, _tasks: tasks }
}

fn admin() -> Credentials {
    Credentials {
        access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
        session_token: None,
    }
}

/// Sends a request; status, headers and body, or why there was no answer.
async fn send(to: SocketAddr, request: Request) -> Result<(u16, http::HeaderMap, String), hyper::Error> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let path = if request.query.is_empty() { request.path } else { format!("{}?{}", request.path, request.query) };
        let mut built = http::Request::builder().method(request.method.as_str()).uri(path);
        for (name, value) in request.headers {
            built = built.header(name, value);
        }
        let response = client.send_request(built.body(Full::new(Bytes::from(request.body))).unwrap()).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await?.to_bytes();
        drop(client);
        Ok((status, headers, String::from_utf8_lossy(&body).into_owned()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

/// A signed call.
async fn call(running: &Running, who: &Credentials, service: (&str, &str), form: &str) -> (u16, String) {
    try_call(running, who, service, form).await.unwrap()
}

async fn try_call(
    running: &Running,
    who: &Credentials,
    (service, version): (&str, &str),
    form: &str,
) -> Result<(u16, String), hyper::Error> {
    let mut request = Request {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        query: String::new(),
        headers: vec![
            ("host".to_owned(), running.emulator.api.to_string()),
            ("content-type".to_owned(), "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
        ],
        body: format!("{form}&Version={version}").into_bytes(),
    };
    sign(&mut request, who, REGION, service, Clock::system().now());
    let (status, _, body) = send(running.emulator.api, request).await?;
    Ok((status, body))
}

async fn ask(running: &Running, path: &str, body: Value) -> (u16, String) {
    let request = Request {
        method: "POST".to_owned(),
        path: path.to_owned(),
        headers: vec![("host".to_owned(), "admin".to_owned())],
        body: body.to_string().into_bytes(),
        ..Request::default()
    };
    let (status, _, body) = send(running.emulator.admin, request).await.unwrap();
    (status, body)
}

async fn get(running: &Running, path: &str, query: &str) -> Value {
    let request = Request {
        method: "GET".to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: vec![("host".to_owned(), "admin".to_owned())],
        ..Request::default()
    };
    let (status, _, body) = send(running.emulator.admin, request).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The text of the first element of a name.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let start = xml.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")).1;
    start.split_once("</").unwrap().0
}

#[tokio::test]
async fn who_signs_is_known_and_who_does_not_is_refused() {
    let running = start(Config::default()).await;
    let (status, body) = call(&running, &admin(), STS, "Action=GetCallerIdentity").await;
    assert_eq!((status, element(&body, "Arn")), (200, "arn:aws:iam::123456789012:user/admin"));
    let wrong = Credentials { secret_key: "guess".to_owned(), ..admin() };
    let (status, body) = call(&running, &wrong, STS, "Action=GetCallerIdentity").await;
    assert_eq!((status, element(&body, "Code")), (403, "SignatureDoesNotMatch"));
    let (status, body) = call(&running, &wrong, EC2, "Action=DescribeInstances").await;
    assert_eq!((status, element(&body, "Code")), (401, "AuthFailure"));
}

#[tokio::test]
async fn an_instance_runs_and_the_ledger_tells() {
    let running = start(Config::default()).await;
    let (_, images) = call(&running, &admin(), EC2, "Action=DescribeImages").await;
    let image = element(&images, "imageId").to_owned();
    let form = format!("Action=RunInstances&ImageId={image}&InstanceType=m5.large&MinCount=1&MaxCount=1");
    let (_, images) = call(&running, &admin(), EC2, &format!("Action=DescribeImages&ImageId.1={image}")).await;
    let form = if element(&images, "architecture") == "arm64" { form.replace("m5.", "m6g.") } else { form };
    let (status, body) = call(&running, &admin(), EC2, &form).await;
    assert_eq!(status, 200, "{body}");
    let id = element(&body, "instanceId").to_owned();
    ask(&running, "/advance", json!({"milliseconds": 3000})).await;
    let form = format!("Action=DescribeInstances&InstanceId.1={id}");
    let (_, body) = call(&running, &admin(), EC2, &form).await;
    assert!(body.contains("<name>running</name>"), "{body}");
    let calls = get(&running, "/calls", "after=2&limit=1").await;
    assert_eq!(calls["calls"][0]["action"], "RunInstances");
    assert_eq!(calls["calls"][0]["outcome"], "ok");
    assert_eq!(get(&running, "/counts", "").await["calls"], 4);
}

#[tokio::test]
async fn a_scripted_connection_ends_after_the_effect() {
    let running = start(Config::default()).await;
    let rule = json!({"rule": {"name": "lost", "action": "CreateVpc", "times": 1, "effect": {"do": "drop-after"}}});
    assert_eq!(ask(&running, "/fault", rule).await.0, 200);
    let form = "Action=CreateVpc&CidrBlock=10.0.0.0/16";
    assert!(try_call(&running, &admin(), EC2, form).await.is_err());
    let (_, body) = call(&running, &admin(), EC2, "Action=DescribeVpcs").await;
    assert!(body.contains("10.0.0.0/16"), "the call took effect: {body}");
    let calls = get(&running, "/calls", "").await;
    assert_eq!(calls["calls"][0]["fault"], "lost");
    assert_eq!(calls["calls"][0]["took_effect"], true);
}

#[tokio::test]
async fn the_admin_api_refuses_what_it_does_not_know() {
    let running = start(Config::default()).await;
    for (path, body) in [
        ("/rain", json!({})),
        ("/advance", json!({"milliseconds": 1, "colour": "red"})),
        ("/capacity", json!({"region": "nowhere", "kind": "m5.large", "zone": "a", "left": 1})),
        ("/quotas", json!({"set": {"unicorns": 1}})),
        ("/interrupt", json!({"region": REGION, "instance": "i-0123456789abcdef0"})),
    ] {
        assert_eq!(ask(&running, path, body).await.0, 400, "{path}");
    }
    assert_eq!(ask(&running, "/quotas", json!({"set": {"vpcs": 1}})).await.0, 200);
    let (status, body) = call(&running, &admin(), EC2, "Action=CreateVpc&CidrBlock=10.0.0.0/16").await;
    assert_eq!((status, element(&body, "Code")), (400, "VpcLimitExceeded"));
}

#[tokio::test]
async fn an_instance_finds_itself_at_its_metadata_address() {
    let running = start(Config::default()).await;
    let (_, images) =
        call(&running, &admin(), EC2, "Action=DescribeImages&Filter.1.Name=architecture&Filter.1.Value.1=x86_64").await;
    let image = element(&images, "imageId");
    let form = format!(
        "Action=RunInstances&ImageId={image}&MinCount=1&MaxCount=1&MetadataOptions.HttpTokens=required&\
         MetadataOptions.HttpPutResponseHopLimit=2"
    );
    let id = element(&call(&running, &admin(), EC2, &form).await.1, "instanceId").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    running.emulator.serve_metadata(REGION, &id, listener);
    let ask = |method: &str, path: &str, header: (&str, &str)| Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: vec![("host".to_owned(), "169.254.169.254".to_owned()), (header.0.to_owned(), header.1.to_owned())],
        ..Request::default()
    };
    let put = ask("PUT", "/latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", "60"));
    let (status, headers, token) = send(address, put).await.unwrap();
    assert_eq!((status, &headers["x-aws-ec2-metadata-token-ttl-seconds"]), (200, &http::HeaderValue::from(60)));
    let path = "/latest/meta-data/instance-id";
    let get = ask("GET", path, ("x-aws-ec2-metadata-token", &token));
    assert_eq!(send(address, get).await.unwrap().2, id);
    assert_eq!(send(address, ask("GET", path, ("accept", "*/*"))).await.unwrap().0, 401);
    let signature = ask("GET", "/latest/dynamic/instance-identity/signature", ("x-aws-ec2-metadata-token", &token));
    let (status, _, signature) = send(address, signature).await.unwrap();
    assert_eq!((status, signature.replace('\n', "").len()), (200, 344), "RSA of 2,048 bits in base64");
}
