//! The list of `C_GetMechanismList`.

use cryptoki_sys::*;

use super::{MechanismInfo, Shape};

/// All mechanisms, in the order of `C_GetMechanismList`.
pub static MECHANISMS: &[MechanismInfo] = &[
    rsa(CKM_RSA_PKCS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    rsa(CKM_RSA_PKCS, CIPHER | WRAPPING | SIGNATURE | RECOVERY, Shape::None),
    rsa(CKM_RSA_X_509, CIPHER | WRAPPING | SIGNATURE | RECOVERY, Shape::None),
    rsa(CKM_RSA_PKCS_OAEP, CIPHER | WRAPPING, Shape::Oaep),
    rsa(CKM_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_RSA_AES_KEY_WRAP, WRAPPING, Shape::RsaAes),
    rsa(CKM_MD5_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA1_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA224_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA256_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA384_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA512_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA3_224_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA3_256_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA3_384_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA3_512_RSA_PKCS, SIGNATURE, Shape::None),
    rsa(CKM_SHA1_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA224_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA256_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA384_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA512_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA3_224_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA3_256_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA3_384_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    rsa(CKM_SHA3_512_RSA_PKCS_PSS, SIGNATURE, Shape::Pss),
    dsa(CKM_DSA_PARAMETER_GEN, CKF_GENERATE),
    dsa(CKM_DSA_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    dsa(CKM_DSA, SIGNATURE),
    dsa(CKM_DSA_SHA1, SIGNATURE),
    dsa(CKM_DSA_SHA224, SIGNATURE),
    dsa(CKM_DSA_SHA256, SIGNATURE),
    dsa(CKM_DSA_SHA384, SIGNATURE),
    dsa(CKM_DSA_SHA512, SIGNATURE),
    dsa(CKM_DSA_SHA3_224, SIGNATURE),
    dsa(CKM_DSA_SHA3_256, SIGNATURE),
    dsa(CKM_DSA_SHA3_384, SIGNATURE),
    dsa(CKM_DSA_SHA3_512, SIGNATURE),
    dh(CKM_DH_PKCS_PARAMETER_GEN, 2048, CKF_GENERATE, Shape::None),
    dh(CKM_DH_PKCS_KEY_PAIR_GEN, 8192, CKF_GENERATE_KEY_PAIR, Shape::None),
    dh(CKM_DH_PKCS_DERIVE, 8192, CKF_DERIVE, Shape::Value),
    ec(CKM_EC_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    ec(CKM_ECDSA, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA1, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA224, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA256, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA384, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA512, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA3_224, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA3_256, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA3_384, SIGNATURE, Shape::None),
    ec(CKM_ECDSA_SHA3_512, SIGNATURE, Shape::None),
    edwards(CKM_EC_EDWARDS_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    edwards(CKM_EDDSA, SIGNATURE, Shape::Eddsa),
    MechanismInfo {
        key_types: &[CKK_EC, CKK_EC_MONTGOMERY],
        ..ec(CKM_ECDH1_DERIVE, CKF_DERIVE, Shape::Ecdh1)
    },
    ec(CKM_ECDH1_COFACTOR_DERIVE, CKF_DERIVE, Shape::Ecdh1),
    MechanismInfo {
        key_types: &[CKK_EC_MONTGOMERY],
        key_sizes: (255, 448),
        ..edwards(CKM_EC_MONTGOMERY_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None)
    },
    ml_dsa(CKM_ML_DSA_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    ml_dsa(CKM_ML_DSA, SIGNATURE, Shape::SignContext),
    ml_kem(CKM_ML_KEM_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR),
    ml_kem(CKM_ML_KEM, CKF_ENCAPSULATE | CKF_DECAPSULATE),
    slh_dsa(CKM_SLH_DSA_KEY_PAIR_GEN, CKF_GENERATE_KEY_PAIR, Shape::None),
    slh_dsa(CKM_SLH_DSA, SIGNATURE, Shape::SignContext),
    aes(CKM_AES_KEY_GEN, CKF_GENERATE, Shape::None),
    aes(CKM_AES_ECB, CIPHER | WRAPPING, Shape::None),
    aes(CKM_AES_CBC, CIPHER | WRAPPING, Shape::Iv(16)),
    aes(CKM_AES_CBC_PAD, CIPHER | WRAPPING, Shape::Iv(16)),
    aes(CKM_AES_CTS, CIPHER, Shape::Iv(16)),
    aes(CKM_AES_CTR, CIPHER, Shape::Ctr),
    aes(CKM_AES_OFB, CIPHER, Shape::Iv(16)),
    aes(CKM_AES_CFB8, CIPHER, Shape::Iv(16)),
    aes(CKM_AES_CFB128, CIPHER, Shape::Iv(16)),
    aes(CKM_AES_CCM, CIPHER, Shape::Ccm),
    aes(CKM_AES_GCM, CIPHER | WRAPPING, Shape::Gcm),
    aes(CKM_AES_GMAC, SIGNATURE, Shape::Value),
    aes(CKM_AES_CMAC, SIGNATURE, Shape::None),
    aes(CKM_AES_CMAC_GENERAL, SIGNATURE, Shape::Number),
    aes(CKM_AES_MAC, SIGNATURE, Shape::None),
    aes(CKM_AES_MAC_GENERAL, SIGNATURE, Shape::Number),
    aes(CKM_AES_ECB_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(0)),
    aes(CKM_AES_CBC_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(16)),
    aes(CKM_AES_KEY_WRAP, WRAPPING, Shape::None),
    aes(CKM_AES_KEY_WRAP_PAD, WRAPPING, Shape::None),
    aes(CKM_AES_KEY_WRAP_KWP, WRAPPING, Shape::None),
    des(CKM_DES2_KEY_GEN, &[CKK_DES2], (16, 16), CKF_GENERATE, Shape::None),
    des(CKM_DES3_KEY_GEN, &[CKK_DES3], (24, 24), CKF_GENERATE, Shape::None),
    des3(CKM_DES3_ECB, CIPHER | WRAPPING, Shape::None),
    des3(CKM_DES3_CBC, CIPHER | WRAPPING, Shape::Iv(8)),
    des3(CKM_DES3_CBC_PAD, CIPHER | WRAPPING, Shape::Iv(8)),
    des3(CKM_DES3_MAC, SIGNATURE, Shape::None),
    des3(CKM_DES3_MAC_GENERAL, SIGNATURE, Shape::Number),
    des3(CKM_DES3_CMAC, SIGNATURE, Shape::None),
    des3(CKM_DES3_CMAC_GENERAL, SIGNATURE, Shape::Number),
    des3(CKM_DES3_ECB_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(0)),
    des3(CKM_DES3_CBC_ENCRYPT_DATA, CKF_DERIVE, Shape::Data(8)),
    aes_xts(CKM_AES_XTS_KEY_GEN, CKF_GENERATE, Shape::None),
    aes_xts(CKM_AES_XTS, CIPHER, Shape::Iv(16)),
    chacha20(CKM_CHACHA20_KEY_GEN, CKF_GENERATE, Shape::None),
    chacha20(CKM_CHACHA20_POLY1305, CIPHER, Shape::ChaCha20Poly1305),
    MechanismInfo { key_types: &[CKK_HKDF], ..generic(CKM_HKDF_KEY_GEN, CKF_GENERATE, Shape::None) },
    hkdf(CKM_HKDF_DERIVE),
    hkdf(CKM_HKDF_DATA),
    any_secret(CKM_SP800_108_COUNTER_KDF, CKF_DERIVE, Shape::Sp800108),
    any_secret(CKM_SP800_108_FEEDBACK_KDF, CKF_DERIVE, Shape::Sp800108Feedback),
    any_secret(CKM_SP800_108_DOUBLE_PIPELINE_KDF, CKF_DERIVE, Shape::Sp800108),
    any_secret(CKM_PKCS5_PBKD2, CKF_GENERATE, Shape::Pbkdf2),
    any_secret(CKM_CONCATENATE_BASE_AND_KEY, CKF_DERIVE, Shape::Key),
    any_secret(CKM_CONCATENATE_BASE_AND_DATA, CKF_DERIVE, Shape::Data(0)),
    any_secret(CKM_CONCATENATE_DATA_AND_BASE, CKF_DERIVE, Shape::Data(0)),
    any_secret(CKM_XOR_BASE_AND_DATA, CKF_DERIVE, Shape::Data(0)),
    any_secret(CKM_EXTRACT_KEY_FROM_KEY, CKF_DERIVE, Shape::Number),
    any_secret(CKM_MD5_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA1_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA224_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA256_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA384_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA512_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA512_224_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA512_256_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA3_224_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA3_256_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA3_384_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    any_secret(CKM_SHA3_512_KEY_DERIVATION, CKF_DERIVE, Shape::None),
    MechanismInfo {
        key_sizes: (8, 8 * 4096),
        ..generic(CKM_GENERIC_SECRET_KEY_GEN, CKF_GENERATE, Shape::None)
    },
    generic(CKM_SHA_1_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA224_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA256_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA384_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA512_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA512_224_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA512_256_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA3_224_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA3_256_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA3_384_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_SHA3_512_KEY_GEN, CKF_GENERATE, Shape::None),
    generic(CKM_MD5_HMAC, SIGNATURE, Shape::None),
    generic(CKM_MD5_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA_1_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA_1_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA224_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA224_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA256_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA256_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA384_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA384_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA512_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA512_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA512_224_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA512_224_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA512_256_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA512_256_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA3_224_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA3_224_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA3_256_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA3_256_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA3_384_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA3_384_HMAC_GENERAL, SIGNATURE, Shape::Number),
    generic(CKM_SHA3_512_HMAC, SIGNATURE, Shape::None),
    generic(CKM_SHA3_512_HMAC_GENERAL, SIGNATURE, Shape::Number),
    digest(CKM_MD5),
    digest(CKM_SHA_1),
    digest(CKM_SHA224),
    digest(CKM_SHA256),
    digest(CKM_SHA384),
    digest(CKM_SHA512),
    digest(CKM_SHA512_224),
    digest(CKM_SHA512_256),
    digest(CKM_SHA3_224),
    digest(CKM_SHA3_256),
    digest(CKM_SHA3_384),
    digest(CKM_SHA3_512),
];

const fn rsa(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_RSA], key_sizes: (1024, 8192), flags, shape }
}

const fn dsa(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_DSA], key_sizes: (1024, 3072), flags, shape: Shape::None }
}

const fn dh(kind: CK_MECHANISM_TYPE, largest: CK_ULONG, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_DH], key_sizes: (512, largest), flags, shape }
}

const fn ec(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    let flags = flags | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS;
    MechanismInfo { kind, key_types: &[CKK_EC], key_sizes: (192, 521), flags, shape }
}

const fn edwards(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    let flags = flags | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_COMPRESS;
    MechanismInfo { kind, key_types: &[CKK_EC_EDWARDS], key_sizes: (256, 456), flags, shape }
}

/// Sizes are those of public keys, in bytes.
const fn ml_dsa(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_ML_DSA], key_sizes: (1312, 2592), flags, shape }
}

const fn ml_kem(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_ML_KEM], key_sizes: (800, 1568), flags, shape: Shape::None }
}

const fn slh_dsa(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_SLH_DSA], key_sizes: (32, 64), flags, shape }
}

const fn aes(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_AES], key_sizes: (16, 32), flags, shape }
}

const fn des3(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    des(kind, &[CKK_DES2, CKK_DES3], (16, 24), flags, shape)
}

const fn des(
    kind: CK_MECHANISM_TYPE,
    key_types: &'static [CK_KEY_TYPE],
    key_sizes: (CK_ULONG, CK_ULONG),
    flags: CK_FLAGS,
    shape: Shape,
) -> MechanismInfo {
    MechanismInfo { kind, key_types, key_sizes, flags, shape }
}

const fn aes_xts(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_AES_XTS], key_sizes: (32, 64), flags, shape }
}

const fn chacha20(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[CKK_CHACHA20], key_sizes: (32, 32), flags, shape }
}

const fn hkdf(kind: CK_MECHANISM_TYPE) -> MechanismInfo {
    let key_types = &[CKK_HKDF, CKK_GENERIC_SECRET];
    MechanismInfo { kind, key_types, key_sizes: (1, 4096), flags: CKF_DERIVE, shape: Shape::Hkdf }
}

const fn generic(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: HMAC_KEYS, key_sizes: (1, 4096), flags, shape }
}

const fn any_secret(kind: CK_MECHANISM_TYPE, flags: CK_FLAGS, shape: Shape) -> MechanismInfo {
    MechanismInfo { kind, key_types: SECRET_KEYS, key_sizes: (1, 4096), flags, shape }
}

const fn digest(kind: CK_MECHANISM_TYPE) -> MechanismInfo {
    MechanismInfo { kind, key_types: &[], key_sizes: (0, 0), flags: CKF_DIGEST, shape: Shape::None }
}

const SIGNATURE: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const RECOVERY: CK_FLAGS = CKF_SIGN_RECOVER | CKF_VERIFY_RECOVER;
const WRAPPING: CK_FLAGS = CKF_WRAP | CKF_UNWRAP;
const CIPHER: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;

const HMAC_KEYS: &[CK_KEY_TYPE] = &[
    CKK_GENERIC_SECRET,
    CKK_MD5_HMAC,
    CKK_SHA_1_HMAC,
    CKK_SHA224_HMAC,
    CKK_SHA256_HMAC,
    CKK_SHA384_HMAC,
    CKK_SHA512_HMAC,
    CKK_SHA512_224_HMAC,
    CKK_SHA512_256_HMAC,
    CKK_SHA3_224_HMAC,
    CKK_SHA3_256_HMAC,
    CKK_SHA3_384_HMAC,
    CKK_SHA3_512_HMAC,
];
const SECRET_KEYS: &[CK_KEY_TYPE] = &[
    CKK_AES,
    CKK_AES_XTS,
    CKK_CHACHA20,
    CKK_DES2,
    CKK_DES3,
    CKK_HKDF,
    CKK_GENERIC_SECRET,
    CKK_MD5_HMAC,
    CKK_SHA_1_HMAC,
    CKK_SHA224_HMAC,
    CKK_SHA256_HMAC,
    CKK_SHA384_HMAC,
    CKK_SHA512_HMAC,
    CKK_SHA512_224_HMAC,
    CKK_SHA512_256_HMAC,
    CKK_SHA3_224_HMAC,
    CKK_SHA3_256_HMAC,
    CKK_SHA3_384_HMAC,
    CKK_SHA3_512_HMAC,
];
