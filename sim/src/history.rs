//! What happened, kept while a simulation runs, to be told when a check fails.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::JournalEntry;

use crate::host::News;

/// Lines that are kept; a life of thirty hosts has some thousands.
const MAX_LINES: usize = 60_000;
/// Lines that are printed.
const MAX_PRINTED: usize = 400;

/// One thing that happened.
#[derive(Debug, Clone)]
enum Line {
    News(News),
    Note(String),
}

/// See the top of the file.
#[derive(Debug, Default)]
pub struct History {
    lines: VecDeque<(Duration, u16, Line)>,
    dropped: u64,
}

/// What a failure is about, to choose the lines that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Everything.
    All,
    /// One address.
    Address(Ipv4Addr),
}

impl History {
    /// A host told something.
    pub fn news(&mut self, at: Duration, host: u16, news: &News) {
        self.push(at, host, Line::News(news.clone()));
    }

    /// The simulation did something.
    pub fn note(&mut self, at: Duration, host: u16, text: impl Into<String>) {
        self.push(at, host, Line::Note(text.into()));
    }

    fn push(&mut self, at: Duration, host: u16, line: Line) {
        if self.lines.len() >= MAX_LINES {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back((at, host, line));
    }

    /// The lines about a subject, the last ones if there are many.
    pub fn tell(&self, subject: Subject) -> String {
        let lines: Vec<String> = self.lines.iter().filter_map(|line| render(line, subject)).collect();
        let mut text = String::new();
        let hidden = lines.len().saturating_sub(MAX_PRINTED) as u64 + self.dropped;
        if hidden > 0 {
            let _ = writeln!(text, "  ... {hidden} lines before");
        }
        for line in &lines[lines.len().saturating_sub(MAX_PRINTED)..] {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

fn render((at, host, line): &(Duration, u16, Line), subject: Subject) -> Option<String> {
    let text = match line {
        Line::Note(text) => text.clone(),
        Line::News(News::Wrote(bytes)) => {
            let entry = JournalEntry::decode(bytes).ok()?;
            if !concerns_entry(&entry, subject) {
                return None;
            }
            format!("writes {entry:?}")
        }
        Line::News(news) if concerns(news, subject) => format!("{news:?}"),
        Line::News(_) => return None,
    };
    Some(format!("{:>9.3} host {host:<3} {text}", at.as_secs_f64()))
}

fn concerns(news: &News, subject: Subject) -> bool {
    let Subject::Address(wanted) = subject else { return true };
    match news {
        News::Leased(_, address) | News::Wired(_, address) | News::Attached(_, address) => *address == wanted,
        News::Removed(_) | News::Clone(_) => true,
        News::Wrote(_) | News::Refused(..) | News::Detached(_) | News::Ponged(_) | News::Notice(_) => false,
    }
}

fn concerns_entry(entry: &JournalEntry, subject: Subject) -> bool {
    let Subject::Address(wanted) = subject else { return true };
    match entry {
        JournalEntry::Block { record, .. } => record.prefix.contains(&wanted),
        JournalEntry::Lease { addr, .. }
        | JournalEntry::Resting { addr }
        | JournalEntry::Free { addr }
        | JournalEntry::Lost { addr, .. }
        | JournalEntry::LostGone { addr } => *addr == wanted,
        JournalEntry::Removal(_)
        | JournalEntry::HandedOver(_)
        | JournalEntry::TakenOver(_)
        | JournalEntry::Distrusted
        | JournalEntry::Trusted => true,
        JournalEntry::Member(_) => false,
    }
}
