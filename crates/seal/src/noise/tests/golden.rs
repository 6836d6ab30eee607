//! Messages of an earlier day, so that a change of the protocol is noticed although both ends
//! agree.
//!
//! `CULVERT_BLESS=1` writes the file anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};

use super::*;
use crate::noise::ephemeral::Kem;

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/noise.txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn read() -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(path()).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(" = "));
    lines.map(|(name, value)| (name.to_owned(), unhex(value))).collect()
}

/// Begins with the ML-KEM key of the file.
fn begin(ends: &Ends, kem: &[u8]) -> (Initiator, Vec<u8>) {
    let kem = Kem::of_bytes(kem).unwrap();
    let ephemeral = Ephemeral::new(&secret(3), Some(kem)).unwrap();
    let mut first = Vec::new();
    let keys = (ends.initiator.public(), ends.responder.public());
    let begun = Initiator::begin(
        PostQuantum::Require,
        PROLOGUE,
        keys,
        &ends.shared,
        ephemeral,
        &FIRST,
        &mut first,
    );
    (begun.unwrap(), first)
}

fn bless(ends: &Ends) {
    let kem = DecapsulationKey::generate(&ML_KEM_768).unwrap();
    let kem = kem.key_bytes().unwrap().as_ref().to_vec();
    let (_, first) = begin(ends, &kem);
    let (_, responder) = ends.read(PostQuantum::Require, &first).unwrap();
    let (second, split) = ends.answer(responder, &psk(9));
    let [from_initiator, from_responder] = bytes(&split);
    let mut text = String::new();
    for (name, value) in [
        ("decapsulation key", &kem[..]),
        ("first", &first),
        ("second", &second),
        ("from initiator", &from_initiator),
        ("from responder", &from_responder),
    ] {
        writeln!(text, "{name} = {}", hex(value)).unwrap();
    }
    std::fs::create_dir_all(path().parent().unwrap()).unwrap();
    std::fs::write(path(), text).unwrap();
}

#[test]
fn messages_are_those_of_the_file() {
    let ends = Ends::new();
    if std::env::var_os("CULVERT_BLESS").is_some() {
        bless(&ends);
    }
    let golden = read();
    let (initiator, first) = begin(&ends, &golden["decapsulation key"]);
    assert_eq!(first, golden["first"]);
    let (payload, split) = initiator.finish(&ends.initiator, &[psk(9)], &golden["second"]).unwrap();
    assert_eq!(payload, SECOND);
    assert_eq!(split.from_initiator[..], golden["from initiator"]);
    assert_eq!(split.from_responder[..], golden["from responder"]);
}
