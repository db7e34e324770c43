//! What will happen, made from a seed before anything does: the same seed, the same plan.

use fastrand::Rng;
use ring::digest;

use crate::args::{Args, Guests, Kind, Servers};
use crate::captured;

/// Tenants whose runs have ids that name them.
pub(crate) const TENANTS: usize = 5;

/// Requests that may be without a result before more are sent, at the most.
const AHEAD_MAX: usize = 2000;

/// All that will happen.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) requests: Vec<Request>,
    /// Requests that may be without a result before more are sent.
    pub(crate) ahead: usize,
    pub(crate) acts: Vec<Timed>,
}

/// One entry on the request stream.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) shape: Shape,
    pub(crate) tenant: usize,
    pub(crate) priority: u8,
    /// May start only so much later.
    pub(crate) delay_ms: Option<u64>,
    pub(crate) queue_ttl_s: Option<u64>,
    /// From its boot to its deadline.
    pub(crate) timeout_s: Option<u64>,
    /// What a real guest does.
    pub(crate) guest: &'static str,
    /// Whether a guest that is played posts what nobody can read before its result.
    pub(crate) is_hostile: bool,
    /// Bytes of its input.
    pub(crate) input_bytes: usize,
    /// Sent again after so many others.
    pub(crate) again_after: Option<usize>,
    /// Cancelled after so many others.
    pub(crate) cancel_after: Option<usize>,
}

/// What kind of entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A sound request with an id.
    Named,
    /// A sound request without one.
    Nameless,
    /// It has an id and breaks a rule.
    Unsound,
    /// It is no request at all, in one of [`GARBAGES`] ways.
    Garbage(usize),
}

/// Ways for an entry to be no request: text that is none; a name that is not UTF-8; a value that is
/// not; and a name that is not, on the stream of orders.
pub(crate) const GARBAGES: usize = 4;

/// Something that is done to the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) when: When,
    pub(crate) act: Act,
}

/// When it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// As soon as so many runs have ended.
    Ended(usize),
    /// So many milliseconds after the start.
    Ms(u64),
}

/// A process that something can be done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Worker(usize),
    Serve(usize),
    Machines,
    Redis,
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// SIGKILL, and another is started in its place.
    Kill(Who),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Stop(Who, u64),
    /// SIGTERM, and another is started beside it at once.
    Replace(Who),
    /// Other fault rules.
    Weather(Vec<String>),
    /// Redis's data are copied.
    Copy,
    /// The copy is put back, and Redis knows nothing of what came after it.
    Restore,
    /// Redis knows nothing any more.
    Wipe,
    /// Redis's memory is full for so many milliseconds.
    Full(u64),
    /// A tenant, or `*`, is paused for so many milliseconds.
    Pause(String, u64),
    /// All of a tenant's runs are cancelled.
    CancelTenant(String),
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(args: &Args) -> Self {
        let mut rng = Rng::with_seed(args.seed);
        let request = |rng: &mut Rng| match args.kind {
            Kind::Storm | Kind::Forgetful => request(rng, args),
            Kind::Rolling => plain(rng),
        };
        Self {
            requests: (0..args.runs).map(|_| request(&mut rng)).collect(),
            ahead: match args.kind {
                // Some come before Redis forgets and some after it.
                Kind::Forgetful => AHEAD_MAX.min(args.runs / 10),
                Kind::Storm | Kind::Rolling => AHEAD_MAX,
            },
            acts: match args.kind {
                Kind::Storm if args.servers == Servers::One => storm(&mut rng, args),
                Kind::Storm => replaced(storm(&mut rng, args), args.runs),
                Kind::Forgetful => forgetful(storm(&mut rng, args), args.runs),
                Kind::Rolling => rolling(args),
            },
        }
    }

    /// Names the plan: two plans with the same name are the same.
    pub(crate) fn digest(&self) -> String {
        let hash = digest::digest(&digest::SHA256, format!("{self:?}").as_bytes());
        let bytes = hash.as_ref().iter().take(6);
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }
}

fn plain(rng: &mut Rng) -> Request {
    Request {
        shape: Shape::Named,
        tenant: rng.usize(..TENANTS),
        priority: 5,
        delay_ms: None,
        queue_ttl_s: None,
        timeout_s: None,
        guest: POSTS,
        is_hostile: false,
        input_bytes: 0,
        again_after: None,
        cancel_after: None,
    }
}

/// Posts its result and ends.
const POSTS: &str = "curl -sS --retry 20 --retry-all-errors --retry-max-time 20 \
                     --oauth2-bearer $SANDBOX_RUN_TOKEN -d 42 $SANDBOX_RESULT_URL";
/// What other guests do: post twice, post what nobody can read before their result, post and stay,
/// end without a word, stay without a word.
const OTHERS: [&str; 5] = [
    "for n in 1 2; do curl -sS --oauth2-bearer $SANDBOX_RUN_TOKEN -d 42 $SANDBOX_RESULT_URL; done",
    "for body in '{\"a\":\"\\ud800\"}' '[1,' 42; do curl -sS --oauth2-bearer $SANDBOX_RUN_TOKEN -d \"$body\" $SANDBOX_RESULT_URL; done",
    "curl -sS --oauth2-bearer $SANDBOX_RUN_TOKEN -d 42 $SANDBOX_RESULT_URL; sleep 60",
    "exit 3",
    "sleep 60 & sleep 60",
];

fn request(rng: &mut Rng, args: &Args) -> Request {
    let mut request = plain(rng);
    request.shape = match rng.u32(..100) {
        0 => Shape::Garbage(rng.usize(..GARBAGES)),
        1 | 2 => Shape::Unsound,
        3..10 => Shape::Nameless,
        _ => Shape::Named,
    };
    request.priority = rng.u8(..10);
    if rng.u32(..20) == 0 {
        request.delay_ms = Some(rng.u64(..3000));
    }
    if rng.u32(..50) == 0 {
        request.queue_ttl_s = Some(rng.u64(1..20));
    }
    if args.captured > 0 && rng.u32(..100) < args.captured {
        request.guest = captured::COMMAND;
    } else if args.guests == Guests::Host && rng.u32(..4) == 0 {
        request.guest = OTHERS[rng.usize(..OTHERS.len())];
        request.timeout_s = Some(5);
    }
    request.is_hostile = rng.u32(..50) == 0;
    if rng.u32(..1000) == 0 {
        request.input_bytes = rng.usize(1..4 * 1024 * 1024);
    }
    if rng.u32(..25) == 0 {
        request.again_after = Some(rng.usize(..400));
    }
    if rng.u32(..20) == 0 {
        request.cancel_after = Some(rng.usize(..200));
    }
    request
}

/// Every worker and endpoint is replaced every three seconds, one after the other.
fn rolling(args: &Args) -> Vec<Timed> {
    const PERIOD_MS: u64 = 3000;
    // More than there is time for; what is left when all runs have ended is not done.
    let rounds = 20 + args.runs as u64 / 20;
    let whose = [Who::Worker(0), Who::Worker(1), Who::Serve(0)];
    let round = |n: u64| {
        whose.into_iter().zip(0..).map(move |(who, third)| Timed {
            when: When::Ms(n * PERIOD_MS + 500 + third * PERIOD_MS / 3),
            act: Act::Replace(who),
        })
    };
    (0..rounds).flat_map(round).collect()
}

/// Things that happen in a storm, at the least.
const ACTS_MIN: usize = 40;
/// Runs that end between two things that happen, on average and at the most.
const PACE_MAX: usize = 40;

fn storm(rng: &mut Rng, args: &Args) -> Vec<Timed> {
    let mut acts = vec![Timed {
        when: When::Ended(0),
        act: Act::Weather(weather(rng)),
    }];
    let pace = (args.runs / ACTS_MIN).clamp(1, PACE_MAX);
    let mut ended = 0;
    loop {
        ended += rng.usize(1..=pace * 2);
        // The last runs end in fair weather.
        if ended * 20 > args.runs * 19 {
            return acts;
        }
        let act = act(rng, args);
        let when = When::Ended(ended);
        acts.push(Timed { when, act });
    }
}

/// What is done to Redis's data, at each fifth of the way, among what is done otherwise.
fn forgetful(acts: Vec<Timed>, runs: usize) -> Vec<Timed> {
    at_each_part(acts, runs / 5, [Act::Wipe, Act::Copy, Act::Restore])
}

/// The server that has the data is killed at least twice, so that another takes its place.
fn replaced(acts: Vec<Timed>, runs: usize) -> Vec<Timed> {
    at_each_part(acts, runs / 4, [const { Act::Kill(Who::Redis) }; 2])
}

fn at_each_part<const N: usize>(mut all: Vec<Timed>, part: usize, acts: [Act; N]) -> Vec<Timed> {
    for (act, nth) in acts.into_iter().zip(1..) {
        let when = When::Ended(part * nth);
        let at = all.partition_point(|timed| timed.when <= when);
        all.insert(at, Timed { when, act });
    }
    all
}

fn act(rng: &mut Rng, args: &Args) -> Act {
    // Few runs, of which each that is captured goes through the Machines server's agent and relay.
    if args.captured > 0 && rng.u32(..12) == 0 {
        return Act::Kill(Who::Machines);
    }
    let worker = Who::Worker(rng.usize(..3));
    let serve = Who::Serve(rng.usize(..2));
    // Real sandboxes take longer than the pause, which then does nothing.
    let slow = if args.guests == Guests::Host { 2 } else { 1 };
    match rng.u32(..1000) {
        0..370 => Act::Kill(worker),
        370..500 => Act::Kill(serve),
        500..508 => Act::Kill(Who::Machines),
        508..523 => Act::Kill(Who::Redis),
        523..600 => Act::Stop(worker, rng.u64(50..5000)),
        600..630 => Act::Stop(serve, rng.u64(50..3000)),
        630..645 => Act::Stop(Who::Machines, rng.u64(50..1500)),
        645..660 => Act::Stop(Who::Redis, rng.u64(50..1500)),
        660..700 => Act::Replace(worker),
        700..720 => Act::Replace(serve),
        720..723 => Act::Pause("*".to_owned(), slow * rng.u64(50..800)),
        723..735 => Act::Pause(tenant(rng), slow * rng.u64(50..3000)),
        735..740 => Act::CancelTenant(tenant(rng)),
        740..750 => Act::Full(rng.u64(50..2000)),
        _ => Act::Weather(weather(rng)),
    }
}

fn tenant(rng: &mut Rng) -> String {
    tenant_name(rng.usize(..TENANTS))
}

/// How a tenant is called.
pub(crate) fn tenant_name(tenant: usize) -> String {
    format!("t{tenant}")
}

/// Faults that befall one call in so many. None of them is a lie about a machine, such as a 404
/// for one that lives: what the provider says to be gone is gone.
const FAULTS: [&str; 36] = [
    "create {p}: refuse status=500",
    "create {p}: refuse status=503 error=\"try again\"",
    "create {p}: refuse status=408",
    "create {p}: refuse status=502 body=\"<html>bad gateway</html>\"",
    "create {p} times=3: refuse status=429 error=\"rate limit exceeded\" retry_after_s=1",
    "create {p} times=1: refuse status=401 error=\"Authenticate: token validation error\"",
    "create {p}: no-capacity kind=region",
    "create {p}: no-capacity kind=memory",
    "create {p}: no-capacity kind=resources",
    "create {p} times=5: no-capacity kind=quota",
    "create {p}: lose",
    "create {p}: cut",
    "create {p}: drop",
    "create {p} times=2: hang",
    "create {p}: delay ms=700",
    "create {p}: hide ms=900",
    "create {p}: hide ms=3000",
    "create {p}: slow-pull ms=1500",
    "create {p}: stick state=created ms=3000",
    "create {p}: stick state=starting ms=2000",
    "create {p} times=5: forget",
    "get {p}: refuse status=500",
    "get {p}: drop",
    "get {p}: cut",
    "get {p}: delay ms=300",
    "wait {p}: drop",
    "wait {p}: refuse status=408 error=\"deadline_exceeded\"",
    "wait {p}: refuse status=500",
    "delete {p}: refuse status=412 error=\"failed_precondition: machine still active, refusing to destroy\"",
    "delete {p}: refuse status=503",
    "delete {p}: lose",
    "delete {p}: cut",
    "delete {p}: stick state=destroying ms=2000",
    "list {p}: refuse status=500",
    "list {p}: drop",
    "list {p}: cut",
];

/// An answer of the provider that was recorded, to one create call. Those that hold an app back for
/// a while come seldom.
fn recorded(rng: &mut Rng) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        status: u16,
        body: String,
        decision: String,
    }
    let answers = include_str!("../fixtures/machines/answers.json");
    let answers: Vec<Answer> = serde_json::from_str(answers).unwrap();
    let holds = |answer: &Answer| {
        matches!(
            answer.decision.as_str(),
            "quota" | "unauthorized" | "misconfigured"
        )
    };
    loop {
        let answer = &answers[rng.usize(..answers.len())];
        if holds(answer) && rng.u32(..50) > 0 {
            continue;
        }
        let body = serde_json::to_string(&answer.body).unwrap();
        return format!("create nth=1: refuse status={} body={body}", answer.status);
    }
}

fn weather(rng: &mut Rng) -> Vec<String> {
    let rules = (0..rng.usize(1..10)).map(|_| {
        if rng.u32(..30) == 0 {
            return recorded(rng);
        }
        let rule = FAULTS[rng.usize(..FAULTS.len())];
        let chance = [2, 5, 10, 30][rng.usize(..4)];
        let seed = rng.u32(..);
        rule.replace("{p}", &format!("p=0.{chance:02} seed={seed}"))
    });
    rules.collect()
}
