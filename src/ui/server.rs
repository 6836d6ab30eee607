//! The page and what changes on it, over HTTP on 127.0.0.1.
//!
//! What a browser is shown, other pages in it must not get at, nor other users of the machine. So:
//! - `/events` wants the token, which is in the address after `#` and so never sent by itself;
//! - the `Host` must be this machine's, whatever a stranger's name resolves to (DNS rebinding);
//! - a request that another site causes is refused, and no answer allows another origin to read it;
//! - the page runs and loads nothing that did not come with it (its policy has a nonce).
//!
//! Connections are bounded in number and size ([`Limited`]); of event streams there are eight, and
//! one more ends the oldest. A slow reader gets the newest difference when he reads, and holds one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures_util::stream;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::model::Model;
use crate::observe::Limited;

/// The page; a nonce takes the place of NONCE.
const PAGE: &str = include_str!("page.html");

/// Event streams at once.
const STREAMS: usize = 8;

/// How long a connection lasts; the page comes again.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How often a stream says that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// What nobody can guess, as hexadecimal digits.
pub(super) fn token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    let got = getrandom(&mut bytes, GetRandomFlags::empty()).context("asking for random bytes")?;
    anyhow::ensure!(got == bytes.len(), "the kernel gave too few random bytes");
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

struct Shared {
    port: u16,
    token: String,
    told: watch::Receiver<Arc<Model>>,
    /// Ends an event stream when it is dropped; the oldest first.
    streams: Mutex<VecDeque<oneshot::Sender<()>>>,
}

/// Serves on `listener`, for ever.
pub(super) async fn serve(
    listener: TcpListener,
    port: u16,
    token: String,
    told: watch::Receiver<Arc<Model>>,
) -> anyhow::Result<()> {
    let shared = Arc::new(Shared { port, token, told, streams: Mutex::default() });
    let check = middleware::from_fn_with_state(Arc::clone(&shared), only_from_here);
    let routes = Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .layer(check)
        .with_state(shared);
    axum::serve(Limited::lasting(listener, PATIENCE), routes).await.context("serving the page")
}

/// Lets requests through that a person's browser makes of its own accord.
async fn only_from_here(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let mut response = match refusal(request.headers(), shared.port) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not answered, if it is not.
fn refusal(headers: &HeaderMap, port: u16) -> Option<&'static str> {
    let hosts = ["127.0.0.1", "localhost"].map(|host| format!("{host}:{port}"));
    let value = |name: HeaderName| headers.get(name).map(|it| it.to_str().unwrap_or_default());
    let mut all_hosts = headers.get_all(header::HOST).iter();
    let host = all_hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if all_hosts.next().is_some() || !hosts.iter().any(|own| own == host) {
        return Some("this page is at 127.0.0.1 only\n");
    }
    if let Some(origin) = value(header::ORIGIN)
        && origin != format!("http://{host}")
    {
        return Some("another site asks\n");
    }
    match value(HeaderName::from_static("sec-fetch-site")) {
        None | Some("same-origin" | "none") => None,
        Some(_) => Some("another site asks\n"),
    }
}

async fn page() -> Response {
    let Ok(nonce) = token() else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, PAGE.replace("NONCE", &nonce)).into_response()
}

async fn events(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !is_same(given, &shared.token) {
        let why = "open the whole address that `culvert ui` prints\n";
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    let (hold, ended) = oneshot::channel();
    {
        let mut streams = shared.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| !stream.is_closed());
        if streams.len() >= STREAMS {
            streams.pop_front();
        }
        streams.push_back(hold);
    }
    let mut told = shared.told.clone();
    told.mark_changed();
    let stream = Stream { told, ended, shown: Arc::default() };
    let body = Body::from_stream(stream::unfold(stream, Stream::next));
    // What has ended is to be over, and not a connection that somebody might ask again by.
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CONNECTION, "close")], body)
        .into_response()
}

/// What one browser is told.
struct Stream {
    told: watch::Receiver<Arc<Model>>,
    ended: oneshot::Receiver<()>,
    /// What it has.
    shown: Arc<Model>,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let event = tokio::select! {
            // Ended for a newer one.
            _ = &mut self.ended => return None,
            changed = self.told.changed() => {
                changed.ok()?;
                let now = Arc::clone(&self.told.borrow_and_update());
                let news = now.since(&self.shown);
                self.shown = now;
                news.map(|news| format!("data: {news}\n\n"))
            }
            () = tokio::time::sleep(SIGN_OF_LIFE) => None,
        };
        let bytes = Bytes::from(event.unwrap_or_else(|| ": here\n\n".to_owned()));
        Some((Ok(bytes), self))
    }
}

/// Compares without telling by the time it takes how much is right.
fn is_same(given: &str, token: &str) -> bool {
    let differences =
        given.bytes().zip(token.bytes()).fold(0, |all, (one, other)| all | (one ^ other));
    given.len() == token.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        refusal(&headers, 4799)
    }

    #[test]
    fn only_the_page_itself_and_the_person_may_ask() {
        let own = ("host", "127.0.0.1:4799");
        assert_eq!(refused(&[own]), None);
        assert_eq!(refused(&[("host", "localhost:4799")]), None);
        let same = [own, ("origin", "http://127.0.0.1:4799"), ("sec-fetch-site", "same-origin")];
        assert_eq!(refused(&same), None);
        assert_eq!(refused(&[own, ("sec-fetch-site", "none")]), None);
        let foreign = [
            vec![],
            vec![("host", "evil.example:4799")],
            vec![("host", "127.0.0.1:4798")],
            vec![("host", "127.0.0.1:4799.evil.example")],
            vec![own, ("host", "evil.example")],
            vec![own, ("origin", "http://evil.example")],
            vec![own, ("origin", "null")],
            vec![own, ("origin", "http://localhost:4799")],
            vec![own, ("sec-fetch-site", "cross-site")],
            vec![own, ("sec-fetch-site", "same-site")],
        ];
        for headers in foreign {
            assert!(refused(&headers).is_some(), "{headers:?}");
        }
    }

    #[test]
    fn tokens_are_long_and_new_and_compared_whole() {
        let (one, other) = (token().unwrap(), token().unwrap());
        assert!(one.len() == 32 && one != other);
        assert!(is_same(&one, &one) && !is_same(&one, &other));
        assert!(
            !is_same("", &one) && !is_same(&one[..31], &one) && !is_same(&format!("{one}0"), &one)
        );
    }

    #[test]
    fn the_page_has_nothing_of_strangers() {
        for foreign in ["src=", "href=", "@import", "url(", "http:", "https:", "innerHTML", "eval("]
        {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        assert_eq!(PAGE.matches("nonce=\"NONCE\"").count(), PAGE.matches("NONCE").count());
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
    }
}
