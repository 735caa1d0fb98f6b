//! A stand-in for `weaved`: a unix socket that answers what a test tells it to, one thread a connection.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What to do with one request.
pub(crate) enum Reply {
    /// An answer with this status and body.
    Json(u16, String),
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// Nothing for this long, then the end.
    Silence(Duration),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `POST /v1/attach`
    pub(crate) call: String,
    /// Body.
    pub(crate) body: String,
}

/// The stand-in; its directory goes with it.
pub(crate) struct Fake {
    directory: PathBuf,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Listen in a directory of its own and answer with `answer`.
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Fake {
        let directory = scratch();
        let listener =
            UnixListener::bind(directory.join("weaved.sock")).expect("a socket in a fresh directory");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&asked), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Fake { directory, asked }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("weaved.sock")
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A fresh directory.
pub(crate) fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("weave-test-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("the directory for temporary files is writable");
    path
}

fn serve(stream: UnixStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Reply) {
    let Some(asked) = read_request(&stream) else { return };
    log.lock().expect("no test panics while it holds this").push(asked.clone());
    let mut stream = stream;
    let sent = match answer(&asked) {
        Reply::Json(status, body) => {
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes())
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Silence(duration) => {
            thread::sleep(duration);
            Ok(())
        }
    };
    // A client that has given up is what some tests are about.
    drop(sent);
}

fn read_request(stream: &UnixStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let call = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { call, body: String::from_utf8(body).ok()? })
}
