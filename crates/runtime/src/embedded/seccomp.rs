//! Seccomp profiles in the format that Docker and `containers/common` share, made into the kernel's
//! filters.
//!
//! The compiler underneath knows one action per filter beside the default, so a profile becomes
//! several filters: the first lets through every call that any rule names and gives the rest the
//! default action; one more for each other action turns its calls away again. The kernel runs all
//! of them and the strictest answer counts.
//!
//! Only the processor's own calls are known; programs for its 32-bit ancestor are killed.

use std::collections::BTreeMap;
use std::str::FromStr;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use crate::words::Plain;

/// This runtime's own list: what nearly all programs need and what has not been the way out of
/// containers.
const DEFAULT: &str = include_str!("seccomp_default.json");

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("seccomp profile is malformed")]
    Malformed(#[source] serde_json::Error),
    #[error("seccomp profile: unknown action {0:?}")]
    Action(String),
    #[error("seccomp profile: unknown comparison {0:?}")]
    Comparison(String),
    #[error("seccomp profile cannot be compiled")]
    Compile(#[source] seccompiler::BackendError),
    #[error("seccomp: install filter")]
    Install(#[source] Plain),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    /// Old profiles have one name per rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    args: Option<Vec<Argument>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    includes: Option<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
}

impl Profile {
    pub fn parse(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(Error::Malformed)
    }

    pub fn runtime_default() -> Self {
        Self::parse(DEFAULT).expect("the embedded profile is tested")
    }

    /// The filters for a container with these capabilities, to be installed in this order.
    pub fn compile(&self, capabilities: u64) -> Result<Vec<BpfProgram>, Error> {
        let default = action(&self.default_action, self.default_errno_ret)?;
        let has: Vec<String> = super::capabilities::names(capabilities).collect();
        let mut groups: Vec<(SeccompAction, Calls)> = Vec::new();
        for rule in self.syscalls.iter().filter(|r| r.applies(&has)) {
            let action = action(&rule.action, rule.errno_ret)?;
            let calls = match groups.iter_mut().position(|(a, _)| *a == action) {
                Some(n) => &mut groups[n].1,
                None => {
                    groups.push((action, Calls::new()));
                    &mut groups.last_mut().expect("pushed just now").1
                }
            };
            rule.add_to(calls)?;
        }
        build(default, groups)
    }
}

/// Nothing in the value: the call with any arguments.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn build(default: SeccompAction, groups: Vec<(SeccompAction, Calls)>) -> Result<Vec<BpfProgram>, Error> {
    let mut filters = Vec::new();
    if default != SeccompAction::Allow {
        let mut named = Calls::new();
        for (number, rules) in groups.iter().flat_map(|(_, calls)| calls) {
            merge(&mut named, *number, rules.clone());
        }
        filters.push(filter(named, default.clone(), SeccompAction::Allow)?);
    }
    for (action, calls) in groups {
        if action != SeccompAction::Allow && !(default == SeccompAction::Allow && calls.is_empty()) {
            filters.push(filter(calls, SeccompAction::Allow, action)?);
        }
    }
    Ok(filters)
}

fn filter(calls: Calls, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(Error::Compile)?;
    let filter = SeccompFilter::new(calls, otherwise, matched, arch).map_err(Error::Compile)?;
    BpfProgram::try_from(filter).map_err(Error::Compile)
}

/// A rule without conditions makes those with conditions pointless.
fn merge(calls: &mut Calls, number: i64, rules: Vec<SeccompRule>) {
    match calls.get_mut(&number) {
        None => {
            calls.insert(number, rules);
        }
        Some(known) if known.is_empty() || rules.is_empty() => known.clear(),
        Some(known) => known.extend(rules),
    }
}

impl Rule {
    fn applies(&self, capabilities: &[String]) -> bool {
        let all = self.includes.as_ref().is_none_or(|c| c.caps_match(capabilities, true) && c.arch_matches().unwrap_or(true));
        let none = self.excludes.as_ref().is_none_or(|c| !c.caps_match(capabilities, false) && !c.arch_matches().unwrap_or(false));
        all && none
    }

    fn add_to(&self, calls: &mut Calls) -> Result<(), Error> {
        // Profiles name calls of all architectures; those that this one lacks cannot be made.
        for number in self.names.iter().chain(&self.name).filter_map(|n| Sysno::from_str(n).ok()) {
            merge(calls, i64::from(number.id()), self.rules()?);
        }
        Ok(())
    }

    /// Several conditions on one argument are alternatives, on different ones all must hold
    /// (libseccomp's users rely on it).
    fn rules(&self) -> Result<Vec<SeccompRule>, Error> {
        let args = self.args.as_deref().unwrap_or_default();
        if args.is_empty() {
            return Ok(Vec::new());
        }
        let conditions = args.iter().map(Argument::condition).collect::<Result<Vec<_>, _>>()?;
        let repeated = args.iter().enumerate().any(|(n, a)| args[..n].iter().any(|b| b.index == a.index));
        let sets: Vec<Vec<SeccompCondition>> = if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] };
        sets.into_iter().map(|set| SeccompRule::new(set).map_err(Error::Compile)).collect()
    }
}

impl Condition {
    /// Of an including condition all must be there; of an excluding one, any.
    fn caps_match(&self, capabilities: &[String], all: bool) -> bool {
        match self.caps.as_deref() {
            None | Some([]) => all,
            Some(caps) if all => caps.iter().all(|c| capabilities.contains(c)),
            Some(caps) => caps.iter().any(|c| capabilities.contains(c)),
        }
    }

    fn arch_matches(&self) -> Option<bool> {
        let arches = self.arches.as_ref().filter(|a| !a.is_empty())?;
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Some(arches.iter().any(|a| a == own))
    }
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, Error> {
        let (op, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, self.value),
            "SCMP_CMP_NE" => (SeccompCmpOp::Ne, self.value),
            "SCMP_CMP_LT" => (SeccompCmpOp::Lt, self.value),
            "SCMP_CMP_LE" => (SeccompCmpOp::Le, self.value),
            "SCMP_CMP_GE" => (SeccompCmpOp::Ge, self.value),
            "SCMP_CMP_GT" => (SeccompCmpOp::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(self.value), self.value_two),
            other => return Err(Error::Comparison(other.to_owned())),
        };
        SeccompCondition::new(self.index, SeccompCmpArgLen::Qword, op, value).map_err(Error::Compile)
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<SeccompAction, Error> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => SeccompAction::Allow,
        "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
        "SCMP_ACT_LOG" => SeccompAction::Log,
        "SCMP_ACT_TRACE" => SeccompAction::Trace(errno.unwrap_or(libc::EPERM as u32)),
        "SCMP_ACT_TRAP" => SeccompAction::Trap,
        other => return Err(Error::Action(other.to_owned())),
    })
}

/// Puts the filter on this thread for good. Needs SYS_ADMIN or no_new_privs; unlike the compiler's
/// own function it does not set the latter.
pub fn install(program: &BpfProgram) -> Result<(), Error> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies the program, which lives over the call; both sock_filter types are
    // the kernel's.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter) };
    if done == 0 { Ok(()) } else { Err(Error::Install(std::io::Error::last_os_error().into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_with_and_without_privileges() {
        let profile = Profile::runtime_default();
        assert_eq!(profile.compile(0xa804_25fb).unwrap().len(), 2, "allow list and clone3");
        assert_eq!(profile.compile(u64::MAX >> 23).unwrap().len(), 1);
    }

    #[test]
    fn unknown_words_are_errors() {
        let bad = Profile::parse(r#"{"defaultAction":"SCMP_ACT_NOPE"}"#).unwrap();
        assert_eq!(bad.compile(0).unwrap_err().to_string(), "seccomp profile: unknown action \"SCMP_ACT_NOPE\"");
        assert!(Profile::parse("{").is_err());
    }

    #[test]
    fn a_profile_that_allows_all_but_one() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ERRNO"}]}"#;
        assert_eq!(Profile::parse(text).unwrap().compile(0).unwrap().len(), 1);
    }
}
