//! `cargo xtask`: the one door to everything that this repository can do, the same by hand and in CI.

mod packages;
mod structure;
mod test;
mod up;

use clap::{Parser, Subcommand};
use std::{ffi::OsString, path::PathBuf};

/// Everything that this repository can do.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the machine lacks, build, and bring up a cluster with the example application.
    Up {
        /// Further options of `timonel up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Stop everything that `up` started.
    Down {
        /// Further options of `timonel down`, such as `--purge`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Check everything: format, lints, structure, unit tests, and whole clusters where this machine can run them.
    Test {
        /// Only what needs no root and no network namespaces.
        #[arg(long)]
        quick: bool,
    },
    /// Measure what exists of the budgets.
    Bench {
        /// Options of the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Kill one of three etcd members and two control machines after the other, run after run, and record what clients saw
    /// in `tests/e2e/failover.tsv`.
    Failover {
        /// How many runs.
        #[arg(long, default_value_t = 100)]
        runs: u64,
        /// The first run's seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Say what this machine lacks.
    Doctor,
    /// Check that the crate graph keeps to its layers, and that the map names what exists.
    Structure,
    /// Build the container images of the nodes and of the example application.
    Images {
        /// Where to put the archives.
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up { options } => up::up(&options),
        Command::Down { options } => up::down(&options),
        Command::Test { quick } => test::test(quick),
        Command::Bench { options } => up::bench(&options),
        Command::Failover { runs, seed } => up::failover(runs, seed),
        Command::Doctor => up::doctor(),
        Command::Structure => structure::check(),
        Command::Images { out } => up::images(&out),
    }
}
