//! Private keys in PKCS #8 (RFC 5958), in PEM, encrypted or not, as the attributes of PKCS #11 objects.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cryptoki_sys::*;
use hsm_emulator::units::Attributes;
use openssl::asn1::Asn1Object;
use openssl::bn::{BigNumContext, BigNumRef};
use openssl::dsa::Dsa;
use openssl::ec::{EcKey, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use zeroize::Zeroizing;

use crate::cli::Secret;
use crate::error::Error;

/// Both objects of a key pair.
pub struct KeyPair {
    /// The public key.
    pub public: Attributes,
    /// The private key.
    pub private: Attributes,
}

/// Reads the key pair of a file.
pub fn read(path: &Path, pin: Option<&Secret>) -> Result<KeyPair, Error> {
    let pem = read_bytes(path)
        .map_err(|error| Error::new(format!("Could open the PKCS#8 file: {} ({error})", path.display())))?;
    let key = match pin {
        Some(_) if !contains(&pem, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            return Err(Error::new("Could not read the PKCS#8 file. Maybe the file is not encrypted."));
        }
        Some(pin) => PKey::private_key_from_pem_passphrase(&pem, pin.as_bytes()).map_err(|_| {
            Error::new("Could not decrypt the PKCS#8 file. Maybe wrong PIN to file (--file-pin <PIN>)")
        })?,
        None if !contains(&pem, b"BEGIN PRIVATE KEY") => {
            return Err(Error::new(
                "Could not read the PKCS#8 file. Maybe it is encypted (--file-pin <PIN>)",
            ));
        }
        None => PKey::private_key_from_pem(&pem).map_err(|_| Error::new("Could not convert the key."))?,
    };
    let failed = |_| Error::new("Could not convert the key material to binary information.");
    match key.id() {
        Id::RSA => key.rsa().and_then(|key| rsa(&key)).map_err(failed),
        Id::DSA => key.dsa().and_then(|key| dsa(&key)).map_err(failed),
        Id::EC => key.ec_key().and_then(|key| ec(&key)).map_err(failed),
        Id::ED25519 => raw(&key, CKK_EC_EDWARDS, "ED25519").map_err(failed),
        Id::ED448 => raw(&key, CKK_EC_EDWARDS, "ED448").map_err(failed),
        Id::X25519 => raw(&key, CKK_EC_MONTGOMERY, "X25519").map_err(failed),
        Id::X448 => raw(&key, CKK_EC_MONTGOMERY, "X448").map_err(failed),
        _ => Err(Error::new("Cannot handle this algorithm.")),
    }
}

/// A file's bytes, as many as a key may have.
pub fn read_bytes(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // More room than is ever read, so that it is never reallocated.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES + 64));
    File::open(path)?.take(MAX_FILE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl KeyPair {
    /// A pair with the usages that keys of this type have: both sign; RSA keys encrypt and wrap, too.
    fn new(key_type: CK_KEY_TYPE, shared: &Attributes) -> Self {
        let encrypts = key_type == CKK_RSA;
        let signs = key_type != CKK_EC_MONTGOMERY;
        let both = shared.clone().with_ulong(CKA_KEY_TYPE, key_type);
        let public = both
            .clone()
            .with_ulong(CKA_CLASS, CKO_PUBLIC_KEY)
            .with_bool(CKA_VERIFY, signs)
            .with_bool(CKA_ENCRYPT, encrypts)
            .with_bool(CKA_WRAP, encrypts);
        let private = both
            .with_ulong(CKA_CLASS, CKO_PRIVATE_KEY)
            .with_bool(CKA_SIGN, signs)
            .with_bool(CKA_DECRYPT, encrypts)
            .with_bool(CKA_UNWRAP, encrypts)
            .with_bool(CKA_SENSITIVE, true)
            .with_bool(CKA_PRIVATE, true)
            .with_bool(CKA_EXTRACTABLE, false);
        Self { public, private }
    }
}

fn rsa(key: &Rsa<Private>) -> Result<KeyPair, ErrorStack> {
    let shared =
        Attributes::new().with(CKA_MODULUS, key.n().to_vec()).with(CKA_PUBLIC_EXPONENT, key.e().to_vec());
    let mut pair = KeyPair::new(CKK_RSA, &shared);
    set(&mut pair.private, CKA_PRIVATE_EXPONENT, Some(key.d()));
    set(&mut pair.private, CKA_PRIME_1, key.p());
    set(&mut pair.private, CKA_PRIME_2, key.q());
    set(&mut pair.private, CKA_EXPONENT_1, key.dmp1());
    set(&mut pair.private, CKA_EXPONENT_2, key.dmq1());
    set(&mut pair.private, CKA_COEFFICIENT, key.iqmp());
    Ok(pair)
}

fn dsa(key: &Dsa<Private>) -> Result<KeyPair, ErrorStack> {
    let shared = Attributes::new()
        .with(CKA_PRIME, key.p().to_vec())
        .with(CKA_SUBPRIME, key.q().to_vec())
        .with(CKA_BASE, key.g().to_vec());
    let mut pair = KeyPair::new(CKK_DSA, &shared);
    pair.public.set(CKA_VALUE, key.pub_key().to_vec());
    set(&mut pair.private, CKA_VALUE, Some(key.priv_key()));
    Ok(pair)
}

fn ec(key: &EcKey<Private>) -> Result<KeyPair, ErrorStack> {
    let curve = key.group().curve_name().unwrap_or(Nid::UNDEF);
    let mut pair =
        KeyPair::new(CKK_EC, &Attributes::new().with(CKA_EC_PARAMS, object_identifier(curve.short_name()?)?));
    let mut context = BigNumContext::new()?;
    let point = key.public_key().to_bytes(key.group(), PointConversionForm::UNCOMPRESSED, &mut context)?;
    pair.public.set(CKA_EC_POINT, octet_string(&point));
    set(&mut pair.private, CKA_VALUE, Some(key.private_key()));
    Ok(pair)
}

fn raw(key: &PKey<Private>, key_type: CK_KEY_TYPE, curve: &str) -> Result<KeyPair, ErrorStack> {
    let mut pair = KeyPair::new(key_type, &Attributes::new().with(CKA_EC_PARAMS, object_identifier(curve)?));
    pair.public.set(CKA_EC_POINT, key.raw_public_key()?);
    let value = Zeroizing::new(key.raw_private_key()?);
    pair.private.set(CKA_VALUE, value.as_slice());
    Ok(pair)
}

fn set(attributes: &mut Attributes, kind: CK_ATTRIBUTE_TYPE, number: Option<&BigNumRef>) {
    if let Some(number) = number {
        attributes.set(kind, number.to_vec());
    }
}

/// The DER of an OBJECT IDENTIFIER. Those of curves are short.
fn object_identifier(name: &str) -> Result<Vec<u8>, ErrorStack> {
    let content = Asn1Object::from_str(name)?;
    let content = content.as_slice();
    Ok([&[0x06, content.len() as u8], content].concat())
}

/// The DER of an OCTET STRING. Points have less than 256 bytes.
fn octet_string(point: &[u8]) -> Vec<u8> {
    let long_form: &[u8] = if point.len() < 0x80 { &[] } else { &[0x81] };
    [&[0x04], long_form, &[point.len() as u8], point].concat()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

const MAX_FILE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_and_points_are_der() {
        assert_eq!(
            object_identifier("prime256v1").expect("known"),
            [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]
        );
        assert_eq!(object_identifier("ED25519").expect("known"), [6, 3, 0x2b, 0x65, 0x70]);
        assert_eq!(octet_string(&[7; 65])[..3], [4, 65, 7]);
        assert_eq!(octet_string(&[7; 133])[..4], [4, 0x81, 133, 7]);
    }
}
