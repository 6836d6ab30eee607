//! A connection to one member of an etcd cluster, and the calls that we make.
//!
//! Owns connecting, TLS and authentication, and a time limit on every call. Knows nothing of what
//! the keys mean. A call that fails ends the connection's use: whoever follows etcd then starts
//! over, with another member.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_claims::etcd::{Found, KeyValue, Transaction};
use culvert_node::bounded_file;
use futures_util::{StreamExt as _, stream};
use http::uri::PathAndQuery;
use prost::Message;
use thiserror::Error;
use tokio::task::JoinError;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::rpc::{
    AuthenticateRequest, AuthenticateResponse, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::config::Etcd;
use crate::control::causes::causes;
use crate::control::source::without_login;

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

/// A call that failed.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("etcd.endpoints = \"{}\": {error}", without_login(.url))]
    Endpoint { url: String, error: tonic::transport::Error },
    #[error("connecting to {}: {}", without_login(.url), causes(.error))]
    Connect { url: String, error: tonic::transport::Error },
    #[error("connecting to {}: no answer in {PATIENCE:?}", without_login(.url))]
    Silent { url: String },
    #[error(
        "etcd.endpoints with https need etcd.ca_file: name the file with the certificate that signed \
         those of etcd's members"
    )]
    NoAuthority,
    #[error("setting up TLS: {}", causes(.0))]
    Tls(tonic::transport::Error),
    #[error("reading etcd.{key} {}: {error}", .path.display())]
    File { key: &'static str, path: PathBuf, error: io::Error },
    #[error("reading files: {0}")]
    Stopped(#[from] JoinError),
    #[error("logging in to {} as etcd.user {user}: {error}", without_login(.url))]
    Login { url: String, user: String, error: Box<Self> },
    #[error("the token that etcd gave: {0}")]
    Token(tonic::metadata::errors::InvalidMetadataValue),
    #[error("{what}: {}", causes(.error))]
    NotReady { what: &'static str, error: tonic::transport::Error },
    #[error("{what}: {}", words(.status))]
    Refused { what: &'static str, status: Box<Status> },
    #[error("{what}: no answer in {PATIENCE:?}")]
    Late { what: &'static str },
    #[error("an answer without a header; is this etcd?")]
    NoHeader,
    #[error("{} ended the watch", without_login(.url))]
    WatchEnded { url: String },
}

impl Client {
    /// Connects to the member at `url`, and logs in if the configuration says as whom.
    pub(super) async fn connect(url: &str, config: &Etcd) -> Result<Self, CallError> {
        let secrets = {
            let (config, secure) = (config.clone(), url.starts_with("https:"));
            tokio::task::spawn_blocking(move || Secrets::read(&config, secure)).await??
        };
        let of_endpoint = |error| CallError::Endpoint { url: url.to_owned(), error };
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(of_endpoint)?
            .connect_timeout(PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .keep_alive_while_idle(true);
        if let Some(tls) = secrets.tls {
            endpoint = endpoint.tls_config(tls).map_err(CallError::Tls)?;
        }
        let grpc = Grpc::new(channel(&endpoint, url, PATIENCE).await?)
            .max_decoding_message_size(LARGEST_MESSAGE);
        let mut client = Self { grpc, token: None };
        if let Some((name, password)) = secrets.login {
            let request = AuthenticateRequest { name: name.clone(), password };
            let response: AuthenticateResponse = client
                .call("asking for a token", "/etcdserverpb.Auth/Authenticate", request)
                .await
                .map_err(|error| CallError::Login {
                    url: url.to_owned(),
                    user: name,
                    error: error.into(),
                })?;
            client.token = Some(response.token.parse().map_err(CallError::Token)?);
        }
        Ok(client)
    }

    /// Every key from `first` to before `end`, all as they were at one moment.
    pub(super) async fn range(&mut self, first: &str, end: &str) -> Result<Found, CallError> {
        let mut request = RangeRequest {
            key: first.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
            limit: PAGE,
            revision: 0,
        };
        let mut found = Found { cluster: 0, revision: 0, keys: Vec::new() };
        loop {
            let response: RangeResponse =
                self.call("reading", "/etcdserverpb.KV/Range", request.clone()).await?;
            let header = header(response.header)?;
            if request.revision == 0 {
                found.revision = header.revision;
                found.cluster = header.cluster_id;
                request.revision = header.revision;
            }
            found.keys.extend(response.kvs.into_iter().map(KeyValue::from));
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
    pub(super) async fn read(&mut self, key: &str) -> Result<Option<KeyValue>, CallError> {
        let request = RangeRequest { key: key.as_bytes().to_vec(), ..RangeRequest::default() };
        let response: RangeResponse =
            self.call("reading", "/etcdserverpb.KV/Range", request).await?;
        Ok(response.kvs.into_iter().next().map(KeyValue::from))
    }

    /// Makes a transaction; says whether what it compares held.
    pub(super) async fn transact(&mut self, transaction: Transaction) -> Result<bool, CallError> {
        let request = TxnRequest {
            compare: transaction.compare.into_iter().map(Into::into).collect(),
            success: transaction.changes.into_iter().map(Into::into).collect(),
        };
        let response: TxnResponse = self.call("writing", "/etcdserverpb.KV/Txn", request).await?;
        Ok(response.succeeded)
    }

    /// Has the changes of the keys from `first` to before `end` told, from `revision` on.
    pub(super) async fn watch(
        &mut self,
        first: &str,
        end: &str,
        revision: i64,
    ) -> Result<Streaming<WatchResponse>, CallError> {
        let create = WatchCreateRequest {
            key: first.as_bytes().to_vec(),
            range_end: end.as_bytes().to_vec(),
            start_revision: revision,
        };
        // etcd ends the watch when the requests end.
        let requests =
            stream::once(async { WatchRequest { create: Some(create) } }).chain(stream::pending());
        self.stream("watching", "/etcdserverpb.Watch/Watch", requests).await
    }

    /// A new lease of `ttl`; its id.
    pub(super) async fn grant(&mut self, ttl: Duration) -> Result<i64, CallError> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let response: LeaseResponse = self
            .call("asking for a lease", "/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl })
            .await?;
        Ok(response.id)
    }

    /// Renews the lease `id`; says whether there still is one.
    pub(super) async fn keep_alive(&mut self, id: i64) -> Result<bool, CallError> {
        const WHAT: &str = "renewing the lease";
        let requests = stream::once(async move { LeaseKeepAliveRequest { id } });
        let answered = async {
            let mut responses: Streaming<LeaseResponse> =
                self.stream(WHAT, "/etcdserverpb.Lease/LeaseKeepAlive", requests).await?;
            responses.message().await.map_err(|status| refused(WHAT, status))
        };
        let response = in_time(WHAT, answered).await?;
        Ok(response.is_some_and(|response| response.ttl > 0))
    }

    async fn call<M, R>(
        &mut self,
        what: &'static str,
        path: &'static str,
        message: M,
    ) -> Result<R, CallError>
    where
        M: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let request = self.request(message);
        let called = async {
            self.grpc.ready().await.map_err(|error| CallError::NotReady { what, error })?;
            let codec = ProstCodec::<M, R>::default();
            let answer = self.grpc.unary(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| refused(what, status))
        };
        Ok(in_time(what, called).await?.into_inner())
    }

    async fn stream<M, R>(
        &mut self,
        what: &'static str,
        path: &'static str,
        messages: impl stream::Stream<Item = M> + Send + 'static,
    ) -> Result<Streaming<R>, CallError>
    where
        M: Message + Send + Sync + 'static,
        R: Message + Default + Send + Sync + 'static,
    {
        let request = self.request(messages);
        let called = async {
            self.grpc.ready().await.map_err(|error| CallError::NotReady { what, error })?;
            let codec = ProstCodec::<M, R>::default();
            let answer = self.grpc.streaming(request, PathAndQuery::from_static(path), codec).await;
            answer.map_err(|status| refused(what, status))
        };
        Ok(in_time(what, called).await?.into_inner())
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Connects within `patience`, TLS included: a member that is stopped still takes connections, and
/// the library's own limit ends where those begin.
async fn channel(endpoint: &Endpoint, url: &str, patience: Duration) -> Result<Channel, CallError> {
    match tokio::time::timeout(patience, endpoint.connect()).await {
        Ok(channel) => channel.map_err(|error| CallError::Connect { url: url.to_owned(), error }),
        Err(_elapsed) => Err(CallError::Silent { url: url.to_owned() }),
    }
}

/// Waits for the answer to a call, but no longer than a member takes that is worth asking.
async fn in_time<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(PATIENCE, call).await.map_err(|_elapsed| CallError::Late { what })?
}

/// Says what etcd refused, and why.
pub(super) fn refused(what: &'static str, status: Status) -> CallError {
    CallError::Refused { what, status: status.into() }
}

fn words(status: &Status) -> &str {
    if status.message().is_empty() { status.code().description() } else { status.message() }
}

fn header(header: Option<ResponseHeader>) -> Result<ResponseHeader, CallError> {
    header.ok_or(CallError::NoHeader)
}

/// What the files say that the configuration names.
struct Secrets {
    tls: Option<ClientTlsConfig>,
    /// User and password.
    login: Option<(String, String)>,
}

impl Secrets {
    fn read(config: &Etcd, secure: bool) -> Result<Self, CallError> {
        let tls = if secure { Some(tls(config)?) } else { None };
        let login = match &config.login {
            None => None,
            Some((user, path)) => {
                let password = bounded_file::read_text(path, bounded_file::SMALL);
                let password = password.map_err(file("password_file", path))?;
                Some((user.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
            }
        };
        Ok(Self { tls, login })
    }
}

fn file(key: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CallError {
    let path = path.to_owned();
    move |error| CallError::File { key, path, error }
}

fn tls(config: &Etcd) -> Result<ClientTlsConfig, CallError> {
    let read =
        |path: &Path, key| bounded_file::read(path, bounded_file::SMALL).map_err(file(key, path));
    let Some(path) = &config.ca_file else { return Err(CallError::NoAuthority) };
    let authority = Certificate::from_pem(read(path, "ca_file")?);
    let mut tls = ClientTlsConfig::new().ca_certificate(authority);
    if let Some((certificate, key)) = &config.identity {
        let identity = Identity::from_pem(read(certificate, "cert_file")?, read(key, "key_file")?);
        tls = tls.identity(identity);
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn member_that_takes_connections_and_says_nothing_is_given_up() {
        // The kernel takes connections for a process that is stopped.
        let stopped = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://root:s3cret@{}", stopped.local_addr().unwrap());
        let endpoint = Endpoint::from_shared(url.clone()).unwrap();
        let endpoint = endpoint.tls_config(ClientTlsConfig::new()).unwrap();
        let connecting = channel(&endpoint, &url, Duration::from_millis(100));
        let outcome = tokio::time::timeout(PATIENCE, connecting).await.expect("it is given up");
        let Err(error @ CallError::Silent { .. }) = outcome else { panic!("{outcome:?}") };
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
