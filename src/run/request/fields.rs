//! The fields of a JSON object, taken one by one; each at most once, and none left over.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::run::request::Refusal;

/// The fields of a request that have not been read yet.
pub(super) struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    pub(super) fn read(json: &str) -> Result<Self, Refusal> {
        let mut repeated = None;
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let fields = deserializer
            .deserialize_map(Unique {
                repeated: &mut repeated,
            })
            .and_then(|fields| deserializer.end().map(|()| fields))
            .map_err(|error| Refusal::NotAnObject(error.to_string()))?;
        match repeated {
            Some(field) => Err(refuse(&field, "is given twice")),
            None => Ok(Self(fields)),
        }
    }

    /// Takes a field as it stands; `null` counts as absent.
    pub(super) fn raw(&mut self, name: &str) -> Option<Box<RawValue>> {
        self.0.remove(name).filter(|value| value.get() != "null")
    }

    /// Takes a field, reads it as a `T`, and checks it.
    pub(super) fn checked<T: DeserializeOwned, U>(
        &mut self,
        name: &str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<Option<U>, Refusal> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        let value = serde_json::from_str(raw.get()).map_err(|error| refuse(name, plain(&error)))?;
        check(value).map(Some).map_err(|rule| refuse(name, rule))
    }

    pub(super) fn none_left(&self) -> Result<(), Refusal> {
        match self.0.keys().next() {
            Some(field) => Err(refuse(field, "is not a field of a request")),
            None => Ok(()),
        }
    }
}

/// Reads an object and notes the first field that stands twice.
struct Unique<'a> {
    repeated: &'a mut Option<String>,
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = BTreeMap<String, Box<RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
            if fields.insert(name.clone(), value).is_some() {
                self.repeated.get_or_insert(name);
            }
        }
        Ok(fields)
    }
}

pub(super) fn refuse(field: &str, rule: impl Into<String>) -> Refusal {
    let field = field.chars().filter(|c| !c.is_control()).take(64).collect();
    Refusal::Field {
        field,
        rule: rule.into(),
    }
}

/// The parser's message without its position, which would count from the field's own start.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ")
        .map_or_else(|| text.clone(), |(message, _)| message.to_owned())
}
