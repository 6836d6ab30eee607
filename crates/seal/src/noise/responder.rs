//! The side that answers: `-> e, es, e1, ss`, then `<- e, ee, ekem1, se, psk`.

use aws_lc_rs::kem::{EncapsulationKey, ML_KEM_768};

use super::symmetric::Symmetric;
use super::{ENCAPSULATION_KEY_LEN, Ephemeral, Payload, PostQuantum, Refused, Split, TAG_LEN};
use crate::keys::{KEY_LEN, NodeKey, Psk, PublicKey, SharedSecret};

/// Has read the first message; its payload tells whether it is worth an answer.
///
/// Up to here it has cost one agreement.
pub struct Responder {
    symmetric: Symmetric,
    peer: PublicKey,
    peer_ephemeral: PublicKey,
    encapsulation_key: Option<Box<[u8; ENCAPSULATION_KEY_LEN]>>,
}

impl Responder {
    /// Reads the first message of the owner of `peer`. `shared` is the agreement of both static
    /// keys.
    ///
    /// # Errors
    ///
    /// It was not made with the keys that it should have been made with.
    pub fn read(
        post_quantum: PostQuantum,
        prologue: &[u8],
        (own, peer): (&NodeKey, &PublicKey),
        shared: &SharedSecret,
        message: &[u8],
    ) -> Result<(Payload, Self), Refused> {
        if message.len() != post_quantum.first_len() {
            return Err(Refused);
        }
        let mut symmetric = Symmetric::new(post_quantum.protocol(), prologue);
        symmetric.mix_hash(peer.as_bytes());
        symmetric.mix_hash(own.public().as_bytes());
        // e
        let (public, mut rest) = message.split_first_chunk::<KEY_LEN>().ok_or(Refused)?;
        let peer_ephemeral = PublicKey::new(*public).map_err(|_| Refused)?;
        symmetric.mix_hash(public);
        symmetric.mix_key(public);
        // es
        symmetric.mix_key(own.agree(&peer_ephemeral).ok_or(Refused)?.expose());
        // e1
        let encapsulation_key = match post_quantum {
            PostQuantum::Require => {
                let (sealed, behind) =
                    rest.split_at_checked(ENCAPSULATION_KEY_LEN + TAG_LEN).ok_or(Refused)?;
                let mut key = Box::new([0; ENCAPSULATION_KEY_LEN]);
                symmetric.decrypt_and_hash(sealed, &mut key[..])?;
                rest = behind;
                Some(key)
            }
            PostQuantum::Off => None,
        };
        // ss
        symmetric.mix_key(shared.expose());
        let mut payload = Payload::default();
        symmetric.decrypt_and_hash(rest, &mut payload)?;
        Ok((payload, Self { symmetric, peer: *peer, peer_ephemeral, encapsulation_key }))
    }

    /// Appends the second message to `out`.
    ///
    /// # Errors
    ///
    /// The peer's ML-KEM key is none, or the cryptographic library refuses.
    pub fn answer(
        mut self,
        psk: &Psk,
        ephemeral: &Ephemeral,
        payload: &Payload,
        out: &mut Vec<u8>,
    ) -> Result<Split, Refused> {
        let symmetric = &mut self.symmetric;
        // e
        out.extend_from_slice(&ephemeral.public);
        symmetric.mix_hash(&ephemeral.public);
        symmetric.mix_key(&ephemeral.public);
        // ee
        symmetric.mix_key(&ephemeral.private.agree(&self.peer_ephemeral)?[..]);
        // ekem1
        if let Some(key) = &self.encapsulation_key {
            let key = EncapsulationKey::new(&ML_KEM_768, &key[..]).map_err(|_| Refused)?;
            let (ciphertext, secret) = key.encapsulate().map_err(|_| Refused)?;
            symmetric.encrypt_and_hash(ciphertext.as_ref(), out)?;
            symmetric.mix_key(secret.as_ref());
        }
        // se
        symmetric.mix_key(&ephemeral.private.agree(&self.peer)?[..]);
        // psk
        symmetric.mix_key_and_hash(psk.expose());
        symmetric.encrypt_and_hash(payload, out)?;
        Ok(symmetric.split())
    }
}
