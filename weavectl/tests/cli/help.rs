//! Every `--help`, and that each one has an example.

use expect_test::expect_file;

use crate::run::weavectl;

/// Every command that a person can type.
const COMMANDS: [&str; 32] = [
    "up",
    "join",
    "token",
    "connect",
    "forget",
    "status",
    "status connections",
    "status peers",
    "status ipam",
    "status dns",
    "status targets",
    "attach",
    "detach",
    "ps",
    "expose",
    "hide",
    "rmpeer",
    "ipam",
    "ipam audit",
    "ipam history",
    "dns",
    "dns add",
    "dns remove",
    "dns lookup",
    "reset",
    "report",
    "ping",
    "setup",
    "setup cni",
    "setup docker",
    "completions",
    "version",
];

#[test]
fn help_of_every_command() {
    expect_file!["./help/weavectl.txt"].assert_eq(weavectl(&["--help"]).success());
    for command in COMMANDS {
        let mut words: Vec<&str> = command.split(' ').collect();
        words.push("--help");
        let text = weavectl(&words).success().to_owned();
        let path = format!("{}/tests/cli/help/{}.txt", env!("CARGO_MANIFEST_DIR"), command.replace(' ', "-"));
        expect_file![path].assert_eq(&text);
        assert!(text.contains("\nExample"), "`{command}` has no example");
        let first = text.lines().next().unwrap_or_default();
        assert!(!first.ends_with('.') && first.starts_with(char::is_uppercase), "`{command}`: {first}");
    }
}

#[test]
fn list_of_commands_is_complete() {
    let text = weavectl(&["--help"]).success().to_owned();
    let listed =
        text.split("Commands:").nth(1).and_then(|rest| rest.split("Options:").next()).unwrap_or_default();
    let listed: Vec<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let mut known: Vec<&str> = COMMANDS.iter().copied().filter(|command| !command.contains(' ')).collect();
    known.push("help");
    assert_eq!(listed, known);
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = weavectl(&["completions", shell]).success().to_owned();
        assert!(script.contains("rmpeer") && !script.contains("detached"), "{shell}");
    }
}
