//! Who sends a request.

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Sorted by key.
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

impl User {
    /// The user that the server's own parts act as in process.
    pub fn system(name: &str, groups: &[&str]) -> User {
        User { name: name.to_owned(), groups: groups.iter().map(|&g| g.to_owned()).collect(), ..User::default() }
    }

    pub fn anonymous() -> User {
        User::system("system:anonymous", &["system:unauthenticated"])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
