//! Elliptic curves by the `CKA_EC_PARAMS` of their keys.

use cryptoki_sys::CKA_EC_PARAMS;
use hsm_emulator::units::Attributes;
use openssl::nid::Nid;

/// A curve that keys may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curve {
    /// Weierstrass or Edwards.
    pub form: Form,
    /// Bytes of half a signature.
    pub order_bytes: usize,
}

/// The form of a curve's equation, which decides the signature scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For ECDSA.
    Weierstrass(Nid),
    /// For EdDSA.
    Ed25519,
    /// For EdDSA.
    Ed448,
}

impl Curve {
    /// The curve of a key.
    pub fn of(key: &Attributes) -> Option<Self> {
        let params = key.get(CKA_EC_PARAMS)?;
        CURVES.iter().find(|(der, _)| *der == params).map(|(_, curve)| *curve)
    }
}

const fn weierstrass(nid: Nid, order_bytes: usize) -> Curve {
    Curve { form: Form::Weierstrass(nid), order_bytes }
}

const ED25519: Curve = Curve { form: Form::Ed25519, order_bytes: 32 };
const ED448: Curve = Curve { form: Form::Ed448, order_bytes: 57 };

/// DER of the object identifier, or a PrintableString with the curve's name (PKCS #11 3.0, Edwards curves).
static CURVES: [(&[u8], Curve); 13] = [
    (b"\x06\x05\x2b\x81\x04\x00\x21", weierstrass(Nid::SECP224R1, 28)),
    (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", weierstrass(Nid::X9_62_PRIME256V1, 32)),
    (b"\x06\x05\x2b\x81\x04\x00\x22", weierstrass(Nid::SECP384R1, 48)),
    (b"\x06\x05\x2b\x81\x04\x00\x23", weierstrass(Nid::SECP521R1, 66)),
    (b"\x06\x05\x2b\x81\x04\x00\x0a", weierstrass(Nid::SECP256K1, 32)),
    (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x01", weierstrass(Nid::X9_62_PRIME192V1, 24)),
    (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x07", weierstrass(Nid::BRAINPOOL_P256R1, 32)),
    (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0b", weierstrass(Nid::BRAINPOOL_P384R1, 48)),
    (b"\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01\x0d", weierstrass(Nid::BRAINPOOL_P512R1, 64)),
    (b"\x06\x03\x2b\x65\x70", ED25519),
    (b"\x13\x0cedwards25519", ED25519),
    (b"\x06\x03\x2b\x65\x71", ED448),
    (b"\x13\x0aedwards448", ED448),
];
