//! Tests only: a collector that gives the answers that it was told to, and the last of them from then on.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// All is well.
pub(super) const TAKEN: &str = "200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves until the process ends.
pub(super) struct Answering {
    pub(super) endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Answering {
    /// One connection for each answer.
    pub(super) fn with(answers: &[&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (answers, heads) = (answers.to_vec(), Arc::clone(&asked));
        thread::spawn(move || {
            for number in 0.. {
                let (stream, _) = listener.accept().unwrap();
                let head = head_of(&stream).unwrap();
                heads.lock().unwrap().push(head);
                let answer = answers.get(number).or(answers.last()).unwrap();
                write!(&stream, "HTTP/1.1 {answer}").unwrap();
            }
        });
        Self { endpoint, asked }
    }

    /// The heads of what it was asked so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// The head of the request, once its body was read.
fn head_of(stream: &TcpStream) -> io::Result<String> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head)?;
    }
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
    io::copy(&mut reader.take(length.parse().unwrap()), &mut io::sink())?;
    Ok(head)
}
