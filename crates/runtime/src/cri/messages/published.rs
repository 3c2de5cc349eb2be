//! Our messages against the published ones: every field, enumeration and method that is here has
//! the name, the number and the type that `api.proto` gives it.
//!
//! `EVERYNODE_CRI_API` names that file (kubernetes/cri-api v0.36.3). It is not part of this
//! project; where it is missing, the comparison is skipped.

use std::any::type_name;
use std::collections::BTreeMap;

use super::super::{calls, configs, grpc::Method};
use super::{GROUPS_MERGE, GROUPS_STRICT, SANDBOX_READY, SIGNALS, container_state, namespace_mode, profile_type};

const SOURCES: [&str; 5] =
    [include_str!("mod.rs"), include_str!("container.rs"), include_str!("image.rs"), include_str!("sandbox.rs"), include_str!("stats.rs")];

/// Ours that stand for several of theirs, or have another name.
const STAND_FOR: [(&str, &[&str]); 7] = [
    ("Attributes", &["ContainerAttributes", "PodSandboxAttributes"]),
    ("ContainerRequest", &["ContainerStatusRequest", "RemoveContainerRequest", "ReopenContainerLogRequest", "StartContainerRequest"]),
    ("DnsConfig", &["DNSConfig"]),
    ("ImageRequest", &["ImageStatusRequest", "RemoveImageRequest"]),
    ("PodIp", &["PodIP"]),
    ("PodSandboxRequest", &["PodSandboxStatusRequest", "RemovePodSandboxRequest", "StopPodSandboxRequest"]),
    ("StreamResponse", &["AttachResponse", "ExecResponse", "PortForwardResponse"]),
];

/// Left unset in the calls whose messages do not have it.
const ONLY_IN: [(&str, &str); 1] = [("verbose", "PodSandboxStatusRequest")];

/// Without fields, for any message whose fields do not matter.
const EMPTY: &str = "Empty";

fn stand_for(ours: &str) -> Vec<&str> {
    STAND_FOR.iter().find(|(name, _)| *name == ours).map_or_else(|| vec![ours], |(_, theirs)| theirs.to_vec())
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    number: u32,
    /// `string`, `repeated Mount`, `map < string , string >`.
    kind: String,
}

/// `api.proto`, as far as it matters here.
#[derive(Default)]
struct Published {
    messages: BTreeMap<String, Vec<Field>>,
    enumerations: BTreeMap<String, BTreeMap<String, i32>>,
    /// What a method takes and what it answers.
    methods: BTreeMap<String, (String, String)>,
}

impl Published {
    fn parse(text: &str) -> Self {
        let tokens = tokens(text);
        let mut tokens = tokens.iter().map(String::as_str);
        let mut published = Self::default();
        while let Some(word) = tokens.next() {
            match word {
                "message" => published.message(&mut tokens),
                "enum" => published.enumeration(&mut tokens),
                "service" => published.service(&mut tokens),
                _ => drop(statement(&mut tokens, word)),
            }
        }
        published
    }

    fn message<'a>(&mut self, tokens: &mut impl Iterator<Item = &'a str>) {
        let name = tokens.next().expect("a message has a name").to_owned();
        assert_eq!(tokens.next(), Some("{"), "{name}");
        let mut fields = Vec::new();
        loop {
            match tokens.next().expect("a message ends") {
                "}" => break,
                "message" => self.message(tokens),
                "enum" => self.enumeration(tokens),
                word => fields.push(field(&statement(tokens, word))),
            }
        }
        self.messages.insert(name, fields);
    }

    fn enumeration<'a>(&mut self, tokens: &mut impl Iterator<Item = &'a str>) {
        let name = tokens.next().expect("an enumeration has a name").to_owned();
        assert_eq!(tokens.next(), Some("{"), "{name}");
        let values = std::iter::from_fn(|| tokens.next().filter(|word| *word != "}").map(|word| statement(tokens, word)));
        let values = values.map(|value| (value[0].to_owned(), value[2].parse().expect("values are numbers"))).collect();
        self.enumerations.insert(name, values);
    }

    fn service<'a>(&mut self, tokens: &mut impl Iterator<Item = &'a str>) {
        let service = tokens.next().expect("a service has a name").to_owned();
        assert_eq!(tokens.next(), Some("{"), "{service}");
        while let Some("rpc") = tokens.next() {
            // NAME ( QUESTION ) returns ( ANSWER ) { }
            let words: Vec<&str> = tokens.take_while(|word| *word != "}").collect();
            let answer = words.iter().rposition(|word| *word == ")").expect("a method answers");
            let messages = (words[2].to_owned(), words[answer - 1].to_owned());
            self.methods.insert(format!("runtime.v1.{service}/{}", words[0]), messages);
        }
    }

    /// What is wrong with a message of ours.
    fn check(&self, ours: &str, fields: &[Field]) -> Vec<String> {
        let check = |theirs: &str| -> Vec<String> {
            let Some(known) = self.messages.get(theirs) else { return vec![format!("{ours}: there is no {theirs}")] };
            let here = fields.iter().filter(|field| ONLY_IN.iter().all(|(name, only)| field.name != *name || *only == theirs));
            here.filter(|field| !known.iter().any(|known| self.is_same(field, known))).map(|f| format!("{theirs} has no {f:?}")).collect()
        };
        stand_for(ours).into_iter().flat_map(check).collect()
    }

    fn is_same(&self, ours: &Field, theirs: &Field) -> bool {
        let (label, kind) = ours.kind.rsplit_once(' ').unwrap_or(("", &ours.kind));
        let labelled = |kind: &str| format!("{label} {kind}").trim().to_owned();
        let is_kind = stand_for(kind).into_iter().any(|kind| theirs.kind == labelled(kind))
            // An enumeration is a number on the wire.
            || (ours.kind == "int32" && self.enumerations.contains_key(&theirs.kind));
        (&ours.name, ours.number) == (&theirs.name, theirs.number) && is_kind
    }
}

/// Words, quoted texts and signs, without comments.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").expect("comments end") + 2
        } else if first.is_whitespace() {
            first.len_utf8()
        } else if first == '"' {
            rest[1..].find('"').expect("texts end") + 2
        } else {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').unwrap_or(rest.len()).max(1)
        };
        let token = &rest[..length];
        if !token.starts_with("//") && !token.starts_with("/*") && !first.is_whitespace() {
            tokens.push(token.to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

fn statement<'a>(tokens: &mut impl Iterator<Item = &'a str>, first: &'a str) -> Vec<&'a str> {
    [first].into_iter().chain(tokens.take_while(|word| *word != ";")).collect()
}

fn field(statement: &[&str]) -> Field {
    let equals = statement.iter().position(|word| *word == "=").unwrap_or_else(|| panic!("not a field: {statement:?}"));
    let number = statement[equals + 1].parse().expect("fields have numbers");
    Field { name: statement[equals - 1].to_owned(), number, kind: statement[..equals - 1].join(" ") }
}

/// Our messages, from the source of this folder.
fn ours() -> BTreeMap<String, Vec<Field>> {
    let mut messages = BTreeMap::new();
    for source in SOURCES {
        let mut message = None;
        let mut lines = source.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.split_once(' ')) {
                message = Some(name.0.to_owned());
                messages.insert(name.0.to_owned(), Vec::new());
            } else if let Some(attribute) = line.strip_prefix("#[prost(").and_then(|rest| rest.strip_suffix(")]")) {
                let declaration = lines.next().expect("a field follows its attribute");
                let fields = message.as_ref().and_then(|name| messages.get_mut(name)).expect("fields are in messages");
                fields.push(our_field(attribute, declaration));
            }
        }
    }
    messages
}

/// `message, optional, tag = "5"` and `pub run_as_user: Option<Int64Value>,`.
fn our_field(attribute: &str, declaration: &str) -> Field {
    let (shape, tag) = attribute.rsplit_once(", tag = ").expect("fields have numbers");
    let (name, of) = declaration.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")).expect("fields are public");
    let name = name.trim_start_matches("r#");
    let inner = of.split_once('<').map_or(of, |(_, rest)| rest.trim_end_matches([',', '>']));
    let kind = match shape {
        "message, optional" => inner.to_owned(),
        "message, repeated" => format!("repeated {inner}"),
        "btree_map = \"string, string\"" => "map < string , string >".to_owned(),
        "bytes = \"vec\"" => "bytes".to_owned(),
        plain => plain.strip_suffix(", repeated").map_or_else(|| plain.to_owned(), |kind| format!("repeated {kind}")),
    };
    Field { name: name.to_owned(), number: tag.trim_matches('"').parse().expect("numbers"), kind }
}

fn published() -> Option<Published> {
    let path = testing::variable("EVERYNODE_CRI_API")?;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("EVERYNODE_CRI_API: {}: {e}", path.display()));
    Some(Published::parse(&text))
}

/// A wrong number would go unnoticed otherwise: a receiver skips what it does not know.
#[test]
fn messages_have_the_published_fields() {
    let ours = ours();
    let attributes: usize = SOURCES.iter().map(|source| source.matches("#[prost(").count()).sum();
    assert_eq!(ours.values().map(Vec::len).sum::<usize>(), attributes, "every field is read");
    let Some(published) = published() else { return };
    let wrong: Vec<String> =
        ours.iter().filter(|(name, _)| *name != EMPTY).flat_map(|(name, fields)| published.check(name, fields)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn enumerations_have_the_published_numbers() {
    let Some(published) = published() else { return };
    let check = |enumeration: &str, value: &str, number: i32| {
        assert_eq!(published.enumerations[enumeration].get(value), Some(&number), "{enumeration}: {value}");
    };
    for (value, number) in [
        ("POD", namespace_mode::POD),
        ("CONTAINER", namespace_mode::CONTAINER),
        ("NODE", namespace_mode::NODE),
        ("TARGET", namespace_mode::TARGET),
    ] {
        check("NamespaceMode", value, number);
    }
    for (value, number) in [
        ("RuntimeDefault", profile_type::RUNTIME_DEFAULT),
        ("Unconfined", profile_type::UNCONFINED),
        ("Localhost", profile_type::LOCALHOST),
    ] {
        check("ProfileType", value, number);
    }
    for (value, number) in [
        ("CONTAINER_CREATED", container_state::CREATED),
        ("CONTAINER_RUNNING", container_state::RUNNING),
        ("CONTAINER_EXITED", container_state::EXITED),
    ] {
        check("ContainerState", value, number);
    }
    check("PodSandboxState", "SANDBOX_READY", SANDBOX_READY);
    check("SupplementalGroupsPolicy", "Merge", GROUPS_MERGE);
    check("SupplementalGroupsPolicy", "Strict", GROUPS_STRICT);
    use containers::{Propagation, Protocol};
    for (value, protocol) in [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)] {
        check("Protocol", value, configs::protocol(protocol));
    }
    for (value, propagation) in [
        ("PROPAGATION_PRIVATE", Propagation::Private),
        ("PROPAGATION_HOST_TO_CONTAINER", Propagation::HostToContainer),
        ("PROPAGATION_BIDIRECTIONAL", Propagation::Bidirectional),
    ] {
        check("MountPropagation", value, configs::propagation(propagation));
    }
    for (signal, number) in SIGNALS.iter().zip(1..) {
        check("Signal", &format!("SIG{}", signal.replace('+', "PLUS").replace('-', "MINUS")), number);
    }
    assert_eq!(published.enumerations["Signal"].len(), SIGNALS.len() + 1, "and the image's own");
}

/// Name of the method, what it takes, what it answers.
fn row<Q, A>(method: Method<Q, A>) -> (&'static str, &'static str, &'static str) {
    let short = |name: &'static str| name.rsplit("::").next().unwrap_or(name);
    (method.name, short(type_name::<Q>()), short(type_name::<A>()))
}

#[test]
fn methods_have_the_published_messages() {
    let rows = [
        row(calls::VERSION),
        row(calls::STATUS),
        row(calls::UPDATE_RUNTIME_CONFIG),
        row(calls::RUN_SANDBOX),
        row(calls::STOP_SANDBOX),
        row(calls::REMOVE_SANDBOX),
        row(calls::SANDBOX_STATUS),
        row(calls::LIST_SANDBOXES),
        row(calls::CREATE_CONTAINER),
        row(calls::START_CONTAINER),
        row(calls::STOP_CONTAINER),
        row(calls::REMOVE_CONTAINER),
        row(calls::LIST_CONTAINERS),
        row(calls::CONTAINER_STATUS),
        row(calls::UPDATE_RESOURCES),
        row(calls::REOPEN_LOG),
        row(calls::EXEC_SYNC),
        row(calls::EXEC),
        row(calls::ATTACH),
        row(calls::PORT_FORWARD),
        row(calls::CONTAINER_STATS),
        row(calls::SANDBOX_STATS),
        row(calls::LIST_IMAGES),
        row(calls::IMAGE_STATUS),
        row(calls::PULL_IMAGE),
        row(calls::REMOVE_IMAGE),
        row(calls::IMAGE_FS_INFO),
    ];
    assert_eq!(rows.len(), include_str!("../calls.rs").matches("pub const ").count(), "every method is here");
    let Some(published) = published() else { return };
    for (name, question, answer) in rows {
        let (takes, answers) = published.methods.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        for (ours, theirs) in [(question, takes), (answer, answers)] {
            assert!(ours == EMPTY || stand_for(ours).contains(&theirs.as_str()), "{name}: {ours} for {theirs}");
        }
    }
}

#[test]
fn the_file_is_read_as_it_is_written() {
    let text = r#"/* head */ syntax = "proto3"; // why
        service S { // all
            rpc A(Q) returns (R) {}
            rpc B(Q) returns (stream R) {}
        }
        message M {
            // a comment; with = signs }
            repeated string names = 1;
            enum E { X = 0; Y = 7; }
            E e = 2 [deprecated = true];
            map<string, string> labels = 3;
            Attributes own = 4;
        }"#;
    let published = Published::parse(text);
    let own = |number, name: &str, kind: &str| Field { name: name.to_owned(), number, kind: kind.to_owned() };
    assert_eq!(
        published.messages["M"],
        [own(1, "names", "repeated string"), own(2, "e", "E"), own(3, "labels", "map < string , string >"), own(4, "own", "Attributes")]
    );
    assert_eq!(published.enumerations["E"]["Y"], 7);
    assert_eq!(published.methods["runtime.v1.S/B"], ("Q".to_owned(), "R".to_owned()));
    let check = |field: Field| published.check("M", &[field]).len();
    assert_eq!(check(our_field(r#"string, repeated, tag = "1""#, "pub names: Vec<String>,")), 0);
    assert_eq!(check(our_field(r#"int32, tag = "2""#, "pub e: i32,")), 0);
    assert_eq!(check(our_field(r#"btree_map = "string, string", tag = "3""#, "pub labels: BTreeMap<String, String>,")), 0);
    for wrong in [own(2, "names", "repeated string"), own(1, "name", "repeated string"), own(1, "names", "string"), own(2, "e", "int64")] {
        assert_eq!(check(wrong), 1);
    }
}
