//! Several files: `-c` twice, `extends`, `include`, `.env`, `env_file`, profiles.

use crate::common::{Memory, project};
use serde_json::{Value, json};
use skep_compose::{Input, Request, load};

fn container(files: &[(&str, &str)], inputs: &[&str], service: &str) -> Value {
    let project = project(files, inputs, &[("OUT", "outside")]).unwrap_or_else(|error| panic!("{error}"));
    let stack = project.to_stack("s", &Memory::new(files)).unwrap();
    let found = stack.services.into_iter().find(|s| s.key == service).expect("the service is there");
    found.spec["TaskTemplate"]["ContainerSpec"].clone()
}

fn refused(files: &[(&str, &str)]) -> String {
    project(files, &[files[0].0], &[]).err().expect("it must be refused").to_string()
}

#[test]
fn later_files_win() {
    let files = [
        ("/p/a.yml", "services: {w: {image: one, environment: [A=1, B=1], command: [x]}}"),
        ("/p/b.yml", "services: {w: {image: two, environment: {B: 2}}, v: {image: three}}"),
    ];
    let w = container(&files, &["/p/a.yml", "/p/b.yml"], "w");
    assert_eq!((&w["Image"], &w["Env"], &w["Args"]), (&json!("two"), &json!(["A=1", "B=2"]), &json!(["x"])));
    assert_eq!(container(&files, &["/p/a.yml", "/p/b.yml"], "v")["Image"], "three");
}

#[test]
fn standard_input_is_a_file_too() {
    let request = Request {
        inputs: vec![Input { path: "-".into(), text: Some("services: {w: {imag: x}}".into()) }],
        folder: "/p".into(),
        environment: Default::default(),
        profiles: vec![],
        interpolate: true,
        local: None,
    };
    let said = load(&request, &Memory::new(&[])).err().unwrap().to_string();
    assert!(said.starts_with("-:1:16: services.w Additional property imag"), "{said}");
}

#[test]
fn extends_within_and_across_files() {
    let files = [
        (
            "/p/f.yml",
            "services:\n  base: {image: b, environment: {A: 1}}\n  w:\n    extends: base\n    environment: {B: 2}\n  far:\n    extends: {file: sub/other.yml, service: top}\n    user: u\n",
        ),
        (
            "/p/sub/other.yml",
            "services:\n  top: {extends: {service: deep}, env_file: vars.env}\n  deep: {image: d, volumes: ['./data:/d']}\n",
        ),
        ("/p/sub/vars.env", "X=\"1\"\nOUT\n"),
    ];
    let w = container(&files, &["/p/f.yml"], "w");
    assert_eq!((&w["Image"], &w["Env"]), (&json!("b"), &json!(["A=1", "B=2"])));
    let far = container(&files, &["/p/f.yml"], "far");
    assert_eq!(
        (&far["Image"], &far["User"], &far["Env"]),
        (&json!("d"), &json!("u"), &json!(["OUT=outside", "X=\"1\""]))
    );
    assert_eq!(far["Mounts"][0]["Source"], "/p/sub/data");
}

#[test]
fn circles_of_extends_and_include_name_their_chain() {
    let said = refused(&[("/p/f.yml", "services:\n  a: {extends: b, image: x}\n  b: {extends: a}\n")]);
    assert_eq!(said, "extends goes in a circle: a (/p/f.yml) -> b (/p/f.yml) -> a (/p/f.yml)");
    let said = refused(&[
        ("/p/f.yml", "services: {a: {extends: {file: g.yml, service: b}}}"),
        ("/p/g.yml", "services: {b: {extends: {file: f.yml, service: a}}}"),
    ]);
    assert_eq!(said, "extends goes in a circle: a (/p/f.yml) -> b (/p/g.yml) -> a (/p/f.yml)");
    let said = refused(&[("/p/f.yml", "include: [g.yml]"), ("/p/g.yml", "include: [f.yml]")]);
    assert_eq!(said, "include goes in a circle: /p/f.yml -> /p/g.yml -> /p/f.yml");
    let said = refused(&[("/p/f.yml", "services: {a: {extends: {service: nowhere}}}")]);
    assert!(said.contains("cannot extend service \"nowhere\"") && said.starts_with("/p/f.yml:1:16"), "{said}");
    let said = refused(&[("/p/f.yml", "include: [nowhere.yml]")]);
    assert_eq!(said, "open /p/nowhere.yml: no such file or directory");
}

#[test]
fn copies_by_extends_are_limited() {
    let list = vec!["x"; 3000].join(",");
    let mut text = format!("services:\n  base: {{image: x, cap_add: [{list}]}}\n");
    for number in 0..200 {
        text.push_str(&format!("  s{number}: {{extends: base}}\n"));
    }
    assert!(refused(&[("/p/f.yml", &text)]).contains("extends copies more than"));
    let mut text = "services:\n  s0: {image: x}\n".to_owned();
    for number in 1..300 {
        text.push_str(&format!("  s{number}: {{extends: s{}}}\n", number - 1));
    }
    assert!(refused(&[("/p/f.yml", &text)]).contains("more than 64 services extend each other"));
}

#[test]
fn includes_bring_their_folder_and_variables() {
    let files = [
        ("/p/f.yml", "include:\n  - path: sub/one.yml\n  - two.yml\nservices: {w: {image: x, depends_on: [one]}}\n"),
        ("/p/sub/one.yml", "services: {one: {image: 'i:${TAG}', volumes: ['./d:/d', 'v:/v']}}\nvolumes: {v: }\n"),
        ("/p/sub/.env", "TAG=7\n"),
        ("/p/two.yml", "services: {two: {image: t}}\nvolumes: {v: }\n"),
    ];
    let one = container(&files, &["/p/f.yml"], "one");
    assert_eq!((&one["Image"], &one["Mounts"][0]["Source"]), (&json!("i:7"), &json!("/p/sub/d")));
    assert_eq!(container(&files, &["/p/f.yml"], "two")["Image"], "t");
    let said = refused(&[
        ("/p/f.yml", "include: [g.yml]\nservices: {a: {image: x}}"),
        ("/p/g.yml", "services: {a: {image: y}}"),
    ]);
    assert_eq!(said, "/p/f.yml:2:12: services.a is defined otherwise in an included file (/p/g.yml:1:12)");
}

#[test]
fn dotenv_is_weaker_than_the_surroundings() {
    let files = [
        ("/p/f.yml", "services: {w: {image: '${A}-${OUT}-${B:-d}', environment: [A, NONE]}}"),
        ("/p/.env", "A=1\nOUT=no\n"),
    ];
    let w = container(&files, &["/p/f.yml"], "w");
    assert_eq!((&w["Image"], &w["Env"]), (&json!("1-outside-d"), &json!(["A=1", "NONE"])));
    let said = refused(&[("/p/f.yml", "services: {w: {image: \"x${\"}}")]);
    assert!(said.starts_with("/p/f.yml:1:23: invalid interpolation format"), "{said}");
    let said = refused(&[("/p/f.yml", "services: {w: {image: x}}"), ("/p/.env", "\nA=\"x")]);
    assert!(said.starts_with("/p/.env:2: "), "{said}");
    let project = project(&[("/p/f.yml", "services: {w: {image: x, user: '$U$V'}}")], &["/p/f.yml"], &[]).unwrap();
    assert_eq!(project.unset().collect::<Vec<_>>(), ["U", "V"]);
}

#[test]
fn env_files_are_weaker_than_environment() {
    let files = [
        (
            "/p/f.yml",
            "services:\n  w:\n    image: x\n    env_file: [a.env, {path: none.env, required: false}, b.env]\n    environment: {C: 3, OUT: ''}\n",
        ),
        ("/p/a.env", "A=1\nB=1\nC=1\n"),
        ("/p/b.env", "B=2\n"),
    ];
    assert_eq!(container(&files, &["/p/f.yml"], "w")["Env"], json!(["A=1", "B=2", "C=3", "OUT=outside"]));
    let said = refused(&[("/p/f.yml", "services: {w: {image: x, env_file: none.env}}")]);
    assert!(said.contains("/p/none.env"), "{said}");
}

#[test]
fn profiles_choose_services() {
    let files = Memory::new(&[("/p/f.yml", "services: {a: {image: x}, b: {image: x, profiles: [debug]}}")]);
    let names = |profiles: &[&str]| {
        let request = Request {
            inputs: vec![Input { path: "/p/f.yml".into(), text: None }],
            folder: "/p".into(),
            environment: Default::default(),
            profiles: profiles.iter().map(|p| (*p).to_owned()).collect(),
            interpolate: true,
            local: None,
        };
        let stack = load(&request, &files).unwrap().to_stack("s", &files).unwrap();
        stack.services.into_iter().map(|service| service.key).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["a"]);
    assert_eq!(names(&["debug"]), ["a", "b"]);
    assert_eq!(names(&["*"]), ["a", "b"]);
}

#[test]
fn what_is_not_honoured_is_listed() {
    let text = "services: {a: {image: x, build: ., links: [b], container_name: n, networks: {default: {ipv4_address: 1.2.3.4}}}}";
    let project = project(&[("/p/f.yml", text)], &["/p/f.yml"], &[]).unwrap();
    assert_eq!(
        project.ignored().collect::<Vec<_>>(),
        ["build", "container_name", "links", "networks.default.ipv4_address"]
    );
}

#[test]
fn the_merged_file_reads_back_as_itself() {
    let text = "services:\n  w:\n    image: 'x'\n    command: 'echo \"a: b\"'\n    environment: {A: 'yes', B: \"l1\\nl2\", C: }\n    ports: ['80:80']\n    labels: {'a.b/c': '5'}\n";
    let first = project(&[("/p/f.yml", text)], &["/p/f.yml"], &[]).unwrap().to_yaml();
    let second = project(&[("/p/f.yml", &first)], &["/p/f.yml"], &[]).unwrap().to_yaml();
    assert_eq!(first, second);
    assert!(first.contains("image: x\n") && first.contains("A: \"yes\""), "{first}");
}
