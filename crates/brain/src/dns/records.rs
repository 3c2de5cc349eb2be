//! Questions, and what they are answered with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How long others may keep an answer, also that there is none. As CoreDNS.
pub const TTL_SECONDS: u32 = 5;

/// A question about a name: lower-case, without a dot at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    pub name: &'a str,
    pub kind: Type,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    A,
    Aaaa,
    Srv,
    Ptr,
    Cname,
    Txt,
    Soa,
    Ns,
    /// All others have no records here.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub name: String,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Ptr(String),
    Cname(String),
    Txt(String),
    Ns(String),
}

impl Data {
    pub fn address(address: IpAddr) -> Data {
        match address {
            IpAddr::V4(address) => Data::A(address),
            IpAddr::V6(address) => Data::Aaaa(address),
        }
    }

    pub fn kind(&self) -> Type {
        match self {
            Data::A(_) => Type::A,
            Data::Aaaa(_) => Type::Aaaa,
            Data::Srv { .. } => Type::Srv,
            Data::Ptr(_) => Type::Ptr,
            Data::Cname(_) => Type::Cname,
            Data::Txt(_) => Type::Txt,
            Data::Ns(_) => Type::Ns,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The name does not belong to the cluster: others know.
    NotOurs,
    /// There is no such name.
    NoSuchName,
    /// The name exists. No records: not of this type. Nameservers then show the zone's SOA.
    Found(Answer),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The zone's own record is wanted, which whoever answers makes.
    pub with_soa: bool,
    pub records: Vec<Record>,
    /// Addresses of the names in `records`.
    pub additional: Vec<Record>,
    /// A name outside of the cluster that `records` ends with: its addresses belong into the
    /// answer, too.
    pub continues_at: Option<String>,
}
