//! Chaining, the cache and GC, over plugins that write down what they were told.

use std::fs;
use std::time::Duration;

use crate::common::{World, attachment};
use serde_json::json;
use watari_cni_spec::{CniError, Code};
use watari_runtime::{Error, NetworkList, Runtime};
use watari_testkit::wait_until;

#[test]
fn add_goes_forward_and_del_backward_with_the_results_handed_on() {
    let world = World::new(&["a", "b"]);
    let list = world.list("0.4.0", &["a", "b"]);
    world.add(&list, "c1").unwrap();
    let told = world.told();
    assert_eq!(told[0].what, "ADD a");
    assert_eq!(
        told[0].conf,
        json!({"cniVersion": "0.4.0", "name": "net", "type": "a"})
    );
    // The plugin answered in 1.0.0; the next is told in the version of the list.
    assert_eq!(told[1].what, "ADD b");
    assert_eq!(
        told[1].conf["prevResult"],
        json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.0.0.2/24"}], "dns": {}})
    );
    world.check(&list, "c1").unwrap();
    let checked = world.told();
    assert_eq!(checked[1].what, "CHECK b");
    assert_eq!(checked[0].conf["prevResult"], checked[1].conf["prevResult"]);
    assert_eq!(world.del(&list, "c1"), Ok(None));
    let deleted = world.told();
    assert_eq!(deleted[0].what, "DEL b");
    assert_eq!(deleted[1].what, "DEL a");
    assert_eq!(deleted[1].conf["prevResult"], checked[0].conf["prevResult"]);
    // Again: nothing is cached, nothing is told, all is well.
    assert_eq!(world.del(&list, "c1"), Ok(None));
    assert_eq!(world.told()[0].conf.get("prevResult"), None);
}

#[test]
fn a_result_in_the_lists_version_is_handed_on_with_what_we_do_not_know() {
    let world = World::new(&["a", "b"]);
    let list = world.list("1.0.0", &["a", "b"]);
    world.add(&list, "c1").unwrap();
    assert_eq!(world.told()[1].conf["prevResult"]["by"], "a");
}

#[test]
fn before_0_4_0_del_is_told_no_result() {
    let world = World::new(&["a"]);
    let list = world.list("0.3.0", &["a"]);
    let added = world.add(&list, "c1").unwrap();
    assert!(added.contains(r#""version":"4""#), "{added}");
    world.told();
    world.del(&list, "c1").unwrap();
    assert_eq!(world.told()[0].conf.get("prevResult"), None);
    assert!(
        world
            .check(&list, "c1")
            .unwrap_err()
            .contains("CHECK is not part of CNI 0.3.0")
    );
}

#[test]
fn the_environment_is_that_of_the_specification() {
    let mut world = World::new(&["a"]);
    world.args.insert("K".into(), "V".into());
    world.args.insert("A".into(), "1".into());
    let list = world.list("1.1.0", &["a"]);
    world.add(&list, "c1").unwrap();
    let path = std::env::join_paths(&world.runtime.path).unwrap();
    let path = path.to_str().unwrap();
    let env = |world: &World| fs::read_to_string(world.file("a.env")).unwrap();
    assert_eq!(
        env(&world),
        format!(
            "CNI_ARGS=A=1;K=V\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\n\
             CNI_NETNS=/run/netns/x\nCNI_PATH={path}\n"
        )
    );
    world.runtime.status(&list).unwrap();
    assert_eq!(
        env(&world),
        format!("CNI_COMMAND=STATUS\nCNI_PATH={path}\n")
    );
}

#[test]
fn capabilities_reach_those_who_declare_them_at_del_too() {
    let mut world = World::new(&["a", "b"]);
    world
        .capabilities
        .insert("mac".into(), json!("02:00:00:00:00:01"));
    world
        .capabilities
        .insert("ips".into(), json!(["10.0.0.9/24"]));
    let list = world.list("1.0.0", &["a", "b"]);
    world.add(&list, "c1").unwrap();
    world.del(&list, "c1").unwrap();
    let told = world.told();
    let runtime = |at: usize| told[at].conf.get("runtimeConfig");
    assert_eq!(runtime(0), None);
    assert_eq!(runtime(1), Some(&json!({"mac": "02:00:00:00:00:01"})));
    // DEL was given no capabilities: those of ADD count.
    assert_eq!(told[2].what, "DEL b");
    assert_eq!(runtime(2), runtime(1));
}

#[test]
fn an_add_that_fails_half_way_is_undone() {
    let world = World::new(&["a", "b", "c"]);
    let list = world.list("1.0.0", &["a", "b", "c"]);
    world.on("b", "ADD", r#"echo '{"code":11,"msg":"not now"}'; exit 1"#);
    let error = world.add(&list, "c1").unwrap_err();
    assert!(error.contains("b failed ADD (code 11): not now"), "{error}");
    assert_eq!(world.order(), "ADD a, ADD b, DEL b, DEL a");
    assert!(!world.file("cache/results/net-c1-eth0").exists());

    world.on("a", "DEL", "echo oh >&2; exit 3");
    let error = world.add(&list, "c1").unwrap_err();
    assert!(
        error.contains("not now") && error.contains("undoing it: a broke"),
        "{error}"
    );
    assert!(error.contains("it said: oh"), "{error}");
    assert_eq!(world.order(), "ADD a, ADD b, DEL b, DEL a");
}

#[test]
fn a_plugin_that_is_missing_is_found_out_before_anything_happens() {
    let world = World::new(&["a"]);
    fs::write(world.file("bin/dead"), "").unwrap();
    for (missing, says) in [
        ("zz", "/none, "),
        ("dead", "bin/dead is there, but not executable"),
    ] {
        let list = world.list("1.0.0", &["a", missing]);
        let error = world.add(&list, "c1").unwrap_err();
        assert!(error.contains(says), "{error}");
        assert_eq!(world.order(), "");
    }
}

#[test]
fn an_attachment_is_added_once() {
    let world = World::new(&["a"]);
    let list = world.list("1.0.0", &["a"]);
    world.add(&list, "c1").unwrap();
    let error = world.add(&list, "c1").unwrap_err();
    assert!(
        error.contains("c1/eth0 is attached to net already"),
        "{error}"
    );
    assert_eq!(world.order(), "ADD a");
}

#[test]
fn a_result_that_cannot_be_kept_is_undone() {
    let world = World::new(&["a"]);
    let list = world.list("1.0.0", &["a"]);
    fs::create_dir_all(world.file("cache")).unwrap();
    fs::write(world.file("cache/results"), "in the way").unwrap();
    let error = world.add(&list, "c1").unwrap_err();
    assert!(error.contains("cache/results"), "{error}");
    assert_eq!(world.order(), "ADD a, DEL a");
}

#[test]
fn the_cache_has_the_form_of_libcni() {
    let mut world = World::new(&["a"]);
    world.args.insert("K".into(), "V".into());
    world.capabilities.insert("mac".into(), json!("m"));
    let list = world.list("1.0.0", &["a"]);
    world.add(&list, "c1").unwrap();
    let file = world.file("cache/results/net-c1-eth0");
    let cached: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let plain = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"capabilities":{"mac":false},"type":"a"}]}"#;
    assert_eq!(fs::read_to_string(&list.file).unwrap(), plain);
    let base64 = "eyJjbmlWZXJzaW9uIjoiMS4wLjAiLCJuYW1lIjoibmV0IiwicGx1Z2lucyI6W3siY2FwYWJpbGl0aWVzIjp7Im1hYyI6ZmFsc2V9LCJ0eXBlIjoiYSJ9XX0=";
    assert_eq!(
        cached,
        json!({"kind": "cniCacheV1", "containerId": "c1", "config": base64, "ifName": "eth0",
            "networkName": "net", "netns": "/run/netns/x", "cniArgs": [["K", "V"]],
            "capabilityArgs": {"mac": "m"},
            "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}], "by": "a"}})
    );
    let left: Vec<_> = fs::read_dir(world.file("cache/results")).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
}

#[test]
fn del_goes_on_over_a_cached_result_that_is_not_whole() {
    let world = World::new(&["a"]);
    let list = world.list("1.0.0", &["a"]);
    let file = world.file("cache/results/net-c1-eth0");
    for (damage, says) in [
        (r#"{"kind":"cniCacheV1","contai"#, "not whole"),
        ("", "not whole"),
        (
            r#"{"kind":"x","containerId":"c1","ifName":"eth0","networkName":"net"}"#,
            "its kind",
        ),
    ] {
        world.add(&list, "c1").unwrap();
        fs::write(&file, damage).unwrap();
        assert!(world.check(&list, "c1").unwrap_err().contains(says));
        world.told();
        let warning = world.del(&list, "c1").unwrap().unwrap();
        assert!(
            warning.contains(says) && warning.contains("net-c1-eth0"),
            "{warning}"
        );
        let told = world.told();
        assert_eq!(told[0].what, "DEL a");
        assert_eq!(told[0].conf.get("prevResult"), None);
        assert!(!file.exists());
    }
}

#[test]
fn gc_detaches_what_is_not_valid_and_tells_the_plugins() {
    let world = World::new(&["a", "b"]);
    let list = world.list("1.1.0", &["a", "b"]);
    for container in ["c1", "c2", "c3"] {
        world.add(&list, container).unwrap();
    }
    world.told();
    let broken = world.file("cache/results/net-c9-eth0");
    fs::write(&broken, "{").unwrap();
    world.on("b", "GC", r#"echo '{"code":5,"msg":"disk"}'; exit 1"#);
    let error = world.runtime.gc(&list, &[attachment("c2")]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("net-c9-eth0") && text.contains("disk"),
        "{text}"
    );
    let told = world.told();
    let order: Vec<_> = told.iter().map(|told| told.what.as_str()).collect();
    assert_eq!(order, ["DEL b", "DEL a", "DEL b", "DEL a", "GC a", "GC b"]);
    let valid = &told[4].conf["cni.dev/valid-attachments"];
    assert_eq!(*valid, json!([{"containerID": "c2", "ifname": "eth0"}]));
    let (entries, _) = world.runtime.cache().entries(&list.conf.name).unwrap();
    assert_eq!(entries.len(), 1);

    fs::write(&list.file, r#"{"cniVersion":"1.1.0","name":"net","disableGC":true,"disableCheck":true,"plugins":[{"type":"a"}]}"#).unwrap();
    let list = NetworkList::read(&list.file).unwrap();
    world.runtime.gc(&list, &[]).unwrap();
    world.check(&list, "c2").unwrap();
    assert_eq!(world.order(), "", "disabled");
}

#[test]
fn gc_and_add_exclude_each_other() {
    let world = World::new(&["a"]);
    let list = world.list("1.1.0", &["a"]);
    let go = world.file("go");
    let hold = format!(
        "for i in $(seq 2000); do [ -e {} ] && break; sleep 0.01; done",
        go.display()
    );
    world.on("a", "ADD", &hold);
    let hasty = Runtime {
        timeout: Duration::from_millis(100),
        ..world.runtime.clone()
    };
    std::thread::scope(|scope| {
        let adding = scope.spawn(|| world.add(&list, "c1"));
        wait_until(Duration::from_secs(10), "ADD to begin", || {
            world.file("log").exists()
        });
        let error = hasty.gc(&list, &[]).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        fs::write(&go, "").unwrap();
        adding.join().unwrap().unwrap();
    });
    world.runtime.gc(&list, &[attachment("c1")]).unwrap();
    assert_eq!(world.order(), "ADD a, GC a");
}

#[test]
fn many_attachments_go_side_by_side() {
    let world = World::new(&["a"]);
    let list = world.list("1.0.0", &["a"]);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (world, list) = (&world, &list);
            scope.spawn(move || {
                for turn in 0..5 {
                    let container = format!("c{worker}-{turn}");
                    world.add(list, &container).unwrap();
                    assert_eq!(world.del(list, &container), Ok(None));
                }
            });
        }
    });
    let left = fs::read_dir(world.file("cache/results")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn gc_of_an_old_list_detaches_and_asks_no_plugin() {
    let world = World::new(&["a"]);
    let list = world.list("0.4.0", &["a"]);
    world.add(&list, "c1").unwrap();
    world.runtime.gc(&list, &[]).unwrap();
    assert_eq!(world.order(), "ADD a, DEL a");
}

#[test]
fn status_says_all_that_is_wrong() {
    let world = World::new(&["a", "b"]);
    let list = world.list("1.1.0", &["a", "b"]);
    world.runtime.status(&list).unwrap();
    world.on("a", "STATUS", r#"echo '{"code":50,"msg":"no"}'; exit 1"#);
    world.on("b", "STATUS", r#"echo '{"code":51,"msg":"nor I"}'; exit 1"#);
    let error = world.runtime.status(&list).unwrap_err();
    assert!(
        matches!(&error, Error::Several(errors) if errors.len() == 2),
        "{error}"
    );
    let object = CniError::from(error);
    assert_eq!(object.code, Code::NOT_AVAILABLE);
    assert!(object.details.contains("nor I"), "{object}");
    let old = world.list("1.0.0", &["a"]);
    assert!(world.runtime.status(&old).is_err());
}

#[test]
fn versions_are_asked_of_one_plugin() {
    let world = World::new(&["a"]);
    world.on(
        "a",
        "VERSION",
        r#"echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0"]}'"#,
    );
    let reply = world.runtime.versions("a").unwrap();
    assert_eq!(reply.supported_versions, ["1.0.0"]);
}

#[test]
fn networks_load_in_lexical_order_with_their_folders() {
    let world = World::new(&[]);
    let dir = world.file("net.d");
    fs::create_dir_all(dir.join("two")).unwrap();
    assert!(
        NetworkList::load(&dir, None)
            .unwrap_err()
            .to_string()
            .contains("no network")
    );
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write(
        "20-one.conf",
        r#"{"cniVersion":"0.3.1","name":"one","type":"a"}"#,
    );
    write(
        "10-two.conflist",
        r#"{"cniVersion":"1.1.0","name":"two","plugins":[{"type":"a"}]}"#,
    );
    write("05-note.txt", "not a network");
    write("two/2.conf", r#"{"type":"c"}"#);
    write("two/1.conf", r#"{"type":"b"}"#);
    let first = NetworkList::load(&dir, None).unwrap();
    let kinds: Vec<_> = first.conf.plugins.iter().map(|p| p.kind.as_str()).collect();
    assert_eq!(
        (first.conf.name.as_str(), &kinds[..]),
        ("two", &["a", "b", "c"][..])
    );
    let one = NetworkList::load(&dir, Some("one")).unwrap();
    assert_eq!(one.conf.plugins.len(), 1);
    write("00-bad.json", "{\n ]");
    let error = NetworkList::load(&dir, Some("three"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("00-bad.json") && error.contains("line 2"),
        "{error}"
    );
    assert!(
        NetworkList::load(&dir, None).is_err(),
        "a first file that is broken is said"
    );
    write(
        "10-two.conflist",
        r#"{"cniVersion":"1.1.0","name":"two","loadOnlyInlinedPlugins":true,"plugins":[{"type":"a"}]}"#,
    );
    assert_eq!(
        NetworkList::load(&dir, Some("two"))
            .unwrap()
            .conf
            .plugins
            .len(),
        1
    );
    assert_eq!(NetworkList::load_all(&dir).unwrap().len(), 3);
}
