//! Real clients, good and bad ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use watari_http::{Answer, Handler, Server};
use watari_testkit::{Netns, wait_until};

const DEADLINE: Duration = Duration::from_secs(20);

fn handler() -> Handler {
    Arc::new(|path: &str| match path {
        "/healthz" => {
            Answer::json(503, r#"{"ok":false}"#).with("x-load-balancing-endpoint-weight", "3")
        }
        "/long" => Answer::text(200, "x".repeat(8 << 20)),
        _ => Answer::not_found(),
    })
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What the server says to these bytes; nothing if it hangs up without a word.
fn ask(address: SocketAddr, bytes: &str) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(said).unwrap(),
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: n\r\n\r\n"))
}

/// In a namespace of its own, so that ports are free.
fn with_server(work: impl FnOnce(&mut Server) + Send) {
    let netns = Netns::new("http");
    netns.run(&["ip", "link", "set", "lo", "up"]);
    netns.enter(|| work(&mut Server::start().unwrap()));
}

#[test]
fn it_answers_with_headers_and_of_both_families() {
    with_server(|server| {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 10256));
        server.open(everywhere, handler()).unwrap();
        assert!(server.is_open(everywhere));
        for address in ["127.0.0.1:10256", "[::1]:10256"] {
            let said = get(address.parse().unwrap(), "/healthz?verbose=1");
            let (head, body) = said.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            for line in [
                "content-type: application/json",
                "x-content-type-options: nosniff",
                "x-load-balancing-endpoint-weight: 3",
                "connection: close",
                "content-length: 12",
            ] {
                assert!(head.contains(line), "{line} in {head}");
            }
            assert_eq!(body, r#"{"ok":false}"#);
        }
        let said = get(at(10256), "/nothing");
        assert!(said.starts_with("HTTP/1.1 404 "), "{said}");
        let said = ask(at(10256), "HEAD /healthz HTTP/1.1\r\nHost: n\r\n\r\n");
        assert!(
            said.starts_with("HTTP/1.1 503 ") && said.ends_with("\r\n\r\n"),
            "{said}"
        );
        let said = ask(
            at(10256),
            "POST /healthz HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\nhi",
        );
        assert!(
            said.starts_with("HTTP/1.1 405 ") && said.contains("allow: GET, HEAD"),
            "{said}"
        );
        let said = ask(at(10256), "GET /healthz HTTP/1.0\r\n\r\n");
        assert!(said.starts_with("HTTP/1.0 503 "), "{said}");
    });
}

#[test]
fn a_port_is_opened_and_closed_and_one_in_use_is_told() {
    with_server(|server| {
        let taken = TcpListener::bind(at(9)).unwrap();
        let error = server.open(at(9), handler()).unwrap_err().to_string();
        assert!(
            error.contains("127.0.0.1:9") && error.contains("another process"),
            "{error}"
        );
        drop(taken);
        server.open(at(9), handler()).unwrap();
        assert!(get(at(9), "/healthz").contains("503"));
        server.close(at(9));
        wait_until(DEADLINE, "the port to be free", || {
            TcpListener::bind(at(9)).is_ok()
        });
    });
}

#[test]
fn hostile_clients_get_nowhere_and_keep_nobody_out() {
    with_server(|server| {
        server.open(at(80), handler()).unwrap();
        // Too long, too many, no HTTP.
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
        assert!(!ask(at(80), &long).contains(" 503 "));
        let many = (0..100)
            .map(|n| format!("h{n}: x\r\n"))
            .collect::<Vec<_>>()
            .concat();
        let said = ask(at(80), &format!("GET /healthz HTTP/1.1\r\n{many}\r\n"));
        assert!(said.starts_with("HTTP/1.1 431"), "{said}");
        assert!(ask(at(80), "\x16\x03\x01 hello\r\n\r\n").contains("400"));
        // Many that say nothing, or half a line: the next is answered all the same, at once.
        let idle: Vec<TcpStream> = (0..200)
            .map(|n| {
                let mut stream = connect(at(80));
                if n % 2 == 0 {
                    stream.write_all(b"GET /heal").unwrap();
                }
                stream
            })
            .collect();
        for _ in 0..20 {
            let since = Instant::now();
            assert!(get(at(80), "/healthz").starts_with("HTTP/1.1 503 "));
            assert!(
                since.elapsed() < Duration::from_secs(3),
                "{:?}",
                since.elapsed()
            );
        }
        // They are hung up on in time.
        for mut stream in idle {
            let mut rest = Vec::new();
            match stream.read_to_end(&mut rest) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
        }
    });
}

#[test]
fn who_does_not_read_the_answer_is_hung_up_on() {
    with_server(|server| {
        server.open(at(80), handler()).unwrap();
        let mut slow = connect(at(80));
        slow.write_all(b"GET /long HTTP/1.1\r\nHost: n\r\n\r\n")
            .unwrap();
        // Nobody reads: the socket's room is full, and the server waits. Others do not.
        assert!(get(at(80), "/healthz").starts_with("HTTP/1.1 503 "));
        let ended = Instant::now() + DEADLINE;
        wait_until(DEADLINE, "the server to hang up", || {
            // Writing fails once the other side has closed.
            slow.write_all(b"x").is_err()
        });
        assert!(Instant::now() < ended);
    });
}
