//! What the figures were measured on, for whoever reads them later.

use std::fs;
use std::process::Command;

/// Names, and what they are here; programs that are not here are left out.
pub(crate) fn host() -> Vec<(String, String)> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model.trim())
        .collect();
    let model = models.first().copied().unwrap_or("of unknown make");
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let told = [
        ("date", first_line("date", &["-u", "+%Y-%m-%d"])),
        ("processors", Some(format!("{count}, {model}"))),
        ("kernel", first_line("uname", &["-sr"])),
        ("rustc", first_line("rustc", &["--version"])),
        ("Redis", first_line("redis-server", &["--version"])),
        ("persistence of Redis", Some("none".to_owned())),
        ("Ruby", first_line("ruby", &["--version"])),
        ("Sidekiq", first_line("sidekiq", &["--version"])),
        ("Puma", first_line("puma", &["--version"])),
        ("bubblewrap", first_line("bwrap", &["--version"])),
    ];
    let there = told.into_iter();
    there
        .filter_map(|(name, what)| {
            let what = what?;
            let is_program = !["processors", "kernel", "persistence of Redis"].contains(&name);
            let what = if is_program { version(&what) } else { &what };
            Some((name.to_owned(), what.to_owned()))
        })
        .collect()
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    out.status
        .success()
        .then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The version in what a program says of itself.
fn version(line: &str) -> &str {
    let number = line.find(|letter: char| letter.is_ascii_digit());
    let rest = &line[number.unwrap_or(0)..];
    let rest = rest.split(" sha=").next().unwrap_or(rest);
    rest.split(" (").next().unwrap_or(rest)
}
