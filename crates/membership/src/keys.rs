//! The public keys by which peers know a node.

use culvert_keys::{InvalidPublicKey, PublicKey};

/// Most keys of a node: the one that it uses, and the one that it will use or has used.
const MAX: usize = 2;

/// The public keys of a node: none, one, or two while it goes over from one to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeKeys([Option<PublicKey>; MAX]);

/// What is wrong with one key of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] InvalidPublicKey),
    /// The list has it twice.
    #[error("the node has this key already")]
    Twice,
    /// There are more before it than a node has.
    #[error("one key more than the two that a node may have")]
    TooMany,
}

/// The key of a list that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct WrongKey {
    /// Its place in the list.
    pub place: usize,
    /// What is wrong with it.
    pub fault: KeyFault,
}

impl WrongKey {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.fault {
            KeyFault::Invalid(_) => "write what `culvert keys show` prints on that node",
            KeyFault::Twice => "write each key once",
            KeyFault::TooMany => "leave out the keys that the node does not use any more",
        }
    }
}

impl NodeKeys {
    /// The keys of a list.
    ///
    /// # Errors
    ///
    /// The first that a node cannot have beside those before it.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Result<Self, WrongKey> {
        let mut taken = Self::default();
        for (place, key) in keys.into_iter().enumerate() {
            taken.push(key).map_err(|fault| WrongKey { place, fault })?;
        }
        Ok(taken)
    }

    /// The keys of a list of texts, each 32 bytes in base64.
    ///
    /// # Errors
    ///
    /// As [`NodeKeys::new`], and the first that is no public key.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, WrongKey> {
        let mut taken = Self::default();
        for (place, text) in texts.into_iter().enumerate() {
            let key = text.parse::<PublicKey>().map_err(KeyFault::from);
            let pushed = key.and_then(|key| taken.push(key));
            pushed.map_err(|fault| WrongKey { place, fault })?;
        }
        Ok(taken)
    }

    fn push(&mut self, key: PublicKey) -> Result<(), KeyFault> {
        if self.has(&key) {
            return Err(KeyFault::Twice);
        }
        let free = self.0.iter_mut().find(|place| place.is_none()).ok_or(KeyFault::TooMany)?;
        *free = Some(key);
        Ok(())
    }

    /// The keys, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().flatten()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    /// Whether `key` is among them.
    #[must_use]
    pub fn has(&self, key: &PublicKey) -> bool {
        self.iter().any(|known| known == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::new([byte; 32]).unwrap()
    }

    #[test]
    fn a_node_has_at_most_two_keys_and_none_twice() {
        let keys = NodeKeys::new([key(2), key(1)]).unwrap();
        assert_eq!(keys.iter().copied().collect::<Vec<_>>(), [key(2), key(1)]);
        assert!(keys.has(&key(1)) && !keys.has(&key(3)));
        assert!(NodeKeys::default().is_empty() && !keys.is_empty());
        let refused = |keys: &[u8]| NodeKeys::new(keys.iter().copied().map(key)).unwrap_err();
        assert_eq!(refused(&[1, 1]), WrongKey { place: 1, fault: KeyFault::Twice });
        assert_eq!(refused(&[1, 2, 3]), WrongKey { place: 2, fault: KeyFault::TooMany });
    }

    #[test]
    fn texts_are_read_back_and_what_is_no_key_is_named_by_its_place() {
        let texts = [key(1), key(2)].map(|key| key.to_string());
        let keys = NodeKeys::parse(texts.iter().map(String::as_str)).unwrap();
        assert_eq!(keys, NodeKeys::new([key(1), key(2)]).unwrap());
        let wrong = NodeKeys::parse([texts[0].as_str(), "AAAA"]).unwrap_err();
        assert_eq!((wrong.place, wrong.fault), (1, InvalidPublicKey::Text.into()));
        assert!(wrong.remedy().contains("culvert keys show"));
    }
}
