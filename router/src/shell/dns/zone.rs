//! Which questions are the fabric's to answer, and how. Pure: the index comes in, a reply goes out.

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::message::{Authority, Question, Reply};
use super::options::Domain;
use crate::core::names::{DnsName, Found, NameIndex};

/// What this server is called, unless a container has that name.
const OWN_NAME: &str = "ns";
/// Refresh, retry and expire of the SOA record: nobody transfers this zone, so they mean nothing; values of RFC 1912.
const SOA_TIMES: (i32, i32, i32) = (3600, 600, 86_400);
/// Labels of `in-addr.arpa` and `ip6.arpa`.
const ARPA_LABELS: usize = 2;

/// The fabric's part of the name space.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    range: Ipv4Net,
    range6: Ipv6Net,
    address: Ipv4Addr,
    ttl: u32,
}

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// We do, so.
    Reply(Reply),
    /// Whoever knows other names.
    Forward,
}

impl Zone {
    /// `address` is where this server is found.
    pub fn new(domain: &Domain, ttl: u32, address: Ipv4Addr, range: Ipv4Net, range6: Ipv6Net) -> Zone {
        // Every name of ours is one of hickory's: it has the same letters and is shorter than 253 bytes.
        let domain = absolute(domain.name()).unwrap_or_else(Name::root);
        Zone { domain, range, range6, address, ttl }
    }

    /// Decides a question. `salt` mixes addresses, so that clients that take the first share the work among all.
    pub(super) fn answer(&self, question: &Question, names: &NameIndex, salt: u64) -> Verdict {
        let query = &question.query;
        match query.query_type {
            _ if query.query_class != DNSClass::IN => Verdict::Reply(Reply::bare(ResponseCode::Refused)),
            RecordType::AXFR | RecordType::IXFR => Verdict::Reply(Reply::bare(ResponseCode::Refused)),
            RecordType::OPT | RecordType::TSIG => Verdict::Reply(Reply::bare(ResponseCode::FormErr)),
            _ if self.domain.zone_of(&query.name) => Verdict::Reply(self.below(question, names, salt)),
            _ => match self.elsewhere(question, names, salt) {
                Some(reply) => Verdict::Reply(reply),
                // RFC 8482: nobody needs everything at once, and its size is what makes it worth abusing.
                None if query.query_type == RecordType::ANY => Verdict::Reply(self.minimal(&query.name)),
                None => Verdict::Forward,
            },
        }
    }

    /// Names of the domain.
    fn below(&self, question: &Question, names: &NameIndex, salt: u64) -> Reply {
        let name = &question.query.name;
        let kind = question.query.query_type;
        // `num_labels` leaves `*` out, which is a label like others here.
        let depth = name.iter().count() - self.domain.iter().count();
        if depth == 0 {
            return match kind {
                RecordType::SOA => self.ours(vec![self.soa(name)]),
                RecordType::NS => match self.domain.prepend_label(OWN_NAME) {
                    Ok(own) => {
                        self.ours(vec![Record::from_rdata(name.clone(), self.ttl, RData::NS(NS(own)))])
                    }
                    Err(_) => self.nothing(&self.domain, ResponseCode::NoError),
                },
                RecordType::ANY => self.minimal(name),
                _ => self.nothing(&self.domain, ResponseCode::NoError),
            };
        }
        // What has other letters than names may have is the name of nobody.
        let Some(relative) = relative(name.iter().take(depth)) else {
            return self.nothing(&self.domain, ResponseCode::NXDomain);
        };
        match names.find(&relative) {
            Found::Addresses(addresses) => self.addresses(name, kind, addresses, salt),
            Found::NamesBelow => self.nothing(&self.domain, ResponseCode::NoError),
            Found::Nothing if relative.as_str() == OWN_NAME => {
                self.addresses(name, kind, vec![self.address.into()], salt)
            }
            Found::Nothing => self.nothing(&self.domain, ResponseCode::NXDomain),
        }
    }

    /// Names outside of the domain that are ours all the same: addresses of the fabric backwards, and bare names, for containers that do
    /// not know the domain.
    fn elsewhere(&self, question: &Question, names: &NameIndex, salt: u64) -> Option<Reply> {
        let (name, kind) = (&question.query.name, question.query.query_type);
        if name.is_localhost() {
            // RFC 6761 section 6.3: this question must not leave.
            let itself = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
            return Some(self.addresses(name, kind, itself.to_vec(), salt));
        }
        if name.iter().count() == 1 {
            return match names.find(&relative(name.iter())?) {
                Found::Addresses(addresses) => Some(self.addresses(name, kind, addresses, salt)),
                Found::NamesBelow | Found::Nothing => None,
            };
        }
        self.backwards(name, kind, names)
    }

    /// `in-addr.arpa` and `ip6.arpa`.
    fn backwards(&self, name: &Name, kind: RecordType, names: &NameIndex) -> Option<Reply> {
        let net = name.parse_arpa_name().ok()?;
        let (ours, zone_labels) = match net {
            IpNet::V4(net) => (self.range.contains(&net), self.range.prefix_len().div_ceil(8)),
            IpNet::V6(net) => (self.range6.contains(&net), self.range6.prefix_len().div_ceil(4)),
        };
        let zone = name.trim_to(usize::from(zone_labels) + ARPA_LABELS);
        if net.prefix_len() < net.max_prefix_len() {
            // Part of an address: what is below it may be there.
            return ours.then(|| self.nothing(&zone, ResponseCode::NoError));
        }
        let mut found: Vec<Name> =
            names.names_of(net.addr()).iter().filter_map(|name| self.full(name)).collect();
        if found.is_empty() && net.addr() == IpAddr::V4(self.address) {
            found.extend(self.domain.prepend_label(OWN_NAME));
        }
        match (found.is_empty(), kind) {
            (true, _) => ours.then(|| self.nothing(&zone, ResponseCode::NXDomain)),
            (false, RecordType::PTR) => {
                let record = |found| Record::from_rdata(name.clone(), self.ttl, RData::PTR(PTR(found)));
                Some(self.ours(found.into_iter().map(record).collect()))
            }
            (false, RecordType::ANY) => Some(self.minimal(name)),
            (false, _) => Some(self.nothing(&zone, ResponseCode::NoError)),
        }
    }

    fn addresses(&self, name: &Name, kind: RecordType, mut addresses: Vec<IpAddr>, salt: u64) -> Reply {
        shuffle(&mut addresses, salt);
        let data = |address: IpAddr| match (address, kind) {
            (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(v4))),
            (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(v6))),
            (IpAddr::V4(_) | IpAddr::V6(_), _) => None,
        };
        let records = addresses.into_iter().filter_map(data);
        let records: Vec<Record> =
            records.map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect();
        match (records.is_empty(), kind) {
            (false, _) => self.ours(records),
            (true, RecordType::ANY) => self.minimal(name),
            (true, _) => self.nothing(&self.domain, ResponseCode::NoError),
        }
    }

    fn ours(&self, answers: Vec<Record>) -> Reply {
        Reply { code: ResponseCode::NoError, authority: Authority::Ours, answers, authorities: Vec::new() }
    }

    /// RFC 2308: the SOA record says for how long there is nothing.
    fn nothing(&self, zone: &Name, code: ResponseCode) -> Reply {
        Reply { code, authority: Authority::Ours, answers: Vec::new(), authorities: vec![self.soa(zone)] }
    }

    /// RFC 8482 section 4.2.
    fn minimal(&self, name: &Name) -> Reply {
        let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        self.ours(vec![Record::from_rdata(name.clone(), self.ttl, data)])
    }

    fn soa(&self, zone: &Name) -> Record {
        let within = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| self.domain.clone());
        let (refresh, retry, expire) = SOA_TIMES;
        let data = SOA::new(within(OWN_NAME), within("hostmaster"), 1, refresh, retry, expire, self.ttl);
        Record::from_rdata(zone.clone(), self.ttl, RData::SOA(data))
    }

    fn full(&self, name: &DnsName) -> Option<Name> {
        absolute(name)?.append_domain(&self.domain).ok().or_else(|| {
            // `append_domain` leaves names alone that have a dot at their end.
            let mut relative = Name::from_ascii(name.as_str()).ok()?;
            relative.set_fqdn(false);
            relative.append_domain(&self.domain).ok()
        })
    }
}

/// The labels as one of our names, if they can be one.
fn relative<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<DnsName> {
    let labels: Option<Vec<&str>> = labels.map(|label| std::str::from_utf8(label).ok()).collect();
    // A label with a dot in it would read as two.
    let labels = labels.filter(|labels| labels.iter().all(|label| !label.contains('.')))?;
    labels.join(".").parse().ok()
}

fn absolute(name: &DnsName) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

/// Fisher and Yates, with the generator of Steele, Lea and Flood (splitmix64).
fn shuffle(addresses: &mut [IpAddr], mut salt: u64) {
    for end in (1..addresses.len()).rev() {
        salt = salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = salt;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        addresses.swap(end, (mixed % (end as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gossip::PeerId;

    use super::*;
    use crate::core::names::Said;
    use crate::shell::dns::message::tests::question;
    use crate::shell::dns::options::DEFAULT_ADDRESS;

    fn zone() -> Zone {
        let (range, range6) = ("10.32.0.0/12".parse().expect("v4"), "fd00:1:2::/64".parse().expect("v6"));
        Zone::new(&Domain::default(), 1, DEFAULT_ADDRESS, range, range6)
    }

    fn names() -> NameIndex {
        let mut names = NameIndex::new(PeerId([1; 16]));
        let mut say = |record: u8, all: &[&str], addresses: &[&str]| {
            let all = all.iter().map(|name| name.parse().expect("name"));
            let addresses = addresses.iter().map(|address| address.parse().expect("address"));
            names.say(PeerId([1; 16]), &[record], Said::new(all, addresses).expect("fits"));
        };
        say(1, &["web", "web.team"], &["10.32.0.1", "fd00:1:2::a20:1"]);
        say(2, &["web"], &["10.32.0.2"]);
        say(3, &["outside"], &["192.0.2.7"]);
        names
    }

    /// Code, and what the sections hold.
    fn told(name: &str, kind: RecordType) -> String {
        match zone().answer(&question(name, kind), &names(), 7) {
            Verdict::Forward => "forward".to_owned(),
            Verdict::Reply(reply) => {
                let mut data: Vec<String> =
                    reply.answers.iter().map(|record| record.data.to_string()).collect();
                data.sort();
                let soa = reply.authorities.iter().map(|record| format!("; soa of {}", record.name)).next();
                let ours = if reply.authority == Authority::Ours { "" } else { " of nobody" };
                format!("{:?}{ours}: {}{}", reply.code, data.join(" "), soa.unwrap_or_default())
            }
        }
    }

    #[test]
    fn names_of_the_domain() {
        use RecordType::{A, AAAA, ANY, MX, NS, SOA, TXT};
        for (name, kind, want) in [
            ("web.weave.local.", A, "NoError: 10.32.0.1 10.32.0.2"),
            ("WEB.Weave.Local.", A, "NoError: 10.32.0.1 10.32.0.2"),
            ("web.weave.local.", AAAA, "NoError: fd00:1:2::a20:1"),
            ("web.team.weave.local.", A, "NoError: 10.32.0.1"),
            ("web.weave.local.", MX, "NoError: ; soa of weave.local."),
            ("outside.weave.local.", AAAA, "NoError: ; soa of weave.local."),
            ("team.weave.local.", A, "NoError: ; soa of weave.local."),
            ("web.weave.local.", ANY, "NoError: RFC8482 "),
            ("nobody.weave.local.", A, "NXDomain: ; soa of weave.local."),
            ("a.web.weave.local.", TXT, "NXDomain: ; soa of weave.local."),
            (r"a\.web.weave.local.", A, "NXDomain: ; soa of weave.local."),
            ("*.weave.local.", A, "NXDomain: ; soa of weave.local."),
            ("weave.local.", A, "NoError: ; soa of weave.local."),
            ("weave.local.", NS, "NoError: ns.weave.local."),
            ("ns.weave.local.", A, "NoError: 169.254.67.83"),
            ("weave.local.", SOA, "NoError: ns.weave.local. hostmaster.weave.local. 1 3600 600 86400 1"),
        ] {
            assert_eq!(told(name, kind), want, "{name} {kind}");
        }
    }

    #[test]
    fn names_outside_of_the_domain() {
        use RecordType::{A, AAAA, ANY, AXFR, PTR};
        for (name, kind, want) in [
            ("web.", A, "NoError: 10.32.0.1 10.32.0.2"),
            ("web.", AAAA, "NoError: fd00:1:2::a20:1"),
            ("nobody.", A, "forward"),
            ("team.", A, "forward"),
            ("web.example.com.", A, "forward"),
            ("local.", A, "forward"),
            ("localhost.", A, "NoError: 127.0.0.1"),
            ("example.com.", ANY, "NoError: RFC8482 "),
            ("weave.local.", AXFR, "Refused of nobody: "),
            ("1.0.32.10.in-addr.arpa.", PTR, "NoError: web.team.weave.local. web.weave.local."),
            ("9.0.32.10.in-addr.arpa.", PTR, "NXDomain: ; soa of 32.10.in-addr.arpa."),
            ("1.0.32.10.in-addr.arpa.", A, "NoError: ; soa of 32.10.in-addr.arpa."),
            ("0.32.10.in-addr.arpa.", PTR, "NoError: ; soa of 32.10.in-addr.arpa."),
            ("10.in-addr.arpa.", PTR, "forward"),
            ("1.2.0.192.in-addr.arpa.", PTR, "forward"),
            ("7.2.0.192.in-addr.arpa.", PTR, "NoError: outside.weave.local."),
            ("83.67.254.169.in-addr.arpa.", PTR, "NoError: ns.weave.local."),
            (
                "1.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.",
                PTR,
                "NoError: web.team.weave.local. web.weave.local.",
            ),
            (
                "2.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.",
                PTR,
                "NXDomain: ; soa of 0.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.",
            ),
        ] {
            assert_eq!(told(name, kind), want, "{name} {kind}");
        }
    }

    #[test]
    fn every_address_comes_first_for_somebody() {
        let firsts: BTreeSet<String> = (0..64)
            .filter_map(|salt| {
                match zone().answer(&question("web.weave.local.", RecordType::A), &names(), salt) {
                    Verdict::Reply(reply) => reply.answers.first().map(|record| record.data.to_string()),
                    Verdict::Forward => None,
                }
            })
            .collect();
        assert_eq!(firsts.len(), 2, "{firsts:?}");
    }
}
