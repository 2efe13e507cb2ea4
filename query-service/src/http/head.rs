//! The log's head, for reads that must have everything that was answered before they were asked. One query answers all who
//! wait for it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use shared::{
    metrics::{ConnectionMetrics, ErrorKind},
    position::{Position, PositionToken},
};
use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};
use uuid::Uuid;

/// Longest that the log may take to tell its head, connecting to it included. A read waits for two of them at most: the one
/// under way, and its own.
const HEAD_LIMIT: Duration = Duration::from_secs(2);

/// One row, also of an empty log.
const HEAD: &str = "
    select pg_is_in_recovery(), head.position, head.command_id
      from (select) one
      left join lateral (select position, command_id from events order by position desc limit 1) head on true";

/// Why the head is not known. Cheap to clone: it is told to all who asked.
#[derive(Clone, Debug)]
pub(super) enum Unknown {
    Late,
    Database(Arc<sqlx::Error>),
    /// It may be behind its primary, and cannot know.
    Standby,
}

type Answer = Result<PositionToken, Unknown>;
type Question = Shared<BoxFuture<'static, Answer>>;

/// Asks the log for its head. Whoever comes while a query is under way shares the next one: an answer is good for those only
/// who asked before its query began. So any number of readers cost one query at a time.
#[derive(Clone)]
pub(crate) struct Head {
    ask: Arc<dyn Fn() -> BoxFuture<'static, Answer> + Send + Sync>,
    /// Not begun yet: still to be joined.
    next: Arc<Mutex<Option<Question>>>,
    turn: Arc<AsyncMutex<()>>,
    told: Option<ConnectionMetrics>,
}

impl Head {
    /// Of this log. It is connected to when somebody first asks, by a connection of its own, which is kept.
    pub(crate) fn of(log: PgConnectOptions, metrics: ConnectionMetrics) -> Self {
        let kept = Arc::new(AsyncMutex::new(Kept { connection: None, opened: false, metrics: metrics.clone() }));
        let ask = move || {
            let (log, kept) = (log.clone(), Arc::clone(&kept));
            async move { read(&log, &mut *kept.lock().await).await }.boxed()
        };
        Self { told: Some(metrics), ..Self::asked_by(ask) }
    }

    fn asked_by(ask: impl Fn() -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> Self {
        Self { ask: Arc::new(ask), next: Arc::default(), turn: Arc::default(), told: None }
    }

    /// The head of the log at some moment after this call.
    pub(super) async fn now(&self) -> Answer {
        let question = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            next.get_or_insert_with(|| self.question().shared()).clone()
        };
        question.await
    }

    /// Driven by whoever waits for it, so that it ends when nobody does.
    fn question(&self) -> BoxFuture<'static, Answer> {
        let Self { ask, next, turn, told } = self.clone();
        async move {
            let _turn = turn.lock().await;
            // Who comes from now on must ask again.
            next.lock().unwrap_or_else(PoisonError::into_inner).take();
            let answer = timeout(HEAD_LIMIT, ask()).await.unwrap_or(Err(Unknown::Late));
            if let Some(told) = told {
                match &answer {
                    Ok(_) => told.works(),
                    Err(Unknown::Late) => told.failed(ErrorKind::Timeout),
                    Err(Unknown::Database(error)) => told.failed(ErrorKind::of(error)),
                    Err(Unknown::Standby) => told.failed(ErrorKind::ReadOnly),
                }
            }
            answer
        }
        .boxed()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").finish_non_exhaustive()
    }
}

/// The connection, between questions.
struct Kept {
    connection: Option<PgConnection>,
    opened: bool,
    metrics: ConnectionMetrics,
}

/// A connection that is given up half-way, or has failed, is not kept.
async fn read(log: &PgConnectOptions, kept: &mut Kept) -> Answer {
    if let Some(mut connection) = kept.connection.take()
        && let Ok(head) = query(&mut connection).await
    {
        kept.connection = Some(connection);
        return head;
    }
    // What was kept may have been closed meanwhile, by a restart of Postgres: a new one decides.
    let failed = |error| Unknown::Database(Arc::new(error));
    let mut connection = PgConnection::connect_with(log).await.map_err(failed)?;
    if std::mem::replace(&mut kept.opened, true) {
        kept.metrics.reconnected();
    }
    let head = query(&mut connection).await.map_err(failed)?;
    kept.connection = Some(connection);
    head
}

async fn query(connection: &mut PgConnection) -> Result<Answer, sqlx::Error> {
    let row = sqlx::query(HEAD).fetch_one(connection).await?;
    if row.try_get(0)? {
        return Ok(Err(Unknown::Standby));
    }
    let last: (Option<i64>, Option<Uuid>) = (row.try_get(1)?, row.try_get(2)?);
    Ok(Ok(match last {
        (Some(position), Some(command_id)) => PositionToken::new(Position::from_column(position), command_id),
        _ => PositionToken::ZERO,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::join_all;
    use tokio::{
        sync::Semaphore,
        time::{Instant, advance},
    };

    use super::*;

    fn at(position: u64) -> PositionToken {
        PositionToken { position: Position(position), fingerprint: None }
    }

    /// Answers 1, 2, 3 …: how many queries have begun. Each takes a place of the semaphore to end.
    fn counting() -> (Head, Arc<AtomicU64>, Arc<Semaphore>) {
        let (begun, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, places) = (Arc::clone(&begun), Arc::clone(&ends));
        let head = Head::asked_by(move || {
            let (nth, places) = (counted.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&places));
            async move {
                places.acquire().await.expect("it is never closed").forget();
                Ok(at(nth))
            }
            .boxed()
        });
        (head, begun, ends)
    }

    #[tokio::test]
    async fn whoever_asks_during_a_query_shares_the_next_one() {
        let (head, begun, ends) = counting();
        let mut first = Box::pin(head.now());
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        let mut others = Box::pin(join_all((0..100).map(|_| head.now())));
        assert!(others.as_mut().now_or_never().is_none());
        assert_eq!(begun.load(Ordering::SeqCst), 1, "one at a time");
        ends.add_permits(2);
        assert_eq!(first.await.unwrap(), at(1));
        for answer in others.await {
            assert_eq!(answer.unwrap(), at(2), "the first query began before they asked");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_gives_up_takes_nobody_along() {
        let (head, _, ends) = counting();
        let (mut quits, stays) = (Box::pin(head.now()), head.now());
        let mut stays = Box::pin(stays);
        assert!(quits.as_mut().now_or_never().is_none());
        assert!(stays.as_mut().now_or_never().is_none());
        drop(quits);
        ends.add_permits(1);
        assert!(stays.await.is_ok());
        let mut alone = Box::pin(head.now());
        assert!(alone.as_mut().now_or_never().is_none());
        drop(alone);
        ends.add_permits(1);
        assert!(head.now().await.is_ok(), "a query that nobody waits for ends, and holds up nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_does_not_answer_is_given_up() {
        let (head, _, _ends) = counting();
        let began = Instant::now();
        assert!(matches!(head.now().await, Err(Unknown::Late)));
        assert_eq!(began.elapsed(), HEAD_LIMIT);
        advance(HEAD_LIMIT).await;
    }
}
