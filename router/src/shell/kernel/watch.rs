//! Hearing from the kernel that somebody changed what we look after. Events are hints to look again, not a record of what happened.

use netlink_packet_core::NetlinkPayload;
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, nftables::NfTablesMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use tokio::sync::mpsc;

use super::{
    error::{KernelError, Result},
    links::Link,
    spec::PORT_PREFIX,
    wire::{frames, parse},
};

/// `RTNLGRP_LINK`.
const LINK_GROUP: u32 = 1;
/// `NFNLGRP_NFTABLES`.
const NFTABLES_GROUP: u32 = 7;

/// Events that may wait for the caller. It reconciles everything at once, so a few are as good as many; what does not fit is shed,
/// since those that wait already say "look again".
const QUEUE: usize = 64;

/// Something changed that was not us (or, for devices, may have been).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// Another program changed nftables.
    Nftables,
    /// The bridge, the TAP device or a port appeared or changed.
    LinkChanged {
        /// Name of the device.
        ifname: String,
    },
    /// The bridge, the TAP device or a port is gone.
    LinkGone {
        /// Name of the device.
        ifname: String,
    },
    /// The kernel had more events than the socket could hold; anything may have changed.
    Overrun,
}

/// Events of one [`super::Kernel`]; ends when dropped.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<KernelEvent>,
}

impl Watch {
    /// The next event; `None` when the sockets failed for good.
    pub async fn next(&mut self) -> Option<KernelEvent> {
        self.events.recv().await
    }
}

/// Starts listening. `own_port` is the address of the socket with which we change nftables.
pub(super) fn start(bridge: &str, own_port: u32) -> Result<Watch> {
    let links = open(NETLINK_ROUTE, LINK_GROUP)?;
    let nftables = open(NETLINK_NETFILTER, NFTABLES_GROUP)?;
    let (sender, events) = mpsc::channel(QUEUE);
    let bridge = bridge.to_owned();
    tokio::spawn(listen(links, sender.clone(), move |bytes| link_event(&bridge, bytes)));
    tokio::spawn(listen(nftables, sender, move |bytes| nftables_event(own_port, bytes)));
    Ok(Watch { events })
}

fn open(protocol: isize, group: u32) -> Result<TokioSocket> {
    let refused = |errno| KernelError::refused("subscribe to netlink protocol", protocol.to_string(), errno);
    let mut socket = TokioSocket::new(protocol).map_err(refused)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0)).map_err(refused)?;
    socket.socket_mut().add_membership(group).map_err(refused)?;
    Ok(socket)
}

async fn listen<F>(socket: TokioSocket, sender: mpsc::Sender<KernelEvent>, read: F)
where
    F: Fn(&[u8]) -> Vec<KernelEvent> + Send,
{
    loop {
        let received = tokio::select! {
            () = sender.closed() => return,
            received = socket.recv_from_full() => received,
        };
        let events = match received {
            // Only the kernel is port 0; any process may send to a port.
            Ok((bytes, from)) if from.port_number() == 0 => read(&bytes),
            Ok(_) => Vec::new(),
            Err(errno) if errno.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                vec![KernelEvent::Overrun]
            }
            Err(error) => {
                tracing::warn!(%error, "netlink notifications ended");
                return;
            }
        };
        for event in events {
            if let Err(mpsc::error::TrySendError::Full(event)) = sender.try_send(event) {
                tracing::debug!(?event, "shed a kernel event: earlier ones are still waiting");
            }
        }
    }
}

fn link_event(bridge: &str, bytes: &[u8]) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    for frame in frames(bytes) {
        let Some(NetlinkPayload::InnerMessage(message)) = parse::<RouteNetlinkMessage>(&frame) else {
            continue;
        };
        let (link, gone) = match message {
            RouteNetlinkMessage::NewLink(message) => (Link::from(message), false),
            RouteNetlinkMessage::DelLink(message) => (Link::from(message), true),
            _ => continue,
        };
        // Whatever hangs on any bridge: to know ours by its index would need a look-up for each event.
        let ours = link.name == bridge || link.name.starts_with(PORT_PREFIX) || link.master.is_some();
        if ours {
            let ifname = link.name;
            events.push(if gone {
                KernelEvent::LinkGone { ifname }
            } else {
                KernelEvent::LinkChanged { ifname }
            });
        }
    }
    events.dedup();
    events
}

/// A transaction ends with the number of the new generation, sent in the name of the socket that made it.
fn nftables_event(own_port: u32, bytes: &[u8]) -> Vec<KernelEvent> {
    let foreign = frames(bytes).any(|frame| {
        let port = frame.port_number();
        let Some(NetlinkPayload::InnerMessage(message)) = parse::<NetfilterMessage>(&frame) else {
            return false;
        };
        match message.inner {
            NetfilterMessageInner::NfTables(NfTablesMessage::NewGen(_)) => port != own_port,
            _ => false,
        }
    });
    if foreign { vec![KernelEvent::Nftables] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::{
        NetfilterHeader, NetfilterProtoFamily,
        nftables::{GenAttribute, GenMessage},
    };

    use super::*;
    use crate::shell::kernel::{links, wire::append};

    #[test]
    fn own_changes_of_nftables_are_no_news() {
        let inner = NfTablesMessage::NewGen(GenMessage { attributes: vec![GenAttribute::Id(9)] });
        let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
        let mut bytes = Vec::new();
        append(&mut bytes, NetfilterMessage::new(header, inner), 0, 1);
        bytes[12..16].copy_from_slice(&77u32.to_ne_bytes());
        assert_eq!(nftables_event(77, &bytes), []);
        assert_eq!(nftables_event(78, &bytes), [KernelEvent::Nftables]);
    }

    #[test]
    fn only_devices_of_the_fabric_are_news() {
        let event = |name: &str| {
            let mut bytes = Vec::new();
            append(&mut bytes, RouteNetlinkMessage::DelLink(links::named(name)), 0, 1);
            link_event("weave0", &bytes)
        };
        assert_eq!(event("eth0"), []);
        for ours in ["weave0", "vw0123456789a"] {
            assert_eq!(event(ours), [KernelEvent::LinkGone { ifname: ours.to_owned() }]);
        }
    }
}
