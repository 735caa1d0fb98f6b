//! Plans as text: what a failing seed is kept as, so that it stays the same when scenarios draw differently.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipam::Want;

use super::{Act, Plan, Rules};
use crate::fault::{Fault, Kind};
use crate::network::Weather;

impl Plan {
    /// The plan as text, one act a line.
    pub fn to_text(&self) -> String {
        let Plan { seed, peers, natted, range, rules, weather, stagger, length, acts } = self;
        let Weather { loss, duplication, corruption, reordering, late, mtu } = weather;
        let mut text = format!(
            "plan {seed} {peers} {natted} {range} {} {}\nweather {loss} {duplication} {corruption} {reordering} {} {mtu}\n",
            stagger.as_micros(),
            length.as_micros(),
            late.as_micros()
        );
        if *rules != Rules::default() {
            let after = rules.reclaim_after.map_or(0, |after| after.as_micros());
            text += &format!("rules {} {after}\n", rules.seeds);
        }
        for (at, act) in acts {
            let act = match act {
                Act::Attach { host, container, want: Want::Any } => format!("attach {host} {container} any"),
                Act::Attach { host, container, want: Want::In(net) } => {
                    format!("attach {host} {container} in {net}")
                }
                Act::Attach { host, container, want: Want::Fixed(address) } => {
                    format!("attach {host} {container} fixed {address}")
                }
                Act::Detach { host, container } => format!("detach {host} {container}"),
                Act::Ping { host, other } => format!("ping {host} {other}"),
                Act::Fault(Fault { kind, host, other, lasts, how }) => {
                    format!("fault {kind} {host} {other} {} {how}", lasts.as_micros())
                }
            };
            text += &format!("{} {act}\n", at.as_micros());
        }
        text
    }

    /// Reads what [`Plan::to_text`] wrote. Lines that begin with `#` are for people.
    pub fn from_text(text: &str) -> Result<Plan> {
        let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        let mut head = Words::of(lines.next().context("an empty plan")?);
        head.expect("plan")?;
        let mut plan = Plan {
            seed: head.next()?,
            peers: head.next()?,
            natted: head.next()?,
            range: head.next()?,
            rules: Rules::default(),
            weather: Weather::FAIR,
            stagger: head.time()?,
            length: head.time()?,
            acts: Vec::new(),
        };
        let mut sky = Words::of(lines.next().context("a plan without weather")?);
        sky.expect("weather")?;
        plan.weather = Weather {
            loss: sky.next()?,
            duplication: sky.next()?,
            corruption: sky.next()?,
            reordering: sky.next()?,
            late: sky.time()?,
            mtu: sky.next()?,
        };
        let mut lines = lines.peekable();
        if let Some(line) = lines.next_if(|line| line.starts_with("rules ")) {
            let mut words = Words::of(line);
            words.expect("rules")?;
            let (seeds, after) = (words.next()?, words.time()?);
            plan.rules = Rules { seeds, reclaim_after: Some(after).filter(|after| !after.is_zero()) };
        }
        for line in lines {
            let act = read_act(&mut Words::of(line)).with_context(|| format!("in the line `{line}`"))?;
            plan.acts.push(act);
        }
        Ok(plan)
    }
}

fn read_act(words: &mut Words<'_>) -> Result<(Duration, Act)> {
    let at = words.time()?;
    let act = match words.word()? {
        "attach" => {
            let (host, container) = (words.next()?, words.next()?);
            let want = match words.word()? {
                "any" => Want::Any,
                "in" => Want::In(words.next()?),
                "fixed" => Want::Fixed(words.next()?),
                other => bail!("no wish `{other}`, want any, in or fixed"),
            };
            Act::Attach { host, container, want }
        }
        "detach" => Act::Detach { host: words.next()?, container: words.next()? },
        "ping" => Act::Ping { host: words.next()?, other: words.next()? },
        "fault" => {
            let name = words.word()?;
            let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
            Act::Fault(Fault {
                kind: *kind.with_context(|| format!("no fault `{name}`; weave-sim --list names them"))?,
                host: words.next()?,
                other: words.next()?,
                lasts: words.time()?,
                how: words.next()?,
            })
        }
        other => bail!("no act `{other}`, want attach, detach, ping or fault"),
    };
    Ok((at, act))
}

struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Words(line.split_whitespace())
    }

    fn word(&mut self) -> Result<&'a str> {
        self.0.next().context("the line ends too early")
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        match self.word()? {
            found if found == word => Ok(()),
            found => bail!("got `{found}`, want `{word}`"),
        }
    }

    fn next<T: FromStr>(&mut self) -> Result<T> {
        let word = self.word()?;
        word.parse().ok().with_context(|| format!("`{word}` does not belong here"))
    }

    fn time(&mut self) -> Result<Duration> {
        Ok(Duration::from_micros(self.next()?))
    }
}
