//! How many signed calls a second over sockets, with 10,000 instances: prints one line for each kind of call.
#![allow(clippy::unwrap_used, reason = "a measurement")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Instant;
use timonel_aws_emulator::{Config, Credentials, Emulator, Request, sign};
use timonel_runtime::{Clock, Tasks};

const CONNECTIONS: usize = 16;
const CALLS: usize = 100;
const INSTANCES: usize = 10_000;

type Client = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn connect(to: SocketAddr, tasks: &Tasks) -> Client {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn("client", timonel_runtime::OnError::Log, connection);
    client
}

async fn call(client: &mut Client, form: &str) -> String {
    let config = Config::default();
    let credentials = Credentials {
        access_key: config.users[0].access_key.clone(),
        secret_key: config.users[0].secret_key.clone(),
        session_token: None,
    };
    let mut request = Request {
        method: "POST".to_owned(),
        path: "/".to_owned(),
        headers: vec![("host".to_owned(), "load".to_owned())],
        body: format!("{form}&Version=2016-11-15").into_bytes(),
        ..Request::default()
    };
    sign(&mut request, &credentials, "eu-central-1", "ec2", Clock::system().now());
    let mut built = http::Request::builder().method("POST").uri("/");
    for (name, value) in request.headers {
        built = built.header(name, value);
    }
    client.ready().await.unwrap();
    let response = client.send_request(built.body(Full::new(Bytes::from(request.body))).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn first<'a>(xml: &'a str, name: &str) -> &'a str {
    xml.split_once(&format!("<{name}>")).unwrap().1.split_once('<').unwrap().0
}

#[tokio::main]
async fn main() {
    let tasks = Tasks::root("load");
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let emulator = Emulator::start(Config::default(), any, any, None, (Clock::system(), tasks.clone())).await.unwrap();
    let mut client = connect(emulator.api, &tasks).await;
    let vpc = call(&mut client, "Action=CreateVpc&CidrBlock=10.0.0.0/16").await;
    let form = format!("Action=CreateSubnet&VpcId={}&CidrBlock=10.0.0.0/17", first(&vpc, "vpcId"));
    let subnet = call(&mut client, &form).await;
    let filter = "Action=DescribeImages&Filter.1.Name=architecture&Filter.1.Value.1=x86_64";
    let image = call(&mut client, filter).await;
    let (image, subnet) = (first(&image, "imageId"), first(&subnet, "subnetId"));
    let start = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..INSTANCES / 100 {
        let form = format!("Action=RunInstances&ImageId={image}&SubnetId={subnet}&MinCount=100&MaxCount=100");
        ids.push(first(&call(&mut client, &form).await, "instanceId").to_owned());
    }
    println!("run_instances\t{:.0} instances/s", 10_000.0 / start.elapsed().as_secs_f64());
    for (name, form) in [
        ("describe_one", "Action=DescribeInstances&InstanceId.1=ID"),
        ("tag_one", "Action=CreateTags&ResourceId.1=ID&Tag.1.Key=k&Tag.1.Value=v"),
        ("status_one", "Action=DescribeInstanceStatus&InstanceId.1=ID"),
        ("describe_page_of_10", "Action=DescribeInstances&MaxResults=10"),
    ] {
        let (start, cpu) = (Instant::now(), cpu_ticks());
        let work = ids.iter().cycle().take(CONNECTIONS).map(|id| {
            let (form, tasks, to) = (form.replace("ID", id), &tasks, emulator.api);
            async move {
                let mut client = connect(to, tasks).await;
                for _ in 0..CALLS {
                    call(&mut client, &form).await;
                }
            }
        });
        let all: Vec<_> = work.collect();
        join(all).await;
        let count = u32::try_from(CONNECTIONS * CALLS).map_or(0.0, f64::from);
        // A tick is 10 ms; both sides of the call count.
        let each = f64::from(cpu_ticks() - cpu) * 10_000.0 / count;
        println!("{name}\t{:.0} calls/s\t{each:.0} us of CPU each", count / start.elapsed().as_secs_f64());
    }
}

/// Time that this process has spent on processors, in ticks.
fn cpu_ticks() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
}

/// Waits for all, at once.
async fn join<F: Future<Output = ()>>(all: Vec<F>) {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
