//! The image of the containers, as an OCI archive: one file in one layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::node::{PORT, guest, run};

/// Name of the image; nothing is fetched, so there is no such host.
pub(crate) const IMAGE: &str = "localhost/culvert-test-guest:1";

/// The program, in its root file system.
pub(crate) const PROGRAM: &str = "/guest";

/// Makes a root file system under `directory`.
pub(crate) fn root(directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    fs::create_dir_all(&root).unwrap();
    fs::copy(guest(), root.join(&PROGRAM[1..])).unwrap();
    root
}

/// Makes an archive of the image under `directory` (OCI image layout specification 1.0).
pub(crate) fn archive(directory: &Path) -> PathBuf {
    let layout = directory.join("image");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer = directory.join("layer.tar");
    run(Command::new("tar").arg("-C").arg(root(directory)).arg("-cf").arg(&layer).arg("."));
    let layer = blob(&blobs, "application/vnd.oci.image.layer.v1.tar", &fs::read(layer).unwrap());
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Entrypoint": [PROGRAM, "serve", PORT.to_string()]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config =
        blob(&blobs, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let mut manifest = blob(&blobs, kind, manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"io.containerd.image.name": IMAGE});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = directory.join("image.tar");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg("."));
    archive
}

/// Stores a blob under its digest, and describes it.
fn blob(blobs: &Path, kind: &str, content: &[u8]) -> Value {
    let partial = blobs.join("partial");
    fs::write(&partial, content).unwrap();
    let sum = run(Command::new("sha256sum").arg(&partial));
    let digest = sum.split(' ').next().unwrap();
    fs::rename(partial, blobs.join(digest)).unwrap();
    json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len()})
}
