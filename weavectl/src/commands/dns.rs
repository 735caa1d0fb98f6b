//! `dns add`, `dns remove` and `dns lookup`.

use control::Client;
use control::dns::{DnsAddRequest, DnsAdded, DnsRemoveRequest};

use crate::args::Names;
use crate::failure::Failure;
use crate::render::names;
use crate::ui::Ui;

/// Run one of them.
pub(crate) fn dns(client: &Client, what: Names, ui: &mut Ui) -> Result<(), Failure> {
    match what {
        Names::Add { name, addresses } => {
            let failed = |error| Failure::of_call(&format!("add `{name}`"), &error);
            let request = DnsAddRequest { name: name.clone(), addresses };
            let answer = client.dns_add(&request).map_err(failed)?;
            ui.data(&answer, |answer, _| added(answer))
        }
        Names::Remove { name, addresses } => {
            let failed = |error| Failure::of_call(&format!("remove `{name}`"), &error);
            let request = DnsRemoveRequest { name: name.clone(), addresses };
            let answer = client.dns_remove(&request).map_err(failed)?;
            ui.data(&answer, |answer, _| added(answer))
        }
        Names::Lookup { name } => {
            let failed = |error| Failure::of_call(&format!("look up `{name}`"), &error);
            let answer = client.dns_lookup(&name).map_err(failed)?;
            ui.data(&answer, names::lookup)
        }
    }
}

/// What stands there after the change.
fn added(answer: &DnsAdded) -> String {
    let addresses: Vec<String> = answer.addresses.iter().map(ToString::to_string).collect();
    match addresses.as_slice() {
        [] => format!("{} is removed here\n", answer.name),
        addresses => format!("{} {}\n", answer.name, addresses.join(" ")),
    }
}
