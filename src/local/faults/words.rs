//! `word key=value key="quoted value": word key=value`: the text of a fault rule, taken apart.

use std::collections::BTreeMap;

/// One side of a rule: a word and its settings.
#[derive(Debug)]
pub(super) struct Words {
    /// The word that the side begins with.
    pub(super) head: String,
    settings: BTreeMap<String, String>,
}

/// Splits a rule into its two sides, before and after the colon.
pub(super) fn split(text: &str) -> Result<(Words, Words), String> {
    let mut sides = [Vec::new(), Vec::new()];
    let mut side = 0;
    for word in words(text)? {
        let ends_side = side == 0 && !word.quoted && word.text.ends_with(':');
        let bare = if ends_side {
            word.text.trim_end_matches(':')
        } else {
            &word.text
        };
        if !bare.is_empty() {
            sides[side].push(bare.to_owned());
        }
        if ends_side {
            side = 1;
        }
    }
    if side == 0 {
        return Err("no ':' between the calls it is about and what to do".to_owned());
    }
    let [before, after] = sides;
    Ok((
        gather(before, "a call before ':'")?,
        gather(after, "an action after ':'")?,
    ))
}

impl Words {
    /// Takes a setting as text.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        self.settings.remove(key)
    }

    /// Takes a setting as a number.
    pub(super) fn number<N: std::str::FromStr>(&mut self, key: &str) -> Result<Option<N>, String> {
        let Some(text) = self.settings.remove(key) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(format!("{key}={text} is not a number in range")),
        }
    }

    /// Takes a number that must be there.
    pub(super) fn required<N: std::str::FromStr>(&mut self, key: &str) -> Result<N, String> {
        self.number(key)?
            .ok_or_else(|| format!("'{}' needs {key}=", self.head))
    }

    /// Complains about settings that nobody took.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.settings.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("'{}' has no setting '{key}'", self.head)),
        }
    }
}

fn gather(words: Vec<String>, missing: &str) -> Result<Words, String> {
    let mut words = words.into_iter();
    let Some(head) = words.next().filter(|head| !head.contains('=')) else {
        return Err(format!("it needs {missing}"));
    };
    let mut settings = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(format!("'{word}' is not of the form key=value"));
        };
        if settings.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("'{key}' is given twice"));
        }
    }
    Ok(Words { head, settings })
}

struct Word {
    text: String,
    quoted: bool,
}

/// Words are separated by spaces; double quotes hold one together, with `\"` and `\\` in them.
fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&first) = chars.peek() {
        if first.is_whitespace() {
            chars.next();
            continue;
        }
        let mut word = Word {
            text: String::new(),
            quoted: false,
        };
        while let Some(&c) = chars.peek().filter(|c| !c.is_whitespace()) {
            chars.next();
            if c != '"' {
                word.text.push(c);
                word.quoted = false;
                continue;
            }
            word.quoted = true;
            loop {
                match chars.next() {
                    None => return Err("a quote is not closed".to_owned()),
                    Some('"') => break,
                    Some('\\') => match chars.next() {
                        Some(escaped @ ('"' | '\\')) => word.text.push(escaped),
                        _ => return Err("a '\\' in quotes stands before '\"' or '\\'".to_owned()),
                    },
                    Some(inner) => word.text.push(inner),
                }
            }
        }
        words.push(word);
    }
    Ok(words)
}
