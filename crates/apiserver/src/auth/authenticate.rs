//! Who sends this request? Client certificates, bearer tokens, or the anonymous user.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use kinds::status::Status;

use super::tokens::{ISSUER, TokenKey};
use crate::registry::Registry;
use crate::request::User;

/// Marks a request from within the process.
#[derive(Debug, Clone)]
pub struct Local(pub User);

/// Marks a request of a connection whose client certificate our CA signed.
#[derive(Debug, Clone)]
pub struct Certificate(pub User);

/// The ways to authenticate.
#[derive(Clone)]
pub struct Authenticator {
    pub tokens: Arc<TokenKey>,
}

impl Authenticator {
    /// The user of a request; credentials that are wrong are refused, none at all is the anonymous
    /// user.
    pub fn authenticate(&self, parts: &Parts, registry: &Registry) -> Result<User, Status> {
        if let Some(Local(user)) = parts.extensions.get() {
            return Ok(user.clone());
        }
        if let Some(Certificate(user)) = parts.extensions.get() {
            return Ok(with_group(user, "system:authenticated"));
        }
        let Some(header) = parts.headers.get(AUTHORIZATION) else { return Ok(User::anonymous()) };
        let token = header.to_str().ok().and_then(bearer).ok_or_else(Status::unauthorized)?;
        self.tokens.user(registry, token, &[ISSUER.to_owned()]).ok_or_else(Status::unauthorized)
    }
}

fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn with_group(user: &User, group: &str) -> User {
    let mut user = user.clone();
    if !user.is_in(group) {
        user.groups.push(group.to_owned());
    }
    user
}
