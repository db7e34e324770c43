//! What a page says is checked by a test is checked by one: every test, script and command that a
//! column "Checked by" names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The head of the column.
const COLUMN: &str = "Checked by";
/// What a cell says when nothing checks its row.
const NOTHING: &str = "nothing";

/// The names of all test functions of the repository.
fn tests() -> BTreeSet<String> {
    let mut folders: Vec<PathBuf> = ["src", "tests", "crates", "benches"]
        .map(super::path)
        .into();
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(tests_in(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    names
}

/// The functions of a source file that stand below an attribute that makes them tests.
fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        if is_test && let Some((_, rest)) = line.split_once("fn ") {
            names.extend(rest.split('(').next().map(str::to_owned));
        }
        // A doc comment may stand between the attribute and its function.
        is_test &= line.starts_with("//");
    }
    names
}

/// The cells of a table's row.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_matches('|').replace("\\|", "\u{0}");
    row.split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect()
}

/// What stands in the columns of this head, with the first cell of each row.
fn checks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut column = None;
    for line in page.lines() {
        if !line.starts_with('|') {
            column = None;
            continue;
        }
        let cells = cells(line);
        if let Some(index) = cells.iter().position(|cell| cell == COLUMN) {
            column = Some(index);
        } else if let Some(index) = column.filter(|_| !line.starts_with("|---")) {
            let check = cells.get(index).cloned().unwrap_or_default();
            found.push((cells[0].clone(), check));
        }
    }
    found
}

/// What is wrong with the name of a check.
fn fault(name: &str, tests: &BTreeSet<String>) -> Option<&'static str> {
    let (first, rest) = name.split_once(' ').unwrap_or((name, ""));
    if first == "cofferdam" {
        let word = rest.split(' ').next().unwrap_or_default();
        let help = super::path(&format!("tests/fixtures/help/cofferdam-{word}.txt"));
        return (!help.is_file()).then_some("no such command");
    }
    if first.contains('/') {
        return (!super::path(first).exists()).then_some("no such file");
    }
    (!tests.contains(name)).then_some("no such test")
}

#[test]
fn every_check_that_a_page_names_exists() {
    let tests = tests();
    let mut faults = Vec::new();
    let mut count = 0;
    for page in super::pages() {
        for (row, check) in checks(&super::read(&page)) {
            let names: Vec<&str> = check.split('`').skip(1).step_by(2).collect();
            if names.is_empty() && !check.starts_with(NOTHING) {
                faults.push(format!("{page}: {row}: it names no check"));
            }
            for name in names {
                count += 1;
                if let Some(fault) = fault(name, &tests) {
                    faults.push(format!("{page}: {row}: {name}: {fault}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 50, "{count} checks");
}

#[test]
fn a_check_is_read_out_of_its_table() {
    let page = "| What | Checked by |\n|---|---|\n| a \\| b | `one`, `two` |\n\n| x | y |\n|---|---|\n| 1 | 2 |\n";
    assert_eq!(
        checks(page),
        [("a | b".to_owned(), "`one`, `two`".to_owned())]
    );
    let source =
        "#[tokio::test]\n/// Why.\nasync fn one() {}\nfn helper() {}\n#[test]\nfn two() {}";
    assert_eq!(tests_in(source), ["one", "two"]);
}
