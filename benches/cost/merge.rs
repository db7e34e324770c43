//! Puts parts that were measured by themselves into the results of a whole run: in place of those that have
//! the same name, which is a title up to its first comma, and with their day.

use std::fs;

use crate::report::Report;

/// `--merge FROM INTO`.
pub(crate) fn merge(from: &str, into: &str) {
    let [from, mut all] = [from, into]
        .map(|file| -> Report { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() });
    assert!(!from.is_short, "a short look is none for the page");
    let days = from.measured.iter().find(|(name, _)| name == "date");
    let day = &days.unwrap().1;
    for mut part in from.parts {
        let name = name(&part.title).to_owned();
        part.title = format!("{}; on {day}", part.title);
        put(&mut all.parts, part, |other| {
            self::name(&other.title) == name
        });
    }
    for target in from.targets {
        let name = target.name.clone();
        put(&mut all.targets, target, |other| other.name == name);
    }
    let new = from.skipped.into_iter();
    let new: Vec<_> = new.filter(|why| !all.skipped.contains(why)).collect();
    all.skipped.extend(new);
    fs::write(into, all.json() + "\n").unwrap();
}

fn name(title: &str) -> &str {
    title.split(',').next().unwrap_or_default()
}

/// Puts one in the place of the first that is meant, or at the end.
fn put<T>(list: &mut Vec<T>, one: T, is_meant: impl Fn(&T) -> bool) {
    match list.iter_mut().find(|other| is_meant(other)) {
        Some(place) => *place = one,
        None => list.push(one),
    }
}
