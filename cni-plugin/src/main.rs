//! `weave-cni`, also as `weave-ipam`, the process: environment and standard input in, standard output and exit code out. All else is in the library.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use cni_plugin::{CniError, Code, MAX_CONFIG_BYTES, Outcome, Role, SpecVersion};

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A runtime must get an error that it can parse, whatever happens. The process ends here, so nothing unwinds past it.
        let error = CniError::new(Code::Internal, format!("bug in weave-cni: {panic}"));
        let _ = writeln!(io::stderr(), "weave-cni: {panic}");
        let _ = writeln!(io::stdout(), "{}", error.to_json(SpecVersion::LATEST.as_str()));
        std::process::exit(1);
    }));
    let environment = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value)))
        .filter(|(key, _)| key.starts_with("CNI_"))
        .collect();
    let role = Role::of_program(&std::env::args_os().next().unwrap_or_default());
    let outcome = cni_plugin::run(role, &environment, read_stdin, &mut io::stderr());
    deliver(&outcome)
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that too long is seen as such.
    io::stdin().lock().take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn deliver(outcome: &Outcome) -> ExitCode {
    let (text, code) = match outcome {
        Outcome::Done(text) => (text.as_str(), ExitCode::SUCCESS),
        Outcome::Failed(text) => (text.as_str(), ExitCode::FAILURE),
    };
    if text.is_empty() {
        return code;
    }
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => code,
        // The runtime has gone away. It has to call DEL for what it never heard of, as after any failed ADD.
        Err(_) => ExitCode::FAILURE,
    }
}
