//! What to type when the demonstration is left running.

use lab::{Container, Lab};

use crate::ui::Ui;

/// Prints commands that can be pasted as they are.
pub(crate) fn how_to_play(ui: &Ui, lab: &Lab, containers: &[Container]) {
    ui.chapter("It goes on running: how to play with it");
    let ctl = |index: usize| {
        let host = lab.host(index);
        format!("{} --socket {}", host.programs().weavectl.display(), host.socket().display())
    };
    ui.say("Ask the router of h1:");
    ui.command(format!("{} status", ctl(1)));
    ui.command(format!("{} status peers", ctl(1)));
    ui.command(format!("{} ping h3", ctl(1)));
    let pair = (containers.first(), containers.last());
    if let (Some(from), Some(to)) = pair
        && let (Ok(v4), Ok(v6)) = (to.ipv4(), to.ipv6())
    {
        let enter = format!("nsenter --net={}", from.ns().path().display());
        ui.say(format!("Be in {} (host {}):", from.id(), from.host().nickname()));
        ui.command(format!("{enter} ping {v4}"));
        ui.command(format!("{enter} ping {v6}"));
        ui.command(format!("{enter} ip address"));
    }
    ui.say("Look at the wire between the hosts:");
    ui.command(format!("nsenter --net=/run/netns/{}-sw tcpdump -ni br0", lab.run()));
    ui.say(format!("Read the log of h2: {}", lab.host(2).log().display()));
    ui.say("Remove everything:");
    ui.command("cargo xtask demo --clean");
}
