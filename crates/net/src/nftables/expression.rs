//! Rules in the kernel's terms: expressions that load registers, compare them and act.
//!
//! Numbers are from linux/netfilter/nf_tables.h.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::attribute::*;
use super::ruleset::{Action, Balance, Field, Match, Rejection, Rule};
use crate::netlink::Attributes;

/// A register of 16 bytes; keys of several fields use its 4-byte parts one after the other.
const REGISTER: u32 = 1;
const REGISTER_PARTS: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const META_MARK: u32 = 3;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_PROTOCOL: u32 = 16;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_SOURCE: u32 = 1;
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

const NUMGEN_RANDOM: u32 = 1;
const DYNSET_UPDATE: u32 = 1;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
/// Bits of CT_STATE and CT_STATUS.
const CT_STATE_NEW: u32 = 1 << 3;
const CT_STATUS_DESTINATION_NAT: u32 = 1 << 5;
const REJECT_ICMP_UNREACHABLE: u32 = 0;
const REJECT_TCP_RESET: u32 = 1;
const ICMP_PORT_UNREACHABLE: u8 = 3;
const MILLISECONDS: u64 = 1000;

const ADDRESS_BYTES: u32 = 4;
const HARDWARE_ADDRESS_BYTES: u32 = 6;
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
            Match::SourceNotIn(range) => self.address_in(SOURCE_OFFSET, range, true),
            Match::DestinationIn(range) => self.address_in(DESTINATION_OFFSET, range, false),
            Match::DestinationNotIn(range) => self.address_in(DESTINATION_OFFSET, range, true),
            Match::DestinationHardwareAddress(address) => {
                self.payload(REGISTER, LINK_HEADER, 0, HARDWARE_ADDRESS_BYTES).compare(address, false)
            }
            Match::DestinationIsLocal => self.address_is_local(FIB_OF_DESTINATION, false),
            Match::DestinationIsNotLocal => self.address_is_local(FIB_OF_DESTINATION, true),
            Match::SourceIsLocal => self.address_is_local(FIB_OF_SOURCE, false),
            Match::Protocol(number) => self.meta(REGISTER, META_PROTOCOL).compare(&[*number], false),
            Match::IsRemembered(clients) => self
                .load_one(Field::SourceAddress, REGISTER_PARTS)
                .find(clients, REGISTER_PARTS, REGISTER_PARTS)
                .compare_in(REGISTER_PARTS, &[0; 8], true),
            Match::HasMark(bits) => self.meta(REGISTER, META_MARK).bits(*bits, 0).compare(&[0; 4], true),
            Match::IsNewConnection => self.connection_has(CT_STATE, CT_STATE_NEW),
            Match::DestinationWasChanged => self.connection_has(CT_STATUS, CT_STATUS_DESTINATION_NAT),
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
            Action::LeaveUntracked => self.add("notrack", Attributes::new()),
            Action::Jump(chain) => self.verdict(VERDICT_JUMP, Some(chain)),
            Action::Masquerade => self.masquerade(),
            Action::SetMark(bits) => self.change_mark(!bits, *bits),
            Action::ClearMarkAndMasquerade(bits) => self.change_mark(u32::MAX, *bits).masquerade(),
            Action::Reject(Rejection::TcpReset) => self.reject(REJECT_TCP_RESET),
            Action::Reject(Rejection::PortUnreachable) => self.reject(REJECT_ICMP_UNREACHABLE),
            Action::Dispatch { map, key } => self.load(key, REGISTER_PARTS).find(map, REGISTER_PARTS, VERDICT_REGISTER),
            Action::Balance(choice) => self.choose(choice, REGISTER_PARTS, REGISTER_PARTS).destination_nat(REGISTER_PARTS),
            Action::DispatchByChance(choice) => self.choose(choice, REGISTER_PARTS, VERDICT_REGISTER),
            Action::Remember { clients, seconds, target } => {
                let update = Attributes::new()
                    .text(DYNSET_SET_NAME, clients)
                    .network_u32(DYNSET_OP, DYNSET_UPDATE)
                    .network_u32(DYNSET_SREG_KEY, REGISTER_PARTS)
                    .network_u32(DYNSET_SREG_DATA, REGISTER_PARTS + 1)
                    .bytes(DYNSET_TIMEOUT, &(u64::from(*seconds) * MILLISECONDS).to_be_bytes());
                self.load_one(Field::SourceAddress, REGISTER_PARTS).target(*target, REGISTER_PARTS + 1).add("dynset", update)
            }
            Action::DestinationNatTo(address, port) => self.target((*address, *port), REGISTER_PARTS).destination_nat(REGISTER_PARTS),
            Action::DestinationNat { map, key } => {
                self.load(key, REGISTER_PARTS).find(map, REGISTER_PARTS, REGISTER_PARTS).destination_nat(REGISTER_PARTS)
            }
        }
    }

    /// What the map has for the fields and a number by chance, in the register `data`.
    fn choose(self, choice: &Balance, key: u32, data: u32) -> Self {
        let index = key + choice.key.iter().map(|field| field.registers()).sum::<u32>();
        let numgen = Attributes::new()
            .network_u32(NUMGEN_DREG, index)
            .network_u32(NUMGEN_MODULUS, choice.count)
            .network_u32(NUMGEN_TYPE, NUMGEN_RANDOM);
        self.load(&choice.key, key).add("numgen", numgen).find(&choice.map, key, data)
    }

    fn target(self, (address, port): (Ipv4Addr, u16), register: u32) -> Self {
        self.immediate(register, &address.octets()).immediate(register + 1, &port.to_be_bytes())
    }

    fn immediate(self, register: u32, value: &[u8]) -> Self {
        let data =
            Attributes::new().network_u32(IMMEDIATE_DREG, register).nested(IMMEDIATE_DATA, Attributes::new().bytes(DATA_VALUE, value));
        self.add("immediate", data)
    }

    fn find(self, map: &str, key: u32, data: u32) -> Self {
        self.add("lookup", Attributes::new().text(LOOKUP_SET, map).network_u32(LOOKUP_SREG, key).network_u32(LOOKUP_DREG, data))
    }

    fn destination_nat(self, address: u32) -> Self {
        let nat = Attributes::new()
            .network_u32(NAT_TYPE, NAT_DESTINATION)
            .network_u32(NAT_FAMILY, libc::AF_INET as u32)
            .network_u32(NAT_REG_ADDR_MIN, address)
            .network_u32(NAT_REG_PROTO_MIN, address + 1);
        self.add("nat", nat)
    }

    fn masquerade(self) -> Self {
        self.add("masq", Attributes::new().network_u32(MASQ_FLAGS, FULLY_RANDOM))
    }

    fn reject(self, kind: u32) -> Self {
        let data = Attributes::new().network_u32(REJECT_TYPE, kind);
        self.add("reject", data.bytes(REJECT_ICMP_CODE, &[ICMP_PORT_UNREACHABLE]))
    }

    fn lookup(self, set: &str, key: &[Field], inverted: bool) -> Self {
        let lookup = Attributes::new().text(LOOKUP_SET, set).network_u32(LOOKUP_SREG, REGISTER);
        let lookup = if inverted { lookup.network_u32(LOOKUP_FLAGS, LOOKUP_INVERTED) } else { lookup };
        self.load(key, REGISTER_PARTS).add("lookup", lookup)
    }

    fn load(self, key: &[Field], first: u32) -> Self {
        let registers = key.iter().scan(first, |next, field| {
            let register = *next;
            *next += field.registers();
            Some((field, register))
        });
        registers.fold(self, |list, (field, register)| list.load_one(*field, register))
    }

    fn load_one(self, field: Field, register: u32) -> Self {
        match field {
            Field::Input => self.meta(register, META_INPUT_NAME),
            Field::SourceAddress => self.payload(register, NETWORK_HEADER, SOURCE_OFFSET, ADDRESS_BYTES),
            Field::DestinationAddress => self.payload(register, NETWORK_HEADER, DESTINATION_OFFSET, ADDRESS_BYTES),
            Field::Protocol => self.meta(register, META_PROTOCOL),
            // Keys have the protocol too, so that others never match.
            Field::DestinationPort => self.payload(register, TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, PORT_BYTES),
            Field::Index => unreachable!("a rule makes it; no key that is read from a packet has it"),
        }
    }

    fn connection_has(self, key: u32, bit: u32) -> Self {
        let connection = self.add("ct", Attributes::new().network_u32(CT_DREG, REGISTER).network_u32(CT_KEY, key));
        connection.bits(bit, 0).compare(&[0; 4], true)
    }

    fn address_in(self, offset: u32, range: &Ipv4Net, inverted: bool) -> Self {
        let masked = self.payload(REGISTER, NETWORK_HEADER, offset, ADDRESS_BYTES).masked(&range.netmask().octets(), &[0; 4]);
        masked.compare(&range.network().octets(), inverted)
    }

    fn change_mark(self, keep: u32, change: u32) -> Self {
        let changed = self.meta(REGISTER, META_MARK).bits(keep, change);
        changed.add("meta", Attributes::new().network_u32(META_SREG, REGISTER).network_u32(META_KEY, META_MARK))
    }

    fn bits(self, keep: u32, change: u32) -> Self {
        self.masked(&keep.to_ne_bytes(), &change.to_ne_bytes())
    }

    fn masked(self, mask: &[u8; 4], xor: &[u8; 4]) -> Self {
        let bitwise = Attributes::new()
            .network_u32(BITWISE_SREG, REGISTER)
            .network_u32(BITWISE_DREG, REGISTER)
            .network_u32(BITWISE_LEN, mask.len() as u32)
            .nested(BITWISE_MASK, Attributes::new().bytes(DATA_VALUE, mask))
            .nested(BITWISE_XOR, Attributes::new().bytes(DATA_VALUE, xor));
        self.add("bitwise", bitwise)
    }

    fn address_is_local(self, of: u32, inverted: bool) -> Self {
        let fib = Attributes::new().network_u32(FIB_DREG, REGISTER).network_u32(FIB_RESULT, FIB_ADDRESS_TYPE).network_u32(FIB_FLAGS, of);
        self.add("fib", fib).compare(&u32::from(libc::RTN_LOCAL).to_ne_bytes(), inverted)
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
        self.compare_in(REGISTER, value, inverted)
    }

    fn compare_in(self, register: u32, value: &[u8], inverted: bool) -> Self {
        let data = Attributes::new()
            .network_u32(CMP_SREG, register)
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
