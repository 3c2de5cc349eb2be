//! The files of a volume that is made from objects: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume, VolumeProjection,
};

use super::environment::Sources;
use super::fields;

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
pub fn files(pod: &Pod, volume: &Volume, sources: &Sources, tokens: &BTreeMap<TokenRequest, String>) -> Option<Result<Files, String>> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(config_map(sources.config_maps.get(&source.name), &source.name, source.items.as_deref(), mode, source.optional));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Some(secret(sources.secrets.get(name), name, source.items.as_deref(), mode, source.optional));
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
) -> Result<Files, String> {
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
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

fn projection(
    pod: &Pod,
    part: &VolumeProjection,
    mode: i32,
    sources: &Sources,
    tokens: &BTreeMap<TokenRequest, String>,
) -> Result<Files, String> {
    if let Some(source) = &part.config_map {
        return config_map(sources.config_maps.get(&source.name), &source.name, source.items.as_deref(), mode, source.optional);
    }
    if let Some(source) = &part.secret {
        return secret(sources.secrets.get(&source.name), &source.name, source.items.as_deref(), mode, source.optional);
    }
    if let Some(source) = &part.downward_api {
        return downward(pod, source.items.as_deref(), mode, sources);
    }
    if let Some(source) = &part.service_account_token {
        let token = tokens.get(&token_request(source)).ok_or("failed to fetch token: none was issued")?;
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
    map: Option<&ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<Files, String> {
    let optional = optional.unwrap_or(false);
    let Some(map) = map else {
        return if optional { Ok(Files::new()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let texts = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    pick(texts.chain(binary).collect(), items, mode, optional, "config")
}

fn secret(secret: Option<&Secret>, name: &str, items: Option<&[KeyToPath]>, mode: i32, optional: Option<bool>) -> Result<Files, String> {
    let optional = optional.unwrap_or(false);
    let Some(secret) = secret else {
        return if optional { Ok(Files::new()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    pick(data, items, mode, optional, "secret")
}

fn pick(data: BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>, mode: i32, optional: bool, what: &str) -> Result<Files, String> {
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
            None => return Err(format!("references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(files)
}

fn downward(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>, mode: i32, sources: &Sources) -> Result<Files, String> {
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
