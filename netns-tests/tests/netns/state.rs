//! State on disk: what happens when the disk is full, and when files are not what they were.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::{Host, Ping, until};

use crate::support::{attached, expected, fabric, figure, hosts, leases, reaches, same};

/// Room for the state of one router with a few containers, and little more.
const SMALL_DISK: &str = "1m";

#[test]
fn full_disk_refuses_and_keeps_what_it_promised() {
    hosts(1, |lab| {
        let host = lab.host(1);
        host.small_state_disk(SMALL_DISK)?;
        host.start_weaved(&[])?;
        host.up(&[])?;
        let (one, two) = (host.attached()?, host.attached()?);
        let filler = host.state_dir().join("filler");
        fill(&filler)?;
        let mut late = host.container()?;
        let refused = until_refused(host, &mut late)?;
        figure("said on a full disk", &refused);
        for address in two.addresses()? {
            Ping::default().expect_all(one.ns(), address)?;
        }
        same("attached on the full disk", &attached(host)?, &expected([&one, &two])?)?;
        // What was refused left nothing behind, in memory or on disk, also when the router dies now.
        host.kill9()?;
        host.start_again().context("weaved does not start on a full disk")?;
        same("attached after death on the full disk", &attached(host)?, &expected([&one, &two])?)?;
        fs::remove_file(&filler).context("cannot free the disk")?;
        late.cni_add().context("ADD after there is room again")?;
        same("attached in the end", &attached(host)?, &expected([&one, &two, &late])?)?;
        same("every address once", &leases(host)?.contains(&late.ipv4()?), &true)?;
        reaches(&late, &one)
    });
}

/// Attaches until the last free bytes are used up, and answers what is said then. What succeeds before is taken back.
fn until_refused(host: &Host, container: &mut lab::Container) -> Result<String> {
    for _ in 0..500 {
        let outcome = container.call("ADD").run(host)?;
        let Some(code) = outcome.error_code() else {
            container.call("DEL").run(host)?.success("DEL")?;
            continue;
        };
        let message = outcome.answer["msg"].as_str().unwrap_or_default().to_owned();
        // A DEL may need the disk too; it must then say so and not pretend.
        let _may_fail = container.call("DEL").run(host)?;
        return Ok(format!("code {code}: {message}"));
    }
    bail!("ADD goes on succeeding on a full disk")
}

/// Writes until there is no room for another byte.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path).context("cannot create the filler")?;
    let mut block = 4096;
    while block > 0 {
        match file.write(&vec![0; block]) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => block /= 2,
            Err(error) => return Err(error).context("cannot fill the disk"),
        }
    }
    Ok(())
}

/// How a file is damaged.
#[derive(Debug, Clone, Copy)]
enum Damage {
    CutToHalf,
    Emptied,
    Flipped,
}

#[test]
fn damaged_file_is_kept_aside_and_the_rest_goes_on() {
    fabric(2, |lab| {
        let host = lab.host(1);
        let (one, _two) = (host.attached()?, host.attached()?);
        reaches(&one, &lab.host(2).attached()?)?;
        host.sigterm()?;
        let good = snapshot(&host.state_dir())?;
        if good.is_empty() {
            bail!("there is no state on disk");
        }
        // The previous version of a file is not read while the file itself is good.
        let read = |name: &Path| name.extension().is_none_or(|extension| extension != "previous");
        for (name, bytes) in good.iter().filter(|(name, bytes)| bytes.len() > 16 && read(name)) {
            for damage in [Damage::CutToHalf, Damage::Emptied, Damage::Flipped] {
                restore(&host.state_dir(), &good)?;
                let bad = damaged(bytes, damage);
                fs::write(host.state_dir().join(name), &bad).context("cannot damage the file")?;
                survives(host, name, &bad).with_context(|| format!("`{}`, {damage:?}", name.display()))?;
            }
        }
        restore(&host.state_dir(), &good)?;
        host.start_again()?;
        lab.wait_complete()?;
        same("attached with all files whole again", &attached(host)?.len(), &2)
    });
}

/// The router starts, names the file in its log, has kept the damaged bytes somewhere, and serves requests.
fn survives(host: &Host, name: &Path, bad: &[u8]) -> Result<()> {
    let mark = host.log_mark();
    host.start_again()?;
    host.json(&["status"])?;
    let log = fs::read(host.log()).context("no log")?;
    let said = String::from_utf8_lossy(&log[usize::try_from(mark)?..]).into_owned();
    let short = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = snapshot(&host.state_dir())?.into_iter().any(|(path, bytes)| path != name && bytes == bad);
    if !said.contains(&short) || !kept {
        bail!("the log names the file: {}, the bytes are kept: {kept}\n{said}", said.contains(&short));
    }
    host.sigterm().map(drop)
}

fn damaged(bytes: &[u8], damage: Damage) -> Vec<u8> {
    let mut bad = bytes.to_vec();
    match damage {
        Damage::CutToHalf => bad.truncate(bytes.len() / 2),
        Damage::Emptied => bad.clear(),
        Damage::Flipped => {
            let middle = bad.len() / 2;
            bad[middle] ^= 0x55;
        }
    }
    bad
}

/// All files below a folder with their content.
fn snapshot(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))? {
        let entry = entry.context("cannot list the state")?;
        if entry.file_type().context("cannot look at the state")?.is_file() {
            let name = PathBuf::from(entry.file_name());
            files.push((name, fs::read(entry.path()).context("cannot read the state")?));
        }
    }
    files.sort();
    Ok(files)
}

fn restore(folder: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<()> {
    for (name, _) in snapshot(folder)? {
        fs::remove_file(folder.join(&name)).with_context(|| format!("cannot remove `{}`", name.display()))?;
    }
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes)
            .with_context(|| format!("cannot restore `{}`", name.display()))?;
    }
    Ok(())
}

#[test]
fn state_folder_that_cannot_be_written_is_named() {
    hosts(1, |lab| {
        let host = lab.host(1);
        // A file where the folder should be.
        fs::write(host.state_dir(), "in the way").context("cannot write")?;
        host.spawn_weaved()?;
        let (exit, _) = until(Duration::from_secs(10), "weaved ends", || host.ended())?;
        same("exit is a failure", &matches!(exit, lab::Exit::Code(code) if code != 0), &true)?;
        let said = host.log_tail();
        same("the folder is named", &said.contains(&*host.state_dir().to_string_lossy()), &true)
            .with_context(|| said.clone())
    });
}

#[test]
fn second_router_on_the_same_state_is_refused() {
    fabric(1, |lab| {
        let host = lab.host(1);
        let container = host.attached()?;
        let output = host.ns().run(&mut host.weaved_command(), &[], Duration::from_secs(10))?;
        same("the second one ends with a failure", &output.success(), &false)?;
        same("the first one serves", &attached(host)?, &expected([&container])?)
    });
}
