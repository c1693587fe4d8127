//! The emulator as a program, for tests in other languages and for trying things out.

use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use timonel_aws_emulator::{Config, Emulator};
use timonel_runtime::{Clock, Tasks};

/// A strict emulator of EC2, load balancing and STS.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the API answers.
    #[arg(long, default_value = "127.0.0.1:4566")]
    api: SocketAddr,
    /// Where the admin API and the metadata service answer.
    #[arg(long, default_value = "127.0.0.1:4567")]
    admin: SocketAddr,
    /// The configuration, JSON.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Prints the tables of actions as JSON and ends.
    #[arg(long)]
    tables: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.tables {
        println!("{}", timonel_aws_emulator::tables());
        return Ok(());
    }
    let config = match &arguments.config {
        Some(path) => serde_json::from_slice(&tokio::fs::read(path).await?)?,
        None => Config::default(),
    };
    let tasks = Tasks::root("aws-emulator");
    let running =
        Emulator::start(config, arguments.api, arguments.admin, None, (Clock::system(), tasks.clone())).await?;
    println!("api {} admin {}", running.api, running.admin);
    tokio::signal::ctrl_c().await?;
    tasks.shutdown(std::time::Duration::from_secs(5)).await;
    Ok(())
}
