//! Configurations as plugins receive them: what is read, and how a refusal reads.

use serde_json::json;
use watari_cni_spec::{Code, Command, MAX_INPUT, NetConf, Version, VersionReply};
use watari_model::Protocol;

fn refused(conf: impl AsRef<[u8]>) -> (Code, String) {
    let error = NetConf::parse(conf.as_ref()).expect_err("a refusal");
    (error.code, error.to_string())
}

fn with(field: &str, value: serde_json::Value) -> Vec<u8> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "n", "type": "t"});
    conf[field] = value;
    conf.to_string().into_bytes()
}

#[test]
fn the_aks_plugin_configuration_is_read() {
    let conf = NetConf::parse(
        br#"{"cniVersion":"0.3.0","name":"azure","type":"azure-vnet","mode":"transparent",
            "ipsToRouteViaHost":["169.254.20.10"],"ipam":{"type":"azure-vnet-ipam"}}"#,
    )
    .unwrap();
    assert_eq!(conf.cni_version, Version::V0_3_0);
    assert_eq!(
        (conf.name.as_str(), conf.kind.as_str()),
        ("azure", "azure-vnet")
    );
    assert_eq!(conf.ipam_kind().unwrap(), Some("azure-vnet-ipam"));
    assert_eq!(conf.raw["ipsToRouteViaHost"][0], "169.254.20.10");
    assert_eq!(conf.prev_result, None);
}

#[test]
fn port_mappings_take_their_defaults() {
    let conf = with(
        "runtimeConfig",
        json!({"mac": "02:00:00:00:00:01", "ips": ["10.0.0.9/16", "10.0.0.8"], "portMappings": [
            {"hostPort": 80, "containerPort": 8080},
            {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "::ffff:10.0.0.1"},
            {"hostPort": 9, "containerPort": 9, "protocol": "Sctp", "hostIP": ""},
            {"containerPort": 1, "hostIP": "::"},
        ]}),
    );
    let runtime = NetConf::parse(&conf).unwrap().runtime;
    assert_eq!(runtime.ips, ["10.0.0.9/16", "10.0.0.8"]);
    assert_eq!(runtime.mac.unwrap().to_string(), "02:00:00:00:00:01");
    let [a, b, c, d] = &runtime.port_mappings[..] else {
        panic!("{runtime:?}");
    };
    assert_eq!((a.protocol, a.host_ip), (Protocol::Tcp, None));
    assert_eq!(b.protocol, Protocol::Udp);
    assert_eq!(b.host_ip, Some("10.0.0.1".parse().unwrap()));
    assert_eq!((c.protocol, c.host_ip), (Protocol::Sctp, None));
    assert_eq!((d.host_port, d.host_ip), (0, Some("::".parse().unwrap())));
}

#[test]
fn names_in_other_letter_case_count_as_in_go() {
    let conf = with(
        "runtimeConfig",
        json!({"portMappings": [
            {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
            {"hostPort": 1, "HOSTPORT": 2, "containerPort": 3},
        ]}),
    );
    let mappings = NetConf::parse(&conf).unwrap().runtime.port_mappings;
    let ports: Vec<_> = mappings
        .iter()
        .map(|m| (m.host_port, m.container_port))
        .collect();
    assert_eq!(ports, [(8080, 80), (1, 3)], "the exact name first");
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (conf, says) in [
        (&b"{\"cniVersion\": \n  nope}"[..], "line 2 column"),
        (b"", "it is empty"),
        (b"\n ", "it is empty"),
        (b"[]", "want an object, found an array"),
        (b"{} {}", "trailing characters"),
        (b"\xff\xfe", "line 1"),
    ] {
        let (code, text) = refused(conf);
        assert_eq!(code, Code::DECODE);
        assert!(text.contains(says), "{text}");
    }
    let deep = format!("{{\"a\":{}", "[".repeat(MAX_INPUT - 10));
    assert!(refused(deep).1.contains("recursion limit"));
    let (code, text) = refused(vec![b' '; MAX_INPUT + 1]);
    assert_eq!(code, Code::DECODE);
    assert!(text.contains("longer than 1048576 bytes"), "{text}");
}

#[test]
fn a_refusal_names_the_field_and_shows_what_is_there() {
    let mapping = |mapping| json!({"portMappings": [{"hostPort": 1, "containerPort": 1}, mapping]});
    for (field, value, says) in [
        ("name", json!("a/b"), r#"the field "name" is not valid"#),
        ("name", json!(null), r#"the field "name" is missing"#),
        ("type", json!("../sh"), "no path, found \"../sh\""),
        ("type", json!(7), "want a string, found 7"),
        ("ipam", json!("x"), "want an object, found \"x\""),
        (
            "dns",
            json!({"search": [1]}),
            r#""dns.search[0]" is not valid"#,
        ),
        (
            "runtimeConfig",
            mapping(json!({"hostPort": 65536, "containerPort": 1})),
            r#""runtimeConfig.portMappings[1].hostPort" is not valid: want a whole number from 0 to 65535, found 65536"#,
        ),
        (
            "runtimeConfig",
            mapping(json!({"hostPort": 1, "containerPort": 0})),
            "want a whole number from 1 to 65535, found 0",
        ),
        (
            "runtimeConfig",
            mapping(json!({"hostPort": -1, "containerPort": 1})),
            "found -1",
        ),
        (
            "runtimeConfig",
            mapping(json!({"hostPort": 1})),
            r#""containerPort" is missing in runtimeConfig.portMappings[1]"#,
        ),
        (
            "runtimeConfig",
            mapping(json!({"hostPort": 1, "containerPort": 1, "protocol": "gre"})),
            "want tcp, udp or sctp",
        ),
        ("runtimeConfig", json!({"mac": "x"}), "MAC address"),
        (
            "runtimeConfig",
            json!({"mac": "01:00:5e:00:00:01"}),
            "multicast",
        ),
        (
            "prevResult",
            json!({"ips": [{"address": "10.0.0.1"}]}),
            r#""prevResult.ips[0].address""#,
        ),
        (
            "cni.dev/valid-attachments",
            json!([{"containerID": "a", "ifname": "e:0"}]),
            r#""cni.dev/valid-attachments[0].ifname""#,
        ),
    ] {
        let (code, text) = refused(with(field, value));
        assert_eq!(code, Code::INVALID_CONFIG, "{text}");
        assert!(text.contains(says), "{says}\n{text}");
    }
}

#[test]
fn other_versions_are_refused_by_name() {
    for conf in [
        r#"{"name":"n","type":"t"}"#,
        r#"{"cniVersion":"0.2.0","name":"n","type":"t"}"#,
        r#"{"cniVersion":"2.0.0"}"#,
    ] {
        let (code, text) = refused(conf);
        assert_eq!(code, Code::INCOMPATIBLE_VERSION);
        assert!(text.contains("supported: 0.3.0, 0.3.1"), "{text}");
    }
    let answer = VersionReply::answer(br#"{"cniVersion":"9.9.9"}"#).unwrap();
    assert_eq!(answer.cni_version, "9.9.9");
    assert_eq!(answer.supported_versions.len(), 5);
    assert_eq!(VersionReply::answer(b"").unwrap().cni_version, "1.1.0");
    assert!(VersionReply::answer(b"{").is_err());
    let read = VersionReply::from_json(answer.to_json().as_bytes()).unwrap();
    assert_eq!(read, answer);
}

#[test]
fn old_versions_do_not_know_the_new_commands() {
    let since = [
        (Command::Check, Version::V0_4_0),
        (Command::Gc, Version::V1_1_0),
        (Command::Status, Version::V1_1_0),
    ];
    for (command, first) in since {
        for version in Version::ALL {
            let conf = json!({"cniVersion": version, "name": "n", "type": "t",
                "prevResult": {}, "cni.dev/valid-attachments": []});
            let read = NetConf::parse_for(command, conf.to_string().as_bytes());
            match read {
                Ok(_) => assert!(version >= first, "{command} in {version}"),
                Err(error) => {
                    assert!(version < first, "{command} in {version}: {error}");
                    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
                    assert!(error.to_string().contains(&first.to_string()), "{error}");
                }
            }
        }
    }
}

#[test]
fn commands_bring_what_they_need() {
    let bare = with("x", json!(1));
    for (command, field) in [
        (Command::Check, "prevResult"),
        (Command::Gc, "cni.dev/valid-attachments"),
    ] {
        let error = NetConf::parse_for(command, &bare).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    let stay = with(
        "cni.dev/valid-attachments",
        json!([{"containerID": "a", "ifname": "eth0"}]),
    );
    let valid = NetConf::parse_for(Command::Gc, &stay)
        .unwrap()
        .valid_attachments;
    assert_eq!(valid.unwrap()[0].to_string(), "a/eth0");
}

#[test]
fn del_goes_on_without_a_previous_result_that_cannot_be_read() {
    let conf = with("prevResult", json!({"ips": 3}));
    let read = NetConf::parse_for(Command::Del, &conf).unwrap();
    assert_eq!(read.prev_result, None);
    assert!(NetConf::parse_for(Command::Add, &conf).is_err());
}

#[test]
fn an_error_is_said_in_the_version_of_the_configuration() {
    let error = NetConf::parse(br#"{"cniVersion":"0.4.0"}"#).unwrap_err();
    let text = error.to_json(Version::sniff(br#"{"cniVersion":"0.4.0"}"#));
    assert_eq!(
        text,
        r#"{"cniVersion":"0.4.0","code":7,"msg":"the field \"name\" is missing"}"#
    );
    let read = watari_cni_spec::CniError::from_json(text.as_bytes()).unwrap();
    assert_eq!(read, error);
    assert_eq!(Version::sniff(b"garbage"), Version::LATEST);
    for none in ["", "{}", "[1]", r#"{"code":0}"#, r#"{"code":"7"}"#] {
        assert_eq!(watari_cni_spec::CniError::from_json(none.as_bytes()), None);
    }
}
