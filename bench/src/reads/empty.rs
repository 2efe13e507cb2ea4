//! The least that answers a GET: hyper, axum's router, one handler, nothing around it. A process of its own, as what is
//! compared with it is.

use std::io::Write as _;

use axum::{Router, body::Body, http::Response, routing::get};
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, task::JoinSet};

use crate::BoxError;

/// Serves a body of so many bytes on every path, on a port that it prints, until it is killed.
pub(crate) async fn serve(body_bytes: usize) -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}{}/", crate::ours::SERVES, listener.local_addr()?.port())?;
    let body = Bytes::from(vec![b'v'; body_bytes]);
    let handler = async move || {
        let answer = Response::builder().header("content-type", "text/plain; charset=utf-8");
        answer.body(Body::from(body)).unwrap_or_default()
    };
    let routes = Router::new().route("/v1/ready", get(async || "OK")).route("/v1/config/{name}", get(handler));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = TowerToHyperService::new(routes.clone());
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
