//! How things are, as text for those who ask why they wait: upstream's three tables.

use super::gate::Fairness;

/// One of the tables.
pub(crate) fn dump(fairness: &Fairness, which: &str) -> Option<String> {
    let core = fairness.core.lock();
    let mut levels: Vec<_> = core.levels.iter().collect();
    levels.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let mut rows: Vec<Vec<String>> = Vec::new();
    let head: &[&str] = match which {
        "dump_priority_levels" => &[
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ],
        "dump_queues" => &[
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
        ],
        "dump_requests" => {
            &["PriorityLevelName", "QueueIndex", "RequestIndexInQueue", "Flow", "ArriveTime", "InitialSeats"]
        }
        _ => return None,
    };
    for level in levels {
        let name = &level.spec.name;
        let queues = level.queues.iter().flat_map(|queues| queues.all.iter().enumerate());
        match which {
            "dump_priority_levels" => {
                let active = queues.filter(|(_, queue)| !queue.waiting.is_empty()).count();
                let counts = &level.counts;
                rows.push(vec![
                    name.clone(),
                    active.to_string(),
                    level.is_idle().to_string(),
                    level.leaving.to_string(),
                    level.waiting().to_string(),
                    level.executing.to_string(),
                    counts.dispatched.to_string(),
                    counts.rejected.to_string(),
                    counts.timed_out.to_string(),
                    counts.cancelled.to_string(),
                ]);
            }
            "dump_queues" => rows.extend(queues.map(|(at, queue)| {
                let seats: u32 = queue.waiting.iter().map(|one| one.seats).sum();
                vec![
                    name.clone(),
                    at.to_string(),
                    queue.waiting.len().to_string(),
                    queue.executing.to_string(),
                    queue.seats_in_use.to_string(),
                    format!("{:.8}ss", queue.next / 1e9),
                    seats.to_string(),
                ]
            })),
            _ => rows.extend(queues.flat_map(|(at, queue)| {
                queue.waiting.iter().enumerate().map(move |(place, one)| {
                    let arrived = jiff::Timestamp::from_nanosecond(i128::from(one.arrived)).unwrap_or_default();
                    vec![
                        name.clone(),
                        at.to_string(),
                        place.to_string(),
                        format!("{:016x}", one.flow),
                        arrived.to_string(),
                        one.seats.to_string(),
                    ]
                })
            })),
        }
    }
    Some(table(head, &rows))
}

/// Columns as wide as their widest, with a comma after each.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].len()).chain([head[at].len()]).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: Vec<&str>| {
        let last = cells.len().saturating_sub(1);
        for (at, cell) in cells.into_iter().enumerate() {
            if at == last {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{:<width$}", format!("{cell},"), width = widths[at]));
            }
        }
        text.push('\n');
    };
    line(head.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_their_columns_one_below_the_other() {
        let text = table(&["A", "Long"], &[vec!["first".into(), "1".into()]]);
        assert_eq!(text, "A,     Long\nfirst, 1\n");
    }
}
