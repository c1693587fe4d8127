//! `cargo xtask test`: everything that checks the repository, in the order in which it fails fastest.

use crate::{
    packages, structure,
    up::{cargo, images, programs, run},
};
use anyhow::Context;
use std::{process::Command, time::Instant};

/// Checks everything; stops at the first fault.
pub(crate) fn test(quick: bool) -> anyhow::Result<()> {
    timed("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
    timed("structure", structure::check)?;
    if !quick {
        timed("packages", packages::ensure)?;
    }
    timed("lints", || {
        run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))
    })?;
    timed("unit tests", unit_tests)?;
    if !quick {
        timed("programs", || run(cargo().args(["build", "--package", "timonel", "--package", "timonel-node"])))?;
        timed("images", || images(&programs("images").join("out")))?;
        timed("whole clusters", whole_clusters)?;
    }
    Ok(())
}

fn timed(name: &str, step: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("== {name}");
    let started = Instant::now();
    step().with_context(|| format!("step {name:?}"))?;
    eprintln!("== {name}: {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn has_nextest() -> bool {
    Command::new("cargo-nextest").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn unit_tests() -> anyhow::Result<()> {
    let without = ["--workspace", "--exclude", "timonel-e2e"];
    if has_nextest() {
        return run(cargo().args(["nextest", "run", "--no-fail-fast"]).args(without));
    }
    run(cargo().args(["test", "--quiet", "--no-fail-fast"]).args(without))
}

/// Real services, nodes and applications; each test skips, and says so, where the machine cannot run it.
fn whole_clusters() -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "timonel-e2e", "--", "--nocapture", "--test-threads", "1"]);
    command.env("TIMONEL_BIN", programs("debug")).env("TIMONEL_IMAGES", programs("images").join("out"));
    run(&mut command)
}
