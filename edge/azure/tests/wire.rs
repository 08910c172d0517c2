//! The wire server's client against a real HTTP server on loopback that behaves, or does not.

#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use watari_azure::{PATIENT, SourceError, stack_file, wire_server};
use watari_ipam::MAX_DOCUMENT;

const BODY: &str = r#"<Interfaces><Interface MacAddress="*" IsPrimary="true"><IPSubnet Prefix="10.240.0.0/16"><IPAddress Address="10.240.0.4" IsPrimary="true"/><IPAddress Address="10.240.0.5"/></IPSubnet></Interface></Interfaces>"#;

fn answer(status: &str, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn good() -> String {
    answer("200 OK", "text/xml", BODY)
}

/// Serves each connection with `behave`, given the number of the try from 0; ends with the
/// process. Returns the base URL and the count of connections.
fn serve(
    behave: impl Fn(&mut TcpStream, usize) -> std::io::Result<()> + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            assert!(
                head.starts_with(
                    "GET /machine/plugins?comp=nmagent&type=getinterfaceinfov1 HTTP/1.1\r\n"
                ),
                "{head}"
            );
            let at = counter.fetch_add(1, Ordering::SeqCst);
            // The client may hang up first; that is its right.
            let _ = behave(&mut stream, at);
        }
    });
    (base, count)
}

fn fails(base: &str, total: Duration) -> String {
    let started = Instant::now();
    let error = wire_server(base, total).unwrap_err().to_string();
    let took = started.elapsed();
    assert!(took < total + Duration::from_secs(1), "took {took:?}");
    error
}

#[test]
fn a_good_answer_is_taken_whatever_type_it_claims() {
    for kind in [
        "text/xml; charset=utf-8",
        "application/octet-stream",
        "text/html",
    ] {
        let (base, count) =
            serve(move |to, _| to.write_all(answer("200 OK", kind, BODY).as_bytes()));
        let document = wire_server(&base, PATIENT).unwrap();
        assert_eq!(document.interfaces[0].subnets[0].addresses.len(), 1);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_page_that_is_no_document_is_refused_at_once() {
    let (base, count) =
        serve(|to, _| to.write_all(answer("200 OK", "text/html", "<html>login</html>").as_bytes()));
    let error = fails(&base, PATIENT);
    assert!(
        error.contains("want one root element, Interfaces"),
        "{error}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failing_server_is_asked_three_times() {
    let (base, count) = serve(|to, _| {
        to.write_all(answer("500 Internal Server Error", "text/xml", BODY).as_bytes())
    });
    let error = fails(&base, PATIENT);
    assert!(
        error.contains("500") && error.contains("3 tries"),
        "{error}"
    );
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_server_that_recovers_is_believed() {
    let (base, _) = serve(|to, at| {
        let full = good();
        // First nothing, then half of it, then all.
        to.write_all(&full.as_bytes()[..full.len() * at / 2])
    });
    wire_server(&base, PATIENT).unwrap();
}

#[test]
fn a_refusal_is_final() {
    for status in ["404 Not Found", "302 Found", "204 No Content"] {
        let (base, count) =
            serve(move |to, _| to.write_all(answer(status, "text/xml", "").as_bytes()));
        let error = fails(&base, PATIENT);
        assert!(
            error.contains(&status[..3]) && error.contains("1 tries"),
            "{error}"
        );
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_truncated_answer_is_never_half_believed() {
    let (base, count) = serve(|to, _| {
        let full = good();
        to.write_all(&full.as_bytes()[..full.len() - 20])
    });
    fails(&base, PATIENT);
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_huge_answer_is_cut_off() {
    let (base, count) = serve(|to, _| {
        to.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n\r\n")?;
        let chunk = vec![b' '; 1 << 16];
        let mut sent = 0;
        while sent < 64 * MAX_DOCUMENT {
            match to.write(&chunk) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        panic!("the client read {sent} bytes")
    });
    fails(&base, PATIENT);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_slow_server_is_given_up_in_time() {
    // One byte every 50 ms would take 20 s.
    let (base, _) = serve(|to, _| {
        for byte in good().bytes() {
            to.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    let error = fails(&base, Duration::from_secs(1));
    assert!(error.contains("timeout"), "{error}");
}

#[test]
fn nobody_there_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = fails(&base, PATIENT);
    assert!(
        error.contains("refused") && error.contains(&base),
        "{error}"
    );
}

#[test]
fn files_are_bounded_and_regular() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("interfaces.json");
    let says = |path: &std::path::Path| stack_file(path).unwrap_err().to_string();
    assert!(says(&file).contains("No such file"));
    assert!(says(dir.path()).contains("not a regular file"));
    std::fs::write(&file, vec![b' '; MAX_DOCUMENT + 1]).unwrap();
    assert!(says(&file).contains("longer than"));
    std::fs::write(&file, r#"{"Interfaces":[{"MacAddress":"*"}]}"#).unwrap();
    assert_eq!(stack_file(&file).unwrap().interfaces.len(), 1);
    std::fs::write(&file, r#"{"Interfaces":1}"#).unwrap();
    assert!(matches!(
        stack_file(&file),
        Err(SourceError::Document { .. })
    ));
}
