//! From a request to its answer.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusDetails};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::answer::{Answer, AnswerBody};
use super::failure::Failure;
use super::object::remove_meta;
use super::registry::Resource;
use super::request::{Form, Objects, Query, Target};
use super::selector::Filter;
use super::writer::Outcome;
use super::{Inner, discovery, read, render, watch};

/// Largest body of a request, in bytes; kube-apiserver's limit.
const BODY_LIMIT: usize = 3 << 20;

impl Inner {
    /// Answers a request. Watches end with `stop`.
    pub(super) async fn respond<B>(
        &self,
        request: Request<B>,
        stop: CancellationToken,
    ) -> Response<AnswerBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let answer = match read_body(body).await {
            Ok(body) => self.dispatch(&parts, &body, stop).await,
            Err(failure) => Err(failure),
        };
        answer.unwrap_or_else(Answer::from).into_response()
    }

    async fn dispatch(
        &self,
        parts: &Parts,
        body: &Bytes,
        stop: CancellationToken,
    ) -> Result<Answer, Failure> {
        if self.writes.store.is_closed() {
            return Err(Failure::closed());
        }
        match Target::parse(&self.writes.registry, parts.uri.path())? {
            Target::Other(path) if parts.method == Method::GET => {
                discovery::answer(&self.writes.registry, &path)
            }
            Target::Other(_) => Err(Failure::method_not_allowed(&parts.method)),
            Target::Objects(target) => self.objects(parts, body, target, stop).await,
        }
    }

    async fn objects(
        &self,
        parts: &Parts,
        body: &Bytes,
        target: Objects,
        stop: CancellationToken,
    ) -> Result<Answer, Failure> {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let form = Form::of(parts, &query);
        let (writes, store) = (&self.writes, &self.writes.store);
        let in_one_namespace = target.namespace.is_some() || !target.resource.namespaced;
        match (&parts.method, target.name.is_some()) {
            (&Method::GET, true) => read::get(store, &target, &query, form),
            (&Method::GET, false) if query.flag("watch") => {
                let period = self.options.bookmark_period;
                watch::start(store.clone(), &target, &query, form, period, stop).map(Answer::Events)
            }
            (&Method::GET, false) => read::list(store, &target, &query, form),
            (&Method::POST, false) if in_one_namespace => {
                let outcome = writes.create(&target, &query, parts, body).await?;
                if query.dry_run()? {
                    // What was not written has no version.
                    let mut object = outcome.object.value.clone();
                    remove_meta(&mut object, "resourceVersion");
                    let shown = render::one(&target.resource, form, &object);
                    return Answer::json(StatusCode::CREATED, &shown);
                }
                show(&target.resource, form, StatusCode::CREATED, &outcome)
            }
            // Without a namespace there is nothing to create in.
            (&Method::POST, false) => Err(Failure::no_such_path()),
            (&Method::PUT, true) => {
                let outcome = writes.replace(&target, &query, parts, body).await?;
                show(&target.resource, form, StatusCode::OK, &outcome)
            }
            (&Method::PATCH, true) => {
                let outcome = writes.patch(&target, &query, parts, body).await?;
                show(&target.resource, form, StatusCode::OK, &outcome)
            }
            (&Method::DELETE, true) if !target.status => {
                let outcome = writes.delete(&target, &query, parts, body).await?;
                if outcome.removed {
                    return Answer::json(StatusCode::OK, &deleted(&target.resource, &outcome));
                }
                show(&target.resource, form, StatusCode::OK, &outcome)
            }
            (&Method::DELETE, false) if in_one_namespace => {
                self.delete_collection(&target, &query, form).await
            }
            (method, _) => Err(Failure::method_not_allowed(method)),
        }
    }

    async fn delete_collection(
        &self,
        target: &Objects,
        query: &Query,
        form: Form,
    ) -> Result<Answer, Failure> {
        let resource = &target.resource;
        let filter = Filter::parse(resource, query.text("labelSelector"), query.text("fieldSelector"))?;
        let page = self.writes.store.list(resource.storage, target.namespace.as_deref(), None, None)?;
        let wanted = page.objects.into_iter().filter(|object| filter.matches(&object.value));
        let keys = wanted.map(|object| object.key()).collect();
        let outcomes = self.writes.delete_all(resource, keys, query.dry_run()?).await?;
        let metadata = json!({ "resourceVersion": self.writes.store.revision().to_string() });
        let objects = outcomes.iter().map(|outcome| &outcome.object.value);
        let body = render::list(resource, form, metadata, objects)
            .map_err(|error| Failure::internal(error.to_string()))?;
        Ok(Answer::Json(StatusCode::OK, body))
    }
}

fn show(resource: &Resource, form: Form, code: StatusCode, outcome: &Outcome) -> Result<Answer, Failure> {
    Answer::json(code, &render::one(resource, form, &outcome.object.value))
}

fn deleted(resource: &Resource, outcome: &Outcome) -> Status {
    let meta = |field| Some(super::object::meta_str(&outcome.object.value, field).to_owned());
    Status {
        status: Some("Success".to_owned()),
        details: Some(StatusDetails {
            name: meta("name"),
            uid: meta("uid"),
            group: Some(resource.group.clone()).filter(|group| !group.is_empty()),
            kind: Some(resource.plural.clone()),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}

async fn read_body<B>(body: B) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let body = std::pin::pin!(Limited::new(body, BODY_LIMIT));
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::too_large(BODY_LIMIT)),
        Err(error) => Err(Failure::bad_request(format!("the body of the request cannot be read: {error}"))),
    }
}
