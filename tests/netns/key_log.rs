//! The log of session keys: where it is written, and what tshark reads with it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use culvert_lab::{Lab, LabBuilder, Node, probe, wait_until};
use overlay_proto::Family;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::capture::pcap;
use crate::harness::{SOON, lab, quick_ping, refused_start};
use crate::packets::{Udp, contains};
use crate::scapy;

/// What must not be read on the way without the log.
const MARKER: &[u8] = b"between these two pods";

/// Where the procedure for people is, which the test follows.
const PROCEDURE: &str = include_str!("../../docs/sealed.md");

/// As people name the capture in that procedure.
const CAPTURE: &str = "sealed.pcap";

/// Two sealing nodes, of which the first writes its keys to `log`.
fn up(builder: LabBuilder, log: &Path) -> Lab {
    let lab = builder.sealed("require").without_daemons().up().unwrap();
    write_config(lab.node(1), log);
    for node in lab.nodes() {
        // Of a train that a veth carries uncut, a capture has one frame, which nobody can open.
        node.netns().ip("link set dev eth0 gso_max_segs 1").unwrap();
        node.start().unwrap();
    }
    for node in 1..=2 {
        lab.add_pod(node).unwrap();
    }
    lab
}

fn write_config(node: &Node, log: &Path) {
    // The cipher that every tshark knows.
    let ciphers = "ciphers = [\"aes-256-gcm\"]";
    let log = log.display();
    let text = format!("[sealed]\nmode = \"require\"\n{ciphers}\nkey_log = \"{log}\"\n");
    node.write_config(&[&text]).unwrap();
}

/// tcpdump on the switch between the nodes, which writes into `directory`.
fn tcpdump(lab: &Lab, directory: &Path) -> Child {
    let mut command = lab.switch().command("tcpdump");
    command.args(["-i", "any", "-U", "--immediate-mode", "-Z", "root", "-w"]);
    command.arg(directory.join(CAPTURE)).args(["udp", "port", "4500"]);
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It has begun when the file has its header.
    let begun = || fs::metadata(directory.join(CAPTURE)).is_ok_and(|file| file.len() >= 24);
    wait_until(SOON, "tcpdump to begin", begun).unwrap();
    child
}

/// Runs the command of the procedure in `directory`, with what the test wants of it.
fn tshark(directory: &Path, command: &str) -> String {
    let fields = "-n -T fields -e ip.src -e ip.dst -e icmp.type -e data";
    let Output { status, stdout, stderr } = Command::new("sh")
        .args(["-c", &format!("{command} -Y esp {fields}")])
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && !said.contains("Error"), "{said}");
    String::from_utf8(stdout).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The command of the procedure that reads a capture with the log.
fn command_with_log() -> &'static str {
    let mut lines = PROCEDURE.lines().map(str::trim);
    lines.find(|line| line.contains("tshark -o")).unwrap()
}

/// Has the first pods of both nodes talk until `is_read` says that tshark has read both.
fn talk_until_read(lab: &Lab, directory: &Path, log: &Path, is_read: impl Fn(&str) -> bool) {
    let mut capture = tcpdump(lab, directory);
    let (from, to) = (lab.pod(1, 1), lab.pod(2, 1));
    let packet = Udp::new(from.ipv4(), to.ipv4(), MARKER).bytes();
    wait_until(SOON, "tshark to read both directions", || {
        probe::send_packet(from.netns(), &packet).unwrap();
        quick_ping(from.netns(), to.ipv4());
        fs::copy(log, directory.join("keys/esp_sa")).unwrap();
        is_read(&tshark(directory, command_with_log()))
    })
    .unwrap();
    kill_process(Pid::from_child(&capture), Signal::INT).unwrap();
    capture.wait().unwrap();
}

/// Whether tshark has read what the first pod sent, and the echo of both pods.
fn has_everything(read: &str) -> bool {
    let (out, back) = ("192.168.1.11,10.244.1.2\t", "192.168.1.12,10.244.2.2\t");
    let line = |start: &str, part: &str| {
        read.lines().any(|line| line.starts_with(start) && line.contains(part))
    };
    line(out, &hex(MARKER)) && line(out, "\t8\t") && line(back, "\t0\t")
}

#[test]
fn tshark_reads_what_is_sealed_with_the_key_log_and_not_without() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    let log = directory.path().join("esp_sa");
    let with_log = command_with_log();
    let without = with_log.split_once(' ').unwrap().1;

    let lab = up(lab("nt-keylog"), &log);
    talk_until_read(&lab, directory.path(), &log, has_everything);

    let read = tshark(directory.path(), without);
    assert!(read.contains("192.168.1.11\t192.168.1.12\t\t"), "sealed packets are there: {read}");
    assert!(!read.contains("10.244.") && !read.contains(&hex(MARKER)), "{read}");
    let captured = fs::read(directory.path().join(CAPTURE)).unwrap();
    assert!(!contains(&captured, MARKER));

    // By the lines as options, which other programs see while it runs.
    let lines = fs::read_to_string(&log).unwrap();
    let options: String = lines.lines().map(|line| format!(" -o 'uat:esp_sa:{line}'")).collect();
    assert!(has_everything(&tshark(directory.path(), &format!("{without}{options}"))));

    // By a program that checks tags, and then refuses whatever was changed on the way.
    let verdicts = scapy::read(&log, &directory.path().join(CAPTURE));
    let opened = verdicts.iter().filter(|verdict| verdict.starts_with("opened "));
    opened.clone().for_each(|verdict| scapy::assert_opened(verdict));
    assert!(opened.filter(|verdict| verdict.contains(&hex(MARKER))).count() > 0);
    assert!(!verdicts.iter().any(|verdict| verdict == "refused"), "{verdicts:?}");

    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o7777, 0o600);
    let node = lab.node(1);
    let shown = node.culvert(&["status"]).unwrap();
    assert!(shown.contains(&format!("key log: {}", log.display())), "{shown}");
    assert_eq!(node.status().unwrap()["sealed"]["key_log"], log.to_str().unwrap());
    assert!(lab.node(2).status().unwrap()["sealed"]["key_log"].is_null());
    assert!(node.log().contains("whoever reads that file reads all traffic"), "{}", node.log());
    let secrets = lines.lines().filter_map(|line| line.split("\"0x").nth(2));
    for secret in secrets.filter_map(|rest| rest.split('"').next()) {
        assert_eq!(secret.len(), 72);
        assert!(!node.log().contains(secret) && !shown.contains(secret));
    }
}

/// The log names both ends by their addresses, whose form is another one here.
#[test]
fn tshark_reads_what_is_sealed_over_an_ipv6_underlay_with_the_key_log() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    let log = directory.path().join("esp_sa");
    let with_log = command_with_log();

    let lab = up(lab("nt-keylog6").underlay(Family::V6), &log);
    // Of the addresses only those of pods are IPv4.
    let is_read = |read: &str| {
        let has = |start: &str, part: &str| {
            read.lines().any(|line| line.starts_with(start) && line.contains(part))
        };
        has("10.244.1.2\t10.244.2.2\t", &hex(MARKER)) && has("10.244.2.2\t10.244.1.2\t", "\t0\t")
    };
    talk_until_read(&lab, directory.path(), &log, is_read);
    assert!(!is_read(&tshark(directory.path(), with_log.split_once(' ').unwrap().1)));
}

/// The packet that the crate of sessions has on disk. tshark 4.0 does not know its other suite.
#[test]
fn tshark_reads_the_golden_packet() {
    let golden = include_str!("../../crates/seal/tests/golden/esp.txt");
    let value = |name: &str| {
        let mut lines = golden.lines().filter_map(|line| line.split_once(" = "));
        lines.find(|(found, _)| *found == name).unwrap().1
    };
    let digits = value("aes-256-gcm.datagram").as_bytes();
    let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
    let datagram: Vec<u8> = digits.chunks(2).map(byte).collect();
    let (from, to) = ([192, 168, 1, 11], [192, 168, 1, 12]);
    let packet = Udp::new(from.into(), to.into(), &datagram).port(4500).bytes();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(CAPTURE), pcap(&[packet])).unwrap();
    let read = |material: &str| {
        let cipher = "AES-GCM with 16 octet ICV [RFC4106]";
        let ends = "\"IPv4\",\"192.168.1.11\",\"*\"";
        let line = format!("{ends},\"0x12345***\",\"{cipher}\",\"0x{material}\",\"NULL\",\"\"");
        let decode = "-o esp.enable_encryption_decode:TRUE";
        let options = format!("{decode} -o 'uat:esp_sa:{line}' -r {CAPTURE}");
        tshark(directory.path(), &format!("tshark {options}"))
    };
    let hello = format!("192.168.1.11,10.244.1.2\t192.168.1.12,10.244.2.2\t\t{}\n", hex(b"hello"));
    assert_eq!(read(value("aes-256-gcm.material")), hello);
    assert_ne!(read(value("chacha20-poly1305.material")), hello);
}

#[test]
fn a_key_log_that_others_may_read_or_lead_elsewhere_ends_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let lab = lab("nt-keylogbad").sealed("prefer").without_daemons().up().unwrap();
    let (open, link) = (directory.path().join("open"), directory.path().join("link"));
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(directory.path().join("elsewhere"), &link).unwrap();
    for (path, problem) in [(&open, "mode 0644"), (&link, "a symbolic link")] {
        write_config(lab.node(1), path);
        let (code, said) = refused_start(lab.node(1));
        assert_eq!(code, Some(1), "{said}");
        let key = format!("sealed.key_log = \"{}\"", path.display());
        assert!(said.contains(&key) && said.contains(problem), "{said}");
    }
    assert!(!directory.path().join("elsewhere").exists());
}

/// A file system with one page, of which all is used but for less than a line.
struct FullDisk(TempDir);

impl FullDisk {
    const USED: usize = 4000;

    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4k,mode=700", "none"])
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(mount.success());
        let disk = Self(directory);
        fs::write(disk.log(), vec![b'#'; Self::USED]).unwrap();
        fs::set_permissions(disk.log(), fs::Permissions::from_mode(0o600)).unwrap();
        disk
    }

    fn log(&self) -> std::path::PathBuf {
        self.0.path().join("esp_sa")
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_costs_one_warning_and_no_packet() {
    let disk = FullDisk::mount();
    let lab = up(lab("nt-keylogfull"), &disk.log());
    let reaches = || quick_ping(lab.pod(1, 1).netns(), lab.pod(2, 1).ipv4()).is_reply();
    wait_until(SOON, "an answer", reaches).unwrap();
    let warnings = || lab.node(1).log().matches("keys of sessions are missing").count();
    wait_until(SOON, "the warning", || warnings() > 0).unwrap();
    assert_eq!(fs::metadata(disk.log()).unwrap().len(), FullDisk::USED as u64, "no half of a line");
    // The other direction's key came right after, and another session's later.
    lab.node(2).restart().unwrap();
    wait_until(SOON, "an answer", reaches).unwrap();
    assert_eq!(warnings(), 1, "{}", lab.node(1).log());
    // With room again it goes on.
    fs::write(disk.log(), "").unwrap();
    lab.node(2).restart().unwrap();
    wait_until(SOON, "an answer", reaches).unwrap();
    let lines = || fs::read_to_string(disk.log()).unwrap().lines().count();
    wait_until(SOON, "two lines", || lines() >= 2).unwrap();
    assert!(lab.node(1).log().contains("the key log is written again"), "{}", lab.node(1).log());
}
