//! Which module of a crate uses which, compared with the list in the checkout. Reading the sources takes a parser of
//! Rust, so it is a program of its own, `crates/rooms`, which `cargo xtask up` need not compile.

use anyhow::Result;

use crate::cargo;

pub fn run(bless: bool) -> Result<()> {
    let mut command = cargo::cargo();
    command.args(["run", "--quiet", "--package", "nexus-rooms", "--"]);
    command.arg(cargo::root());
    if bless {
        command.arg("--bless");
    }
    cargo::run(&mut command)
}
