//! `up`, `join`, `token`.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use control::Client;
use control::api::{Connections, FabricInfo, JoinRequest, UpRequest};
use serde::Serialize;

use crate::args::{JoinArgs, UpArgs};
use crate::daemon;
use crate::failure::{Failure, NOT_CONNECTED, USAGE};
use crate::render::table::printable;
use crate::render::units::{seconds, short};
use crate::ui::{Format, Ui};

/// How long `join` waits for the first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(5);

/// How often it looks.
const POLL: Duration = Duration::from_millis(50);

/// Longest password or token that is read. Both are one line.
const MAX_INPUT_BYTES: u64 = 64 * 1024;

/// Create a fabric and print the line for the next host.
pub(crate) fn up(client: &Client, args: &UpArgs, ui: &mut Ui) -> Result<(), Failure> {
    let password = password(args.password_file.as_deref())?;
    daemon::ensure(client, &args.daemon, ui)?;
    let with_password = password.is_some();
    let request = UpRequest { range: args.ipalloc_range, password, seeds: args.seeds.clone() };
    let info = client.up(&request).map_err(|error| Failure::of_call("create a fabric", &error))?;
    let done = if info.changed { "created fabric" } else { "this router is in fabric" };
    ui.note(&format!(
        "{done} {} as {} with {} and {}",
        short(&info.fabric),
        info.nickname,
        info.range,
        info.range6
    ));
    ui.note(match with_password {
        true => "run this on the next host, with the same `--password-file`:",
        false => "run this on the next host; whoever has the line can join:",
    });
    ui.data(&info, |info, _| format!("weavectl join {}\n", info.token))
}

/// Print the token alone, for use in scripts.
pub(crate) fn token(client: &Client, ui: &mut Ui) -> Result<(), Failure> {
    let info = client.token().map_err(|error| Failure::of_call("get the token", &error))?;
    ui.data(&info, |info, _| format!("{}\n", info.token))
}

/// What `join --json` prints.
#[derive(Serialize)]
struct Joined<'a> {
    #[serde(flatten)]
    info: &'a FabricInfo,
    /// Whether a peer was reached in time.
    connected: bool,
    /// Why not.
    reasons: Vec<String>,
}

/// Enter a fabric and see whether anybody is there.
pub(crate) fn join(client: &Client, args: &JoinArgs, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let given = match (args.token.as_deref(), &args.token_file) {
        (Some("-"), _) => read_line(Path::new("-"), "the token")?,
        (Some(given), _) => given.to_owned(),
        (None, Some(file)) => read_line(file, "the token")?,
        (None, None) => String::new(),
    };
    // The whole line that `up` prints will do as well.
    let Some(token) = given.split_whitespace().find(|word| word.starts_with("weave1.")) else {
        let beginning: String = given.chars().take(7).collect();
        return Err(Failure::new(USAGE, "that is not a token")
            .because(format!("a token starts with `weave1.`, this with `{}`", printable(&beginning)))
            .hint("print one on a member with `weavectl token`"));
    };
    let token = token.to_owned();
    let password = password(args.password_file.as_deref())?;
    daemon::ensure(client, &args.daemon, ui)?;
    let request = JoinRequest { token, password };
    let info = client.join(&request).map_err(|error| Failure::of_call("join the fabric", &error))?;
    let done = if info.changed { "joined" } else { "this router is in" };
    ui.note(&format!(
        "{done} fabric {} as {} with {} and {}",
        short(&info.fabric),
        info.nickname,
        info.range,
        info.range6
    ));
    let connections = first_connection(client)?;
    let reached = reached(&connections);
    let reasons = reasons(&connections);
    let answer = Joined { info: &info, connected: reached.is_some(), reasons: reasons.clone() };
    match (ui.format(), &reached) {
        (Format::Json, _) => ui.json(&answer)?,
        (Format::Text, Some(peer)) => ui.raw(format!("connected to {peer}\n").as_bytes())?,
        (Format::Text, None) => {}
    }
    if reached.is_some() {
        return Ok(ExitCode::SUCCESS);
    }
    let mut failure = Failure::new(
        NOT_CONNECTED,
        format!("joined, but no peer was reached within {} s", FIRST_CONNECTION.as_secs()),
    );
    failure.causes = reasons;
    Err(failure.hint(
        "weaved goes on trying: see `weavectl status connections`; is UDP port 6783 open, and is a member running? \
         `weavectl connect ADDR` dials another one",
    ))
}

/// The connections as soon as one is established, or as they are when the time is up.
fn first_connection(client: &Client) -> Result<Connections, Failure> {
    let began = Instant::now();
    loop {
        let connections =
            client.connections().map_err(|error| Failure::of_call("see the connections", &error))?;
        if reached(&connections).is_some() || began.elapsed() >= FIRST_CONNECTION {
            return Ok(connections);
        }
        thread::sleep(POLL);
    }
}

fn reached(connections: &Connections) -> Option<String> {
    let connection = connections.connections.iter().find(|connection| connection.state == "established")?;
    let name = connection.nickname.clone().or_else(|| connection.peer.as_deref().map(short));
    let address = connection.address.map(|address| format!(" at {address}")).unwrap_or_default();
    Some(format!("{}{address}", name.unwrap_or_else(|| "a peer".to_owned())))
}

fn reasons(connections: &Connections) -> Vec<String> {
    let tries = connections
        .connections
        .iter()
        .filter(|connection| !["established", "self"].contains(&connection.state.as_str()));
    let mut reasons: Vec<String> = tries
        .map(|connection| {
            let address =
                connection.address.map_or_else(|| "a peer".to_owned(), |address| address.to_string());
            let reason = connection.reason.clone().unwrap_or_else(|| connection.state.clone());
            let retry =
                connection.retry_s.map(|retry| format!(", retry in {}", seconds(retry))).unwrap_or_default();
            format!("{address}: {reason}{retry}")
        })
        .collect();
    if reasons.is_empty() {
        reasons.push("there is nobody to dial".to_owned());
    }
    reasons
}

fn password(file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let password = read_line(file, "the password")?;
    if password.is_empty() {
        return Err(Failure::new(USAGE, format!("the password in `{}` is empty", file.display())));
    }
    Ok(Some(password))
}

/// A file, or standard input for `-`, without its last newline.
fn read_line(file: &Path, what: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file.to_str() {
        Some("-") => std::io::stdin().lock().take(MAX_INPUT_BYTES).read_to_string(&mut text),
        Some(_) | None => {
            std::fs::File::open(file).and_then(|file| file.take(MAX_INPUT_BYTES).read_to_string(&mut text))
        }
    };
    read.map_err(|error| Failure::of_io(format!("cannot read {what} from `{}`", file.display()), &error))?;
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text)
        .to_owned())
}
