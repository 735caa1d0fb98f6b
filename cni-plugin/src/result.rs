//! Results in all versions of the specification: read an earlier plugin's, add ours, write what the runtime asked for.
//!
//! Entries of an earlier result are kept as they are, unknown fields included; only what the target version lacks is left out.

use std::net::IpAddr;

use control::api::{Attachment, Nameserver};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::config::invalid;
use crate::error::CniError;
use crate::version::SpecVersion;

type Object = Map<String, Value>;

/// `RT_SCOPE_LINK`: the destination is on the link.
const SCOPE_LINK: u8 = 253;

/// A result, in the shape of the newest version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CniResult {
    interfaces: Vec<Object>,
    ips: Vec<Object>,
    routes: Vec<Object>,
    dns: Object,
}

impl CniResult {
    /// Read a `prevResult`, which may be of any version.
    pub(crate) fn parse(value: &Value) -> Result<CniResult, CniError> {
        let Value::Object(object) = value else {
            return Err(invalid(format!("`prevResult` is `{value}` (want an object)")));
        };
        let dns = match object.get("dns") {
            None | Some(Value::Null) => Object::new(),
            Some(Value::Object(dns)) => dns.clone(),
            Some(other) => return Err(invalid(format!("`prevResult.dns` is `{other}` (want an object)"))),
        };
        let mut result = CniResult { dns, ..CniResult::default() };
        // 0.1.0 and 0.2.0 have one object for each family; told by shape, since some callers leave the version out.
        for family in ["ip4", "ip6"] {
            if let Some(Value::Object(ip)) = object.get(family) {
                result.take_old(family, ip)?;
            }
        }
        result.interfaces = objects(object, "interfaces")?;
        result.ips.extend(objects(object, "ips")?);
        result.routes.extend(objects(object, "routes")?);
        for ip in &result.ips {
            address_of(ip)?;
            if let Some(index) = index_of(ip)
                && index >= result.interfaces.len()
            {
                let count = result.interfaces.len();
                return Err(invalid(format!("`prevResult.ips` refers to interface {index} of {count}")));
            }
        }
        Ok(result)
    }

    fn take_old(&mut self, family: &str, ip: &Object) -> Result<(), CniError> {
        let Some(address) = ip.get("ip") else {
            return Err(invalid(format!("`prevResult.{family}` has no `ip`")));
        };
        let mut new = Object::new();
        new.insert("address".into(), address.clone());
        if let Some(gateway) = ip.get("gateway").filter(|gateway| !gateway.is_null()) {
            new.insert("gateway".into(), gateway.clone());
        }
        self.ips.push(new);
        self.routes.extend(objects(ip, "routes")?);
        Ok(())
    }

    /// Add what `weaved` made: bridge, host end, container end, in this order.
    pub(crate) fn add(&mut self, attachment: &Attachment, sandbox: &str, dns: &Object) {
        let inside = self.interfaces.len() + 2;
        let entries = [
            json!({ "name": attachment.bridge, "mac": attachment.bridge_mac }),
            json!({ "name": attachment.host_ifname, "mac": attachment.host_mac, "mtu": attachment.mtu }),
            json!({ "name": attachment.ifname, "mac": attachment.mac, "mtu": attachment.mtu, "sandbox": sandbox }),
        ];
        self.interfaces.extend(entries.into_iter().map(object));
        let mut four = json!({ "address": attachment.address, "interface": inside });
        if let Some(gateway) = attachment.gateway {
            four["gateway"] = json!(gateway);
        }
        let mut six = json!({ "address": attachment.address6, "interface": inside });
        if let Some(gateway) = attachment.gateway6 {
            six["gateway"] = json!(gateway);
        }
        self.ips.extend([object(four), object(six)]);
        for route in &attachment.routes {
            let mut entry = json!({ "dst": route.dst });
            match route.gw {
                Some(gw) => entry["gw"] = json!(gw),
                // The specification: without a gateway the one of `ips` is meant, unless the scope says that there is none.
                None => entry["scope"] = json!(SCOPE_LINK),
            }
            self.routes.push(object(entry));
        }
        if self.dns.is_empty() {
            self.dns = dns.clone();
        }
        // Whoever names servers in the configuration wants those.
        if let (true, Some(server)) = (self.dns.is_empty(), &attachment.nameserver) {
            let Nameserver { address, domain } = server;
            self.dns = object(json!({ "nameservers": [address], "domain": domain, "search": [domain] }));
        }
    }

    /// Addresses of the interface `ifname` inside `sandbox`, with those that belong to no interface in particular; `None` when
    /// there is no such interface.
    pub(crate) fn addresses(&self, ifname: &str, sandbox: &str) -> Option<Vec<IpNet>> {
        let field = |entry: &Object, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        let inside = self.interfaces.iter().position(|entry| {
            field(entry, "name").as_deref() == Some(ifname)
                && field(entry, "sandbox").as_deref() == Some(sandbox)
        })?;
        let ours = |ip: &&Object| index_of(ip).is_none_or(|index| index == inside);
        Some(self.ips.iter().filter(ours).filter_map(|ip| address_of(ip).ok()).collect())
    }

    /// The addresses of an IPAM plugin's result, which belong to no interface yet.
    pub(crate) fn every_address(&self) -> impl Iterator<Item = IpNet> {
        self.ips.iter().filter_map(|ip| address_of(ip).ok())
    }

    /// The gateways of its addresses.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        let gateway = |ip: &Object| ip.get("gateway").and_then(Value::as_str)?.parse().ok();
        self.ips.iter().filter_map(gateway).collect()
    }

    /// Its routes; what is none is left out.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (IpNet, Option<IpAddr>)> {
        self.routes.iter().filter_map(|route| {
            let dst = route.get("dst").and_then(Value::as_str)?.parse().ok()?;
            Some((dst, route.get("gw").and_then(Value::as_str).and_then(|gw| gw.parse().ok())))
        })
    }

    /// Write it for a runtime that speaks `version`.
    pub(crate) fn to_json(&self, version: SpecVersion) -> String {
        let value = match version {
            SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => self.two_families(version),
            SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => {
                let with_family = |ip: &Object| {
                    let mut ip = ip.clone();
                    ip.insert("version".into(), family_of(&ip).into());
                    ip
                };
                self.lists(version, with_family, &["name", "mac", "sandbox"], &["dst", "gw"])
            }
            SpecVersion::V1_0_0 => {
                self.lists(version, without_family, &["name", "mac", "sandbox"], &["dst", "gw"])
            }
            SpecVersion::V1_1_0 => self.lists(version, without_family, &[], &[]),
        };
        value.to_string()
    }

    /// 0.1.0 and 0.2.0: the first address of each family, and its routes.
    fn two_families(&self, version: SpecVersion) -> Value {
        let mut value = json!({ "cniVersion": version.as_str(), "dns": self.dns });
        for (key, family) in [("ip4", "4"), ("ip6", "6")] {
            let Some(ip) = self.ips.iter().find(|ip| family_of(ip) == family) else { continue };
            let routes: Vec<Object> = self
                .routes
                .iter()
                .filter(|route| route_family(route) == Some(family))
                .map(|route| only(route, &["dst", "gw"]))
                .collect();
            let mut old = json!({ "ip": ip.get("address"), "routes": routes });
            if let Some(gateway) = ip.get("gateway") {
                old["gateway"] = gateway.clone();
            }
            value[key] = old;
        }
        value
    }

    fn lists(
        &self,
        version: SpecVersion,
        ip: impl Fn(&Object) -> Object,
        interface_keys: &[&str],
        route_keys: &[&str],
    ) -> Value {
        let interfaces: Vec<Object> =
            self.interfaces.iter().map(|entry| only(entry, interface_keys)).collect();
        let routes: Vec<Object> = self.routes.iter().map(|entry| only(entry, route_keys)).collect();
        let ips: Vec<Object> = self.ips.iter().map(ip).collect();
        json!({
            "cniVersion": version.as_str(),
            "interfaces": interfaces,
            "ips": ips,
            "routes": routes,
            "dns": self.dns,
        })
    }
}

fn without_family(ip: &Object) -> Object {
    let mut ip = ip.clone();
    ip.remove("version");
    ip
}

/// The entry with these keys alone, or with all when none is named.
fn only(entry: &Object, keys: &[&str]) -> Object {
    if keys.is_empty() {
        return entry.clone();
    }
    let kept = entry.iter().filter(|(key, _)| keys.contains(&key.as_str()));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn objects(parent: &Object, key: &str) -> Result<Vec<Object>, CniError> {
    let list = match parent.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(invalid(format!("`prevResult` has `{key}` `{other}` (want a list)"))),
    };
    list.iter()
        .map(|item| match item {
            Value::Object(object) => Ok(object.clone()),
            other => Err(invalid(format!("`prevResult` has `{other}` among `{key}` (want an object)"))),
        })
        .collect()
}

fn address_of(ip: &Object) -> Result<IpNet, CniError> {
    let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    text.parse().map_err(|_| invalid(format!("`prevResult` has the address `{text}` (want ADDRESS/LENGTH)")))
}

/// Index of the interface; absent or negative means none.
fn index_of(ip: &Object) -> Option<usize> {
    ip.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok())
}

fn family_of(ip: &Object) -> &'static str {
    match address_of(ip) {
        Ok(IpNet::V6(_)) => "6",
        Ok(IpNet::V4(_)) | Err(_) => "4",
    }
}

fn route_family(route: &Object) -> Option<&'static str> {
    match route.get("dst").and_then(Value::as_str)?.parse::<IpNet>().ok()? {
        IpNet::V4(_) => Some("4"),
        IpNet::V6(_) => Some("6"),
    }
}

/// For values that were written as objects a line above.
fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Object::new(),
    }
}
