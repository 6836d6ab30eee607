//! The connection to the API server: how it is found and kept, and how much of an answer is read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use culvert_node::bounded_file;
use futures_util::StreamExt as _;
use http_body_util::{BodyStream, Limited, StreamBody};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tower::{BoxError, ServiceBuilder, service_fn};

use super::client::{CallError, PATIENCE, refused};

/// How long connecting may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// When and how often the kernel asks the server's for a sign of life while a watch has nothing to
/// tell: a connection that is dead without a word is noticed after 20 seconds. It costs the server
/// nothing but a segment, which asking with requests of our own would.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 2;

/// The same for a connection with something under way, which the kernel does not probe.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Longest refusal that is read.
const LONGEST_REFUSAL: usize = 64 << 10;

/// Largest object that is read, and longest event of a watch, which is one. etcd takes none of more
/// than 1.5 MiB; as text it may be twice as long.
pub(super) const LARGEST_OBJECT: usize = 4 << 20;

/// Attempts to connect that are under way at once: of the table, of the policies and of who tells
/// of events.
static CONNECTING: Semaphore = Semaphore::const_new(4);

/// Who asks, in the API server's log.
const AGENT: http::HeaderValue =
    http::HeaderValue::from_static(concat!("culvert/", env!("CARGO_PKG_VERSION")));

/// Connects as `kubeconfig` says, or as a pod is told by its surroundings.
pub(super) async fn connect(kubeconfig: Option<&Path>) -> Result<Client, CallError> {
    let late = CallError::Late { what: "asking for credentials" };
    // One that waits for ever keeps its thread.
    let Ok(place) = CONNECTING.try_acquire() else { return Err(late) };
    let kubeconfig = kubeconfig.map(Path::to_owned);
    let runtime = Handle::current();
    // The library reads files, and runs the program of a kubeconfig (`exec`) to its end.
    let connecting = tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut config = config(kubeconfig, &runtime)?;
        // Who reads the server's log of requests knows who asked.
        config.headers.push((http::header::USER_AGENT, AGENT));
        client(&config)
    });
    tokio::time::timeout(PATIENCE, connecting).await.map_err(|_| late)??
}

/// What says how to connect: the file `kubeconfig`, or the surroundings of a pod.
fn config(kubeconfig: Option<PathBuf>, runtime: &Handle) -> Result<kube::Config, CallError> {
    let Some(path) = kubeconfig else {
        return kube::Config::incluster().map_err(CallError::InCluster);
    };
    let read = || {
        // The library would wait for a FIFO and read a device without end.
        bounded_file::read(&path, bounded_file::SMALL)
            .map_err(|error| KubeconfigError::ReadConfig(error, path.clone()))?;
        let file = Kubeconfig::read_from(&path)?;
        let options = KubeConfigOptions::default();
        runtime.block_on(kube::Config::from_custom_kubeconfig(file, &options))
    };
    read().map_err(|error| CallError::Kubeconfig { path: path.clone(), error })
}

/// A client that looks after its connections itself. It tries nothing again: a refusal is for us to
/// see, who say so, wait as long as asked, and start over.
fn client(config: &kube::Config) -> Result<Client, CallError> {
    if config.proxy_url.is_some() {
        return Err(CallError::Proxy);
    }
    let failed = |error| refused("setting up the connection", error);
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_PATIENCE));
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_keepalive_retries(Some(PROBES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(tcp).map_err(failed)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let bounded = service_fn(move |request: http::Request<Body>| {
        let is_watch = is_watch(request.uri());
        let answer = http.request(request);
        async move { Ok::<_, BoxError>(bounded(answer.await?, is_watch)) }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(failed)?)
        .layer(config.extra_headers_layer().map_err(failed)?)
        .service(bounded);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

fn is_watch(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|word| word == "watch=true"))
}

/// The same answer, of which no more is read than a refusal needs if it is one, and than an event
/// needs if it is a watch. The library keeps all of a refusal, whatever it is: the page of a proxy,
/// or one without an end; and all of an event, however long it takes to end.
fn bounded<B>(
    answer: http::Response<B>,
    is_watch: bool,
) -> http::Response<impl http_body::Body<Data = Bytes, Error = BoxError> + Send>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin,
{
    let is_refusal = answer.status().is_client_error() || answer.status().is_server_error();
    let most = if is_refusal { LONGEST_REFUSAL } else { usize::MAX };
    let mut line = 0_usize;
    answer.map(|body| {
        let frames = BodyStream::new(Limited::new(body, most));
        StreamBody::new(frames.map(move |frame| {
            let frame = frame?;
            // Lists are long, and have no lines to look for.
            let told = frame.data_ref().filter(|_| is_watch);
            let bytes = told.map_or(&[][..], |data| data.chunk());
            for part in bytes.split_inclusive(|byte| *byte == b'\n') {
                line = line.saturating_add(part.len());
                if line > LARGEST_OBJECT {
                    return Err(format!("an event of more than {LARGEST_OBJECT} bytes").into());
                }
                if part.ends_with(b"\n") {
                    line = 0;
                }
            }
            Ok(frame)
        }))
    })
}
