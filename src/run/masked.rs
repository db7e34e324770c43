//! A request as operators see it: with its secrets masked.
//!
//! The values of `env` and the contents of `files` are never shown. In the rest, values are masked whose
//! names sound like a secret's, and such words of `cmd`.

use serde_json::{Map, Value};

/// What stands in the place of a secret.
pub const MASK: &str = "••••";

/// Parts of names whose values are masked wherever they stand.
const SECRET_WORDS: [&str; 9] = [
    "token",
    "secret",
    "passw",
    "credential",
    "apikey",
    "api_key",
    "private",
    "authorization",
    "cookie",
];

/// Levels of nesting that are looked through; what is deeper is masked whole.
const DEPTH_MAX: usize = 32;

/// The request as JSON that is indented, or `None` where it is no JSON object.
#[must_use]
pub fn masked(request: &str) -> Option<String> {
    let Value::Object(fields) = serde_json::from_str(request).ok()? else {
        return None;
    };
    let fields = fields.into_iter().map(|(name, value)| {
        let value = match (name.as_str(), value) {
            ("env", Value::Object(env)) => Value::Object(hidden(env)),
            ("files", Value::Array(files)) => files.into_iter().map(file).collect(),
            ("cmd", Value::Array(words)) => words.into_iter().map(word).collect(),
            (_, value) => plain(value, DEPTH_MAX),
        };
        (name, value)
    });
    serde_json::to_string_pretty(&Value::Object(fields.collect())).ok()
}

fn hidden(fields: Map<String, Value>) -> Map<String, Value> {
    let names = fields.into_iter().map(|(name, _)| (name, MASK.into()));
    names.collect()
}

fn file(file: Value) -> Value {
    let Value::Object(fields) = file else {
        return MASK.into();
    };
    let shown = fields.into_iter().map(|(name, value)| match name.as_str() {
        "guest_path" => (name, value),
        _ => (name, MASK.into()),
    });
    Value::Object(shown.collect())
}

/// A word of a command: `--token=…` and `API_TOKEN=…` are masked from the sign on.
fn word(word: Value) -> Value {
    let Some((name, _)) = word.as_str().and_then(|text| text.split_once('=')) else {
        return word;
    };
    match is_secret(name) && !name.contains(char::is_whitespace) {
        true => format!("{name}={MASK}").into(),
        false => word,
    }
}

fn plain(value: Value, depth: usize) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => MASK.into(),
        Value::Array(items) => items
            .into_iter()
            .map(|item| plain(item, depth - 1))
            .collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = match is_secret(&name) {
                    true => MASK.into(),
                    false => plain(value, depth - 1),
                };
                (name, value)
            });
            Value::Object(fields.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let request = r#"{"id":"a","env":{"LEVEL":"hidden1"},"cmd":["curl","--token=hidden2",
            "x=1"],"files":[{"guest_path":"/k","raw_value":"hidden3"}],"input":{"n":1,"list":
            [{"api-key":"hidden4","Password":["hidden5"]}]},"metadata":{"authToken":"hidden6"}}"#;
        let shown = masked(request).unwrap();
        assert!(!shown.contains("hidden"), "{shown}");
        for part in ["\"LEVEL\"", "/k", "x=1", "--token=••••", "\"n\": 1"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert_eq!(masked("[1]"), None);
        assert_eq!(masked("{"), None);
    }

    #[test]
    fn what_is_nested_deeply_is_masked() {
        let (open, close) = ("{\"a\":".repeat(40), "}".repeat(40));
        let request = format!("{{\"input\":{open}\"hidden\"{close}}}");
        let shown = masked(&request).unwrap();
        assert!(!shown.contains("hidden") && shown.contains(MASK));
    }
}
