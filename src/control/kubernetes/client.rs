//! Calls to the API server, each with a limit on its time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use culvert_cni::bounded_file;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::api::{ListParams, Patch, PatchParams, Request, WatchEvent, WatchParams};
use kube::client::{ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::Value;
use tower::{BoxError, ServiceBuilder};

use super::node::Node;

/// How long connecting and one call may take; a page of a large cluster comes in well under that.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Nodes in one answer, as other clients ask for.
const PAGE: u32 = 500;

/// How long the server keeps a watch open before we ask again. A server that stands still is noticed
/// when that has passed, and [`GRACE`] with it.
const WATCH: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(15);

/// When and how often the kernel asks the server's for a sign of life while a watch has nothing to
/// tell: a connection that is dead without a word is noticed after 20 seconds. It costs the server
/// nothing but a segment, which asking with requests of our own would.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;

/// The same for a connection with something under way, which the kernel does not probe.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Who writes, in the API server's book of who wrote which field.
const WRITER: &str = "culvert";

/// The API server.
pub(super) struct Api {
    client: Client,
    nodes: Request,
}

/// All nodes, and the version from which to follow.
#[derive(Debug, Deserialize)]
struct Page {
    metadata: PageMeta,
    items: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: Option<String>,
}

impl Api {
    /// Connects as `kubeconfig` says, or as a pod is told by its surroundings.
    pub(super) async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Self> {
        let config = match kubeconfig {
            Some(path) => {
                let reading = || format!("reading kubernetes.kubeconfig {}", path.display());
                // The library would wait for a FIFO and read a device without end.
                bounded_file::read(path, bounded_file::SMALL).with_context(reading)?;
                let file = Kubeconfig::read_from(path).with_context(reading)?;
                kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("following {}", path.display()))?
            }
            None => kube::Config::incluster().context(
                "finding the API server; run as a pod with a service account, or set \
                 kubernetes.kubeconfig",
            )?,
        };
        let client = client(&config).context("setting up the connection")?;
        Ok(Self { client, nodes: Request::new("/api/v1/nodes") })
    }

    /// Every node as it is now, and the version of that.
    pub(super) async fn list(&self) -> anyhow::Result<(Vec<Node>, String)> {
        let mut nodes = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page: Page = self.call(self.nodes.list(&params)?).await.context("listing nodes")?;
            nodes.extend(page.items.into_iter().map(Node::slim));
            match page.metadata.r#continue.filter(|token| !token.is_empty()) {
                Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
                None => return Ok((nodes, page.metadata.resource_version)),
            }
        }
    }

    /// The changes after `version`.
    pub(super) async fn watch(
        &self,
        version: &str,
    ) -> anyhow::Result<BoxStream<'static, anyhow::Result<WatchEvent<Node>>>> {
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let request = self.nodes.watch(&WatchParams::default().timeout(seconds), version)?;
        let events = self.client.request_events::<Node>(request);
        let events = tokio::time::timeout(PATIENCE, events).await.map_err(|_| late())?;
        let events = events.context("watching nodes")?;
        let told = stream::unfold(events.boxed(), |mut events| async {
            let event = match tokio::time::timeout(WATCH + GRACE, events.next()).await {
                Ok(event) => event?.context("watching nodes"),
                Err(_) => Err(anyhow!("the watch neither tells nor ends")),
            };
            Some((event, events))
        });
        Ok(told.boxed())
    }

    /// Changes the node `name` by a merge patch.
    pub(super) async fn patch(&self, name: &str, patch: &Value) -> anyhow::Result<()> {
        let params = PatchParams { field_manager: Some(WRITER.to_owned()), ..Default::default() };
        let request = self.nodes.patch(name, &params, &Patch::Merge(patch))?;
        self.call::<Value>(request).await.map(drop)
    }

    /// Changes the status of the node `name` by a strategic merge patch, which knows conditions apart
    /// by their type.
    pub(super) async fn patch_status(&self, name: &str, patch: &Value) -> anyhow::Result<()> {
        let params = PatchParams { field_manager: Some(WRITER.to_owned()), ..Default::default() };
        let request =
            self.nodes.patch_subresource("status", name, &params, &Patch::Strategic(patch))?;
        self.call::<Value>(request).await.map(drop)
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> anyhow::Result<T> {
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        Ok(answer.map_err(|_| late())??)
    }
}

/// A client that looks after its connections itself. It tries nothing again: a refusal is for us to
/// see, who say so, wait as long as asked, and start over.
fn client(config: &kube::Config) -> anyhow::Result<Client> {
    ensure!(config.proxy_url.is_none(), "a proxy (proxy-url, HTTPS_PROXY) is not supported");
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_PATIENCE));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn late() -> anyhow::Error {
    anyhow!("no answer in {PATIENCE:?}")
}

/// The HTTP status of an answer that refuses.
pub(super) fn code_of(error: &anyhow::Error) -> Option<u16> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// How long the server asks to be left alone: with 429 Too Many Requests.
pub(super) fn wait_of(error: &anyhow::Error) -> Duration {
    /// More than a server ever asks for, so that a mistake there does not stop us for a day.
    const LONGEST: u32 = 60;
    let asked = match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.details.as_ref().map(|d| d.retry_after_seconds),
        _ => None,
    };
    Duration::from_secs(asked.unwrap_or_default().min(LONGEST).into())
}
