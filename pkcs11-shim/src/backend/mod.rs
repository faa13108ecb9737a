//! What the library needs of an HSM. Two implementations: in this process, or over gRPC.
//!
//! Every cryptographic call is complete in itself (GREP11's `*Single`): multi-part operations are put
//! together above this trait, so a call can go to any unit that holds the master key.

use hsm_emulator::units::{Attributes, KeyBlob, Result, mechanism::Mechanism};
use zeroize::Zeroizing;

use crate::config::Config;

/// Opens the backend that the configuration names.
///
/// # Errors
/// `CKR_DEVICE_ERROR` and others, if it can't be opened or reached.
pub fn open(config: &Config) -> Result<Box<dyn Backend>> {
    Ok(match config {
        Config::Embedded { state } => Box::new(embedded::EmbeddedBackend::open(state)?),
        Config::Remote { endpoints, api_key, tls } => {
            Box::new(remote::RemoteBackend::new(endpoints, api_key, tls)?)
        }
    })
}

/// An HSM. All methods may be called from any thread at once.
pub trait Backend: Send + Sync {
    /// Fills `out` with random bytes.
    fn random(&self, out: &mut [u8]) -> Result<()>;

    /// `C_GenerateKey`: a secret key (or domain parameters). The template may be silent where the standard has defaults.
    fn generate_key(&self, mechanism: &Mechanism, template: &Attributes) -> Result<KeyBlob>;

    /// `C_GenerateKeyPair`: (public, private).
    fn generate_key_pair(
        &self,
        mechanism: &Mechanism,
        public: &Attributes,
        private: &Attributes,
    ) -> Result<(KeyBlob, KeyBlob)>;

    /// `C_CreateObject`: any class. Templates are checked and completed in the unit.
    fn create_object(&self, template: &Attributes) -> Result<KeyBlob>;

    /// `C_SetAttributeValue`, and `C_CopyObject` if `copy`: the object with changed attributes.
    fn change_object(&self, object: &KeyBlob, changes: &Attributes, copy: bool) -> Result<KeyBlob>;

    /// The value of an attribute that the blob does not show in clear (`CKA_VALUE` of an extractable key,
    /// of a data object, a private exponent, ...).
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_SENSITIVE` or `CKR_ATTRIBUTE_TYPE_INVALID`.
    fn sealed_attribute(&self, object: &KeyBlob, kind: u64) -> Result<Zeroizing<Vec<u8>>>;

    /// Single-part encryption with a secret or public key.
    fn encrypt(&self, mechanism: &Mechanism, key: &KeyBlob, plaintext: &[u8]) -> Result<Vec<u8>>;

    /// Single-part decryption.
    fn decrypt(&self, mechanism: &Mechanism, key: &KeyBlob, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>>;

    /// Single-part signature or MAC.
    fn sign(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8]) -> Result<Vec<u8>>;

    /// Single-part verification.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID`, `CKR_SIGNATURE_LEN_RANGE`.
    fn verify(&self, mechanism: &Mechanism, key: &KeyBlob, data: &[u8], signature: &[u8]) -> Result<()>;

    /// `C_WrapKey`.
    fn wrap_key(&self, mechanism: &Mechanism, wrapping_key: &KeyBlob, key: &KeyBlob) -> Result<Vec<u8>>;

    /// `C_UnwrapKey`.
    fn unwrap_key(
        &self,
        mechanism: &Mechanism,
        unwrapping_key: &KeyBlob,
        wrapped: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob>;

    /// `C_DeriveKey`.
    fn derive_key(&self, mechanism: &Mechanism, base: &KeyBlob, template: &Attributes) -> Result<KeyBlob>;

    /// `C_EncapsulateKey` with a public key: (what the private key's owner needs, new secret key).
    fn encapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        template: &Attributes,
    ) -> Result<(Vec<u8>, KeyBlob)>;

    /// `C_DecapsulateKey`.
    fn decapsulate_key(
        &self,
        mechanism: &Mechanism,
        key: &KeyBlob,
        encapsulated: &[u8],
        template: &Attributes,
    ) -> Result<KeyBlob>;

    /// The tokens, in the order of their creation.
    fn tokens(&self) -> Result<Vec<Token>>;

    /// Makes a new token, or erases and renames the one with this serial number (which needs its SO PIN).
    fn init_token(&self, serial: Option<&str>, so_pin: &[u8], label: &str) -> Result<Token>;

    /// Checks a PIN. The grant opens the token's private objects (user) or `init_pin` (SO).
    ///
    /// # Errors
    /// `CKR_PIN_INCORRECT`, `CKR_PIN_LOCKED`, `CKR_USER_PIN_NOT_INITIALIZED`.
    fn login(&self, serial: &str, user: User, pin: &[u8]) -> Result<Grant>;

    /// `C_InitPIN`, with the SO's grant.
    fn init_pin(&self, grant: &Grant, pin: &[u8]) -> Result<()>;

    /// The object with `CKA_TRUSTED`, with the SO's grant.
    fn trust_object(&self, grant: &Grant, object: &KeyBlob) -> Result<KeyBlob>;

    /// `C_SetPIN`.
    fn set_pin(&self, serial: &str, user: User, old: &[u8], new: &[u8]) -> Result<()>;

    /// Stores token objects durably, all or none: the keystore's revision since then. Several ones must be new.
    ///
    /// # Errors
    /// `CKR_OBJECT_HANDLE_INVALID` if what is stored is not `replaces`, or a new object's id is taken.
    fn put_objects(&self, serial: &str, grant: Option<&Grant>, objects: &[Put<'_>]) -> Result<u64>;

    /// Called before `fork`: lets go of what a child must not inherit open. The parent drops the answer after
    /// the fork, and goes on; the child never touches it.
    fn before_fork(&self) -> Box<dyn std::any::Any> {
        Box::new(())
    }

    /// Destroys a token object durably: the keystore's revision since then.
    fn delete_object(&self, serial: &str, grant: Option<&Grant>, id: ObjectId) -> Result<u64>;

    /// What changed among the token's objects after revision `since` (0: everything). Private objects only
    /// with the user's grant. Cheap when nothing changed.
    fn changes(&self, serial: &str, grant: Option<&Grant>, since: u64) -> Result<Changes>;
}

pub use hsm_emulator::services::tokens::{Changes, Grant, ObjectId, Put, Token, User};

pub mod embedded;
pub mod remote;
