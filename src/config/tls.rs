//! The certificates of TLS with Redis: read and checked with the other settings, so that a file that
//! is none is told by the name of its setting before anything is touched.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;

use crate::config::address::RedisUrl;
use crate::config::reader::Reader;
use crate::config::table::{self, Setting};

/// Bytes of a file with certificates at the most: a bundle of all public authorities has some 250 KB.
const FILE_MAX_BYTES: u64 = 4 << 20;

/// Whom TLS trusts beside the authorities that everybody does, and how we show who we are.
#[derive(Clone, Debug, Default)]
pub struct RedisTls {
    /// Certificates of authorities.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Our certificate and key.
    pub identity: Option<Identity>,
    /// The name that the server's certificate must have, unless it is that of the address.
    pub server_name: Option<String>,
}

/// A certificate with the authorities up to its root, and its key.
#[derive(Clone)]
pub struct Identity(pub Arc<CertifiedKey>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl RedisTls {
    /// Reads them. With the address of Redis where that is known by now: one without TLS would leave
    /// them unused.
    pub(crate) fn read(reader: &mut Reader<'_>, url: Option<&RedisUrl>) -> Self {
        let authorities = reader.read_given(&table::REDIS_CA_FILE, certificates);
        let chain = reader.read_given(&table::REDIS_CERT_FILE, certificates);
        let key = reader.read_given(&table::REDIS_KEY_FILE, private_key);
        let server_name = reader.read_given(&table::REDIS_TLS_NAME, server_name);
        let is_given = |reader: &mut Reader<'_>, setting| reader.given(setting).is_some();
        let pair = [&table::REDIS_CERT_FILE, &table::REDIS_KEY_FILE];
        let [has_chain, has_key] = pair.map(|setting| is_given(reader, setting));
        if has_chain != has_key {
            let [cert, key] = pair;
            let (missing, given) = if has_chain { (key, cert) } else { (cert, key) };
            reader.fault(missing, format!("not set, but {} is", given.name));
        }
        let without_tls = reader.given(&table::REDIS_URL).is_some()
            && url.is_some_and(|url| !url.is_tls && *url != RedisUrl::blank());
        for setting in Self::SETTINGS.into_iter().filter(|_| without_tls) {
            if is_given(reader, setting) {
                let problem =
                    "set, but REDIS_URL asks for no TLS: it begins with rediss:// if it does";
                reader.fault(setting, problem);
            }
        }
        let identity = match (chain, key) {
            (Some(chain), Some(key)) => match identity(chain, key) {
                Ok(identity) => Some(identity),
                Err(problem) => {
                    reader.fault(&table::REDIS_KEY_FILE, problem);
                    None
                }
            },
            _ => None,
        };
        Self {
            authorities: authorities.unwrap_or_default(),
            identity,
            server_name,
        }
    }

    /// The settings that it is read from.
    const SETTINGS: [&'static Setting; 4] = [
        &table::REDIS_CA_FILE,
        &table::REDIS_CERT_FILE,
        &table::REDIS_KEY_FILE,
        &table::REDIS_TLS_NAME,
    ];
}

fn file(path: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let read = file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes);
    let read = read.map_err(|error| format!("{path}: {error}"))?;
    if read as u64 > FILE_MAX_BYTES {
        return Err(format!("{path}: holds more than {FILE_MAX_BYTES} bytes"));
    }
    Ok(bytes)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = file(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|error| format!("{path}: {error}"))?;
    if certificates.is_empty() {
        return Err(format!(
            "{path}: holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----"
        ));
    }
    // What cannot be an authority is told here, and not when Redis is first spoken to.
    for certificate in &certificates {
        let mut store = rustls::RootCertStore::empty();
        let added = store.add(certificate.clone());
        added.map_err(|error| format!("{path}: holds a certificate that is none: {error}"))?;
    }
    Ok(certificates)
}

fn private_key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&file(path)?)
        .map_err(|_| format!("{path}: holds no private key in PEM, or one with a passphrase"))
}

fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Identity, String> {
    let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
    key.map(|key| Identity(Arc::new(key))).map_err(|error| {
        let cert = table::REDIS_CERT_FILE.name;
        format!("cannot be used with the certificate in {cert}: {error}")
    })
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is not a host name or an address")),
    }
}
