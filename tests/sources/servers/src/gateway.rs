//! Changes to etcd over one connection to its JSON gateway: `etcdctl` takes longer to start than
//! etcd to change a hundred keys.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_lab::Netns;
use serde_json::json;

/// The connection.
pub struct Gateway {
    stream: BufReader<TcpStream>,
}

impl Gateway {
    /// Connects to the server at `address`, from inside `netns` if that is said.
    pub fn connect(netns: Option<&Netns>, address: SocketAddr) -> Self {
        let connect = || TcpStream::connect(address).unwrap();
        let stream = match netns {
            Some(netns) => netns.run(connect).unwrap(),
            None => connect(),
        };
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Puts `value` at `key`; returns when etcd has it.
    pub fn put(&mut self, key: &str, value: &str) {
        let body = json!({ "key": STANDARD.encode(key), "value": STANDARD.encode(value) });
        self.post("/v3/kv/put", &body.to_string());
    }

    fn post(&mut self, path: &str, body: &str) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{path}: {line}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            match line.split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).unwrap();
    }
}
