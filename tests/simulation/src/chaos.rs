//! What goes wrong, drawn from the seed, and how it is put right again.

use crate::{
    chance::Chance,
    world::{Part, World},
};
use std::{collections::BTreeMap, time::Duration};
use timonel_runtime::Tasks;
use tokio::time::Instant;

/// What brings something back.
#[derive(Debug)]
enum Undo {
    Start(Part),
    Kubelet(String),
    Reconnect(String),
    Machine,
    /// The older of two that ran at the same time.
    Stop(Tasks),
}

/// The faults of a run.
#[derive(Debug)]
pub(crate) struct Chaos {
    chance: Chance,
    due: BTreeMap<(Instant, u64), Undo>,
    serial: u64,
    /// Whether a machine is gone without a trace. Two of a few are a mass disappearance, which waits for a person.
    vanished: bool,
}

impl Chaos {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed, "chaos"), due: BTreeMap::new(), serial: 0, vanished: false }
    }

    fn later(&mut self, from: u64, to: u64, undo: Undo) {
        self.serial += 1;
        self.due.insert((Instant::now() + self.chance.millis(from, to), self.serial), undo);
    }

    /// Puts right what is due.
    pub(crate) async fn mend(&mut self, world: &mut World, everything: bool) {
        while let Some(first) = self.due.first_entry() {
            if !everything && first.key().0 > Instant::now() {
                return;
            }
            let undo = first.remove();
            // A scope's own text holds addresses of memory, which no two runs share.
            world.trace.note(match &undo {
                Undo::Stop(_) => "chaos stops the older of two".to_owned(),
                undo => format!("chaos mends {undo:?}"),
            });
            match undo {
                Undo::Start(part) => world.start(part),
                Undo::Kubelet(node) => world.start_kubelet(&node),
                Undo::Reconnect(node) => world.network.cut(&node, false),
                Undo::Machine => world.add_machine().await,
                Undo::Stop(scope) => scope.token().cancel(),
            }
        }
    }

    /// Does one bad thing.
    pub(crate) async fn strike(&mut self, world: &mut World) {
        let part = *self.chance.pick(&Part::ALL).unwrap_or(&Part::Controllers);
        let nodes: Vec<String> = world.sight.nodes().into_iter().collect();
        let node = self.chance.pick(&nodes).cloned().unwrap_or_default();
        let what = self.chance.between(0, 11);
        world.trace.note(format!("chaos strikes {what} {part:?} {node}"));
        match what {
            0 | 1 => world.start(part),
            2 => {
                world.stop(part);
                self.later(500, 20_000, Undo::Start(part));
            }
            3 => {
                if let Some(old) = world.overlap(part) {
                    self.later(200, 5_000, Undo::Stop(old));
                }
            }
            4 => world.start_kubelet(&node),
            5 | 6 => {
                world.stop_kubelet(&node, what == 5);
                self.later(1_000, 120_000, Undo::Kubelet(node));
            }
            7 => {
                world.network.cut(&node, true);
                self.later(1_000, 90_000, Undo::Reconnect(node));
            }
            8 => {
                let trace_left = self.vanished || self.chance.once_in(2);
                self.vanished |= !trace_left;
                world.lose_machine(&node, trace_left);
                self.later(5_000, 30_000, Undo::Machine);
            }
            9 => world.compact(self.chance.between(0, 200)).await,
            10 => world.restart_server().await,
            _ => tokio::time::advance(Duration::from_secs(self.chance.between(5, 40))).await,
        }
    }
}
