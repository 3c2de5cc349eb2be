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

    /// What a process asks for: letters of `rwm` on a device.
    #[derive(Debug, Clone, Copy)]
    struct Request {
        kind: char,
        major: u32,
        minor: u32,
        access: &'static str,
    }

    impl Request {
        /// `struct bpf_cgroup_dev_ctx`, as three words.
        fn context(&self) -> [u32; 3] {
            let kind = if self.kind == 'b' { 1 } else { 2 };
            let bits = [('m', 1), ('r', 2), ('w', 4)].into_iter().filter(|(letter, _)| self.access.contains(*letter));
            [bits.map(|(_, bit)| bit).sum::<u32>() << 16 | kind, self.major, self.minor]
        }
    }

    /// The specification's words: one rule that allows must allow all of it.
    fn is_allowed(rules: &[Rule], request: &Request) -> bool {
        rules.iter().any(|rule| {
            let is_of_kind = !["b", "c"].contains(&&*rule.kind) || rule.kind == request.kind.to_string();
            let is_numbered = |rule: Option<u32>, number: u32| rule.is_none() || rule == Some(number);
            let is_accessible = rule.access.is_empty() || request.access.chars().all(|letter| rule.access.contains(letter));
            rule.allow && is_of_kind && is_numbered(rule.major, request.major) && is_numbered(rule.minor, request.minor) && is_accessible
        })
    }

    /// What a register holds. The kernel refuses programs that read one before they wrote it, or
    /// load from anything but the context.
    #[derive(Debug, Clone, Copy)]
    enum Register {
        Unset,
        Context,
        Number(u64),
    }

    impl Register {
        fn number(self) -> u64 {
            let Register::Number(number) = self else { panic!("{self:?} is no number") };
            number
        }
    }

    /// Runs a program as the kernel does, with the few instructions that it knows; the numbers of
    /// operations are those of the instruction set's document.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [Register::Unset; 11];
        registers[1] = Register::Context;
        let mut at = 0;
        loop {
            let Instruction { operation, registers: both, offset, number } = program[at];
            let (to, from) = (usize::from(both & 0xf), usize::from(both >> 4));
            // Numbers of 32 bits stand for their extension to 64.
            let number = i64::from(number) as u64;
            at += 1;
            let jumps = match operation {
                0x61 => {
                    assert!(matches!(registers[from], Register::Context) && offset % 4 == 0, "loads are words of the context");
                    registers[to] = Register::Number(context[usize::try_from(offset / 4).expect("it is within")].into());
                    false
                }
                0xbf => {
                    assert!(!matches!(registers[from], Register::Unset), "register {from} is read before it is written");
                    registers[to] = registers[from];
                    false
                }
                0xb7 => {
                    registers[to] = Register::Number(number);
                    false
                }
                0x57 => {
                    registers[to] = Register::Number(registers[to].number() & number);
                    false
                }
                0x77 => {
                    registers[to] = Register::Number(registers[to].number() >> number);
                    false
                }
                0x5d => registers[to].number() != registers[from].number(),
                0x55 => registers[to].number() != number,
                0x95 => return registers[0].number(),
                other => panic!("operation {other:#x} is not known here"),
            };
            if jumps {
                // Forwards only, so every program ends.
                at += usize::try_from(offset).expect("jumps lead forwards");
            }
        }
    }

    const KINDS: [&str; 4] = ["", "a", "b", "c"];
    const NUMBERS: [Option<u32>; 4] = [None, Some(0), Some(1), Some(0xf_ffff)];
    const RULE_ACCESSES: [&str; 8] = ["", "r", "w", "m", "rw", "rm", "wm", "rwm"];

    fn all_rules() -> Vec<Rule> {
        let mut rules = Vec::new();
        for allow in [true, false] {
            for kind in KINDS {
                for (major, minor) in NUMBERS.into_iter().flat_map(|major| NUMBERS.map(|minor| (major, minor))) {
                    let rule = |access: &str| Rule { allow, kind: kind.to_owned(), major, minor, access: access.to_owned() };
                    rules.extend(RULE_ACCESSES.map(rule));
                }
            }
        }
        rules
    }

    fn all_requests() -> Vec<Request> {
        let mut requests = Vec::new();
        for kind in ['b', 'c'] {
            for (major, minor) in
                NUMBERS.into_iter().flatten().flat_map(|major| NUMBERS.into_iter().flatten().map(move |minor| (major, minor)))
            {
                requests.extend(RULE_ACCESSES[1..].iter().map(|&access| Request { kind, major, minor, access }));
            }
        }
        requests
    }

    /// One answer for each request; `true` allows.
    fn answers(rules: &[Rule], requests: &[Request]) -> Vec<bool> {
        let program = program(rules);
        let answer = |request: &Request| match run(&program, request.context()) {
            0 => false,
            1 => true,
            other => panic!("the kernel knows no answer {other}"),
        };
        requests.iter().map(answer).collect()
    }

    fn check(rules: &[Rule], requests: &[Request]) {
        for (request, answer) in requests.iter().zip(answers(rules, requests)) {
            assert_eq!(answer, is_allowed(rules, request), "{request:?} under {rules:#?}");
        }
    }

    #[test]
    fn instructions_are_eight_bytes_with_the_destination_in_the_low_half() {
        assert_eq!(size_of::<Instruction>(), 8);
        let program = program(&[]);
        assert_eq!((program[0].operation, program[0].registers, program[0].offset), (0x61, 0x12, 0), "register 2 from register 1");
        assert_eq!((program[1].registers, program[1].offset), (0x14, 4));
    }

    #[test]
    fn every_rule_alone_allows_what_it_says() {
        let requests = all_requests();
        for rule in all_rules() {
            check(std::slice::from_ref(&rule), &requests);
        }
        check(&[], &requests);
    }

    /// Lists by a generator whose seeds are the numbers of the lists.
    #[test]
    fn rules_together_allow_what_one_of_them_does_in_any_order() {
        let (all, requests) = (all_rules(), all_requests());
        for seed in 0..300_u64 {
            let mut state = seed;
            let mut next = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let length = next(9);
            let mut rules: Vec<Rule> = (0..length).map(|_| all[next(all.len())].clone()).collect();
            check(&rules, &requests);
            let answered = answers(&rules, &requests);
            rules.reverse();
            assert_eq!(answers(&rules, &requests), answered, "{rules:#?}");
            rules.retain(|rule| rule.allow);
            assert_eq!(answers(&rules, &requests), answered, "without the rules that refuse: {rules:#?}");
        }
    }

    #[test]
    fn a_rule_behind_many_others_is_reached() {
        let rule = |minor: u32| Rule { allow: true, kind: "c".to_owned(), major: Some(7), minor: Some(minor), access: "r".to_owned() };
        let rules: Vec<Rule> = (0..2000).map(rule).collect();
        let reads = |minor: u32| Request { kind: 'c', major: 7, minor, access: "r" };
        assert_eq!(answers(&rules, &[reads(0), reads(1999), reads(2000)]), [true, true, false]);
    }

    #[test]
    fn every_container_may_make_nodes_and_use_harmless_devices() {
        let request = |kind: char, major: u32, minor: u32, access: &'static str| Request { kind, major, minor, access };
        let harmless = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200), (136, 0), (136, 77)];
        let allowed: Vec<Request> = harmless.map(|(major, minor)| request('c', major, minor, "rwm")).to_vec();
        assert!(answers(&everywhere(), &allowed).into_iter().all(|is_allowed| is_allowed));
        // A disk, the kernel's log, memory, a block device with the numbers of a harmless one.
        for (kind, major, minor) in [('b', 8, 0), ('c', 1, 11), ('c', 1, 1), ('b', 1, 3)] {
            let asked = ["m", "r", "w", "rm"].map(|access| request(kind, major, minor, access));
            assert_eq!(answers(&everywhere(), &asked), [true, false, false, false], "{kind} {major}:{minor}");
        }
    }

    #[test]
    fn no_program_is_attached_where_everything_is_allowed() {
        for text in [r#"[{"allow": true}]"#, r#"[{"allow": false}, {"allow": true, "type": "a", "access": "mwr"}]"#] {
            attach(Path::new("/everynode/no/such/group"), &rules(text)).expect("the group is not opened");
        }
        for text in [
            r#"{"allow": false}"#,
            r#"{"allow": true, "type": "c"}"#,
            r#"{"allow": true, "access": "rw"}"#,
            r#"{"allow": true, "major": 1}"#,
        ] {
            assert!(!rules(&format!("[{text}]"))[0].is_everything(), "{text}");
        }
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
