//! Which modules of a crate may import which: the arrows inside a crate, where the compiler accepts
//! any circle.
//!
//! Only code counts: comments may name what they want, and so may tests, which look at everything.

use std::path::{Component, Path};

/// The modules of `apiserver`, from the bottom up: what each may import stands above it. What is
/// not listed is not allowed.
const APISERVER: &[(&str, &[&str])] = &[
    ("body", &[]),
    ("metrics", &[]),
    ("request", &[]),
    ("registry", &["request"]),
    ("auth", &["registry", "request"]),
    ("admission", &["auth", "registry", "request"]),
    ("audit", &["request"]),
    ("nodes", &["body", "registry"]),
    ("http", &["admission", "audit", "auth", "body", "metrics", "nodes", "registry", "request"]),
    ("bootstrap", &["auth", "http", "request"]),
];

/// Where the table holds.
const SOURCES: &str = "crates/apiserver/src";

/// `file` is relative to the workspace's folder.
pub fn check(file: &Path, text: &str) -> Vec<String> {
    let Ok(below) = file.strip_prefix(SOURCES) else { return Vec::new() };
    let path = module_path(below);
    // The root declares the modules and gives their types on.
    let Some(own) = path.first().filter(|own| **own != "tests") else { return Vec::new() };
    let Some((_, allowed)) = APISERVER.iter().find(|(module, _)| module == own) else {
        return vec![format!("{}: a new module; say in xtask/src/modules.rs what it may import", file.display())];
    };
    let refused = imports(text, path.len()).into_iter().filter(|(_, module)| module != own && !allowed.contains(module));
    refused.map(|(line, module)| format!("{}:{line}: {}", file.display(), advice(own, module))).collect()
}

fn advice(own: &str, module: &str) -> String {
    if APISERVER.iter().any(|(known, _)| *known == module) {
        format!(
            "`{own}` may not import `{module}`: put what both need into a module below them, or let the caller hand it in, as an \
             argument or behind a port of `{own}`'s own (registry/port.rs is one); xtask/src/modules.rs has the table"
        )
    } else {
        format!("`{module}` is imported from the crate's root; name the module that it is in")
    }
}

/// `http/subresources/mod.rs` is `["http", "subresources"]`; the crate's root is empty.
fn module_path(below: &Path) -> Vec<&str> {
    let stem = below.file_stem().and_then(|stem| stem.to_str()).filter(|stem| !matches!(*stem, "mod" | "lib"));
    let folders = below.parent().into_iter().flat_map(Path::components).filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    folders.chain(stem).collect()
}

/// What code names below the crate's root, with the lines. `depth` is the depth of its module, from
/// which so many `super::` lead to the root.
fn imports(text: &str, depth: usize) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut offset = 0;
    for (at, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            break;
        }
        for start in roots(line, depth) {
            // A group of imports may go on in the next lines.
            found.extend(names(&text[offset + start..]).into_iter().map(|name| (at + 1, name)));
        }
        offset += line.len();
    }
    found
}

/// Where in a line the crate's root is named: behind `crate::`, and behind as many `super::` as
/// lead there.
fn roots(line: &str, depth: usize) -> Vec<usize> {
    if line.trim_start().starts_with("//") {
        return Vec::new();
    }
    let supers = "super::".repeat(depth);
    let begins = |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || matches!(before, '_' | ':' | '$'));
    let behind = |root: &str| line.match_indices(root).filter(|(at, _)| begins(*at)).map(|(at, root)| at + root.len()).collect::<Vec<_>>();
    [behind("crate::"), behind(&supers)].concat()
}

/// The first names of a path or of a group of paths: `a::B` has `a`, `{a::{B, C}, d}` has `a` and
/// `d`.
fn names(path: &str) -> Vec<&str> {
    let name = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = path.strip_prefix('{') else { return vec![&path[..name(path)]] };
    let mut names = Vec::new();
    let (mut nesting, mut is_first) = (0, true);
    for (at, character) in group.char_indices() {
        match character {
            '}' if nesting == 0 => break,
            '{' => nesting += 1,
            '}' => nesting -= 1,
            ',' if nesting == 0 => is_first = true,
            _ if is_first && !character.is_whitespace() => {
                names.push(&group[at..at + name(&group[at..])]);
                is_first = false;
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        check(&Path::new(SOURCES).join(file), text)
    }

    #[test]
    fn a_module_imports_only_what_stands_above_it() {
        for (at, (module, allowed)) in APISERVER.iter().enumerate() {
            let above: Vec<&str> = APISERVER[..at].iter().map(|(module, _)| *module).collect();
            assert!(allowed.iter().all(|allowed| above.contains(allowed)), "{module}");
        }
    }

    #[test]
    fn imports_against_the_arrows_are_found_however_they_are_written() {
        let registry = |text: &str| findings("registry/create.rs", text).len();
        assert_eq!(registry("use crate::http::options::Query;"), 1);
        assert_eq!(registry("fn f() { crate::admission::admit() }"), 1);
        assert_eq!(registry("use super::super::auth;"), 1);
        assert_eq!(registry("use crate::{\n    request::{User, http},\n    auth,\n    registry,\n};"), 1);
        assert_eq!(findings("registry/mod.rs", "use super::auth::User;").len(), 1);
        assert!(findings("registry/create.rs", "\nuse crate::http;")[0].starts_with("crates/apiserver/src/registry/create.rs:2: "));
    }

    #[test]
    fn what_is_allowed_passes() {
        let passes = |file: &str, text: &str| assert_eq!(findings(file, text), Vec::<String>::new());
        passes("registry/create.rs", "use crate::request::User;\nuse crate::registry::object;\nuse super::auth;");
        passes("registry/create.rs", "/// See [`crate::http`].\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::http;\n}");
        passes("tests/costs.rs", "use crate::http;");
        passes("lib.rs", "pub use crate::http::server::ApiServer;");
        assert!(check(Path::new("crates/store/src/a.rs"), "use crate::http;").is_empty());
    }

    #[test]
    fn new_modules_and_names_of_the_root_are_said_what_to_do_with() {
        assert!(findings("fresh.rs", "")[0].contains("say in xtask/src/modules.rs"));
        assert!(findings("nodes/usage.rs", "use crate::ApiServer;")[0].contains("name the module"));
    }
}
