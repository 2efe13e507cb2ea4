//! A program asks its own service whether it is well: for container engines and scripts, on machines that have no curl.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;

use crate::telemetry;

/// Longest that the service may take to answer, all in all. Above the limit of one health check.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// As much of an answer as is looked at, in bytes.
const MAX_ANSWER_BYTES: usize = 4096;

/// What to ask.
#[derive(Args, Clone, Copy, Debug)]
pub struct HealthcheckArgs {
    /// Ask only whether it answers (/v1/live), not whether it can serve (/v1/ready)
    #[arg(long)]
    pub live: bool,
}

/// The service is not well, or is not there.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    /// Port 0 is a free one, which only the service knows.
    #[error("the listen address {0} has no port to ask; name the one that the service has")]
    NoPort(SocketAddr),
    /// Nobody listens, or nobody answers.
    #[error("no answer from http://{address}{path}")]
    NoAnswer {
        /// Where it was asked.
        address: SocketAddr,
        /// What it was asked.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It says so itself.
    #[error("http://{address}{path} answered {answer}")]
    Told {
        /// Where it was asked.
        address: SocketAddr,
        /// What it was asked.
        path: &'static str,
        /// Status and body, in one line.
        answer: String,
    },
}

/// Asks the service that listens on `listen`, and says in one line how it is: on standard output with exit code 0 when it is
/// well, else on standard error with exit code 1.
#[must_use]
pub fn healthcheck(program: &str, asked: HealthcheckArgs, listen: SocketAddr) -> ExitCode {
    match ask(asked, listen) {
        Ok(well) => {
            // A reader that has seen enough is no fault.
            let _unread = writeln!(std::io::stdout(), "{program}: {well}");
            ExitCode::SUCCESS
        }
        Err(unwell) => telemetry::fail(program, &unwell),
    }
}

fn ask(asked: HealthcheckArgs, listen: SocketAddr) -> Result<String, Unwell> {
    let (path, word) = if asked.live { ("/v1/live", "alive") } else { ("/v1/ready", "ready") };
    if listen.port() == 0 {
        return Err(Unwell::NoPort(listen));
    }
    let address = reachable(listen);
    let answer = get(address, path).map_err(|source| Unwell::NoAnswer { address, path, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).unwrap_or("no HTTP");
    if status.starts_with("200 ") {
        return Ok(format!("{word} at http://{address}"));
    }
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(Unwell::Told { address, path, answer: format!("{}: {}", line(status), line(body)) })
}

/// Where a service that serves on all addresses is reached.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let address = match listen.ip() {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    SocketAddr::new(address, listen.port())
}

/// The beginning of the answer, within the limit.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let until = Instant::now() + ANSWER_LIMIT;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut answer = vec![];
    let mut piece = [0; 1024];
    while answer.len() < MAX_ANSWER_BYTES {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What is made of this answer to the one who asks.
    fn told(live: bool, answer: &'static str) -> (Result<String, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listener.local_addr().unwrap().port());
        let service = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            client.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let told = ask(HealthcheckArgs { live }, listen).map_err(|unwell| unwell.to_string());
        (told, service.join().unwrap())
    }

    #[test]
    fn a_service_is_well_when_it_answers_200() {
        let (well, asked) = told(false, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        assert!(well.unwrap().starts_with("ready at http://127.0.0.1:"));
        assert!(asked.starts_with("GET /v1/ready HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        let (well, asked) = told(true, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK");
        assert!(well.unwrap().starts_with("alive at"));
        assert!(asked.starts_with("GET /v1/live "), "{asked}");
    }

    #[test]
    fn any_other_answer_is_told_in_one_line() {
        let (unwell, _) = told(false, "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"status\":\n \"unavailable\"}");
        let unwell = unwell.unwrap_err();
        assert!(
            unwell.ends_with("/v1/ready answered 503 Service Unavailable: {\"status\": \"unavailable\"}"),
            "{unwell}"
        );
        assert!(told(false, "SSH-2.0\r\n").0.unwrap_err().ends_with("answered no HTTP: "));
        assert!(told(false, "").0.is_err());
    }

    #[test]
    fn a_service_that_is_not_there_is_told_with_where_it_was_asked() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = ask(HealthcheckArgs { live: false }, free).unwrap_err();
        assert_eq!(nobody.to_string(), format!("no answer from http://{free}/v1/ready"));
        let unknown = ask(HealthcheckArgs { live: false }, "127.0.0.1:0".parse().unwrap()).unwrap_err();
        assert!(unknown.to_string().contains("has no port to ask"));
    }

    #[test]
    fn all_addresses_are_asked_at_loopback() {
        for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
