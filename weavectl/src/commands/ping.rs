//! `ping`.

use std::thread;
use std::time::Duration;

use control::api::ErrorCode;
use control::api::{PingAnswer, PingRequest};
use control::{Client, ClientError};
use serde::Serialize;

use crate::failure::{Failure, NO_ANSWER};
use crate::render::table::printable;
use crate::render::units::{plural, round_trip, short};
use crate::ui::{Format, Ui};

/// Between two pings.
const INTERVAL: Duration = Duration::from_secs(1);

/// What `--json` prints.
#[derive(Serialize)]
struct Series<'a> {
    target: &'a str,
    sent: u32,
    answers: Vec<PingAnswer>,
    failures: Vec<String>,
}

/// Ping `count` times. Exit code 13 when nothing came back.
pub(crate) fn ping(client: &Client, target: &str, count: u32, ui: &mut Ui) -> Result<(), Failure> {
    let request = PingRequest { target: target.to_owned() };
    let mut series = Series { target, sent: 0, answers: Vec::new(), failures: Vec::new() };
    for number in 1..=count {
        if number > 1 {
            thread::sleep(INTERVAL);
        }
        series.sent += 1;
        match client.ping(&request) {
            Ok(answer) => {
                if ui.format() == Format::Text {
                    let line =
                        if series.answers.is_empty() { heading(target, &answer) } else { String::new() };
                    ui.raw(format!("{line}seq={number} time={}\n", round_trip(answer.rtt_us)).as_bytes())?;
                }
                series.answers.push(answer);
            }
            Err(error) if is_loss(&error) => {
                if ui.format() == Format::Text {
                    ui.raw(format!("seq={number} {}\n", printable(&error.to_string())).as_bytes())?;
                }
                series.failures.push(error.to_string());
            }
            Err(error) => return Err(Failure::of_call(&format!("ping `{target}`"), &error)),
        }
    }
    match ui.format() {
        Format::Json => ui.json(&series)?,
        Format::Text => ui.raw(summary(&series).as_bytes())?,
    }
    if !series.answers.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(NO_ANSWER, format!("no answer from `{target}`"));
    failure.causes.extend(series.failures.pop());
    Err(failure.hint("`weavectl status peers` and `weavectl status connections` say what is known of it"))
}

/// Whether a ping was lost; everything else would fail the next time too.
fn is_loss(error: &ClientError) -> bool {
    match error {
        ClientError::Api(error) => matches!(error.code, ErrorCode::Timeout | ErrorCode::Unreachable),
        ClientError::Timeout { .. } => true,
        ClientError::SocketMissing { .. }
        | ClientError::NotRunning { .. }
        | ClientError::PermissionDenied { .. }
        | ClientError::ConnectTimeout { .. }
        | ClientError::Closed { .. }
        | ClientError::Protocol { .. }
        | ClientError::Io { .. } => false,
    }
}

fn heading(target: &str, answer: &PingAnswer) -> String {
    let via = answer.via.map(|via| format!(" via {via}")).unwrap_or_default();
    let cipher = answer.cipher.as_ref().map(|cipher| format!(", {cipher}")).unwrap_or_default();
    let line =
        format!("PING {target}: {}({}), {}{via}{cipher}", answer.nickname, short(&answer.peer), answer.path);
    format!("{}\n", printable(&line))
}

fn summary(series: &Series<'_>) -> String {
    let times: Vec<u64> = series.answers.iter().map(|answer| answer.rtt_us).collect();
    let mut text = format!(
        "{}, {}",
        plural(series.sent.into(), "ping", "pings"),
        plural(times.len() as u64, "answer", "answers")
    );
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) {
        let mean = times.iter().sum::<u64>() / times.len() as u64;
        text.push_str(&format!(
            "; round trip least {}, mean {}, most {}",
            round_trip(*least),
            round_trip(mean),
            round_trip(*most)
        ));
    }
    text.push('\n');
    text
}
