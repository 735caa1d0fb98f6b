//! What a runtime wants of an attachment: address, MAC address, name, routes, MTU; gathered from the four places that may say so.
//!
//! Precedence, CNI conventions: `runtimeConfig`, then `args.cni`, then `CNI_ARGS`. Keys of `runtimeConfig` are compared without
//! case, since containerd and Nomad write them as Go spells its fields.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::api::Route;
use serde_json::{Map, Value};

use crate::config::{Config, invalid};
use crate::environment::{Environment, invalid as invalid_environment};
use crate::error::{CniError, Code};

/// Least MTU: every container has an IPv6 address, and RFC 8200 section 5 wants 1280 for it.
const MIN_MTU: u32 = 1280;

/// Longest Ethernet frame payload that Linux takes.
const MAX_MTU: u32 = 65_535;

/// The namespace of whoever names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Keys of `CNI_ARGS` that are known without being used.
const KNOWN_ARGS: [&str; 2] = ["K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"];

/// The wishes of one ADD.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) address6: Option<Ipv6Addr>,
    pub(crate) mac: Option<String>,
    pub(crate) name: Option<String>,
    /// By which others find it.
    pub(crate) names: Vec<String>,
    pub(crate) routes: Option<Vec<Route>>,
    pub(crate) mtu: Option<u32>,
}

impl Wish {
    /// Gather them.
    pub(crate) fn of(environment: &Environment, config: &Config) -> Result<Wish, CniError> {
        let args = CniArgs::parse(&environment.args)?;
        let ips = strings(&config.runtime, "ips")?.or(strings(&config.args, "ips")?);
        let ips = ips.or(args.ip.map(|text| vec![text]));
        let (address, address6) = one_of_each(&ips.unwrap_or_default())?;
        let mac = match string(&config.runtime, "mac")?.or(string(&config.args, "mac")?).or(args.mac) {
            Some(text) => Some(unicast_mac(&text)?),
            None => None,
        };
        let mut names = args.names;
        names.extend(aliases(config)?);
        let (routes, mtu) = (routes(config), mtu(config)?);
        Ok(Wish { address, address6, mac, name: args.name, names, routes, mtu })
    }
}

/// Capability `aliases`: a list, or, as Docker's world has it, a list for each network.
fn aliases(config: &Config) -> Result<Vec<String>, CniError> {
    match lookup(&config.runtime, "aliases") {
        Some(Value::Object(networks)) => Ok(strings(networks, &config.name)?.unwrap_or_default()),
        _ => Ok(strings(&config.runtime, "aliases")?.unwrap_or_default()),
    }
}

fn routes(config: &Config) -> Option<Vec<Route>> {
    let wanted = config.ipam.routes.as_ref()?;
    Some(wanted.iter().map(|route| Route { dst: route.dst, gw: route.gw }).collect())
}

fn mtu(config: &Config) -> Result<Option<u32>, CniError> {
    match config.mtu {
        // The reference plugins say "the default" by 0.
        None | Some(0) => Ok(None),
        Some(mtu) if (MIN_MTU..=MAX_MTU).contains(&mtu) => Ok(Some(mtu)),
        Some(mtu) => Err(invalid(format!("`mtu` is {mtu} (want {MIN_MTU} to {MAX_MTU})"))),
    }
}

/// The one address of each family among `ips`. Podman names the same address twice, and both families when it reloads.
fn one_of_each(ips: &[String]) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), CniError> {
    let (mut four, mut six) = (None, None);
    for text in ips {
        let bare = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
        match bare.parse() {
            Ok(IpAddr::V4(address)) => only_one(&mut four, address)?,
            Ok(IpAddr::V6(address)) => only_one(&mut six, address)?,
            Err(_) => return Err(invalid(format!("`{text}` is not an IP address (of `ips` or `IP`)"))),
        }
    }
    Ok((four, six))
}

fn only_one<T: PartialEq + Copy + Display>(found: &mut Option<T>, address: T) -> Result<(), CniError> {
    match found.replace(address) {
        Some(first) if first != address => {
            let message =
                format!("`ips` has `{first}` and `{address}`, and an interface gets one of each family");
            Err(CniError::new(Code::UnsupportedField, message))
        }
        Some(_) | None => Ok(()),
    }
}

/// A MAC address as `weaved` writes them.
fn unicast_mac(text: &str) -> Result<String, CniError> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let bytes: Option<Vec<u8>> = parts
        .iter()
        .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
        .collect();
    match bytes.as_deref() {
        Some(&[first, _, _, _, _, _]) if first & 1 == 0 && parts.iter().any(|part| *part != "00") => {
            Ok(parts.join(":").to_ascii_lowercase())
        }
        Some(_) | None => Err(invalid(format!("`{text}` is not the MAC address of one interface"))),
    }
}

/// `CNI_ARGS`, `K=V;K=V`.
#[derive(Debug, Default)]
struct CniArgs {
    ip: Option<String>,
    mac: Option<String>,
    name: Option<String>,
    names: Vec<String>,
}

impl CniArgs {
    fn parse(text: &str) -> Result<CniArgs, CniError> {
        let (mut args, mut namespace, mut pod) = (CniArgs::default(), "", "");
        let (mut unknown, mut ignore_unknown) = (Vec::new(), false);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid_environment(format!("CNI_ARGS has `{pair}` (want KEY=VALUE)")));
            };
            match key {
                "IgnoreUnknown" => ignore_unknown = matches!(value, "1" | "true" | "TRUE" | "True"),
                "IP" if !value.is_empty() => args.ip = Some(value.to_owned()),
                "MAC" if !value.is_empty() => args.mac = Some(value.to_owned()),
                "IP" | "MAC" => {}
                "K8S_POD_NAMESPACE" => namespace = value,
                "K8S_POD_NAME" => pod = value,
                other if KNOWN_ARGS.contains(&other) => {}
                other => unknown.push(other),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(invalid_environment(format!("CNI_ARGS has unknown keys: {}", unknown.join(", ")))
                .hint("`IgnoreUnknown=1` in CNI_ARGS lets them pass"));
        }
        args.name = match (namespace, pod) {
            // The clean-up calls of old kubelets leave both empty.
            (_, "") => None,
            ("", pod) => Some(pod.to_owned()),
            (namespace, pod) => Some(format!("{namespace}/{pod}")),
        };
        args.names = names(namespace, pod);
        Ok(args)
    }
}

/// By what others find a pod: `POD.NAMESPACE`, and `POD` alone where nobody else of another namespace would be meant. Podman gives a
/// container's name as both.
fn names(namespace: &str, pod: &str) -> Vec<String> {
    match (namespace, pod) {
        (_, "") => Vec::new(),
        ("", pod) => vec![pod.to_owned()],
        (namespace, pod) if namespace == pod => vec![pod.to_owned()],
        (DEFAULT_NAMESPACE, pod) => vec![pod.to_owned(), format!("{pod}.{DEFAULT_NAMESPACE}")],
        (namespace, pod) => vec![format!("{pod}.{namespace}")],
    }
}

fn lookup<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let (_, value) = map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key))?;
    if value.is_null() { None } else { Some(value) }
}

fn string(map: &Map<String, Value>, key: &str) -> Result<Option<String>, CniError> {
    match lookup(map, key) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(invalid(format!("`{key}` is `{other}` (want a string)"))),
    }
}

/// A list of strings; an empty one says nothing.
fn strings(map: &Map<String, Value>, key: &str) -> Result<Option<Vec<String>>, CniError> {
    let Some(value) = lookup(map, key) else { return Ok(None) };
    let list: Option<Vec<String>> =
        value.as_array().and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    match list {
        Some(list) if list.is_empty() => Ok(None),
        Some(list) => Ok(Some(list)),
        None => Err(invalid(format!("`{key}` is `{value}` (want a list of strings)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode;

    fn wish(config: &str, args: &str) -> Result<Wish, CniError> {
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/n"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
        ];
        let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let environment = Environment::read(&variables)?;
        Wish::of(&environment, &Config::read(decode(config.as_bytes())?)?)
    }

    #[test]
    fn pods_are_found_by_name_and_namespace_and_aliases() {
        let named = |config: &str, args: &str| wish(config, args).unwrap().names;
        let bare = r#"{"name":"n"}"#;
        for (args, want) in [
            ("K8S_POD_NAME=web;K8S_POD_NAMESPACE=team", &["web.team"][..]),
            ("K8S_POD_NAME=web;K8S_POD_NAMESPACE=default", &["web", "web.default"]),
            ("K8S_POD_NAME=web;K8S_POD_NAMESPACE=web", &["web"]),
            ("K8S_POD_NAME=web", &["web"]),
            ("K8S_POD_NAME=;K8S_POD_NAMESPACE=", &[]),
        ] {
            assert_eq!(named(bare, args), want, "{args}");
        }
        let list = r#"{"name":"n","runtimeConfig":{"Aliases":["shop","db"]}}"#;
        assert_eq!(named(list, "K8S_POD_NAME=web"), ["web", "shop", "db"]);
        let map = r#"{"name":"n","runtimeConfig":{"aliases":{"n":["shop"],"other":["not-here"]}}}"#;
        assert_eq!(named(map, ""), ["shop"]);
    }

    #[test]
    fn runtime_config_precedes_args_precede_variables() {
        let all = r#"{"name":"n","args":{"cni":{"ips":["10.0.0.2/8"],"mac":"02:00:00:00:00:02"}},
                      "runtimeConfig":{"Ips":["10.0.0.1","10.0.0.1"],"MAC":"02-00-00-00-00-0A"}}"#;
        let some =
            r#"{"name":"n","args":{"cni":{"ips":["10.0.0.2/8"]}},"runtimeConfig":{"ips":[],"mac":""}}"#;
        let args = "IP=10.0.0.3;MAC=02:00:00:00:00:03;K8S_POD_NAME=p;K8S_POD_NAMESPACE=ns";
        let found = wish(all, args).unwrap();
        assert_eq!(found.address, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(found.mac.as_deref(), Some("02:00:00:00:00:0a"));
        assert_eq!(found.name.as_deref(), Some("ns/p"));
        let found = wish(some, args).unwrap();
        assert_eq!(found.address, Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(found.mac.as_deref(), Some("02:00:00:00:00:03"));
        assert_eq!(wish(r#"{"name":"n"}"#, args).unwrap().address, Some(Ipv4Addr::new(10, 0, 0, 3)));
        let both = r#"{"name":"n","runtimeConfig":{"ips":["10.0.0.1/8","fd00::a00:1","10.0.0.1"]}}"#;
        let found = wish(both, args).unwrap();
        assert_eq!(found.address6, Some("fd00::a00:1".parse().unwrap()));
        assert_eq!(found.address, Some(Ipv4Addr::new(10, 0, 0, 1)));
    }

    #[test]
    fn unknown_variables_need_leave() {
        assert_eq!(wish(r#"{"name":"n"}"#, "A=1;B=2").unwrap_err().code, Code::InvalidEnvironment);
        assert_eq!(wish(r#"{"name":"n"}"#, "A=1;IgnoreUnknown=true").unwrap(), Wish::default());
        assert_eq!(
            wish(r#"{"name":"n"}"#, "IgnoreUnknown=1;nonsense").unwrap_err().code,
            Code::InvalidEnvironment
        );
    }

    #[test]
    fn wishes_that_cannot_be_met_are_refused_by_name() {
        let cases = [
            (r#"{"name":"n","runtimeConfig":{"ips":["fd00::1","fd00::2"]}}"#, Code::UnsupportedField),
            (r#"{"name":"n","runtimeConfig":{"ips":["10.0.0.1","10.0.0.2"]}}"#, Code::UnsupportedField),
            (r#"{"name":"n","runtimeConfig":{"ips":["10.0.0"]}}"#, Code::InvalidConfig),
            (r#"{"name":"n","runtimeConfig":{"ips":"10.0.0.1"}}"#, Code::InvalidConfig),
            (r#"{"name":"n","runtimeConfig":{"mac":"01:00:5e:00:00:01"}}"#, Code::InvalidConfig),
            (r#"{"name":"n","runtimeConfig":{"mac":"00:00:00:00:00:00"}}"#, Code::InvalidConfig),
            (r#"{"name":"n","runtimeConfig":{"mac":"+2:00:00:00:00:01:02"}}"#, Code::InvalidConfig),
            (r#"{"name":"n","mtu":500}"#, Code::InvalidConfig),
        ];
        for (config, code) in cases {
            assert_eq!(wish(config, "").unwrap_err().code, code, "{config}");
        }
    }
}
