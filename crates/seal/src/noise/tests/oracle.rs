//! snow on the other end, both ways. It knows no ML-KEM-768, so that it gets one under the name of
//! the only KEM that it knows.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use snow::params::{CipherChoice, DHChoice, HashChoice, KemChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Kem, Random};
use snow::{Builder, HandshakeState};

use super::*;

struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }

    fn resolve_kem(&self, _: &KemChoice) -> Option<Box<dyn Kem>> {
        Some(Box::new(MlKem::default()))
    }
}

#[derive(Default)]
struct MlKem {
    key: Option<DecapsulationKey>,
    public: Vec<u8>,
}

impl Kem for MlKem {
    fn name(&self) -> &'static str {
        "MLKEM768"
    }

    fn pub_len(&self) -> usize {
        1184
    }

    fn ciphertext_len(&self) -> usize {
        1088
    }

    fn shared_secret_len(&self) -> usize {
        32
    }

    fn generate(&mut self, _: &mut dyn Random) {
        let key = DecapsulationKey::generate(&ML_KEM_768).unwrap();
        self.public = key.encapsulation_key().unwrap().key_bytes().unwrap().as_ref().to_vec();
        self.key = Some(key);
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn encapsulate(
        &self,
        public: &[u8],
        secret: &mut [u8],
        ciphertext: &mut [u8],
    ) -> Result<(usize, usize), snow::Error> {
        let key = EncapsulationKey::new(&ML_KEM_768, public).map_err(|_| snow::Error::Kem)?;
        let (sealed, shared) = key.encapsulate().map_err(|_| snow::Error::Kem)?;
        secret.copy_from_slice(shared.as_ref());
        ciphertext.copy_from_slice(sealed.as_ref());
        Ok((secret.len(), ciphertext.len()))
    }

    fn decapsulate(&self, ciphertext: &[u8], secret: &mut [u8]) -> Result<usize, snow::Error> {
        let key = self.key.as_ref().ok_or(snow::Error::Kem)?;
        let shared = key.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| snow::Error::Kem)?;
        secret.copy_from_slice(shared.as_ref());
        Ok(secret.len())
    }
}

fn params(post_quantum: PostQuantum) -> NoiseParams {
    let known = match post_quantum {
        PostQuantum::Require => "Noise_KKhfs+psk2_25519+Kyber1024_AESGCM_SHA256",
        PostQuantum::Off => "Noise_KKpsk2_25519_AESGCM_SHA256",
    };
    let mut params: NoiseParams = known.parse().unwrap();
    params.name = post_quantum.protocol().to_owned();
    params
}

/// snow in the place of whoever owns the secret `own`; the other owns `peer`.
fn snow(post_quantum: PostQuantum, own: u8, peer: &NodeKey, psk: u8) -> Builder<'static> {
    let leak = |bytes: [u8; KEY_LEN]| -> &'static [u8; KEY_LEN] { Box::leak(Box::new(bytes)) };
    Builder::with_resolver(params(post_quantum), Box::new(Resolver))
        .local_private_key(leak([own; KEY_LEN]))
        .unwrap()
        .remote_public_key(leak(*peer.public().as_bytes()))
        .unwrap()
        .psk(2, leak([psk; KEY_LEN]))
        .unwrap()
        .prologue(PROLOGUE)
        .unwrap()
}

fn write(snow: &mut HandshakeState, payload: &Payload) -> Vec<u8> {
    let mut message = vec![0; 2000];
    let len = snow.write_message(payload, &mut message).unwrap();
    message.truncate(len);
    message
}

fn read(snow: &mut HandshakeState, message: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 2000];
    let len = snow.read_message(message, &mut payload).unwrap();
    payload.truncate(len);
    payload
}

fn split(snow: &mut HandshakeState) -> [[u8; KEY_LEN]; 2] {
    let (from_initiator, from_responder) = snow.dangerously_get_raw_split();
    [from_initiator, from_responder]
}

#[test]
fn snow_answers_us() {
    for post_quantum in BOTH {
        let ends = Ends::new();
        let mut snow = snow(post_quantum, 2, &ends.initiator, 9).build_responder().unwrap();
        let (initiator, first) = ends.begin(post_quantum);
        assert_eq!(read(&mut snow, &first), FIRST);
        let second = write(&mut snow, &SECOND);
        let (payload, ours) = initiator.finish(&ends.initiator, &[psk(9)], &second).unwrap();
        assert_eq!(payload, SECOND);
        assert_eq!(bytes(&ours), split(&mut snow));
    }
}

#[test]
fn we_answer_snow() {
    for post_quantum in BOTH {
        let ends = Ends::new();
        let mut snow = snow(post_quantum, 1, &ends.responder, 9).build_initiator().unwrap();
        let first = write(&mut snow, &FIRST);
        let (payload, responder) = ends.read(post_quantum, &first).unwrap();
        assert_eq!(payload, FIRST);
        let (second, ours) = ends.answer(responder, &psk(9));
        assert_eq!(read(&mut snow, &second), SECOND);
        assert_eq!(bytes(&ours), split(&mut snow));
    }
}

/// Without ML-KEM, whose randomness is its own, every byte follows from the keys: snow and we write
/// the same.
#[test]
fn snow_writes_the_very_bytes_that_we_write() {
    let ends = Ends::new();
    let mut snow = snow(PostQuantum::Off, 1, &ends.responder, 9)
        .fixed_ephemeral_key_for_testing_only(&[3; KEY_LEN])
        .build_initiator()
        .unwrap();
    assert_eq!(write(&mut snow, &FIRST), ends.begin(PostQuantum::Off).1);
}
