//! What anybody can read: headings, labels, names, and contrast computed from the stylesheet.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::scene::Scene;

/// The colours of one scheme.
fn colours(block: &str) -> HashMap<String, [f64; 3]> {
    let lines = block
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--"));
    lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            let hex = value.trim().trim_end_matches(';').strip_prefix('#')?;
            let part =
                |at: usize| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
            Some((name.to_owned(), [part(0), part(2), part(4)]))
        })
        .collect()
}

/// Relative luminance, as WCAG 2.1 defines it.
fn luminance(colour: [f64; 3]) -> f64 {
    let [r, g, b] = colour.map(|c| {
        if c <= 0.04045 {
            c / 12.92
        } else {
            ((c + 0.055) / 1.055).powf(2.4)
        }
    });
    0.2126 * r + 0.7152 * g + 0.0722 * b
}

fn contrast(one: [f64; 3], other: [f64; 3]) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

#[test]
fn text_and_borders_have_the_contrast_of_wcag_aa_in_light_and_dark() {
    let style = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/console/style.css");
    let style = fs::read_to_string(style).unwrap();
    assert!(style.contains("prefers-color-scheme: dark"));
    let blocks: Vec<&str> = style
        .split(":root {")
        .skip(1)
        .map(|rest| rest.split('}').next().unwrap())
        .collect();
    assert_eq!(blocks.len(), 2);
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 0.01);
    for block in blocks {
        let colours = colours(block);
        assert!(colours.len() >= 11, "{colours:?}");
        for text in ["text", "faint", "link", "good", "notice", "bad"] {
            for below in ["page", "panel"] {
                let ratio = contrast(colours[text], colours[below]);
                assert!(ratio >= 4.5, "{text} on {below}: {ratio:.2}");
            }
        }
        for text in ["text", "bad"] {
            let ratio = contrast(colours[text], colours["bad-panel"]);
            assert!(ratio >= 4.5, "{text} on bad-panel: {ratio:.2}");
        }
        let ratio = contrast(colours["on-strong"], colours["link"]);
        assert!(ratio >= 4.5, "on-strong on link: {ratio:.2}");
        // Borders of fields, and bars.
        for line in ["line", "good", "bad", "notice", "link"] {
            let ratio = contrast(colours[line], colours["page"]);
            assert!(ratio >= 3.0, "{line}: {ratio:.2}");
        }
    }
}

/// The opening tags of a page with their attributes.
fn tags(page: &str) -> Vec<&str> {
    page.split('<')
        .skip(1)
        .filter_map(|rest| rest.split('>').next())
        .collect()
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    rest.split('"').next()
}

#[track_caller]
fn check(path: &str, page: &str) {
    let tags = tags(page);
    let named = |name: &str| {
        tags.iter()
            .filter(|tag| tag.split([' ', '/']).next() == Some(name))
            .count()
    };
    assert!(page.starts_with("<!DOCTYPE html>"), "{path}");
    assert!(page.contains("<html lang=\"en\">"), "{path}");
    for once in ["h1", "main", "title"] {
        assert_eq!(named(once), 1, "{path}: {once}");
    }
    assert!(page.contains("name=\"viewport\""), "{path}");
    let mut level = 0;
    for tag in &tags {
        let heading = tag
            .strip_prefix('h')
            .and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
        if let Some(heading) = heading {
            assert!(heading <= level + 1, "{path}: h{heading} follows h{level}");
            level = heading;
        }
    }
    // Each field has a name: a label around it, a label for it, or one of its own.
    for kind in ["input", "select", "textarea"] {
        for (at, _) in page.match_indices(&format!("<{kind}")) {
            let tag = page[at + 1..].split('>').next().unwrap();
            if attribute(tag, "type") == Some("hidden") {
                continue;
            }
            let before = &page[..at];
            let is_inside = before
                .rfind("<label")
                .is_some_and(|open| before.rfind("</label").is_none_or(|close| close < open));
            let has_for =
                attribute(tag, "id").is_some_and(|id| page.contains(&format!("for=\"{id}\"")));
            assert!(
                is_inside || has_for || attribute(tag, "aria-label").is_some(),
                "{path}: {tag} has no label"
            );
        }
    }
    for (at, _) in page.match_indices("<svg") {
        let tag = page[at + 1..].split('>').next().unwrap();
        assert_eq!(attribute(tag, "role"), Some("img"), "{path}");
        assert!(
            attribute(tag, "aria-label").is_some_and(|label| label.len() > 10),
            "{path}"
        );
    }
    for (at, _) in page.match_indices("<table") {
        let table = page[at..].split("</table>").next().unwrap();
        assert!(
            table.contains("<caption>") && table.contains("scope=\"col\""),
            "{path}: {table}"
        );
    }
    for (at, _) in page.match_indices("<button") {
        let button = page[at..].split("</button>").next().unwrap();
        let words = button.split('>').nth(1).unwrap_or_default();
        assert!(!words.trim().is_empty(), "{path}: a button without words");
    }
    let mut ids: Vec<&str> = tags.iter().filter_map(|tag| attribute(tag, "id")).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{path}: an id twice");
}

#[tokio::test]
async fn every_page_can_be_read_by_anybody() {
    let scene = Scene::start().await;
    let client = scene.client();
    check("/login", &client.page("/login").await);
    let operator = scene.operator().await;
    scene
        .submit(&json!({"id": "done", "cmd": ["true"], "tenant": "acme"}))
        .await;
    scene
        .submit(&json!({"id": "later", "cmd": ["true"], "not_before_ms": 4_000_000_000_000_u64}))
        .await;
    scene
        .fleet
        .raw()
        .await
        .add("runs", &[("what", "ever")])
        .await;
    operator.until_page("/runs/done", "completed").await;
    operator.until_page("/dead", "1 in all").await;
    let dead = operator.page("/dead").await;
    let letter = dead
        .split("href=\"/dead/")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let letter = format!("/dead/{letter}");
    for path in [
        "/",
        "/runs",
        "/runs?state=open",
        "/runs?by=reason",
        "/runs/done",
        "/runs/later",
        "/runs/nobody",
        "/tenants",
        "/tenants/acme",
        "/workers",
        "/machines",
        "/dead",
        &letter,
        "/doctor",
        "/audit",
    ] {
        let page = operator.page(path).await;
        check(path, &page);
        assert!(page.contains("class=\"skip\""), "{path}");
        let current = page.matches("aria-current=\"page\"").count();
        assert_eq!(current, 1, "{path}");
    }
    scene.end().await;
}
