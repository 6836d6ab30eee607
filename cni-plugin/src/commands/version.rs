//! VERSION: which versions of the CNI specification this plugin speaks.

use std::io::Read;

use serde_json::{Value, json};

use crate::config;
use crate::error::Error;
use crate::version::CniVersion;

/// Answers with the supported versions; `cniVersion` is the request's, known or not.
pub(super) fn version(stdin: &mut dyn Read) -> Result<Value, Error> {
    // Callers by hand often give no configuration at all, and none is needed.
    let asked = match config::read(stdin) {
        Ok(document) => document.get("cniVersion").cloned(),
        Err(Error::DecodeConfig { source }) if source.is_eof() => None,
        Err(error) => return Err(error),
    };
    let asked = asked.unwrap_or_else(|| json!(CniVersion::NEWEST.as_str()));
    if !asked.is_string() {
        return Err(config::bad("cniVersion", &asked, "needs to be a string"));
    }
    Ok(json!({
        "cniVersion": asked,
        "supportedVersions": CniVersion::ALL.map(CniVersion::as_str),
    }))
}
