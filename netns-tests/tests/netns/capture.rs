//! Nothing of what containers say to each other stands on the wire between their hosts.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};
use lab::{Capture, Ping, payload, transfer};

use crate::support::{fabric, figure, one_each, reaches};

/// Stands between random bytes; looked for on the wire.
const MARK: &[u8] = b"READ-THIS-AND-YOU-READ-ALONG";

/// Sent from host to host unsealed, so that the capture has something to find.
const LOUD: &[u8] = b"SAID-ALOUD-ON-PURPOSE";

#[test]
fn known_plaintext_is_not_found_on_the_wire() {
    fabric(2, |lab| {
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        let document = document();
        let capture = Capture::start(lab.wire()?.switch())?;
        for address in containers[1].addresses()? {
            transfer(containers[0].ns(), containers[1].ns(), address, &document)?;
            Ping { size: 900, ..Ping::default() }.expect_all(containers[0].ns(), address)?;
            say(containers[0].ns(), address, MARK)?;
        }
        say(lab.host(1).ns(), IpAddr::V4(lab.host(2).address()), LOUD)?;
        let captured = capture.stop()?;
        if captured.count(LOUD) == 0 || captured.bytes.len() < 2 * document.len() {
            bail!("the capture saw {} bytes and not what was said aloud", captured.bytes.len());
        }
        // The mark, stretches of the random bytes, and the headers by which one would know who talks to whom.
        let mut patterns = vec![MARK.to_vec()];
        patterns.extend(document.chunks(100_000).map(|chunk| chunk[..16].to_vec()));
        patterns.extend(addresses(&containers[0], &containers[1])?);
        for pattern in &patterns {
            let found = captured.count(pattern);
            if found > 0 {
                bail!("{:?} was found {found} times", String::from_utf8_lossy(pattern));
            }
        }
        let megabytes = captured.bytes.len() >> 20;
        figure("captured", &format!("{megabytes} MiB, {} patterns, 0 found", patterns.len()));
        Ok(())
    });
}

/// Two megabytes of random bytes with the mark in each kilobyte.
fn document() -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in payload(11, 2 << 20).chunks(1000) {
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(MARK);
    }
    bytes
}

/// Source and destination address beside each other, as in a header.
fn addresses(from: &lab::Container, to: &lab::Container) -> Result<Vec<Vec<u8>>> {
    let v4 = [from.ipv4()?.octets(), to.ipv4()?.octets()].concat();
    let v6 = [from.ipv6()?.octets(), to.ipv6()?.octets()].concat();
    Ok(vec![v4, v6])
}

/// One datagram that nobody waits for.
fn say(ns: &lab::NetNs, to: IpAddr, bytes: &[u8]) -> Result<()> {
    let socket = ns.enter(|| UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }))?;
    socket.context("cannot bind")?.send_to(bytes, SocketAddr::new(to, 9)).map(drop).context("cannot send")
}
