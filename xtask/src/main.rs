//! Automation of the project: `cargo xtask COMMAND`.
//!
//! Knows the built programs from the outside only; what is made of namespaces is made by the `lab` library of `netns-tests`.

mod bench;
mod cargo;
mod demo;
mod dist;
mod docker_plugin;
mod fuzz;
mod netns;
mod setup;
mod sim;
mod steps;
mod test;
mod tidy;
mod tools;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::ui::Ui;

/// Build, show and check the fabric.
///
/// Everything that runs programs of the fabric does so in network namespaces of its own and needs root; nothing
/// outside of them is touched, and everything is removed at the end.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a fabric of three hosts at work
    #[command(after_help = "Examples:\n  cargo xtask demo           show it, then remove it\n  \
        cargo xtask demo --keep    leave it running and print how to play with it\n  \
        cargo xtask demo --clean   remove what --keep left")]
    Demo(demo::Args),
    /// Run every check: format, lints, tests, black-box tests
    #[command(
        after_help = "Example:\n  cargo xtask test\n\nThe last line says how many tests passed and failed."
    )]
    Test,
    /// The same as `test`, by the name that CI uses
    Ci,
    /// Run the black-box tests in network namespaces
    #[command(after_help = "Examples:\n  cargo xtask netns             all of them\n  \
        cargo xtask netns cni::       those of one module\n  cargo xtask netns --list      their names")]
    Netns(netns::Args),
    /// Measure the data path beside others in one run
    #[command(
        after_help = "Examples:\n  cargo xtask bench                                    all data paths over all wires: some hours\n  \
        cargo xtask bench --quick                            three minutes, for a first impression\n  \
        cargo xtask bench --wire nic --only vxlan,weave --figures tcp --runs 2\n  \
        cargo xtask bench --quick --before ../old/target/release    this build beside another one"
    )]
    Bench(bench::Args),
    /// Run the property tests of all decoders and state machines with many cases
    #[command(after_help = "Example:\n  cargo xtask fuzz --seconds 600")]
    Fuzz(fuzz::Args),
    /// Simulate whole fabrics on a virtual clock, with faults drawn from a seed; `--help` has its own words
    Sim(sim::Args),
    /// Build the programs as they are installed on hosts: `target/dist`
    #[command(after_help = "Example:\n  cargo xtask dist && sudo install target/dist/* /usr/local/bin/")]
    Dist(dist::Args),
    /// Build the managed plugin for Docker's Swarm: `target/docker-plugin`
    #[command(
        after_help = "Example:\n  cargo xtask docker-plugin && sudo docker plugin create weave-fabric:1 target/docker-plugin"
    )]
    DockerPlugin(docker_plugin::Args),
    /// Install the system packages that the other commands need
    #[command(
        after_help = "Example:\n  cargo xtask setup           for everything but the rivals of the benchmark\n  \
        cargo xtask setup --bench   for these too"
    )]
    Setup(setup::Args),
}

fn main() -> ExitCode {
    let ui = Ui::new();
    let result = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args, &ui),
        Command::Test | Command::Ci => test::run(&ui),
        Command::Netns(args) => netns::run(&args, &ui),
        Command::Bench(args) => bench::run(&args, &ui),
        Command::Fuzz(args) => fuzz::run(&args, &ui),
        Command::Sim(args) => sim::run(&args, &ui),
        Command::Dist(args) => dist::run(&args, &ui),
        Command::DockerPlugin(args) => docker_plugin::run(&args, &ui),
        Command::Setup(args) => setup::run(&args, &ui),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
