//! In place of the crate of this name, which `libcontainer` needs for checkpoints of containers.
//! everynode makes none, and that crate brings protobuf, its compiler and a second copy of `regex`.
//!
//! [`Criu`] has no values. What `libcontainer` would ask of one compiles and never runs: its
//! checkpoint ends with the error of [`Criu::new`].

use std::fmt;
use std::os::fd::RawFd;

/// A connection to CRIU, of which there is none.
#[derive(Debug)]
pub enum Criu {}

/// Checkpoints are not there.
#[derive(Debug)]
pub struct CriuError;

impl fmt::Display for CriuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("checkpoints of containers are not built in")
    }
}

impl std::error::Error for CriuError {}

/// How a checkpoint would treat cgroups.
#[derive(Debug, Clone, Copy)]
pub enum CgMode {}

/// The key of a namespace in CRIU's options.
pub fn criu_ns_to_key(name: &str) -> String {
    name.to_owned()
}

macro_rules! never {
    ($($name:ident($($argument:ident: $of:ty),*) $(-> $answer:ty)?;)*) => {
        impl Criu {
            $(pub fn $name(&mut self, $($argument: $of),*) $(-> $answer)? {
                match *self {}
            })*
        }
    };
}

impl Criu {
    pub fn new() -> Result<Criu, CriuError> {
        Err(CriuError)
    }
}

never! {
    add_external(_external: String);
    cgroups_mode(_mode: CgMode);
    dump() -> Result<(), CriuError>;
    get_criu_version() -> Result<u32, CriuError>;
    set_ext_unix_sk(_is_set: bool);
    set_external_mount(_key: String, _value: String);
    set_file_locks(_is_set: bool);
    set_images_dir_fd(_fd: RawFd);
    set_leave_running(_is_set: bool);
    set_link_remap(_is_set: bool);
    set_log_file(_path: String);
    set_log_level(_level: i32);
    set_manage_cgroups(_is_set: bool);
    set_orphan_pts_master(_is_set: bool);
    set_pid(_pid: i32);
    set_root(_path: String);
    set_shell_job(_is_set: bool);
    set_tcp_established(_is_set: bool);
    set_work_dir_fd(_fd: RawFd);
}
