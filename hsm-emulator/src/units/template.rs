//! What the standard's tables say about attributes: which a class has, their defaults, who may set or
//! change them, and which are sealed (PKCS #11 v3.1 section 4).

use cryptoki_sys::*;

use super::attributes::Attributes;
use super::error::{Error, Result};
use super::mechanism::secret_key;
use super::nested_template;

/// How an object comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `C_GenerateKey`, `C_GenerateKeyPair`, with the mechanism.
    Generated(CK_MECHANISM_TYPE),
    /// `C_CreateObject`.
    Created,
    /// `C_UnwrapKey`.
    Unwrapped,
    /// `C_DeriveKey`, with the base key's `CKA_ALWAYS_SENSITIVE` and `CKA_NEVER_EXTRACTABLE`.
    Derived {
        /// The base key has always been sensitive.
        always_sensitive: bool,
        /// The base key has never been extractable.
        never_extractable: bool,
    },
}

/// The shape of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Ulong,
    /// Empty, or eight characters.
    Date,
    Bytes,
    /// A template within the template.
    Template,
}

/// What a silent template means.
#[derive(Clone, Copy)]
enum Fallback {
    No,
    Yes,
    Empty,
    /// The number 0.
    Zero,
    /// Required, computed, or simply absent.
    Absent,
}

/// Who may give the value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// By any template.
    Always,
    /// Only when the value itself is given: `C_CreateObject`.
    Created,
    /// Only when the key is made by the token.
    Made,
    /// Only as false: the SO vouches for objects, by [`CryptoUnit::trust_object`](super::crypto_unit::CryptoUnit::trust_object).
    OnlyFalse,
    /// Only by the token.
    Never,
}

/// Whether `C_SetAttributeValue` may change it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Never,
    Always,
    ToTrue,
    ToFalse,
    /// Only while copying.
    Copy,
    /// Only while copying, and only to false.
    CopyToFalse,
}

/// One attribute of a class.
#[derive(Clone, Copy)]
struct Row {
    kind: CK_ATTRIBUTE_TYPE,
    shape: Kind,
    default: Fallback,
    given: Given,
    change: Change,
    sealed: bool,
}

const fn row(kind: CK_ATTRIBUTE_TYPE, shape: Kind, default: Fallback, given: Given, change: Change) -> Row {
    Row { kind, shape, default, given, change, sealed: false }
}

const fn sealed(kind: CK_ATTRIBUTE_TYPE) -> Row {
    let (shape, default, given, change) = (Kind::Bytes, Fallback::Absent, Given::Created, Change::Never);
    Row { kind, shape, default, given, change, sealed: true }
}

use Change as C;
use Fallback as F;
use Given as G;
use Kind as K;

const STORAGE: &[Row] = &[
    row(CKA_CLASS, K::Ulong, F::Absent, G::Always, C::Never),
    row(CKA_TOKEN, K::Bool, F::No, G::Always, C::Copy),
    row(CKA_PRIVATE, K::Bool, F::No, G::Always, C::Copy),
    row(CKA_MODIFIABLE, K::Bool, F::Yes, G::Always, C::CopyToFalse),
    row(CKA_COPYABLE, K::Bool, F::Yes, G::Always, C::ToFalse),
    row(CKA_DESTROYABLE, K::Bool, F::Yes, G::Always, C::Copy),
    row(CKA_LABEL, K::Bytes, F::Empty, G::Always, C::Always),
    // The library adds it: it is of the token's object, not of the sealed one.
    row(CKA_UNIQUE_ID, K::Bytes, F::Absent, G::Never, C::Never),
];

const DATA: &[Row] = &[
    row(CKA_APPLICATION, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_OBJECT_ID, K::Bytes, F::Empty, G::Always, C::Always),
    // HKDF makes the value itself.
    Row { default: F::Empty, change: C::Always, ..sealed(CKA_VALUE) },
];

const CERTIFICATE: &[Row] = &[
    row(CKA_CERTIFICATE_TYPE, K::Ulong, F::Absent, G::Always, C::Never),
    row(CKA_TRUSTED, K::Bool, F::No, G::OnlyFalse, C::ToFalse),
    row(CKA_CERTIFICATE_CATEGORY, K::Ulong, F::Zero, G::Always, C::Never),
    row(CKA_JAVA_MIDP_SECURITY_DOMAIN, K::Ulong, F::Zero, G::Always, C::Never),
    row(CKA_CHECK_VALUE, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_START_DATE, K::Date, F::Empty, G::Always, C::Always),
    row(CKA_END_DATE, K::Date, F::Empty, G::Always, C::Always),
    row(CKA_PUBLIC_KEY_INFO, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_SUBJECT, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_ID, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_ISSUER, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_SERIAL_NUMBER, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_VALUE, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_URL, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_HASH_OF_SUBJECT_PUBLIC_KEY, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_HASH_OF_ISSUER_PUBLIC_KEY, K::Bytes, F::Empty, G::Always, C::Never),
    row(CKA_NAME_HASH_ALGORITHM, K::Ulong, F::Absent, G::Always, C::Never),
];

const KEY: &[Row] = &[
    row(CKA_KEY_TYPE, K::Ulong, F::Absent, G::Always, C::Never),
    row(CKA_ID, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_START_DATE, K::Date, F::Empty, G::Always, C::Always),
    row(CKA_END_DATE, K::Date, F::Empty, G::Always, C::Always),
    row(CKA_DERIVE, K::Bool, F::No, G::Always, C::Always),
    row(CKA_LOCAL, K::Bool, F::Absent, G::Never, C::Never),
    row(CKA_KEY_GEN_MECHANISM, K::Ulong, F::Absent, G::Never, C::Never),
    row(CKA_ALLOWED_MECHANISMS, K::Bytes, F::Absent, G::Always, C::Never),
];

const PUBLIC_KEY: &[Row] = &[
    row(CKA_SUBJECT, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_ENCRYPT, K::Bool, F::No, G::Always, C::Always),
    row(CKA_VERIFY, K::Bool, F::No, G::Always, C::Always),
    row(CKA_VERIFY_RECOVER, K::Bool, F::No, G::Always, C::Always),
    row(CKA_WRAP, K::Bool, F::No, G::Always, C::Always),
    row(CKA_ENCAPSULATE, K::Bool, F::No, G::Always, C::Always),
    row(CKA_TRUSTED, K::Bool, F::No, G::OnlyFalse, C::ToFalse),
    row(CKA_PUBLIC_KEY_INFO, K::Bytes, F::Absent, G::Never, C::Never),
    row(CKA_WRAP_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
    row(CKA_ENCAPSULATE_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
];

const PROTECTED_KEY: &[Row] = &[
    row(CKA_SENSITIVE, K::Bool, F::Yes, G::Always, C::ToTrue),
    row(CKA_EXTRACTABLE, K::Bool, F::No, G::Always, C::ToFalse),
    row(CKA_ALWAYS_SENSITIVE, K::Bool, F::Absent, G::Never, C::Never),
    row(CKA_NEVER_EXTRACTABLE, K::Bool, F::Absent, G::Never, C::Never),
    row(CKA_DECRYPT, K::Bool, F::No, G::Always, C::Always),
    row(CKA_SIGN, K::Bool, F::No, G::Always, C::Always),
    row(CKA_UNWRAP, K::Bool, F::No, G::Always, C::Always),
    row(CKA_WRAP_WITH_TRUSTED, K::Bool, F::No, G::Always, C::ToTrue),
    row(CKA_UNWRAP_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
    row(CKA_DERIVE_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
];

const PRIVATE_KEY: &[Row] = &[
    row(CKA_SUBJECT, K::Bytes, F::Empty, G::Always, C::Always),
    row(CKA_SIGN_RECOVER, K::Bool, F::No, G::Always, C::Always),
    row(CKA_DECAPSULATE, K::Bool, F::No, G::Always, C::Always),
    row(CKA_ALWAYS_AUTHENTICATE, K::Bool, F::No, G::Always, C::Never),
    row(CKA_DECAPSULATE_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
    row(CKA_PUBLIC_KEY_INFO, K::Bytes, F::Absent, G::Never, C::Never),
];

const SECRET_KEY: &[Row] = &[
    row(CKA_ENCRYPT, K::Bool, F::No, G::Always, C::Always),
    row(CKA_VERIFY, K::Bool, F::No, G::Always, C::Always),
    row(CKA_WRAP, K::Bool, F::No, G::Always, C::Always),
    row(CKA_TRUSTED, K::Bool, F::No, G::OnlyFalse, C::ToFalse),
    row(CKA_CHECK_VALUE, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_VALUE_LEN, K::Ulong, F::Absent, G::Made, C::Never),
    row(CKA_WRAP_TEMPLATE, K::Template, F::Absent, G::Always, C::Never),
    sealed(CKA_VALUE),
];

const RSA_PUBLIC_KEY: &[Row] = &[
    row(CKA_MODULUS, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_MODULUS_BITS, K::Ulong, F::Absent, G::Made, C::Never),
    row(CKA_PUBLIC_EXPONENT, K::Bytes, F::Absent, G::Always, C::Never),
];

const RSA_PRIVATE_KEY: &[Row] = &[
    row(CKA_MODULUS, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_PUBLIC_EXPONENT, K::Bytes, F::Absent, G::Created, C::Never),
    sealed(CKA_PRIVATE_EXPONENT),
    sealed(CKA_PRIME_1),
    sealed(CKA_PRIME_2),
    sealed(CKA_EXPONENT_1),
    sealed(CKA_EXPONENT_2),
    sealed(CKA_COEFFICIENT),
];

const EC_PUBLIC_KEY: &[Row] = &[
    row(CKA_EC_PARAMS, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_EC_POINT, K::Bytes, F::Absent, G::Created, C::Never),
];

const EC_PRIVATE_KEY: &[Row] = &[
    // Tools repeat the curve in the private template of a key pair; it must then agree.
    row(CKA_EC_PARAMS, K::Bytes, F::Absent, G::Always, C::Never),
    sealed(CKA_VALUE),
];

/// ML-DSA, ML-KEM, SLH-DSA.
const POST_QUANTUM_PUBLIC_KEY: &[Row] = &[
    row(CKA_PARAMETER_SET, K::Ulong, F::Absent, G::Always, C::Never),
    row(CKA_VALUE, K::Bytes, F::Absent, G::Created, C::Never),
];

const POST_QUANTUM_PRIVATE_KEY: &[Row] =
    &[row(CKA_PARAMETER_SET, K::Ulong, F::Absent, G::Always, C::Never), sealed(CKA_SEED), sealed(CKA_VALUE)];

/// Domain parameters, which are objects of their own.
const DOMAIN: &[Row] = &[
    row(CKA_KEY_TYPE, K::Ulong, F::Absent, G::Always, C::Never),
    row(CKA_LOCAL, K::Bool, F::Absent, G::Never, C::Never),
    row(CKA_PRIME, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_BASE, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_PRIME_BITS, K::Ulong, F::Absent, G::Made, C::Never),
];

/// DSA's have these, too.
const DSA_DOMAIN: &[Row] = &[
    row(CKA_SUBPRIME, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_SUBPRIME_BITS, K::Ulong, F::Absent, G::Made, C::Never),
];

const DH_PUBLIC_KEY: &[Row] = &[
    row(CKA_PRIME, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_BASE, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_VALUE, K::Bytes, F::Absent, G::Created, C::Never),
];

const DH_PRIVATE_KEY: &[Row] = &[
    row(CKA_PRIME, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_BASE, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_VALUE_BITS, K::Ulong, F::Absent, G::Made, C::Never),
    sealed(CKA_VALUE),
];

const DSA_PUBLIC_KEY: &[Row] = &[
    row(CKA_PRIME, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_SUBPRIME, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_BASE, K::Bytes, F::Absent, G::Always, C::Never),
    row(CKA_VALUE, K::Bytes, F::Absent, G::Created, C::Never),
];

const DSA_PRIVATE_KEY: &[Row] = &[
    row(CKA_PRIME, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_SUBPRIME, K::Bytes, F::Absent, G::Created, C::Never),
    row(CKA_BASE, K::Bytes, F::Absent, G::Created, C::Never),
    sealed(CKA_VALUE),
];

/// The attributes of a kind of object.
struct Class {
    /// Ordered by type.
    rows: &'static [Row],
    class: CK_OBJECT_CLASS,
    key_type: Option<CK_KEY_TYPE>,
}

/// The rows of several tables, in one that is ordered by type.
macro_rules! rows {
    ($($table:ident),*) => {{
        const ROWS: [Row; 0 $(+ $table.len())*] = ordered(&[$($table),*]);
        &ROWS
    }};
}

const fn ordered<const N: usize>(tables: &[&[Row]]) -> [Row; N] {
    let mut rows = [STORAGE[0]; N];
    let (mut len, mut table) = (0, 0);
    while table < tables.len() {
        let mut i = 0;
        while i < tables[table].len() {
            let row = tables[table][i];
            let mut place = len;
            while place > 0 && rows[place - 1].kind > row.kind {
                rows[place] = rows[place - 1];
                place -= 1;
            }
            assert!(place == 0 || rows[place - 1].kind < row.kind, "an attribute is in two tables");
            rows[place] = row;
            len += 1;
            i += 1;
        }
        table += 1;
    }
    rows
}

impl Class {
    fn of(class: CK_OBJECT_CLASS, key_type: Option<CK_KEY_TYPE>) -> Result<Self> {
        let unknown_key = || {
            Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_KEY_TYPE is none that this class of key has here")
        };
        let rows: &'static [Row] = match (class, key_type) {
            (CKO_DATA, _) => rows!(STORAGE, DATA),
            (CKO_CERTIFICATE, _) => rows!(STORAGE, CERTIFICATE),
            (CKO_SECRET_KEY, Some(key_type)) if secret_key::is_type(key_type) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, SECRET_KEY)
            }
            (CKO_PUBLIC_KEY, Some(CKK_RSA)) => rows!(STORAGE, KEY, PUBLIC_KEY, RSA_PUBLIC_KEY),
            (CKO_PUBLIC_KEY, Some(CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY)) => {
                rows!(STORAGE, KEY, PUBLIC_KEY, EC_PUBLIC_KEY)
            }
            (CKO_PRIVATE_KEY, Some(CKK_RSA)) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, PRIVATE_KEY, RSA_PRIVATE_KEY)
            }
            (CKO_PRIVATE_KEY, Some(CKK_EC | CKK_EC_EDWARDS | CKK_EC_MONTGOMERY)) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, PRIVATE_KEY, EC_PRIVATE_KEY)
            }
            (CKO_PUBLIC_KEY, Some(CKK_DH)) => rows!(STORAGE, KEY, PUBLIC_KEY, DH_PUBLIC_KEY),
            (CKO_PRIVATE_KEY, Some(CKK_DH)) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, PRIVATE_KEY, DH_PRIVATE_KEY)
            }
            (CKO_PUBLIC_KEY, Some(CKK_DSA)) => rows!(STORAGE, KEY, PUBLIC_KEY, DSA_PUBLIC_KEY),
            (CKO_PRIVATE_KEY, Some(CKK_DSA)) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, PRIVATE_KEY, DSA_PRIVATE_KEY)
            }
            (CKO_PUBLIC_KEY, Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA)) => {
                rows!(STORAGE, KEY, PUBLIC_KEY, POST_QUANTUM_PUBLIC_KEY)
            }
            (CKO_PRIVATE_KEY, Some(CKK_ML_DSA | CKK_ML_KEM | CKK_SLH_DSA)) => {
                rows!(STORAGE, KEY, PROTECTED_KEY, PRIVATE_KEY, POST_QUANTUM_PRIVATE_KEY)
            }
            (CKO_DOMAIN_PARAMETERS, Some(CKK_DH)) => rows!(STORAGE, DOMAIN),
            (CKO_DOMAIN_PARAMETERS, Some(CKK_DSA)) => rows!(STORAGE, DOMAIN, DSA_DOMAIN),
            (CKO_SECRET_KEY | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_DOMAIN_PARAMETERS, None) => {
                return Err(Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_KEY_TYPE is missing"));
            }
            (CKO_SECRET_KEY | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_DOMAIN_PARAMETERS, Some(_)) => {
                return Err(unknown_key());
            }
            _ => {
                return Err(Error::new(
                    CKR_ATTRIBUTE_VALUE_INVALID,
                    "CKA_CLASS is none of data, certificate, public key, private key, secret key, domain parameters",
                ));
            }
        };
        Ok(Self { rows, class, key_type })
    }

    fn row(&self, kind: CK_ATTRIBUTE_TYPE) -> Result<&'static Row> {
        let found = self.rows.binary_search_by_key(&kind, |row| row.kind);
        found.map(|i| &self.rows[i]).map_err(|_| no_attribute(kind))
    }

    /// What a silent template means: as the table says, but the usages that the key type has are allowed
    /// (clients rely on it), and keys other than public ones are private.
    fn default(&self, row: &Row) -> Option<&'static [u8]> {
        let bool = |value| -> Option<&'static [u8]> { Some(if value { &[1] } else { &[0] }) };
        match row.kind {
            CKA_PRIVATE => bool(matches!(self.class, CKO_PRIVATE_KEY | CKO_SECRET_KEY)),
            CKA_WRAP | CKA_UNWRAP => {
                bool(matches!(self.key_type, Some(CKK_AES | CKK_DES2 | CKK_DES3 | CKK_RSA)))
            }
            CKA_ENCRYPT | CKA_DECRYPT => bool(matches!(
                self.key_type,
                Some(CKK_AES | CKK_AES_XTS | CKK_CHACHA20 | CKK_DES2 | CKK_DES3 | CKK_RSA)
            )),
            CKA_SIGN | CKA_VERIFY => bool(!matches!(
                self.key_type,
                Some(CKK_DH | CKK_EC_MONTGOMERY | CKK_ML_KEM | CKK_AES_XTS | CKK_CHACHA20 | CKK_HKDF)
            )),
            CKA_SIGN_RECOVER | CKA_VERIFY_RECOVER => bool(self.key_type == Some(CKK_RSA)),
            CKA_DERIVE => bool(matches!(
                (self.class, self.key_type),
                (CKO_PRIVATE_KEY, Some(CKK_EC | CKK_EC_MONTGOMERY | CKK_DH))
                    | (CKO_SECRET_KEY, Some(CKK_HKDF))
            )),
            CKA_ENCAPSULATE | CKA_DECAPSULATE => bool(self.key_type == Some(CKK_ML_KEM)),
            _ => match row.default {
                F::No => bool(false),
                F::Yes => bool(true),
                F::Empty => Some(&[]),
                F::Zero => Some(&[0; 8]),
                F::Absent => None,
            },
        }
    }
}

/// A complete object in the making: attributes that are shown, and sealed ones.
#[derive(Debug)]
pub(super) struct Draft {
    pub clear: Attributes,
    pub secret: Attributes,
}

impl Draft {
    /// Checks a template and fills in the defaults. `class` and `key_type` are what the mechanism makes;
    /// `None` leaves them to the template.
    ///
    /// # Errors
    /// The standard's `CKR_TEMPLATE_*` and `CKR_ATTRIBUTE_*` codes.
    pub fn new(
        template: &Attributes,
        class: Option<CK_OBJECT_CLASS>,
        key_type: Option<CK_KEY_TYPE>,
        origin: Origin,
    ) -> Result<Self> {
        let class = agreed(template, CKA_CLASS, class)?
            .ok_or_else(|| Error::new(CKR_TEMPLATE_INCOMPLETE, "CKA_CLASS is missing"))?;
        let key_type = agreed(template, CKA_KEY_TYPE, key_type)?;
        let rules = Class::of(class, key_type)?;
        let clear = Attributes::with_capacity(rules.rows.len());
        let mut draft = Self { clear, secret: Attributes::new() };
        let (class_bytes, key_type_bytes) = (class.to_le_bytes(), key_type.map(u64::to_le_bytes));
        let mut given = template.iter().peekable();
        for row in rules.rows {
            if let Some((kind, _)) = given.peek().filter(|(kind, _)| *kind < row.kind) {
                return Err(no_attribute(*kind));
            }
            let value = match given.next_if(|(kind, _)| *kind == row.kind) {
                Some((_, value)) => {
                    check_given(row, value, origin)?;
                    Some(value)
                }
                None => match row.kind {
                    CKA_CLASS => Some(&class_bytes[..]),
                    CKA_KEY_TYPE => key_type_bytes.as_ref().map(|bytes| &bytes[..]),
                    _ => rules.default(row),
                },
            };
            if let Some(value) = value {
                draft.section(row).push(row.kind, value);
            }
        }
        if let Some((kind, _)) = given.next() {
            return Err(no_attribute(kind));
        }
        if matches!(class, CKO_SECRET_KEY | CKO_PUBLIC_KEY | CKO_PRIVATE_KEY | CKO_DOMAIN_PARAMETERS) {
            draft.note_origin(class, origin);
        }
        Ok(draft)
    }

    /// A changed object: `C_SetAttributeValue`, or `C_CopyObject` if `copy`.
    ///
    /// # Errors
    /// `CKR_ACTION_PROHIBITED` if the object forbids it, `CKR_ATTRIBUTE_READ_ONLY`, and those of [`Self::new`].
    pub fn change(clear: Attributes, secret: Attributes, changes: &Attributes, copy: bool) -> Result<Self> {
        let class = clear.ulong(CKA_CLASS).unwrap_or(CK_UNAVAILABLE_INFORMATION);
        let rules = Class::of(class, clear.ulong(CKA_KEY_TYPE))?;
        let forbidden = if copy { CKA_COPYABLE } else { CKA_MODIFIABLE };
        if clear.bool(forbidden) == Some(false) {
            let message = if copy { "the object is not copyable" } else { "the object is not modifiable" };
            return Err(Error::new(CKR_ACTION_PROHIBITED, message));
        }
        let mut draft = Self { clear, secret };
        for (kind, value) in changes.iter() {
            let row = rules.row(kind)?;
            check_shape(row, value)?;
            let section = draft.section(row);
            if section.get(kind) == Some(value) {
                continue;
            }
            let to = value == [1];
            let allowed = match row.change {
                C::Always => true,
                C::Never => false,
                C::ToTrue => to,
                C::ToFalse => !to,
                C::Copy => copy,
                C::CopyToFalse => copy && !to,
            };
            if !allowed {
                return Err(Error::new(
                    CKR_ATTRIBUTE_READ_ONLY,
                    format!("attribute {kind:#x} cannot be changed to this value"),
                ));
            }
            section.set(kind, value);
        }
        Ok(draft)
    }

    /// A source of the key may be wrapped by trusted keys alone, and so may the key.
    ///
    /// # Errors
    /// `CKR_TEMPLATE_INCONSISTENT` if the template wants it otherwise.
    pub fn keep_for_trusted_keys(&mut self, template: &Attributes) -> Result<()> {
        if template.bool(CKA_WRAP_WITH_TRUSTED) == Some(false) {
            let message = "a source of the key may be wrapped by trusted keys alone, and so may what is made of its bits";
            return Err(Error::new(CKR_TEMPLATE_INCONSISTENT, message));
        }
        self.clear.set_bool(CKA_WRAP_WITH_TRUSTED, true);
        Ok(())
    }

    fn section(&mut self, row: &Row) -> &mut Attributes {
        if row.sealed { &mut self.secret } else { &mut self.clear }
    }

    fn note_origin(&mut self, class: CK_OBJECT_CLASS, origin: Origin) {
        let generated = match origin {
            Origin::Generated(mechanism) => Some(mechanism),
            _ => None,
        };
        self.clear.set_bool(CKA_LOCAL, generated.is_some());
        if class == CKO_DOMAIN_PARAMETERS {
            return;
        }
        self.clear.set_ulong(CKA_KEY_GEN_MECHANISM, generated.unwrap_or(CK_UNAVAILABLE_INFORMATION));
        if class == CKO_PUBLIC_KEY {
            return;
        }
        let (always_sensitive, never_extractable) = match origin {
            Origin::Generated(_) => (true, true),
            Origin::Derived { always_sensitive, never_extractable } => (always_sensitive, never_extractable),
            Origin::Created | Origin::Unwrapped => (false, false),
        };
        let sensitive = self.clear.bool(CKA_SENSITIVE) == Some(true);
        let extractable = self.clear.bool(CKA_EXTRACTABLE) == Some(true);
        self.clear.set_bool(CKA_ALWAYS_SENSITIVE, always_sensitive && sensitive);
        self.clear.set_bool(CKA_NEVER_EXTRACTABLE, never_extractable && !extractable);
    }
}

/// A value that mechanism and template must agree on.
fn agreed(template: &Attributes, kind: CK_ATTRIBUTE_TYPE, made: Option<u64>) -> Result<Option<u64>> {
    match (template.ulong(kind), made) {
        (Some(given), Some(made)) if given != made => {
            Err(Error::new(CKR_TEMPLATE_INCONSISTENT, "CKA_CLASS or CKA_KEY_TYPE does not fit the mechanism"))
        }
        (None, None) if template.contains(kind) => {
            Err(Error::new(CKR_ATTRIBUTE_VALUE_INVALID, "CKA_CLASS or CKA_KEY_TYPE is no CK_ULONG"))
        }
        (given, made) => Ok(made.or(given)),
    }
}

fn no_attribute(kind: CK_ATTRIBUTE_TYPE) -> Error {
    Error::new(CKR_ATTRIBUTE_TYPE_INVALID, format!("this class of object has no attribute {kind:#x}"))
}

/// May the template of a new object have this value?
fn check_given(row: &Row, value: &[u8], origin: Origin) -> Result<()> {
    check_shape(row, value)?;
    let allowed = match row.given {
        G::Always => true,
        G::Created => origin == Origin::Created,
        G::Made => origin != Origin::Created,
        G::OnlyFalse => value == [0],
        G::Never => false,
    };
    if allowed {
        return Ok(());
    }
    Err(Error::new(
        CKR_ATTRIBUTE_READ_ONLY,
        format!("attribute {:#x} cannot be given in this template", row.kind),
    ))
}

fn check_shape(row: &Row, value: &[u8]) -> Result<()> {
    let fits = match row.shape {
        K::Bool => matches!(value, [0 | 1]),
        K::Ulong => value.len() == 8,
        K::Date => value.is_empty() || (value.len() == 8 && value.iter().all(u8::is_ascii_digit)),
        K::Bytes => value.len() <= MAX_VALUE_BYTES,
        K::Template => return nested_template::check(row.kind, value),
    };
    if fits {
        return Ok(());
    }
    Err(Error::new(
        CKR_ATTRIBUTE_VALUE_INVALID,
        format!("attribute {:#x} has a value of a wrong kind", row.kind),
    ))
}

/// May an object hold this attribute without showing it in clear?
pub fn may_be_sealed(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        kind,
        CKA_VALUE
            | CKA_PRIVATE_EXPONENT
            | CKA_PRIME_1
            | CKA_PRIME_2
            | CKA_EXPONENT_1
            | CKA_EXPONENT_2
            | CKA_COEFFICIENT
            | CKA_SEED
    )
}

/// The longest value: a data object or a certificate.
const MAX_VALUE_BYTES: usize = 1 << 20;
