//! Backticks around the commands in the hints of `weaved`, which sends sentences with bare commands in them.

/// First words after `weavectl`, and the topics of `status`.
const VERBS: [&str; 25] = [
    "up",
    "join",
    "token",
    "connect",
    "forget",
    "status",
    "attach",
    "detach",
    "ps",
    "expose",
    "hide",
    "rmpeer",
    "reset",
    "report",
    "ping",
    "completions",
    "version",
    "connections",
    "peers",
    "ipam",
    "targets",
    "dns",
    "add",
    "remove",
    "lookup",
];

/// Options that take no value.
const FLAGS: [&str; 3] = ["--force", "--json", "--exit-code"];

/// `text` with each command of ours in backticks. Text that has backticks already is left as it is.
pub(crate) fn quoted(text: &str) -> String {
    if text.contains('`') {
        return text.to_owned();
    }
    let mut out: Vec<String> = Vec::new();
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        if word != "weavectl" {
            out.push(word.to_owned());
            continue;
        }
        let mut command = vec![word];
        let mut value = false;
        while let Some(next) = words.next_if(|next| value || belongs(bare(next))) {
            value = next.starts_with("--") && !FLAGS.contains(&bare(next));
            command.push(next);
            if bare(next).len() < next.len() {
                break;
            }
        }
        out.push(in_backticks(&command));
    }
    out.join(" ")
}

/// Whether a word can only be part of a command: a verb, an option, a placeholder, or something that is no plain word.
fn belongs(word: &str) -> bool {
    let placeholder =
        word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || matches!(c, '…' | '|'));
    let value = word.contains(|c: char| c.is_ascii_digit() || matches!(c, '/' | ':' | '.' | '-'));
    VERBS.contains(&word) || placeholder || value
}

/// The word without the punctuation of the sentence.
fn bare(word: &str) -> &str {
    word.trim_end_matches([',', ';', ':', '.', ')'])
}

fn in_backticks(command: &[&str]) -> String {
    let joined = command.join(" ");
    let inside = bare(&joined);
    format!("`{inside}`{}", &joined[inside.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_in_sentences_are_found() {
        let cases = [
            ("weavectl status", "`weavectl status`"),
            (
                "weavectl up to create one, or weavectl join TOKEN",
                "`weavectl up` to create one, or `weavectl join TOKEN`",
            ),
            ("weavectl reset, then weavectl join again", "`weavectl reset`, then `weavectl join` again"),
            ("weavectl status peers lists ids", "`weavectl status peers` lists ids"),
            (
                "weavectl ps shows them; weavectl reset --force cuts them off",
                "`weavectl ps` shows them; `weavectl reset --force` cuts them off",
            ),
            ("weavectl detach --id blue --ifname eth0", "`weavectl detach --id blue --ifname eth0`"),
            ("weavectl join TOKEN --password-file FILE", "`weavectl join TOKEN --password-file FILE`"),
            ("weavectl up --ipalloc-range 10.32.0.0/12.", "`weavectl up --ipalloc-range 10.32.0.0/12`."),
            (
                "check the port; a dead peer: weavectl rmpeer PEER; a target: weavectl forget ADDR",
                "check the port; a dead peer: `weavectl rmpeer PEER`; a target: `weavectl forget ADDR`",
            ),
            ("free space in the state directory", "free space in the state directory"),
            ("type `weavectl up`, not weavectl down", "type `weavectl up`, not weavectl down"),
            ("weavectl", "`weavectl`"),
            ("", ""),
        ];
        for (text, want) in cases {
            assert_eq!(quoted(text), want);
        }
    }
}
