//! What `weaved` is told: the command line and a TOML file with the same words.
//!
//! A flag wins over the file, the file over the default. Nothing here is checked against the machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Deserialize;

use super::busy_polling::BusyPolling;
use super::dns::options::{self, Address, Domain, NotAnOption, Options, Upstream};
use super::docker::Scope;
use super::docker::socket::Choice;
use super::reclaim_after::ReclaimAfter;

/// The fabric's one UDP port.
pub const DEFAULT_PORT: u16 = 6783;
/// Name of the bridge that containers hang on.
pub const DEFAULT_BRIDGE: &str = "weave0";
/// Where a configuration file is looked for when none is named.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/weave/weaved.toml";

/// The router of a host: joins it to an encrypted fabric and carries its containers' traffic
///
/// Runs in the foreground and logs to stderr. Until `weavectl up` or `weavectl join` gave it a fabric it idles; from
/// then on its state directory remembers everything, and a restart adopts the bridge, devices and attachments it finds.
#[derive(Debug, Parser)]
#[command(
    name = "weaved",
    version,
    after_help = "Example:\n  weaved --nickname host-a --listen 0.0.0.0:6783\n  weavectl up"
)]
pub struct Args {
    /// Directory for identity, fabric and address state; must survive a reboot [default: /var/lib/weave]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Unix socket for weavectl and weave-cni [default: /run/weave/weaved.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// UDP address for everything between routers [default: [::]:6783]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Name shown to people [default: the hostname]
    #[arg(long, value_name = "NAME")]
    pub nickname: Option<String>,
    /// Bridge that containers hang on [default: weave0]
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// MTU of containers [default: computed from the underlay's]
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// Cipher to offer for containers' traffic [default: auto]
    #[arg(long, value_name = "NAME", value_enum)]
    pub cipher: Option<CipherOffer>,
    /// Microseconds for which the data path looks on after a frame before it sleeps; `off`, or at most 1000 [default: auto]
    ///
    /// Looking on makes round trips several times shorter and costs at most a twentieth of a processor in vain. `auto` is 50, and off
    /// while the machine runs on battery.
    #[arg(long, value_name = "N")]
    pub busy_poll: Option<BusyPolling>,
    /// Take over from peers that were dead for so long, such as `7d`, if most members are alive here [default: off]
    ///
    /// A host that is cut off or switched off for longer loses its addresses and has to join anew: set it longer than any outage that
    /// a host shall survive. Of two hosts neither takes over from the other.
    #[arg(long, value_name = "TIME")]
    pub reclaim_after: Option<ReclaimAfter>,
    /// Serve Docker as network and IPAM driver on this socket, whose name is the driver's; or `off` [default: auto]
    ///
    /// `auto` is /run/docker/plugins/weave.sock as soon as Docker is there. Docker finds plugins in /run/docker/plugins alone.
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<Choice>,
    /// What Docker takes the driver's networks for [default: local]
    #[arg(long, value_name = "SCOPE", value_enum)]
    pub docker_scope: Option<Scope>,
    /// Socket of the daemon whose containers `weavectl attach CONTAINER` names, and which knows what Docker's are called [default: /run/docker.sock]
    #[arg(long, value_name = "PATH")]
    pub container_engine: Option<PathBuf>,
    /// Serve names to containers at this address of the bridge, link-local and best the same on all hosts; or `off` [default: 169.254.67.83]
    #[arg(long, value_name = "ADDR")]
    pub dns_address: Option<Address>,
    /// Serve no names: the same as --dns-address off
    #[arg(long, conflicts_with = "dns_address")]
    pub no_dns: bool,
    /// Domain behind the names of the fabric, the same on all hosts [default: weave.local]
    #[arg(long, value_name = "NAME")]
    pub dns_domain: Option<Domain>,
    /// Seconds for which a name of the fabric may be kept by whoever asked [default: 1]
    #[arg(long, value_name = "N")]
    pub dns_ttl: Option<u32>,
    /// Who is asked for all other names: addresses with commas between them, or `off` [default: auto]
    ///
    /// `auto` asks whom this host asks, by its /etc/resolv.conf.
    #[arg(long, value_name = "ADDR,...")]
    pub dns_upstream: Option<Upstream>,
    /// Serve Prometheus metrics on this TCP address [default: off]
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Log level, or a filter such as `info,router::core=debug` [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Configuration file with the same words [default: /etc/weave/weaved.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What this router offers to seal containers' traffic with; two routers take AES-256-GCM where both offer it, ChaCha20-Poly1305
/// otherwise. There is no choice without encryption.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ValueEnum)]
pub enum CipherOffer {
    /// AES-256-GCM where the processor has instructions for it
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// AES-256-GCM also without such instructions, several times slower then
    #[serde(rename = "aes-256-gcm")]
    #[value(name = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305 alone
    #[serde(rename = "chacha20-poly1305")]
    #[value(name = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

/// The file's content; every field is optional and unknown words are refused, so that a typing error is seen.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileConfig {
    /// As `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// As `--socket`.
    pub socket: Option<PathBuf>,
    /// As `--listen`.
    pub listen: Option<SocketAddr>,
    /// As `--nickname`.
    pub nickname: Option<String>,
    /// As `--bridge`.
    pub bridge: Option<String>,
    /// As `--mtu`.
    pub mtu: Option<u32>,
    /// As `--cipher`.
    pub cipher: Option<CipherOffer>,
    /// As `--busy-poll`.
    pub busy_poll: Option<BusyPolling>,
    /// As `--reclaim-after`.
    pub reclaim_after: Option<ReclaimAfter>,
    /// As `--docker-socket`.
    pub docker_socket: Option<Choice>,
    /// As `--docker-scope`.
    pub docker_scope: Option<Scope>,
    /// As `--container-engine`.
    pub container_engine: Option<PathBuf>,
    /// As `--dns-address`.
    pub dns_address: Option<Address>,
    /// As `--dns-domain`.
    pub dns_domain: Option<Domain>,
    /// As `--dns-ttl`.
    pub dns_ttl: Option<u32>,
    /// As `--dns-upstream`.
    pub dns_upstream: Option<Upstream>,
    /// As `--metrics`.
    pub metrics: Option<SocketAddr>,
    /// As `--log`.
    pub log: Option<String>,
}

/// The settled configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory for state.
    pub state_dir: PathBuf,
    /// Control socket.
    pub socket: PathBuf,
    /// Underlay address.
    pub listen: SocketAddr,
    /// Name for people, 1 to 63 bytes.
    pub nickname: String,
    /// Name of the bridge, at most 15 bytes.
    pub bridge: String,
    /// MTU of containers, if fixed by hand.
    pub mtu: Option<u32>,
    /// What is offered to seal containers' traffic with.
    pub cipher: CipherOffer,
    /// How long the data path looks on before it sleeps.
    pub busy_poll: BusyPolling,
    /// When dead peers are removed without an operator.
    pub reclaim_after: ReclaimAfter,
    /// Where Docker is served.
    pub docker_socket: Choice,
    /// What Docker takes networks for.
    pub docker_scope: Scope,
    /// Where the daemon of named containers listens.
    pub container_engine: PathBuf,
    /// Names for containers.
    pub dns: Options,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Log filter.
    pub log: String,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The named file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("`{path}` is not a valid configuration: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A bridge name that the kernel would refuse.
    #[error("bridge name `{0}` is not 1 to 15 characters without `/`, `:` and spaces")]
    BridgeName(String),
    /// A nickname that would not fit a record.
    #[error("nickname `{0}` is not 1 to 63 printable characters")]
    Nickname(String),
    /// An MTU that no container could work with.
    #[error("mtu {0} is outside 1280 to 65000 (IPv6 needs at least 1280)")]
    Mtu(u32),
    /// A word about names that makes no sense.
    #[error(transparent)]
    Dns(#[from] NotAnOption),
}

impl Config {
    /// Settles flags, file and defaults. `hostname` is the default nickname.
    pub fn settle(args: Args, hostname: &str) -> Result<Config, ConfigError> {
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None if Path::new(DEFAULT_CONFIG_FILE).exists() => read_file(Path::new(DEFAULT_CONFIG_FILE))?,
            None => FileConfig::default(),
        };
        let config = Config {
            state_dir: args
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| control::api::DEFAULT_STATE_DIR.into()),
            socket: args.socket.or(file.socket).unwrap_or_else(|| control::api::DEFAULT_SOCKET.into()),
            listen: args
                .listen
                .or(file.listen)
                .unwrap_or_else(|| SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), DEFAULT_PORT)),
            nickname: args.nickname.or(file.nickname).unwrap_or_else(|| hostname.to_owned()),
            bridge: args.bridge.or(file.bridge).unwrap_or_else(|| DEFAULT_BRIDGE.to_owned()),
            mtu: args.mtu.or(file.mtu),
            cipher: args.cipher.or(file.cipher).unwrap_or_default(),
            busy_poll: args.busy_poll.or(file.busy_poll).unwrap_or_default(),
            reclaim_after: args.reclaim_after.or(file.reclaim_after).unwrap_or_default(),
            docker_socket: args.docker_socket.or(file.docker_socket).unwrap_or_default(),
            docker_scope: args.docker_scope.or(file.docker_scope).unwrap_or_default(),
            container_engine: args
                .container_engine
                .or(file.container_engine)
                .unwrap_or_else(|| super::containers::daemon::DEFAULT_SOCKET.into()),
            dns: Options {
                address: match args.no_dns {
                    true => Address::Off,
                    false => args.dns_address.or(file.dns_address).unwrap_or_default(),
                },
                domain: args.dns_domain.or(file.dns_domain).unwrap_or_default(),
                ttl: options::ttl(args.dns_ttl.or(file.dns_ttl).unwrap_or(options::DEFAULT_TTL))?,
                upstream: args.dns_upstream.or(file.dns_upstream).unwrap_or_default(),
            },
            metrics: args.metrics.or(file.metrics),
            log: args.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
        };
        config.check()
    }

    /// Name of the TAP device that leads from the bridge to this router.
    pub fn tap_name(&self) -> String {
        // IFNAMSIZ leaves 15 bytes; the bridge's own name may need all of them.
        let stem: String = self.bridge.chars().take(11).collect();
        format!("{stem}-tap")
    }

    fn check(self) -> Result<Config, ConfigError> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
        if self.bridge.is_empty()
            || self.bridge.len() > 15
            || !self.bridge.chars().all(plain)
            || self.bridge.starts_with('.')
        {
            return Err(ConfigError::BridgeName(self.bridge));
        }
        if self.nickname.is_empty() || self.nickname.len() > 63 || self.nickname.chars().any(char::is_control)
        {
            return Err(ConfigError::Nickname(self.nickname));
        }
        match self.mtu {
            Some(mtu) if !(1280..=65000).contains(&mtu) => Err(ConfigError::Mtu(mtu)),
            _ => Ok(self),
        }
    }
}

fn read_file(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(words: &[&str]) -> Result<Config, ConfigError> {
        Config::settle(Args::parse_from(words), "some-host")
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = settle(&["weaved"]).expect("defaults");
        assert_eq!(config.listen.to_string(), "[::]:6783");
        assert_eq!(config.socket, Path::new("/run/weave/weaved.sock"));
        assert_eq!((config.nickname.as_str(), config.bridge.as_str()), ("some-host", "weave0"));
        assert_eq!(config.tap_name(), "weave0-tap");
    }

    #[test]
    fn flag_wins_over_file_and_unknown_words_are_refused() {
        let dir = std::env::temp_dir().join(format!("weaved-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("dir");
        let path = dir.join("weaved.toml");
        std::fs::write(&path, "nickname = \"file\"\nbridge = \"br9\"\n").expect("write");
        let file = path.to_str().expect("utf-8");
        let config = settle(&["weaved", "--config", file, "--nickname", "flag"]).expect("valid");
        assert_eq!((config.nickname.as_str(), config.bridge.as_str()), ("flag", "br9"));
        std::fs::write(&path, "nicknam = \"x\"\n").expect("write");
        let error = settle(&["weaved", "--config", file]).expect_err("unknown word").to_string();
        assert!(error.contains("nicknam"), "{error}");
        std::fs::remove_dir_all(&dir).expect("clean");
    }

    #[test]
    fn busy_poll_is_the_same_word_as_flag_and_in_the_file() {
        assert_eq!(settle(&["weaved"]).expect("defaults").busy_poll, BusyPolling::Auto);
        assert_eq!(settle(&["weaved", "--busy-poll", "off"]).expect("flag").busy_poll, BusyPolling::Off);
        let file: FileConfig = toml::from_str("busy-poll = \"off\"").expect("file");
        assert_eq!(file.busy_poll, Some(BusyPolling::Off));
        toml::from_str::<FileConfig>("busy-poll = 1001").expect_err("too long");
    }

    #[test]
    fn cipher_is_the_same_word_as_flag_and_in_the_file() {
        assert_eq!(settle(&["weaved"]).expect("defaults").cipher, CipherOffer::Auto);
        for offer in CipherOffer::value_variants() {
            let word = offer.to_possible_value().expect("no hidden ones");
            let flag = settle(&["weaved", "--cipher", word.get_name()]).expect("flag");
            let file: FileConfig =
                toml::from_str(&format!("cipher = \"{}\"", word.get_name())).expect("file");
            assert_eq!((flag.cipher, file.cipher), (*offer, Some(*offer)));
        }
        toml::from_str::<FileConfig>("cipher = \"none\"").expect_err("nothing is sent in clear");
    }

    #[test]
    fn names_are_served_unless_they_are_not_wanted() {
        let dns = |words: &[&str]| settle(&[&["weaved"], words].concat()).expect("valid").dns;
        assert_eq!(dns(&[]).address, Address::At(options::DEFAULT_ADDRESS));
        assert_eq!(dns(&["--no-dns"]).address, Address::Off);
        assert_eq!(dns(&["--dns-address", "off"]).address, Address::Off);
        assert_eq!(dns(&["--dns-ttl", "30"]).ttl, 30);
        assert!(settle(&["weaved", "--dns-ttl", "3601"]).is_err());
        let file: FileConfig =
            toml::from_str("dns-address = \"off\"\ndns-domain = \"lab.example\"\ndns-upstream = \"off\"")
                .expect("file");
        assert_eq!((file.dns_address, file.dns_upstream), (Some(Address::Off), Some(Upstream::Nobody)));
        toml::from_str::<FileConfig>("dns-address = \"10.0.0.1\"").expect_err("not link-local");
    }

    #[test]
    fn limits_are_refused_with_the_value() {
        assert!(settle(&["weaved", "--bridge", "sixteen-letters!"]).is_err());
        assert!(settle(&["weaved", "--mtu", "1279"]).expect_err("low").to_string().contains("1279"));
        assert!(settle(&["weaved", "--nickname", ""]).is_err());
        assert_eq!(settle(&["weaved", "--bridge", "fifteen-letters"]).expect("15").tap_name().len(), 15);
    }
}
