//! What a request wants to do, as authorization and admission judge it.

use super::User;

/// What a user wants to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub what: What<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What<'a> {
    Resource {
        group: &'a str,
        version: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
        /// As in the query; a node may only list what is its own.
        field_selector: &'a str,
    },
    Path(&'a str),
}
