//! Who may come in: keys with a role, and the cookie that a browser gets for one.
//!
//! A cookie is signed with the key that it was given for and holds no secret, so any number of consoles
//! with the same keys accept it, and it ends when its key is taken out of the settings.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::header::{AUTHORIZATION, COOKIE};
use ring::hmac;
use tokio::sync::Semaphore;

use crate::clock::UnixMs;
use crate::config::{ConsoleKey, ConsoleRole};
use crate::run::digest::{hex, sha256};

/// The cookie's name.
pub(super) const COOKIE_NAME: &str = "cofferdam_console";

/// How long a login lasts.
pub(super) const SESSION: Duration = Duration::from_secs(12 * 3600);

/// What a wrong key waits for. So many may wait at once; others wait for those before.
const WRONG_KEY_DELAY: Duration = Duration::from_secs(1);
const WRONG_KEYS_AT_ONCE: usize = 16;

/// How long a one-time link opens.
const LINK: Duration = Duration::from_secs(15 * 60);

/// Hexadecimal digits by which a key is named in cookies and in the audit.
const FINGERPRINT_DIGITS: usize = 12;

/// Somebody who has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) role: ConsoleRole,
    /// The key's, by which the audit tells who it was.
    pub(super) fingerprint: String,
    /// What forms must send; `None` for one who sends the key with each request, where there is no cookie
    /// that another page could use.
    pub(super) csrf: Option<String>,
}

/// Why somebody may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Neither cookie nor key.
    Absent,
    /// A key that is none of ours; it has been waited for.
    Wrong,
}

struct Known {
    role: ConsoleRole,
    fingerprint: String,
    /// Compares keys: HMACs of both are compared in constant time.
    key: String,
    signs: hmac::Key,
}

/// The keys.
pub(super) struct Access {
    known: Vec<Known>,
    wrong: Semaphore,
    link: Mutex<Option<(String, UnixMs)>>,
}

impl Access {
    pub(super) fn new(keys: &[ConsoleKey]) -> Self {
        let known = keys.iter().map(|key| {
            let text = key.key.expose().as_str();
            let seed = sha256(format!("cofferdam console session {text}").as_bytes());
            let mut fingerprint = sha256(format!("cofferdam console key {text}").as_bytes());
            fingerprint.truncate(FINGERPRINT_DIGITS);
            Known {
                role: key.role,
                fingerprint,
                key: text.to_owned(),
                signs: hmac::Key::new(hmac::HMAC_SHA256, seed.as_bytes()),
            }
        });
        Self {
            known: known.collect(),
            wrong: Semaphore::new(WRONG_KEYS_AT_ONCE),
            link: Mutex::default(),
        }
    }

    /// A link that opens once, and for a quarter of an hour, with the first operator's key.
    pub(super) fn make_link(&self, now: UnixMs) -> String {
        let token = random_hex();
        let until = now.saturating_add(millis(LINK));
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some((token.clone(), until));
        token
    }

    /// The cookie for whoever follows the link, which opens no more then.
    pub(super) async fn follow_link(&self, token: &str, now: UnixMs) -> Result<String, Denied> {
        let is_it = {
            let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
            let opens = link.as_ref().is_some_and(|(known, until)| {
                is_same(known.as_bytes(), token.as_bytes()) && now < *until
            });
            if opens {
                *link = None;
            }
            opens
        };
        let mut known = self.known.iter();
        match known.find(|known| known.role == ConsoleRole::Operator) {
            Some(known) if is_it => Ok(cookie(known, now)),
            _ => Err(self.delay().await),
        }
    }

    /// The cookie for a key.
    pub(super) async fn log_in(&self, key: &str, now: UnixMs) -> Result<String, Denied> {
        match self.of_key(key) {
            Some(known) => Ok(cookie(known, now)),
            None => Err(self.delay().await),
        }
    }

    /// Who sends a request.
    pub(super) async fn session<B>(
        &self,
        request: &Request<B>,
        now: UnixMs,
    ) -> Result<Session, Denied> {
        if let Some(sent) = request.headers().get(AUTHORIZATION) {
            let key = sent
                .to_str()
                .ok()
                .and_then(|sent| sent.strip_prefix("Bearer "));
            let known = key.and_then(|key| self.of_key(key.trim()));
            return match known {
                Some(known) => Ok(Session {
                    role: known.role,
                    fingerprint: known.fingerprint.clone(),
                    csrf: None,
                }),
                None => Err(self.delay().await),
            };
        }
        let cookies = request.headers().get_all(COOKIE).iter();
        let cookies = cookies.filter_map(|header| header.to_str().ok());
        let mut ours = cookies
            .flat_map(|header| header.split(';'))
            .filter_map(|cookie| {
                let (name, value) = cookie.trim().split_once('=')?;
                (name == COOKIE_NAME).then_some(value)
            });
        ours.find_map(|value| self.of_cookie(value, now))
            .ok_or(Denied::Absent)
    }

    /// The key that this is. All are compared, whichever it is.
    fn of_key(&self, key: &str) -> Option<&Known> {
        let mut found = None;
        for known in &self.known {
            if is_same(known.key.as_bytes(), key.as_bytes()) {
                found = Some(known);
            }
        }
        found
    }

    fn of_cookie(&self, value: &str, now: UnixMs) -> Option<Session> {
        let (signed, tag) = value.rsplit_once('.')?;
        let mut parts = signed.split('.');
        let (fingerprint, until_s) = (parts.next()?, parts.next()?.parse::<u64>().ok()?);
        let known = self
            .known
            .iter()
            .find(|known| known.fingerprint == fingerprint)?;
        if !is_same(tag_of(known, signed).as_bytes(), tag.as_bytes()) || until_s <= now / 1000 {
            return None;
        }
        Some(Session {
            role: known.role,
            fingerprint: known.fingerprint.clone(),
            csrf: Some(tag_of(known, &format!("csrf {value}"))),
        })
    }

    async fn delay(&self) -> Denied {
        let _permit = self.wrong.acquire().await;
        tokio::time::sleep(WRONG_KEY_DELAY).await;
        Denied::Wrong
    }
}

impl Session {
    /// Whether a form was sent from one of our pages.
    pub(super) fn is_own_form(&self, sent: Option<&str>) -> bool {
        match &self.csrf {
            None => true,
            Some(csrf) => sent.is_some_and(|sent| is_same(csrf.as_bytes(), sent.as_bytes())),
        }
    }
}

fn cookie(known: &Known, now: UnixMs) -> String {
    let until_s = now.saturating_add(millis(SESSION)) / 1000;
    let signed = format!("{}.{until_s}.{}", known.fingerprint, random_hex());
    let tag = tag_of(known, &signed);
    format!("{signed}.{tag}")
}

fn tag_of(known: &Known, text: &str) -> String {
    hex(hmac::sign(&known.signs, text.as_bytes()).as_ref())
}

/// Compares in constant time, whatever the lengths: by HMACs with a key that nobody knows.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let rng = ring::rand::SystemRandom::new();
    let Ok(key) = hmac::Key::generate(hmac::HMAC_SHA256, &rng) else {
        return false;
    };
    hmac::verify(&key, other, hmac::sign(&key, one).as_ref()).is_ok()
}

fn random_hex() -> String {
    let rng = ring::rand::SystemRandom::new();
    let bytes: [u8; 16] = ring::rand::generate(&rng)
        .expect("the system has random bytes")
        .expose();
    hex(&bytes)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const NOW: UnixMs = 1_800_000_000_000;

    fn access() -> Access {
        let key = |role, letter: &str| ConsoleKey {
            role,
            key: Secret::new(letter.repeat(32)),
        };
        Access::new(&[
            key(ConsoleRole::Viewer, "v"),
            key(ConsoleRole::Operator, "o"),
        ])
    }

    fn with_cookie(value: &str) -> Request<()> {
        let cookie = format!("other=1; {COOKIE_NAME}={value}");
        Request::builder().header(COOKIE, cookie).body(()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_bears_the_role_of_its_key_until_it_ends() {
        let access = access();
        let cookie = access.log_in(&"v".repeat(32), NOW).await.unwrap();
        let session = access.session(&with_cookie(&cookie), NOW).await.unwrap();
        assert_eq!(session.role, ConsoleRole::Viewer);
        assert!(session.csrf.is_some());
        let ended = access
            .session(&with_cookie(&cookie), NOW + millis(SESSION))
            .await;
        assert_eq!(ended, Err(Denied::Absent));
        // One of the same name that is another's does not hide it.
        let both = format!("nothing; {COOKIE_NAME}={cookie}");
        assert!(access.session(&with_cookie(&both), NOW).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cookie_that_was_changed_opens_nothing() {
        let access = access();
        let operator = access.log_in(&"o".repeat(32), NOW).await.unwrap();
        let viewer = access.log_in(&"v".repeat(32), NOW).await.unwrap();
        let (mine, rest) = operator.split_once('.').unwrap();
        let (other, _) = viewer.split_once('.').unwrap();
        for changed in [
            format!("{other}.{rest}"),
            format!("{mine}.9999999999.{}", rest.split_once('.').unwrap().1),
            operator[..operator.len() - 1].to_owned(),
            String::new(),
            "...".to_owned(),
        ] {
            let answer = access.session(&with_cookie(&changed), NOW).await;
            assert_eq!(answer, Err(Denied::Absent), "{changed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_key_waits_and_many_wait_for_each_other() {
        let access = access();
        let begun = tokio::time::Instant::now();
        assert_eq!(access.log_in("", NOW).await, Err(Denied::Wrong));
        assert_eq!(begun.elapsed(), WRONG_KEY_DELAY);
        let wrong = "w".repeat(32);
        let many = (0..40).map(|_| access.log_in(&wrong, NOW));
        futures_util::future::join_all(many).await;
        assert_eq!(begun.elapsed(), 4 * WRONG_KEY_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_opens_once_and_not_for_long() {
        let access = access();
        let link = access.make_link(NOW);
        assert!(access.follow_link("other", NOW).await.is_err());
        let cookie = access.follow_link(&link, NOW).await.unwrap();
        let session = access.session(&with_cookie(&cookie), NOW).await.unwrap();
        assert_eq!(session.role, ConsoleRole::Operator);
        assert!(access.follow_link(&link, NOW).await.is_err());
        let late = access.make_link(NOW);
        assert!(access.follow_link(&late, NOW + millis(LINK)).await.is_err());
    }

    #[tokio::test]
    async fn a_form_is_ours_only_with_the_sessions_token() {
        let access = access();
        let one = access.log_in(&"o".repeat(32), NOW).await.unwrap();
        let two = access.log_in(&"o".repeat(32), NOW).await.unwrap();
        let one = access.session(&with_cookie(&one), NOW).await.unwrap();
        let two = access.session(&with_cookie(&two), NOW).await.unwrap();
        assert!(one.is_own_form(one.csrf.as_deref()));
        assert!(!one.is_own_form(two.csrf.as_deref()));
        assert!(!one.is_own_form(None) && !one.is_own_form(Some("")));
    }
}
