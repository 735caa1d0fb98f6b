//! `weavectl status`: sections in the manner of Weave's, and a verdict at the end.

use control::api::{DnsSummary, IpamSummary, Problem, Status};

use super::commands::quoted;
use super::paint::{Paint, Tone};
use super::table::{labelled, printable};
use super::units::{bytes, plural, seconds, short};

/// What `status` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that harms traffic or allocation.
    Ok,
    /// Something does.
    NotOk,
}

/// The verdict alone. A severity that we do not know is taken for the worse.
pub(crate) fn verdict(status: &Status) -> Verdict {
    let harmless = status.problems.iter().all(|problem| problem.severity == "warning");
    if harmless && status.fabric.is_some() { Verdict::Ok } else { Verdict::NotOk }
}

/// The whole page.
pub(crate) fn status(status: &Status, paint: Paint) -> String {
    let mut text = labelled("Version", &status.version, paint);
    text.push('\n');
    text.push_str(&router(status, paint));
    text.push('\n');
    text.push_str(&connections(status, paint));
    text.push('\n');
    text.push_str(&peers(status, paint));
    if let Some(summary) = &status.ipam {
        text.push('\n');
        text.push_str(&ipam(summary, paint));
    }
    if let Some(summary) = &status.dns {
        text.push('\n');
        text.push_str(&dns(summary, paint));
    }
    text.push('\n');
    text.push_str(&containers(status, paint));
    text.push('\n');
    text.push_str(&verdict_lines(status, paint));
    text
}

fn router(status: &Status, paint: Paint) -> String {
    let mut text = labelled("Service", "router", paint);
    text.push_str(&labelled("Name", &format!("{} ({})", status.peer, status.nickname), paint));
    text.push_str(&labelled("Fabric", status.fabric.as_deref().unwrap_or("none"), paint));
    text.push_str(&labelled("Listen", &format!("udp {}", status.listen), paint));
    text.push_str(&labelled("Bridge", &format!("{}, containers' MTU {}", status.bridge, status.mtu), paint));
    text.push_str(&labelled("Uptime", &seconds(status.uptime_s), paint));
    text
}

fn connections(status: &Status, paint: Paint) -> String {
    let counts = &status.connections;
    let total = counts.established + counts.connecting + counts.failed;
    let parts =
        [(counts.established, "established"), (counts.connecting, "connecting"), (counts.failed, "failed")];
    let mut text = labelled("Service", "connections", paint);
    text.push_str(&labelled("Connections", &counted(total, &parts), paint));
    let traffic = &status.traffic;
    let flow = |frames: u64, count: u64| format!("{} in {}", bytes(count), plural(frames, "frame", "frames"));
    text.push_str(&labelled("Sent", &flow(traffic.tx_frames, traffic.tx_bytes), paint));
    text.push_str(&labelled("Received", &flow(traffic.rx_frames, traffic.rx_bytes), paint));
    if !traffic.drops.is_empty() {
        let drops: Vec<String> =
            traffic.drops.iter().map(|drop| format!("{} {}", drop.count, drop.reason)).collect();
        text.push_str(&labelled("Dropped", &drops.join(", "), paint));
    }
    text
}

fn peers(status: &Status, paint: Paint) -> String {
    let counts = &status.peers;
    let total = counts.alive + counts.suspect + counts.dead;
    let parts = [(counts.alive, "alive with this one"), (counts.suspect, "suspect"), (counts.dead, "dead")];
    let mut text = labelled("Service", "peers", paint);
    text.push_str(&labelled("Peers", &counted(total, &parts), paint));
    text
}

fn ipam(summary: &IpamSummary, paint: Paint) -> String {
    let mut text = labelled("Service", "ipam", paint);
    text.push_str(&labelled("Status", ipam_state(&summary.state), paint));
    text.push_str(&labelled("Range", &format!("{}, {}", summary.range, summary.range6), paint));
    let here = format!("{} owned, {} in use, {} resting", summary.owned, summary.used, summary.resting);
    text.push_str(&labelled("Addresses", &here, paint));
    let lost = [(summary.unreachable, "with unreachable peers"), (summary.unknown, "without known owner")];
    let lost: Vec<String> =
        lost.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !lost.is_empty() {
        text.push_str(&labelled("Out of reach", &lost.join(", "), paint));
    }
    text
}

/// Also a part of `status dns`.
pub(super) fn dns(summary: &DnsSummary, paint: Paint) -> String {
    let mut text = labelled("Service", "dns", paint);
    let state = match (summary.state.as_str(), summary.address) {
        ("serving", Some(address)) => format!("serving at {address}"),
        ("failed", Some(address)) => format!("not serving at {address}"),
        (other, _) => other.to_owned(),
    };
    text.push_str(&labelled("Status", &state, paint));
    text.push_str(&labelled("Domain", &summary.domain, paint));
    text.push_str(&labelled("Names", &summary.names.to_string(), paint));
    text
}

/// The state as a sentence; words of Weave's where they exist.
fn ipam_state(state: &str) -> &str {
    match state {
        "waiting" => "waiting for address space from another peer",
        "exhausted" => "exhausted: all addresses are in use",
        "unreachable" => "all free addresses are owned by unreachable peers",
        "removed" => "removed: another router has taken over the addresses of this one",
        "leaving" => "leaving: the addresses are being handed to another router",
        other => other,
    }
}

fn containers(status: &Status, paint: Paint) -> String {
    let mut text = labelled("Service", "containers", paint);
    text.push_str(&labelled("Attached", &status.attachments.to_string(), paint));
    let exposed = status.exposed.map_or_else(|| "no address".to_owned(), |address| address.to_string());
    text.push_str(&labelled("Host", &exposed, paint));
    text
}

/// `OK: …` or `NOT OK: …`, then a command for each problem.
fn verdict_lines(status: &Status, paint: Paint) -> String {
    let (errors, warnings): (Vec<&Problem>, Vec<&Problem>) =
        status.problems.iter().partition(|problem| problem.severity != "warning");
    let mut text = match verdict(status) {
        Verdict::Ok => format!("{} {}\n", paint.good("OK:"), well(status)),
        Verdict::NotOk => match errors.first() {
            // The first error is said here already.
            Some(first) => format!("{} {}\n{}", paint.bad("NOT OK:"), printable(&first.message), fix(first)),
            None => format!(
                "{} this router belongs to no fabric\n     fix: `weavectl up` to create one, `weavectl join TOKEN` to enter one\n",
                paint.bad("NOT OK:")
            ),
        },
    };
    for problem in errors.iter().skip(1) {
        text.push_str(&format!(
            "{} {}\n{}",
            paint.tone(Tone::Bad, "  also:"),
            printable(&problem.message),
            fix(problem)
        ));
    }
    for problem in warnings {
        text.push_str(&format!(
            "{} {}\n{}",
            paint.tone(Tone::Warn, "warning:"),
            printable(&problem.message),
            fix(problem)
        ));
    }
    text
}

fn fix(problem: &Problem) -> String {
    match problem.hint.as_deref() {
        Some(hint) if !hint.is_empty() => format!("     fix: {}\n", printable(&quoted(hint))),
        Some(_) | None => String::new(),
    }
}

/// What works.
fn well(status: &Status) -> String {
    let others = status.peers.alive.saturating_sub(1) as u64;
    let containers = plural(status.attachments as u64, "container", "containers");
    let name = short(status.fabric.as_deref().unwrap_or_default());
    match others {
        0 => format!(
            "fabric {name} works on this host alone, {containers} attached; let others in with `weavectl token`"
        ),
        _ => format!(
            "fabric {name} works with {}, {containers} attached here",
            plural(others, "other peer", "other peers")
        ),
    }
}

/// `3 (2 established, 1 failed)`
fn counted(total: usize, parts: &[(usize, &str)]) -> String {
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if parts.is_empty() { total.to_string() } else { format!("{total} ({})", parts.join(", ")) }
}
