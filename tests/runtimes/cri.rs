//! The calls of kubelet about sandboxes (Kubernetes' `runtime.v1.RuntimeService`), with only the
//! fields that are needed.

use std::net::IpAddr;
use std::time::Duration;

use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::containerd::Containerd;
use crate::node::PATIENCE;

#[derive(Clone, PartialEq, Message)]
struct SandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct LinuxSandbox {}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<SandboxMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// Request and answer of several calls.
#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct SandboxNetwork {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<SandboxNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct Condition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<Condition>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

/// A connection to the CRI socket of one node.
pub(crate) struct Client {
    runtime: Runtime,
    grpc: Grpc<Channel>,
}

impl Client {
    /// Connects, and waits until containerd says that its network is ready.
    pub(crate) fn connect(containerd: &Containerd) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = format!("unix://{}", containerd.socket().display());
        let channel = runtime.block_on(async {
            Endpoint::from_shared(address).unwrap().timeout(PATIENCE).connect().await.unwrap()
        });
        let mut client = Self { runtime, grpc: Grpc::new(channel) };
        culvert_lab::wait_until(PATIENCE, "the runtime's network to be ready", || {
            let answer: RuntimeStatusAnswer = client.call("Status", Nothing {});
            let conditions = answer.status.unwrap_or_default().conditions;
            conditions.iter().any(|found| found.kind == "NetworkReady" && found.status)
        })
        .unwrap();
        client
    }

    /// Makes a sandbox, and returns its id.
    pub(crate) fn run(&mut self, name: &str, attempt: u32) -> String {
        let metadata = SandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
            attempt,
        };
        let config = SandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: String::new(),
            linux: Some(LinuxSandbox {}),
        };
        let answer: SandboxId = self.call("RunPodSandbox", RunSandbox { config: Some(config) });
        answer.id
    }

    /// The address that kubelet is told.
    pub(crate) fn address(&mut self, id: &str) -> IpAddr {
        let answer: SandboxStatusAnswer =
            self.call("PodSandboxStatus", SandboxId { id: id.to_owned() });
        answer.status.and_then(|status| status.network).unwrap().ip.parse().unwrap()
    }

    /// Ends a sandbox and detaches it.
    pub(crate) fn stop(&mut self, id: &str) {
        let _: Nothing = self.call("StopPodSandbox", SandboxId { id: id.to_owned() });
    }

    /// Forgets a sandbox.
    pub(crate) fn remove(&mut self, id: &str) {
        let _: Nothing = self.call("RemovePodSandbox", SandboxId { id: id.to_owned() });
    }

    fn call<Q, A>(&mut self, method: &str, request: Q) -> A
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let (runtime, grpc) = (&self.runtime, &mut self.grpc);
        let limit = Duration::from_secs(120);
        let exchange = async {
            grpc.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            grpc.unary(tonic::Request::new(request), path, codec).await
        };
        let answer = runtime.block_on(async { tokio::time::timeout(limit, exchange).await });
        answer.unwrap().unwrap_or_else(|status| panic!("{method}: {status}")).into_inner()
    }
}
