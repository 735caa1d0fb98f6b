//! Starting `weaved` where none runs, with a stand-in beside a copy of `weavectl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::fake::{Fake, Reply, scratch};
use crate::run::{Output, refusal, run};

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

#[test]
fn daemon_is_started_in_a_session_of_its_own_and_waited_for() {
    let fake = answering();
    // It takes a moment until it answers. `/proc/PID/stat` has the session in its sixth field.
    let script = format!(
        "sleep 0.2; cut -d' ' -f1,6 /proc/$$/stat > session; env > environment\n\
         ln -s {} \"$2\"; exec sleep 0.3\n",
        fake.socket().display()
    );
    let directory = installed(Some(&format!("cd \"$(dirname \"$0\")\"\n{script}")));
    let output = up(&directory);
    assert_eq!(output.success(), "weavectl join weave1.abc\n");
    assert!(output.stderr.starts_with("starting "), "{output:?}");
    let session = fs::read_to_string(directory.join("session")).unwrap();
    let (pid, sid) = session.trim().split_once(' ').unwrap();
    assert_eq!(pid, sid, "leader of its own session");
    assert!(directory.join("state/weaved.log").exists());
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn daemon_that_gives_way_to_a_faster_one_is_no_failure() {
    let fake = answering();
    let directory = installed(Some(&format!("ln -s {} \"$2\"; exit 1\n", fake.socket().display())));
    up(&directory).success();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn state_directory_that_cannot_be_written_is_named() {
    let directory = installed(Some("exit 0\n"));
    fs::write(directory.join("state"), "a file").unwrap();
    let text = up(&directory).failure(1).to_owned();
    assert!(text.contains("state/weaved.log") && text.contains("`--state-dir DIR`"), "{text}");
    fs::remove_dir_all(directory).unwrap();
}

/// What the started daemon answers.
fn answering() -> Fake {
    let info = r#"{"fabric":"f","peer":"p","nickname":"n","range":"10.32.0.0/12","range6":"fd00::/48",
                   "token":"weave1.abc","changed":true}"#;
    Fake::start(move |asked| match asked.call.as_str() {
        "GET /v1/version" => Reply::Json(200, r#"{"version":"0.1.0","api":1,"wire":1}"#.into()),
        "POST /v1/up" => Reply::Json(200, info.into()),
        _ => Reply::Json(404, refusal("not-found", "no such path")),
    })
}
