//! The environment of a container: Services, `envFrom`, `env`, and what `$(NAME)` stands for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::env_file::{self, EnvFileError};
use super::fields::{self, Addresses, FieldError};

/// Why a container's environment, or what is expanded by it, cannot be made. The words are the
/// kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error(transparent)]
    Missing(#[from] MissingObject),
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey { namespace: String, name: String, key: String },
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey { namespace: String, name: String, key: String },
    #[error(transparent)]
    Field(#[from] FieldError),
    #[error("couldn't parse env file")]
    EnvFile(#[source] EnvFileError),
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NoFileKey { path: String, key: String },
    /// A `subPathExpr` names a variable that the container does not have.
    #[error("missing value for {0:?}")]
    NoValue(String),
}

/// An object that the pod refers to does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MissingObject {
    #[error("configmap \"{0}\" not found")]
    ConfigMap(String),
    #[error("secret \"{0}\" not found")]
    Secret(String),
}

/// What environments and volumes are made of. Objects that the pod refers to and that are not here
/// do not exist.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
    /// Of the pod's namespace, and `kubernetes` of the default one.
    pub services: Vec<Service>,
    pub addresses: Addresses,
    pub allocatable: BTreeMap<String, Quantity>,
    /// By volume and path in it: the files that variables are read from, and why one could not be
    /// read. Those that are missing are not here.
    pub env_files: BTreeMap<(String, String), Result<String, EnvFileError>>,
}

impl Sources {
    pub fn config_map(&self, name: &str) -> Result<&ConfigMap, MissingObject> {
        self.config_maps.get(name).ok_or_else(|| MissingObject::ConfigMap(name.to_owned()))
    }

    pub fn secret(&self, name: &str) -> Result<&Secret, MissingObject> {
        self.secrets.get(name).ok_or_else(|| MissingObject::Secret(name.to_owned()))
    }
}

/// Names and values in the order in which they were set, and warnings about names that were left
/// out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    pub variables: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

pub fn environment(pod: &Pod, container: &Container, sources: &Sources) -> Result<Environment, EnvironmentError> {
    let services = service_variables(pod, &sources.services);
    let mut result = Environment::default();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let (pairs, what) = bulk(pod, from, sources)?;
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut invalid = Vec::new();
        for (key, value) in pairs {
            let name = format!("{prefix}{key}");
            if !is_valid_name(&name) {
                invalid.push(name);
                continue;
            }
            known.insert(name, value);
        }
        if !invalid.is_empty() {
            let names = invalid.join(", ");
            result.warnings.push(format!(
                "Keys [{names}] from the EnvFrom {what} were skipped since they are considered invalid environment variable names."
            ));
        }
    }
    let mut order: Vec<String> = known.keys().cloned().collect();
    for variable in container.env.iter().flatten() {
        let value = value(pod, container, variable, sources, &known, &services)?;
        let Some(value) = value else { continue };
        if known.insert(variable.name.clone(), value).is_none() {
            order.push(variable.name.clone());
        }
    }
    result.variables.extend(order.into_iter().map(|name| {
        let value = known.get(&name).cloned().unwrap_or_default();
        (name, value)
    }));
    let set: BTreeSet<&String> = known.keys().collect();
    let unset: Vec<(String, String)> = services.into_iter().filter(|(name, _)| !set.contains(name)).collect();
    result.variables.extend(unset);
    Ok(result)
}

/// Commands and arguments with `$(NAME)` replaced by what the container's environment says; unknown
/// names stay as they are.
pub fn expand_all(texts: &[String], environment: &Environment) -> Vec<String> {
    let known: BTreeMap<&str, &str> = environment.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    texts.iter().map(|text| expand(text, &|name| known.get(name).map(|value| (*value).to_owned()))).collect()
}

/// Commands of probes know the container's own variables only, and of these the written values:
/// others count as empty, unknown names stay.
pub fn expand_static(texts: &[String], container: &Container) -> Vec<String> {
    let variables = container.env.iter().flatten();
    let known: BTreeMap<&str, &str> =
        variables.map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default())).collect();
    texts.iter().map(|text| expand(text, &|name| known.get(name).map(|value| (*value).to_owned()))).collect()
}

/// `subPathExpr` fails on unknown names instead of keeping them.
pub fn expand_strictly(text: &str, environment: &Environment) -> Result<String, EnvironmentError> {
    let known: BTreeMap<&str, &str> = environment.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let missing = std::cell::RefCell::new(Vec::new());
    let expanded = expand(text, &|name| {
        let value = known.get(name).map(|value| (*value).to_owned());
        if value.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        value
    });
    match missing.into_inner().first() {
        None => Ok(expanded),
        Some(_) => Err(EnvironmentError::NoValue(text.to_owned())),
    }
}

/// `$$` is a dollar sign, `$(NAME)` a reference; anything else stays.
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

type Pairs = Vec<(String, String)>;

fn bulk(pod: &Pod, from: &k8s_openapi::api::core::v1::EnvFromSource, sources: &Sources) -> Result<(Pairs, String), MissingObject> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &from.config_map_ref {
        let pairs = match sources.config_map(&reference.name) {
            Ok(map) => map.data.clone().unwrap_or_default().into_iter().collect(),
            Err(_) if reference.optional.unwrap_or(false) => Vec::new(),
            Err(missing) => return Err(missing),
        };
        return Ok((pairs, format!("configMap {namespace}/{}", reference.name)));
    }
    if let Some(reference) = &from.secret_ref {
        let pairs = match sources.secret(&reference.name) {
            Ok(secret) => secret.data.iter().flatten().map(|(key, value)| (key.clone(), lossy(&value.0))).collect(),
            Err(_) if reference.optional.unwrap_or(false) => Vec::new(),
            Err(missing) => return Err(missing),
        };
        return Ok((pairs, format!("secret {namespace}/{}", reference.name)));
    }
    Ok((Vec::new(), String::new()))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Kubernetes' relaxed rule for names: printable ASCII without `=`.
fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=')
}

fn value(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    sources: &Sources,
    known: &BTreeMap<String, String>,
    services: &BTreeMap<String, String>,
) -> Result<Option<String>, EnvironmentError> {
    if let Some(text) = variable.value.as_ref().filter(|text| !text.is_empty()) {
        return Ok(Some(expand(text, &|name| known.get(name).or_else(|| services.get(name)).cloned())));
    }
    match &variable.value_from {
        None => Ok(Some(String::new())),
        Some(from) => from_source(pod, container, from, sources),
    }
}

/// None when it is optional and not there: the variable is not set.
fn from_source(pod: &Pod, container: &Container, from: &EnvVarSource, sources: &Sources) -> Result<Option<String>, EnvironmentError> {
    let namespace = || pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(field) = &from.field_ref {
        return Ok(Some(fields::field(pod, &sources.addresses, &field.field_path)?));
    }
    if let Some(selector) = &from.resource_field_ref {
        return Ok(Some(fields::resource(pod, container, selector, &sources.allocatable)?));
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let map = match sources.config_map(&reference.name) {
            Ok(map) => map,
            Err(_) if optional => return Ok(None),
            Err(missing) => return Err(missing.into()),
        };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => {
                let (name, key) = (reference.name.clone(), reference.key.clone());
                Err(EnvironmentError::NoConfigMapKey { namespace: namespace(), name, key })
            }
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let secret = match sources.secret(&reference.name) {
            Ok(secret) => secret,
            Err(_) if optional => return Ok(None),
            Err(missing) => return Err(missing.into()),
        };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            Some(value) => Ok(Some(lossy(&value.0))),
            None if optional => Ok(None),
            None => {
                let (name, key) = (reference.name.clone(), reference.key.clone());
                Err(EnvironmentError::NoSecretKey { namespace: namespace(), name, key })
            }
        };
    }
    if let Some(reference) = &from.file_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let text = match sources.env_files.get(&(reference.volume_name.clone(), reference.path.clone())) {
            Some(Ok(text)) => text,
            Some(Err(why)) => return Err(EnvironmentError::EnvFile(*why)),
            None if optional => return Ok(None),
            None => return Err(EnvironmentError::EnvFile(EnvFileError::Missing)),
        };
        return match env_file::value(text, &reference.key).map_err(EnvironmentError::EnvFile)? {
            None if !optional => Err(EnvironmentError::NoFileKey { path: reference.path.clone(), key: reference.key.clone() }),
            found => Ok(found),
        };
    }
    Ok(Some(String::new()))
}

/// `NAME_SERVICE_HOST` and the variables that Docker's links had, for every Service with an
/// address. Without service links only the API's.
pub fn service_variables(pod: &Pod, services: &[Service]) -> BTreeMap<String, String> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = BTreeMap::new();
    // The pod's own namespace comes last: its names win.
    for own in [false, true] {
        for service in services {
            let is_own = service.metadata.namespace.as_deref() == Some(namespace);
            let is_api = service.metadata.namespace.as_deref() == Some("default") && service.metadata.name.as_deref() == Some("kubernetes");
            if (own && is_own && links) || (!own && is_api) {
                add_service(&mut out, service);
            }
        }
    }
    out
}

fn add_service(out: &mut BTreeMap<String, String>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let host = match spec.cluster_ip.as_deref() {
        None | Some("" | "None") => return,
        Some(host) => host,
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    out.insert(format!("{name}_SERVICE_HOST"), host.to_owned());
    out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_ref().filter(|port_name| !port_name.is_empty()) {
            out.insert(format!("{name}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")), port.port.to_string());
        }
    }
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{shown}:{}", protocol.to_lowercase(), port.port);
        if index == 0 {
            out.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.insert(prefix.clone(), url);
        out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{prefix}_PORT"), port.port.to_string());
        out.insert(format!("{prefix}_ADDR"), host.to_owned());
    }
}
