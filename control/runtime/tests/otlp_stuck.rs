//! A collector that takes connections and never answers: nothing waits for it, nothing grows.

#![allow(clippy::unwrap_used, reason = "a test says by failing what is wrong")]

use std::time::Duration;
use timonel_runtime::{Registry, Telemetry, TelemetryConfig, export_metrics};
use tokio::net::TcpListener;

/// Far more than every queue on the way together holds.
const RECORDS: usize = 30_000;
/// What that many records may cost when all but the queues' content is dropped.
const GROWTH_BYTES: usize = 16 << 20;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stuck_collector_does_not_take_is_dropped() {
    // Connections are taken by the kernel; nobody ever reads from them.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let telemetry = Telemetry::start(&TelemetryConfig {
        service: "test",
        filter: "off,timonel::test=info".to_owned(),
        otlp_endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        metrics_period: Some(Duration::from_millis(1)),
        ..TelemetryConfig::default()
    })
    .unwrap();
    let registry = Registry::default();
    export_metrics(&registry.source(), &[]);
    let before = resident_bytes();
    let work = tokio::task::spawn_blocking(|| {
        for number in 0..RECORDS {
            tracing::info_span!(target: "timonel::test", "work", number).in_scope(|| {
                tracing::info!(target: "timonel::test", "record");
            });
        }
    });
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("telemetry holds its process up").unwrap();
    assert!(resident_bytes().saturating_sub(before) < GROWTH_BYTES);
    // Not shut down: that would wait for the collector as long as it may.
    std::mem::forget(telemetry);
}
