//! The smallest web server and client that two containers can be made of: one document, HTTP/1.1, one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::NetNs;

/// A transfer of the demonstration takes a fraction of a second.
const LIMIT: Duration = Duration::from_secs(20);

/// A server inside a namespace. It ends with the program.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
}

impl Server {
    /// Serves one document to everybody who asks.
    pub(crate) fn start(ns: &NetNs, address: IpAddr, document: Arc<Vec<u8>>) -> Result<Self> {
        let listener = ns.enter(|| TcpListener::bind(SocketAddr::new(address, 80)))?;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("a listener without an address")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The client tells what it misses; the server has nobody to tell.
                let _client_gone = serve(stream, &document);
            }
        });
        Ok(Self { address })
    }

    /// Fetches the document from another namespace.
    pub(crate) fn fetch(&self, from: &NetNs) -> Result<Vec<u8>> {
        let stream = from.enter(|| TcpStream::connect_timeout(&self.address, LIMIT))?;
        let mut stream = stream.with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_read_timeout(Some(LIMIT)).context("cannot set the time-out")?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address.ip())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).context("no answer")?;
        if line.trim() != "HTTP/1.1 200 OK" {
            bail!("got `{}`, want `HTTP/1.1 200 OK`", line.trim());
        }
        while line.trim() != "" {
            line.clear();
            reader.read_line(&mut line).context("the answer ends in its head")?;
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body).context("the answer ends in its body")?;
        Ok(body)
    }

    /// As one would type it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address.ip())
    }
}

fn serve(stream: TcpStream, document: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let stream = reader.get_mut();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\n";
    write!(stream, "{head}Content-Length: {}\r\n\r\n", document.len())?;
    stream.write_all(document)
}
