//! `setup cni`: what container runtimes need to find the fabric.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use control::api::{DEFAULT_SOCKET, DEFAULT_STATE_DIR};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::SetupCniArgs;
use crate::failure::{CONFLICT, Failure, NOT_FOUND};
use crate::program;
use crate::ui::Ui;

/// The plugin, and the name under which it gives addresses to other plugins.
const PLUGIN: &str = "weave-cni";
const IPAM_PLUGIN: &str = "weave-ipam";

/// Runtimes take the first of their folder.
const CONFLIST: &str = "10-weave.conflist";

/// Version of the specification that every runtime of the last years speaks; the plugin speaks all.
const CNI_VERSION: &str = "1.0.0";

/// What was done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Installed,
    Replaced,
    Unchanged,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    path: PathBuf,
    outcome: Outcome,
}

/// Install the plugin and its network.
pub(crate) fn cni(socket: &Path, args: &SetupCniArgs, ui: &mut Ui) -> Result<(), Failure> {
    let Some(source) = program::find(PLUGIN) else {
        return Err(Failure::new(NOT_FOUND, "`weave-cni` is not installed")
            .because("it is neither beside `weavectl` nor in PATH")
            .hint("put `weave-cni` beside `weavectl` and run the command again"));
    };
    let conflist = args.conf_dir.join(CONFLIST);
    let text = network(socket, args);
    // Looked at before anything is changed, so that a refusal changes nothing.
    let standing = read(&conflist)?;
    if !args.force
        && let Some(standing) = &standing
        && serde_json::from_slice::<Value>(standing).ok().as_ref() != Some(&text)
    {
        return Err(Failure::new(
            CONFLICT,
            format!("`{}` is there and says something else", conflist.display()),
        )
        .hint("keep it as it is, or write over it with `weavectl setup cni --force`"));
    }
    let mut done = vec![
        place(
            &args.bin_dir.join(PLUGIN),
            &fs::read(&source).map_err(|error| cannot("read", &source, &error))?,
            0o755,
        )?,
        link(&args.bin_dir.join(IPAM_PLUGIN))?,
    ];
    let text = serde_json::to_string_pretty(&text).map_err(|error| {
        Failure::new(crate::failure::FAILED, "cannot write JSON").because(error.to_string())
    })?;
    done.push(match standing {
        Some(standing) if !args.force || standing == format!("{text}\n").as_bytes() => {
            Done { path: conflist.clone(), outcome: Outcome::Unchanged }
        }
        Some(_) | None => place(&conflist, format!("{text}\n").as_bytes(), 0o644)?,
    });
    if let Some(first) = before(&args.conf_dir) {
        ui.note(&format!(
            "note: `{first}` stands before `{CONFLIST}` in `{}`, and runtimes use the first",
            args.conf_dir.display()
        ));
    }
    ui.data(&done, |done, _| {
        done.iter().map(|one| format!("{} {}\n", word(one.outcome), one.path.display())).collect()
    })
}

fn network(socket: &Path, args: &SetupCniArgs) -> Value {
    let mut weave = json!({ "type": PLUGIN });
    if socket != Path::new(DEFAULT_SOCKET) {
        let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
        weave["socket"] = json!(socket);
    }
    if let Some(state_dir) = args.state_dir.as_deref().filter(|path| *path != Path::new(DEFAULT_STATE_DIR)) {
        let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
        weave["stateDir"] = json!(state_dir);
    }
    let mut plugins = vec![weave];
    // Host ports of containers; without it a runtime refuses containers that publish one.
    if args.bin_dir.join("portmap").exists() {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
    }
    json!({ "cniVersion": CNI_VERSION, "name": args.network, "plugins": plugins })
}

/// A configuration that runtimes prefer to ours.
fn before(conf_dir: &Path) -> Option<String> {
    let entries = fs::read_dir(conf_dir).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let configuration =
        |name: &String| [".conf", ".conflist", ".json"].iter().any(|ending| name.ends_with(ending));
    names.filter(configuration).filter(|name| name.as_str() < CONFLIST).min()
}

/// Writes a file aside and renames it: a runtime that starts the plugin meanwhile gets the old one or the new one, never half.
fn place(path: &Path, bytes: &[u8], mode: u32) -> Result<Done, Failure> {
    let standing = read(path)?;
    let outcome = match &standing {
        Some(standing) if standing == bytes => {
            return Ok(Done { path: path.to_owned(), outcome: Outcome::Unchanged });
        }
        Some(_) => Outcome::Replaced,
        None => Outcome::Installed,
    };
    let aside = aside(path)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    put(written, &aside, path)?;
    Ok(Done { path: path.to_owned(), outcome })
}

/// The plugin under its second name.
fn link(path: &Path) -> Result<Done, Failure> {
    let outcome = match fs::read_link(path) {
        Ok(target) if target == Path::new(PLUGIN) => {
            return Ok(Done { path: path.to_owned(), outcome: Outcome::Unchanged });
        }
        Ok(_) => Outcome::Replaced,
        Err(error) if error.kind() == ErrorKind::NotFound => Outcome::Installed,
        // Something of that name that is no link.
        Err(_) => Outcome::Replaced,
    };
    let aside = aside(path)?;
    put(symlink(PLUGIN, &aside), &aside, path)?;
    Ok(Done { path: path.to_owned(), outcome })
}

fn put(written: io::Result<()>, aside: &Path, path: &Path) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(path);
    written.and_then(|()| fs::rename(aside, path)).and_then(|()| File::open(folder)?.sync_all()).map_err(
        |error| {
            // The first error is the one to tell; a leftover is hidden and written over by nobody.
            let _ = fs::remove_file(aside);
            cannot("write", path, &error)
        },
    )
}

/// A hidden name in the same folder, which is made if it is missing. Runtimes read no hidden files.
fn aside(path: &Path) -> Result<PathBuf, Failure> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| cannot("make", folder, &error))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(folder.join(format!(".{name}.{}", std::process::id())))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::of_io(format!("cannot {what} `{}`", path.display()), error)
        .hint("run it as root, or choose other folders with `--bin-dir DIR` and `--conf-dir DIR`")
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Installed => "installed",
        Outcome::Replaced => "replaced ",
        Outcome::Unchanged => "unchanged",
    }
}
