//! Builds the agent as the static program that the library embeds.
//!
//! A program that is sent into any image cannot be what Cargo makes of `src/main.rs` by itself: that
//! one needs the C library of the machine it was built on. So Cargo is asked once more, with other
//! settings and a folder of its own.

#![expect(
    clippy::print_stderr,
    reason = "a build script speaks on standard error"
)]

use std::path::PathBuf;
use std::process::{Command, exit};
use std::{env, fs};

/// Set for the inner build, which embeds nothing.
const INNER: &str = "COFFERDAM_GUEST_INNER_BUILD";
/// The program's name.
const NAME: &str = "cofferdam-guest";

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let program = PathBuf::from(variable("OUT_DIR")).join(NAME);
    if env::var_os(INNER).is_some() {
        return refuse_unless(fs::write(&program, b""), "its own folder");
    }
    let target = variable("TARGET");
    let folder = PathBuf::from(variable("OUT_DIR")).join("target");
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
    ];
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        flags.push(format!("-Clinker={linker}"));
    }
    let mut build = Command::new(variable("CARGO"));
    build
        .args(["build", "--quiet", "--release", "--bin", NAME])
        .arg("--manifest-path")
        .arg(PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&folder);
    // What the outer build was told is not for this one.
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
    ] {
        build.env_remove(name);
    }
    build
        .env(INNER, "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(_) => refuse("see above"),
        Err(error) => refuse(&error.to_string()),
    }
    let built = folder.join(target).join("release").join(NAME);
    refuse_unless(fs::copy(built, program), "what was built");
}

fn refuse_unless<T>(result: std::io::Result<T>, what: &str) {
    if let Err(error) = result {
        refuse(&format!("{what}: {error}"));
    }
}

/// Stops the build and says what is missing.
fn refuse(why: &str) -> ! {
    eprintln!("the guest agent could not be built as a static program: {why}");
    eprintln!("It needs a linker and a C library for static linking:");
    eprintln!("  Debian, Ubuntu:  apt install gcc libc6-dev");
    eprintln!("  Fedora:          dnf install gcc glibc-static");
    eprintln!("  Alpine:          apk add gcc musl-dev");
    exit(1);
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
