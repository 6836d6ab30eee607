//! A containerd of one node, and `ctr` beside it.
//!
//! Both live in mount and process namespaces of their own, within the node's network namespace: the
//! directories whose places are fixed (`/etc/cni/net.d`, `/opt/cni/bin`, `/var/lib/cni`,
//! `/run/containerd`) are private, and killing the first process ends every container with it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_lab::{Node, wait_for, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::INTERFACE;
use crate::image::{self, PROGRAM};
use crate::node::{PATIENCE, PORT, guest, loopback, plugin, run};

/// Mounts what is fixed, and becomes containerd. `$1` is the test's directory.
const START: &str = r#"
for place in /opt /var/lib /run/containerd; do
    mkdir -p "$place"
    mount -t tmpfs tmpfs "$place"
done
mount --bind "$1/etc" /etc
mkdir -p /opt/cni /var/lib/cni
cp -r "$1/bin" /opt/cni/bin
exec containerd --config "$1/config.toml"
"#;

pub(crate) struct Containerd {
    name: String,
    dir: TempDir,
    /// `unshare`, which ends its child when it is killed.
    outer: Child,
    /// containerd itself, as seen from here.
    pid: u32,
}

/// A container that `ctr` runs in the foreground.
pub(crate) struct Container {
    id: String,
    /// Its process, as seen from inside.
    pub(crate) pid: u32,
    ctr: Child,
}

impl Containerd {
    /// Starts it on `node`, with the image at hand.
    pub(crate) fn start(node: &Node) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path();
        prepare(path, node);
        let log = fs::File::create(path.join("log")).unwrap();
        // Not `ip netns exec`, which hides the control groups.
        let outer = Command::new("nsenter")
            .arg(format!("--net={}", node.netns().path().display()))
            .args([
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["--mount-proc", "sh", "-ec", START, "sh"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let pid = wait_for(PATIENCE, "containerd to be started", || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            Ok(text.split_whitespace().next().and_then(|pid| pid.parse().ok()))
        });
        let runtime = Self { name: node.name().to_owned(), dir, outer, pid: pid.unwrap() };
        let ready = wait_until(PATIENCE, "containerd to answer", || {
            let socket = runtime.socket();
            socket.exists() && runtime.ctr(&["version"]).output().unwrap().status.success()
        });
        ready.unwrap_or_else(|error| panic!("{error}: {}", runtime.log()));
        let archive = image::archive(runtime.dir.path());
        let import = ["-n", "k8s.io", "images", "import", "--snapshotter", "native"];
        run(runtime.ctr(&import).arg(archive));
        runtime
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A command in the namespaces of containerd.
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--net", "--target", &self.pid.to_string(), "--"]);
        command.arg(program);
        command
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside("ctr");
        command.arg("--address").arg(self.socket()).args(arguments);
        command
    }

    /// Runs a container as `ctr run --cni` does, and waits until it serves.
    pub(crate) fn run(&self, id: &str) -> Container {
        let log = fs::File::create(self.dir.path().join(id)).unwrap();
        let ctr = self
            .ctr(&["run", "--cni", "--snapshotter", "native", "--rootfs"])
            .arg(image::root(self.dir.path()))
            .args([id, PROGRAM, "serve", &PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // `ctr` starts the process when the network is there.
        let serving = wait_until(PATIENCE, "the container to run", || {
            let tasks = run(&mut self.ctr(&["task", "list"]));
            tasks.lines().any(|line| line.starts_with(id) && line.contains("RUNNING"))
        });
        let said = || fs::read_to_string(self.dir.path().join(id)).unwrap_or_default();
        serving.unwrap_or_else(|error| panic!("{error}: {}", said()));
        Container { id: id.to_owned(), pid: self.pid("default", id), ctr }
    }

    /// Ends a container, upon which `ctr` detaches it.
    pub(crate) fn end(&self, mut container: Container) {
        run(&mut self.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id]));
        container.ctr.wait().unwrap();
        run(&mut self.ctr(&["container", "delete", &container.id]));
    }

    /// The process of a container, as seen from inside.
    pub(crate) fn pid(&self, namespace: &str, container: &str) -> u32 {
        let tasks = run(&mut self.ctr(&["-n", namespace, "task", "list"]));
        let line = tasks.lines().find(|line| line.starts_with(container));
        let line = line.unwrap_or_else(|| panic!("{container} is not in {tasks}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// A command in the network of the container with this process.
    fn in_container(&self, pid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.inside("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg(program);
        command
    }

    /// The IPv4 address of the container with this process.
    pub(crate) fn address(&self, pid: u32) -> IpAddr {
        let show = ["-j", "-4", "addr", "show", "dev", INTERFACE];
        let text = run(self.in_container(pid, "ip").args(show));
        let found: Value = serde_json::from_str(&text).unwrap();
        found[0]["addr_info"][0]["local"].as_str().unwrap().parse().unwrap()
    }

    /// Demands that the container with this process gets an answer from `target`.
    pub(crate) fn ask(&self, pid: u32, target: IpAddr, port: u16) {
        let ask = || {
            let mut command = self.in_container(pid, guest());
            command.args(["ask", &format!("{target}:{port}")]).output().unwrap().status.success()
        };
        // The program over there may still be starting.
        wait_until(PATIENCE, &format!("an answer from {target}"), ask).unwrap();
    }

    /// Demands that the runtime's CNI library remembers no attachment.
    pub(crate) fn assert_no_results(&self) {
        let left = run(self.inside("find").args(["/var/lib/cni", "-type", "f"]));
        assert_eq!(left, "");
        let left =
            run(self.inside("find").arg(self.dir.path().join("state")).args(["-name", "cni-*"]));
        assert_eq!(left, "", "names of network namespaces");
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Its child, and with it the whole process namespace, gets SIGKILL.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// Writes the configuration of a containerd, and what is to be in the fixed places.
fn prepare(path: &Path, node: &Node) {
    for directory in ["etc/cni/net.d", "bin"] {
        fs::create_dir_all(path.join(directory)).unwrap();
    }
    for file in ["resolv.conf", "hosts", "passwd", "group"] {
        // Containerd hands the first two on; an empty one is as good where there is none.
        let text = fs::read(Path::new("/etc").join(file)).unwrap_or_default();
        fs::write(path.join("etc").join(file), text).unwrap();
    }
    for program in [plugin(), loopback()] {
        fs::copy(&program, path.join("bin").join(program.file_name().unwrap())).unwrap();
    }
    let mut config = node.cni_config();
    let list = json!({
        "cniVersion": config["cniVersion"].take(),
        "name": config["name"].take(),
        "plugins": [{
            "type": "culvert-cni",
            "runDir": node.run_dir(),
            "stateDir": node.state_dir(),
        }],
    });
    fs::write(path.join("etc/cni/net.d/10-culvert.conflist"), list.to_string()).unwrap();
    let at = |name: &str| path.join(name).display().to_string();
    let text = format!(
        r#"
version = 2
root = "{root}"
state = "{state}"

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
netns_mounts_under_state_dir = true
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
        root = at("root"),
        state = at("state"),
        socket = at("containerd.sock"),
        image = image::IMAGE,
    );
    fs::write(path.join("config.toml"), text).unwrap();
}
