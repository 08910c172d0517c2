//! The environment of a plugin: what each command requires, and what is refused.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use watari_cni_spec::{Code, Command, Request, format_args_variable, parse_args};

/// A whole environment, with changes: `None` unsets.
fn request(command: &str, changes: &[(&str, Option<&str>)]) -> Result<Request, String> {
    let read = Request::from_env(|variable| {
        if let Some((_, value)) = changes.iter().find(|(name, _)| *name == variable) {
            return value.map(OsString::from);
        }
        Some(OsString::from(match variable {
            "CNI_COMMAND" => command,
            "CNI_CONTAINERID" => "c0ffee",
            "CNI_NETNS" => "/run/netns/x",
            "CNI_IFNAME" => "eth0",
            "CNI_ARGS" => "K8S_POD_NAME=p;K8S_POD_NAMESPACE=n",
            "CNI_PATH" => "/opt/cni/bin:/usr/lib/cni",
            _ => return None,
        }))
    });
    read.map_err(|error| {
        assert_eq!(error.code, Code::INVALID_ENVIRONMENT, "{error}");
        error.to_string()
    })
}

#[test]
fn a_whole_environment_is_read() {
    let read = request("ADD", &[]).unwrap();
    assert_eq!(read.command, Command::Add);
    assert_eq!(read.attachment().unwrap().to_string(), "c0ffee/eth0");
    assert_eq!(read.netns.unwrap().to_str(), Some("/run/netns/x"));
    assert_eq!(read.args["K8S_POD_NAME"], "p");
    assert_eq!(read.path.len(), 2);
}

#[test]
fn each_command_requires_its_variables() {
    let table = [
        ("ADD", "CNI_CONTAINERID CNI_NETNS CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID CNI_NETNS CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID CNI_IFNAME"),
        ("GC", "CNI_PATH"),
        ("STATUS", ""),
        ("VERSION", ""),
    ];
    for (command, required) in table {
        for variable in [
            "CNI_CONTAINERID",
            "CNI_NETNS",
            "CNI_IFNAME",
            "CNI_ARGS",
            "CNI_PATH",
        ] {
            for absent in [None, Some("")] {
                let read = request(command, &[(variable, absent)]);
                if required.split(' ').any(|name| name == variable) {
                    let error = read.expect_err(command);
                    assert!(error.contains(variable), "{command}: {error}");
                } else {
                    assert!(read.is_ok(), "{command} without {variable}: {read:?}");
                }
            }
        }
    }
}

#[test]
fn all_that_is_missing_is_named_at_once() {
    let none = [
        ("CNI_CONTAINERID", None),
        ("CNI_NETNS", None),
        ("CNI_IFNAME", None),
    ];
    let error = request("ADD", &none).unwrap_err();
    assert!(
        error.contains("of ADD lacks CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS"),
        "{error}"
    );
    assert!(request("", &[]).unwrap_err().contains("CNI_COMMAND"));
}

#[test]
fn a_refusal_names_the_variable_and_the_rule() {
    for (variable, value, rule) in [
        ("CNI_COMMAND", "add", "want ADD, DEL"),
        ("CNI_CONTAINERID", "../x", "starts with a letter or digit"),
        ("CNI_IFNAME", "abcdefghijklmnop", "1 to 15 bytes"),
        ("CNI_IFNAME", "a/b", "no '/'"),
        ("CNI_ARGS", "A", "KEY=VALUE"),
        ("CNI_ARGS", "=b", "KEY=VALUE"),
        ("CNI_ARGS", "A=b;;C=d", "KEY=VALUE"),
    ] {
        let error = request("ADD", &[(variable, Some(value))]).unwrap_err();
        assert!(error.contains(variable) && error.contains(rule), "{error}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused_but_in_paths() {
    let bytes = |of: &'static str| {
        Request::from_env(move |variable| match variable {
            _ if variable == of => Some(OsString::from_vec(vec![b'/', 0xff])),
            "CNI_COMMAND" => Some("DEL".into()),
            "CNI_CONTAINERID" | "CNI_IFNAME" => Some("a".into()),
            _ => None,
        })
    };
    for variable in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS"] {
        assert!(bytes(variable).unwrap_err().to_string().contains(variable));
    }
    assert!(bytes("CNI_NETNS").is_ok() && bytes("CNI_PATH").is_ok());
}

#[test]
fn arguments_read_as_they_are_written() {
    let text = "A=b=c;IgnoreUnknown=1;K=";
    assert_eq!(format_args_variable(&parse_args(text).unwrap()), text);
    assert_eq!(parse_args("A=1;A=2").unwrap()["A"], "2");
}
