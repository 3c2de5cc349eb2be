//! Signals by name: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The kernel's, which programs for any libc agree on when they count from SIGRTMIN as images do.
const REAL_TIME_MIN: i32 = 34;
const SIGNAL_MAX: i32 = 64;

pub fn parse(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=SIGNAL_MAX).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match name {
        "RTMIN" => return Some(REAL_TIME_MIN),
        "RTMAX" => return Some(SIGNAL_MAX),
        _ => {}
    }
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset.parse().ok().map(|n: i32| REAL_TIME_MIN + n).filter(|n| *n <= SIGNAL_MAX);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-") {
        return offset.parse().ok().map(|n: i32| SIGNAL_MAX - n).filter(|n| *n >= REAL_TIME_MIN);
    }
    Signal::from_str(&format!("SIG{name}")).ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_numbers() {
        assert_eq!(
            ["SIGTERM", "usr1", "9", "SIGRTMIN+3", "0", "SIGNOPE"].map(super::parse),
            [Some(15), Some(10), Some(9), Some(37), None, None]
        );
    }
}
