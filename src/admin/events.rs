//! The state again and again, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::api::Api;

/// Between two events.
const EVERY: Duration = Duration::from_secs(1);

/// An event `state` each second. Ends with the process.
pub(super) async fn stream(Shared(api): Shared<Arc<Api>>) -> Response {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = stream::unfold((api, ticks), |(api, mut ticks)| async {
        let event = next(&api, &mut ticks).await?;
        Some((Ok::<Event, Infallible>(event), (api, ticks)))
    });
    Sse::new(events).into_response()
}

async fn next(api: &Api, ticks: &mut Interval) -> Option<Event> {
    ticks.tick().await;
    let state = api.state().await.ok()?;
    let event = Event::default().event("state").retry(EVERY);
    event.json_data(&*state).ok()
}
