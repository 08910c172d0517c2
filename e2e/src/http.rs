//! A plain HTTP request from wherever the calling thread is.

use std::io::{Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long to wait for a connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gets `/` and gives the body.
pub fn get(server: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) => Ok(body.to_owned()),
        None => Err(Error::other(format!("{server} answered: {answer}"))),
    }
}
