//! X.509 certificates in PEM, as the attributes of a PKCS #11 object.

use std::path::Path;

use cryptoki_sys::*;
use hsm_emulator::units::Attributes;
use openssl::x509::X509;

use crate::error::Error;
use crate::key_file::read_bytes;

/// Reads the certificate of a file: the first one, if there are more.
pub fn read(path: &Path) -> Result<Attributes, Error> {
    let pem = read_bytes(path).map_err(|error| {
        Error::new(format!("Could not open the certificate file: {} ({error})", path.display()))
    })?;
    let certificate = X509::from_pem(&pem)
        .map_err(|_| Error::new("Could not read the certificate file: it is no X.509 in PEM."))?;
    describe(&certificate).map_err(|_| Error::new("Could not convert the certificate to binary information."))
}

fn describe(certificate: &X509) -> Result<Attributes, openssl::error::ErrorStack> {
    let serial = certificate.serial_number().to_bn()?;
    Ok(Attributes::new()
        .with_ulong(CKA_CLASS, CKO_CERTIFICATE)
        .with_ulong(CKA_CERTIFICATE_TYPE, CKC_X_509)
        .with_bool(CKA_PRIVATE, false)
        .with(CKA_SUBJECT, certificate.subject_name().to_der()?)
        .with(CKA_ISSUER, certificate.issuer_name().to_der()?)
        .with(CKA_SERIAL_NUMBER, integer(&serial.to_vec()))
        .with(CKA_VALUE, certificate.to_der()?))
}

/// The DER of a positive INTEGER. RFC 5280 gives a serial number 20 bytes; one that is longer than a short length can
/// say is left empty, as the standard's default is.
fn integer(magnitude: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if magnitude.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    match u8::try_from(sign.len() + magnitude.len()) {
        Ok(len @ ..0x80) => [&[0x02, len], sign, magnitude].concat(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::integer;

    #[test]
    fn integers_are_der() {
        assert_eq!(integer(&[]), [2, 1, 0]);
        assert_eq!(integer(&[0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80, 1]), [2, 3, 0, 0x80, 1]);
        assert!(integer(&[1; 128]).is_empty());
    }
}
