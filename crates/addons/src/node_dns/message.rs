//! The protocol: what of a message is a question, and answers as messages.

use brain::dns::{Answer, Data, Record, TTL_SECONDS, Type};
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};

/// Without EDNS, answers over UDP have this size at most.
const PLAIN_UDP_BYTES: u16 = 512;
/// Larger ones are cut by networks on the way (DNS flag day 2020).
const EDNS_UDP_BYTES: u16 = 1232;
/// Times of the zone's own record. The last one is how long others keep that there is no name.
const REFRESH_SECONDS: i32 = 7200;
const RETRY_SECONDS: i32 = 1800;
const EXPIRE_SECONDS: i32 = 86_400;
const HEADER_BYTES: usize = 12;

/// A question that can be answered.
#[derive(Debug)]
pub struct Asked {
    pub request: Message,
    /// Lower-case, without a dot at its end.
    pub name: String,
    pub kind: RecordType,
}

/// What to do with bytes that came.
#[derive(Debug)]
pub enum Received {
    Question(Box<Asked>),
    /// To be sent back.
    Refusal(Message),
    /// Nothing that has an answer.
    Nothing,
}

pub fn read(bytes: &[u8]) -> Received {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        Err(_) => return malformed(bytes),
    };
    if request.metadata.message_type != MessageType::Query {
        return Received::Nothing;
    }
    if request.metadata.op_code != OpCode::Query {
        return Received::Refusal(refusal(&request, ResponseCode::NotImp));
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Received::Refusal(refusal(&request, ResponseCode::BADVERS));
    }
    let [query] = &request.queries[..] else { return Received::Refusal(refusal(&request, ResponseCode::FormErr)) };
    if query.query_class() != DNSClass::IN {
        return Received::Refusal(refusal(&request, ResponseCode::Refused));
    }
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let kind = query.query_type();
    Received::Question(Box::new(Asked { request, name, kind }))
}

/// Says so to whoever sent something that is a question by its head.
fn malformed(bytes: &[u8]) -> Received {
    match bytes.get(..HEADER_BYTES) {
        Some(head) if head[2] & 0x80 == 0 => {
            let id = u16::from_be_bytes([head[0], head[1]]);
            Received::Refusal(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
        }
        _ => Received::Nothing,
    }
}

/// An empty answer to a request.
pub fn reply(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP_BYTES);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

pub fn refusal(request: &Message, code: ResponseCode) -> Message {
    let mut reply = reply(request);
    reply.metadata.response_code = code;
    if code == ResponseCode::BADVERS
        && let Some(edns) = &mut reply.edns
    {
        edns.set_rcode_high(code.high());
    }
    reply
}

/// The types that the cluster's names have records of.
pub fn kind(kind: RecordType) -> Type {
    match kind {
        RecordType::A => Type::A,
        RecordType::AAAA => Type::Aaaa,
        RecordType::SRV => Type::Srv,
        RecordType::PTR => Type::Ptr,
        RecordType::CNAME => Type::Cname,
        RecordType::TXT => Type::Txt,
        RecordType::SOA => Type::Soa,
        RecordType::NS => Type::Ns,
        _ => Type::Other,
    }
}

/// The cluster's own zone, for its record.
#[derive(Debug)]
pub struct ZoneOf<'a> {
    pub domain: &'a str,
    pub server: &'a str,
    pub serial: u32,
}

/// Puts what was found into a reply; None of it when there is no such name.
pub fn fill(reply: &mut Message, found: Option<&Answer>, zone: &ZoneOf<'_>, turn: usize) {
    reply.metadata.authoritative = true;
    let Some(answer) = found else {
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.authorities.extend(soa(zone));
        return;
    };
    let asked = reply.queries.first().map(|query| query.name().clone());
    let mut records: Vec<WireRecord> = answer.records.iter().filter_map(|record| wire(record, asked.as_ref())).collect();
    if !records.is_empty() && records.iter().all(|record| matches!(record.data, RData::A(_) | RData::AAAA(_))) {
        // Clients that take the first address spread over all of them.
        let first = turn % records.len();
        records.rotate_left(first);
    }
    if answer.with_soa {
        records.extend(soa(zone));
    } else if records.is_empty() {
        reply.authorities.extend(soa(zone));
    }
    reply.answers.extend(records);
    reply.additionals.extend(answer.additional.iter().filter_map(|record| wire(record, None)));
}

/// Makes a reply about another name one about the name that was asked for, which leads there.
pub fn lead(mut reply: Message, to: &str) -> Option<Message> {
    let asked = reply.queries.first()?.name().clone();
    reply.answers.insert(0, WireRecord::from_rdata(asked, TTL_SECONDS, RData::CNAME(CNAME(absolute(to)?))));
    // Nothing proves that it leads there.
    reply.metadata.authentic_data = false;
    Some(reply)
}

fn soa(zone: &ZoneOf<'_>) -> Option<WireRecord> {
    let name = absolute(zone.domain)?;
    let data = SOA::new(
        absolute(zone.server)?,
        absolute(&format!("hostmaster.{}", zone.domain))?,
        zone.serial,
        REFRESH_SECONDS,
        RETRY_SECONDS,
        EXPIRE_SECONDS,
        TTL_SECONDS,
    );
    Some(WireRecord::from_rdata(name, TTL_SECONDS, RData::SOA(data)))
}

/// Owners are written as they were asked: some clients compare letters.
fn wire(record: &Record, asked: Option<&Name>) -> Option<WireRecord> {
    let name = absolute(&record.name)?;
    let name = asked.filter(|asked| **asked == name).cloned().unwrap_or(name);
    let data = match &record.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv { priority, weight, port, target } => RData::SRV(SRV::new(*priority, *weight, *port, absolute(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(absolute(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(absolute(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Ns(target) => RData::NS(NS(absolute(target)?)),
    };
    Some(WireRecord::from_rdata(name, TTL_SECONDS, data))
}

/// None for texts that are no names, which an ExternalName can be.
pub fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// How an answer may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The bytes of a reply. Over UDP, one that is too large becomes an empty one that says so: the
/// client asks again over TCP.
pub fn write(reply: &Message, request_edns: Option<u16>, transport: Transport) -> Option<Vec<u8>> {
    let bytes = reply.to_vec().ok()?;
    let room = match (transport, request_edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => usize::from(PLAIN_UDP_BYTES),
        (Transport::Udp, Some(offered)) => usize::from(offered.clamp(PLAIN_UDP_BYTES, EDNS_UDP_BYTES)),
    };
    if bytes.len() <= room { Some(bytes) } else { reply.truncate().to_vec().ok() }
}

/// What a client offers as room for answers over UDP.
pub fn room(request: &Message) -> Option<u16> {
    request.edns.as_ref().map(Edns::max_payload)
}
