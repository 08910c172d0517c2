//! Rubbish from the sources of addresses: wire server, Azure Stack file, node file.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::refusal::Target;

/// `Code::DECODE`, for what is no JSON object.
const DECODE: u64 = 6;
/// `Code::NO_SOURCE`.
const NO_SOURCE: u64 = 105;
/// Where the plugin looks for the wire server by itself.
const WIRE_SERVER: &str = "168.63.129.16:80";

const XML: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?><Interfaces><Interface MacAddress="000D3A6E1825" "#,
    r#"IsPrimary="true"><IPSubnet Prefix="10.240.0.0/16"><IPAddress Address="10.240.0.4" "#,
    r#"IsPrimary="true"/><IPAddress Address="10.240.0.5" IsPrimary="false"/></IPSubnet>"#,
    r#"</Interface></Interfaces>"#
);

/// Answers every connection with the same bytes.
struct WireServer {
    answer: Arc<Mutex<Option<Vec<u8>>>>,
}

impl WireServer {
    fn start(target: &Target) -> Self {
        let listener = target.node.ns.enter(|| TcpListener::bind(WIRE_SERVER));
        let listener = listener.expect("listen as the wire server");
        let answer = Arc::new(Mutex::new(Some(Vec::new())));
        let shared = Arc::clone(&answer);
        // Ends with the first connection behind the end of this value.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(answer) = guard.clone() else { return };
                drop(guard);
                respond(stream, &answer);
            }
        });
        Self { answer }
    }

    fn says(&self, answer: impl Into<Vec<u8>>) {
        let mut guard = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *guard = Some(answer.into());
    }

    fn serves(&self, body: &[u8]) {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        self.says([head.as_bytes(), body].concat());
    }
}

impl Drop for WireServer {
    fn drop(&mut self) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn respond(mut stream: TcpStream, answer: &[u8]) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(1..) => request.extend(buffer.iter().take_while(|byte| **byte != 0)),
            _ => return,
        }
        buffer = [0; 1024];
    }
    // A client that has read enough closes.
    let _ = stream.write_all(answer);
}

/// The interface plugin's configuration with this `ipam` beside `type` and `dataDir`.
fn conf(target: &Target, ipam: &Value) -> String {
    let mut conf = target.node.interface();
    conf["ipam"] = ipam.clone();
    conf["ipam"]["type"] = "azure-vnet-ipam".into();
    conf["ipam"]["dataDir"] = json!(target.node.data);
    conf.to_string()
}

#[track_caller]
fn refuses(target: &Target, conf: &str, context: &str) -> u64 {
    let program = target
        .node
        .program("azure-vnet", "ADD", Some(&target.absent));
    target.refuses(program, conf.as_bytes(), context)
}

#[test]
fn every_beginning_of_the_wire_servers_document_is_refused() {
    let target = Target::new();
    let server = WireServer::start(&target);
    let conf = conf(&target, &json!({}));
    for end in 0..XML.len() {
        server.serves(&XML.as_bytes()[..end]);
        let code = refuses(&target, &conf, &format!("{end} bytes of XML"));
        assert_eq!(code, NO_SOURCE, "{end} bytes of XML");
    }
    target.unharmed();
    // The whole of it is fine, so it was the cut that was refused.
    server.serves(XML.as_bytes());
    let program = target
        .node
        .program("azure-vnet", "ADD", Some(&target.absent));
    let result = target.node.run(program, conf.as_bytes()).ok();
    assert_eq!(result["ips"][0]["address"], "10.240.0.5/16");
    target.node.ns.run(&["ping", "-c1", "-W5", "10.240.0.5"]);
    target.node.del(&target.absent);
    target.unharmed();
}

#[test]
fn hostile_documents_are_refused() {
    let target = Target::new();
    let server = WireServer::start(&target);
    let conf = conf(&target, &json!({}));
    let with = |from: &str, to: &str| XML.replace(from, to).into_bytes();
    let addresses = |count: usize| r#"<IPAddress Address="10.240.0.9"/>"#.repeat(count);
    let bomb = r#"<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><Interfaces"#;
    let documents: Vec<Vec<u8>> = vec![
        with("10.240.0.5", "10.9.0.5"),
        with("10.240.0.5", "10.240.0.5/16"),
        with("10.240.0.5", "999.240.0.5"),
        with("10.240.0.5", "&#0;"),
        with("10.240.0.5", "&none;"),
        with("10.240.0.0/16", "10.240.0.0/33"),
        with("10.240.0.0/16", ""),
        with("000D3A6E1825", "../../etc"),
        with(r#"IsPrimary="true">"#, r#"IsPrimary="maybe">"#),
        with(
            r#"IsPrimary="true">"#,
            r#"IsPrimary="true" IsPrimary="true">"#,
        ),
        with("<Interfaces", bomb),
        with(
            "<IPSubnet ",
            &format!("{}<IPSubnet ", "<a>".repeat(100_000)),
        ),
        with("</IPSubnet>", &format!("{}</IPSubnet>", addresses(40_000))),
        with("Interfaces", "Other"),
        [XML.as_bytes(), XML.as_bytes()].concat(),
        [XML.as_bytes(), b"\0"].concat(),
        [b"\xff\xfe".as_slice(), XML.as_bytes()].concat(),
        XML.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        [XML.as_bytes(), " ".repeat(2 << 20).as_bytes()].concat(),
        b"<Interfaces/>".to_vec(),
        b"<Interfaces></Interfaces></Interfaces>".to_vec(),
        b"{\"Interfaces\":[]}".to_vec(),
    ];
    for (at, document) in documents.iter().enumerate() {
        server.serves(document);
        let code = refuses(&target, &conf, &format!("document {at}"));
        assert_eq!(code, NO_SOURCE, "document {at}");
    }
    target.unharmed();
}

#[test]
fn hostile_answers_are_refused() {
    let target = Target::new();
    let server = WireServer::start(&target);
    let conf = conf(&target, &json!({}));
    let ok = "HTTP/1.1 200 OK\r\n";
    for (at, answer) in [
        String::new(),
        "\0\0\0\0".to_owned(),
        "HTTP/9.9 999 \r\n\r\n".to_owned(),
        format!(
            "HTTP/1.1 404 None\r\nContent-Length: {}\r\n\r\n{XML}",
            XML.len()
        ),
        format!("HTTP/1.1 302 Found\r\nLocation: http://{WIRE_SERVER}/\r\n\r\n"),
        format!("{ok}Content-Length: 99999999999999999999999\r\n\r\n{XML}"),
        format!("{ok}Content-Length: -1\r\n\r\n{XML}"),
        format!("{ok}Content-Length: 9999\r\n\r\n{XML}"),
        format!("{ok}Content-Length: 99\r\n\r\n{XML}"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{XML}"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\n{XML}"),
        format!("{ok}X: {}", "x".repeat(4 << 20)),
        format!("{ok}{}\r\n{XML}", "X: y\r\n".repeat(100_000)),
    ]
    .into_iter()
    .enumerate()
    {
        server.says(answer);
        let code = refuses(&target, &conf, &format!("answer {at}"));
        assert_eq!(code, NO_SOURCE, "answer {at}");
    }
    target.unharmed();
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let target = Target::new();
    let path = target.node.ns.dir().join("document");
    let stack = json!({ "Interfaces": [{
        "MacAddress": "000D3A6E1825", "IsPrimary": true,
        "IPSubnets": [{ "Prefix": "10.240.0.0/16", "IPAddresses": [
            { "Address": "10.240.0.4", "IsPrimary": true },
            { "Address": "10.240.0.5", "IsPrimary": false }
        ] }]
    }] });
    let cidrs = json!({ "podCIDRs": ["10.240.0.0/24"] });
    for (whole, ipam, code) in [
        (
            stack,
            json!({ "environment": "mas", "interfacesFile": path }),
            NO_SOURCE,
        ),
        (
            cidrs,
            json!({ "environment": "node", "nodeFile": path }),
            DECODE,
        ),
    ] {
        let conf = conf(&target, &ipam);
        let whole = whole.to_string();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).expect("write a document");
            let got = refuses(&target, &conf, &whole[..end]);
            assert!(got == code || got == NO_SOURCE, "{got}: {}", &whole[..end]);
        }
        for hostile in [
            whole.replace("10.240.0.0/", "::/"),
            whole.replace("10.240.0", "a"),
            whole.replace('{', &"[".repeat(100_000)),
            whole.replace("\":\"10.240.0.5", "\":\"\\ud800"),
            whole.clone() + &" ".repeat(2 << 20),
            whole.replace("10.240.0.0/16", "10.240.0.0/33"),
            whole.replace("10.240.0.0/24", "10.240.0.0/33"),
        ] {
            if hostile != whole {
                std::fs::write(&path, &hostile).expect("write a document");
                let shown: String = hostile.chars().take(200).collect();
                refuses(&target, &conf, &shown);
            }
        }
        std::fs::remove_file(&path).expect("remove a document");
        refuses(&target, &conf, "no file");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("make a pipe");
        refuses(&target, &conf, "a pipe");
        std::fs::remove_file(&path).expect("remove a pipe");
        let places: [PathBuf; 2] = ["/dev/zero".into(), path.clone()];
        for place in places {
            std::os::unix::fs::symlink(&place, &path).expect("make a link");
            refuses(&target, &conf, &format!("a link to {}", place.display()));
            std::fs::remove_file(&path).expect("remove a link");
        }
    }
    target.unharmed();
}
