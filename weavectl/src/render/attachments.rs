//! `weavectl ps` and the answer of `attach`.

use control::api::Attachment;

use super::paint::Paint;
use super::table::{Cell, cell, table};

/// How much of a container id is shown, as Docker does; names of namespaces that we made are shown whole.
const SHOWN_ID: usize = 12;

/// Attached containers, one a line.
pub(crate) fn ps(attachments: &[Attachment], paint: Paint) -> String {
    let rows: Vec<Vec<Cell>> = attachments.iter().map(row).collect();
    let headings = ["CONTAINER", "NAME", "INTERFACE", "ADDRESS", "IPV6 ADDRESS", "MAC", "HOST INTERFACE"];
    table(&headings, &rows, "no containers are attached", paint)
}

/// What a person wants to know of a new attachment.
pub(crate) fn attached(attachment: &Attachment, paint: Paint) -> String {
    format!(
        "{} {} on {} of {}\n",
        paint.strong(&attachment.address.to_string()),
        attachment.address6,
        attachment.ifname,
        attachment.container
    )
}

fn row(attachment: &Attachment) -> Vec<Cell> {
    let id = &attachment.container;
    // A full hexadecimal id is told by its beginning; any other id may differ in its end only.
    let hexadecimal = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let shown = if hexadecimal { id.chars().take(SHOWN_ID).collect() } else { id.clone() };
    vec![
        cell(shown),
        cell(attachment.name.clone().unwrap_or_else(|| "-".to_owned())),
        cell(attachment.ifname.clone()),
        cell(attachment.address.to_string()),
        cell(attachment.address6.to_string()),
        cell(attachment.mac.clone()),
        cell(attachment.host_ifname.clone()),
    ]
}
