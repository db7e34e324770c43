//! The provider's words, and what they mean: pure functions over a text in small letters.
//!
//! The texts are prose and change. Each is matched by the words that matter, whatever stands around
//! them.

/// What the provider says about an image that it could not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImageFault {
    /// The registry, or a mirror of it, does not answer as it should; that passes.
    Registry,
    /// The registry does not know it: it never will, or it was pushed moments ago.
    Unknown,
    /// It cannot be used.
    Refused,
}

/// What is wrong with the image, if that is what the text is about.
pub(super) fn image_fault(text: &str) -> Option<ImageFault> {
    const HEAD: &str = "failed to get manifest";
    let said = match text.split_once(HEAD) {
        // The image's name is the producer's: what follows it is the registry's word.
        Some((_, rest)) => rest.split_once(": ").map_or("", |(_, said)| said),
        None if text.contains("manifest unknown") => return Some(ImageFault::Unknown),
        None => return None,
    };
    let any = |known: &[&str]| known.iter().any(|words| said.contains(words));
    // The registry's own status says it best, whatever else its answer quotes.
    let failed = ["[http 5", "[http 408]", "[http 429]"];
    Some(if any(&failed) {
        ImageFault::Registry
    } else if any(&["[http 401]", "[http 403]"]) {
        ImageFault::Refused
    } else if any(&UNKNOWN_TO_REGISTRY) {
        ImageFault::Unknown
    } else if any(&REGISTRY_TROUBLE) {
        ImageFault::Registry
    } else {
        ImageFault::Refused
    })
}

/// The registry answered, and does not have it.
const UNKNOWN_TO_REGISTRY: [&str; 6] = [
    "manifest unknown",
    "manifest_unknown",
    "name_unknown",
    "name unknown",
    "[http 404]",
    "not found",
];

/// The registry did not answer, or with a failure of its own.
const REGISTRY_TROUBLE: [&str; 19] = [
    "internal server error",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
    "gateway time-out",
    "too many requests",
    "toomanyrequests",
    "rate limit",
    "no space left",
    "timeout",
    "timed out",
    "deadline exceeded",
    "connection refused",
    "connection reset",
    "broken pipe",
    "unexpected eof",
    "no such host",
    "temporar",
    "unavailable",
];

/// The account may not have more, or nothing at all: money, verification, quota. Whoever runs the
/// fleet can change that, and nobody else.
pub(super) fn is_about_the_account(text: &str) -> bool {
    ACCOUNT.iter().any(|words| text.contains(words))
}

/// The same at the beginning of the text, where no word of a producer stands.
pub(super) fn begins_with_the_account(text: &str) -> bool {
    let text = text
        .strip_prefix("invalid_argument: ")
        .or_else(|| text.strip_prefix("permission_denied: "))
        .unwrap_or(text);
    let owners = [
        "your organization",
        "your organisation",
        "your account",
        "organization ",
        "trial has ended",
        "your trial",
        "to create more than",
    ];
    owners.iter().any(|words| text.starts_with(words)) && is_about_the_account(text)
}

/// Each has a blank: what a producer may choose of a machine, and the provider may repeat, such as
/// image and region, has none.
const ACCOUNT: [&str; 29] = [
    "allowed quota",
    "quota exceeded",
    "quota of ",
    "quota limit",
    "over quota",
    "over your quota",
    "over the quota",
    "exceeded your quota",
    "exceeds your quota",
    "exceeds the quota",
    "machine limit",
    "as high risk",
    "trial has ",
    "trial ended",
    "trial expired",
    "free trial",
    "credit card",
    "add a payment",
    "payment method",
    "payment required",
    "contact billing",
    "unpaid invoice",
    "past due",
    "not allowed to ",
    "verify your account",
    "is suspended",
    "been suspended",
    "spending limit",
    "limit for your organization",
];

/// One host has no room, or takes nobody for now.
pub(super) fn host_has_no_room(text: &str) -> bool {
    let short = text
        .split_once("insufficient ")
        .is_some_and(|(_, of)| of.contains("available"));
    short || NO_ROOM_ON_HOST.iter().any(|words| text.contains(words))
}

const NO_ROOM_ON_HOST: [&str; 3] = [
    "could not reserve resource",
    "deploys to this host are temporarily disabled",
    "governor policy blocked",
];

/// A whole region has no room.
pub(super) fn region_has_no_room(text: &str) -> bool {
    NO_ROOM_IN_REGION.iter().any(|words| text.contains(words))
}

const NO_ROOM_IN_REGION: [&str; 15] = [
    "candidate host",
    "no capacity",
    "no available capacity",
    "out of capacity",
    "at capacity",
    "lack of capacity",
    "not enough capacity",
    "insufficient capacity",
    "insufficient_capacity",
    "capacity exceeded",
    "insufficient resources",
    "not enough resources",
    "no suitable host",
    "no host available",
    "no hosts available",
];

/// The request names something that the provider does not have or cannot do.
pub(super) fn request_is_wrong(text: &str) -> bool {
    let wrong = [
        "valid",
        "unsupported",
        "not supported",
        "not found",
        "must be ",
    ];
    let unknown = ["unknown region", "no such region", "does not exist"];
    wrong
        .iter()
        .chain(&unknown)
        .any(|words| text.contains(words))
}
