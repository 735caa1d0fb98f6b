//! `setup cni` into scratch folders, with a stand-in for the plugin beside a copy of `weavectl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fake::scratch;
use crate::run::{Output, run};

/// A folder with `weavectl` and a plugin of these bytes.
fn installed(plugin: &str) -> PathBuf {
    let directory = scratch();
    fs::hard_link(env!("CARGO_BIN_EXE_weavectl"), directory.join("weavectl"))
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_weavectl"), directory.join("weavectl")).map(|_| ()))
        .expect("the scratch directory is writable");
    write_plugin(&directory, plugin);
    directory
}

fn write_plugin(directory: &Path, text: &str) {
    let path = directory.join("weave-cni");
    fs::write(&path, text).expect("the scratch directory is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
}

fn setup(directory: &Path, more: &[&str]) -> Output {
    let text = |path: PathBuf| path.into_os_string().into_string().expect("scratch paths are UTF-8");
    let (bin, conf) = (text(directory.join("bin")), text(directory.join("net.d")));
    let mut words = vec!["setup", "cni", "--bin-dir", &bin, "--conf-dir", &conf];
    words.extend_from_slice(more);
    run(&directory.join("weavectl"), &words, "")
}

fn network(directory: &Path) -> Value {
    let text = fs::read_to_string(directory.join("net.d/10-weave.conflist")).expect("it was written");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn again_changes_nothing_and_a_new_plugin_replaces_the_old() {
    let directory = installed("one");
    let first = setup(&directory, &[]).success().to_owned();
    assert_eq!(first.lines().filter(|line| line.starts_with("installed ")).count(), 3, "{first}");
    assert_eq!(fs::read_to_string(directory.join("bin/weave-cni")).unwrap(), "one");
    assert_eq!(fs::read_link(directory.join("bin/weave-ipam")).unwrap(), Path::new("weave-cni"));
    let mode = fs::metadata(directory.join("bin/weave-cni")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    assert_eq!(
        network(&directory),
        json!({ "cniVersion": "1.0.0", "name": "weave", "plugins": [{ "type": "weave-cni" }] })
    );
    let again = setup(&directory, &[]).success().to_owned();
    assert_eq!(again.lines().filter(|line| line.starts_with("unchanged ")).count(), 3, "{again}");

    write_plugin(&directory, "two");
    let newer = setup(&directory, &[]).success().to_owned();
    assert!(newer.starts_with("replaced "), "{newer}");
    assert_eq!(fs::read_to_string(directory.join("bin/weave-cni")).unwrap(), "two");
    let left: Vec<_> =
        fs::read_dir(directory.join("bin")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing is left aside: {left:?}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn network_that_somebody_changed_is_kept_unless_forced() {
    let directory = installed("one");
    let standing = directory.join("net.d/10-weave.conflist");
    fs::create_dir_all(directory.join("net.d")).unwrap();
    fs::write(&standing, "{\"name\":\"mine\"}").unwrap();
    let refused = setup(&directory, &[]).failure(8).to_owned();
    assert!(refused.contains("--force"), "{refused}");
    assert!(!directory.join("bin").exists(), "a refusal changes nothing");
    assert_eq!(fs::read_to_string(&standing).unwrap(), "{\"name\":\"mine\"}");
    setup(&directory, &["--force"]).success();
    assert_eq!(network(&directory)["name"], "weave");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn host_ports_socket_and_name_are_in_the_network() {
    let directory = installed("one");
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::write(directory.join("bin/portmap"), "").unwrap();
    setup(
        &directory,
        &["--socket", "/run/blue/weaved.sock", "--network", "blue", "--state-dir", "/var/lib/blue"],
    )
    .success();
    let written = network(&directory);
    assert_eq!(written["name"], "blue");
    assert_eq!(written["plugins"][0]["socket"], "/run/blue/weaved.sock");
    assert_eq!(written["plugins"][0]["stateDir"], "/var/lib/blue");
    assert_eq!(written["plugins"][1]["type"], "portmap");
    let refused = setup(&directory, &["--network", "two words"]).failure(2).to_owned();
    assert!(refused.contains("two words"), "{refused}");
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn network_that_runtimes_prefer_is_named() {
    let directory = installed("one");
    fs::create_dir_all(directory.join("net.d")).unwrap();
    fs::write(directory.join("net.d/05-other.conflist"), "{}").unwrap();
    fs::write(directory.join("net.d/00-notes.txt"), "").unwrap();
    let output = setup(&directory, &[]);
    assert!(output.stderr.contains("`05-other.conflist` stands before"), "{output:?}");
    output.success();
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn missing_plugin_and_folder_that_cannot_be_written_are_told() {
    let directory = installed("one");
    fs::write(directory.join("bin"), "a file where the folder should be").unwrap();
    let refused = setup(&directory, &[]);
    assert!(refused.code != 0 && refused.stderr.contains("--bin-dir"), "{refused:?}");
    fs::remove_file(directory.join("weave-cni")).unwrap();
    let missing = setup(&directory, &[]).failure(7).to_owned();
    assert!(missing.contains("`weave-cni` is not installed"), "{missing}");
    fs::remove_dir_all(directory).unwrap();
}
