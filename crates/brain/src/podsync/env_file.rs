//! Files of environment variables (`valueFrom.fileKeyRef`): one `NAME=VALUE` a line. A container
//! wrote them, so anything may be in them.

/// Why a file gives no variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    #[error("there is no such file")]
    Missing,
    /// The agent logs why: a container may put anything in the file's place.
    #[error("the file cannot be read")]
    Unreadable,
    #[error("a continued line ends in a blank line or a comment")]
    EmptyContinuation,
    #[error("the last line is continued")]
    EndlessContinuation,
    #[error("a line has no '='")]
    NoEqualsSign,
    #[error("a line has no name")]
    NoName,
}

/// The value of `key`; None when the file does not have it. An error says why it is no such file.
///
/// White space around names and values does not count, lines that begin with `#` and empty ones
/// neither. A backslash at the end of a line joins the next one with a blank.
pub fn value(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut joined: Option<String> = None;
    for line in text.lines().map(|line| line.trim_matches([' ', '\t'])) {
        if line.is_empty() || line.starts_with('#') {
            match joined {
                Some(_) => return Err(EnvFileError::EmptyContinuation),
                None => continue,
            }
        }
        let (part, is_continued) = line.strip_suffix('\\').map_or((line, false), |part| (part.trim_end_matches([' ', '\t']), true));
        let whole = match joined.take() {
            Some(before) => before + " " + part,
            None => part.to_owned(),
        };
        if is_continued {
            joined = Some(whole);
            continue;
        }
        let (name, value) = whole.split_once('=').ok_or(EnvFileError::NoEqualsSign)?;
        if name.trim().is_empty() {
            return Err(EnvFileError::NoName);
        }
        if name.trim() == key {
            return Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty()));
        }
    }
    if joined.is_some() { Err(EnvFileError::EndlessContinuation) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "# note\n\n  A=1 \nB = x = y\nLONG=a \\\n  b\\\n c\nEMPTY=\nC=last";
        let get = |key: &str| value(text, key);
        assert_eq!(get("A"), Ok(Some("1".to_owned())));
        assert_eq!(get("B"), Ok(Some("x = y".to_owned())));
        assert_eq!(get("LONG"), Ok(Some("a b c".to_owned())));
        assert_eq!(get("EMPTY"), Ok(None), "as one that is missing");
        assert_eq!(get("C"), Ok(Some("last".to_owned())));
        assert_eq!(get("NONE"), Ok(None));
    }

    #[test]
    fn what_is_no_such_file() {
        let why = |text: &str| value(text, "Z").unwrap_err();
        assert_eq!(why("plain words"), EnvFileError::NoEqualsSign);
        assert_eq!(why("=x"), EnvFileError::NoName);
        assert_eq!(why("A=1\\"), EnvFileError::EndlessContinuation);
        for text in ["A=1\\\n\nB=2", "A=1\\\n# no"] {
            assert_eq!(why(text), EnvFileError::EmptyContinuation, "{text:?}");
        }
        let continued = "A=\\\n".repeat(1 << 16);
        assert!(value(&continued, "Z").is_err());
    }
}
