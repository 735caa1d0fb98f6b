//! Prometheus metrics on a local TCP address, made from the same answers as the status.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use control::api::{ApiError, Connections, Count, DnsSummary, Status, Traffic};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::engine::call::{Call, Hub};

type Labels = Vec<(String, String)>;

/// Serves `GET /metrics` until the task is dropped.
pub async fn serve(address: SocketAddr, hub: Hub) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    tracing::info!(%address, "metrics are served");
    let app = Router::new().route("/metrics", get(metrics)).with_state(hub);
    axum::serve(listener, app).await
}

async fn metrics(State(hub): State<Hub>) -> Response {
    match look(&hub).await {
        Ok((status, connections)) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], render(&status, &connections.drops)).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.message).into_response(),
    }
}

/// No more than is shown: a scrape must not cost a walk over all peers and blocks.
async fn look(hub: &Hub) -> Result<(Status, Connections), ApiError> {
    Ok((hub.ask(Call::Status).await?, hub.ask(Call::Connections).await?))
}

fn render(status: &Status, control_drops: &[Count]) -> String {
    let mut registry = Registry::with_prefix("weave");
    gauges(&mut registry, status);
    counters(&mut registry, &status.traffic, control_drops);
    if let Some(dns) = &status.dns {
        names(&mut registry, dns);
    }
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

fn gauges(registry: &mut Registry, status: &Status) {
    let connections = Family::<Labels, Gauge>::default();
    let set = |family: &Family<Labels, Gauge>, label: &str, value: &str, count: i64| {
        family.get_or_create(&vec![(label.to_owned(), value.to_owned())]).set(count);
    };
    set(&connections, "state", "established", status.connections.established as i64);
    set(&connections, "state", "connecting", status.connections.connecting as i64);
    set(&connections, "state", "failed", status.connections.failed as i64);
    registry.register("connections", "Sessions with other routers by state", connections);
    let peers = Family::<Labels, Gauge>::default();
    set(&peers, "state", "alive", status.peers.alive as i64);
    set(&peers, "state", "suspect", status.peers.suspect as i64);
    set(&peers, "state", "dead", status.peers.dead as i64);
    registry.register("peers", "Known routers by state", peers);
    let one = |registry: &mut Registry, name: &str, help: &str, value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    one(registry, "attachments", "Container interfaces on this host", status.attachments as i64);
    one(registry, "problems", "Things that status reports as not well", status.problems.len() as i64);
    if let Some(ipam) = &status.ipam {
        let addresses = Family::<Labels, Gauge>::default();
        set(&addresses, "state", "owned", ipam.owned as i64);
        set(&addresses, "state", "used", ipam.used as i64);
        set(&addresses, "state", "resting", ipam.resting as i64);
        set(&addresses, "state", "unreachable", ipam.unreachable as i64);
        registry.register(
            "ipam_addresses",
            "Addresses of the range by state, as this router sees them",
            addresses,
        );
    }
}

fn names(registry: &mut Registry, dns: &DnsSummary) {
    let one = |registry: &mut Registry, name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value as i64);
        registry.register(name, help, gauge);
    };
    one(registry, "dns_serving", "Whether names are served here", usize::from(dns.state == "serving"));
    one(registry, "dns_names", "Different names of the fabric", dns.names);
    one(registry, "dns_cached", "Answers of upstreams that are kept", dns.cached);
    let questions = Family::<Labels, Counter>::default();
    for count in &dns.questions {
        questions.get_or_create(&vec![("outcome".to_owned(), count.reason.clone())]).inc_by(count.count);
    }
    registry.register("dns_questions", "Questions for names by what became of them", questions);
}

fn counters(registry: &mut Registry, traffic: &Traffic, control_drops: &[Count]) {
    let count = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let counter: Counter<u64, AtomicU64> = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    count(registry, "tx_frames", "Frames sent to peers, a super-frame counts as one", traffic.tx_frames);
    count(registry, "tx_bytes", "Bytes of these", traffic.tx_bytes);
    count(registry, "rx_frames", "Frames received from peers", traffic.rx_frames);
    count(registry, "rx_bytes", "Bytes of these", traffic.rx_bytes);
    let drops = Family::<Labels, Counter>::default();
    let groups = [("data", &traffic.drops[..]), ("control", control_drops)];
    for (path, counts) in groups {
        for drop in counts {
            let labels =
                vec![("path".to_owned(), path.to_owned()), ("reason".to_owned(), drop.reason.clone())];
            drops.get_or_create(&labels).inc_by(drop.count);
        }
    }
    registry.register("drops", "Frames and datagrams dropped, by path and reason", drops);
}
