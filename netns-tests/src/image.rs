//! A container image that needs no registry: a static busybox with links to what tests call.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::run_ok;

/// What tests call inside.
const APPLETS: [&str; 13] = [
    "sh", "ping", "ping6", "ip", "nc", "httpd", "wget", "sleep", "cat", "ls", "echo", "nslookup", "ifconfig",
];

/// Packing two megabytes.
const TAR_LIMIT: Duration = Duration::from_secs(30);

/// Packs the root file system of the image into a tar file of this folder, and answers its path.
///
/// # Errors
/// When there is no busybox, or something cannot be written.
pub fn busybox_tar(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("image");
    for part in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(part)).with_context(|| format!("cannot make `{part}` of the image"))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).is_file());
    let busybox = busybox.context("there is no busybox; type `cargo xtask setup`")?;
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    for applet in APPLETS {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", &link).context("cannot link an applet")?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").context("cannot write to the image")?;
    let tar = folder.join("image.tar");
    run_ok(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."), TAR_LIMIT)?;
    Ok(tar)
}
