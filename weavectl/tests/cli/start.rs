//! Starting `weaved` where none runs, with a stand-in beside a copy of `weavectl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::fake::scratch;
use crate::run::{Output, run};

/// A directory with `weavectl` and a `weaved` that is this script.
fn installed(script: Option<&str>) -> PathBuf {
    let directory = scratch();
    // A link, so that no other thread's fork holds it open for writing while it is executed.
    fs::hard_link(env!("CARGO_BIN_EXE_weavectl"), directory.join("weavectl"))
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_weavectl"), directory.join("weavectl")).map(|_| ()))
        .expect("the scratch directory is writable");
    if let Some(script) = script {
        fs::write(directory.join("weaved"), format!("#!/bin/sh\n{script}"))
            .expect("the scratch directory is writable");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.join("weaved"), mode).expect("the file is ours");
    }
    directory
}

fn up(directory: &Path) -> Output {
    let text = |path: PathBuf| path.into_os_string().into_string().expect("scratch paths are UTF-8");
    let (socket, state) = (text(directory.join("w.sock")), text(directory.join("state")));
    run(&directory.join("weavectl"), &["up", "--socket", &socket, "--state-dir", &state, "--mtu", "1400"], "")
}

#[test]
fn daemon_that_dies_shows_the_end_of_its_log() {
    let directory = installed(Some("echo \"args: $*\"; echo 'error: no /dev/net/tun' >&2; exit 7\n"));
    let output = up(&directory);
    let text = output.failure(12).to_owned();
    assert!(text.contains("caused by: it ended with exit status: 7"), "{text}");
    assert!(text.contains("  error: no /dev/net/tun\n"), "{text}");
    let socket = directory.join("w.sock");
    assert!(
        text.contains(&format!("args: --socket {} ", socket.display())) && text.contains("--mtu 1400"),
        "{text}"
    );
    let again = up(&directory).failure(12).to_owned();
    assert_eq!(again.matches("no /dev/net/tun").count(), 1, "only what was written since the start: {again}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn missing_daemon_is_named() {
    let directory = installed(None);
    let text = up(&directory).failure(12).to_owned();
    assert!(text.starts_with("error: `weaved` is not installed\n"), "{text}");
    fs::remove_dir_all(directory).unwrap();
}
