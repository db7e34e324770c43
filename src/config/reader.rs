//! Reads settings as typed values and collects every fault on the way.
//!
//! A value that cannot be read leaves a fault and something blank in its place; [`Reader::finish`]
//! lets nothing blank out.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::secret::Secret;
use crate::config::table::{Setting, Unset};

/// Bytes of a file with a secret at the most.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The environment variable.
    pub name: &'static str,
    /// What is wrong, without the value where that is secret.
    pub problem: String,
}

/// Everything that is wrong with the settings; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => write!(f, "1 fault in the settings:")?,
            count => write!(f, "{count} faults in the settings:")?,
        }
        for fault in &self.0 {
            write!(f, "\n  {}: {}", fault.name, fault.problem)?;
        }
        Ok(())
    }
}

/// Looks settings up, one by one.
pub(crate) struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
    /// Settings that are in a file which cannot be read.
    unreadable: BTreeSet<&'static str>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            faults: Vec::new(),
            unreadable: BTreeSet::new(),
        }
    }

    /// The value that was read with this reader, if all of it was sound.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Faults> {
        if self.faults.is_empty() {
            return Ok(value);
        }
        Err(Faults(self.faults))
    }

    /// The faults so far, for a caller that carries on in spite of them.
    pub(crate) fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    pub(crate) fn fault(&mut self, setting: &Setting, problem: impl Into<String>) {
        let fault = Fault {
            name: setting.name,
            problem: problem.into(),
        };
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    /// The text given for a setting, directly or by a file. Empty counts as unset, as is usual in
    /// the environment.
    pub(crate) fn given(&mut self, setting: &Setting) -> Option<String> {
        let direct = self.text(setting);
        let Some(file) = setting.file() else {
            return direct;
        };
        let Some(path) = self.text(file) else {
            return direct;
        };
        if direct.is_some() {
            self.fault(setting, format!("set twice, here and by {}", file.name));
            return direct;
        }
        match read_file(&path) {
            Ok(text) => Some(text),
            Err(problem) => {
                self.fault(file, format!("{path}: {problem}"));
                // What it would hold is not missing as well.
                self.unreadable.insert(setting.name);
                None
            }
        }
    }

    fn text(&self, setting: &Setting) -> Option<String> {
        let text = (self.lookup)(setting.name)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A variable of the system that is no setting of ours.
    pub(crate) fn system(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|text| !text.is_empty())
    }

    /// The given text or the default, parsed; `blank` when there is neither or it is unsound.
    pub(crate) fn read<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
        blank: T,
    ) -> T {
        let given = self.given(setting);
        let text = match (given.as_deref(), setting.default) {
            (Some(text), _) => text,
            (None, Unset::Text(text)) => text,
            (None, Unset::Absent | Unset::Derived(_)) => return blank,
            (None, Unset::Required) => {
                if !self.unreadable.contains(setting.name) {
                    self.fault(setting, "required, but not set");
                }
                return blank;
            }
        };
        match parse(text) {
            Ok(value) => value,
            Err(problem) => {
                self.fault(setting, problem);
                blank
            }
        }
    }

    /// The given text, parsed, whatever the default; `None` when unset or unsound.
    pub(crate) fn read_given<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.given(setting)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.fault(setting, problem);
                None
            }
        }
    }

    /// A whole number of seconds, at least one.
    pub(crate) fn seconds(&mut self, setting: &Setting, longest_s: u64) -> Duration {
        let parse = |text: &str| whole(text, 1..=longest_s, " of seconds").map(Duration::from_secs);
        self.read(setting, parse, Duration::ZERO)
    }

    /// A whole number, at least one.
    pub(crate) fn count(&mut self, setting: &Setting, most: u32) -> NonZeroU32 {
        let parse = |text: &str| {
            let number = whole(text, 1..=u64::from(most), "")?;
            let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
            number.ok_or_else(|| format!("must be from 1 to {most}"))
        };
        self.read(setting, parse, NonZeroU32::MIN)
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, setting: &Setting, range: RangeInclusive<u64>) -> u64 {
        self.read(setting, |text| whole(text, range, ""), 0)
    }

    /// A number of bytes that fits into memory.
    pub(crate) fn bytes(&mut self, setting: &Setting, most: u32) -> usize {
        let parse = |text: &str| {
            let number = whole(text, 1..=u64::from(most), " of bytes")?;
            usize::try_from(number).map_err(|_| "too large for this computer".to_owned())
        };
        self.read(setting, parse, 0)
    }

    pub(crate) fn optional(&mut self, setting: &Setting) -> Option<String> {
        self.read(setting, |text| printable(text).map(Some), None)
    }

    pub(crate) fn secret(&mut self, setting: &Setting) -> Secret<String> {
        self.read(
            setting,
            |text| token(text).map(Secret::new),
            Secret::new(String::new()),
        )
    }

    pub(crate) fn url(&mut self, setting: &Setting) -> Url {
        self.read(setting, http_url, blank_url())
    }

    pub(crate) fn address(&mut self, setting: &Setting) -> SocketAddr {
        self.read(setting, socket_address, SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    pub(crate) fn flag(&mut self, setting: &Setting) -> bool {
        let parse = |text: &str| match text {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            other => Err(format!("{other:?} is neither true nor false")),
        };
        self.read(setting, parse, false)
    }

    /// A path that is given, or one that is derived from the system's variables.
    pub(crate) fn path(&mut self, setting: &Setting, derived: Option<PathBuf>) -> PathBuf {
        let path = self.given(setting).map(PathBuf::from).or(derived);
        match path {
            Some(path) if path.is_absolute() => path,
            Some(path) => {
                self.fault(
                    setting,
                    format!("{} is not an absolute path", path.display()),
                );
                PathBuf::new()
            }
            None => {
                self.fault(setting, "not set, and there is no HOME to derive it from");
                PathBuf::new()
            }
        }
    }
}

/// What a file with a secret holds. It is not repeated in a problem.
fn read_file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(SECRET_MAX_BYTES + 1).read_to_string(&mut text);
    let bytes = read.map_err(|error| error.to_string())?;
    if bytes as u64 > SECRET_MAX_BYTES {
        return Err(format!("holds more than {SECRET_MAX_BYTES} bytes"));
    }
    match text.trim() {
        "" => Err("is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// Stands in for an address that could not be read.
pub(crate) fn blank_url() -> Url {
    Url::parse("unset:").expect("a constant that parses")
}

/// A number within `range`; `of` is what it counts, to be put behind "a whole number".
pub(crate) fn whole(text: &str, range: RangeInclusive<u64>, of: &str) -> Result<u64, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a whole number{of}"))?;
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!(
        "{number} is out of range, from {} to {}",
        range.start(),
        range.end()
    ))
}

/// A number that is not negative and has an end.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))?;
    if number.is_finite() && (0.0..=10_000.0).contains(&number) {
        return Ok(number);
    }
    Err(format!("{text} is out of range, from 0 to 10000"))
}

pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!(
            "{text:?} does not begin with http:// or https:// and a host"
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not have a user name or password in it".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{text:?} must end with its path"));
    }
    Ok(url)
}

pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address with a port, such as 127.0.0.1:8080 or [::]:8080")
    })
}

/// `host:port`, where the host is looked up when it is needed.
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let trimmed = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let problem = || format!("{text:?} is not a host and a port, such as 127.0.0.1:8080");
    let (host, port) = trimmed.rsplit_once(':').ok_or_else(problem)?;
    let port_is_sound = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_is_sound = url::Host::parse(host).is_ok();
    if port_is_sound && host_is_sound {
        return Ok(trimmed.to_owned());
    }
    Err(problem())
}

/// A value that can stand in an HTTP header; its text is not repeated.
pub(crate) fn token(text: &str) -> Result<String, String> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(text.to_owned());
    }
    Err("has characters that cannot stand in a header".to_owned())
}

fn printable(text: &str) -> Result<String, String> {
    if text.len() <= 512 && !text.contains(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("must be at most 512 characters, without control characters".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_with_ports() {
        for sound in [
            "127.0.0.1:8080",
            "serve:8080",
            "[::1]:80",
            "http://serve:8080/",
        ] {
            assert!(host_and_port(sound).is_ok(), "{sound}");
        }
        for unsound in [
            "",
            "serve",
            "serve:",
            ":80",
            "serve:0",
            "serve:65536",
            "a b:80",
        ] {
            assert!(host_and_port(unsound).is_err(), "{unsound}");
        }
    }

    #[test]
    fn rates_are_finite_and_not_negative() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for unsound in ["-1", "inf", "NaN", "fast", "1e300"] {
            assert!(rate(unsound).is_err(), "{unsound}");
        }
    }

    #[test]
    fn urls_of_services_are_plain_http() {
        assert!(http_url("http://_api.internal:4280/v1").is_ok());
        for unsound in [
            "ftp://a",
            "a",
            "http://",
            "http://u:p@a",
            "http://a?x",
            "http://a#x",
        ] {
            assert!(http_url(unsound).is_err(), "{unsound}");
        }
    }
}
