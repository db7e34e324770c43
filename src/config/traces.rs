//! Where traces go: the standard `OTEL_…` variables. Off unless an endpoint is named.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::config::reader::{self, Reader};
use crate::config::secret::Secret;
use crate::config::table::{self, Setting, Unset};

/// Headers, or attributes of the resource, at the most.
const PAIRS_MAX: usize = 64;

/// Where traces go, and which.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The address that spans are posted to.
    pub endpoint: Url,
    /// Headers that go with them.
    pub headers: Vec<(String, Secret<String>)>,
    /// How long one post may take.
    pub timeout: Duration,
    /// The name of this service.
    pub service: String,
    /// What else is said of it.
    pub resource: Vec<(String, String)>,
    /// Which traces are recorded.
    pub sampling: Sampling,
}

/// Which traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Whether a request's `traceparent` decides where there is one.
    pub by_parent: bool,
    /// The share of the others, from 0 to 1.
    pub ratio: f64,
}

/// Whether spans are posted anywhere, which is all that the endpoint needs to know.
pub(crate) fn are_on(reader: &mut Reader<'_>) -> bool {
    let endpoints = [&table::OTEL_TRACES_ENDPOINT, &table::OTEL_ENDPOINT];
    let is_named = endpoints.map(|setting| reader.given(setting).is_some());
    let is_disabled = is_disabled(reader);
    is_named.contains(&true) && !is_disabled
}

/// Both variables that turn everything off, as the standard has them: whatever else they say means no.
fn is_disabled(reader: &mut Reader<'_>) -> bool {
    let disabled = reader.given(&table::OTEL_SDK_DISABLED);
    let exporter = reader.given(&table::OTEL_TRACES_EXPORTER);
    disabled.is_some_and(|text| text.eq_ignore_ascii_case("true"))
        || exporter.is_some_and(|text| text == "none")
}

impl Traces {
    /// `None` when no endpoint is named, or traces are disabled; then the other variables, which may be
    /// meant for other programs, are not judged.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let is_on = are_on(reader);
        // Looked up in any case, so that it is known who reads them.
        let of_traces = reader.given(&table::OTEL_TRACES_ENDPOINT);
        let of_all = reader.given(&table::OTEL_ENDPOINT);
        let headers = text_of(reader, &table::OTEL_HEADERS);
        let timeout = text_of(reader, &table::OTEL_TIMEOUT);
        let protocol = text_of(reader, &table::OTEL_PROTOCOL);
        let service = text_of(reader, &table::OTEL_SERVICE_NAME);
        let resource = text_of(reader, &table::OTEL_RESOURCE_ATTRIBUTES);
        let sampler = text_of(reader, &table::OTEL_TRACES_SAMPLER);
        let ratio = text_of(reader, &table::OTEL_TRACES_SAMPLER_ARG);
        let exporter = text_of(reader, &table::OTEL_TRACES_EXPORTER);
        if !is_on {
            return None;
        }
        if exporter != "otlp" {
            let problem = format!("{exporter:?} is neither otlp nor none");
            reader.fault(&table::OTEL_TRACES_EXPORTER, problem);
        }
        if protocol != "http/protobuf" {
            let problem = format!("{protocol:?} is not spoken here; only http/protobuf is");
            reader.fault(&table::OTEL_PROTOCOL, problem);
        }
        let endpoint = match (of_traces, of_all) {
            (Some(text), _) => checked(
                reader,
                &table::OTEL_TRACES_ENDPOINT,
                reader::http_url(&text),
            ),
            (None, Some(text)) => checked(reader, &table::OTEL_ENDPOINT, below(&text)),
            (None, None) => None,
        };
        let timeout = reader::whole(&timeout, 1..=600_000, " of milliseconds");
        let timeout = checked(reader, &table::OTEL_TIMEOUT, timeout);
        let headers = checked(reader, &table::OTEL_HEADERS, headers_of(&headers));
        let resource = checked(reader, &table::OTEL_RESOURCE_ATTRIBUTES, pairs(&resource));
        let sampling = sampling(&sampler, &ratio);
        let sampling = checked(reader, &table::OTEL_TRACES_SAMPLER, sampling);
        Some(Self {
            endpoint: endpoint?,
            headers: headers?,
            timeout: Duration::from_millis(timeout?),
            service,
            resource: resource?,
            sampling: sampling?,
        })
    }
}

/// What is given, or the default; empty where there is neither.
fn text_of(reader: &mut Reader<'_>, setting: &Setting) -> String {
    let unset = match setting.default {
        Unset::Text(text) => text,
        Unset::Absent | Unset::Required | Unset::Derived(_) => "",
    };
    reader.given(setting).unwrap_or_else(|| unset.to_owned())
}

fn checked<T>(reader: &mut Reader<'_>, setting: &Setting, parsed: Result<T, String>) -> Option<T> {
    parsed
        .map_err(|problem| reader.fault(setting, problem))
        .ok()
}

/// The address for spans below that for everything.
fn below(text: &str) -> Result<Url, String> {
    let mut url = reader::http_url(text)?;
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// `name=value,name=value`, the values percent-encoded where they have to be. A problem names no value.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let parts = text.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or("is not of the form name=value,name=value")?;
        let value = percent_decode_str(value.trim()).decode_utf8();
        let value = value.map_err(|_| "has a value that is no text".to_owned())?;
        pairs.push((name.trim().to_owned(), value.into_owned()));
    }
    if pairs.len() > PAIRS_MAX {
        return Err(format!("names more than {PAIRS_MAX}"));
    }
    Ok(pairs)
}

fn headers_of(text: &str) -> Result<Vec<(String, Secret<String>)>, String> {
    let mut headers = Vec::new();
    for (name, value) in pairs(text)? {
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            || name.is_empty()
        {
            return Err("has a name that no header has".to_owned());
        }
        headers.push((name, Secret::new(reader::token(&value)?)));
    }
    Ok(headers)
}

fn sampling(sampler: &str, ratio: &str) -> Result<Sampling, String> {
    let (by_parent, rest) = match sampler.strip_prefix("parentbased_") {
        Some(rest) => (true, rest),
        None => (false, sampler),
    };
    let ratio = match rest {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio
            .parse()
            .ok()
            .filter(|ratio| (0.0..=1.0).contains(ratio))
            .ok_or_else(|| {
                format!("needs a share from 0 to 1 in OTEL_TRACES_SAMPLER_ARG, not {ratio:?}")
            })?,
        _ => {
            return Err(format!(
                "{sampler:?} is none of always_on, always_off, traceidratio, and these with parentbased_ before"
            ));
        }
    };
    Ok(Sampling { by_parent, ratio })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fault;

    fn read(given: &[(&str, &str)]) -> (Option<Traces>, Vec<Fault>) {
        let lookup = |name: &str| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        let mut reader = Reader::new(&lookup);
        let traces = Traces::read(&mut reader);
        (traces, reader.into_faults())
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/otlp/");

    #[test]
    fn without_an_endpoint_or_disabled_there_are_no_traces_and_no_faults() {
        let foreign = [
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        assert!(matches!(read(&foreign), (None, faults) if faults.is_empty()));
        for off in [
            ("OTEL_SDK_DISABLED", "True"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            let (traces, faults) = read(&[ENDPOINT, off, foreign[0]]);
            assert!(traces.is_none() && faults.is_empty(), "{faults:?}");
        }
    }

    #[test]
    fn the_standard_variables_are_read_as_the_standard_says() {
        let (traces, faults) = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20secret, x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=staging",
            ),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        assert_eq!(faults, []);
        let traces = traces.unwrap();
        assert_eq!(
            traces.endpoint.as_str(),
            "http://collector:4318/otlp/v1/traces"
        );
        assert_eq!(traces.headers[0].1.expose(), "a secret");
        assert!(!format!("{traces:?}").contains("a secret"));
        assert_eq!(traces.timeout, Duration::from_millis(2500));
        assert_eq!(traces.service, "cofferdam");
        assert_eq!(traces.resource[0].1, "staging");
        let expected = Sampling {
            by_parent: true,
            ratio: 0.25,
        };
        assert_eq!(traces.sampling, expected);
        let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/spans");
        let (traces, _) = read(&[ENDPOINT, of_traces]);
        assert_eq!(traces.unwrap().endpoint.as_str(), "http://other/spans");
    }

    #[test]
    fn what_is_unsound_is_a_fault_and_secrets_are_not_repeated() {
        for (name, text, part) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "neither otlp nor none"),
            ("OTEL_TRACES_SAMPLER", "xray", "is none of"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "whole number"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "not of the form"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0A", "cannot stand"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "collector",
                "not a URL",
            ),
        ] {
            let (_, faults) = read(&[ENDPOINT, (name, text)]);
            assert_eq!(faults.len(), 1, "{faults:?}");
            let problem = &faults[0].problem;
            assert!(problem.contains(part), "{problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for ratio in ["2", "-0.1", "NaN", "half", ""] {
            assert!(sampling("traceidratio", ratio).is_err(), "{ratio}");
        }
    }
}
