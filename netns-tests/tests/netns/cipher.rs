//! Which cipher seals the containers' traffic: what both routers offer decides, and the status shows it.

use lab::Host;

use crate::support::{hosts, one_each, reaches, same};

#[test]
fn a_router_that_offers_no_aes_gets_chacha_from_one_that_does() {
    hosts(2, |lab| {
        lab.host(1).start_weaved(&["--cipher", "aes-256-gcm"])?;
        lab.host(2).start_weaved(&["--cipher", "chacha20-poly1305"])?;
        let token = lab.host(1).up(&[])?;
        lab.host(2).join(&token)?;
        lab.wait_complete()?;
        let containers = one_each(lab)?;
        reaches(&containers[0], &containers[1])?;
        for host in lab.hosts() {
            same("ciphers in use", &host.ciphers()?, &vec!["chacha20-poly1305".to_owned()])?;
        }
        Ok(())
    });
}

#[test]
fn aes_is_used_where_both_offer_it() {
    hosts(2, |lab| {
        lab.start_all(&["--cipher", "aes-256-gcm"])?;
        let token = lab.host(1).up(&[])?;
        lab.host(2).join(&token)?;
        lab.wait_complete()?;
        let ciphers: Result<Vec<_>, _> = lab.hosts().iter().map(Host::ciphers).collect();
        same("ciphers in use", &ciphers?.concat(), &vec!["aes-256-gcm".to_owned(); 2])
    });
}
