//! What a machine's root holds: the host's programs, an image, and the files it was given.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use cofferdam_sandbox::{Error, Root, Spec};

use super::lab::{Lab, file, sh, spec};

/// A small image that every user can read, as an import leaves it, with three of the host's
/// programs and the libraries they need.
fn image(root: &Path) {
    for folder in ["bin", "etc/app", "usr/share", "empty"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/app/a"), "of the image\n").unwrap();
    symlink("../etc/app", root.join("usr/app")).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["sh", "cat", "ls"] {
        let path = Path::new("/bin").join(program);
        fs::copy(&path, root.join("bin").join(program)).unwrap();
        let needs = Command::new("ldd").arg(path).output().unwrap().stdout;
        let needs = String::from_utf8(needs).unwrap();
        for library in needs
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let copy = root.join(library.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(library, copy).unwrap();
        }
    }
}

fn on(root: &Path, argv: &[&str]) -> Spec {
    Spec {
        root: Root::Dir(root.to_owned()),
        ..spec(argv)
    }
}

#[tokio::test]
async fn the_hosts_own_programs_run() {
    let lab = Lab::open().await;
    let script = "set -e
        python3 -c 'import json, ssl, sqlite3, pwd, os; print(pwd.getpwuid(os.getuid()).pw_name)'
        perl -e 'print \"perl\\n\"'
        awk 'BEGIN { print \"awk\" }'
        git init -q r && cd r && git -c user.name=n -c user.email=e commit -q --allow-empty -m first
        git bundle create -q ../b HEAD && git clone -q ../b ../c && git -C ../c log --format=%s
        getent hosts localhost | tr -s ' '
        id -un; hostname; pwd -P";
    let printed = lab.sh(script).await;
    let expected =
        "machine\nperl\nawk\nfirst\n127.0.0.1 localhost machine\nmachine\nmachine\n/workspace/r";
    assert_eq!(printed, expected);
    lab.close().await;
}

#[tokio::test]
async fn an_empty_image_is_enough() {
    let lab = Lab::open().await;
    let root = lab.dir.path().join("image");
    fs::create_dir(&root).unwrap();
    assert_eq!(
        lab.run(on(&root, &["/.init", "memory", "1"])).await.good(),
        "1"
    );
    let missing = lab.refused(on(&root, &["sh"])).await;
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert!(
        fs::read_dir(&root).unwrap().next().is_none(),
        "the image was written to"
    );
    lab.close().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_refused() {
    let lab = Lab::open().await;
    let refused = lab.refused(on(&lab.dir.path().join("none"), &["sh"])).await;
    assert!(refused.to_string().contains("none"), "{refused}");
    lab.close().await;
}

#[tokio::test]
async fn files_go_anywhere_and_the_rest_of_the_image_stays() {
    let lab = Lab::open().await;
    let mut given = sh(
        "cat /etc/passwd /usr/local/share/new/deep /tmp/t w /srv/made; \
        ls /usr/local | sort | tr '\\n' ' '; ls -l /tmp/t /workspace/w | cut -c1-10; \
        echo more >> /workspace/w && tail -n1 /workspace/w; touch /etc/passwd",
    );
    given.files = vec![
        file("/etc/passwd", "covered\n"),
        file("/usr/local/share/new/deep", "deep\n"),
        file("/tmp/t", "t\n"),
        file("/workspace/w", "w\n"),
        file("/srv/made", "made\n"),
    ];
    given.files[2].mode = 0o4755;
    let ran = lab.run(given).await;
    let mut local: Vec<_> = fs::read_dir("/usr/local")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    local.sort();
    let expected = format!(
        "covered\ndeep\nt\nw\nmade\n{} -rwxr-xr-x\n-rw-r--r--\nmore\n",
        local.join(" ")
    );
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("Read-only") || ran.stderr.contains("denied"),
        "{}",
        ran.stderr
    );
    lab.close().await;
}

#[tokio::test]
async fn an_image_is_seen_as_it_is_with_the_files_in_it_and_stays_so() {
    let lab = Lab::open().await;
    let root = lab.dir.path().join("image");
    image(&root);
    let show = "cat /etc/app/* /usr/app/a; cd /etc/app; ls; ls -d /empty /usr/share; \
        : > /bin/new; : > /etc/app/a";
    let plain = lab.run(on(&root, &["sh", "-c", show])).await;
    let expected = "of the image\nof the image\na\n/empty\n/usr/share\n";
    assert_eq!(plain.stdout, expected, "{}", plain.stderr);
    assert_eq!(
        plain.stderr.matches("Read-only").count(),
        1,
        "{}",
        plain.stderr
    );

    let mut filled = on(&root, &["sh", "-c", show]);
    // By way of a link of the image, and over a file of it.
    filled.files = vec![
        file("/usr/app/added", "added\n"),
        file("/etc/app/a", "covered\n"),
    ];
    let filled = lab.run(filled).await;
    let expected = "covered\nadded\ncovered\na\nadded\n/empty\n/usr/share\n";
    assert_eq!(filled.stdout, expected, "{}", filled.stderr);
    assert_eq!(
        fs::read_to_string(root.join("etc/app/a")).unwrap(),
        "of the image\n"
    );
    assert!(!root.join("etc/app/added").exists() && !root.join("bin/new").exists());
    lab.close().await;
}

#[tokio::test]
async fn an_image_without_names_knows_its_user_and_localhost_and_may_write_to_var_tmp() {
    let lab = Lab::open().await;
    let root = lab.dir.path().join("image");
    image(&root);
    fs::write(root.join("etc/passwd"), "app:x:7:7::/app:/bin/sh").unwrap();
    let show = "cat /etc/passwd /etc/group /etc/hosts && echo kept > /var/tmp/a && cat /var/tmp/a";
    let ours = "machine:x:1000:1000:machine:/workspace:/bin/sh\n";
    let group = "root:x:0:\nmachine:x:1000:\nnogroup:x:65534:\n";
    let expected =
        format!("app:x:7:7::/app:/bin/sh\n{ours}{group}127.0.0.1 localhost machine\nkept\n");
    // Twice: the second one is given what the first one was made.
    for _ in 0..2 {
        let ran = lab.run(on(&root, &["sh", "-c", show])).await;
        assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    }
    // Below /var the rest of the image stays, and files of the request go first.
    fs::create_dir_all(root.join("var/lib")).unwrap();
    fs::write(root.join("var/lib/a"), "of the image\n").unwrap();
    let mut given = on(
        &root,
        &["sh", "-c", "cat /etc/passwd /var/lib/a /var/tmp/given"],
    );
    given.files = vec![
        file("/etc/passwd", "given\n"),
        file("/var/tmp/given", "too\n"),
    ];
    let ran = lab.run(given).await;
    assert_eq!(ran.stdout, "given\nof the image\ntoo\n", "{}", ran.stderr);
    assert!(!root.join("etc/hosts").exists() && !root.join("var/tmp").exists());
    lab.close().await;
}

#[tokio::test]
async fn an_image_that_is_replaced_is_seen_with_what_the_new_one_lacks() {
    let lab = Lab::open().await;
    let root = lab.dir.path().join("image");
    image(&root);
    let hosts = |root| on(root, &["cat", "/etc/hosts"]);
    let before = lab.run(hosts(&root)).await.good();
    assert_eq!(before, "127.0.0.1 localhost machine");
    fs::rename(&root, lab.dir.path().join("old")).unwrap();
    image(&root);
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    assert_eq!(lab.run(hosts(&root)).await.good(), "127.0.0.1 localhost");
    lab.close().await;
}

#[tokio::test]
async fn files_that_cannot_be_placed_are_refused_by_name() {
    let lab = Lab::open().await;
    let root = lab.dir.path().join("image");
    fs::create_dir_all(root.join("many")).unwrap();
    for n in 0..300 {
        fs::write(root.join(format!("many/{n}")), "").unwrap();
    }
    for (path, expected) in [
        ("/many/new", "300 entries"),
        ("/proc/1/x", "/proc"),
        ("relative", "relative"),
        ("/tmp", "folder"),
    ] {
        let mut spec = on(&root, &["/.init", "memory", "1"]);
        spec.files = vec![file(path, "x")];
        let refused = lab.refused(spec).await;
        assert!(matches!(refused, Error::Spec(_)), "{refused:?}");
        assert!(
            refused.to_string().contains(expected),
            "{refused} does not say {expected}"
        );
    }
    let mut too_large = sh("true");
    too_large.files = vec![file("/tmp/large", &"x".repeat(65 << 20))];
    let refused = lab.refused(too_large).await;
    assert!(
        matches!(&refused, Error::Spec(why) if why.contains("/tmp/large")),
        "{refused:?}"
    );
    lab.close().await;
}
