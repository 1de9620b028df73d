//! Answers, and the bodies that carry them.

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream::BoxStream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Serialize;

use super::failure::Failure;

/// Body of an answer: whole, or the events of a watch as they come.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a request is answered with.
pub(super) enum Answer {
    Json(StatusCode, Vec<u8>),
    Text(&'static str),
    Events(BoxStream<'static, Bytes>),
}

impl Answer {
    pub fn json(code: StatusCode, body: &impl Serialize) -> Result<Self, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::internal(error.to_string()))?;
        Ok(Self::Json(code, body))
    }

    pub fn into_response(self) -> Response<AnswerBody> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let whole = |bytes: Bytes| Full::new(bytes).boxed_unsync();
        let (code, kind, body) = match self {
            Self::Json(code, body) => (code, JSON, whole(body.into())),
            Self::Text(text) => {
                (StatusCode::OK, HeaderValue::from_static("text/plain; charset=utf-8"), whole(text.into()))
            }
            Self::Events(events) => {
                use futures::StreamExt;
                let frames = events.map(|chunk| Ok(Frame::data(chunk)));
                (StatusCode::OK, JSON, StreamBody::new(frames).boxed_unsync())
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = code;
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

impl From<Failure> for Answer {
    fn from(failure: Failure) -> Self {
        let code = StatusCode::from_u16(failure.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::json(code, failure.status()).unwrap_or(Self::Json(code, b"{}".to_vec()))
    }
}
