//! How the program is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let is_static = env("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    // At a fixed address: every container has a shim, which is this program, and a
    // position-independent one begins by filling in 1.1 MB of its own tables, which each process
    // then has for itself, and 1 ms that every start of a container takes longer. Stack, heap and
    // libraries are still at random addresses. A static program is asked for in other ways (`cargo
    // xtask dist`).
    if env("CARGO_CFG_TARGET_OS") == "linux" && env("CARGO_CFG_TARGET_ENV") == "gnu" && !is_static {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
}
