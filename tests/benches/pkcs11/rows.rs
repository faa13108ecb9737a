//! What is measured on each module.

use cryptoki_sys::*;
use integration_tests::arguments::{FALSE, Mechanism, Outcome, TRUE, Template, ulong};

use super::module::Session;
use super::token::USER_PIN;

/// A row of the table.
pub struct Row {
    pub name: &'static str,
    /// The bytes that a call and its answer carry, about.
    pub payload: usize,
    /// May several threads do it at once?
    pub shared: bool,
    /// Makes the keys; an error means that the module does not offer it.
    pub prepare: fn(&mut Session) -> Outcome<Operation>,
}

/// One operation, and what is to be undone before the next, which is not timed.
pub type Operation = Box<dyn Fn(&mut Session) -> Outcome<After> + Sync>;

pub enum After {
    Nothing,
    Destroy(CK_OBJECT_HANDLE),
    Logout,
}

pub const LARGEST: usize = 1 << 20;

const fn row(name: &'static str, prepare: fn(&mut Session) -> Outcome<Operation>) -> Row {
    Row { name, payload: SMALL, shared: true, prepare }
}

pub const ROWS: &[Row] = &[
    row("session open, close", |session| {
        let slot = session.slot();
        operation(move |session| {
            session.module().open_session(slot)?.close()?;
            Ok(After::Nothing)
        })
    }),
    row("random 32 B", |_| plain(|session| session.random(&mut [0; 32]))),
    row("SHA-256 64 B", |_| plain(|session| session.digest(Mechanism::plain(CKM_SHA256), &[7; 64]))),
    row("HMAC-SHA-256 64 B", |session| {
        let (class, kind) = (ulong(CKO_SECRET_KEY), ulong(CKK_GENERIC_SECRET));
        let (own, value) = ([(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind)], [(CKA_VALUE, &[5; 32][..])]);
        let key = session.create(&[&own[..], &value, &[PRIVATE, (CKA_SIGN, TRUE)]].concat())?;
        plain(move |session| session.sign(Mechanism::plain(CKM_SHA256_HMAC), key, &[7; 64]).map(drop))
    }),
    row("AES-GCM 32 B", |session| gcm::<32>(session)),
    Row { payload: 4096, ..row("AES-GCM 4 KiB", |session| gcm::<4096>(session)) },
    Row { payload: LARGEST, ..row("AES-GCM 1 MiB", |session| gcm::<LARGEST>(session)) },
    Row {
        payload: 4096,
        ..row("AES-CBC-PAD 4 KiB", |session| {
            let (key, data) = (aes_key(session)?, vec![7; 4096]);
            plain(move |session| session.encrypt(Mechanism::bytes(CKM_AES_CBC_PAD, &[1; 16]), key, &data))
        })
    },
    row("AES key wrap 32 B", |session| {
        let key = aes_key(session)?;
        plain(move |session| session.wrap(Mechanism::plain(CKM_AES_KEY_WRAP), key, key))
    }),
    row("RSA-2048 sign", |session| sign(rsa_keys(session)?, CKM_SHA256_RSA_PKCS)),
    row("RSA-2048 verify", |session| verify(session, rsa_keys, CKM_SHA256_RSA_PKCS)),
    row("ECDSA P-256 sign", |session| sign(p256_keys(session)?, CKM_ECDSA)),
    row("ECDSA P-256 verify", |session| verify(session, p256_keys, CKM_ECDSA)),
    row("Ed25519 sign", |session| sign(ed25519_keys(session)?, CKM_EDDSA)),
    row("Ed25519 verify", |session| verify(session, ed25519_keys, CKM_EDDSA)),
    row("ECDH P-256", |session| {
        let (_, private) = p256_keys(session)?;
        operation(move |session| {
            let parameters = CK_ECDH1_DERIVE_PARAMS {
                kdf: CKD_NULL,
                ulSharedDataLen: 0,
                pSharedData: std::ptr::null_mut(),
                ulPublicDataLen: P256_POINT.len() as CK_ULONG,
                pPublicData: P256_POINT.as_ptr().cast_mut(),
            };
            let (class, kind, len) = (ulong(CKO_SECRET_KEY), ulong(CKK_GENERIC_SECRET), ulong(32));
            let template: Template<'_> =
                &[(CKA_CLASS, &class), (CKA_KEY_TYPE, &kind), (CKA_VALUE_LEN, &len), (CKA_TOKEN, FALSE)];
            let mechanism = Mechanism::with(CKM_ECDH1_DERIVE, &parameters);
            session.derive(mechanism, private, template).map(After::Destroy)
        })
    }),
    row("AES-256 generate", |_| operation(|session| aes_key(session).map(After::Destroy))),
    row("P-256 generate", |_| operation(|session| without_public(session, p256_keys))),
    row(RSA_GENERATE, |_| operation(|session| without_public(session, rsa_keys))),
    row(CREATE, |_| {
        operation(|session| {
            let (class, kind) = (ulong(CKO_SECRET_KEY), ulong(CKK_AES));
            let own = [(CKA_CLASS, &class[..]), (CKA_KEY_TYPE, &kind), (CKA_VALUE, &[5; 32])];
            let token = [PRIVATE, (CKA_TOKEN, TRUE), (CKA_LABEL, b"made"), (CKA_ID, b"made")];
            session.create(&[&own[..], &token].concat()).map(After::Destroy)
        })
    }),
    // The last one: a logout ends all private session objects.
    Row {
        shared: false,
        ..row("login", |session| {
            session.logout()?;
            operation(|session| session.login(CKU_USER, USER_PIN).map(|()| After::Logout))
        })
    },
];

fn operation(operation: impl Fn(&mut Session) -> Outcome<After> + Sync + 'static) -> Outcome<Operation> {
    Ok(Box::new(operation))
}

fn plain(step: impl Fn(&mut Session) -> Outcome<()> + Sync + 'static) -> Outcome<Operation> {
    operation(move |session| step(session).map(|()| After::Nothing))
}

fn gcm<const LEN: usize>(session: &mut Session) -> Outcome<Operation> {
    let (key, data) = (aes_key(session)?, vec![7; LEN]);
    plain(move |session| {
        let mut iv = [1; 12];
        let parameters = CK_GCM_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: 12,
            ulIvBits: 96,
            pAAD: std::ptr::null_mut(),
            ulAADLen: 0,
            ulTagBits: 128,
        };
        session.encrypt(Mechanism::with(CKM_AES_GCM, &parameters), key, &data)
    })
}

type Keys = (CK_OBJECT_HANDLE, CK_OBJECT_HANDLE);

fn sign((_, private): Keys, kind: CK_MECHANISM_TYPE) -> Outcome<Operation> {
    plain(move |session| session.sign(Mechanism::plain(kind), private, &[7; 32]).map(drop))
}

fn verify(
    session: &mut Session,
    keys: fn(&Session) -> Outcome<Keys>,
    kind: CK_MECHANISM_TYPE,
) -> Outcome<Operation> {
    let (public, private) = keys(session)?;
    let signature = session.sign(Mechanism::plain(kind), private, &[7; 32])?.to_vec();
    plain(move |session| session.verify(Mechanism::plain(kind), public, &[7; 32], &signature))
}

/// The private key of a new pair is left to be destroyed.
fn without_public(session: &Session, keys: fn(&Session) -> Outcome<Keys>) -> Outcome<After> {
    let (public, private) = keys(session)?;
    session.destroy(public)?;
    Ok(After::Destroy(private))
}

fn aes_key(session: &Session) -> Outcome<CK_OBJECT_HANDLE> {
    let len = ulong(32);
    let own = [(CKA_VALUE_LEN, &len[..]), (CKA_EXTRACTABLE, TRUE), (CKA_ENCRYPT, TRUE), (CKA_WRAP, TRUE)];
    session.generate_key(Mechanism::plain(CKM_AES_KEY_GEN), &[&own[..], &[PRIVATE]].concat())
}

fn rsa_keys(session: &Session) -> Outcome<Keys> {
    let bits = ulong(2048);
    let public = [(CKA_MODULUS_BITS, &bits[..]), (CKA_PUBLIC_EXPONENT, &[1, 0, 1]), (CKA_VERIFY, TRUE)];
    session.generate_key_pair(Mechanism::plain(CKM_RSA_PKCS_KEY_PAIR_GEN), &public, &SIGNING)
}

fn p256_keys(session: &Session) -> Outcome<Keys> {
    let private = [SIGNING[0], SIGNING[1], (CKA_DERIVE, TRUE)];
    session.generate_key_pair(
        Mechanism::plain(CKM_EC_KEY_PAIR_GEN),
        &[(CKA_EC_PARAMS, P256), (CKA_VERIFY, TRUE)],
        &private,
    )
}

fn ed25519_keys(session: &Session) -> Outcome<Keys> {
    session.generate_key_pair(
        Mechanism::plain(CKM_EC_EDWARDS_KEY_PAIR_GEN),
        &[(CKA_EC_PARAMS, ED25519), (CKA_VERIFY, TRUE)],
        &SIGNING,
    )
}

pub const RSA_GENERATE: &str = "RSA-2048 generate";
pub const CREATE: &str = "token object create";
const SMALL: usize = 64;
const PRIVATE: (CK_ATTRIBUTE_TYPE, &[u8]) = (CKA_PRIVATE, TRUE);
const SIGNING: [(CK_ATTRIBUTE_TYPE, &[u8]); 2] = [PRIVATE, (CKA_SIGN, TRUE)];
/// The object identifiers of the curves (RFC 5480, RFC 8410).
pub const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// The base point of P-256, which is the public key of 1 (FIPS 186-4 section D.1.2.3).
pub const P256_POINT: [u8; 65] = [
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f,
    0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce,
    0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];
