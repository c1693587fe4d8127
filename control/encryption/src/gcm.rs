//! AES-GCM as upstream stores it: a random nonce before the sealed bytes, the object's key in the store authenticated
//! with them, so that nothing stored can be moved to another place. Pure but for randomness, which the TLS library
//! draws.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk},
};

/// Bytes of a seed, of the part of a record that its key is derived with, and of the derived key.
pub(crate) const SEED_BYTES: usize = 32;

/// A key: `None` when it has no length of AES.
pub(crate) fn key(bytes: &[u8]) -> Option<LessSafeKey> {
    let algorithm = match bytes.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        32 => &AES_256_GCM,
        _ => return None,
    };
    UnboundKey::new(algorithm, bytes).ok().map(LessSafeKey::new)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// Appends nonce and sealed `plain` to `out`.
pub(crate) fn seal(key: &LessSafeKey, place: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Unspecified> {
    let nonce: [u8; NONCE_LEN] = random()?;
    out.extend_from_slice(&nonce);
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)?;
    out.extend_from_slice(&sealed);
    Ok(())
}

/// What `stored`, nonce and sealed bytes, holds.
pub(crate) fn open(key: &LessSafeKey, place: &[u8], stored: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let (nonce, sealed) = stored.split_at_checked(NONCE_LEN).ok_or(Unspecified)?;
    let mut sealed = sealed.to_vec();
    let plain = key.open_in_place(Nonce::try_assume_unique_for_key(nonce)?, Aad::from(place), &mut sealed)?.len();
    sealed.truncate(plain);
    Ok(sealed)
}

/// A secret from which every record gets a key of its own, so that nonces need not be counted.
pub(crate) struct Seed(Prk);

struct DerivedKey;

impl KeyType for DerivedKey {
    fn len(&self) -> usize {
        SEED_BYTES
    }
}

impl Seed {
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= SEED_BYTES).then(|| Self(Prk::new_less_safe(HKDF_SHA256, bytes)))
    }

    fn derive(&self, info: &[u8]) -> Result<LessSafeKey, Unspecified> {
        let mut bytes = [0; SEED_BYTES];
        self.0.expand(&[info], DerivedKey)?.fill(&mut bytes)?;
        key(&bytes).ok_or(Unspecified)
    }

    pub(crate) fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let info: [u8; SEED_BYTES] = random()?;
        let mut out = Vec::with_capacity(SEED_BYTES + NONCE_LEN + plain.len() + 16);
        out.extend_from_slice(&info);
        seal(&self.derive(&info)?, place, plain, &mut out)?;
        Ok(out)
    }

    pub(crate) fn open(&self, place: &[u8], stored: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let (info, sealed) = stored.split_at_checked(SEED_BYTES).ok_or(Unspecified)?;
        open(&self.derive(info)?, place, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_in_their_place_only() {
        for length in [16, 24, 32] {
            let key = key(&vec![7; length]).unwrap();
            let mut stored = Vec::new();
            seal(&key, b"/a", b"secret", &mut stored).unwrap();
            assert_eq!(open(&key, b"/a", &stored).unwrap(), b"secret");
            assert!(open(&key, b"/b", &stored).is_err());
            stored[20] ^= 1;
            assert!(open(&key, b"/a", &stored).is_err());
        }
        assert!(key(&[7; 20]).is_none());
        assert!(open(&key(&[7; 16]).unwrap(), b"/a", b"short").is_err());
    }

    #[test]
    fn a_seed_gives_every_record_its_own_key() {
        let seed = Seed::new(&[7; SEED_BYTES]).unwrap();
        let (one, two) = (seed.seal(b"/a", b"secret").unwrap(), seed.seal(b"/a", b"secret").unwrap());
        assert_ne!(one[..SEED_BYTES], two[..SEED_BYTES]);
        assert_eq!(seed.open(b"/a", &one).unwrap(), b"secret");
        assert!(seed.open(b"/b", &one).is_err() && seed.open(b"/a", &one[1..]).is_err());
        assert!(Seed::new(&[7; 31]).is_none());
    }

    /// RFC 5869, test case 1: the expansion alone.
    #[test]
    fn keys_are_derived_as_the_standard_says() {
        let seed = [
            0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf, 0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63, 0x90, 0xb6,
            0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31, 0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5,
        ];
        let info = [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9];
        let expected = [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a, 0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a];
        let mut derived = [0; SEED_BYTES];
        Seed::new(&seed).unwrap().0.expand(&[&info], DerivedKey).unwrap().fill(&mut derived).unwrap();
        assert_eq!(derived[..16], expected);
    }
}
