//! Opens one connection to one server: the socket, TLS, and the log-in.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::config::address::{Login, Place, RedisUrl, Server};
use crate::config::{Redis, RedisTls, table};
use crate::store::error::Error;

/// How long a connection may take to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection is silent before the system asks whether the other end is still there: below
/// the five minutes and less after which load balancers forget one.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A connection, which is closed when its last clone is dropped, also while an answer is awaited.
#[derive(Clone)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

impl Deref for Link {
    type Target = MultiplexedConnection;

    fn deref(&self) -> &MultiplexedConnection {
        &self.connection
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }
}

/// Where a connection leads.
#[derive(Clone, Debug)]
pub(crate) enum Target<'a> {
    Socket(&'a Path),
    Server(&'a Server),
}

impl std::fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Server(server) => write!(f, "{server}"),
        }
    }
}

/// Makes connections as the settings say.
pub(crate) struct Dialer {
    pub(crate) url: RedisUrl,
    tls: Option<Tls>,
}

struct Tls {
    config: Arc<ClientConfig>,
    /// The name that the certificate must have, unless it is the host's.
    name: Option<String>,
    has_identity: bool,
}

impl Dialer {
    pub(crate) fn new(redis: &Redis) -> Result<Self, Error> {
        let url = redis.url.expose().clone();
        let tls = url.is_tls.then(|| Tls::new(&redis.tls)).transpose()?;
        Ok(Self { url, tls })
    }

    /// A connection to our Redis, or to one of its nodes, on which an answer may take `answer_timeout`.
    pub(crate) async fn redis(
        &self,
        target: &Target<'_>,
        answer_timeout: Duration,
    ) -> Result<Link, Error> {
        self.open(target, &self.url.login, self.url.db, answer_timeout)
            .await
    }

    /// A connection to a sentinel.
    pub(crate) async fn sentinel(&self, server: &Server) -> Result<Link, Error> {
        let nobody = Login::default();
        let login = match &self.url.place {
            Place::Sentinels { login, .. } => login,
            Place::Socket(_) | Place::Servers(_) => &nobody,
        };
        self.open(&Target::Server(server), login, 0, CONNECT_TIMEOUT)
            .await
    }

    async fn open(
        &self,
        target: &Target<'_>,
        login: &Login,
        db: u32,
        answer_timeout: Duration,
    ) -> Result<Link, Error> {
        let opening = self.connect(target, self.info(login, db), answer_timeout);
        match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened,
            // A server without TLS waits for more of what it takes for a command.
            Err(_) if self.tls.is_some() => Err(Error::Unavailable(format!(
                "{target}: no connection in time; if it does not speak TLS, its address begins \
                 with redis://"
            ))),
            Err(_) => Err(Error::Unavailable(format!(
                "{target}: no connection in time"
            ))),
        }
    }

    fn info(&self, login: &Login, db: u32) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default()
            .set_lib_name("cofferdam", env!("CARGO_PKG_VERSION"))
            .set_db(db.into());
        if let Some(user) = &login.user {
            info = info.set_username(user);
        }
        if let Some(password) = &login.password {
            info = info.set_password(password);
        }
        if self.url.resp3 {
            info = info.set_protocol(ProtocolVersion::RESP3);
        }
        info
    }

    async fn connect(
        &self,
        target: &Target<'_>,
        info: RedisConnectionInfo,
        answer_timeout: Duration,
    ) -> Result<Link, Error> {
        let failed = |error: std::io::Error| Error::Unavailable(format!("{target}: {error}"));
        let server = match target {
            Target::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                return converse(stream, target, &info, answer_timeout).await;
            }
            Target::Server(server) => server,
        };
        let stream = connect_tcp(server).await.map_err(failed)?;
        let Some(tls) = &self.tls else {
            return converse(stream, target, &info, answer_timeout).await;
        };
        let name = tls.name.as_deref().unwrap_or(&server.host);
        let wanted = ServerName::try_from(name.to_owned())
            .map_err(|error| Error::Address(format!("{name}: {error}")))?;
        let connector = TlsConnector::from(tls.config.clone());
        match connector.connect(wanted, stream).await {
            Ok(stream) => {
                let conversed = converse(stream, target, &info, answer_timeout).await;
                conversed.map_err(|error| tls.refusal_of(server, error))
            }
            Err(error) => Err(match tls_error(&error) {
                Some(refusal) => Error::Tls(tls.words(server, name, refusal)),
                None => failed(error),
            }),
        }
    }
}

async fn connect_tcp(server: &Server) -> std::io::Result<TcpStream> {
    let addresses = lookup_host((server.host.as_str(), server.port)).await?;
    let attempts: Vec<_> = addresses
        .map(|address| Box::pin(TcpStream::connect(address)))
        .collect();
    if attempts.is_empty() {
        return Err(std::io::Error::other("the name has no address"));
    }
    let (stream, _) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE / 3)?;
    Ok(stream)
}

/// Logs in, and lets a task of its own move what is sent and answered.
async fn converse<S>(
    stream: S,
    target: &Target<'_>,
    info: &RedisConnectionInfo,
    answer_timeout: Duration,
) -> Result<Link, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(answer_timeout));
    let made = MultiplexedConnection::new_with_config(info, stream, config).await;
    let (connection, driver) = made.map_err(|error| match Error::from(error) {
        Error::Unavailable(why) => Error::Unavailable(format!("{target}: {why}")),
        error => error,
    })?;
    Ok(Link {
        connection,
        _driver: Arc::new(AbortOnDropHandle::new(drive(driver))),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "it ends with its connection, which ends with its last user"
)]
fn drive(driver: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(driver)
}

impl Tls {
    fn new(settings: &RedisTls) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        // A system without a store of its own has those above.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(settings.authorities.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Address(error.to_string()))?
            .with_root_certificates(roots);
        let config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let identity = SingleCertAndKey::from(identity.0.clone());
                builder.with_client_cert_resolver(Arc::new(identity))
            }
        };
        Ok(Self {
            config: Arc::new(config),
            name: settings.server_name.clone(),
            has_identity: settings.identity.is_some(),
        })
    }

    /// What was refused, and by which setting it is mended.
    fn words(&self, server: &Server, name: &str, error: &rustls::Error) -> String {
        use rustls::Error as Tls;
        match error {
            // A bad signature: another authority of the same name has signed it.
            Tls::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => format!(
                "the certificate of {server} is signed by nobody whom we trust: name a file with \
                 the certificate of its authority in {}",
                table::REDIS_CA_FILE.name
            ),
            Tls::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                let presented = match error {
                    Tls::InvalidCertificate(CertificateError::NotValidForNameContext {
                        presented,
                        ..
                    }) if !presented.is_empty() => format!(" but for {}", presented.join(", ")),
                    _ => String::new(),
                };
                format!(
                    "the certificate of {server} is not for {name}{presented}: set {} to a name \
                     that it has",
                    table::REDIS_TLS_NAME.name
                )
            }
            Tls::InvalidCertificate(why) => {
                format!("the certificate of {server} is refused: {why}")
            }
            Tls::AlertReceived(alert) => self.alert(server, &format!("{alert:?}")),
            Tls::InvalidMessage(_) => format!(
                "{server} does not speak TLS: {} begins with redis:// for a server without it",
                table::REDIS_URL.name
            ),
            other => format!("{server}: {other}"),
        }
    }

    fn alert(&self, server: &Server, alert: &str) -> String {
        let (cert, key) = (table::REDIS_CERT_FILE.name, table::REDIS_KEY_FILE.name);
        if self.has_identity {
            return format!("{server} refuses the certificate in {cert}, or the TLS: {alert}");
        }
        format!(
            "{server} refuses us ({alert}): where it asks for a certificate, name one in {cert} \
             and its key in {key}"
        )
    }

    /// A server tells only after the handshake that it wanted another certificate.
    fn refusal_of(&self, server: &Server, error: Error) -> Error {
        const ALERT: &str = "received fatal alert: ";
        let Error::Unavailable(why) = &error else {
            return error;
        };
        match why.split_once(ALERT) {
            Some((_, alert)) => Error::Tls(self.alert(server, alert)),
            None => error,
        }
    }
}

/// What TLS says, when an error of the connection is one of TLS.
fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
