//! The cloud's HTTP interface to crypto units, as IBM's TKE SDK calls it: `docs/tke-http.md`.
//!
//! Paths, field names and the envelope of an answer are the cloud's. What travels inside is not: IBM sends EP11 CPRBs
//! and follows the module's certificate to a root key of IBM's, which no emulator has. Here it is the DER of our own
//! commands and answers ([`crate::units::command`]), the same as over gRPC.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::edge::access::{BearerToken, bearer};
use crate::services::administration::{Administration, Error, MAX_REQUEST_BYTES};
use crate::services::region::{InstalledUnit, Region};
use crate::units::command::UnitType;

/// The routes, for the server's router.
pub fn router(administration: Arc<Administration>, token: BearerToken) -> Router {
    Router::new()
        .route("/v1/tke/{instance}/hsms", get(list))
        .route("/v1/tke/{instance}/hsms/{hsm_id}", post(submit))
        .with_state(Cloud { administration, token })
}

#[derive(Clone)]
struct Cloud {
    administration: Arc<Administration>,
    token: BearerToken,
}

/// A caller who has the API key. Asked for before a body is read.
struct Caller;

impl FromRequestParts<Cloud> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, cloud: &Cloud) -> Result<Self, Failure> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // The SDK sends whatever token it was given, with the word in front or without.
        let presented = header.map(|header| bearer(header).unwrap_or(header.trim()));
        match presented {
            Some(token) if cloud.token.is(token) => Ok(Self),
            _ => {
                tracing::warn!(presented = presented.is_some(), "a call without a valid API key was refused");
                Err(Failure(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))
            }
        }
    }
}

async fn list(
    _: Caller,
    State(cloud): State<Cloud>,
    Path(instance): Path<String>,
) -> Result<Json<Value>, Failure> {
    let region = cloud.administration.region();
    check_instance(region, &instance)?;
    let units = region.units();
    let of_type = |unit_type| -> Vec<Value> {
        // There is no list for a damaged unit of which nobody knows the type: it stands at the end of the first.
        let listed = |installed: &&InstalledUnit| installed.unit_type().unwrap_or(UnitType::Operational);
        let units = units.iter().filter(|installed| listed(installed) == unit_type);
        units
            .map(|installed| {
                json!({
                    "hsm_id": installed.hsm_id,
                    "location": installed.unit.location(),
                    "state": region.state_of(installed),
                    "version": VERSION,
                    "serial_number": installed.unit.serial(),
                })
            })
            .collect()
    };
    let mut answer = json!({
        "metadata": [{ "collectionType": COLLECTION, "collectionTotal": units.len() }],
        "hsms": of_type(UnitType::Operational),
        "source_hsms": of_type(UnitType::Recovery),
    });
    let failover = of_type(UnitType::Failover);
    if !failover.is_empty() {
        answer["failover_hsms"] = failover.into();
    }
    Ok(Json(answer))
}

#[derive(Deserialize)]
struct Submit {
    request: String,
}

async fn submit(
    _: Caller,
    State(cloud): State<Cloud>,
    Path((instance, hsm_id)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Failure> {
    check_instance(cloud.administration.region(), &instance)?;
    let body = read(body).await?;
    let Submit { request } = serde_json::from_slice(&body)
        .map_err(|error| bad_request(format!("the body is not {{\"request\": \"...\"}}: {error}")))?;
    let request =
        hex::decode(request).map_err(|error| bad_request(format!("request: not hexadecimal: {error}")))?;
    let work = move || cloud.administration.submit(&hsm_id, &request);
    let response = tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Failure(StatusCode::INTERNAL_SERVER_ERROR, "the call was interrupted".to_owned()))??;
    Ok(Json(json!({ "response": envelope(&response) })))
}

/// A body of at most [`MAX_BODY_BYTES`]. What is longer is read on and dropped for a while: a client that is still
/// sending when the connection closes would see a broken pipe in place of the answer.
async fn read(mut body: Body) -> Result<Vec<u8>, Failure> {
    let (mut read, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| bad_request(format!("the body was cut off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length <= MAX_BODY_BYTES {
            read.extend_from_slice(&data);
        } else if length > MAX_DRAINED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES {
        return Err(bad_request(format!(
            "the body is longer than the length limit of {MAX_BODY_BYTES} bytes"
        )));
    }
    Ok(read)
}

/// Length of the digits, error information, digits. There is none: what goes wrong on the way to a unit is an HTTP
/// status here, and what the unit refuses is in its signed answer.
fn envelope(response: &[u8]) -> String {
    let digits = hex::encode(response);
    format!("{};{};{digits}", digits.len(), "0".repeat(ERROR_INFORMATION_CHARS))
}

fn check_instance(region: &Region, instance: &str) -> Result<(), Failure> {
    if instance == region.identity().instance {
        Ok(())
    } else {
        Err(Failure(StatusCode::NOT_FOUND, "there is no such service instance here".to_owned()))
    }
}

/// A status and what to say.
struct Failure(StatusCode, String);

fn bad_request(message: String) -> Failure {
    Failure(StatusCode::BAD_REQUEST, message)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::NotFound(_) | Error::NoToken(_) => StatusCode::NOT_FOUND,
            Error::TooLarge(_) => StatusCode::BAD_REQUEST,
            Error::Unit(unit) if unit.code == cryptoki_sys::CKR_ARGUMENTS_BAD => StatusCode::BAD_REQUEST,
            Error::Stopped(_) | Error::Audit(_) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Damaged(_) | Error::Unit(_) | Error::Region(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(%error, "an administrative call failed");
        }
        Self(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        (status, Json(json!({ "message": message, "statusCode": status.as_u16() }))).into_response()
    }
}

/// Two digits for each byte of a command, and the JSON around them.
const MAX_BODY_BYTES: usize = 2 * MAX_REQUEST_BYTES + (1 << 10);
/// Of a body that is too long.
const MAX_DRAINED_BYTES: usize = 64 << 20;
const ERROR_INFORMATION_CHARS: usize = 156;
const COLLECTION: &str = "application/vnd.ibm.tke.hsm+json";
/// Of the entries in the list.
const VERSION: u32 = 1;
