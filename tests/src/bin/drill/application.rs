//! A PKCS #11 application with the library in it, as a process of its own: the environment names the regions.
//!
//! It prints a line for each operation, and ends with its input.

use std::io::{Read, stdin};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, Result, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use hsm_emulator::units::vendor::CKR_IBM_WKID_MISMATCH;
use parking_lot::{Mutex, RwLock};

use crate::dice::Dice;

/// What it prints first.
pub const READY: &str = "ready";
/// A signature in one part was made; with the microseconds that it took, as with the next one.
pub const SIGNED: &str = "signed";
/// An operation of several parts was done.
pub const PARTS: &str = "parts";
/// An operation has failed, and is begun again; with the reason.
pub const AGAIN: &str = "again";
/// It was not done within the deadline; with the microseconds since it began, and the reason.
pub const FAILED: &str = "failed";
/// Something came out that does not verify, or not the right bytes.
pub const WRONG: &str = "wrong";

struct Application {
    pkcs11: Pkcs11,
    slot: Slot,
    /// All threads have the login that comes with it.
    session: Mutex<Session>,
    public: UnparsedPublicKey<Vec<u8>>,
    keys: RwLock<Keys>,
    stopped: AtomicBool,
}

/// As the login has found them.
#[derive(Clone, Copy)]
struct Keys {
    login: u64,
    private: ObjectHandle,
    secret: ObjectHandle,
}

/// Until the input ends.
pub fn run() -> ExitCode {
    match start() {
        Ok(application) => {
            println!("{READY}");
            scope(|threads| {
                for thread in 0..SIGNERS {
                    let application = &application;
                    threads.spawn(move || application.work(SIGNED, Dice::new(thread), Application::sign));
                }
                for thread in 0..LONG_OPERATIONS {
                    let application = &application;
                    threads
                        .spawn(move || application.work(PARTS, Dice::new(thread), Application::sign_parts));
                    threads.spawn(move || {
                        application.work(PARTS, Dice::new(thread), Application::encrypt_parts)
                    });
                }
                stdin().read_to_end(&mut Vec::new()).ok();
                application.stopped.store(true, Ordering::Relaxed);
            });
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// With a new token and its keys.
fn start() -> std::result::Result<Application, String> {
    let library = std::env::current_exe().map_err(|error| error.to_string())?;
    let library = library.with_file_name("libhsm_pkcs11.so");
    let pkcs11 = Pkcs11::new(library).map_err(|error| format!("{error}; build it first"))?;
    let begin = || {
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let slot = pkcs11.get_all_slots()?[0];
        pkcs11.init_token(slot, &AuthPin::new(SO_PIN.into()), "drill")?;
        let session = pkcs11.open_rw_session(slot)?;
        session.login(UserType::So, Some(&AuthPin::new(SO_PIN.into())))?;
        session.init_pin(&AuthPin::new(PIN.into()))?;
        session.logout()?;
        let private = [Attribute::Token(true), Attribute::Label(PRIVATE.into())];
        let public = [Attribute::Token(true), Attribute::EcParams(P256.to_vec())];
        session.login(UserType::User, Some(&AuthPin::new(PIN.into())))?;
        let (public, _) = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        let point = session.get_attributes(public, &[AttributeType::EcPoint])?;
        session.create_object(&[
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(SECRET.into()),
            Attribute::Encrypt(true),
            Attribute::Value(SECRET_VALUE.to_vec()),
        ])?;
        Result::Ok((slot, log_in(&session, 0)?, session, point))
    };
    let (slot, keys, session, point) = begin().map_err(|error| error.to_string())?;
    let Some(Attribute::EcPoint(point)) = point.into_iter().next() else {
        return Err("the public key has no point".to_owned());
    };
    // An octet string with a length of one byte.
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point[2..].to_vec());
    let (session, keys, stopped) = (Mutex::new(session), RwLock::new(keys), AtomicBool::new(false));
    Ok(Application { pkcs11, slot, session, public, keys, stopped })
}

/// Instead of the login that there is.
fn log_in(session: &Session, login: u64) -> Result<Keys> {
    session.logout().ok();
    session.login(UserType::User, Some(&AuthPin::new(PIN.into())))?;
    let find = |label: &str| {
        let found = session.find_objects(&[Attribute::Label(label.into())])?;
        found.first().copied().ok_or(Error::NotSupported)
    };
    Ok(Keys { login, private: find(PRIVATE)?, secret: find(SECRET)? })
}

type Operation = fn(&Application, &Session, Keys, &[u8]) -> Result<bool>;

impl Application {
    fn work(&self, kind: &str, mut dice: Dice, operation: Operation) {
        let mut session = None;
        while !self.stopped.load(Ordering::Relaxed) {
            let data: Vec<u8> = (0..DATA_BLOCKS).flat_map(|_| dice.bytes()).collect();
            let begun = Instant::now();
            let outcome = loop {
                match self.attempt(&mut session, operation, &data) {
                    Err(error) if begun.elapsed() < DEADLINE => println!("{AGAIN} {error}"),
                    outcome => break outcome,
                }
                sleep(PAUSE);
            };
            let micros = begun.elapsed().as_micros();
            match outcome {
                Ok(true) => println!("{kind} {micros}"),
                Ok(false) => println!("{WRONG} {kind}"),
                Err(error) => println!("{FAILED} {micros} {error}"),
            }
            sleep(PAUSE);
        }
    }

    /// A session in which an operation has failed is closed.
    fn attempt(&self, session: &mut Option<Session>, operation: Operation, data: &[u8]) -> Result<bool> {
        let open = match session.take() {
            Some(open) => open,
            None => self.pkcs11.open_ro_session(self.slot)?,
        };
        let keys = self.keys.read();
        let outcome = operation(self, &open, *keys, data);
        let login = keys.login;
        drop(keys);
        if matches!(outcome, Err(Error::Pkcs11(RvError::VendorDefined(CKR_IBM_WKID_MISMATCH), _))) {
            // The master key was rotated: logins, and the handles that came with them, end with the old one.
            let mut keys = self.keys.write();
            if keys.login == login {
                *keys = log_in(&self.session.lock(), login + 1)?;
            }
        }
        let right = outcome?;
        *session = Some(open);
        Ok(right)
    }

    fn sign(&self, session: &Session, keys: Keys, data: &[u8]) -> Result<bool> {
        let signature = session.sign(&Mechanism::EcdsaSha256, keys.private, data)?;
        Ok(self.public.verify(data, &signature).is_ok())
    }

    fn sign_parts(&self, session: &Session, keys: Keys, data: &[u8]) -> Result<bool> {
        session.sign_init(&Mechanism::EcdsaSha256, keys.private)?;
        for part in data.chunks(PART_BYTES) {
            session.sign_update(part)?;
            sleep(BETWEEN_PARTS);
        }
        let signature = session.sign_final()?;
        Ok(self.public.verify(data, &signature).is_ok())
    }

    fn encrypt_parts(&self, session: &Session, keys: Keys, data: &[u8]) -> Result<bool> {
        let (iv, data) = data.split_at(16);
        let iv: [u8; 16] = iv.try_into().unwrap_or_default();
        session.encrypt_init(&Mechanism::AesCbcPad(iv), keys.secret)?;
        let mut encrypted = Vec::new();
        for part in data.chunks(PART_BYTES) {
            encrypted.extend(session.encrypt_update(part)?);
            sleep(BETWEEN_PARTS);
        }
        encrypted.extend(session.encrypt_final()?);
        let mut expected = data.to_vec();
        let known = UnboundCipherKey::new(&AES_256, &SECRET_VALUE)
            .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
            .and_then(|key| {
                key.less_safe_encrypt(&mut expected, EncryptionContext::Iv128(FixedLength::from(iv)))
            });
        Ok(known.is_ok() && encrypted == expected)
    }
}

/// Threads that sign in one part.
const SIGNERS: u64 = 2;
/// Threads that sign in parts, and as many that encrypt in parts.
const LONG_OPERATIONS: u64 = 4;
const SO_PIN: &str = "12345678";
const PIN: &str = "1234";
/// Labels of the keys.
const PRIVATE: &str = "signs";
const SECRET: &str = "encrypts";
/// DER of the object identifier of P-256.
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// Known outside too, so that what is encrypted under it can be compared.
const SECRET_VALUE: [u8; 32] = [0x5a; 32];
/// Of 32 bytes.
const DATA_BLOCKS: usize = 40;
const PART_BYTES: usize = 250;
/// For an operation with all its attempts.
const DEADLINE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);
const BETWEEN_PARTS: Duration = Duration::from_millis(15);
