//! Addresses without an interface: leased through the socket by whoever makes the interfaces.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use lab::Host;
use serde_json::{Value, json};

use crate::support::{fabric, leases, same};

#[test]
fn lease_stays_until_it_is_released() {
    fabric(2, |lab| {
        let host = lab.host(2);
        let first = post(host, "/v1/lease", &json!({ "name": "vm-1" }))?;
        let address = first["address"].as_str().context("no address")?.to_owned();
        let bare = address.split('/').next().context("no address")?.to_owned();
        same("changed", &first["changed"], &true.into())?;
        let again = post(host, "/v1/lease", &json!({ "name": "vm-1" }))?;
        same(
            "the same again",
            &(&again["address"], &again["changed"]),
            &(&address.clone().into(), &false.into()),
        )?;
        // A fixed address of the other router's space.
        let fixed = post(host, "/v1/lease", &json!({ "name": "vm-2", "address": "10.32.0.200" }))?;
        same("the address that was wanted", &fixed["address"], &"10.32.0.200/12".into())?;
        host.kill9()?;
        host.start_again()?;
        same("leased after death", &leases(host)?.contains(&bare.parse()?), &true)?;
        let released = post(host, "/v1/release", &json!({ "name": "vm-1" }))?;
        same("released", &released["released"], &json!([bare]))?;
        same(
            "released again",
            &post(host, "/v1/release", &json!({ "name": "vm-1" }))?["released"],
            &json!([]),
        )?;
        let refused = post(host, "/v1/lease", &json!({ "name": "two words" }))?;
        same("a name with a space", &refused["error"]["code"], &"bad-request".into())
    });
}

/// One request, and the JSON of its answer, whatever the status is.
fn post(host: &Host, path: &str, body: &Value) -> Result<Value> {
    let mut stream = UnixStream::connect(host.socket()).context("cannot connect")?;
    let body = body.to_string();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: weave\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    serde_json::from_str(body).with_context(|| format!("not JSON: {answer}"))
}
