//! The files of a volume that is made from objects: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};

use super::environment::{MissingObject, Sources};
use super::fields::{self, FieldError};

/// Why the files of a volume cannot be made. The words are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error(transparent)]
    Missing(#[from] MissingObject),
    #[error("references non-existent config key: {0}")]
    NoConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("failed to fetch token: none was issued")]
    NoToken,
    #[error(transparent)]
    Field(#[from] FieldError),
    /// Of several sources of a projected volume.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<PayloadError>),
}

const DEFAULT_MODE: i32 = 0o644;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Root when None.
    pub owner: Option<i64>,
}

/// Files by path below the volume.
pub type Files = BTreeMap<String, File>;

/// A service-account token that a projected volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenRequest {
    pub audience: String,
    pub expiration_seconds: i64,
}

/// All tokens that a volume needs before its files can be made.
pub fn token_requests(volume: &Volume) -> Vec<TokenRequest> {
    let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(|source| source.service_account_token.as_ref()).map(token_request).collect()
}

fn token_request(token: &k8s_openapi::api::core::v1::ServiceAccountTokenProjection) -> TokenRequest {
    TokenRequest { audience: token.audience.clone().unwrap_or_default(), expiration_seconds: token.expiration_seconds.unwrap_or(3600) }
}

/// The volume's files; None for volumes that are not made from objects.
pub fn files(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    tokens: &BTreeMap<TokenRequest, String>,
) -> Option<Result<Files, PayloadError>> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(config_map(sources.config_map(&source.name), source.items.as_deref(), mode, source.optional));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(secret(sources.secret(name), source.items.as_deref(), mode, source.optional));
    }
    if let Some(source) = &volume.downward_api {
        return Some(downward(pod, source.items.as_deref(), source.default_mode.unwrap_or(DEFAULT_MODE), sources));
    }
    volume.projected.as_ref().map(|source| projected(pod, source, sources, tokens))
}

fn projected(
    pod: &Pod,
    source: &ProjectedVolumeSource,
    sources: &Sources,
    tokens: &BTreeMap<TokenRequest, String>,
) -> Result<Files, PayloadError> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut all = Files::new();
    let mut errors = Vec::new();
    for part in source.sources.iter().flatten() {
        match projection(pod, part, mode, sources, tokens) {
            Ok(files) => all.extend(files),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(all),
        1 => Err(errors.remove(0)),
        _ => Err(PayloadError::Several(errors)),
    }
}

fn projection(
    pod: &Pod,
    part: &VolumeProjection,
    mode: i32,
    sources: &Sources,
    tokens: &BTreeMap<TokenRequest, String>,
) -> Result<Files, PayloadError> {
    if let Some(source) = &part.config_map {
        return config_map(sources.config_map(&source.name), source.items.as_deref(), mode, source.optional);
    }
    if let Some(source) = &part.secret {
        return secret(sources.secret(&source.name), source.items.as_deref(), mode, source.optional);
    }
    if let Some(source) = &part.downward_api {
        return downward(pod, source.items.as_deref(), mode, sources);
    }
    if let Some(source) = &part.service_account_token {
        let token = tokens.get(&token_request(source)).ok_or(PayloadError::NoToken)?;
        let owner = only_user(pod);
        let mode = if owner.is_some() || has_group(pod) { 0o600 } else { mode as u32 };
        return Ok(Files::from([(source.path.clone(), File { data: token.clone().into_bytes(), mode, owner })]));
    }
    Ok(Files::new())
}

fn has_group(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).is_some_and(|context| context.fs_group.is_some())
}

/// The user that all containers run as by the pod's own words: tokens are for that user alone.
fn only_user(pod: &Pod) -> Option<i64> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.run_as_user);
    let ephemeral = super::ephemeral_containers(pod);
    let all = super::init_containers(pod).iter().chain(super::containers(pod)).chain(ephemeral.iter().map(|(container, _)| container));
    let mut users = all.map(|container| container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod));
    let first = users.next().flatten()?;
    users.all(|user| user == Some(first)).then_some(first)
}

fn config_map(
    map: Result<&ConfigMap, MissingObject>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<Files, PayloadError> {
    let optional = optional.unwrap_or(false);
    let map = match map {
        Ok(map) => map,
        Err(_) if optional => return Ok(Files::new()),
        Err(missing) => return Err(missing.into()),
    };
    let texts = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    pick(texts.chain(binary).collect(), items, mode, optional, PayloadError::NoConfigMapKey)
}

fn secret(
    secret: Result<&Secret, MissingObject>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<Files, PayloadError> {
    let optional = optional.unwrap_or(false);
    let secret = match secret {
        Ok(secret) => secret,
        Err(_) if optional => return Ok(Files::new()),
        Err(missing) => return Err(missing.into()),
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick(data, items, mode, optional, PayloadError::NoSecretKey)
}

fn pick(
    data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    no_key: fn(String) -> PayloadError,
) -> Result<Files, PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, data)| (key, File { data, mode: mode as u32, owner: None })).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(content) => {
                let mode = item.mode.unwrap_or(mode) as u32;
                files.insert(item.path.clone(), File { data: content.clone(), mode, owner: None });
            }
            None if optional => {}
            None => return Err(no_key(item.key.clone())),
        }
    }
    Ok(files)
}

fn downward(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, mode: i32, sources: &Sources) -> Result<Files, PayloadError> {
    let mut files = Files::new();
    let nobody = Container::default();
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(pod, &sources.addresses, &field.field_path)?,
            (None, Some(selector)) => fields::resource(pod, &nobody, selector, &sources.allocatable)?,
            (None, None) => String::new(),
        };
        files.insert(item.path.clone(), File { data: text.into_bytes(), mode: item.mode.unwrap_or(mode) as u32, owner: None });
    }
    Ok(files)
}
