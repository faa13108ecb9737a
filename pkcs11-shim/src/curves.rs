//! Elliptic curves by the `CKA_EC_PARAMS` of their keys.

use cryptoki_sys::CKA_EC_PARAMS;
use hsm_emulator::units::Attributes;

/// Bytes of the order of a key's curve, which is half a signature; `None` for an unknown curve.
pub fn order_bytes(key: &Attributes) -> Option<usize> {
    let params = key.get(CKA_EC_PARAMS)?;
    CURVES.iter().find(|(oid, _)| *oid == params).map(|(_, bytes)| *bytes)
}

/// DER of the object identifier, bytes of the order.
const CURVES: [(&[u8], usize); 5] = [
    (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 32),
    (b"\x06\x05\x2b\x81\x04\x00\x22", 48),
    (b"\x06\x05\x2b\x81\x04\x00\x23", LARGEST_ORDER_BYTES),
    (b"\x06\x05\x2b\x81\x04\x00\x0a", 32),
    (b"\x06\x05\x2b\x81\x04\x00\x21", 28),
];

/// P-521's.
pub const LARGEST_ORDER_BYTES: usize = 66;
