//! Tests only: a collector that gives the answers that it was told to.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use url::Url;

/// A collector that gives these answers, a connection for each, and says what it was asked.
pub(super) fn answering(answers: &'static [&'static str]) -> (Url, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap()).parse().unwrap();
    let asked = thread::spawn(move || {
        answers.iter().map(|answer| answered(&listener.accept().unwrap().0, answer).unwrap()).collect()
    });
    (endpoint, asked)
}

/// The head of the request, once its body was read.
fn answered(mut stream: &TcpStream, answer: &str) -> io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head)?;
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    io::copy(&mut reader.take(length.parse().unwrap()), &mut io::sink())?;
    write!(stream, "HTTP/1.1 {answer}")?;
    Ok(head)
}
