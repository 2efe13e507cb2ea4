//! Places in the log: an event that is there, found by its position or by a moment.

use chrono::{DateTime, Utc};
use shared::{
    moment::Moment,
    position::{Position, PositionToken},
};
use uuid::Uuid;

use super::{PastError, reading::Reading};

/// A place that the log has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    /// The event there: which command wrote it, and when. `None` before the first.
    pub(crate) event: Option<(Uuid, Moment)>,
    /// What is asked for is not over: the next event may still belong to it.
    pub(crate) open: bool,
}

impl Place {
    /// Before the first event.
    pub(crate) const BEGINNING: Self = Self { position: Position::ZERO, event: None, open: false };

    /// For clients.
    pub(crate) fn token(&self) -> PositionToken {
        self.event.map_or(PositionToken::ZERO, |(command_id, _)| PositionToken::new(self.position, command_id))
    }

    /// When the state there came to be.
    pub(crate) fn recorded_at(&self) -> Option<Moment> {
        self.event.map(|(_, recorded_at)| recorded_at)
    }
}

/// The place of this position; `None` when the log has no event there.
pub(crate) async fn at_position(mut log: Reading, position: Position) -> Result<Option<Place>, PastError> {
    if position == Position::ZERO {
        return Ok(Some(Place::BEGINNING));
    }
    let event = event_at(&mut log, position).await?;
    log.ended();
    Ok(event.map(|event| Place { position, event: Some(event), open: false }))
}

/// The last place at this moment; it is open when the moment is later than the newest event.
pub(crate) async fn at_moment(mut log: Reading, moment: Moment) -> Result<Place, PastError> {
    let found = sqlx::query_as::<_, (i64, Option<DateTime<Utc>>)>(
        "select position_at($1), (select recorded_at from events order by position desc limit 1)",
    );
    let (position, newest) = found.bind(moment.0).fetch_one(&mut *log).await?;
    let position = Position::from_column(position);
    let event = if position == Position::ZERO { None } else { event_at(&mut log, position).await? };
    log.ended();
    Ok(Place { position, event, open: newest.is_none_or(|newest| moment.0 > newest) })
}

/// The end of the log, which is open.
pub(crate) async fn newest(mut log: Reading) -> Result<Place, PastError> {
    let found = sqlx::query_as::<_, (i64, Uuid, DateTime<Utc>)>(
        "select position, command_id, recorded_at from events order by position desc limit 1",
    );
    let found = found.fetch_optional(&mut *log).await?;
    log.ended();
    Ok(found.map_or(Place { open: true, ..Place::BEGINNING }, |(position, command_id, recorded_at)| Place {
        position: Position::from_column(position),
        event: Some((command_id, Moment(recorded_at))),
        open: true,
    }))
}

async fn event_at(log: &mut Reading, position: Position) -> Result<Option<(Uuid, Moment)>, PastError> {
    let found =
        sqlx::query_as::<_, (Uuid, DateTime<Utc>)>("select command_id, recorded_at from events where position = $1");
    let found = found.bind(position.to_parameter()).fetch_optional(&mut **log).await?;
    Ok(found.map(|(command_id, recorded_at)| (command_id, Moment(recorded_at))))
}
