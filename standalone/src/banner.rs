//! The box at the end of a start: for a person at a terminal who may see this for the first time. A log has no use for it.

use std::{
    future::Future,
    io::{IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use shared::http::health::Health;

/// How often is looked whether requests are answered: a replay may take a while.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How wide the box is, in columns; every terminal has them.
const RULE: usize = 78;

/// Serves, and meanwhile shows the box on a terminal as soon as requests are answered.
pub async fn beside<T>(serving: impl Future<Output = T>, health: &Health, address: SocketAddr, data: &str) -> T {
    tokio::pin!(serving);
    if std::io::stdout().is_terminal() {
        tokio::select! {
            served = &mut serving => return served,
            () = ready(health) => {}
        }
        // A terminal that is gone by now needs none.
        let _unseen = std::io::stdout().write_all(text(address, data).as_bytes());
    }
    serving.await
}

async fn ready(health: &Health) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    while !health.is_ready().await {
        look.tick().await;
    }
}

fn text(address: SocketAddr, data: &str) -> String {
    let host = match address.ip() {
        any if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        one => one,
    };
    let url = format!("http://{}", SocketAddr::new(host, address.port()));
    // Open at the sides, so that a line can be copied as it stands.
    let rule = "━".repeat(RULE);
    format!(
        "\n{rule}
 Config API is ready: {url}

 Try, in another terminal:

   curl -X PUT {url}/config/greeting -H content-type:application/json -d '{{\"value\":\"hello\"}}'
   curl {url}/config/greeting
   curl {url}/config/greeting/history

 Health  {url}/v1/health
 Data    {data}
 Stop    Ctrl-C
{rule}\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_has_three_commands_to_copy_and_an_address_to_connect_to() {
        let text = text("0.0.0.0:4100".parse().unwrap(), "/var/lib/config-api");
        assert_eq!(text.lines().filter(|line| line.starts_with("   curl ")).count(), 3, "{text}");
        assert!(text.contains("ready: http://127.0.0.1:4100\n"), "nobody connects to 0.0.0.0: {text}");
        assert!(text.contains("/var/lib/config-api"), "{text}");
    }
}
