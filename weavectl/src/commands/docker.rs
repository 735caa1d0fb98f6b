//! `setup docker`: a network of the fabric, made by Docker's own API.

use std::net::Ipv4Addr;

use control::Client;
use ipnet::Ipv4Net;
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::SetupDockerArgs;
use crate::engine::Engine;
use crate::failure::{CONFLICT, Failure, USAGE};
use crate::ui::Ui;

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    network: String,
    id: String,
    subnet: Ipv4Net,
    changed: bool,
    /// Where containers ask for names, and the domain.
    #[serde(skip)]
    names: Option<(Ipv4Addr, String)>,
}

/// Makes the network, unless it is there.
pub(crate) fn setup(client: &Client, args: &SetupDockerArgs, ui: &mut Ui) -> Result<(), Failure> {
    let ipam = client.ipam().map_err(|error| Failure::of_call("learn the fabric's range", &error))?;
    let range = ipam.summary.range.trunc();
    let subnet = args.subnet.unwrap_or(range).trunc();
    if !range.contains(&subnet) {
        return Err(Failure::new(USAGE, format!("{subnet} is not part of the fabric's range {range}"))
            .hint("`weavectl setup docker --subnet CIDR` with a part of that range"));
    }
    let engine = Engine::new(&args.docker_socket)?;
    let (network, changed) = match engine.network(&args.network)? {
        Some(network) => (network, false),
        None => {
            engine.create_network(&wish(args, subnet, ipam.summary.range6.trunc().to_string()))?;
            let made = engine.network(&args.network)?;
            (made.unwrap_or_default(), true)
        }
    };
    if !changed {
        check(args, subnet, &network)?;
    }
    let id = network["Id"].as_str().unwrap_or_default().to_owned();
    // The network is made, with names or without.
    let dns = client.status().ok().and_then(|status| status.dns);
    let names = dns.and_then(|dns| Some((dns.address?, dns.domain)));
    let done = Done { network: args.network.clone(), id, subnet, changed, names };
    ui.data(&done, |done, _| {
        let what = if done.changed { "made" } else { "is there:" };
        let names =
            done.names.as_ref().map(|(address, domain)| format!(" --dns {address} --dns-search {domain}"));
        let names = names.unwrap_or_default();
        format!(
            "{what} network `{0}` of {1}; docker run --network {0}{names} ...\n",
            done.network, done.subnet
        )
    })
}

fn wish(args: &SetupDockerArgs, subnet: Ipv4Net, prefix6: String) -> Value {
    let mut subnets = vec![json!({ "Subnet": subnet })];
    if args.ipv6 {
        subnets.push(json!({ "Subnet": prefix6 }));
    }
    json!({
        "Name": args.network,
        "CheckDuplicate": true,
        "Driver": args.driver,
        "EnableIPv6": args.ipv6,
        "Internal": args.internal,
        "IPAM": { "Driver": args.driver, "Config": subnets },
    })
}

/// A network of that name is what was asked for, or somebody else's.
fn check(args: &SetupDockerArgs, subnet: Ipv4Net, network: &Value) -> Result<(), Failure> {
    let subnets = network["IPAM"]["Config"].as_array().into_iter().flatten();
    let mut subnets = subnets.filter_map(|one| one["Subnet"].as_str());
    let shown = subnet.to_string();
    let differs = [
        ("driver", network["Driver"].as_str().unwrap_or("none").to_owned(), args.driver.clone()),
        ("IPAM driver", network["IPAM"]["Driver"].as_str().unwrap_or("none").to_owned(), args.driver.clone()),
        ("subnet", subnets.find(|one| **one == shown).unwrap_or("another").to_owned(), shown.clone()),
        ("IPv6", network["EnableIPv6"].as_bool().unwrap_or_default().to_string(), args.ipv6.to_string()),
        (
            "internal",
            network["Internal"].as_bool().unwrap_or_default().to_string(),
            args.internal.to_string(),
        ),
    ];
    let differs = differs.into_iter().filter(|(_, got, want)| got != want);
    let differs: Vec<String> =
        differs.map(|(what, got, want)| format!("{what} is {got}, not {want}")).collect();
    if differs.is_empty() {
        return Ok(());
    }
    Err(Failure::new(CONFLICT, format!("Docker has a network `{}` that is another one", args.network))
        .because(differs.join("; "))
        .hint(format!(
            "`docker network rm {0}`, then the command again; or keep it and choose another name with `--network NAME`",
            args.network
        )))
}
