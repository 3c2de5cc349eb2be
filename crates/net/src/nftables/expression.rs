//! Rules in the kernel's terms: expressions that load registers, compare them and act.
//!
//! Numbers are from linux/netfilter/nf_tables.h.

use ipnet::Ipv4Net;

use super::ruleset::{Action, Field, Match, Rule};
use crate::netlink::Attributes;

/// A register of 16 bytes; keys of several fields use its 4-byte parts one after the other.
const REGISTER: u32 = 1;
const REGISTER_PARTS: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 16;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;
const INTERFACE_NAME_BYTES: usize = 16;
const SOURCE_OFFSET: u32 = 12;
const DESTINATION_OFFSET: u32 = 16;
const NAT_DESTINATION: u32 = 1;
const FULLY_RANDOM: u32 = 1 << 4;
const LOOKUP_INVERTED: u32 = 1;
const VERDICT_DROP: i32 = 0;
const VERDICT_ACCEPT: i32 = 1;
const VERDICT_JUMP: i32 = -3;

#[derive(Default)]
struct Expressions(Attributes);

/// The list of expressions of a rule.
pub fn rule(rule: &Rule) -> Attributes {
    let matched = rule.matches.iter().fold(Expressions::default(), Expressions::condition);
    matched.action(&rule.action).0
}

impl Expressions {
    fn add(self, name: &str, data: Attributes) -> Self {
        Self(self.0.nested(1, Attributes::new().text(1, name).nested(2, data)))
    }

    fn condition(self, condition: &Match) -> Self {
        match condition {
            Match::SourceIn(range) => self.address_in(SOURCE_OFFSET, range, false),
            Match::DestinationIn(range) => self.address_in(DESTINATION_OFFSET, range, false),
            Match::DestinationNotIn(range) => self.address_in(DESTINATION_OFFSET, range, true),
            Match::DestinationIsLocal => self.destination_is_local(),
            Match::InputBegins(name) => self.meta(REGISTER, META_INPUT_NAME).compare(name.as_bytes(), false),
            Match::OutputBegins(name) => self.meta(REGISTER, META_OUTPUT_NAME).compare(name.as_bytes(), false),
            Match::Input(name) => self.meta(REGISTER, META_INPUT_NAME).compare(&padded(name), false),
            Match::Output(name) => self.meta(REGISTER, META_OUTPUT_NAME).compare(&padded(name), false),
            Match::InSet { set, key } => self.lookup(set, key, false),
            Match::NotInSet { set, key } => self.lookup(set, key, true),
        }
    }

    fn action(self, action: &Action) -> Self {
        match action {
            Action::Accept => self.verdict(VERDICT_ACCEPT, None),
            Action::Drop => self.verdict(VERDICT_DROP, None),
            Action::Jump(chain) => self.verdict(VERDICT_JUMP, Some(chain)),
            Action::Masquerade => self.add("masq", Attributes::new().network_u32(1, FULLY_RANDOM)),
            Action::DestinationNat { map, key } => {
                let lookup = Attributes::new().text(1, map).network_u32(2, REGISTER).network_u32(3, REGISTER);
                let nat = Attributes::new()
                    .network_u32(1, NAT_DESTINATION)
                    .network_u32(2, libc::AF_INET as u32)
                    .network_u32(3, REGISTER_PARTS)
                    .network_u32(5, REGISTER_PARTS + 1);
                self.load(key).add("lookup", lookup).add("nat", nat)
            }
        }
    }

    fn lookup(self, set: &str, key: &[Field], inverted: bool) -> Self {
        let lookup = Attributes::new().text(1, set).network_u32(2, REGISTER);
        let lookup = if inverted { lookup.network_u32(5, LOOKUP_INVERTED) } else { lookup };
        self.load(key).add("lookup", lookup)
    }

    fn load(self, key: &[Field]) -> Self {
        let registers = key.iter().scan(REGISTER_PARTS, |next, field| {
            let register = *next;
            *next += field.registers();
            Some((field, register))
        });
        registers.fold(self, |list, (field, register)| match field {
            Field::Input => list.meta(register, META_INPUT_NAME),
            Field::SourceAddress => list.payload(register, NETWORK_HEADER, SOURCE_OFFSET, 4),
            Field::DestinationAddress => list.payload(register, NETWORK_HEADER, DESTINATION_OFFSET, 4),
            Field::Protocol => list.meta(register, META_PROTOCOL),
            // The same place in TCP, UDP and SCTP; keys have the protocol too, so that others never
            // match.
            Field::DestinationPort => list.payload(register, TRANSPORT_HEADER, 2, 2),
        })
    }

    fn address_in(self, offset: u32, range: &Ipv4Net, inverted: bool) -> Self {
        let mask = range.netmask().octets();
        let bitwise = Attributes::new()
            .network_u32(1, REGISTER)
            .network_u32(2, REGISTER)
            .network_u32(3, 4)
            .nested(4, Attributes::new().bytes(1, &mask))
            .nested(5, Attributes::new().bytes(1, &[0; 4]));
        self.payload(REGISTER, NETWORK_HEADER, offset, 4).add("bitwise", bitwise).compare(&range.network().octets(), inverted)
    }

    fn destination_is_local(self) -> Self {
        let fib = Attributes::new().network_u32(1, REGISTER).network_u32(2, FIB_ADDRESS_TYPE).network_u32(3, FIB_OF_DESTINATION);
        self.add("fib", fib).compare(&u32::from(libc::RTN_LOCAL).to_ne_bytes(), false)
    }

    fn payload(self, register: u32, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::new().network_u32(1, register).network_u32(2, base).network_u32(3, offset).network_u32(4, length);
        self.add("payload", data)
    }

    fn meta(self, register: u32, key: u32) -> Self {
        self.add("meta", Attributes::new().network_u32(1, register).network_u32(2, key))
    }

    fn compare(self, value: &[u8], inverted: bool) -> Self {
        let data =
            Attributes::new().network_u32(1, REGISTER).network_u32(2, u32::from(inverted)).nested(3, Attributes::new().bytes(1, value));
        self.add("cmp", data)
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let verdict =
            Attributes::new().bytes(1, &code.to_be_bytes()).optional(chain.map(|chain| move |list: Attributes| list.text(2, chain)));
        let data = Attributes::new().network_u32(1, VERDICT_REGISTER).nested(2, Attributes::new().nested(2, verdict));
        self.add("immediate", data)
    }
}

/// A whole name is compared with its zero bytes, or it would match longer ones too.
pub(super) fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_BYTES, 0);
    bytes
}
