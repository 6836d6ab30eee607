//! README's three ways to a table, each run as it is written there, on two machines that are
//! namespaces.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use culvert_lab::probe::{self, Ping};
use culvert_lab::{Lab, Node, wait_until};
use serde_json::Value;
use source_servers::Etcd;
use tempfile::TempDir;

use crate::listener::LIMIT;
use crate::nodes::{lab, with_kubernetes};

/// The code blocks of README in a language, without the indentation of the list that they are in.
fn blocks(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).unwrap();
    let (mut blocks, mut open): (Vec<String>, Option<usize>) = (Vec::new(), None);
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match open {
            None if line.trim_start() == format!("```{language}") => {
                open = Some(indent);
                blocks.push(String::new());
            }
            Some(_) if line.trim_start() == "```" => open = None,
            Some(indent) => {
                let block = blocks.last_mut().unwrap();
                *block += line.get(indent..).unwrap_or_default();
                *block += "\n";
            }
            None => {}
        }
    }
    blocks
}

/// The one block of commands that has `part`.
fn commands(part: &str) -> String {
    let mut found = blocks("sh").into_iter().filter(|block| block.contains(part));
    let block = found.next().unwrap_or_else(|| panic!("README has no commands with `{part}`"));
    assert!(found.next().is_none(), "README has `{part}` twice");
    block
}

/// A machine on which somebody does what README says. Its `/etc` (but for
/// the system's certificates), `/run` and `/var/lib` are its own.
struct Machine {
    shell: Child,
    directory: TempDir,
}

impl Machine {
    /// Puts `files` into `/etc/culvert`, and runs `script` on the machine of `node`.
    fn run(node: &Node, files: &[(&str, &str)], script: &str) -> Self {
        let directory = TempDir::with_prefix("culvert-readme-").unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_culvert")).parent().unwrap();
        let prepared = format!(
            "for own in /run /var/lib; do mount -t tmpfs tmpfs $own; done
             cp -a /etc/ssl /run/
             mount -t tmpfs tmpfs /etc
             cp -a /run/ssl /etc/
             mkdir /etc/culvert
             cp '{}'/* /etc/culvert/
             PATH='{}':$PATH
             {script}",
            directory.path().display(),
            program.display()
        );
        let shell = node
            .netns()
            .command("bash")
            .args(["-euxc", &prepared])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", "http://192.168.1.10:2379")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        Self { shell, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    #[track_caller]
    fn until_ready(&self) {
        let ready = || self.status().is_some_and(|status| status["ready"] == true);
        if let Err(late) = wait_until(LIMIT, "the daemon to be ready", ready) {
            panic!("{late}: {}", self.log());
        }
    }

    /// What `culvert status` says on the machine.
    fn status(&self) -> Option<Value> {
        let id = self.shell.id().to_string();
        let output = Command::new("nsenter")
            .args(["--target", &id, "--mount", "--net", env!("CARGO_BIN_EXE_culvert")])
            .args(["status", "--json"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// The bridge's address.
    fn bridge(&self) -> IpAddr {
        let status = self.status().unwrap();
        let subnet: ipnet::IpNet = status["subnets"][0].as_str().unwrap().parse().unwrap();
        subnet.hosts().next().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let group = format!("-{}", self.shell.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.shell.wait();
    }
}

/// The configurations of both machines, and the table.
fn files() -> [String; 3] {
    let [table, one, two, ..] = &blocks("toml")[..] else { panic!("README has other files") };
    [table.clone(), one.clone(), two.clone()]
}

/// Runs `script` on both machines, as `of` says for the second, and has each reach the other's
/// bridge.
fn talk(lab: &Lab, more: &[(&str, &str)], script: &str, of: impl Fn(&str) -> String) {
    let [table, one, two] = files();
    let second = of(script);
    let machines = [(1, one, script), (2, two, &second)].map(|(number, config, script)| {
        let mut files = vec![("table.toml", table.as_str()), ("config.toml", config.as_str())];
        files.extend(more);
        Machine::run(lab.node(number), &files, script)
    });
    machines.iter().for_each(Machine::until_ready);
    for (from, to) in [(1, &machines[1]), (2, &machines[0])] {
        let ping = Ping::default().timeout(Duration::from_millis(200));
        let reaches =
            || probe::ping(lab.node(from).netns(), to.bridge(), &ping).unwrap().is_reply();
        wait_until(LIMIT, "the other machine's bridge to answer", reaches).unwrap();
    }
}

#[test]
fn a_file_on_real_machines() {
    let lab = lab("readme-file").without_daemons().up().unwrap();
    // A firewall that lets nothing in, and what README has it let in.
    let firewall = format!(
        "nft add table inet filter
         nft 'add chain inet filter input {{ type filter hook input priority 0; policy drop; }}'
         nft add rule inet filter input iifname lo accept
         nft add rule inet filter input iifname culvert0 accept
         {}",
        commands("nft add rule")
    );
    talk(&lab, &[], &(firewall + &commands("culvert check")), str::to_owned);
}

#[test]
fn etcd() {
    let lab = lab("readme-etcd").without_daemons().up().unwrap();
    lab.switch().ip("address add 192.168.1.10/32 dev lo").unwrap();
    let _etcd = Etcd::start_in(lab.switch(), "192.168.1.10".parse().unwrap(), Vec::new());
    talk(&lab, &[], &commands("--table-source etcd"), str::to_owned);
}

#[test]
fn kubernetes() {
    let (lab, server, _directory) = with_kubernetes("readme-kube");
    let script = commands("--table-source kubernetes");
    let second = |script: &str| {
        assert!(script.contains("--node-name node1"));
        script.replace("--node-name node1", "--node-name node2")
    };
    talk(&lab, &[("kubeconfig", &server.kubeconfig())], &script, second);
}
