//! Each fault of a batch has its own 4xx and a sentence that names it, and the operation if it is one's; nothing is written.

use end_to_end::{CommandService, Database};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Write, batch};
use crate::append::group::names;

/// A body; status, problem code, a part of the sentence.
type Case<'a> = (&'a str, u16, &'a str, &'a str);

const BODIES: &[Case<'_>] = &[
    ("", 400, "missing-body", "The body is missing"),
    ("{", 400, "malformed-json", "EOF"),
    (r#"{"operations":[{]}"#, 400, "malformed-json", "key must be a string"),
    ("{}", 400, "invalid-body", "missing field `operations`"),
    ("[]", 400, "invalid-body", "object"),
    (r#"{"operations":[]}"#, 400, "empty-batch", "no operations"),
    (r#"{"operations":null}"#, 400, "invalid-body", "an array of operations"),
    (r#"{"operations":{"op":"set","name":"a","value":1}}"#, 400, "invalid-body", "an array of operations"),
    (r#"{"operations":[{"op":"set","name":"a","value":1}],"resaon":"x"}"#, 400, "invalid-body", "resaon"),
    (r#"{"operations":[{"op":"set","name":"a","value":1}],"reason":1}"#, 400, "invalid-body", "expected a string"),
    (r#"{"operations":[{"op":"set","name":"a","value":1}],"reason":"\u0000"}"#, 422, "invalid-reason", "NUL"),
    (
        r#"{"operations":[{"op":"set","name":"a","value":1}],"operations":[]}"#,
        400,
        "invalid-body",
        "duplicate field `operations`",
    ),
];

/// A third operation behind two good ones, on `a` and `b`.
const OPERATIONS: &[Case<'_>] = &[
    ("1", 400, "invalid-operation", "an object"),
    ("null", 400, "invalid-operation", "an object"),
    (r#"["set","c",1]"#, 400, "invalid-operation", "not an object"),
    (r#" ["set","c",1]"#, 400, "invalid-operation", "not an object"),
    ("{}", 400, "invalid-operation", "missing field `op`"),
    (r#"{"op":"set","value":1}"#, 400, "invalid-operation", "missing field `name`"),
    (r#"{"op":"put","name":"c","value":1}"#, 400, "invalid-operation", "known: set, delete, check"),
    (r#"{"op":1,"name":"c","value":1}"#, 400, "invalid-operation", "expected a string"),
    (r#"{"op":"set","op":"set","name":"c","value":1}"#, 400, "invalid-operation", "duplicate field `op`"),
    (r#"{"op":"set","name":1,"value":1}"#, 400, "invalid-operation", "expected a string"),
    (r#"{"op":"set","name":"","value":1}"#, 400, "invalid-operation", "empty"),
    (r#"{"op":"set","name":" c","value":1}"#, 400, "invalid-operation", "blank"),
    (r#"{"op":"set","name":"..","value":1}"#, 400, "invalid-operation", "cannot be names"),
    (r#"{"op":"set","name":"c\u0000","value":1}"#, 400, "invalid-operation", "U+0000"),
    (r#"{"op":"set","name":"c"}"#, 400, "invalid-operation", "`value` is missing"),
    (r#"{"op":"set","name":"c","vale":1}"#, 400, "invalid-operation", "unknown field `vale`"),
    (r#"{"op":"set","name":"c","value":1,"missing_ok":true}"#, 400, "invalid-operation", "`missing_ok`"),
    (r#"{"op":"set","name":"c","value":1,"if_version":"1"}"#, 400, "invalid-operation", "expected u64"),
    (r#"{"op":"set","name":"c","value":1,"if_version":-1}"#, 400, "invalid-operation", "expected u64"),
    (r#"{"op":"set","name":"c","value":1,"if_version":1.5}"#, 400, "invalid-operation", "expected u64"),
    (r#"{"op":"set","name":"c","value":"\u0000"}"#, 422, "invalid-value", "NUL"),
    (r#"{"op":"set","name":"c","value":"\ud800"}"#, 422, "invalid-value", "surrogate"),
    (r#"{"op":"delete","name":"c","value":1}"#, 400, "invalid-operation", "`value` means nothing"),
    (r#"{"op":"delete","name":"c","value":null}"#, 400, "invalid-operation", "`value` means nothing"),
    (r#"{"op":"delete","name":"c","missing_ok":1}"#, 400, "invalid-operation", "expected a boolean"),
    (r#"{"op":"check","name":"c"}"#, 400, "invalid-operation", "`if_version` is missing"),
    (r#"{"op":"check","name":"c","if_version":1,"value":1}"#, 400, "invalid-operation", "`value` means nothing"),
    (r#"{"op":"check","name":"c","if_version":1,"value":null}"#, 400, "invalid-operation", "`value` means nothing"),
    (r#"{"op":"check","name":"c","if_version":0,"missing_ok":true}"#, 400, "invalid-operation", "`missing_ok`"),
    (r#"{"op":"set","name":"a","value":2}"#, 422, "duplicate-name", "operations[0] and operations[2] are both on `a`"),
    (r#"{"op":"check","name":"b","if_version":0}"#, 422, "duplicate-name", "operations[1] and operations[2]"),
];

#[tokio::test]
async fn each_fault_is_named_with_its_operation_and_nothing_is_written() {
    let database = Database::new().await;
    let service = CommandService::start(&database).await;
    let check = async |write: Write, status: u16, code: &str, sentence: &str| -> Value {
        let answer = write.send(&service.client).await;
        let told = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{write:?}: {told}");
        assert_eq!(told["type"], format!("urn:config-api:problem:{code}"), "{write:?}: {told}");
        assert!(told["detail"].as_str().unwrap().contains(sentence), "{sentence:?} is not in {told}");
        told
    };
    let with_body = |body: String| Write { body: Some(body), ..batch(json!([])) };
    for (body, status, code, sentence) in BODIES {
        let told = check(with_body((*body).to_owned()), *status, code, sentence).await;
        assert!(told.get("operation").is_none(), "{told}");
    }
    let large = format!(r#"{{"op":"set","name":"c","value":"{}"}}"#, "x".repeat(1024 * 1024 - 1));
    let deep = format!(r#"{{"op":"set","name":"c","value":{}{}}}"#, "[".repeat(129), "]".repeat(129));
    let long = format!(r#"{{"op":"set","name":"{}","value":1}}"#, "x".repeat(257));
    let made: [Case<'_>; 3] = [
        (&large, 413, "too-large", "the limit is 1048576 bytes"),
        (&deep, 422, "invalid-value", "deeper than 128"),
        (&long, 400, "invalid-operation", "the limit is 256 bytes"),
    ];
    for (operation, status, code, sentence) in OPERATIONS.iter().chain(&made) {
        let good = r#"{"op":"set","name":"a","value":1},{"op":"set","name":"b","value":1}"#;
        let told = check(with_body(format!(r#"{{"operations":[{good},{operation}]}}"#)), *status, code, sentence).await;
        assert_eq!(told["operation"], 2, "{told}");
        assert!(told["detail"].as_str().unwrap().contains("operations[2]"), "{told}");
    }
    let good = || batch(json!([{"op": "set", "name": "a", "value": 1}]));
    for header in ["if-match", "if-none-match"] {
        check(good().with(header, "*"), 400, "malformed-entity-tag", "`if_version`").await;
    }
    check(good().with("if-match", "x"), 400, "malformed-entity-tag", "double quotes").await;
    let path = "/v1/batch?dry=1".to_owned();
    check(Write { path, ..good() }, 400, "unknown-parameter", "dry").await;
    check(Write { method: Method::PUT, ..good() }, 405, "method-not-allowed", "Allow").await;
    assert_eq!(names(&mut database.connect().await).await, [""; 0]);
    assert_eq!(good().send(&service.client).await.status, 200);
}
