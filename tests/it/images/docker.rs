//! What a real container engine saves, where one runs.

use std::process::{Command, Output};

use super::build::Layer;
use super::{Bench, files};
use cofferdam_images::Kind;

/// Images and containers of one test, which go when it ends.
struct Engine {
    name: String,
}

impl Engine {
    /// An engine if one answers; says so if none does.
    #[expect(
        clippy::print_stderr,
        reason = "a test that cannot run says why out loud"
    )]
    fn find(name: &str) -> Option<Self> {
        let answers = Command::new("docker")
            .arg("version")
            .output()
            .is_ok_and(|output| output.status.success());
        if !answers {
            eprintln!("skipped: no docker engine answers here");
            return None;
        }
        let name = format!("cofferdam-test-{name}-{}", std::process::id());
        Some(Self { name })
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Output {
        let output = Command::new("docker").args(arguments).output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        output
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let remove = |arguments: &[&str]| Command::new("docker").args(arguments).output();
        let _ = remove(&["rm", "-f", &self.name]);
        for tag in ["base", "app"] {
            let _ = remove(&["rmi", "-f", &format!("{}:{tag}", self.name)]);
        }
    }
}

#[test]
fn an_image_of_two_layers_saved_by_docker_is_imported_as_docker_has_it() {
    let Some(engine) = Engine::find("save") else {
        return;
    };
    let bench = Bench::new();
    let [base, app] = ["base", "app"].map(|tag| format!("{}:{tag}", engine.name));
    let lower = Layer::new()
        .file("etc/kept", "lower")
        .file("etc/changed", "lower")
        .hard_link("etc/twin", "etc/kept")
        .symlink("etc/link", "/etc/kept")
        .bytes();
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    std::fs::write(path("lower.tar"), lower).unwrap();
    std::fs::write(path("changed"), "upper").unwrap();
    engine.run(&["import", &path("lower.tar"), &base]);
    engine.run(&["create", "--name", &engine.name, &base, "/none"]);
    let target = format!("{}:/etc/changed", engine.name);
    engine.run(&["cp", &path("changed"), &target]);
    let change = r#"ENTRYPOINT ["/bin/guest"]"#;
    engine.run(&["commit", "-c", change, "-c", "ENV A=b", &engine.name, &app]);
    engine.run(&["save", "-o", &path("app.tar"), &app]);

    let imported = bench.store.import(&app, &bench.path("app.tar")).unwrap();
    assert!(matches!(imported.kind, Kind::Docker | Kind::Oci));
    assert_eq!(imported.layers, 2);
    let id = engine.run(&["inspect", "--format", "{{.Id}}", &app]).stdout;
    if imported.kind == Kind::Docker {
        assert_eq!(String::from_utf8(id).unwrap().trim(), imported.digest);
    }
    let resolved = bench.store.resolve(&app).unwrap();
    assert_eq!(resolved.entrypoint, ["/bin/guest"]);
    assert!(resolved.env.contains(&("A".to_owned(), "b".to_owned())));
    let mut found = bench.files(&app);
    // Some engines add empty folders of their own.
    found.retain(|name, _| name.starts_with("etc/"));
    assert_eq!(
        found,
        files([
            ("etc/", "0755"),
            ("etc/changed", "0644 upper"),
            ("etc/kept", "0644 lower"),
            ("etc/link", "-> /etc/kept"),
            ("etc/twin", "0644 lower"),
        ])
    );
}
