//! A list as soon as it is another than the client has: `If-None-Match` with `Prefer: wait=N`.

use shared::http::{conditional::Tags, prefer::Wait, problem::Problem};
use tokio::time::{Instant, timeout_at};

use super::{Asked, Listed, find};
use crate::{
    http::{Reads, error::ReadError, reads::View},
    watch::Filter,
};

/// Waits until the list no longer is what the client has, or as long as it prefers. What it is then, and in which state.
pub(super) async fn until_changed(
    reads: &Reads,
    asked: &Asked,
    known: &Tags,
    wait: Wait,
    mut view: View,
) -> Result<(View, Result<Listed, ReadError>), Problem> {
    let deadline = Instant::now() + wait.duration();
    let mut listed = find(reads, &view, asked).await;
    if !is_known(&listed, known) {
        return Ok((view, listed));
    }
    let waiting = reads.watches.hub.wait_for(Filter::new(vec![], Some(&asked.prefix)));
    let mut waiting = waiting.map_err(|refused| reads.stamped(refused.into()))?;
    if matches!(known, Tags::Any) {
        // Whatever it becomes, the client has it.
        while timeout_at(deadline, waiting.changed()).await.is_ok_and(|changed| changed.is_ok()) {}
        view = reads.newer(view);
        listed = find(reads, &view, asked).await;
        return Ok((view, listed));
    }
    loop {
        // Registered first, then looked at: what comes in between is not missed.
        let before = view.snapshot.token();
        view = reads.newer(view);
        if view.snapshot.token() != before {
            listed = find(reads, &view, asked).await;
        }
        // What wakes is a change of the prefix, perhaps behind the page's end.
        if !is_known(&listed, known) || !matches!(timeout_at(deadline, waiting.changed()).await, Ok(Ok(()))) {
            return Ok((view, listed));
        }
    }
}

fn is_known(listed: &Result<Listed, ReadError>, known: &Tags) -> bool {
    listed.as_ref().is_ok_and(|listed| listed.is_known(known))
}
