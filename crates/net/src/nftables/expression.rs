//! Rules in the kernel's terms: expressions that load registers, compare them and act.
//!
//! Numbers are from linux/netfilter/nf_tables.h.

use ipnet::Ipv4Net;

use super::attribute::*;
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

const ADDRESS_BYTES: u32 = 4;
const PORT_BYTES: u32 = 2;
/// The same place in TCP, UDP and SCTP.
const DESTINATION_PORT_OFFSET: u32 = 2;

#[derive(Default)]
struct Expressions(Attributes);

/// The list of expressions of a rule.
pub fn rule(rule: &Rule) -> Attributes {
    let matched = rule.matches.iter().fold(Expressions::default(), Expressions::condition);
    matched.action(&rule.action).0
}

impl Expressions {
    fn add(self, name: &str, data: Attributes) -> Self {
        Self(self.0.nested(LIST_ELEM, Attributes::new().text(EXPR_NAME, name).nested(EXPR_DATA, data)))
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
            Action::Masquerade => self.add("masq", Attributes::new().network_u32(MASQ_FLAGS, FULLY_RANDOM)),
            Action::DestinationNat { map, key } => {
                let lookup = Attributes::new().text(LOOKUP_SET, map).network_u32(LOOKUP_SREG, REGISTER).network_u32(LOOKUP_DREG, REGISTER);
                let nat = Attributes::new()
                    .network_u32(NAT_TYPE, NAT_DESTINATION)
                    .network_u32(NAT_FAMILY, libc::AF_INET as u32)
                    .network_u32(NAT_REG_ADDR_MIN, REGISTER_PARTS)
                    .network_u32(NAT_REG_PROTO_MIN, REGISTER_PARTS + 1);
                self.load(key).add("lookup", lookup).add("nat", nat)
            }
        }
    }

    fn lookup(self, set: &str, key: &[Field], inverted: bool) -> Self {
        let lookup = Attributes::new().text(LOOKUP_SET, set).network_u32(LOOKUP_SREG, REGISTER);
        let lookup = if inverted { lookup.network_u32(LOOKUP_FLAGS, LOOKUP_INVERTED) } else { lookup };
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
            Field::SourceAddress => list.payload(register, NETWORK_HEADER, SOURCE_OFFSET, ADDRESS_BYTES),
            Field::DestinationAddress => list.payload(register, NETWORK_HEADER, DESTINATION_OFFSET, ADDRESS_BYTES),
            Field::Protocol => list.meta(register, META_PROTOCOL),
            // Keys have the protocol too, so that others never match.
            Field::DestinationPort => list.payload(register, TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, PORT_BYTES),
        })
    }

    fn address_in(self, offset: u32, range: &Ipv4Net, inverted: bool) -> Self {
        let mask = range.netmask().octets();
        let bitwise = Attributes::new()
            .network_u32(BITWISE_SREG, REGISTER)
            .network_u32(BITWISE_DREG, REGISTER)
            .network_u32(BITWISE_LEN, ADDRESS_BYTES)
            .nested(BITWISE_MASK, Attributes::new().bytes(DATA_VALUE, &mask))
            .nested(BITWISE_XOR, Attributes::new().bytes(DATA_VALUE, &[0; ADDRESS_BYTES as usize]));
        self.payload(REGISTER, NETWORK_HEADER, offset, ADDRESS_BYTES).add("bitwise", bitwise).compare(&range.network().octets(), inverted)
    }

    fn destination_is_local(self) -> Self {
        let fib = Attributes::new()
            .network_u32(FIB_DREG, REGISTER)
            .network_u32(FIB_RESULT, FIB_ADDRESS_TYPE)
            .network_u32(FIB_FLAGS, FIB_OF_DESTINATION);
        self.add("fib", fib).compare(&u32::from(libc::RTN_LOCAL).to_ne_bytes(), false)
    }

    fn payload(self, register: u32, base: u32, offset: u32, length: u32) -> Self {
        let data = Attributes::new()
            .network_u32(PAYLOAD_DREG, register)
            .network_u32(PAYLOAD_BASE, base)
            .network_u32(PAYLOAD_OFFSET, offset)
            .network_u32(PAYLOAD_LEN, length);
        self.add("payload", data)
    }

    fn meta(self, register: u32, key: u32) -> Self {
        self.add("meta", Attributes::new().network_u32(META_DREG, register).network_u32(META_KEY, key))
    }

    fn compare(self, value: &[u8], inverted: bool) -> Self {
        let data = Attributes::new()
            .network_u32(CMP_SREG, REGISTER)
            .network_u32(CMP_OP, u32::from(inverted))
            .nested(CMP_DATA, Attributes::new().bytes(DATA_VALUE, value));
        self.add("cmp", data)
    }

    fn verdict(self, code: i32, chain: Option<&str>) -> Self {
        let verdict = Attributes::new()
            .bytes(VERDICT_CODE, &code.to_be_bytes())
            .optional(chain.map(|chain| move |list: Attributes| list.text(VERDICT_CHAIN, chain)));
        let data = Attributes::new()
            .network_u32(IMMEDIATE_DREG, VERDICT_REGISTER)
            .nested(IMMEDIATE_DATA, Attributes::new().nested(DATA_VERDICT, verdict));
        self.add("immediate", data)
    }
}

/// A whole name is compared with its zero bytes, or it would match longer ones too.
pub(super) fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_BYTES, 0);
    bytes
}
