//! Watches: what they promise, what they do when something fails, and what they refuse; long polls.

mod bad_input;
mod faults;
mod kills;
mod long_poll;
mod promises;
mod starts;
mod storm;

use end_to_end::QueryService;

/// A query service whose watchers hear a bookmark often, so that a test need not wait for one.
fn config(url: &str) -> query_service::Config {
    let mut config = QueryService::config(url);
    config.watching.bookmark_interval = std::time::Duration::from_millis(50);
    config
}
