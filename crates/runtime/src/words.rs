//! Errors in the words that users of other container runtimes know: the kernel's in lower case,
//! without the numbers and the debug output that Rust and its libraries add.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use nix::errno::Errno;

/// The kernel's numbers of errors.
const ERRORS: i32 = 133;

/// `no such file or directory`, not `No such file or directory (os error 2)`; an error that is not
/// the kernel's says what it says.
pub fn plain(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| plain_text(&error.to_string()), describe)
}

/// An error of the node in these words, as the cause of another one.
#[derive(Debug)]
pub struct Plain(io::Error);

impl From<io::Error> for Plain {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<Errno> for Plain {
    fn from(error: Errno) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(&self.0))
    }
}

impl StdError for Plain {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// A step that the node refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct Refused {
    operation: String,
    #[source]
    source: Plain,
}

pub fn refused<E: Into<Plain>>(operation: impl fmt::Display) -> impl FnOnce(E) -> Refused {
    move |error| Refused { operation: operation.to_string(), source: error.into() }
}

/// What the node refused to a call of the port.
pub fn failed(operation: impl fmt::Display) -> impl FnOnce(io::Error) -> containers::Error {
    move |error| containers::Error::Io { operation: operation.to_string(), cause: Box::new(Plain(error)) }
}

fn describe(code: i32) -> String {
    Errno::from_raw(code).desc().to_lowercase()
}

/// A text with the kernel's errors somewhere in it, as Rust writes them.
pub fn plain_text(text: &str) -> String {
    /// What Rust puts around the number.
    const MARK: &str = " (os error ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let after = &rest[at + MARK.len()..];
        let number = after.split_once(')').and_then(|(number, _)| number.parse::<i32>().ok());
        let (before, skipped) = match number {
            Some(code) => {
                let words = io::Error::from_raw_os_error(code).to_string();
                let words = words.strip_suffix(&format!("{MARK}{code})")).unwrap_or_default();
                match rest[..at].strip_suffix(words) {
                    Some(before) if !words.is_empty() => (format!("{before}{}", describe(code)), MARK.len() + code.to_string().len() + 1),
                    _ => (rest[..at + MARK.len()].to_owned(), MARK.len()),
                }
            }
            None => (rest[..at + MARK.len()].to_owned(), MARK.len()),
        };
        out.push_str(&before);
        rest = &rest[at + skipped..];
    }
    out + rest
}

/// A value as Rust's debug output has it, for people: `Some("bind")` is bind, `Nix(ENOENT)` what
/// the kernel means by it.
pub fn plain_debug(value: &str) -> String {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
    let mut inner = value.trim();
    while let Some((name, rest)) = inner.split_once('(')
        && is_name(name)
        && let Some(within) = rest.strip_suffix(')')
    {
        inner = within;
    }
    if let Some(code) = inner.strip_prefix("Os { code: ").and_then(|rest| rest.split(',').next()?.parse().ok()) {
        return describe(code);
    }
    if let Some(code) = (1..=ERRORS).find(|code| format!("{:?}", Errno::from_raw(*code)) == inner) {
        return describe(code);
    }
    let quoted = inner.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    plain_text(quoted.unwrap_or(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_wherever_they_are() {
        let cases = [
            ("No such file or directory (os error 2)", "no such file or directory"),
            ("/a: Permission denied (os error 13); /b: Not a directory (os error 20)", "/a: permission denied; /b: not a directory"),
            ("a user's own (os error 2) stays", "a user's own (os error 2) stays"),
            ("(os error x) and (os error", "(os error x) and (os error"),
            (" (os error 99999999999)", " (os error 99999999999)"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(plain_text(text), expected);
        }
        let nested = io::Error::other(format!("make x: {}", io::Error::from_raw_os_error(28)));
        assert_eq!(plain(&nested), "make x: no space left on device");
    }

    #[test]
    fn debug_output_becomes_words() {
        for (value, expected) in [
            ("Some(\"bind\")", "bind"),
            ("Nix(ENOENT)", "no such file or directory"),
            ("SyscallError(Nix(EPERM))", "operation not permitted"),
            ("Os { code: 2, kind: NotFound, message: \"No such file or directory\" }", "no such file or directory"),
            ("\"/a (b)\"", "/a (b)"),
            ("None", "None"),
            ("17", "17"),
        ] {
            assert_eq!(plain_debug(value), expected);
        }
    }
}
