//! Plugins that misbehave, and delegation.

use std::fs::{self, OpenOptions};
use std::time::{Duration, Instant};

use crate::common::World;
use watari_cni_spec::{CniError, Code, Command, Request};
use watari_runtime::{Error, delegate};
use watari_testkit::wait_until;

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let mut world = World::new(&["a"]);
    world.runtime.timeout = Duration::from_millis(600);
    let list = world.list("1.1.0", &["a"]);
    let pid = world.file("pid");
    world.on(
        "a",
        "STATUS",
        &format!(
            "echo waiting >&2; sleep 1000 & echo $! > {}; wait",
            pid.display()
        ),
    );
    let start = Instant::now();
    let error = world.runtime.status(&list).unwrap_err().to_string();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(
        error.contains("did not end STATUS within 600ms and was killed; it said: waiting"),
        "{error}"
    );
    let child = fs::read_to_string(&pid).unwrap();
    let state = format!("/proc/{}/stat", child.trim());
    wait_until(Duration::from_secs(10), "its child to be killed", || {
        fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn a_child_that_keeps_the_output_open_is_not_waited_for() {
    let world = World::new(&["a"]);
    let list = world.list("1.1.0", &["a"]);
    let pid = world.file("pid");
    world.on(
        "a",
        "ADD",
        &format!("sleep 15 & echo $! > {}", pid.display()),
    );
    let start = Instant::now();
    world.add(&list, "c1").unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    let child: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    // The shell's own: a bare machine has no program of that name.
    watari_testkit::run(&["sh", "-c", &format!("kill {child}")]);
}

#[test]
fn what_is_no_answer_is_shown() {
    let world = World::new(&["a"]);
    let list = world.list("1.1.0", &["a"]);
    for (shell, says) in [
        (
            "echo garbage; echo oh >&2; exit 1",
            r#"without an error object (exit status: 1); it printed: "garbage"; it said: oh"#,
        ),
        ("kill -9 $$", "signal: 9"),
        ("exit 0", "the result is not a JSON object: it is empty"),
        ("echo garbage; exit 0", "expected value at line 1 column 1"),
        (
            r#"echo '{"ips":[{"address":"x"}]}'; exit 0"#,
            r#""ips[0].address""#,
        ),
        (
            "head -c 3000000 /dev/zero; sleep 100",
            "printed more than 1048576 bytes",
        ),
    ] {
        world.on("a", "ADD", shell);
        let error = world.add(&list, "c1").unwrap_err();
        assert!(error.contains(says), "{shell}: {error}");
        assert_eq!(world.order(), "ADD a, DEL a");
    }
}

#[test]
fn much_on_standard_error_and_unread_input_stop_nobody() {
    let world = World::new(&["a"]);
    let list = world.list("1.1.0", &["a"]);
    let plugin =
        "#!/bin/sh\nhead -c 4000000 /dev/zero | tr '\\0' x >&2\nexec 0<&-\necho '{\"ips\":[]}'\n";
    fs::write(world.file("bin/a"), plugin).unwrap();
    let mut world = world;
    // More than a pipe holds.
    world.args.insert("K".into(), "V".into());
    let big = serde_json::Value::String("x".repeat(300_000));
    let mut list = list;
    list.conf.plugins[0].raw.insert("big".into(), big);
    world.add(&list, "c1").unwrap();
}

#[test]
fn an_executable_that_is_being_written_is_tried_again() {
    let world = World::new(&["a"]);
    let list = world.list("1.1.0", &["a"]);
    let busy = OpenOptions::new()
        .append(true)
        .open(world.file("bin/a"))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            drop(busy);
        });
        world.add(&list, "c1").unwrap();
    });
}

fn request(world: &World, command: Command) -> Request {
    Request::from_env(|variable| {
        Some(match variable {
            "CNI_COMMAND" => command.as_str().into(),
            "CNI_CONTAINERID" => "c1".into(),
            "CNI_IFNAME" => "eth0".into(),
            "CNI_NETNS" => "/run/netns/x".into(),
            "CNI_ARGS" => "A=1".into(),
            _ => world.file("bin").into(),
        })
    })
    .expect("a request")
}

#[test]
fn a_delegate_is_told_the_same() {
    let world = World::new(&["ipam"]);
    let stdin = br#"{"cniVersion":"1.1.0","name":"n","type":"t","ipam":{"type":"ipam"}}"#;
    for command in [
        Command::Add,
        Command::Check,
        Command::Status,
        Command::Gc,
        Command::Del,
    ] {
        let request = request(&world, command);
        let result = delegate("ipam", &request, stdin).unwrap();
        assert_eq!(result.is_some(), command == Command::Add);
        let told = world.told();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].what, format!("{command} ipam"));
        let sent: serde_json::Value = serde_json::from_slice(stdin).unwrap();
        assert_eq!(told[0].conf, sent);
        let env = fs::read_to_string(world.file("ipam.env")).unwrap();
        assert_eq!(
            env.contains("CNI_ARGS=A=1\n"),
            command.of_attachment(),
            "{env}"
        );
    }
}

#[test]
fn a_delegate_that_fails_add_is_undone_and_keeps_its_code() {
    let world = World::new(&["ipam"]);
    world.on("ipam", "ADD", r#"echo '{"code":100,"msg":"full"}'; exit 1"#);
    let error = delegate("ipam", &request(&world, Command::Add), b"{}").unwrap_err();
    assert_eq!(world.order(), "ADD ipam, DEL ipam");
    let object = CniError::from(error);
    assert_eq!(
        (object.code, object.msg.as_str()),
        (Code::POOL_EXHAUSTED, "full")
    );

    let error = delegate("gone", &request(&world, Command::Add), b"{}").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = delegate("../bin/ipam", &request(&world, Command::Del), b"{}").unwrap_err();
    assert_eq!(CniError::from(error).code, Code::DELEGATE);
    assert_eq!(world.order(), "");
}
