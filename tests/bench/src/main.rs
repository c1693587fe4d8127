//! Measures what exists of the budgets: our service and, beside it in the same sitting, upstream's control plane.
//!
//! Both get the same requests from the same client over loopback. The client shares the machine with the servers, so
//! the figure that counts is the servers' own CPU time per operation, and the ratio; rates and latencies are printed
//! beside it. Sends no traffic but to the servers it started, and ends them.

mod budget;
mod client;
mod drive;
mod objects;
mod ours;
mod peer;
mod process;
mod record;
mod upstream;
mod work;

use anyhow::Context;
use clap::{Parser, Subcommand};
use record::{Figures, Results};
use std::path::{Path, PathBuf};
use timonel_runtime::Clock;
use work::{Bench, WORKLOADS, Workload};

/// As the server's: the client shares the machine with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Most repetitions: each takes minutes with everything.
const MAX_ROUNDS: u16 = 20;

/// Measure what exists of the budgets.
#[derive(Debug, Parser)]
#[command(name = "timonel-bench")]
struct Args {
    /// Everything; without it only what takes seconds.
    #[arg(long)]
    all: bool,
    /// Only workloads whose name contains one of these, quick or not.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Directory with upstream's kube-apiserver and kube-scheduler (and etcd, else the one on the path), which are
    /// then measured in turn with ours.
    #[arg(long)]
    upstream: Option<PathBuf>,
    /// How often each workload runs; the median counts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_ROUNDS)))]
    rounds: u16,
    /// Append the figures to the results.
    #[arg(long)]
    record: bool,
    /// The recorded results.
    #[arg(long, default_value = "tests/bench/results.tsv")]
    results: PathBuf,
    /// The `timonel` to measure; the one beside this program if absent.
    #[arg(long)]
    timonel: Option<PathBuf>,
    /// Where the servers keep their data (a real disk, please: flushes are part of what is measured).
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// Name the workloads and end.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Parts that run as a process of their own, so that their CPU time is theirs alone.
#[derive(Debug, Subcommand)]
enum Part {
    /// Serve cluster DNS for a context of a kubeconfig until killed.
    #[command(hide = true)]
    Dns { kubeconfig: PathBuf, context: String, listen: std::net::SocketAddr },
    /// Flood a context of a kubeconfig with requests until killed.
    #[command(hide = true)]
    Flood { kubeconfig: PathBuf, context: String },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        unreachable!("nothing installed a TLS provider before main");
    }
    if args.list {
        WORKLOADS
            .iter()
            .for_each(|workload| println!("{}{}", workload.name, if workload.quick { "" } else { " (--all)" }));
        return Ok(());
    }
    let threads = if args.part.is_some() { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(Box::pin(async move {
        match &args.part {
            Some(Part::Dns { kubeconfig, context, listen }) => work::dns_server(kubeconfig, context, *listen).await,
            Some(Part::Flood { kubeconfig, context }) => work::flood(kubeconfig, context).await,
            None => bench(args).await,
        }
    }))
}

async fn bench(args: Args) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program's path")?;
    let beside = own.parent().unwrap_or(Path::new(".")).join("timonel");
    let timonel = args.timonel.clone().unwrap_or(beside);
    let scratch = match &args.scratch {
        Some(folder) => tempfile::Builder::new().prefix("tm-bench-").tempdir_in(folder),
        None => tempfile::Builder::new().prefix("tm-bench-").tempdir(),
    }
    .context("scratch directory")?;
    let chosen: Vec<_> = WORKLOADS.iter().filter(|workload| chosen(workload, &args)).collect();
    let mut results = Results::load(&args.results)?;
    let mut figures = Figures::default();
    let bench = Bench::new(timonel, args.upstream.clone(), scratch.path().to_owned(), own);
    for workload in chosen {
        for round in 0..args.rounds {
            eprintln!("-- {} ({}/{})", workload.name, round + 1, args.rounds);
            if let Err(error) = Box::pin(bench.run(workload, round, &mut figures)).await {
                // One workload that cannot run here (no root, no nft) is no reason to lose the others.
                eprintln!("   {}: {error:#}", workload.name);
                break;
            }
        }
    }
    let lines = figures.lines();
    println!("{}", record::table(&lines, &results));
    if args.record {
        let now = Clock::system().now();
        results.append(&args.results, &lines, &now.strftime("%Y-%m-%d").to_string(), &record::commit())?;
    }
    Ok(())
}

fn chosen(workload: &Workload, args: &Args) -> bool {
    if args.only.is_empty() {
        return args.all || workload.quick;
    }
    args.only.iter().any(|part| workload.name.contains(part.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn names_choose_slow_workloads_too() {
        let args = |list: &[&str]| Args::parse_from([&["timonel-bench"], list].concat());
        let slow = WORKLOADS.iter().find(|workload| !workload.quick).expect("there are slow ones");
        assert!(!chosen(slow, &args(&[])) && chosen(slow, &args(&["--all"])));
        assert!(chosen(slow, &args(&["--only", slow.name])) && !chosen(slow, &args(&["--only", "nothing"])));
    }
}
