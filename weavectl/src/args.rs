//! The command line: every command, option and help text.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;
use ipnet::Ipv4Net;

const AFTER_HELP: &str = "\
Examples:
  host-a# weavectl up                      create a fabric; prints the line for the next host
  host-b# weavectl join weave1.…           paste it there
  host-b# weavectl attach web              give a container of Docker an address on the fabric
  host-a# weavectl status                  what works, what does not, and the command that fixes it";

const AFTER_LONG_HELP: &str = "\
Examples:
  host-a# weavectl up                      create a fabric; prints the line for the next host
  host-b# weavectl join weave1.…           paste it there
  host-b# weavectl attach web              give a container of Docker an address on the fabric
  host-a# weavectl status                  what works, what does not, and the command that fixes it

Data goes to standard output, progress and errors to standard error. Colour is used on a terminal only and never needed; \
NO_COLOR turns it off. With --json, data and errors are JSON.

Exit codes:
   0  done
   1  failed, see the message
   2  the command line makes no sense
   3  weaved is not running
   4  no permission
   5  no answer in time
   6  this router belongs to no fabric
   7  no such peer, address, container or namespace
   8  exists already, or belongs to somebody else
   9  no free address, or whoever is needed cannot be reached; may succeed later
  10  join: joined, but no connection yet
  11  status --exit-code: NOT OK
  12  weaved could not be started
  13  ping: no answer
  14  ipam audit: a conflict, or a wrong signature";

/// Manage and explain the Weave fabric on this host
///
/// A fabric is one encrypted network for the containers of many hosts. A router, `weaved`, runs on every host; this command starts
/// it, tells it what to do, and shows what it does.
#[derive(Debug, Parser)]
#[command(name = "weavectl", version, propagate_version = false, max_term_width = 100)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_LONG_HELP, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    /// Socket of the router
    ///
    /// Several routers can run on one machine in network namespaces of their own; each has its socket.
    #[arg(long, global = true, value_name = "PATH", env = "WEAVE_SOCKET", hide_env_values = true)]
    #[arg(default_value = control::api::DEFAULT_SOCKET)]
    #[arg(help_heading = "Global options")]
    pub(crate) socket: PathBuf,

    /// Write data and errors as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a fabric on this host, and print the line that lets the next host join
    ///
    /// Starts `weaved` if it is not running: the unit `weaved.service` where systemd runs and has it, otherwise a process of its own
    /// that outlives the terminal and writes its log into the state directory. `weaved` is looked for beside `weavectl`, then in PATH.
    ///
    /// Running it again changes nothing and prints the same line. The line contains the secret of the fabric unless there is a
    /// password; whoever has it can join.
    #[command(after_help = "\
Examples:
  weavectl up
  weavectl up --ipalloc-range 10.40.0.0/16
  weavectl up --password-file /root/fabric-password --listen 192.0.2.10:6783
  weavectl up --password-file /root/fabric-password --seeds host-a,host-b,host-c=192.0.2.13")]
    Up(UpArgs),

    /// Enter the fabric that the token names
    ///
    /// Starts `weaved` if it is not running, as `up` does, then waits up to 5 seconds for the first connection and says whether it was
    /// reached. The router stays joined either way and goes on trying; exit code 10 says that there is no connection yet.
    ///
    /// While the command runs, every user of this host can read the token, and so the fabric's secret, in the list of processes. Where
    /// that matters, give it by a file or by standard input.
    #[command(after_help = "\
Examples:
  weavectl join weave1.mfrggzdfmztwq2lk…
  ssh host-a weavectl token | weavectl join -
  ssh host-a weavectl up | weavectl join -
  weavectl join --token-file /root/fabric-token")]
    Join(JoinArgs),

    /// Print the token that lets another host join through this one
    ///
    /// The token holds the id of the fabric, addresses of this host and, unless the fabric has a password, its secret.
    #[command(after_help = "\
Example:
  weavectl token | ssh host-b weavectl join -")]
    Token,

    /// Dial more addresses, and keep dialling them
    ///
    /// Peers of a fabric find each other; an address is only needed for the first one, or across a network split by hand.
    #[command(after_help = "\
Example:
  weavectl connect 192.0.2.11 host-c.example.com:6783")]
    Connect(TargetsArgs),

    /// Stop dialling addresses
    ///
    /// Connections that exist stay while they are used for other reasons.
    #[command(after_help = "\
Example:
  weavectl forget 192.0.2.11")]
    Forget(TargetsArgs),

    /// Show whether the fabric works here, and the command that fixes what does not
    ///
    /// Without a topic: the router, its connections, peers and addresses in short, then a verdict. `OK:` or `NOT OK:` is always the
    /// beginning of a line; what is not well comes with the command that fixes it.
    #[command(after_help = "\
Examples:
  weavectl status
  weavectl status connections
  weavectl status ipam --json
  weavectl status --exit-code > /dev/null || page-somebody")]
    #[command(args_conflicts_with_subcommands = true)]
    Status {
        /// Exit with 11 when the verdict is NOT OK
        #[arg(long)]
        exit_code: bool,
        /// What to show in detail
        #[command(subcommand)]
        topic: Option<Topic>,
    },

    /// Give a container an interface and an address on the fabric
    ///
    /// A container of Docker or Podman is named as there, and keeps its place on the fabric as long as it exists: when it ends its address
    /// is given back, and when it is started again it is attached again, at the same address unless somebody else took it meanwhile.
    /// Any other one is named by its network namespace or by a process in it, and stays attached until that is gone. Attaching the same again
    /// shows what is there. Containers of Kubernetes and other users of CNI are attached by `weave-cni` and need no such command.
    ///
    /// The host is exposed on the way, as by `weavectl expose`, so that a container without a default route gets one through it.
    #[command(after_help = "\
Examples:
  weavectl attach web
  weavectl attach web --ip 10.32.0.50
  weavectl attach --netns blue
  weavectl attach --pid 4711 --name web")]
    Attach(AttachArgs),

    /// Take a container off the fabric
    ///
    /// Its address rests for 30 seconds and is then free. Success when it is not attached. A container that was attached by its name is
    /// not attached again when it is started.
    #[command(after_help = "\
Examples:
  weavectl detach web
  weavectl detach --netns /run/netns/blue
  weavectl detach --id netns-4026532567")]
    Detach(DetachArgs),

    /// List the containers that are attached on this host
    #[command(after_help = "\
Example:
  weavectl ps --json")]
    Ps,

    /// Give the host itself an address on the fabric
    ///
    /// The host can then reach containers and be reached by them, and containers reach the outside through it by masquerade. Attaching a
    /// container with a default route does the same by itself.
    #[command(after_help = "\
Example:
  weavectl expose")]
    Expose,

    /// Take the host's own address on the fabric back
    ///
    /// Containers that have their default route through this host do not reach the outside any more. Attaching the next one exposes the
    /// host again, often at another address: then detach and attach the older ones.
    #[command(after_help = "\
Example:
  weavectl hide")]
    Hide,

    /// Take over the addresses of a peer that will not come back
    ///
    /// Do it on one host, once, and only when the peer is gone for good. If it comes back after all it finds out, gives up those
    /// addresses and says so. A second run changes nothing.
    #[command(after_help = "\
Example:
  weavectl rmpeer host-c")]
    Rmpeer {
        /// Nickname, id, or the beginning of an id that no other peer has
        peer: String,
    },

    /// Prove who owns which addresses, and how they came to
    ///
    /// Every change of ownership is a record that the owner before has signed. A router keeps the ones that it has seen.
    #[command(after_help = "\
Examples:
  weavectl ipam audit
  weavectl ipam history 10.32.0.7")]
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Ipam {
        /// What to prove
        #[command(subcommand)]
        what: Proof,
    },

    /// Look up names of the fabric, and add and remove some by hand
    ///
    /// Containers bring their names along: pods as POD.NAMESPACE.weave.local, containers of Docker as NAME.weave.local. What is added by
    /// hand is for the rest, such as a database outside of the fabric. They all go with their host.
    #[command(after_help = "\
Examples:
  weavectl dns lookup web
  weavectl dns add db 192.0.2.7
  weavectl status dns")]
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Dns {
        /// What to do
        #[command(subcommand)]
        what: Names,
    },

    /// Leave the fabric and forget everything
    ///
    /// Hands the addresses to another peer, detaches the containers of this host, and removes bridge, rules and state. `weaved` goes on
    /// running without a fabric.
    #[command(after_help = "\
Examples:
  weavectl reset
  weavectl reset --force")]
    Reset {
        /// Go on although containers are attached, or no peer can be reached to take the addresses
        #[arg(long)]
        force: bool,
    },

    /// Print everything that the router knows, as JSON and without secrets
    ///
    /// For programs, and to attach to a question.
    #[command(after_help = "\
Example:
  weavectl report > report.json")]
    Report,

    /// Measure the way to a peer, or to the peer that has a container's address
    ///
    /// Goes from router to router inside the session that containers' frames take, and names the path.
    #[command(after_help = "\
Examples:
  weavectl ping host-b
  weavectl ping 10.40.0.7 -c 1")]
    Ping {
        /// Nickname or id of a peer, or the address of a container
        #[arg(value_name = "PEER|ADDR")]
        target: String,

        /// How many times, one second apart
        #[arg(short = 'c', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        count: u32,
    },

    /// Make container runtimes of this host use the fabric
    #[command(after_help = "\
Examples:
  weavectl setup cni
  weavectl setup docker")]
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Setup {
        /// What is set up
        #[command(subcommand)]
        what: Setup,
    },

    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  weavectl completions bash > /etc/bash_completion.d/weavectl")]
    Completions {
        /// Which shell
        shell: Shell,
    },

    /// Print the versions of weavectl and weaved
    #[command(after_help = "\
Example:
  weavectl version")]
    Version,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Topic {
    /// Show sessions, tries to get one, and who was refused
    #[command(after_help = "\
Example:
  weavectl status connections")]
    Connections,
    /// Show the members of the fabric
    #[command(after_help = "\
Example:
  weavectl status peers")]
    Peers,
    /// Show who owns which addresses, and which are in use here
    ///
    /// The bar is the range from its first to its last address, as wide as the terminal; the table says which letter is whose: `#` is this
    /// router, `+` owners without a letter of their own, `.` nobody that is known.
    #[command(after_help = "\
Example:
  weavectl status ipam")]
    Ipam,
    /// Show whether names are served here, and which names the fabric has
    #[command(after_help = "\
Example:
  weavectl status dns")]
    Dns,
    /// Show the addresses that this router was told to dial
    #[command(after_help = "\
Example:
  weavectl status targets")]
    Targets,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Names {
    /// Let a name stand for addresses, in the fabric or outside
    ///
    /// Known on all hosts within a second. It belongs to this host: it is there again when `weaved` starts, and gone while the host is
    /// down. The same name on several hosts stands for the addresses of all of them, and answers have them in changing order. Adding to a
    /// name that is there adds addresses to it; 16 at most.
    #[command(after_help = "\
Examples:
  weavectl dns add db 192.0.2.7
  weavectl dns add printer.office.weave.local 192.0.2.20 2001:db8::20")]
    Add {
        /// With the fabric's domain or without
        #[arg(value_parser = dns_name)]
        name: String,
        /// What it stands for
        #[arg(required = true, value_name = "ADDR")]
        addresses: Vec<IpAddr>,
    },
    /// Take back what was added on this host
    #[command(after_help = "\
Examples:
  weavectl dns remove db
  weavectl dns remove db 192.0.2.7")]
    Remove {
        /// With the fabric's domain or without
        #[arg(value_parser = dns_name)]
        name: String,
        /// These alone; all of them unless given
        #[arg(value_name = "ADDR")]
        addresses: Vec<IpAddr>,
    },
    /// Show what a name stands for, or which names an address has
    ///
    /// Asks this router what it knows of the fabric, and nobody else; containers ask by DNS, at the address that `weavectl status dns` shows.
    #[command(after_help = "\
Examples:
  weavectl dns lookup web
  weavectl dns lookup 10.32.0.7")]
    Lookup {
        /// A name, with the fabric's domain or without, or an address
        #[arg(value_name = "NAME|ADDR", value_parser = dns_name)]
        name: String,
    },
}

/// What may stand in a path, and in a name or an address; `weaved` knows the rest.
fn dns_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("want letters, digits, `-` and `_` with dots between them".to_owned())
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Proof {
    /// Check the signatures of all blocks, and name gaps and conflicts
    ///
    /// Looks at the records that this router has seen since it joined, 20,000 at most. Steps from before are gaps, which prove nothing
    /// wrong. A conflict means that two records contradict each other and no later one has settled it, or that a signature is wrong: exit
    /// code 14.
    #[command(after_help = "\
Examples:
  weavectl ipam audit
  weavectl ipam audit --json | jq '.conflicts[] | select(.settled | not)'")]
    Audit,
    /// Show every step of an address, from its first owner to its present one
    #[command(after_help = "\
Example:
  weavectl ipam history 10.32.0.7")]
    History {
        /// An address of the range
        #[arg(value_name = "ADDR")]
        address: Ipv4Addr,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Setup {
    /// Install the CNI plugin and a network that uses it
    ///
    /// For containerd, Kubernetes, CRI-O, Podman with CNI, and Nomad: copies `weave-cni`, which is looked for beside `weavectl`, then in
    /// PATH, links `weave-ipam` to it, and writes `10-weave.conflist`, with `portmap` for host ports when that is installed. Each file is
    /// replaced at once, never seen half. Running it again changes nothing.
    #[command(after_help = "\
Examples:
  weavectl setup cni
  weavectl setup cni --bin-dir /usr/lib/cni
  weavectl --socket /run/blue/weaved.sock setup cni --network blue --conf-dir /etc/blue/net.d")]
    Cni(SetupCniArgs),
    /// Make a network of the fabric in Docker
    ///
    /// Asks Docker for a network of the driver that `weaved` is, with the fabric's whole range: its containers reach all others of the
    /// fabric. To be run on each host. Running it again changes nothing.
    #[command(after_help = "\
Examples:
  weavectl setup docker && docker run --network weave ...
  weavectl setup docker --network backend --subnet 10.32.5.0/24 --internal")]
    Docker(SetupDockerArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupDockerArgs {
    /// Name of the network
    #[arg(long, value_name = "NAME", default_value = "weave", value_parser = network_name)]
    pub(crate) network: String,
    /// Part of the fabric's range for its containers, which are routed to no other [default: the whole range]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<Ipv4Net>,
    /// Give containers IPv6 addresses too
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Give containers no way out of the fabric
    #[arg(long)]
    pub(crate) internal: bool,
    /// Socket of Docker
    #[arg(long, value_name = "PATH", default_value = "/run/docker.sock")]
    pub(crate) docker_socket: PathBuf,
    /// Name of the driver: that of the socket which weaved serves
    #[arg(long, value_name = "NAME", default_value = "weave")]
    pub(crate) driver: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetupCniArgs {
    /// Where runtimes look for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Where runtimes look for networks
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
    /// Name of the network, as runtimes show it
    #[arg(long, value_name = "NAME", default_value = "weave", value_parser = network_name)]
    pub(crate) network: String,
    /// State directory of the router, where the plugin leaves what it could not deliver [default: /var/lib/weave]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Write over a network file that says something else
    #[arg(long)]
    pub(crate) force: bool,
}

/// As the CNI specification wants network names.
fn network_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inner) {
        return Ok(text.to_owned());
    }
    Err("want a letter or digit, then letters, digits, `_`, `.` or `-`".to_owned())
}

/// What `weaved` is started with; without effect while it is running.
#[derive(Debug, Clone, Default, PartialEq, Eq, ClapArgs)]
#[command(next_help_heading = "When weaved has to be started")]
pub(crate) struct DaemonArgs {
    /// UDP address and port for other routers [default: [::]:6783]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Name of this router for people [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub(crate) nickname: Option<String>,
    /// Where it keeps its state and log [default: /var/lib/weave]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Name of the bridge that containers hang on [default: weave0]
    #[arg(long, value_name = "NAME")]
    pub(crate) bridge: Option<String>,
    /// MTU of containers [default: the largest that fits the wire]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1280..=65000))]
    pub(crate) mtu: Option<u32>,
    /// Serve Prometheus metrics on this address
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How much to log: error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UpArgs {
    /// IPv4 addresses of the fabric [default: 10.32.0.0/12]
    ///
    /// Must not overlap with anything that the hosts or the containers reach otherwise. IPv6 addresses follow by themselves.
    #[arg(long, value_name = "CIDR")]
    pub(crate) ipalloc_range: Option<Ipv4Net>,
    /// File with a password for the fabric
    ///
    /// The secret is then derived from the password instead of being random, and the token does not contain it: joining takes both.
    /// `-` reads standard input. The last newline does not count.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Create the fabric on all hosts of a list at once
    ///
    /// Nicknames, this host's among them, in any order, each with `=ADDR` where the name cannot be looked up. The same list, range and
    /// password on every seed make the same fabric without a word between them; each seed takes its part of the range. Other hosts join
    /// by a token. Hosts with different lists are in different fabrics and refuse each other, naming both lists.
    #[arg(long, value_name = "NAME[=ADDR],...", value_delimiter = ',', requires = "password_file")]
    pub(crate) seeds: Option<Vec<String>>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct JoinArgs {
    /// What `weavectl up` or `weavectl token` printed on a member, or `-` to read it from standard input
    #[arg(required_unless_present = "token_file")]
    pub(crate) token: Option<String>,
    /// File with the token, which then no other user sees
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the password of the fabric, if it has one; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TargetsArgs {
    /// `host`, `host:port`, `ip`, `ip:port` or `[ip6]:port`; the port is 6783 unless given
    #[arg(required = true, value_name = "ADDR")]
    pub(crate) addresses: Vec<String>,
}

#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["container", "netns", "pid"]))]
pub(crate) struct AttachArgs {
    /// A running container of Docker or Podman: its name, its id, or the beginning of its id
    pub(crate) container: Option<String>,
    /// Network namespace of the container: a path, or a name of `ip netns`
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: Option<PathBuf>,
    /// A process in the container
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// A wanted address, or a subnet of the range to take one from
    #[arg(long, value_name = "ADDR|CIDR")]
    pub(crate) ip: Option<String>,
    /// Name of the interface in the container
    #[arg(long, value_name = "NAME", default_value = "ethwe")]
    pub(crate) ifname: String,
    /// A name for people [default: the container's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Id of the container [default: derived from the namespace]
    #[arg(long, value_name = "ID", conflicts_with = "container")]
    pub(crate) id: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DetachArgs {
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// Only this interface [default: all of the container's]
    #[arg(long, value_name = "NAME")]
    pub(crate) ifname: Option<String>,
}

/// A container, also one whose namespace is gone.
#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct ContainerArgs {
    /// A container of Docker or Podman: its name, its id, or the beginning of its id
    pub(crate) container: Option<String>,
    /// Network namespace of the container: a path, or a name of `ip netns`
    #[arg(long, value_name = "PATH")]
    pub(crate) netns: Option<PathBuf>,
    /// A process in the container
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Id of the container, as `weavectl ps --json` shows it
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
}
