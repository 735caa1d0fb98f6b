//! The plugin's HTTP: `POST /METHOD` with JSON, which Docker sends with an empty `Host` or an invented one, and without a body where there
//! is nothing to say.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;

use super::fabric::Fabric;
use super::{Driver, Outcome};

/// Longest request; a container with a thousand published ports stays below it.
const MAX_BODY: usize = 1024 * 1024;
/// What Docker asks to be answered with.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves until the task is dropped.
pub(super) async fn serve<F: Fabric>(listener: UnixListener, driver: Arc<Driver<F>>) -> io::Result<()> {
    let app = Router::new().fallback(answer::<F>).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(driver);
    axum::serve(listener, app).await
}

async fn answer<F: Fabric>(
    State(driver): State<Arc<Driver<F>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "calls of a plugin are POST requests\n").into_response();
    }
    match driver.call(uri.path().trim_start_matches('/'), &body).await {
        Outcome::Done(answer) | Outcome::Failed(answer) => {
            ([(CONTENT_TYPE, MEDIA_TYPE)], Body::from(answer.to_string())).into_response()
        }
        Outcome::Unreadable(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
        // Docker takes the method for one that this driver does not have, and goes on.
        Outcome::Unknown => (StatusCode::NOT_FOUND, "no such method\n").into_response(),
    }
}
