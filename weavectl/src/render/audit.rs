//! `weavectl ipam audit` and `weavectl ipam history`.

use control::audit::{AuditConflict, AuditStep, IpamAudit, IpamHistory};
use ipnet::Ipv4Net;

use super::paint::{Paint, Tone};
use super::table::{Cell, cell, printable, table, toned};
use super::units::{plural, short};

/// Blocks, then everything that is wrong, then the verdict.
pub(crate) fn audit(audit: &IpamAudit, paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> =
        audit.blocks.iter().map(|block| row(&block.step, &block.link, Subject::Block)).collect();
    let mut text = format!(
        "{}: {}, {} looked at\n\n",
        audit.range,
        plural(audit.blocks.len() as u64, "block", "blocks"),
        plural(audit.steps, "step", "steps")
    );
    text.push_str(&table(
        &["BLOCK", "OWNER", "EPOCH", "SIGNED BY", "PROOF", "HOW IT CAME"],
        &rows,
        "nobody owns anything",
        paint,
    ));
    let unowned: Vec<String> = audit.unowned.iter().map(Ipv4Net::to_string).collect();
    if !unowned.is_empty() {
        text.push_str(&format!("\nno owner is known of {}\n", unowned.join(", ")));
    }
    if !audit.conflicts.is_empty() {
        text.push_str(&format!("\n{}\n", paint.strong("CONFLICTS")));
        audit.conflicts.iter().for_each(|conflict| text.push_str(&conflict_line(conflict, paint)));
    }
    if !audit.forged.is_empty() {
        text.push_str(&format!("\n{}\n", paint.strong("WRONG SIGNATURES")));
        for step in &audit.forged {
            text.push_str(&format!("{}\n", paint.bad(&said(step))));
        }
    }
    text.push('\n');
    text.push_str(&verdict(audit, paint));
    text
}

/// All steps of one address, oldest first.
pub(crate) fn history(history: &IpamHistory, paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> =
        history.steps.iter().map(|step| row(&step.step, &step.link, Subject::Step)).collect();
    let empty = format!("nothing is known of {}", history.address);
    let mut text =
        table(&["EPOCH", "OWNER", "OF", "SIGNED BY", "PROOF", "HOW IT CAME"], &rows, &empty, paint);
    if let Some(holder) = &history.holder {
        text.push_str(&format!("\n{} is held here by {}\n", history.address, printable(holder)));
    }
    text
}

/// What a table is about; it comes first.
#[derive(Clone, Copy)]
enum Subject {
    Block,
    Step,
}

fn row(step: &AuditStep, link: &str, subject: Subject) -> Vec<Cell> {
    let owner = cell(format!("{}({})", step.owner_name, short(&step.owner)));
    let (block, epoch) = (cell(step.prefix.to_string()), cell(step.epoch.to_string()));
    let proof = match step.proof.as_str() {
        "signed" => toned(Tone::Good, "signed"),
        "journal" => toned(Tone::Warn, "own journal only"),
        other => toned(Tone::Bad, other),
    };
    let own = step.owner == step.signer;
    let how = match (link, own) {
        ("founded", _) => toned(Tone::Normal, "began the fabric, or its part of it as a seed"),
        ("by-owner", true) => toned(Tone::Normal, "the owner's own word"),
        ("by-owner", false) => toned(Tone::Normal, "given by the owner before"),
        ("takeover", _) => toned(Tone::Normal, "taken over from a removed peer"),
        ("gap", _) => toned(Tone::Warn, "steps before are not kept here"),
        ("not-the-owner", _) => toned(Tone::Bad, "signed by somebody who was not the owner"),
        ("contradiction", _) => toned(Tone::Bad, "contradicts another step of this epoch"),
        (other, _) => toned(Tone::Warn, other),
    };
    let signer = cell(step.signer_name.clone());
    match subject {
        Subject::Block => vec![block, owner, epoch, signer, proof, how],
        Subject::Step => vec![epoch, owner, block, signer, proof, how],
    }
}

fn conflict_line(conflict: &AuditConflict, paint: Paint) -> String {
    let what = match (&conflict.with, conflict.link.as_str()) {
        (Some(with), "contradiction") => format!("{}, and {}", said(&conflict.step), said(with)),
        (Some(with), _) => {
            format!("{}, who was not the owner: {}", said(&conflict.step), said(with))
        }
        (None, _) => said(&conflict.step),
    };
    match conflict.settled {
        true => format!("{}: {what}; settled by a later step\n", conflict.prefix),
        false => paint.bad(&format!("{}: {what}", conflict.prefix)) + "\n",
    }
}

fn said(step: &AuditStep) -> String {
    printable(&format!(
        "{} signed that {} belongs to {} from epoch {}",
        step.signer_name, step.prefix, step.owner_name, step.epoch
    ))
}

fn verdict(audit: &IpamAudit, paint: Paint) -> String {
    match audit.verdict.as_str() {
        "proven" => format!(
            "{} a signature speaks for every block, and each follows from the one before\n",
            paint.good("PROVEN:")
        ),
        "gaps" => {
            let gaps =
                audit.blocks.iter().filter(|block| block.link == "gap" || block.step.proof != "signed");
            let mut signers: Vec<String> =
                gaps.clone().map(|block| printable(&block.step.signer_name)).collect();
            signers.sort();
            signers.dedup();
            signers.truncate(4);
            let hint = match signers.is_empty() {
                true => String::new(),
                false => format!(
                    "\n  whoever signed has the steps before: `weavectl ipam audit` on {}",
                    signers.join(", ")
                ),
            };
            format!(
                "{} nothing contradicts, but what came before is not kept here for {}{hint}\n",
                paint.tone(Tone::Warn, "GAPS:"),
                plural(gaps.count() as u64, "block", "blocks"),
            )
        }
        "conflict" => format!(
            "{} somebody is faulty or was restored from an old copy; nobody allocates from what is contested\n  \
             look at who signed; a router that was restored from a copy: `weavectl reset` there, or `weavectl rmpeer PEER`\n",
            paint.bad("CONFLICT:")
        ),
        other => format!("{}\n", printable(other)),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn step(signer: &str, prefix: &str, owner: &str, epoch: u64, link: &str) -> serde_json::Value {
        json!({ "prefix": prefix, "owner": format!("{owner}{owner}idididid"), "owner_name": owner, "epoch": epoch,
            "signer": format!("{signer}{signer}idididid"), "signer_name": signer, "proof": "signed", "link": link })
    }

    #[test]
    fn audit_with_everything() {
        let mut journal = step("host-c", "10.32.0.128/26", "host-c", 4, "gap");
        journal["proof"] = json!("journal");
        let value = json!({
            "range": "10.32.0.0/24", "verdict": "conflict", "steps": 9,
            "blocks": [step("host-a", "10.32.0.0/25", "host-a", 1, "founded"), journal,
                step("host-a", "10.32.0.192/26", "host-b", 2, "by-owner")],
            "unowned": [],
            "conflicts": [{ "prefix": "10.32.0.192/26", "settled": false, "link": "contradiction",
                "step": step("host-a", "10.32.0.192/26", "host-b", 2, ""), "with": step("host-a", "10.32.0.192/26", "host-d", 2, "") }],
            "forged": [],
        });
        let value: IpamAudit = serde_json::from_value(value).unwrap();
        expect![[r#"
            10.32.0.0/24: 3 blocks, 9 steps looked at

            BLOCK           OWNER               EPOCH  SIGNED BY  PROOF             HOW IT CAME
            10.32.0.0/25    host-a(host-ahost)  1      host-a     signed            began the fabric, or its part of it as a seed
            10.32.0.128/26  host-c(host-chost)  4      host-c     own journal only  steps before are not kept here
            10.32.0.192/26  host-b(host-bhost)  2      host-a     signed            given by the owner before

            CONFLICTS
            10.32.0.192/26: host-a signed that 10.32.0.192/26 belongs to host-b from epoch 2, and host-a signed that 10.32.0.192/26 belongs to host-d from epoch 2

            CONFLICT: somebody is faulty or was restored from an old copy; nobody allocates from what is contested
              look at who signed; a router that was restored from a copy: `weavectl reset` there, or `weavectl rmpeer PEER`
        "#]].assert_eq(&audit(&value, Paint::Plain));
    }

    #[test]
    fn verdict_names_who_has_the_rest() {
        let value = json!({ "range": "10.32.0.0/24", "verdict": "gaps", "steps": 2, "unowned": [], "conflicts": [], "forged": [],
            "blocks": [step("host-b", "10.32.0.0/24", "host-b", 3, "gap")] });
        let value: IpamAudit = serde_json::from_value(value).unwrap();
        expect![[r#"
            GAPS: nothing contradicts, but what came before is not kept here for 1 block
              whoever signed has the steps before: `weavectl ipam audit` on host-b
        "#]]
        .assert_eq(&verdict(&value, Paint::Plain));
    }

    #[test]
    fn history_of_an_address() {
        let value = json!({ "address": "10.32.0.7", "holder": "container:web/eth0", "steps": [
            step("host-a", "10.32.0.0/24", "host-a", 1, "founded"), step("host-a", "10.32.0.0/25", "host-b", 2, "by-owner"),
            step("host-b", "10.32.0.0/25", "host-b", 3, "by-owner"), step("host-a", "10.32.0.0/25", "host-a", 65_539, "takeover")] });
        let value: IpamHistory = serde_json::from_value(value).unwrap();
        expect![[r#"
            EPOCH  OWNER               OF            SIGNED BY  PROOF   HOW IT CAME
            1      host-a(host-ahost)  10.32.0.0/24  host-a     signed  began the fabric, or its part of it as a seed
            2      host-b(host-bhost)  10.32.0.0/25  host-a     signed  given by the owner before
            3      host-b(host-bhost)  10.32.0.0/25  host-b     signed  the owner's own word
            65539  host-a(host-ahost)  10.32.0.0/25  host-a     signed  taken over from a removed peer

            10.32.0.7 is held here by container:web/eth0
        "#]].assert_eq(&history(&value, Paint::Plain));
    }
}
