//! Authentication and authorization: who sends a request, and whether they may.

pub mod authenticate;
pub mod impersonate;
pub mod tokens;

pub mod authorize;
mod controller_roles;
pub mod default_roles;
pub mod escalation;
pub mod node;
pub mod rbac;
