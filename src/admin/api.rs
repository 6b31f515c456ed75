//! The admin HTTP interface: one table of what can be asked for, and what each entry answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::access::{Caller, Denied, Level};
use super::ask::{Ask, BackendId, BackendSpec, By, Refusal, Reply, Wanted};
use super::events;
use super::metrics;
use super::page;
use super::sessions::SessionFilter;
use super::state::State;
use super::why::{WhyQuery, parse_client};

/// The longest body that is read.
const BODY_BYTES_MAX: usize = 64 << 10;
/// To read a body, or to have an answer of the control loop; a reload may read many files.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A state that was gathered is good for so long: many who look cost little more than one.
const STATE_KEPT: Duration = Duration::from_millis(250);

/// What handlers share.
#[derive(Debug)]
pub(super) struct Api {
    asks: mpsc::Sender<Ask>,
    token: Mutex<Option<String>>,
    latest: Mutex<Option<(Instant, Arc<State>)>>,
    /// The text of the metrics.
    measured: Mutex<Option<(Instant, Arc<str>)>>,
}

/// One thing that can be asked for.
struct Entry {
    path: &'static str,
    level: Level,
    answer: MethodRouter<Arc<Api>>,
}

/// Every one there is.
fn table() -> Vec<Entry> {
    let entry = |path, level, answer| Entry {
        path,
        level,
        answer,
    };
    let backend = "/api/v1/pools/{pool}/backends/{backend}";
    vec![
        entry("/", Level::Read, get(page::show)),
        entry("/healthz", Level::Read, get(async || "ok\n")),
        entry("/readyz", Level::Read, get(ready)),
        entry("/metrics", Level::Read, get(measure)),
        entry("/api/v1/state", Level::Read, get(state)),
        entry("/api/v1/why", Level::Read, get(why)),
        entry("/api/v1/events", Level::Read, get(events::stream)),
        entry("/api/v1/whoami", Level::Read, get(whoami)),
        entry("/api/v1/sessions", Level::Read, get(sessions)),
        entry("/api/v1/sessions", Level::Change, delete(kill)),
        entry(backend, Level::Change, post(change)),
        entry(backend, Level::Change, put(add)),
        entry(backend, Level::Change, delete(remove)),
        entry("/api/v1/reload", Level::Change, post(reload)),
    ]
}

/// All of it; requests carry their [`Caller`].
pub(super) fn router(api: &Arc<Api>) -> Router {
    let mut router = Router::new();
    for Entry {
        path,
        level,
        answer,
    } in table()
    {
        let guard = {
            let api = api.clone();
            move |request, next| guard(api.clone(), level, request, next)
        };
        router = router.route(path, answer.layer(from_fn(guard)));
    }
    router
        .fallback(async |request: Request| {
            let what = format!("there is no {}", request.uri().path());
            error(StatusCode::NOT_FOUND, "not_found", &what)
        })
        .method_not_allowed_fallback(async |request: Request| {
            let what = format!("{} is not for {}", request.method(), request.uri().path());
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &what)
        })
        .with_state(api.clone())
}

async fn guard(api: Arc<Api>, level: Level, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Caller>().copied();
    let caller = caller.expect("connections say who calls");
    let headers = request.headers();
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    match caller.may(level, authorization, api.token().as_deref()) {
        Ok(()) => next.run(request).await,
        Err(Denied::ReadOnly) => error(
            StatusCode::FORBIDDEN,
            "read_only",
            "nothing is changed over this address: set admin.token_file and send the token, or \
             use the admin socket",
        ),
        Err(Denied::BadToken) => {
            let what = "this needs the token of admin.token_file: Authorization: Bearer TOKEN";
            let mut response = error(StatusCode::UNAUTHORIZED, "unauthorized", what);
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

impl Api {
    pub(super) fn new(asks: mpsc::Sender<Ask>) -> Self {
        Api {
            asks,
            token: Mutex::default(),
            latest: Mutex::default(),
            measured: Mutex::default(),
        }
    }

    /// What strangers have to show from now on; without one they change nothing.
    pub(super) fn set_token(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn token(&self) -> Option<String> {
        let token = self.token.lock();
        token.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Passes a request on and waits for the answer.
    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Response> {
        let (done, answer) = oneshot::channel();
        let asked = async {
            self.asks.send(ask(done)).await.ok()?;
            answer.await.ok()
        };
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(error(
                StatusCode::SERVICE_UNAVAILABLE,
                "ending",
                "the process is ending",
            )),
            Err(_) => Err(error(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                "the control loop did not answer in time; what was asked for may still happen",
            )),
        }
    }

    /// The state, a moment old at most.
    pub(super) async fn state(&self) -> Result<Arc<State>, Response> {
        let kept = self.latest();
        if let Some((at, state)) = kept
            && at.elapsed() < STATE_KEPT
        {
            return Ok(state);
        }
        let state = Arc::new(self.ask(Ask::State).await?);
        self.keep(Some((Instant::now(), state.clone())));
        Ok(state)
    }

    /// The metrics, a moment old at most: many scrapers cost little more than one.
    async fn measured(&self) -> Result<Arc<str>, Response> {
        let lock = || self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = lock().clone();
        if let Some((at, text)) = kept
            && at.elapsed() < STATE_KEPT
        {
            return Ok(text);
        }
        let sample = self.ask(Ask::Sample).await?;
        let text: Arc<str> = metrics::text(&sample, SystemTime::now()).into();
        *lock() = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    fn latest(&self) -> Option<(Instant, Arc<State>)> {
        let latest = self.latest.lock();
        latest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, state: Option<(Instant, Arc<State>)>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// A change that was asked for; who looks next sees it.
    async fn apply<T>(
        &self,
        ask: impl FnOnce(Reply<Result<T, Refusal>>) -> Ask,
    ) -> Result<T, Response> {
        let answer = self.ask(ask).await?;
        self.keep(None);
        answer.map_err(|refusal| refused(&refusal))
    }
}

/// What may be asked of the data plane: whether it takes new clients.
async fn ready(Shared(api): Shared<Arc<Api>>) -> Result<Response, Response> {
    match api.state().await?.draining {
        false => Ok("ready\n".into_response()),
        true => Ok((StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response()),
    }
}

async fn measure(Shared(api): Shared<Arc<Api>>) -> Result<Response, Response> {
    let text = api.measured().await?.to_string();
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    Ok((kind, text).into_response())
}

async fn state(Shared(api): Shared<Arc<Api>>) -> Result<Response, Response> {
    Ok(json(StatusCode::OK, &*api.state().await?))
}

#[derive(Deserialize)]
struct Stranger {
    client: String,
    listener: String,
    sni: Option<String>,
    /// With commas between them.
    #[serde(default)]
    alpn: String,
}

/// What would become of a client, and why.
async fn why(Shared(api): Shared<Arc<Api>>, query: Asked<Stranger>) -> Result<Response, Response> {
    let Query(stranger) = query.map_err(|_| {
        let what = "it takes ?client=IP&listener=NAME, and may have &sni=HOST&alpn=P,P";
        error(StatusCode::BAD_REQUEST, "invalid", what)
    })?;
    let client = parse_client(&stranger.client)
        .map_err(|what| error(StatusCode::BAD_REQUEST, "invalid", &what))?;
    let alpn = stranger.alpn.split(',').map(str::trim);
    let query = WhyQuery {
        client,
        listener: stranger.listener,
        sni: stranger.sni.filter(|name| !name.is_empty()),
        alpn: alpn
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect(),
    };
    let answer = api.ask(|done| Ask::Why { query, done }).await?;
    let why = answer.map_err(|refusal| refused(&refusal))?;
    Ok(json(StatusCode::OK, &why))
}

/// Who asks, and whether changes are allowed to them.
async fn whoami(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    let token = api.token();
    let may = caller.may(Level::Change, authorization, token.as_deref());
    let answer = json!({
        "may_change": may.is_ok(),
        "token_configured": token.is_some(),
        "name": match caller {
            Caller::Stranger(address) if may.is_err() => address.to_string(),
            caller => caller.name(),
        },
    });
    json(StatusCode::OK, &answer)
}

/// What a query asks for.
type Asked<T> = Result<Query<T>, QueryRejection>;

#[expect(clippy::result_large_err, reason = "a handler answers with it")]
fn asked<T>(query: Asked<T>) -> Result<T, Response> {
    let wrong = |rejection: QueryRejection| {
        let what = rejection.body_text();
        error(StatusCode::BAD_REQUEST, "invalid", &what)
    };
    query.map(|Query(query)| query).map_err(wrong)
}

async fn sessions(
    Shared(api): Shared<Arc<Api>>,
    query: Asked<SessionFilter>,
) -> Result<Response, Response> {
    let (filter, kill) = (asked(query)?, None);
    let found = api.ask(|done| Ask::Sessions { filter, kill, done }).await?;
    let found = found.map_err(|refusal| refused(&refusal))?;
    Ok(json(StatusCode::OK, &found))
}

async fn kill(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Asked<SessionFilter>,
) -> Result<Response, Response> {
    let filter = asked(query)?;
    if filter.is_everything() {
        let what = "which sessions? id, listener, pool, backend, client or idle_s has to say";
        return Err(error(StatusCode::BAD_REQUEST, "invalid", what));
    }
    let kill = Some(by(caller, ""));
    let found = api
        .apply(|done| Ask::Sessions { filter, kill, done })
        .await?;
    Ok(json(StatusCode::OK, &found))
}

async fn change(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((pool, backend)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Response> {
    let wanted: Wanted = body(request).await?;
    if wanted.state.is_none() && wanted.weight.is_none() {
        let what = r#"nothing is asked for: {"state":"ready|drain|maintenance","weight":N}"#;
        return Err(error(StatusCode::BAD_REQUEST, "invalid", what));
    }
    let by = by(caller, &wanted.reason);
    let backend = BackendId { pool, backend };
    let id = backend.clone();
    api.apply(|done| Ask::Change {
        backend,
        wanted,
        by,
        done,
    })
    .await?;
    show(&api, &id, StatusCode::OK).await
}

async fn add(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((pool, backend)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Response> {
    let spec: BackendSpec = body(request).await?;
    let by = by(caller, &spec.reason);
    let backend = BackendId { pool, backend };
    let id = backend.clone();
    api.apply(|done| Ask::Add {
        backend,
        spec,
        by,
        done,
    })
    .await?;
    show(&api, &id, StatusCode::CREATED).await
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

async fn remove(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((pool, backend)): Path<(String, String)>,
    query: Asked<Reason>,
) -> Result<Response, Response> {
    let Reason { reason } = asked(query)?;
    let by = by(caller, &reason);
    let backend = BackendId { pool, backend };
    api.apply(|done| Ask::Remove { backend, by, done }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

async fn reload(
    Shared(api): Shared<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Asked<DryRun>,
) -> Result<Response, Response> {
    let DryRun { dry_run } = asked(query)?;
    let by = by(caller, "");
    let reloading = api.apply(|done| Ask::Reload { dry_run, by, done }).await?;
    Ok(json(StatusCode::OK, &reloading))
}

fn by(caller: Caller, reason: &str) -> By {
    By {
        who: caller.name(),
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
    }
}

/// A reason is a line, not a letter.
const REASON_CHARS_MAX: usize = 200;

/// A backend as it is now. One at a name that is not resolved yet is nowhere.
async fn show(api: &Api, id: &BackendId, status: StatusCode) -> Result<Response, Response> {
    let state = api.state().await?;
    let pool = state.pool(&id.pool);
    match pool.and_then(|pool| pool.backend(&id.backend)) {
        Some(backend) => Ok(json(status, backend)),
        None => Ok(json(StatusCode::ACCEPTED, &json!({ "name": id.backend }))),
    }
}

/// Reads a body of JSON.
async fn body<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Response> {
    let read = to_bytes(request.into_body(), BODY_BYTES_MAX);
    let bytes = match timeout(ANSWER_WITHIN, read).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let what = format!("the body is torn or has more than {BODY_BYTES_MAX} bytes");
            return Err(error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &what));
        }
        Err(_) => {
            let what = "the body did not come in time";
            return Err(error(StatusCode::REQUEST_TIMEOUT, "timeout", what));
        }
    };
    serde_json::from_slice(&bytes).map_err(|wrong| {
        let what = format!("the body is not what it should be: {wrong}");
        error(StatusCode::BAD_REQUEST, "invalid", &what)
    })
}

fn refused(refusal: &Refusal) -> Response {
    let (status, code) = match refusal {
        Refusal::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        Refusal::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
        Refusal::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        Refusal::Failed(_) => (StatusCode::UNPROCESSABLE_ENTITY, "failed"),
    };
    error(status, code, &refusal.to_string())
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    json(
        status,
        &json!({ "error": { "code": code, "message": message } }),
    )
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string(value).expect("what is shown can be written");
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, text + "\n").into_response()
}

#[cfg(test)]
mod tests;
