//! An `AdmissionReview`, answered. Nothing is ever refused: what cannot be read is let through as it is.

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::Value;
use tracing::{debug, warn};

use super::places::Places;
use super::workload::{self, Surroundings};
use super::{PATH, pod};
use crate::ipam::family::Families;

/// Largest body of a request, in bytes: an object and its predecessor of kube-apiserver's largest size.
const BODY_LIMIT: usize = 7 << 20;

/// What answers reviews.
#[derive(Clone)]
pub struct Reviewer {
    /// Where addresses can be.
    pub places: Places,
    /// Of which every pod has an address.
    pub families: Families,
}

impl Reviewer {
    /// Answers a request of kube-apiserver.
    pub async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "reviews are answered at /admit");
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "post an AdmissionReview");
        }
        let body = match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return plain(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
        };
        let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body)
            .map_err(|error| error.to_string())
            .and_then(|review| {
                TryInto::<AdmissionRequest<_>>::try_into(review).map_err(|error| error.to_string())
            });
        match review {
            Ok(request) => json(&self.review(&request).await.into_review()),
            Err(problem) => plain(StatusCode::BAD_REQUEST, format!("no AdmissionReview of v1: {problem}")),
        }
    }

    /// Answers a review.
    pub async fn review(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(object) = request.object.as_ref().and_then(|object| serde_json::to_value(object).ok())
        else {
            return response;
        };
        match (request.kind.group.as_str(), request.kind.kind.as_str(), &request.operation) {
            ("", "Pod", Operation::Create) => self.review_pod(request, object, response).await,
            ("apps", kind @ ("Deployment" | "StatefulSet"), Operation::Create | Operation::Update) => {
                let old = request.old_object.as_ref().and_then(|old| serde_json::to_value(old).ok());
                let subnets = self.places.subnets();
                let around = Surroundings { subnets: &subnets, families: &self.families };
                with_warnings(response, workload::warnings(kind, &object, old.as_ref(), &around))
            }
            _ => response,
        }
    }

    async fn review_pod(
        &self,
        request: &AdmissionRequest<DynamicObject>,
        pod: Value,
        response: AdmissionResponse,
    ) -> AdmissionResponse {
        if !pod::needs_address(&pod) {
            return response;
        }
        let (wish, bad) = pod::wish(&pod);
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let place = self.places.of_pod(namespace, name, &wish).await;
        let mut prepared = pod.clone();
        let mut warnings: Vec<String> = bad.iter().map(ToString::to_string).collect();
        warnings.extend(pod::prepare(&mut prepared, place.as_ref()));
        let patch = json_patch::diff(&pod, &prepared);
        debug!(namespace, name, ?place, operations = patch.0.len(), "pod reviewed");
        let response = with_warnings(response, warnings);
        if patch.0.is_empty() {
            return response;
        }
        match response.clone().with_patch(patch) {
            Ok(patched) => patched,
            Err(error) => {
                warn!(%error, namespace, name, "pod let through as it is");
                response
            }
        }
    }
}

fn with_warnings(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    response
}

fn json(review: &AdmissionReview<DynamicObject>) -> Response<Full<Bytes>> {
    match serde_json::to_vec(review) {
        Ok(body) => {
            let mut response = Response::new(Full::from(body));
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn plain(code: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.into()));
    *response.status_mut() = code;
    response
}
