//! `up`, `down`, `doctor`, `bench`, `images`: packages and the build, then the program itself.

use crate::packages;
use anyhow::{Context, bail};
use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// Where results of failovers are kept, and the longest time that a client may wait, in milliseconds.
const FAILOVER_RESULTS: &str = "tests/e2e/failover.tsv";
const FAILOVER_GAP_MS: u64 = 2_000;
/// Where the data lies unless an option or the environment says otherwise.
const DEFAULT_DATA: &str = "/var/lib/timonel";
/// The example application.
const EXAMPLE: &str = "examples/shop/shop.yaml";

/// Runs a command; an error names it.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("starting {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// `cargo` as it was called.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where a profile's programs are.
pub(crate) fn programs(profile: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    // Tests run in folders of their own: what they are told must not depend on where this runs.
    std::path::absolute(&target).unwrap_or(target).join(profile)
}

fn build() -> anyhow::Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "timonel", "--package", "timonel-node"]))?;
    Ok(programs("release").join("timonel"))
}

/// The data directory that `options` or the environment name.
fn data(options: &[OsString]) -> PathBuf {
    let named = options.iter().position(|option| option == "--data").and_then(|at| options.get(at + 1)).cloned();
    named.or_else(|| env::var_os("TIMONEL_DATA")).map_or_else(|| PathBuf::from(DEFAULT_DATA), PathBuf::from)
}

/// Packages, build, images, then `timonel up` with the example application.
pub(crate) fn up(options: &[OsString]) -> anyhow::Result<()> {
    packages::ensure()?;
    let timonel = build()?;
    images(&data(options).join("images"))?;
    run(Command::new(timonel).args(["up", "--apply", EXAMPLE]).args(options))
}

/// `timonel down`.
pub(crate) fn down(options: &[OsString]) -> anyhow::Result<()> {
    run(Command::new(build()?).arg("down").args(options))
}

/// `timonel doctor`.
pub(crate) fn doctor() -> anyhow::Result<()> {
    run(Command::new(build()?).arg("doctor"))
}

/// The benchmark of the whole, against a service of its own. Both programs are built in one go: alone, either would
/// build what they share with other features.
pub(crate) fn bench(options: &[OsString]) -> anyhow::Result<()> {
    run(cargo().args(["build", "--release", "--package", "timonel", "--package", "timonel-bench"]))?;
    run(Command::new(programs("release").join("timonel-bench")).args(options))
}

/// Kills parts of a service run after run, and records what its clients saw.
pub(crate) fn failover(runs: u64, seed: u64) -> anyhow::Result<()> {
    run(cargo().args(["build", "--release", "--package", "timonel"]))?;
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().context("git")?;
    let results = std::path::absolute(FAILOVER_RESULTS)?;
    let mut command = cargo();
    command.args(["test", "--package", "timonel-e2e", "--test", "failover", "--", "--nocapture"]);
    command.env("TIMONEL_BIN", programs("release")).env("TIMONEL_FAILOVER_RESULTS", results);
    command.env("TIMONEL_FAILOVER_RUNS", runs.to_string()).env("TIMONEL_FAILOVER_SEED", seed.to_string());
    command.env("TIMONEL_FAILOVER_GAP_MS", FAILOVER_GAP_MS.to_string());
    command.env("TIMONEL_FAILOVER_COMMIT", String::from_utf8_lossy(&commit.stdout).trim());
    run(&mut command)
}

/// Builds the images into `out`.
pub(crate) fn images(out: &Path) -> anyhow::Result<()> {
    let cache = programs("images");
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let mut progress = |event| {
        if let timonel_images::Progress::Finished(built) = event {
            eprintln!("{}", built.reference);
        }
    };
    let built = timonel_images::build_all(out, &cache, &mut progress).context("images")?;
    eprintln!("{} images in {}", built.len(), out.display());
    Ok(())
}
