//! What each command does: ask `weaved`, hand the answer to the renderer, choose the exit code.

mod attach;
mod dns;
mod docker;
mod fabric;
mod ping;
mod setup;

use std::process::ExitCode;

use clap::CommandFactory;
use control::Client;
use control::api::{ResetRequest, RmpeerRequest, TargetsRequest};
use serde_json::json;

use crate::args::{Args, Command, Proof, Setup, TargetsArgs, Topic};
use crate::failure::{AUDIT_CONFLICT, Failure, NOT_OK, TRY_AGAIN};
use crate::render::status::Verdict;
use crate::render::units::plural;
use crate::render::{attachments, audit, connections, ipam, names, peers, status, targets};
use crate::ui::Ui;

/// Run a command.
pub(crate) fn run(args: Args, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let client = Client::new(args.socket).map_err(|error| Failure::of_call("start", &error))?;
    match args.command {
        Command::Up(args) => fabric::up(&client, &args, ui)?,
        Command::Join(args) => return fabric::join(&client, &args, ui),
        Command::Token => fabric::token(&client, ui)?,
        Command::Connect(args) => connect(&client, args, ui)?,
        Command::Forget(args) => forget(&client, args, ui)?,
        Command::Status { topic: None, exit_code } => {
            let verdict = overview(&client, ui)?;
            if exit_code && verdict == Verdict::NotOk {
                return Ok(ExitCode::from(NOT_OK));
            }
        }
        Command::Status { topic: Some(topic), exit_code: _ } => detail(&client, topic, ui)?,
        Command::Attach(args) => attach::attach(&client, args, ui)?,
        Command::Detach(args) => attach::detach(&client, args, ui)?,
        Command::Ps => {
            let list = client.attachments().map_err(|error| Failure::of_call("list containers", &error))?;
            ui.data(&list, |list, paint| attachments::ps(list, paint))?;
        }
        Command::Expose => expose(&client, ui)?,
        Command::Hide => hide(&client, ui)?,
        Command::Rmpeer { peer } => rmpeer(&client, peer, ui)?,
        Command::Ipam { what: Proof::Audit } => return audit(&client, ui),
        Command::Ipam { what: Proof::History { address } } => {
            let failed = |error| Failure::of_call(&format!("tell the history of {address}"), &error);
            let answer = client.ipam_history(address).map_err(failed)?;
            ui.data(&answer, audit::history)?;
        }
        Command::Dns { what } => dns::dns(&client, what, ui)?,
        Command::Reset { force } => reset(&client, ResetRequest { force }, ui)?,
        Command::Report => {
            let report = client.report().map_err(|error| Failure::of_call("get a report", &error))?;
            ui.json(&report)?;
        }
        Command::Ping { target, count } => ping::ping(&client, &target, count, ui)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "weavectl", &mut script);
            ui.raw(&script)?;
        }
        Command::Setup { what: Setup::Docker(args) } => docker::setup(&client, &args, ui)?,
        Command::Setup { what: Setup::Cni(args) } => setup::cni(client.socket(), &args, ui)?,
        Command::Version => version(&client, ui)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn overview(client: &Client, ui: &mut Ui) -> Result<Verdict, Failure> {
    let answer = client.status().map_err(|error| Failure::of_call("get the status of `weaved`", &error))?;
    ui.data(&answer, status::status)?;
    Ok(status::verdict(&answer))
}

fn detail(client: &Client, topic: Topic, ui: &mut Ui) -> Result<(), Failure> {
    match topic {
        Topic::Connections => {
            let answer =
                client.connections().map_err(|error| Failure::of_call("list connections", &error))?;
            let rows = ui.rows();
            ui.data(&answer, |answer, paint| connections::connections(answer, rows, paint))
        }
        Topic::Peers => {
            let answer = client.peers().map_err(|error| Failure::of_call("list peers", &error))?;
            let rows = ui.rows();
            ui.data(&answer, |answer, paint| peers::peers(answer, rows, paint))
        }
        Topic::Ipam => {
            let answer = client.ipam().map_err(|error| Failure::of_call("list addresses", &error))?;
            let (width, rows) = (ui.width(), ui.rows());
            ui.data(&answer, |answer, paint| ipam::ipam(answer, width, rows, paint))
        }
        Topic::Dns => {
            let answer = client.dns().map_err(|error| Failure::of_call("list names", &error))?;
            let rows = ui.rows();
            ui.data(&answer, |answer, paint| names::dns(answer, rows, paint))
        }
        Topic::Targets => {
            let answer = client.targets().map_err(|error| Failure::of_call("list targets", &error))?;
            ui.data(&answer, |answer, paint| targets::targets(answer, paint))
        }
    }
}

fn connect(client: &Client, args: TargetsArgs, ui: &mut Ui) -> Result<(), Failure> {
    let request = TargetsRequest { addresses: args.addresses };
    let answer = client.connect(&request).map_err(|error| Failure::of_call("add targets", &error))?;
    ui.data(&answer, |answer, paint| targets::targets(answer, paint))
}

fn forget(client: &Client, args: TargetsArgs, ui: &mut Ui) -> Result<(), Failure> {
    let request = TargetsRequest { addresses: args.addresses };
    let answer = client.forget(&request).map_err(|error| Failure::of_call("drop targets", &error))?;
    ui.data(&answer, |answer, paint| targets::targets(answer, paint))
}

fn expose(client: &Client, ui: &mut Ui) -> Result<(), Failure> {
    let answer = client.expose().map_err(|error| Failure::of_call("expose the host", &error))?;
    ui.data(&answer, |answer, _| match (answer.address, answer.address6) {
        (Some(four), Some(six)) => format!("{four} {six}\n"),
        (Some(four), None) => format!("{four}\n"),
        (None, _) => "the host has no address on the fabric\n".to_owned(),
    })
}

fn hide(client: &Client, ui: &mut Ui) -> Result<(), Failure> {
    let answer = client.hide().map_err(|error| Failure::of_call("hide the host", &error))?;
    ui.data(&answer, |answer, _| {
        let text =
            if answer.changed { "the host's address is taken back" } else { "the host had no address" };
        format!("{text}\n")
    })
}

fn rmpeer(client: &Client, peer: String, ui: &mut Ui) -> Result<(), Failure> {
    let what = format!("remove peer `{peer}`");
    let answer = client.rmpeer(&RmpeerRequest { peer }).map_err(|error| Failure::of_call(&what, &error))?;
    ui.data(&answer, |answer, _| match answer.changed {
        true => format!(
            "removed {}: {} taken over\n",
            answer.peer,
            plural(answer.taken_over, "address", "addresses")
        ),
        false => format!("{} was removed before\n", answer.peer),
    })
}

fn audit(client: &Client, ui: &mut Ui) -> Result<ExitCode, Failure> {
    let answer = client.ipam_audit().map_err(|error| Failure::of_call("audit the addresses", &error))?;
    ui.data(&answer, audit::audit)?;
    match answer.verdict.as_str() {
        "conflict" => Ok(ExitCode::from(AUDIT_CONFLICT)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// `weaved` may refuse as well; this much is asked here, since a person wants to know before anything is cut.
fn reset(client: &Client, request: ResetRequest, ui: &mut Ui) -> Result<(), Failure> {
    let failed = |error| Failure::of_call("reset", &error);
    if !request.force {
        let peers = client.peers().map_err(failed)?;
        let with_state =
            |states: &[&str]| peers.iter().filter(|peer| states.contains(&peer.state.as_str())).count();
        let lost = with_state(&["suspect", "dead"]) as u64;
        if lost > 0 && with_state(&["alive"]) == 0 {
            let others = plural(lost, "peer is", "peers are");
            return Err(Failure::new(TRY_AGAIN, "will not reset")
                .because(format!("{others} known and none can be reached to take this router's addresses"))
                .hint("`weavectl reset --force` leaves them behind; `weavectl rmpeer` on a peer then takes them"));
        }
    }
    let answer = client.reset(&request).map_err(failed)?;
    ui.data(&answer, |answer, _| {
        let heir = match &answer.heir {
            Some(heir) => format!("{heir} has the addresses"),
            None => "no peer has taken the addresses".to_owned(),
        };
        format!(
            "left the fabric: {} detached, {heir}\n",
            plural(answer.detached as u64, "container", "containers")
        )
    })
}

/// Works without `weaved` too, since that is when versions are asked for.
fn version(client: &Client, ui: &mut Ui) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let answer = client.version();
    let daemon = match &answer {
        Ok(version) => json!(version),
        Err(_) => serde_json::Value::Null,
    };
    let value = json!({ "weavectl": own, "weaved": daemon });
    ui.data(&value, |_, _| match &answer {
        Ok(version) => format!(
            "weavectl {own}\nweaved   {} (control protocol {}, wire protocol {})\n",
            version.version, version.api, version.wire
        ),
        Err(error) => format!("weavectl {own}\nweaved   unknown: {error}\n"),
    })
}
