//! Requests to a server in this process: objects that are nearly right, created, replaced, patched,
//! read again.
//!
//! The objects begin as recorded ones, where there are records (`EVERYNODE_GOLDEN`), and as the
//! small examples otherwise. A server is made for each case, so that a case can be replayed alone.
//! At fault is the server when it answers that it is, and when what it has stored cannot be read
//! again in every form, or not be stored again as it is.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use apiserver::ApiServer;
use apiserver::admission::AdmissionSettings;
use apiserver::auth::authenticate::{Authenticator, Local};
use apiserver::auth::tokens::TokenKey;
use apiserver::registry::Registry;
use apiserver::request::{MASTERS, User};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use kinds::table::{KINDS, Kind};
use kinds::yaml;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::random::Random;
use super::stages::Trace;
use super::{SLOW, directed, examples, mutation, operations};

/// Changes that one server sees.
const CHANGES: usize = 12;

/// The namespace of the recorded requests.
const NAMESPACE: &str = "golden";

/// An object that could be created, and where.
pub struct Base {
    kind: &'static Kind,
    object: Value,
}

impl Base {
    /// The path of the objects of its kind.
    fn collection(&self) -> String {
        let prefix = if self.kind.group.is_empty() { "/api" } else { "/apis" };
        let namespace = if self.kind.namespaced { format!("namespaces/{NAMESPACE}/") } else { String::new() };
        format!("{prefix}/{}/{namespace}{}", self.kind.api_version(), self.kind.plural)
    }
}

/// The objects of recorded requests, each once; the small examples where nothing is recorded.
pub fn bases(recorded: Option<&Path>) -> anyhow::Result<Vec<Base>> {
    let mut found = Vec::new();
    if let Some(folder) = recorded {
        let mut texts = BTreeSet::new();
        collect(folder, &mut |kind, object| {
            if texts.insert(object.to_string()) {
                found.push(Base { kind, object: object.clone() });
            }
        })?;
    }
    if found.is_empty() {
        let stored = KINDS.iter().filter(|kind| kind.is_stored() && kind.has_verb("create"));
        found.extend(stored.map(|kind| Base { kind, object: examples::small(kind) }));
    }
    Ok(found)
}

fn collect(folder: &Path, add: &mut impl FnMut(&'static Kind, &Value)) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    // A seed means the same wherever it runs.
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, add)?;
        } else if path.extension().is_some_and(|ending| ending == "json") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let case: Value = serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
            let requests = case["setup"].as_array().into_iter().flatten().chain([&case["request"]]);
            for (kind, object) in requests.filter_map(created) {
                add(kind, object);
            }
        }
    }
    Ok(())
}

/// The object that a recorded request creates.
fn created(request: &Value) -> Option<(&'static Kind, &Value)> {
    let object = Some(&request["body"]).filter(|body| body.is_object() && request["method"] == "POST")?;
    let path = request["path"].as_str()?.split('?').next()?;
    let stored = || KINDS.iter().filter(|kind| kind.is_stored() && kind.has_verb("create"));
    let kind = stored().find(|kind| path == Base { kind, object: Value::Null }.collection())?;
    Some((kind, object))
}

pub fn perform(bases: &[Base], random: &mut Random, trace: &Trace) {
    trace.slow.set(SLOW * 40);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime needs no more than memory");
    runtime.block_on(async {
        let server = Server::start().await;
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        server.send(&Asked::new("POST", "/api/v1/namespaces").json(&namespace), trace).await;
        for _ in 0..CHANGES {
            change(&server, &bases[random.below(bases.len())], random, trace).await;
        }
    });
}

/// Creates an object that was changed, or creates it as it is and then changes it.
async fn change(server: &Server, base: &Base, random: &mut Random, trace: &Trace) {
    let mut object = base.object.clone();
    let collection = base.collection();
    if random.once_in(2) {
        mutation::tree(&mut object, random, 4);
        let answered = server.send(&Asked::new("POST", &collection).json(&object), trace).await;
        return server.read_again(base, answered, trace).await;
    }
    let Some(made) = server.send(&Asked::new("POST", &collection).json(&object), trace).await else { return };
    let path = format!("{collection}/{}", escaped(made["metadata"]["name"].as_str().unwrap_or_default()));
    let subresources = base.kind.subresources.iter().filter(|part| part.verbs.contains(&"patch") && part.name != "proxy");
    let parts: Vec<&str> = [""].into_iter().chain(subresources.map(|subresource| subresource.name)).collect();
    let part = *random.pick(&parts);
    let target = if part.is_empty() { path.clone() } else { format!("{path}/{part}") };
    let mut wanted = if random.once_in(2) { object } else { made.clone() };
    mutation::tree(&mut wanted, random, 4);
    let asked = match random.below(5) {
        0 => Asked::new("PUT", &target).json(&wanted),
        1 => Asked::patch(&target, "merge-patch+json", &wanted),
        2 => Asked::patch(&target, "strategic-merge-patch+json", &directed(wanted, random)),
        3 => Asked::patch(&target, "json-patch+json", &operations(&made, random)),
        _ => {
            if let Some(metadata) = wanted.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
            Asked::patch(&format!("{target}?fieldManager=fuzz&force=true"), "apply-patch+yaml", &wanted)
        }
    };
    let answered = server.send(&asked, trace).await;
    server.read_again(base, answered.or(Some(made)), trace).await;
    server.send(&Asked::new("DELETE", &path), trace).await;
}

fn escaped(name: &str) -> String {
    name.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

struct Asked {
    method: &'static str,
    path: String,
    content_type: String,
    accept: &'static str,
    body: String,
}

impl Asked {
    fn new(method: &'static str, path: &str) -> Asked {
        Asked {
            method,
            path: path.to_owned(),
            content_type: "application/json".to_owned(),
            accept: "application/json",
            body: String::new(),
        }
    }

    fn json(self, body: &Value) -> Asked {
        Asked { body: body.to_string(), ..self }
    }

    fn patch(path: &str, content_type: &str, body: &Value) -> Asked {
        Asked { content_type: format!("application/{content_type}"), ..Asked::new("PATCH", path).json(body) }
    }
}

struct Server(ApiServer);

impl Server {
    async fn start() -> Server {
        let random = ring::rand::SystemRandom::new();
        let key = ring::signature::EcdsaKeyPair::generate_pkcs8(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let tokens = Arc::new(TokenKey::from_pkcs8(key.expect("a key can be made").as_ref()).expect("a key that was just made"));
        let registry = Arc::new(Registry::new(Arc::new(store::mem::open())).expect("an empty store can be read"));
        let admission = AdmissionSettings::default();
        let server = ApiServer::new(registry, Authenticator { tokens }, admission, watch::channel(false).1);
        apiserver::bootstrap::run(&server).await.expect("an empty store takes what every cluster has");
        Server(server)
    }

    /// The object that a request is answered with; None when it is refused.
    async fn send(&self, asked: &Asked, trace: &Trace) -> Option<Value> {
        let text = self.text(asked, trace).await?;
        Some(
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("the answer to {} {} is no JSON: {error}", asked.method, asked.path)),
        )
    }

    async fn text(&self, asked: &Asked, trace: &Trace) -> Option<String> {
        trace.begin(format!("{} {} ({})", asked.method, asked.path, asked.content_type), asked.body.as_bytes());
        let request = Request::builder().method(asked.method).uri(&asked.path);
        let request = request.header("content-type", &asked.content_type).header("accept", asked.accept);
        // A path that no client can send.
        let mut request = request.body(Full::<Bytes>::from(asked.body.clone())).ok()?;
        request.extensions_mut().insert(Local(User::system("admin", &[MASTERS])));
        let started = Instant::now();
        let answer = self.0.respond(request).await;
        if started.elapsed() > SLOW {
            eprintln!("slow: {:?} for {} {} with {} bytes", started.elapsed(), asked.method, asked.path, asked.body.len());
        }
        let code = answer.status();
        let body = answer.into_body().collect().await.unwrap_or_else(|error| panic!("an answer ends with an error: {error}"));
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("answers are text");
        assert!(!is_fault(code.as_u16(), &text), "{} {} is answered {code}: {text}", asked.method, asked.path);
        code.is_success().then_some(text)
    }

    /// What is stored can be read in every form, alone and in a list.
    async fn read_again(&self, base: &Base, written: Option<Value>, trace: &Trace) {
        let Some(written) = written.filter(|written| written["metadata"]["uid"].is_string()) else { return };
        let name = written["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{}", base.collection(), escaped(name));
        let shown = &written.to_string();
        let read = self.send(&Asked::new("GET", &path), trace).await;
        let read = read.unwrap_or_else(|| panic!("what was written cannot be read: {shown}"));
        assert_eq!(read["metadata"]["uid"], written["metadata"]["uid"], "another object is at {path}");
        let again = self.send(&Asked::new("PUT", &path).json(&read), trace).await;
        let again = again.unwrap_or_else(|| panic!("what is stored cannot be stored again: {read}"));
        assert_eq!(again, read, "what is stored again, unchanged, changes");
        for path in [&path, &base.collection()] {
            let as_yaml = Asked { accept: "application/yaml", ..Asked::new("GET", path) };
            let text = self.text(&as_yaml, trace).await.unwrap_or_else(|| panic!("what was written cannot be read as YAML: {shown}"));
            let (node, _) = yaml::parse(&text).unwrap_or_else(|error| panic!("this YAML cannot be read: {}\n{text}", error.0));
            let node = node.into_value();
            assert!(path.len() > base.collection().len() || node["items"].is_array(), "a list as YAML has no items:\n{text}");
            let as_table = Asked { accept: "application/json;as=Table;v=v1;g=meta.k8s.io", ..Asked::new("GET", path) };
            let table = self.send(&as_table, trace).await.unwrap_or_else(|| panic!("what was written has no table: {shown}"));
            assert!(table["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "a table has no rows: {table}");
        }
        self.send(&Asked::new("GET", &base.collection()), trace).await.unwrap_or_else(|| panic!("a list cannot be read: {shown}"));
    }
}

/// Does the server say that it is at fault? Kubernetes answers some mistakes of clients with 500,
/// too, but without a reason, or in these words.
fn is_fault(code: u16, text: &str) -> bool {
    const OF_CLIENTS: [&str; 1] = ["failed to allocate"];
    let status: Value = serde_json::from_str(text).unwrap_or_default();
    let message = status["message"].as_str().unwrap_or_default();
    code >= 500 && !matches!(status["reason"].as_str(), None | Some("")) && !OF_CLIENTS.iter().any(|known| message.contains(known))
}
