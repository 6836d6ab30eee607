//! Noise's symmetric state: what both ends mix into their keys, and seal with them.
//!
//! Every pattern here mixes in a key before it seals anything, so that there is always one.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use super::{Refused, Split, TAG_LEN};
use crate::keys::KEY_LEN;

type Key = Zeroizing<[u8; KEY_LEN]>;

/// §5.2 of the Noise specification.
#[derive(Clone)]
pub(super) struct Symmetric {
    chaining_key: Key,
    hash: [u8; KEY_LEN],
    key: Key,
    nonce: u64,
}

impl Symmetric {
    /// Begins with the protocol's name and the prologue.
    pub(super) fn new(protocol: &str, prologue: &[u8]) -> Self {
        let mut hash = [0; KEY_LEN];
        match hash.get_mut(..protocol.len()) {
            Some(start) => start.copy_from_slice(protocol.as_bytes()),
            None => hash = sha256(&[protocol.as_bytes()]),
        }
        let mut symmetric =
            Self { chaining_key: Zeroizing::new(hash), hash, key: Zeroizing::default(), nonce: 0 };
        symmetric.mix_hash(prologue);
        symmetric
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = sha256(&[&self.hash, data]);
    }

    pub(super) fn mix_key(&mut self, material: &[u8]) {
        let [chaining_key, key] = expand(&self.chaining_key, material);
        (self.chaining_key, self.key, self.nonce) = (chaining_key, key, 0);
    }

    pub(super) fn mix_key_and_hash(&mut self, material: &[u8]) {
        let [chaining_key, hash, key] = expand(&self.chaining_key, material);
        self.chaining_key = chaining_key;
        self.mix_hash(&hash[..]);
        (self.key, self.nonce) = (key, 0);
    }

    /// Appends `plain`, sealed, to `out`.
    pub(super) fn encrypt_and_hash(
        &mut self,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        let start = out.len();
        out.extend_from_slice(plain);
        let sealed = out.get_mut(start..).ok_or(Refused)?;
        let nonce = self.next_nonce();
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(nonce, Aad::from(&self.hash), sealed)
            .map_err(|_| Refused)?;
        out.extend_from_slice(tag.as_ref());
        self.mix_hash(&out[start..]);
        Ok(())
    }

    /// Opens `sealed` into `plain`, which is shorter by the tag.
    pub(super) fn decrypt_and_hash(
        &mut self,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Refused> {
        let (ciphertext, tag) =
            sealed.split_at_checked(sealed.len().wrapping_sub(TAG_LEN)).ok_or(Refused)?;
        let nonce = self.next_nonce();
        self.cipher()?
            .open_separate_gather(nonce, Aad::from(&self.hash), ciphertext, tag, plain)
            .map_err(|_| Refused)?;
        self.mix_hash(sealed);
        Ok(())
    }

    pub(super) fn split(&self) -> Split {
        let [from_initiator, from_responder] = expand(&self.chaining_key, &[]);
        Split { from_initiator, from_responder }
    }

    fn cipher(&self) -> Result<LessSafeKey, Refused> {
        UnboundKey::new(&AES_256_GCM, &self.key[..]).map(LessSafeKey::new).map_err(|_| Refused)
    }

    /// Four zero bytes, then the counter (§12.4).
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.nonce.to_be_bytes());
        self.nonce += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; KEY_LEN];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// HKDF as §4.3 has it: RFC 5869 with the chaining key as salt and no info.
fn expand<const N: usize>(chaining_key: &Key, material: &[u8]) -> [Key; N] {
    let secret = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &chaining_key[..]), material);
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref());
    let mut last: Option<Key> = None;
    std::array::from_fn(|index| {
        let mut context = hmac::Context::with_key(&secret);
        if let Some(last) = &last {
            context.update(&last[..]);
        }
        context.update(&[u8::try_from(index + 1).unwrap_or(u8::MAX)]);
        let mut key = Key::default();
        key.copy_from_slice(context.sign().as_ref());
        last = Some(key.clone());
        key
    })
}
