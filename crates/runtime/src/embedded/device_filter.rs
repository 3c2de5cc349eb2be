//! Which devices a container may open or make, on cgroup v2: the kernel asks a small program that
//! is attached to its group. (On v1 there is a controller with files, which the library writes.)
//!
//! The program goes through the specification's rules and a few that every container has, and
//! refuses what none of them allows. Its instructions and the context it reads are the kernel's:
//! `Documentation/bpf/standardization/instruction-set.rst`, `struct bpf_cgroup_dev_ctx` in
//! `include/uapi/linux/bpf.h`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use serde::Deserialize;

/// A rule of the specification (`linux.resources.devices`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Rule {
    pub allow: bool,
    /// `c`, `b`; anything else means both.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Every number when None.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Letters of `rwm`; nothing means all.
    #[serde(default)]
    pub access: String,
}

/// Has the kernel refuse everything that the rules and [`everywhere`] do not allow to the processes
/// of the group, for as long as it exists. Does nothing when the rules allow everything.
pub fn attach(group: &Path, rules: &[Rule]) -> io::Result<()> {
    if rules.iter().any(Rule::is_everything) {
        return Ok(());
    }
    let rules: Vec<Rule> = rules.iter().cloned().chain(everywhere()).collect();
    let program = load(&program(&rules))?;
    let group = File::open(group)?;
    let mut attributes = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ATTACH_ALLOW_MULTI,
    };
    // SAFETY: the attributes are of the form that this command reads, and outlive the call.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

impl Rule {
    fn is_everything(&self) -> bool {
        self.allow && self.kinds().is_none() && self.major.is_none() && self.minor.is_none() && self.accesses() == ALL
    }

    /// As the kernel tells it; None: both.
    fn kinds(&self) -> Option<i32> {
        match self.kind.as_str() {
            "b" => Some(1),
            "c" => Some(2),
            _ => None,
        }
    }

    fn accesses(&self) -> i32 {
        let bit = |letter: char| match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        };
        match self.access.as_str() {
            "" => ALL,
            letters => letters.chars().map(bit).fold(0, |all, bit| all | bit),
        }
    }
}

/// Make, read and write.
const ALL: i32 = 7;

/// What every container may: make any node, and use the harmless devices that it finds in /dev. The
/// same as the library's on v1.
fn everywhere() -> Vec<Rule> {
    let rule = |kind: &str, numbers: Option<(u32, Option<u32>)>, access: &str| Rule {
        allow: true,
        kind: kind.to_owned(),
        major: numbers.map(|(major, _)| major),
        minor: numbers.and_then(|(_, minor)| minor),
        access: access.to_owned(),
    };
    // null, zero, full, random, urandom; tty, console, ptmx; terminals; tun.
    let minors = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200)];
    let mut rules = vec![rule("c", None, "m"), rule("b", None, "m"), rule("c", Some((136, None)), "rwm")];
    rules.extend(minors.into_iter().map(|(major, minor)| rule("c", Some((major, Some(minor))), "rwm")));
    rules
}

/// One instruction: operation, registers (destination in the low half), jump distance or offset,
/// number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    operation: u8,
    registers: u8,
    offset: i16,
    number: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL: u8 = 0x5d;
const JUMP_UNLESS_NUMBER: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The registers: what is returned, the context (later: for scratch), and what it says.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn program(rules: &[Rule]) -> Vec<Instruction> {
    let step = |operation, to: u8, from: u8, offset, number| Instruction { operation, registers: from << 4 | to, offset, number };
    // The context: access in the high half of the first word and kind in the low one, major, minor.
    let mut program = vec![
        step(LOAD_WORD, KIND, CONTEXT, 0, 0),
        step(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        step(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        step(MOVE, ACCESS, KIND, 0, 0),
        step(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        step(AND_NUMBER, KIND, 0, 0, 0xffff),
    ];
    // Everything is refused at first, so rules that refuse have nothing to say.
    for rule in rules.iter().filter(|rule| rule.allow) {
        let mut block = Vec::new();
        block.extend(rule.kinds().map(|kind| step(JUMP_UNLESS_NUMBER, KIND, 0, 0, kind)));
        if rule.accesses() != ALL {
            // All that is asked for has to be in the rule.
            block.push(step(MOVE, CONTEXT, ACCESS, 0, 0));
            block.push(step(AND_NUMBER, CONTEXT, 0, 0, rule.accesses()));
            block.push(step(JUMP_UNLESS_EQUAL, CONTEXT, ACCESS, 0, 0));
        }
        block.extend(rule.major.map(|major| step(JUMP_UNLESS_NUMBER, MAJOR, 0, 0, major as i32)));
        block.extend(rule.minor.map(|minor| step(JUMP_UNLESS_NUMBER, MINOR, 0, 0, minor as i32)));
        block.extend([step(MOVE_NUMBER, RESULT, 0, 0, 1), step(EXIT, 0, 0, 0, 0)]);
        let length = block.len();
        for (place, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.operation, JUMP_UNLESS_NUMBER | JUMP_UNLESS_EQUAL) {
                instruction.offset = (length - place - 1) as i16;
            }
        }
        program.extend(block);
    }
    program.extend([step(MOVE_NUMBER, RESULT, 0, 0, 0), step(EXIT, 0, 0, 0, 0)]);
    program
}

const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Beside those of the groups above, which must agree, too.
const ATTACH_ALLOW_MULTI: u32 = 2;

/// The parts of `union bpf_attr` that are used; the kernel takes shorter ones for filled up with
/// zeros.
#[repr(C)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    // SAFETY: the attributes are of the form that this command reads; what they point to outlives
    // the call.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    // SAFETY: the descriptor is new and ours; the kernel sets close-on-exec on it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// # Safety
/// The attributes must be what the command expects, and what they point to must be there.
unsafe fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise; the length is that of the attributes.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut T, size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use testing::{Need, can_run};

    use super::*;

    /// A group of its own, gone with the value.
    struct Group(PathBuf);

    impl Group {
        /// None: the test cannot run here.
        fn make(name: &str) -> Option<Group> {
            let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
            let root = roots.into_iter().find(|root| root.join("cgroup.controllers").exists());
            let dir = root.map(|root| root.join(format!("everynode-test-{name}-{}", std::process::id())));
            let made = dir.filter(|dir| fs::create_dir(dir).is_ok()).map(Group);
            let group = Need::Machine { what: "cgroup v2 that can be written to", is_there: made.is_some() };
            if can_run(&[Need::Root, group]) { made } else { None }
        }

        /// Runs a script in the group and says what it printed.
        fn run(&self, script: &str) -> String {
            let script = format!("echo $$ > {}/cgroup.procs && {script}", self.0.display());
            let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// Makes nodes of devices that every kernel has, and tries to open each for reading and for
    /// writing.
    fn try_devices(group: &Group) -> String {
        let node = tempfile::tempdir().expect("a temporary folder can be made");
        let script = "for device in null:3 zero:5 urandom:9 kmsg:11; do name=${device%:*}; mknod $name c 1 ${device#*:} || exit; \
             (: < $name) 2>/dev/null && echo -n $name:r' '; (: > $name) 2>/dev/null && echo -n $name:w' '; done";
        group.run(&format!("cd {} && {script}", node.path().display()))
    }

    fn rules(text: &str) -> Vec<Rule> {
        serde_json::from_str(text).expect("rules of a specification")
    }

    #[test]
    fn the_kernel_refuses_what_no_rule_allows() {
        let Some(group) = Group::make("refuses") else { return };
        attach(&group.0, &rules(r#"[{"allow": false, "access": "rwm"}]"#)).expect("the kernel takes the program");
        assert_eq!(try_devices(&group), "null:r null:w zero:r zero:w urandom:r urandom:w", "a node may be made, but is of no use");
    }

    #[test]
    fn rules_allow_kinds_numbers_and_accesses() {
        let Some(group) = Group::make("allows") else { return };
        let allowed = r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
            {"allow": true, "type": "b", "access": "rwm"}]"#;
        attach(&group.0, &rules(allowed)).expect("the kernel takes the program");
        assert_eq!(try_devices(&group), "null:r null:w zero:r zero:w urandom:r urandom:w kmsg:r");
    }

    #[test]
    fn privileged_containers_are_not_asked() {
        let Some(group) = Group::make("privileged") else { return };
        attach(&group.0, &rules(r#"[{"allow": true, "access": "rwm"}]"#)).expect("nothing is to be done");
        assert_eq!(try_devices(&group), "null:r null:w zero:r zero:w urandom:r urandom:w kmsg:r kmsg:w");
    }
}
