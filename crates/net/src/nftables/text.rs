//! Rulesets as text, close to what administrators know from `nft list table`: for tests and for
//! reading.

use std::fmt;

use super::ruleset::{Action, Chain, ChainKind, Field, Hook, Map, MapKind, Match, Rejection, Rule, Ruleset, Value};

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "table ip {} {{", self.table)?;
        self.maps.iter().try_for_each(|map| write!(f, "{map}"))?;
        self.chains.iter().try_for_each(|chain| write!(f, "{chain}"))?;
        writeln!(f, "}}")
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let word = match self.kind {
            MapKind::Set | MapKind::Ranges => "set",
            MapKind::ToAddressAndPort | MapKind::ToVerdict | MapKind::Remembered { .. } => "map",
        };
        writeln!(f, "  {word} {} {{ # {}", self.name, concatenated(&self.key))?;
        for (key, data) in &self.elements {
            let arrow = if data.is_empty() { "" } else { " : " };
            writeln!(f, "    {}{arrow}{}", concatenated(key), concatenated(data))?;
        }
        writeln!(f, "  }}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "  chain {} {{", self.name)?;
        match self.kind {
            ChainKind::Plain => {}
            ChainKind::Nat { hook, priority } => writeln!(f, "    type nat hook {hook} priority {priority}")?,
            ChainKind::Filter { hook, priority } => writeln!(f, "    type filter hook {hook} priority {priority}")?,
        }
        self.rules.iter().try_for_each(|rule| writeln!(f, "    {rule}"))?;
        writeln!(f, "  }}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.matches.iter().try_for_each(|condition| write!(f, "{condition} "))?;
        match &self.action {
            Action::Accept => write!(f, "accept"),
            Action::Drop => write!(f, "drop"),
            Action::LeaveUntracked => write!(f, "notrack"),
            Action::Jump(chain) => write!(f, "jump {chain}"),
            Action::SetMark(bits) => write!(f, "meta mark set mark or {bits:#x}"),
            Action::ClearMarkAndMasquerade(bits) => write!(f, "meta mark set mark xor {bits:#x} masquerade fully-random"),
            Action::Masquerade => write!(f, "masquerade fully-random"),
            Action::Reject(Rejection::TcpReset) => write!(f, "reject with tcp reset"),
            Action::Reject(Rejection::PortUnreachable) => write!(f, "reject"),
            Action::Dispatch { map, key } => write!(f, "{} vmap @{map}", concatenated(key)),
            Action::Balance(choice) => {
                write!(f, "dnat to {} . numgen random mod {} map @{}", concatenated(&choice.key), choice.count, choice.map)
            }
            Action::DispatchByChance(choice) => {
                write!(f, "{} . numgen random mod {} vmap @{}", concatenated(&choice.key), choice.count, choice.map)
            }
            Action::Remember { clients, seconds, target: (address, port) } => {
                write!(f, "update @{clients} {{ ip saddr timeout {seconds}s : {address} . {port} }}")
            }
            Action::DestinationNatTo(address, port) => write!(f, "dnat to {address}:{port}"),
            Action::DestinationNat { map, key } => write!(f, "dnat to {} map @{map}", concatenated(key)),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Match::SourceIn(range) => write!(f, "ip saddr {range}"),
            Match::SourceNotIn(range) => write!(f, "ip saddr != {range}"),
            Match::DestinationIn(range) => write!(f, "ip daddr {range}"),
            Match::DestinationNotIn(range) => write!(f, "ip daddr != {range}"),
            Match::DestinationIsLocal => write!(f, "fib daddr type local"),
            Match::DestinationIsNotLocal => write!(f, "fib daddr type != local"),
            Match::SourceIsLocal => write!(f, "fib saddr type local"),
            Match::Protocol(number) => write!(f, "l4proto {}", Value::Protocol(*number)),
            Match::IsNewConnection => write!(f, "ct state new"),
            Match::IsRemembered(clients) => write!(f, "ip saddr map @{clients} != 0.0.0.0 . 0"),
            Match::HasMark(bits) => write!(f, "meta mark & {bits:#x} != 0"),
            Match::DestinationWasChanged => write!(f, "ct status dnat"),
            Match::DestinationHardwareAddress([a, b, c, d, e, g]) => {
                write!(f, "ether daddr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Match::InputBegins(name) => write!(f, "iifname \"{name}*\""),
            Match::OutputBegins(name) => write!(f, "oifname \"{name}*\""),
            Match::Input(name) => write!(f, "iifname \"{name}\""),
            Match::Output(name) => write!(f, "oifname \"{name}\""),
            Match::InSet { set, key } => write!(f, "{} @{set}", concatenated(key)),
            Match::NotInSet { set, key } => write!(f, "{} != @{set}", concatenated(key)),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Field::Input => "iifname",
            Field::SourceAddress => "ip saddr",
            Field::DestinationAddress => "ip daddr",
            Field::Protocol => "l4proto",
            Field::DestinationPort => "th dport",
            Field::Index => "index",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Value::Interface(name) => write!(f, "{name:?}"),
            Value::Address(address) => write!(f, "{address}"),
            Value::Protocol(6) => f.write_str("tcp"),
            Value::Protocol(17) => f.write_str("udp"),
            Value::Protocol(132) => f.write_str("sctp"),
            Value::Protocol(number) => write!(f, "{number}"),
            Value::Port(port) => write!(f, "{port}"),
            Value::Index(number) => write!(f, "{number}"),
        }
    }
}

fn concatenated(parts: &[impl fmt::Display]) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" . ")
}
