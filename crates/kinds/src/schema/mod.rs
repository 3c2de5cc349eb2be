//! The types of the API as data: which fields a type has, of which JSON type, and how Go treats
//! their zero values.
//!
//! One table, `types.txt`, drives decoding (unknown fields, type errors, what `omitempty` drops),
//! strategic merge patch, server-side apply and OpenAPI. Field names, types and required fields are
//! those of Kubernetes' published OpenAPI; pointers, list types and merge keys are those of its Go
//! types. The format is described at the top of `types.txt`.

pub mod go_names;

use std::collections::HashMap;
use std::sync::LazyLock;

/// All types that objects of the API are made of.
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
}

/// Names a [`Type`] in the schema.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(usize);

/// A struct of the API.
#[derive(Debug)]
pub struct Type {
    /// Name in the published schema, `io.k8s.api.core.v1.PodSpec`.
    pub full_name: &'static str,
    /// Unique short name, `PodSpec`.
    pub name: &'static str,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Server-side apply owns it as a whole.
    pub atomic: bool,
}

/// A field of a [`Type`].
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    /// A pointer in Go: a zero value that was written is kept.
    pub pointer: bool,
    pub required: bool,
    /// Emitted even when its value is zero.
    pub always: bool,
    pub list: ListKind,
    pub map_atomic: bool,
    pub patch: PatchStrategy,
    /// What stands for a missing value where the field is a key of a list.
    pub key_default: Option<&'static str>,
    /// Its number in protobuf messages, after those of the messages that embed it. Empty for fields
    /// that have none.
    pub wire: Vec<u64>,
}

/// The JSON type of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    String,
    Int32,
    Int64,
    Float64,
    Bool,
    /// Base64 text.
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Any JSON, kept as it is.
    Any,
    Struct(TypeId),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// How server-side apply sees a list.
#[derive(Debug, Clone, PartialEq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<&'static str>),
}

/// How strategic merge patch treats a list.
#[derive(Debug, Clone, PartialEq)]
pub enum PatchStrategy {
    Replace,
    /// A list of scalars, merged as a set.
    MergeSet,
    /// A list of structs, merged by the value of a key.
    MergeByKey {
        key: &'static str,
        retain_keys: bool,
    },
}

static TYPES: &str = include_str!("types.txt");

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::parse(TYPES));

/// The schema of everything that is served.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

impl Schema {
    /// The type of that short name.
    pub fn named(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0]
    }

    pub fn types(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    fn parse(text: &'static str) -> Schema {
        let blocks = split_blocks(text);
        let by_name = blocks.iter().enumerate().map(|(at, (head, _))| (head_name(head), TypeId(at))).collect();
        let types = blocks.iter().map(|(head, lines)| parse_type(head, lines, &by_name)).collect();
        Schema { types, by_name }
    }
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.fields.binary_search_by(|f| f.name.cmp(name)).ok()?;
        Some(&self.fields[at])
    }

    /// The name that Go's error texts give the type: `v1.PodSpec`.
    pub fn go_name(&self) -> String {
        let mut parts = self.full_name.rsplit('.');
        let name = parts.next().unwrap_or_default();
        format!("{}.{name}", parts.next().unwrap_or_default())
    }
}

impl Shape {
    /// The Go type that error texts name.
    pub fn go_name(&self) -> String {
        match self {
            Shape::String => "string".to_owned(),
            Shape::Bytes => "[]uint8".to_owned(),
            Shape::Int32 => "int32".to_owned(),
            Shape::Int64 => "int64".to_owned(),
            Shape::Float64 => "float64".to_owned(),
            Shape::Bool => "bool".to_owned(),
            Shape::Time => "v1.Time".to_owned(),
            Shape::MicroTime => "v1.MicroTime".to_owned(),
            Shape::Quantity => "resource.Quantity".to_owned(),
            Shape::IntOrString => "intstr.IntOrString".to_owned(),
            Shape::Any => "interface {}".to_owned(),
            Shape::Struct(id) => schema().get(*id).go_name(),
            Shape::List(item) => format!("[]{}", item.go_name()),
            Shape::Map(value) => format!("map[string]{}", value.go_name()),
        }
    }
}

impl Field {
    /// Is the zero value part of the object's JSON?
    pub fn emits_zero(&self) -> bool {
        self.required || self.always
    }
}

type Block = (&'static str, Vec<&'static str>);

fn split_blocks(text: &'static str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        match line.strip_prefix("  ") {
            Some(field) => blocks.last_mut().expect("types.txt begins with a type").1.push(field),
            None => blocks.push((line, Vec::new())),
        }
    }
    blocks
}

fn head_name(head: &'static str) -> &'static str {
    let mut words = head.split(' ');
    let full = words.next().unwrap_or_default();
    match words.next() {
        Some("as") => words.next().unwrap_or_default(),
        _ => full.rsplit('.').next().unwrap_or(full),
    }
}

fn parse_type(head: &'static str, lines: &[&'static str], names: &HashMap<&'static str, TypeId>) -> Type {
    let mut fields: Vec<Field> = lines.iter().map(|line| parse_field(line, names)).collect();
    fields.sort_by_key(|f| f.name);
    Type { full_name: head.split(' ').next().unwrap_or(head), name: head_name(head), fields, atomic: head.ends_with(" atomic") }
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let written = words.next().unwrap_or_default();
    let (pointer, shape) = match written.strip_prefix('*') {
        Some(inner) => (true, inner),
        None => (false, written),
    };
    let mut field = Field {
        name,
        shape: parse_shape(shape, names),
        pointer,
        required: false,
        always: false,
        list: ListKind::Atomic,
        map_atomic: false,
        patch: PatchStrategy::Replace,
        key_default: None,
        wire: Vec::new(),
    };
    for fact in words {
        apply_fact(&mut field, fact);
    }
    field
}

fn apply_fact(field: &mut Field, fact: &'static str) {
    match fact.split_once('=').unwrap_or((fact, "")) {
        ("required", _) => field.required = true,
        ("always", _) => field.always = true,
        ("map", "atomic") => field.map_atomic = true,
        ("default", value) => field.key_default = Some(value),
        ("wire", path) => field.wire = path.split('.').map(|n| n.parse().expect("types.txt: wire=NUMBER[.NUMBER]")).collect(),
        ("list", "set") => field.list = ListKind::Set,
        ("list", keys) => {
            let keys = keys.strip_prefix("map:").expect("types.txt: list=set or list=map:KEYS");
            field.list = ListKind::Map(keys.split(',').collect());
        }
        ("patch", "merge") => field.patch = PatchStrategy::MergeSet,
        ("patch", "replace") => {}
        ("patch", by_key) => {
            let (how, key) = by_key.split_once(':').expect("types.txt: patch=merge:KEY");
            field.patch = PatchStrategy::MergeByKey { key, retain_keys: how.contains("retainKeys") };
        }
        _ => panic!("types.txt: unknown fact {fact} of {}", field.name),
    }
}

fn parse_shape(text: &str, names: &HashMap<&'static str, TypeId>) -> Shape {
    if let Some(item) = text.strip_prefix("[]") {
        return Shape::List(Box::new(parse_shape(item, names)));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(parse_shape(value, names)));
    }
    match text {
        "string" => Shape::String,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "bool" => Shape::Bool,
        "bytes" => Shape::Bytes,
        "Time" => Shape::Time,
        "MicroTime" => Shape::MicroTime,
        "Quantity" => Shape::Quantity,
        "IntOrString" => Shape::IntOrString,
        "any" => Shape::Any,
        name => Shape::Struct(*names.get(name).unwrap_or_else(|| panic!("types.txt: no type {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_structs_has_its_keys() {
        let pod_spec = schema().get(schema().named("PodSpec").unwrap());
        let containers = pod_spec.field("containers").unwrap();
        assert_eq!(containers.list, ListKind::Map(vec!["name"]));
        assert_eq!(containers.patch, PatchStrategy::MergeByKey { key: "name", retain_keys: false });
        assert!(containers.required);
    }

    #[test]
    fn go_names_are_those_of_error_texts() {
        let template = schema().get(schema().named("PodTemplateSpec").unwrap());
        assert_eq!(template.field("spec").unwrap().shape.go_name(), "v1.PodSpec");
        let meta = schema().get(schema().named("ObjectMeta").unwrap());
        assert_eq!(meta.field("labels").unwrap().shape.go_name(), "map[string]string");
    }
}
