//! The names of a cluster, as its DNS specification has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};

const CLUSTER: &str = "cluster.local";
/// What a Service without an address of its own has in its place.
const HEADLESS: &str = "None";

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    /// The name is another name.
    Alias(String),
    /// An address is called so.
    Name(String),
    /// A port is to be found there.
    Port {
        port: u16,
        target: String,
    },
}

/// Every name of Services, endpoints and their addresses. Names are in lower case, without the
/// last dot.
#[derive(Debug, Default)]
pub(super) struct Zone(BTreeMap<String, Vec<Record>>);

impl Zone {
    pub(super) fn new(services: &[Service], endpoints: &[Endpoints]) -> Self {
        let by_place: BTreeMap<_, &Endpoints> = endpoints
            .iter()
            .map(|them| ((&them.metadata.namespace, &them.metadata.name), them))
            .collect();
        let mut zone = Self::default();
        for service in services {
            let (Some(namespace), Some(name)) =
                (&service.metadata.namespace, &service.metadata.name)
            else {
                continue;
            };
            let host = format!("{name}.{namespace}.svc.{CLUSTER}");
            let place = (&service.metadata.namespace, &service.metadata.name);
            zone.add_service(&host, service, by_place.get(&place).copied());
        }
        zone
    }

    /// The records of a name, if it is there.
    pub(super) fn find(&self, name: &str) -> Option<Vec<Record>> {
        if let Some(records) = self.0.get(name) {
            return Some(records.clone());
        }
        // 10-244-1-2.NAMESPACE.pod.cluster.local is the address that it spells.
        let rest = name.strip_suffix(CLUSTER)?.strip_suffix(".pod.")?;
        let (spelled, _namespace) = rest.split_once('.')?;
        let address = spelled.replace('-', ".").parse::<IpAddr>();
        let address = address.or_else(|_| spelled.replace('-', ":").parse()).ok()?;
        Some(vec![Record::Address(address)])
    }

    fn add(&mut self, name: &str, record: Record) {
        let records = self.0.entry(name.to_ascii_lowercase()).or_default();
        if !records.contains(&record) {
            records.push(record);
        }
    }

    fn add_service(&mut self, host: &str, service: &Service, endpoints: Option<&Endpoints>) {
        let Some(spec) = &service.spec else { return };
        if let ("ExternalName", Some(target)) =
            (spec.type_.as_deref().unwrap_or_default(), &spec.external_name)
        {
            self.add(host, Record::Alias(target.clone()));
            return;
        }
        let own = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let own: Vec<&str> = own.map(String::as_str).filter(|it| !it.is_empty()).collect();
        if own.contains(&HEADLESS) {
            self.add_endpoints(host, endpoints);
            return;
        }
        for address in own.iter().filter_map(|text| text.parse().ok()) {
            self.add(host, Record::Address(address));
            self.add(&reverse(address), Record::Name(host.to_owned()));
        }
        for port in spec.ports.iter().flatten() {
            self.add_port(host, &port.name, &port.protocol, port.port, host);
        }
    }

    /// The addresses of a headless Service are those of its pods, which have names too.
    fn add_endpoints(&mut self, host: &str, endpoints: Option<&Endpoints>) {
        for subset in endpoints.iter().filter_map(|them| them.subsets.as_ref()).flatten() {
            for endpoint in subset.addresses.iter().flatten() {
                let Ok(address) = endpoint.ip.parse() else { continue };
                let own = format!("{}.{host}", label(endpoint));
                self.add(host, Record::Address(address));
                self.add(&own, Record::Address(address));
                if endpoint.hostname.is_some() {
                    self.add(&reverse(address), Record::Name(own.clone()));
                }
                for port in subset.ports.iter().flatten() {
                    self.add_port(host, &port.name, &port.protocol, port.port, &own);
                }
            }
        }
    }

    fn add_port(
        &mut self,
        host: &str,
        name: &Option<String>,
        protocol: &Option<String>,
        port: i32,
        target: &str,
    ) {
        let (Some(name), Ok(port)) = (name.as_ref().filter(|it| !it.is_empty()), port.try_into())
        else {
            return;
        };
        let protocol = protocol.as_deref().unwrap_or("TCP");
        let target = target.to_owned();
        self.add(&format!("_{name}._{protocol}.{host}"), Record::Port { port, target });
    }
}

/// What stands for a pod before the name of its Service.
fn label(endpoint: &EndpointAddress) -> String {
    endpoint.hostname.clone().unwrap_or_else(|| endpoint.ip.replace(['.', ':'], "-"))
}

/// The name that is asked for to learn what an address is called.
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits = address.octets().into_iter().rev();
            let digits: Vec<String> =
                digits.map(|octet| format!("{:x}.{:x}", octet & 15, octet >> 4)).collect();
            format!("{}.ip6.arpa", digits.join("."))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use k8s_openapi::api::core::v1::{EndpointPort, EndpointSubset, ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("shop".to_owned()),
            ..Default::default()
        }
    }

    fn service(name: &str, spec: ServiceSpec) -> Service {
        Service { metadata: named(name), spec: Some(spec), ..Default::default() }
    }

    /// A Service with an address, one without, and one that is elsewhere.
    pub(in super::super) fn zone() -> Zone {
        let port =
            ServicePort { name: Some("http".to_owned()), port: 80, ..ServicePort::default() };
        let web = service(
            "web",
            ServiceSpec {
                cluster_ip: Some("10.96.0.7".to_owned()),
                ports: Some(vec![port]),
                ..Default::default()
            },
        );
        let headless = ServiceSpec { cluster_ip: Some(HEADLESS.to_owned()), ..Default::default() };
        let elsewhere = ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some("example.org".to_owned()),
            ..Default::default()
        };
        let pod = |ip: &str, hostname: Option<&str>| EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname.map(str::to_owned),
            ..Default::default()
        };
        let subset = EndpointSubset {
            addresses: Some(vec![pod("10.244.1.2", Some("db-0")), pod("10.244.2.3", None)]),
            ports: Some(vec![EndpointPort {
                name: Some("sql".to_owned()),
                port: 5432,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let endpoints = Endpoints { metadata: named("db"), subsets: Some(vec![subset]) };
        let services = [web, service("db", headless), service("far", elsewhere)];
        Zone::new(&services, &[endpoints])
    }

    fn address(text: &str) -> Record {
        Record::Address(text.parse().unwrap())
    }

    #[test]
    fn a_service_has_its_address_its_ports_and_a_name_for_its_address() {
        let zone = zone();
        let host = "web.shop.svc.cluster.local";
        assert_eq!(zone.find(host), Some(vec![address("10.96.0.7")]));
        let port = Record::Port { port: 80, target: host.to_owned() };
        assert_eq!(zone.find(&format!("_http._tcp.{host}")), Some(vec![port]));
        let name = Record::Name(host.to_owned());
        assert_eq!(zone.find("7.0.96.10.in-addr.arpa"), Some(vec![name]));
    }

    #[test]
    fn a_headless_service_is_its_pods() {
        let zone = zone();
        let host = "db.shop.svc.cluster.local";
        let both = vec![address("10.244.1.2"), address("10.244.2.3")];
        assert_eq!(zone.find(host), Some(both));
        assert_eq!(zone.find(&format!("db-0.{host}")), Some(vec![address("10.244.1.2")]));
        assert_eq!(zone.find(&format!("10-244-2-3.{host}")), Some(vec![address("10.244.2.3")]));
        assert_eq!(zone.find(&format!("_sql._tcp.{host}")).unwrap().len(), 2);
        let name = Record::Name(format!("db-0.{host}"));
        assert_eq!(zone.find("2.1.244.10.in-addr.arpa"), Some(vec![name]));
        assert_eq!(zone.find("3.2.244.10.in-addr.arpa"), None);
    }

    #[test]
    fn other_names_are_those_of_pods_and_of_places_elsewhere() {
        let zone = zone();
        let alias = Record::Alias("example.org".to_owned());
        assert_eq!(zone.find("far.shop.svc.cluster.local"), Some(vec![alias]));
        let pod = "10-244-1-2.shop.pod.cluster.local";
        assert_eq!(zone.find(pod), Some(vec![address("10.244.1.2")]));
        assert_eq!(zone.find("x.shop.pod.cluster.local"), None);
        assert_eq!(zone.find("example.org"), None);
    }

    #[test]
    fn an_address_of_ipv6_is_spelled_backwards() {
        let name = reverse("fd00::a5".parse().unwrap());
        assert!(name.starts_with("5.a.0.0.") && name.ends_with(".0.0.d.f.ip6.arpa"), "{name}");
    }
}
