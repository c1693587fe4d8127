//! Shows how far a long command is: a spinner per step on a terminal, plain lines elsewhere. On standard error, so
//! that standard output stays the result.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};
use tokio::time::Instant;

/// Between two frames of the spinner.
const FRAME: Duration = Duration::from_millis(80);

/// One step.
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    name: String,
    started: Instant,
    last: String,
}

impl Step {
    /// Begins a step.
    pub(crate) fn begin(name: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim}");
            let bar = ProgressBar::new_spinner()
                .with_style(style.expect("the template is constant"))
                .with_prefix(name.to_owned());
            bar.enable_steady_tick(FRAME);
            bar
        });
        if bar.is_none() {
            eprintln!("{name} ...");
        }
        Self { bar, name: name.to_owned(), started: Instant::now(), last: String::new() }
    }

    /// Says what it waits for.
    pub(crate) fn note(&mut self, state: String) {
        if state == self.last {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(state.clone()),
            None => eprintln!("  {state}"),
        }
        self.last = state;
    }

    /// Ends the step.
    pub(crate) fn done(self, result: &str) {
        let line = format!("✓ {} ({:.1} s) {result}", self.name, self.started.elapsed().as_secs_f32());
        match self.bar {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{}", line.trim_end());
            }
            None => eprintln!("{}", line.trim_end()),
        }
    }
}
