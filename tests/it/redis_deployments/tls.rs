//! TLS: an authority of one's own, certificates of clients, other names, and what is refused.

use std::fs;
use std::path::Path;

use crate::redis_deployments::{DELAY, Env, RUNS, borrowed, redis, tool};
use crate::redis_faults::scene::Scene;
use crate::support::certificates::{Authority, Certified};
use crate::support::redis::Server;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The settings for a server, as far as all need them.
fn settings(server: &Server, host: &str, authority: &Authority) -> Env {
    vec![
        (
            "REDIS_URL",
            format!("rediss://{host}:{}", server.tls_port()),
        ),
        ("COFFERDAM_REDIS_CA_FILE", text(&authority.file())),
    ]
}

fn with_identity(mut env: Env, client: &Certified) -> Env {
    env.push(("COFFERDAM_REDIS_CERT_FILE", text(&client.certificate)));
    env.push(("COFFERDAM_REDIS_KEY_FILE", text(&client.key)));
    env
}

/// The server is killed under the runs and comes back.
async fn runs_end_once(mut server: Server, env: Env) {
    let mut scene = Scene::start_with(redis(&env), &borrowed(&env), DELAY).await;
    scene.submit_by_store(RUNS).await;
    scene.has_results(RUNS / 10).await;
    server.stop();
    tokio::time::sleep(DELAY).await;
    server.resume();
    scene.settles().await;
    let listed = scene.fleet.tool(&["runs", "--json"]);
    assert!(!listed.json().is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_ones_own_serves_every_process_and_tool() {
    let authority = Authority::new();
    let certified = authority.signs("redis", &["127.0.0.1"]);
    let server = Server::start_tls(&certified, &authority.file(), false);
    let env = settings(&server, "127.0.0.1", &authority);
    runs_end_once(server, env).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_a_certificate_of_our_own_and_another_name_serves_every_process_and_tool() {
    let authority = Authority::new();
    let certified = authority.signs("redis", &["redis.example"]);
    let client = authority.signs("client", &["cofferdam.example"]);
    let server = Server::start_tls(&certified, &authority.file(), true);
    let mut env = with_identity(settings(&server, "127.0.0.1", &authority), &client);
    env.push(("COFFERDAM_REDIS_TLS_NAME", "redis.example".to_owned()));
    runs_end_once(server, env).await;
}

/// Every refusal says whose it is and by which setting it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn what_tls_refuses_is_told_with_the_setting_that_mends_it() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certified = authority.signs("redis", &["redis.example"]);
    let stranger = other.signs("stranger", &["cofferdam.example"]);
    let asks = Server::start_tls(&certified, &authority.file(), true);
    let client = authority.signs("client", &["cofferdam.example"]);
    let named = |mut env: Env| {
        env.push(("COFFERDAM_REDIS_TLS_NAME", "redis.example".to_owned()));
        env
    };
    let sound = settings(&asks, "127.0.0.1", &authority);
    let without = |env: &Env, name: &str| -> Env {
        env.iter()
            .filter(|(known, _)| *known != name)
            .cloned()
            .collect()
    };
    let plain_port = asks.tcp_url().rsplit(':').next().unwrap().to_owned();
    let mut to_plain = named(with_identity(sound.clone(), &client));
    to_plain[0].1 = format!("rediss://127.0.0.1:{plain_port}");
    for (env, said) in [
        (
            named(with_identity(
                without(&sound, "COFFERDAM_REDIS_CA_FILE"),
                &client,
            )),
            "is signed by nobody whom we trust: name a file with the certificate of its authority \
             in COFFERDAM_REDIS_CA_FILE",
        ),
        (
            named(with_identity(settings(&asks, "127.0.0.1", &other), &client)),
            "in COFFERDAM_REDIS_CA_FILE",
        ),
        (
            with_identity(sound.clone(), &client),
            "is not for 127.0.0.1",
        ),
        (
            with_identity(sound.clone(), &client),
            "set COFFERDAM_REDIS_TLS_NAME",
        ),
        (
            named(sound.clone()),
            "name one in COFFERDAM_REDIS_CERT_FILE and its key in COFFERDAM_REDIS_KEY_FILE",
        ),
        (
            named(with_identity(sound.clone(), &stranger)),
            "refuses the certificate in COFFERDAM_REDIS_CERT_FILE",
        ),
    ] {
        let refused = tool(&["runs"], &env);
        assert_eq!(refused.status, 1, "{said}: {refused:?}");
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        // It does not pass, so nobody waits for it at the start.
        let begun = tokio::time::Instant::now();
        let mut worker = env;
        worker.extend([
            ("FLY_API_TOKEN", "token".to_owned()),
            ("COFFERDAM_APPS", "app".to_owned()),
            ("COFFERDAM_GUEST_URL", "http://127.0.0.1:1".to_owned()),
            (
                "COFFERDAM_SIGNING_KEYS",
                crate::support::fleet::KEYS.to_owned(),
            ),
            ("COFFERDAM_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ]);
        let refused = tool(&["worker"], &worker);
        assert_eq!(refused.status, 1, "{said}: {refused:?}");
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        assert!(begun.elapsed().as_secs() < 10);
    }
    let refused = tool(&["runs"], &to_plain);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused.stderr.contains("if it does not speak TLS"),
        "{refused:?}"
    );
    let well = tool(&["runs"], &named(with_identity(sound, &client)));
    assert_eq!(well.status, 0, "{well:?}");
}

/// Files that are none are faults in the settings, all told at once and before anything is touched.
#[test]
fn files_of_tls_that_cannot_be_used_are_faults_in_the_settings() {
    let authority = Authority::new();
    let (one, other) = (
        authority.signs("one", &["a"]),
        authority.signs("other", &["a"]),
    );
    fs::write(authority.path("empty"), "").unwrap();
    let empty = text(&authority.path("empty"));
    let url = ("REDIS_URL", "rediss://127.0.0.1:1".to_owned());
    let ca = "COFFERDAM_REDIS_CA_FILE";
    let (cert, key) = ("COFFERDAM_REDIS_CERT_FILE", "COFFERDAM_REDIS_KEY_FILE");
    let cases: Vec<(Env, &[&str])> = vec![
        (
            vec![
                url.clone(),
                (ca, "/nowhere/ca.pem".to_owned()),
                (cert, empty.clone()),
            ],
            &[
                "COFFERDAM_REDIS_CA_FILE: /nowhere/ca.pem: No such file",
                "COFFERDAM_REDIS_CERT_FILE: ",
                "holds no certificate in PEM",
                "COFFERDAM_REDIS_KEY_FILE: not set, but COFFERDAM_REDIS_CERT_FILE is",
            ],
        ),
        (
            vec![url.clone(), (cert, text(&one.certificate)), (key, empty)],
            &["COFFERDAM_REDIS_KEY_FILE: ", "holds no private key in PEM"],
        ),
        (
            vec![
                url.clone(),
                (cert, text(&one.certificate)),
                (key, text(&other.key)),
            ],
            &["COFFERDAM_REDIS_KEY_FILE: cannot be used with the certificate in"],
        ),
        (
            vec![
                ("REDIS_URL", "redis://127.0.0.1:1".to_owned()),
                (ca, text(&authority.file())),
            ],
            &["COFFERDAM_REDIS_CA_FILE: set, but REDIS_URL asks for no TLS"],
        ),
        (
            vec![url, ("COFFERDAM_REDIS_TLS_NAME", "a b".to_owned())],
            &["COFFERDAM_REDIS_TLS_NAME: \"a b\" is not a host name"],
        ),
    ];
    for (env, told) in cases {
        let refused = tool(&["runs"], &env);
        assert_eq!(refused.status, 2, "{refused:?}");
        for words in told {
            assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        }
    }
}
