//! Builds the guest's init and nothing else.
//!
//! `src/init/main.rs` is the first program of every sandbox. It has to run in any image, also in one
//! without a C library, so it is linked statically by the same compiler, into one small file that
//! the library embeds. It has no dependencies.

#![expect(
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a build script is configured by its environment and speaks on standard error"
)]

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=src/init");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let target = variable("TARGET");
    let out = PathBuf::from(variable("OUT_DIR")).join("init");
    let mut compile = Command::new(variable("RUSTC"));
    compile
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "bin",
            "--crate-name",
            "init",
        ])
        .args(["--target", &target])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "codegen-units=1", "-C", "lto=fat"])
        .arg("-o")
        .arg(&out)
        .arg("src/init/main.rs");
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        compile.arg("-C").arg(format!("linker={linker}"));
    }
    let compiled = compile.output();
    match compiled {
        Ok(output) if output.status.success() => {}
        Ok(output) => refuse(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => refuse(&error.to_string()),
    }
}

/// Stops the build and says what is missing.
fn refuse(why: &str) -> ! {
    eprintln!("{why}");
    eprintln!(
        "the guest's init (crates/sandbox/src/init) could not be linked as a static program."
    );
    eprintln!("It needs a linker and a C library for static linking:");
    eprintln!("  Debian, Ubuntu:  apt install gcc libc6-dev");
    eprintln!("  Fedora:          dnf install gcc glibc-static");
    eprintln!("  Alpine:          apk add gcc musl-dev");
    exit(1);
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
