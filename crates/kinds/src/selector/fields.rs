//! Field selectors: `metadata.name=web,status.phase!=Running`. The caller says which fields a kind
//! knows.

use super::SelectorError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    pub is_equal: bool,
}

/// All requirements hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads the text of a `fieldSelector` query parameter.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let (field, is_equal, value) =
                split_term(term).ok_or_else(|| SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            requirements.push(FieldRequirement { field: field.to_owned(), value: unescape(value)?, is_equal });
        }
        Ok(FieldSelector { requirements })
    }

    /// `value_of` gives the text of a field, empty when unset.
    pub fn matches<T: AsRef<str>>(&self, value_of: impl Fn(&str) -> T) -> bool {
        self.requirements.iter().all(|wanted| (value_of(&wanted.field).as_ref() == wanted.value) == wanted.is_equal)
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut is_escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// At the first operator, the longer ones tried first.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = (0..term.len()).find(|i| term.is_char_boundary(*i) && is_operator(&term[*i..]))?;
    let (field, rest) = term.split_at(at);
    let operators = [("!=", false), ("==", true), ("=", true)];
    operators.iter().find_map(|(operator, is_equal)| Some((field, *is_equal, rest.strip_prefix(operator)?)))
}

fn is_operator(text: &str) -> bool {
    text.starts_with("!=") || text.starts_with('=')
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let sequence: String = other.into_iter().collect();
                    return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{sequence}")));
                }
            },
            // Go prints the character's number.
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {}", c as u32)));
            }
            c => value.push(c),
        }
    }
    Ok(value)
}
