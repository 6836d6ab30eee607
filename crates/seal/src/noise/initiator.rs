//! The side that begins: `-> e, es, e1, ss`, then `<- e, ee, ekem1, se, psk`.

use aws_lc_rs::kem::Ciphertext;

use super::ephemeral::Private;
use super::symmetric::Symmetric;
use super::{CIPHERTEXT_LEN, Ephemeral, Payload, PostQuantum, Refused, Split, TAG_LEN};
use crate::keys::{KEY_LEN, NodeKey, Psk, PublicKey, SharedSecret};

/// Has written the first message and waits for the second.
pub struct Initiator {
    post_quantum: PostQuantum,
    symmetric: Symmetric,
    private: Private,
}

impl Initiator {
    /// Appends the first message to `out`. `shared` is the agreement of both static keys.
    ///
    /// # Errors
    ///
    /// The cryptographic library refuses.
    pub fn begin(
        post_quantum: PostQuantum,
        prologue: &[u8],
        (own, peer): (&PublicKey, &PublicKey),
        shared: &SharedSecret,
        ephemeral: Ephemeral,
        payload: &Payload,
        out: &mut Vec<u8>,
    ) -> Result<Self, Refused> {
        let mut symmetric = Symmetric::new(post_quantum.protocol(), prologue);
        symmetric.mix_hash(own.as_bytes());
        symmetric.mix_hash(peer.as_bytes());
        // e
        let Ephemeral { private, public, kem_public } = ephemeral;
        out.extend_from_slice(&public);
        symmetric.mix_hash(&public);
        symmetric.mix_key(&public);
        // es
        symmetric.mix_key(&private.agree(peer)?[..]);
        // e1
        if let Some(kem_public) = &kem_public {
            symmetric.encrypt_and_hash(&kem_public[..], out)?;
        }
        // ss
        symmetric.mix_key(shared.expose());
        symmetric.encrypt_and_hash(payload, out)?;
        Ok(Self { post_quantum, symmetric, private })
    }

    /// Reads the second message, made with any of `psks`. A refused one changes nothing: the right
    /// one may still come.
    ///
    /// # Errors
    ///
    /// It was not made with the keys that it should have been made with.
    pub fn finish(
        &self,
        own: &NodeKey,
        psks: &[Psk],
        message: &[u8],
    ) -> Result<(Payload, Split), Refused> {
        if message.len() != self.post_quantum.second_len() {
            return Err(Refused);
        }
        let mut symmetric = self.symmetric.clone();
        // e
        let (public, mut rest) = message.split_first_chunk::<KEY_LEN>().ok_or(Refused)?;
        let peer = PublicKey::new(*public).map_err(|_| Refused)?;
        symmetric.mix_hash(public);
        symmetric.mix_key(public);
        // ee
        symmetric.mix_key(&self.private.agree(&peer)?[..]);
        // ekem1
        if let Some(kem) = &self.private.kem {
            let (sealed, behind) =
                rest.split_at_checked(CIPHERTEXT_LEN + TAG_LEN).ok_or(Refused)?;
            let mut ciphertext = [0; CIPHERTEXT_LEN];
            symmetric.decrypt_and_hash(sealed, &mut ciphertext)?;
            let secret = kem.decapsulate(Ciphertext::from(&ciphertext[..])).map_err(|_| Refused)?;
            symmetric.mix_key(secret.as_ref());
            rest = behind;
        }
        // se
        symmetric.mix_key(own.agree(&peer).ok_or(Refused)?.expose());
        // psk
        for psk in psks {
            let mut symmetric = symmetric.clone();
            symmetric.mix_key_and_hash(psk.expose());
            let mut payload = Payload::default();
            if symmetric.decrypt_and_hash(rest, &mut payload).is_ok() {
                return Ok((payload, symmetric.split()));
            }
        }
        Err(Refused)
    }
}
