//! A connection to one member of an etcd cluster, and the calls that we make.
//!
//! Owns connecting, TLS and authentication, and a time limit on every call. Knows nothing of what the
//! keys mean. A call that fails ends the connection's use: whoever follows etcd then starts over,
//! with another member.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use culvert_cni::bounded_file;
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::rpc::{
    AuthenticateRequest, AuthenticateResponse, Compare, DeleteRangeRequest, KeyValue,
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseResponse, Op, PutRequest, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest,
    WatchRequest, WatchResponse,
};
use crate::config::Etcd;

/// How long connecting may take, and each call: a member that needs longer is in no state to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a member is asked for a sign of life, so that one that is cut off is noticed although
/// it has nothing to tell.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Keys in one answer. The answer must fit etcd's limit of messages, 1.5 MiB by default.
const PAGE: i64 = 2000;

/// A message may be as large as a page of the largest values that anybody could put there.
const LARGEST_MESSAGE: usize = 16 * 1024 * 1024;

/// A connection.
#[derive(Clone)]
pub(super) struct Client {
    grpc: Grpc<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

/// What a range of keys held at one revision.
pub(super) struct Found {
    pub(super) cluster: u64,
    pub(super) revision: i64,
    pub(super) keys: Vec<KeyValue>,
}

impl Client {
    /// Connects to the member at `url`, and logs in if the configuration says as whom.
    pub(super) async fn connect(url: &str, config: &Etcd) -> anyhow::Result<Self> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("etcd.endpoints = \"{url}\""))?
            .connect_timeout(PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .keep_alive_while_idle(true);
        if url.starts_with("https:") {
            endpoint = endpoint.tls_config(tls(config)?).context("setting up TLS")?;
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| anyhow!("connecting to {url}: {}", causes(&error)))?;
        let grpc = Grpc::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let mut client = Self { grpc, token: None };
        if let Some((user, password_file)) = &config.login {
            let password = bounded_file::read_text(password_file, bounded_file::SMALL)
                .with_context(|| {
                    format!("reading etcd.password_file {}", password_file.display())
                })?;
            let request = AuthenticateRequest {
                name: user.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            };
            let response: AuthenticateResponse = client
                .call("/etcdserverpb.Auth/Authenticate", request)
                .await
                .with_context(|| format!("logging in to {url} as etcd.user {user}"))?;
            client.token = Some(response.token.parse().context("the token that etcd gave")?);
        }
        Ok(client)
    }

    /// Every key from `first` to before `end`, all as they were at one moment.
    pub(super) async fn range(&mut self, first: &str, end: &str) -> anyhow::Result<Found> {
        let mut request = RangeRequest {
            key: first.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
            limit: PAGE,
            revision: 0,
        };
        let mut found = Found { cluster: 0, revision: 0, keys: Vec::new() };
        loop {
            let response: RangeResponse =
                self.call("/etcdserverpb.KV/Range", request.clone()).await.context("reading")?;
            let header = header(response.header)?;
            if request.revision == 0 {
                found.revision = header.revision;
                found.cluster = header.cluster_id;
                request.revision = header.revision;
            }
            found.keys.extend(response.kvs);
            match found.keys.last() {
                Some(last) if response.more => {
                    request.key.clone_from(&last.key);
                    request.key.push(0);
                }
                _ => return Ok(found),
            }
        }
    }

    /// One key.
    pub(super) async fn read(&mut self, key: &str) -> anyhow::Result<Option<KeyValue>> {
        let request = RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() };
        let response: RangeResponse =
            self.call("/etcdserverpb.KV/Range", request).await.context("reading")?;
        Ok(response.kvs.into_iter().next())
    }

    /// Does all of `success` if all of `compare` holds, and otherwise nothing; says which.
    pub(super) async fn transact(
        &mut self,
        compare: Vec<Compare>,
        success: Vec<RequestOp>,
    ) -> anyhow::Result<bool> {
        let request = TxnRequest { compare, success };
        let response: TxnResponse =
            self.call("/etcdserverpb.KV/Txn", request).await.context("writing")?;
        Ok(response.succeeded)
    }

    /// Has the changes of the keys from `first` to before `end` told, from `revision` on.
    pub(super) async fn watch(
        &mut self,
        first: &str,
        end: &str,
        revision: i64,
    ) -> anyhow::Result<Streaming<WatchResponse>> {
        let create = WatchCreateRequest {
            key: first.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
            start_revision: revision,
        };
        // etcd ends the watch when the requests end.
        let requests =
            stream::once(async { WatchRequest { create: Some(create) } }).chain(stream::pending());
        self.stream("/etcdserverpb.Watch/Watch", requests).await.context("watching")
    }

    /// A new lease of `ttl`; its id.
    pub(super) async fn grant(&mut self, ttl: Duration) -> anyhow::Result<i64> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let response: LeaseResponse = self
            .call("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl })
            .await
            .context("asking for a lease")?;
        Ok(response.id)
    }

    /// Renews the lease `id`; says whether there still is one.
    pub(super) async fn keep_alive(&mut self, id: i64) -> anyhow::Result<bool> {
        let requests = stream::once(async move { LeaseKeepAliveRequest { id } });
        let answered = async {
            let mut responses: Streaming<LeaseResponse> =
                self.stream("/etcdserverpb.Lease/LeaseKeepAlive", requests).await?;
            responses.message().await.map_err(|status| failure(&status))
        };
        let response = tokio::time::timeout(PATIENCE, answered)
            .await
            .map_err(|_| late())
            .and_then(std::convert::identity)
            .context("renewing the lease")?;
        Ok(response.is_some_and(|response| response.ttl > 0))
    }

    async fn call<M, R>(&mut self, path: &'static str, message: M) -> anyhow::Result<R>
    where
        M: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let request = self.request(message);
        let called = async {
            self.grpc.ready().await.map_err(|error| anyhow!(causes(&error)))?;
            let codec = ProstCodec::<M, R>::default();
            let answer = self.grpc.unary(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| failure(&status))
        };
        let answer = tokio::time::timeout(PATIENCE, called).await.map_err(|_| late())??;
        Ok(answer.into_inner())
    }

    async fn stream<M, R>(
        &mut self,
        path: &'static str,
        messages: impl stream::Stream<Item = M> + Send + 'static,
    ) -> anyhow::Result<Streaming<R>>
    where
        M: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let request = self.request(messages);
        let called = async {
            self.grpc.ready().await.map_err(|error| anyhow!(causes(&error)))?;
            let codec = ProstCodec::<M, R>::default();
            let answer = self.grpc.streaming(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| failure(&status))
        };
        let answer = tokio::time::timeout(PATIENCE, called).await.map_err(|_| late())??;
        Ok(answer.into_inner())
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Puts `value` at `key`, for as long as `lease` lives (for ever, if 0).
pub(super) fn put(key: String, value: Vec<u8>, lease: i64) -> RequestOp {
    RequestOp { op: Some(Op::Put(PutRequest { key: key.into_bytes(), value, lease })) }
}

/// Removes `key`.
pub(super) fn delete(key: String) -> RequestOp {
    RequestOp { op: Some(Op::Delete(DeleteRangeRequest { key: key.into_bytes() })) }
}

/// What a failed call is called.
pub(super) fn failure(status: &Status) -> anyhow::Error {
    anyhow!(
        "{}",
        if status.message().is_empty() { status.code().description() } else { status.message() }
    )
}

fn header(header: Option<ResponseHeader>) -> anyhow::Result<ResponseHeader> {
    header.context("an answer without a header; is this etcd?")
}

fn late() -> anyhow::Error {
    anyhow!("no answer in {PATIENCE:?}")
}

/// The library's own words say only that something failed; what did is among the causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn tls(config: &Etcd) -> anyhow::Result<ClientTlsConfig> {
    let read = |path: &std::path::Path, key: &str| {
        bounded_file::read(path, bounded_file::SMALL)
            .with_context(|| format!("reading etcd.{key} {}", path.display()))
    };
    let mut tls = ClientTlsConfig::new();
    match &config.ca_file {
        Some(path) => tls = tls.ca_certificate(Certificate::from_pem(read(path, "ca_file")?)),
        None => bail!(
            "etcd.endpoints with https need etcd.ca_file: name the file with the \
                       certificate that signed those of etcd's members"
        ),
    }
    if let Some((certificate, key)) = &config.identity {
        let identity = Identity::from_pem(read(certificate, "cert_file")?, read(key, "key_file")?);
        tls = tls.identity(identity);
    }
    Ok(tls)
}
