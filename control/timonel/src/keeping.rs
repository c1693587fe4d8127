//! `cluster backup`, `cluster restore`, `store ...`: what is kept, as bytes.

use crate::{
    cli::{FleetArgs, KeepingArgs, KeepingVerb},
    client, config,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use kube::client::ConfigExt;
use std::{io, os::unix::fs::OpenOptionsExt, path::Path};
use timonel_store::{ArchivePart, ArchiveReader};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncWriteExt},
};

/// Only the owner may read a backup.
const OWNER_ONLY: u32 = 0o600;
/// Read at once.
const PIECE_BYTES: usize = 256 << 10;

/// `timonel store ...`
pub(crate) async fn run(args: KeepingArgs) -> anyhow::Result<()> {
    let data = config::data(&args.data);
    let (path, body) = match &args.verb {
        KeepingVerb::Migrate { to, to_overrides } => {
            let asked = serde_json::json!({"to": to, "overrides": to_overrides});
            ("store/migrate", asked.to_string().into_bytes())
        }
        KeepingVerb::Rewrite => ("store/rewrite", Vec::new()),
    };
    let done = ask(&data, Request::post(uri(path)).body(Full::from(body))?).await?;
    let done: serde_json::Value = serde_json::from_slice(&done.into_body().collect().await?.to_bytes())?;
    match args.verb {
        KeepingVerb::Migrate { to, to_overrides } => {
            let apart: String = to_overrides.iter().map(|one| format!(" --store-overrides '{one}'")).collect();
            println!("{} keys copied and compared; start the server with --store {to}{apart}", done["keys"]);
        }
        KeepingVerb::Rewrite => println!("{} of {} objects sealed anew", done["rewritten"], done["objects"]),
    }
    Ok(())
}

/// `timonel cluster backup ...`
pub(crate) async fn backup(args: &FleetArgs, name: &str, path: &Path) -> anyhow::Result<()> {
    let mut how = std::fs::OpenOptions::new();
    how.write(true).create_new(true).mode(OWNER_ONLY);
    let mut file = fs::OpenOptions::from(how).open(path).await.with_context(|| path.display().to_string())?;
    let taken = receive(args, name, &mut file).await;
    match taken {
        Ok(records) => println!("{records} keys of cluster {name:?} in {}", path.display()),
        // Half a backup must not be taken for one.
        Err(_) => fs::remove_file(path).await.with_context(|| path.display().to_string())?,
    }
    taken.map(drop)
}

async fn receive(args: &FleetArgs, name: &str, file: &mut File) -> anyhow::Result<u64> {
    let path = format!("projects/{}/clusters/{name}/backup", args.project);
    let answer = ask(&config::data(&args.data), Request::get(uri(&path)).body(Empty::new())?).await?;
    let (mut body, mut reader, mut count) = (answer.into_body(), ArchiveReader::default(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame?.into_data() else { continue };
        file.write_all(&piece).await?;
        reader.feed(&piece);
        while let Some(part) = reader.part()? {
            if let ArchivePart::End { records } = part {
                count = records;
            }
        }
    }
    reader.finish()?;
    file.sync_all().await?;
    Ok(count)
}

/// `timonel cluster restore ...`
pub(crate) async fn restore(args: &FleetArgs, name: &str, path: &Path, keep_keys: bool) -> anyhow::Result<()> {
    let file = File::open(path).await.with_context(|| path.display().to_string())?;
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, io::Error>((read > 0).then_some((piece, file)))
    });
    let body = StreamBody::new(Box::pin(pieces.map_ok(|piece| Frame::data(Bytes::from(piece)))));
    let query = if keep_keys { "?keepKeys=true" } else { "" };
    let path = format!("projects/{}/clusters/{name}/restore{query}", args.project);
    let done = ask(&config::data(&args.data), Request::post(uri(&path)).body(body)?).await?;
    let done: serde_json::Value = serde_json::from_slice(&done.into_body().collect().await?.to_bytes())?;
    println!("cluster {name:?} restored: {} keys", done["keys"]);
    Ok(())
}

fn uri(path: &str) -> String {
    format!("/timonel/v1/{path}")
}

/// Asks the service, for as long as it takes.
async fn ask<B>(data: &Path, mut request: Request<B>) -> anyhow::Result<Response<Incoming>>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let config = client::config(data, client::FLEET).await?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let server = config.cluster_url.to_string();
    *request.uri_mut() = format!("{}{path}", server.trim_end_matches('/')).parse().context("address of the service")?;
    let connector = config.rustls_https_connector()?;
    let answer = legacy::Client::builder(TokioExecutor::new()).build(connector).request(request).await?;
    if !answer.status().is_success() {
        let why = answer.into_body().collect().await?.to_bytes();
        bail!("{}", String::from_utf8_lossy(&why).trim());
    }
    Ok(answer)
}
