//! Kubernetes quantities (`100m`, `1.5Gi`, `1e3`): exact arithmetic, and the text Go writes them
//! back with.
//!
//! Simplifying assumption: amounts are kept as 128-bit nano-units, so decimal amounts beyond 1.7e29
//! saturate. Amounts below a nano round away from zero, as in Go.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;
/// Decimal digits that Go handles without big numbers; longer texts are always written anew.
const FAST_DIGITS_MAX: i32 = 18;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An amount of a resource. Compares by amount; prints canonically.
#[derive(Clone, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
    /// The text as read, where Go takes it for canonical without looking closely (`0100`).
    text: Option<String>,
}

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi, text: None };

    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        text.parse()
    }

    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANOS_PER_UNIT, format: Format::DecimalSi, text: None }
    }

    pub fn from_millis(millis: i64) -> Quantity {
        Quantity { nanos: i128::from(millis) * NANOS_PER_MILLI, format: Format::DecimalSi, text: None }
    }

    /// Whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        saturate(divide_up(self.nanos, NANOS_PER_UNIT))
    }

    /// Thousandths, rounded away from zero.
    pub fn millis(&self) -> i64 {
        saturate(divide_up(self.nanos, NANOS_PER_MILLI))
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Has no fraction of a unit.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    pub fn is_multiple_of(&self, units: i64) -> bool {
        self.nanos % (i128::from(units) * NANOS_PER_UNIT) == 0
    }

    /// Rounds away from zero to thousandths, the finest that objects store.
    pub fn round_up_to_milli(&self) -> Quantity {
        if self.nanos % NANOS_PER_MILLI == 0 {
            return self.clone();
        }
        self.with(divide_up(self.nanos, NANOS_PER_MILLI).saturating_mul(NANOS_PER_MILLI))
    }

    pub fn add(&self, other: &Quantity) -> Quantity {
        self.shape_with(other).with(self.nanos.saturating_add(other.nanos))
    }

    pub fn sub(&self, other: &Quantity) -> Quantity {
        self.shape_with(other).with(self.nanos.saturating_sub(other.nanos))
    }

    /// The same amount, written the way another one is: in powers of two or of ten.
    pub fn written_like(&self, other: &Quantity) -> Quantity {
        other.with(self.nanos)
    }

    /// The operand whose way of writing a sum takes: zero has none of its own.
    fn shape_with<'a>(&'a self, other: &'a Quantity) -> &'a Quantity {
        if self.is_zero() { other } else { self }
    }

    /// Amounts end at the same distance from zero on both sides, so that each has a negative.
    fn with(&self, nanos: i128) -> Quantity {
        Quantity { nanos: nanos.max(-i128::MAX), format: self.format, text: None }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        let text = text.trim();
        let parts = Parts::split(text)?;
        let suffix = Suffix::read(parts.suffix)?;
        if parts.whole.is_empty() && parts.fraction.is_empty() && parts.is_bare_point {
            return Err(QuantityError::Numeric);
        }
        let magnitude = magnitude_nanos(&parts, suffix)?;
        let format =
            if suffix.format == Format::BinarySi && (1..NANOS_PER_UNIT).contains(&magnitude) { Format::DecimalSi } else { suffix.format };
        let nanos = if parts.negative { -magnitude } else { magnitude };
        let text = keeps_text(&parts, suffix).then(|| text.to_owned());
        Ok(Quantity { nanos, format, text })
    }
}

/// The pieces of a quantity's text, leading zeros of the number stripped.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
    is_bare_point: bool,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (all_digits, rest) = take_while(unsigned, |c| c.is_ascii_digit());
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => take_while(rest, |c| c.is_ascii_digit()),
            None => ("", rest),
        };
        let (_, after_letters) = take_while(suffix, |c| "eEinumkKMGTP".contains(c));
        let exponent = after_letters.strip_prefix(['-', '+']).unwrap_or(after_letters);
        if !exponent.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Parts {
            negative: text.starts_with('-'),
            whole: all_digits.trim_start_matches('0'),
            fraction,
            suffix,
            is_bare_point: all_digits.is_empty() && rest.starts_with('.') && !suffix.is_empty(),
        })
    }
}

fn take_while(text: &str, matches: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !matches(c)).unwrap_or(text.len()))
}

#[derive(Clone, Copy)]
struct Suffix {
    format: Format,
    exponent: i32,
}

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Suffix {
    fn read(text: &str) -> Result<Suffix, QuantityError> {
        let find = |table: &[(&str, i32)]| table.iter().find(|(name, _)| *name == text).map(|(_, exponent)| *exponent);
        if let Some(exponent) = find(&DECIMAL_SUFFIXES) {
            return Ok(Suffix { format: Format::DecimalSi, exponent });
        }
        if let Some(exponent) = find(&BINARY_SUFFIXES) {
            return Ok(Suffix { format: Format::BinarySi, exponent });
        }
        let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        let exponent = exponent.parse().map_err(|_| QuantityError::Suffix)?;
        Ok(Suffix { format: Format::DecimalExponent, exponent })
    }
}

fn magnitude_nanos(parts: &Parts<'_>, suffix: Suffix) -> Result<i128, QuantityError> {
    let digits = format!("{}{}", parts.whole, parts.fraction);
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let scale_fraction = i32::try_from(parts.fraction.len()).map_err(|_| QuantityError::Numeric)?;
    let (digits, power) = match suffix.format {
        Format::BinarySi => (digits, 9 - scale_fraction),
        _ => (digits, suffix.exponent.saturating_add(9 - scale_fraction)),
    };
    let mut nanos = parse_digits(digits);
    if suffix.format == Format::BinarySi {
        nanos = nanos.saturating_mul(1_i128 << suffix.exponent);
    }
    nanos = scale_up(nanos, power);
    let binary_max = i128::from(i64::MAX) * NANOS_PER_UNIT;
    Ok(if suffix.format == Format::BinarySi { nanos.min(binary_max) } else { nanos })
}

fn parse_digits(digits: &str) -> i128 {
    digits.bytes().fold(0_i128, |number, digit| number.saturating_mul(10).saturating_add(i128::from(digit - b'0')))
}

/// `number * 10^power`, rounded up.
fn scale_up(number: i128, power: i32) -> i128 {
    let factor = |power: u32| 10_i128.checked_pow(power).unwrap_or(i128::MAX);
    if power >= 0 { number.saturating_mul(factor(power.unsigned_abs())) } else { divide_up(number, factor(power.unsigned_abs())) }
}

/// Go keeps the text it read when a rough test finds it canonical.
fn keeps_text(parts: &Parts<'_>, suffix: Suffix) -> bool {
    let whole = if parts.whole.is_empty() { "0" } else { parts.whole };
    let digits = format!("{whole}{}", parts.fraction);
    let fraction_len = parts.fraction.len() as i32;
    match suffix.format {
        Format::BinarySi => {
            let precision = 15 - whole.len() as i32 - (suffix.exponent * 3 / 10) - 1;
            parts.fraction.is_empty() && precision >= 0 && parse_digits(whole) & 7 != 0
        }
        _ => {
            let scale = suffix.exponent - fraction_len;
            digits.len() as i32 <= FAST_DIGITS_MAX && scale >= -9 && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
        }
    }
}

fn divide_up(number: i128, divisor: i128) -> i128 {
    let quotient = number / divisor;
    if number % divisor == 0 { quotient } else { quotient + number.signum() }
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANOS_PER_UNIT;
        match self.format {
            Format::BinarySi if !small && self.is_whole() => write_binary(f, self.nanos / NANOS_PER_UNIT),
            Format::DecimalExponent => write_decimal(f, self.nanos, |exponent| match exponent {
                0 => Some(String::new()),
                exponent => Some(format!("e{exponent}")),
            }),
            _ => write_decimal(f, self.nanos, |exponent| {
                let known = DECIMAL_SUFFIXES.iter().find(|(_, known)| *known == exponent);
                known.map(|(name, _)| (*name).to_owned())
            }),
        }
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    let mut suffix = "";
    for (name, _) in BINARY_SUFFIXES {
        if units % 1024 != 0 {
            break;
        }
        units /= 1024;
        suffix = name;
    }
    write!(f, "{units}{suffix}")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: i128, suffix: impl Fn(i32) -> Option<String>) -> fmt::Result {
    let (mut mantissa, mut exponent) = (nanos, -9);
    while mantissa % 1000 == 0 && suffix(exponent + 3).is_some() && exponent < 36 {
        mantissa /= 1000;
        exponent += 3;
    }
    write!(f, "{mantissa}{}", suffix(exponent).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(texts: &[&str], expect: Expect) {
        let lines: Vec<String> = texts
            .iter()
            .map(|text| match Quantity::parse(text) {
                Ok(quantity) => format!("{text} = {quantity} ({}m, {})\n", quantity.millis(), quantity.value()),
                Err(error) => format!("{text}: {error}\n"),
            })
            .collect();
        expect.assert_eq(&lines.concat());
    }

    #[test]
    fn texts_become_canonical_as_in_go() {
        check(
            &[
                "0.5", "1024Mi", "1e3", "0.1", "1.5Mi", "0100", "1000m", "1.5", "0", "-1", "1500", "64Mi", "100E", "1E3", "12e6", "0.5Ki",
                "1023Ki", "0.0001", "1n", "0.1n", "2048", "1000000k", "+5", ".5", "5.", "m", "1.0", "1Ei", "16Ei", "1e-3",
            ],
            expect![[r#"
                0.5 = 500m (500m, 1)
                1024Mi = 1Gi (1073741824000m, 1073741824)
                1e3 = 1e3 (1000000m, 1000)
                0.1 = 100m (100m, 1)
                1.5Mi = 1536Ki (1572864000m, 1572864)
                0100 = 0100 (100000m, 100)
                1000m = 1 (1000m, 1)
                1.5 = 1500m (1500m, 2)
                0 = 0 (0m, 0)
                -1 = -1 (-1000m, -1)
                1500 = 1500 (1500000m, 1500)
                64Mi = 64Mi (67108864000m, 67108864)
                100E = 100E (9223372036854775807m, 9223372036854775807)
                1E3 = 1E3 (1000000m, 1000)
                12e6 = 12e6 (12000000000m, 12000000)
                0.5Ki = 512 (512000m, 512)
                1023Ki = 1023Ki (1047552000m, 1047552)
                0.0001 = 100u (1m, 1)
                1n = 1n (1m, 1)
                0.1n = 1n (1m, 1)
                2048 = 2048 (2048000m, 2048)
                1000000k = 1G (1000000000000m, 1000000000)
                +5 = +5 (5000m, 5)
                .5 = 500m (500m, 1)
                5. = 5. (5000m, 5)
                m = 0 (0m, 0)
                1.0 = 1 (1000m, 1)
                1Ei = 1Ei (9223372036854775807m, 1152921504606846976)
                16Ei = 9223372036854775807 (9223372036854775807m, 9223372036854775807)
                1e-3 = 1e-3 (1m, 1)
            "#]],
        );
    }

    #[test]
    fn bad_texts_are_told_apart() {
        check(
            &["", "lots", "1XB", "1mm", "1 Gi", "1.2.3", "Ki1x"],
            expect![[r#"
                : quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
                lots: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
                1XB: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
                1mm: unable to parse quantity's suffix
                1 Gi: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
                1.2.3: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
                Ki1x: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
            "#]],
        );
    }

    #[test]
    fn sums_keep_the_way_of_writing() {
        let sum = |a: &str, b: &str| Quantity::parse(a).unwrap().add(&Quantity::parse(b).unwrap()).to_string();
        assert_eq!(sum("1Gi", "512Mi"), "1536Mi");
        assert_eq!(sum("0", "512Mi"), "512Mi");
        assert_eq!(sum("250m", "750m"), "1");
        assert_eq!(Quantity::parse("0.0005").unwrap().round_up_to_milli().to_string(), "1m");
    }

    proptest! {
        #[test]
        fn canonical_text_means_the_same(number in 0_u32..2_000_000, fraction in 0_u8..100, suffix in "n|u|m||k|M|G|T|Ki|Mi|Gi") {
            let quantity = Quantity::parse(&format!("{number}.{fraction}{suffix}")).unwrap();
            let written = quantity.add(&Quantity::ZERO).to_string();
            prop_assert_eq!(Quantity::parse(&written).unwrap(), quantity);
        }
    }
}
