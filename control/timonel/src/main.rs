//! `timonel`: the service and its command line.
//!
//! The command line is a client like any other: it speaks to the fleet's API with the administrator's kubeconfig.
//! Exit codes: 0 done, 1 failed, 2 wrong usage (clap's own), 3 not found, 4 timed out while waiting.

mod access;
mod cli;
mod client;
mod commands;
mod config;
mod doctor;
mod keeping;
mod local;
mod output;
mod progress;
mod server;
mod storage;
mod up;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;
use timonel_runtime::{Telemetry, TelemetryConfig};

/// A write makes and drops some hundred small nodes; the C library's allocator took a fifth of its time for them and gave
/// and took its arenas' last pages again and again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        unreachable!("nothing installed a TLS provider before main");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(dispatch(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            error.downcast_ref::<client::Ending>().map_or(ExitCode::FAILURE, client::Ending::exit_code)
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let filter = match (&cli.command, cli.log) {
        (_, Some(filter)) => filter,
        (Command::Server(_), None) => "info".to_owned(),
        (_, None) => "warn".to_owned(),
    };
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "timonel",
        filter,
        json: cli.log_json,
        otlp_endpoint: cli.otlp_endpoint,
        metrics_period: None,
    })?;
    let result = match cli.command {
        Command::Server(args) => server::run(&args).await,
        Command::Up(args) => up::up(&args).await,
        Command::Down(args) => up::down(&args).await,
        Command::Doctor(args) => doctor::run(&args),
        Command::Store(args) => keeping::run(args).await,
        Command::Cluster(args) => commands::cluster(args).await,
        Command::Nodepool(args) => commands::nodepool(args).await,
        Command::Machine(args) => commands::machine(args).await,
        Command::Operation(args) => commands::operation(args).await,
        Command::Completion { shell } => {
            cli::completion(shell);
            Ok(())
        }
    };
    telemetry.shutdown();
    result
}
