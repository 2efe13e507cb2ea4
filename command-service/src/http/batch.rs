//! `POST /v1/batch`: changes of several configurations, all or none.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use axum::{
    Json,
    extract::{self, State},
    http::{HeaderMap, request::Parts},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;
use shared::{
    http::{
        body::{parse_json, read_body},
        context::RequestId,
        negotiation::prefers_json,
        parameters::Parameters,
        problem::Problem,
    },
    moment::Moment,
    name::ConfigName,
    position::Position,
    value::ConfigJson,
};

use super::{
    error, idempotency,
    router::WriteState,
    write::{self, Written},
};
use crate::{
    command::{Done, Operation, Request, Work},
    domain::{Change, ConfigValueCommand, Precondition},
};

/// Most operations in a batch.
pub const MAX_OPERATIONS: usize = 128;

/// Most bytes of values in a batch; 8 MiB. They are under the log's lock while they are written.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a body may have beside its values, in bytes: names, fields, blanks.
pub const BODY_ROOM_BYTES: usize = 1024 * 1024;

const EXAMPLE: &str = r#"{"operations": [{"op": "set", "name": "a", "value": 1}, {"op": "delete", "name": "b"}]}"#;

/// What is sent: `{"operations": [{"op": "set", "name": "a", "value": 1, "if_version": 3}, …], "reason": "why"}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct BatchBody {
    operations: Operations,
    /// Kept with each change.
    #[serde(default)]
    reason: Option<String>,
}

/// The first [`MAX_OPERATIONS`], each to be read by itself, and how many there are.
#[derive(Debug, Default)]
struct Operations {
    read: Vec<Box<RawValue>>,
    count: usize,
}

impl<'de> Deserialize<'de> for Operations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Operations;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of operations")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Operations, A::Error> {
                let mut operations = Operations::default();
                while operations.count < MAX_OPERATIONS {
                    let Some(item) = items.next_element()? else { return Ok(operations) };
                    operations.read.push(item);
                    operations.count += 1;
                }
                while items.next_element::<de::IgnoredAny>()?.is_some() {
                    operations.count += 1;
                }
                Ok(operations)
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}

/// One operation, as it is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct OperationBody {
    /// `set`, `delete` or `check`.
    op: String,
    name: String,
    /// Of `set`. `null` is a value.
    #[serde(default, deserialize_with = "present")]
    value: Option<Box<RawValue>>,
    /// The version that it must have; 0: it must have no value.
    #[serde(default, deserialize_with = "present")]
    if_version: Option<u64>,
    /// Of `delete`: what is not there need not be deleted.
    #[serde(default, deserialize_with = "present")]
    missing_ok: Option<bool>,
}

/// What is there is not absent, also when it is `null`: a value may be that, and a version may not.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct BatchAnswer<'a> {
    /// Of the last event that it speaks of.
    position: Position,
    /// When the batch was written; of a batch that changed nothing: when its last event was.
    recorded_at: Option<Moment>,
    /// Whether this request wrote an event.
    changed: bool,
    /// In the order of the request.
    operations: Vec<Written<'a>>,
}

/// Carries out all operations, or none.
pub(super) async fn batch(
    State(state): State<Arc<WriteState>>,
    request_id: RequestId,
    request: extract::Request,
) -> Result<Response, Problem> {
    let (Parts { uri, headers, .. }, body) = request.into_parts();
    Parameters::none(&uri)?;
    let places = state.places_of_batch()?;
    write::no_precondition(&headers)?;
    let body = read_body(&headers, body, MAX_BATCH_BYTES + BODY_ROOM_BYTES, EXAMPLE).await?;
    let key = idempotency::key(&headers, &["BATCH"], &body)?;
    let BatchBody { operations, reason } = parse_json(&body, EXAMPLE)?;
    drop(body);
    let operations = accept(operations, state.max_value_bytes)?;
    let metadata = write::metadata(&headers, &request_id, reason)?;
    let count = operations.len();
    tracing::info!("POST /batch - Storing {count} operations");

    let told = move |result: &Result<_, _>| match result {
        Ok(done) => tracing::info!("POST /batch - Successfully stored {count} operations{}", write::again(done)),
        Err(error) => error::tell(error, "POST", "/batch", "store the batch"),
    };
    let request = Request { work: Work::Batch(operations.clone()), metadata, key };
    match write::execute(&state, request, places, told).await {
        Ok(done) => Ok(answer(&headers, &operations, &done)),
        Err(error) => Err(error::batch_problem(error, &operations)),
    }
}

fn accept(sent: Operations, max_value_bytes: usize) -> Result<Vec<Operation>, Problem> {
    if sent.count == 0 {
        return Err(Problem::bad_request("empty-batch", format!("The batch has no operations; send {EXAMPLE}.")));
    }
    if sent.count > MAX_OPERATIONS {
        let detail = format!("The batch has {} operations; the limit is {MAX_OPERATIONS} operations.", sent.count);
        return Err(Problem::too_large(detail));
    }
    let mut seen: HashMap<ConfigName, usize, RandomState> = HashMap::default();
    let (mut operations, mut bytes) = (Vec::with_capacity(sent.count), 0);
    for (index, raw) in sent.read.into_iter().enumerate() {
        let operation = operation(index, &raw, max_value_bytes)?;
        if let Some(first) = seen.insert(operation.name.clone(), index) {
            return Err(error::duplicate_name(first, index, &operation.name));
        }
        if let Change::Set(value) = &operation.command.change {
            bytes += value.json().len();
        }
        operations.push(operation);
    }
    if bytes > MAX_BATCH_BYTES {
        let detail = format!("The batch has {bytes} bytes of values; the limit is {MAX_BATCH_BYTES} bytes.");
        return Err(Problem::too_large(detail));
    }
    Ok(operations)
}

fn operation(index: usize, raw: &RawValue, max_value_bytes: usize) -> Result<Operation, Problem> {
    let invalid = |what: String| error::invalid_operation(index, what);
    if raw.get().starts_with('[') {
        return Err(invalid("it is an array, not an object.".to_owned()));
    }
    let sent: OperationBody = serde_json::from_str(raw.get()).map_err(|error| {
        // Its place in the operation's own text would mislead.
        let error = error.to_string();
        invalid(format!("{}.", error.split(" at line ").next().unwrap_or_default()))
    })?;
    let name = ConfigName::parse(&sent.name).map_err(|error| invalid(format!("its name is no name: {error}")))?;
    let no = |present: bool, field: &str| match present {
        true => Err(invalid(format!("`{field}` means nothing with \"op\": \"{}\"; leave it out.", sent.op))),
        false => Ok(()),
    };
    let missing = |field: &str| invalid(format!("`{field}` is missing; \"op\": \"{}\" needs it.", sent.op));
    let change = match sent.op.as_str() {
        "set" => {
            no(sent.missing_ok.is_some(), "missing_ok")?;
            let value = sent.value.ok_or_else(|| missing("value"))?;
            let value = ConfigJson::accept(value, max_value_bytes)
                .map_err(|invalid| error::invalid_value_of(index, &invalid))?;
            Change::Set(value)
        }
        "delete" => {
            no(sent.value.is_some(), "value")?;
            if sent.missing_ok == Some(true) { Change::Clear } else { Change::Delete }
        }
        "check" => {
            no(sent.value.is_some(), "value")?;
            no(sent.missing_ok.is_some(), "missing_ok")?;
            sent.if_version.ok_or_else(|| missing("if_version"))?;
            Change::Keep
        }
        other => return Err(invalid(format!("there is no \"op\": \"{other}\"; known: set, delete, check."))),
    };
    let precondition = match sent.if_version {
        None => Precondition::None,
        Some(0) => Precondition::Absent,
        Some(version) => Precondition::VersionIn(vec![version]),
    };
    Ok(Operation { name, command: ConfigValueCommand { change, precondition } })
}

fn answer(headers: &HeaderMap, operations: &[Operation], done: &Done) -> Response {
    let response = if prefers_json(headers) {
        let last = done.receipts.iter().max_by_key(|receipt| receipt.token.position);
        Json(BatchAnswer {
            position: last.map_or(Position::ZERO, |last| last.token.position),
            recorded_at: last.filter(|last| last.version > 0).map(|last| last.recorded_at),
            changed: done.receipts.iter().any(|receipt| receipt.changed),
            operations: operations
                .iter()
                .zip(&done.receipts)
                .map(|(one, receipt)| Written::new(&one.name, receipt))
                .collect(),
        })
        .into_response()
    } else {
        "OK".into_response()
    };
    write::stamp(response, done)
}
