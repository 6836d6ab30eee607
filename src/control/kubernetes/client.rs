//! Calls to the API server, each with a limit on its time.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use culvert_claims::kubernetes::{Node, Patch, TIMES, Watched};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{AsyncRead, AsyncReadExt as _, StreamExt as _};
use kube::Client;
use kube::api::{ListParams, PatchParams, Request, VersionMatch, WatchEvent, WatchParams};
use kube::config::KubeconfigError;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use thiserror::Error;
use tokio::task::JoinError;

use super::connection::{self, LARGEST_OBJECT};
use crate::control::causes::causes;

/// How long one call may take; a page of a large cluster comes in well under that.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes in one answer, as other clients ask for.
const PAGE: u32 = 500;

/// Pages of one list at most: a million objects, of which the largest clusters have fewer.
const PAGES: usize = 2_000;

/// Largest page: not every object is of the largest.
const LARGEST_PAGE: usize = PAGE as usize * (2 << 20);

/// How long the server keeps a watch open before we ask again. A server that stands still is
/// noticed when that has passed, and [`GRACE`] with it.
const WATCH: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);

/// Who writes, in the API server's book of who wrote which field.
const WRITER: &str = "culvert";

/// HTTP's word for a version that the server does not have any more.
const GONE: u16 = 410;

/// What a server says that has not come to the version that it was asked for.
const NOT_YET: u16 = 504;

/// HTTP's word for what is not there.
pub(in crate::control) const MISSING: u16 = 404;

/// HTTP's word for a change that was made from an older version.
pub(super) const CONFLICT: u16 = 409;

/// The code of what the cluster does not allow this daemon.
pub(super) const FORBIDDEN: u16 = 403;

/// A call that failed.
#[derive(Debug, Error)]
pub(in crate::control) enum CallError {
    #[error("reading kubernetes.kubeconfig {}: {error}", .path.display())]
    Kubeconfig { path: PathBuf, error: KubeconfigError },
    #[error(
        "finding the API server: {0}; run as a pod with a service account, or set \
         kubernetes.kubeconfig"
    )]
    InCluster(kube::config::InClusterError),
    #[error("a proxy (proxy-url, HTTPS_PROXY) is not supported")]
    Proxy,
    #[error("reading files: {0}")]
    Stopped(#[from] JoinError),
    #[error("{what}: {}", causes(.error))]
    Api { what: &'static str, error: Box<kube::Error> },
    #[error("{what}: {error}")]
    Request { what: &'static str, error: kube::core::request::Error },
    #[error("{what}: no answer in {PATIENCE:?}")]
    Late { what: &'static str },
    #[error("{what}: no end after {PAGES} pages; look at the API server, or what is between")]
    Endless { what: &'static str },
    #[error("the watch neither tells nor ends")]
    Silent,
    #[error("the API server sent a node without a version")]
    NoVersion,
}

/// The API server.
#[derive(Clone)]
pub(in crate::control) struct Api {
    client: Client,
    nodes: Request,
}

/// A part of all objects of a kind, and the version from which to follow.
#[derive(Debug, Deserialize)]
pub(super) struct Page<T> {
    pub(super) metadata: PageMeta,
    // Lists of some kinds have none instead of an empty one.
    #[serde(default = "Vec::new")]
    pub(super) items: Vec<T>,
}

/// One kind of objects, by its place in the API.
#[derive(Clone, Copy, Debug)]
pub(in crate::control) struct Resource {
    /// Its path, such as `/api/v1/pods`.
    pub(in crate::control) path: &'static str,
    /// What is done when it is listed, for errors.
    pub(in crate::control) listing: &'static str,
    /// What is done when it is watched, for errors.
    pub(in crate::control) watching: &'static str,
}

/// What a watch of objects of any kind tells.
#[derive(Debug)]
pub(in crate::control) enum ObjectEvent<T> {
    /// An object is new or another.
    Put(T),
    /// An object is gone; this is its last state.
    Deleted(T),
    /// Nothing changed up to this version.
    Bookmark(String),
    /// The server has forgotten changes; only a list helps.
    Gone,
}

/// What a page says of the list that it is of.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::control) struct PageMeta {
    /// The version that the list is of.
    #[serde(default)]
    pub(in crate::control) resource_version: String,
    /// By what the next page is asked for; none or an empty text on the last one.
    #[serde(default)]
    pub(in crate::control) r#continue: Option<String>,
}

impl Api {
    /// Connects as `kubeconfig` says, or as a pod is told by its surroundings.
    pub(in crate::control) async fn connect(kubeconfig: Option<&Path>) -> Result<Self, CallError> {
        let client = connection::connect(kubeconfig).await?;
        Ok(Self { client, nodes: Request::new("/api/v1/nodes") })
    }

    /// Every node as it is now, and the version of that.
    pub(super) async fn list(&self) -> Result<(Vec<Node>, String), CallError> {
        let mut nodes = Vec::new();
        let read = |text: &[u8]| {
            let page: Page<Node> = serde_json::from_slice(text)?;
            nodes.extend(page.items.into_iter().map(Node::slim));
            Ok(page.metadata)
        };
        let version = self.pages("listing nodes", &self.nodes, ListParams::default(), read).await?;
        Ok((nodes, version))
    }

    /// The changes after `version`.
    pub(super) async fn watch(
        &self,
        version: &str,
    ) -> Result<BoxStream<'static, Result<Watched, CallError>>, CallError> {
        const WHAT: &str = "watching nodes";
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let request = self.nodes.watch(&WatchParams::default().timeout(seconds), version);
        let request = request.map_err(|error| CallError::Request { what: WHAT, error })?;
        let events = self.client.request_events::<Node>(request);
        let events = tokio::time::timeout(PATIENCE, events).await;
        let events = match events.map_err(|_| CallError::Late { what: WHAT })? {
            Err(kube::Error::Api(status)) if status.code == GONE => {
                return Ok(stream::iter([Ok(Watched::Gone)]).boxed());
            }
            events => events.map_err(|error| refused(WHAT, error))?,
        };
        let told = stream::unfold(events.boxed(), |mut events| async {
            let event = match tokio::time::timeout(WATCH + GRACE, events.next()).await {
                Ok(event) => event?.map_err(|error| refused(WHAT, error)).and_then(watched),
                Err(_) => Err(CallError::Silent),
            };
            Some((event, events))
        });
        Ok(doubted(told.boxed(), Watched::Gone, self.has_reached(&self.nodes, version)))
    }

    /// Every object of a kind as it is now, page by page as `read` gets their text, and the version
    /// of that.
    pub(in crate::control) async fn list_objects(
        &self,
        resource: Resource,
        read: impl FnMut(&[u8]) -> serde_json::Result<PageMeta>,
    ) -> Result<String, CallError> {
        let params = ListParams::default();
        self.pages(resource.listing, &Request::new(resource.path), params, read).await
    }

    async fn pages(
        &self,
        what: &'static str,
        all: &Request,
        params: ListParams,
        mut read: impl FnMut(&[u8]) -> serde_json::Result<PageMeta>,
    ) -> Result<String, CallError> {
        // A page is long, and one place does for all.
        let mut text = Vec::new();
        let mut params = params.limit(PAGE);
        for _page in 0..PAGES {
            self.text(what, all.list(&params), LARGEST_PAGE, &mut text).await?;
            let page = read(&text).map_err(|it| refused(what, kube::Error::SerdeError(it)))?;
            match page.r#continue.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(page.resource_version),
            }
        }
        Err(CallError::Endless { what })
    }

    /// The changes of objects of a kind after `version`.
    pub(in crate::control) async fn watch_objects<T: Clone + DeserializeOwned + Send + 'static>(
        &self,
        resource: Resource,
        version: &str,
    ) -> Result<BoxStream<'static, Result<ObjectEvent<T>, CallError>>, CallError> {
        let what = resource.watching;
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let all = Request::new(resource.path);
        let request = all.watch(&WatchParams::default().timeout(seconds), version);
        let request = request.map_err(|error| CallError::Request { what, error })?;
        let events = self.client.request_events::<T>(request);
        let events = tokio::time::timeout(PATIENCE, events).await;
        let events = match events.map_err(|_| CallError::Late { what })? {
            Err(kube::Error::Api(status)) if status.code == GONE => {
                return Ok(stream::iter([Ok(ObjectEvent::Gone)]).boxed());
            }
            events => events.map_err(|error| refused(what, error))?,
        };
        let told = stream::unfold(events.boxed(), move |mut events| async move {
            let event = match tokio::time::timeout(WATCH + GRACE, events.next()).await {
                Ok(event) => match event? {
                    Ok(WatchEvent::Added(it) | WatchEvent::Modified(it)) => {
                        Ok(ObjectEvent::Put(it))
                    }
                    Ok(WatchEvent::Deleted(it)) => Ok(ObjectEvent::Deleted(it)),
                    Ok(WatchEvent::Bookmark(it)) => {
                        Ok(ObjectEvent::Bookmark(it.metadata.resource_version))
                    }
                    Ok(WatchEvent::Error(status)) if status.code == GONE => Ok(ObjectEvent::Gone),
                    Ok(WatchEvent::Error(status)) => Err(refused(what, kube::Error::Api(status))),
                    Err(error) => Err(refused(what, error)),
                },
                Err(_) => Err(CallError::Silent),
            };
            Some((event, events))
        });
        Ok(doubted(told.boxed(), ObjectEvent::Gone, self.has_reached(&all, version)))
    }

    /// Whether the server has come to `version`, as far as it says. One object at most is asked
    /// for, which the database answers, and not a server's memory: that lags behind where nothing
    /// changes.
    fn has_reached(&self, all: &Request, version: &str) -> BoxFuture<'static, bool> {
        let params = ListParams::default().limit(1).at(version);
        let request = all.list(&params.matching(VersionMatch::NotOlderThan));
        let api = self.clone();
        Box::pin(async move {
            let page = api.call::<Page<IgnoredAny>>("asking for a version", request).await;
            !page.is_err_and(|error| error.code() == Some(NOT_YET))
        })
    }

    /// The pods of the node `name`, page by page as `read` gets their text.
    pub(super) async fn pods_of(
        &self,
        name: &str,
        read: impl FnMut(&[u8]) -> serde_json::Result<PageMeta>,
    ) -> Result<String, CallError> {
        let params = ListParams::default().fields(&format!("spec.nodeName={name}"));
        let all = Request::new("/api/v1/pods");
        self.pages("listing the pods of this node", &all, params, read).await
    }

    /// The object at `path`; none if there is none.
    pub(in crate::control) async fn object(&self, path: &str) -> Result<Option<Value>, CallError> {
        const WHAT: &str = "reading a pod";
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(kube::core::request::Error::BuildRequest);
        match self.call(WHAT, request).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(MISSING) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes the node `name`, at `now` (RFC 3339).
    pub(super) async fn patch(&self, name: &str, patch: Patch, now: &str) -> Result<(), CallError> {
        const WHAT: &str = "changing this node";
        let params = PatchParams { field_manager: Some(WRITER.to_owned()), ..Default::default() };
        let request = match patch {
            Patch::Object(patch) => {
                self.nodes.patch(name, &params, &kube::api::Patch::Merge(patch))
            }
            Patch::Status(mut patch) => {
                let conditions = patch["status"]["conditions"].as_array_mut();
                for condition in conditions.into_iter().flatten() {
                    TIMES.iter().for_each(|time| condition[*time] = now.into());
                }
                // Such a patch knows conditions apart by their type.
                let patch = kube::api::Patch::Strategic(patch);
                self.nodes.patch_subresource("status", name, &params, &patch)
            }
        };
        self.call::<Value>(WHAT, request).await.map(drop)
    }

    /// Writes an event.
    pub(super) async fn create_event(&self, event: &Value) -> Result<(), CallError> {
        const WHAT: &str = "writing an event";
        let path = format!("/api/v1/namespaces/{}/events", super::events::NAMESPACE);
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(event.to_string().into_bytes())
            .map_err(kube::core::request::Error::BuildRequest);
        self.call::<Value>(WHAT, request).await.map(drop)
    }

    /// Puts the answer to `request`, if it has fewer than `most` bytes, in place of `text`.
    async fn text(
        &self,
        what: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        most: usize,
        text: &mut Vec<u8>,
    ) -> Result<(), CallError> {
        let request = request.map_err(|error| CallError::Request { what, error })?;
        text.clear();
        let read = async {
            let answer = pin!(self.client.request_stream(request).await?);
            let read = whole(answer, most, text).await;
            read.map_err(|error| kube::Error::Service(error.into()))
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        let read = read.map_err(|_| CallError::Late { what })?;
        read.map_err(|error| refused(what, error))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        what: &'static str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, CallError> {
        let mut text = Vec::new();
        self.text(what, request, LARGEST_OBJECT, &mut text).await?;
        serde_json::from_slice(&text).map_err(|it| refused(what, kube::Error::SerdeError(it)))
    }
}

/// Reads an answer to its end, if it has fewer than `most` bytes.
async fn whole(answer: impl AsyncRead + Unpin, most: usize, text: &mut Vec<u8>) -> io::Result<()> {
    if answer.take(most as u64).read_to_end(text).await? == most {
        let problem = format!("an answer of {most} bytes or more");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(())
}

/// What `events` tell, and `gone` where they end without a word because the server has not come to
/// the version that they began at. That is so after etcd was restored from a backup: the server
/// tells such a watch nothing, for as long as it takes to come there, which may be a day.
fn doubted<E: Send + 'static>(
    events: BoxStream<'static, Result<E, CallError>>,
    gone: E,
    has_reached: BoxFuture<'static, bool>,
) -> BoxStream<'static, Result<E, CallError>> {
    let silent = (events, Some((gone, has_reached)));
    let told = stream::unfold(Some(silent), |state| async {
        let (mut events, doubt) = state?;
        if let Some(event) = events.next().await {
            return Some((event, Some((events, None))));
        }
        let (gone, has_reached) = doubt?;
        if has_reached.await { None } else { Some((Ok(gone), None)) }
    });
    told.boxed()
}

/// What an event of the server's tells.
fn watched(event: WatchEvent<Node>) -> Result<Watched, CallError> {
    let has_version = |node: &Node| !node.version().is_empty();
    match event {
        WatchEvent::Added(node) | WatchEvent::Modified(node) if has_version(&node) => {
            Ok(Watched::Put(node.slim()))
        }
        WatchEvent::Deleted(node) if has_version(&node) => Ok(Watched::Deleted(node.slim())),
        WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) => {
            Err(CallError::NoVersion)
        }
        WatchEvent::Bookmark(bookmark) => Ok(Watched::Bookmark(bookmark.metadata.resource_version)),
        WatchEvent::Error(status) if status.code == GONE => Ok(Watched::Gone),
        WatchEvent::Error(status) => Err(refused("watching nodes", kube::Error::Api(status))),
    }
}

pub(super) fn refused(what: &'static str, error: kube::Error) -> CallError {
    CallError::Api { what, error: error.into() }
}

impl CallError {
    /// The HTTP status of an answer that refuses.
    pub(in crate::control) fn code(&self) -> Option<u16> {
        let Self::Api { error, .. } = self else { return None };
        let kube::Error::Api(status) = error.as_ref() else { return None };
        Some(status.code)
    }

    /// How long the server asks to be left alone: with 429 Too Many Requests.
    pub(in crate::control) fn wait(&self) -> Duration {
        /// More than a server ever asks for, so that a mistake there does not stop us for a day.
        const LONGEST: u32 = 60;
        let Self::Api { error, .. } = self else { return Duration::ZERO };
        let kube::Error::Api(status) = error.as_ref() else { return Duration::ZERO };
        let asked = status.details.as_ref().map(|details| details.retry_after_seconds);
        Duration::from_secs(asked.unwrap_or_default().min(LONGEST).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answer_without_an_end_is_not_kept() {
        let mut text = Vec::new();
        whole(&b"{}"[..], 3, &mut text).await.unwrap();
        assert_eq!(text, b"{}");
        let endless = futures_util::io::repeat(b' ');
        let error = whole(endless, 1 << 16, &mut text).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("65536 bytes"), "{error}");
    }

    /// A kubeconfig for a server at `port`, and its place.
    fn kubeconfig(port: u16, user: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             users: [{{name: u, user: {user}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[tokio::test]
    async fn program_that_is_asked_for_credentials_holds_nobody_up() {
        let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sleep, \
                    args: ['0.5'], interactiveMode: Never}}";
        let (_directory, path) = kubeconfig(1, exec);
        let mut ticks = 0;
        let connecting = Api::connect(Some(&path));
        let mut connecting = pin!(connecting);
        let error = loop {
            tokio::select! {
                connected = &mut connecting => break connected.err(),
                () = tokio::time::sleep(Duration::from_millis(10)) => ticks += 1,
            }
        };
        assert!(error.is_some(), "it says nothing");
        assert!(ticks > 10, "{ticks} times in half a second");
    }

    /// A server that answers one request with `begin`, and then with `again` until nobody reads it
    /// any more; the client of it, and its end.
    async fn endless(
        begin: &'static [u8],
        again: u8,
    ) -> (Api, tempfile::TempDir, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 1 << 12]).await.unwrap(), 0);
            stream.write_all(begin).await.unwrap();
            while stream.write_all(&[again; 1 << 14]).await.is_ok() {}
        });
        let (directory, path) = kubeconfig(port, "{}");
        (Api::connect(Some(&path)).await.unwrap(), directory, server)
    }

    #[tokio::test]
    async fn refusal_without_an_end_is_not_kept() {
        let (api, _directory, server) = endless(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b'x').await;
        let error = api.list().await.unwrap_err();
        assert!(causes(&error).contains("length limit exceeded"), "{}", causes(&error));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn object_without_an_end_is_not_kept() {
        let (api, _directory, server) = endless(b"HTTP/1.1 200 OK\r\n\r\n{", b' ').await;
        let error = api.object("/api/v1/namespaces/a/pods/b").await.unwrap_err();
        assert!(
            causes(&error).contains("an answer of 4194304 bytes or more"),
            "{}",
            causes(&error)
        );
        server.await.unwrap();
    }

    #[tokio::test]
    async fn event_without_an_end_is_not_kept_and_those_before_it_are() {
        const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n\
            {\"type\":\"BOOKMARK\",\"object\":{\"kind\":\"Node\",\"apiVersion\":\"v1\",\
            \"metadata\":{\"resourceVersion\":\"7\"}}}\n{";
        let (api, _directory, server) = endless(ANSWER, b' ').await;
        let mut told = api.watch("1").await.unwrap();
        let first = told.next().await.unwrap().unwrap();
        assert!(matches!(&first, Watched::Bookmark(version) if version == "7"), "{first:?}");
        let error = told.next().await.unwrap().unwrap_err();
        assert!(causes(&error).contains("an event of more than 4194304 bytes"), "{error:?}");
        drop(told);
        server.await.unwrap();
    }
}
