//! What a container runtime hands to the plugin: always one answer, JSON on stdout, and never a
//! success for a pod whose namespace does not exist.

use std::ffi::OsString;
use std::process::ExitCode;

use culvert_cni::Plugin;

pub(crate) fn run(input: &[u8]) {
    let about = |text: &str| {
        let document: Result<serde_json::Map<String, serde_json::Value>, _> =
            serde_json::from_slice(text.as_bytes());
        document.is_ok_and(|document| document.contains_key("stateDir"))
    };
    // CHECK would look for a store wherever the input says.
    let names_a_directory = std::str::from_utf8(input).is_ok_and(about);
    for verb in ["VERSION", "ADD", "CHECK"] {
        if verb == "CHECK" && names_a_directory {
            continue;
        }
        let variable = |name: &str| match name {
            "CNI_COMMAND" => Some(OsString::from(verb)),
            "CNI_CONTAINERID" => Some("fuzz".into()),
            "CNI_IFNAME" => Some("eth0".into()),
            "CNI_NETNS" | "CULVERT_RUN_DIR" | "CULVERT_STATE_DIR" => {
                Some("/nonexistent/culvert-fuzz".into())
            }
            _ => None,
        };
        for plugin in [Plugin::Bridge, Plugin::Loopback] {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let code =
                culvert_cni::run(plugin, &variable, &mut &input[..], &mut stdout, &mut stderr);
            if code == ExitCode::SUCCESS {
                assert_eq!(verb, "VERSION", "there is no such namespace");
            }
            let answer: serde_json::Value = serde_json::from_slice(&stdout).expect("one document");
            assert!(answer["cniVersion"].is_string(), "{answer}");
            assert_eq!(code == ExitCode::SUCCESS, answer.get("code").is_none(), "{answer}");
        }
    }
}
