/* Every mechanism with every function that takes one, and with all sorts of parameters. */
#include <string.h>

#include "matrix.h"

/* What a mechanism must be for, to be taken by a function. */
static CK_FLAGS use(const struct function *function) {
    switch (function - functions) {
    case FUNCTION_C_EncryptInit: return CKF_ENCRYPT;
    case FUNCTION_C_DecryptInit: return CKF_DECRYPT;
    case FUNCTION_C_DigestInit: return CKF_DIGEST;
    case FUNCTION_C_SignInit: return CKF_SIGN;
    case FUNCTION_C_SignRecoverInit: return CKF_SIGN_RECOVER;
    case FUNCTION_C_VerifyInit: case FUNCTION_C_VerifySignatureInit: return CKF_VERIFY;
    case FUNCTION_C_VerifyRecoverInit: return CKF_VERIFY_RECOVER;
    case FUNCTION_C_GenerateKey: return CKF_GENERATE;
    case FUNCTION_C_GenerateKeyPair: return CKF_GENERATE_KEY_PAIR;
    case FUNCTION_C_WrapKey: case FUNCTION_C_WrapKeyAuthenticated: return CKF_WRAP;
    case FUNCTION_C_UnwrapKey: case FUNCTION_C_UnwrapKeyAuthenticated: return CKF_UNWRAP;
    case FUNCTION_C_DeriveKey: return CKF_DERIVE;
    case FUNCTION_C_MessageEncryptInit: return CKF_MESSAGE_ENCRYPT;
    case FUNCTION_C_MessageDecryptInit: return CKF_MESSAGE_DECRYPT;
    case FUNCTION_C_MessageSignInit: return CKF_MESSAGE_SIGN;
    case FUNCTION_C_MessageVerifyInit: return CKF_MESSAGE_VERIFY;
    case FUNCTION_C_EncapsulateKey: return CKF_ENCAPSULATE;
    case FUNCTION_C_DecapsulateKey: return CKF_DECAPSULATE;
    default: return 0;
    }
}

/* What AEAD mechanisms look at is the parameter of each message, and not the one they are initialised with. */
static int looks_at_messages(const struct function *function) {
    return use(function) == CKF_MESSAGE_ENCRYPT || use(function) == CKF_MESSAGE_DECRYPT;
}

/* Of the mechanisms that wrap, one authenticates. */
static int authenticates(const struct function *function) {
    return function == &functions[FUNCTION_C_WrapKeyAuthenticated] ||
           function == &functions[FUNCTION_C_UnwrapKeyAuthenticated];
}

/* The call of the table, with another mechanism. */
static CK_RV call_with(const struct function *function, CK_MECHANISM_TYPE type, void *parameter, CK_ULONG len) {
    word words[MAX_WORDS];
    CK_MECHANISM mechanism = {type, parameter, len};
    fill(function, words);
    words[1] = (word)lent(&mechanism, sizeof mechanism);
    return call(function, words);
}

/* Each case in a session of its own. */
static void fresh(void) {
    take_back();
    open_session(CKF_RW_SESSION);
}

static void test_unknown(const struct function *function) {
    const CK_MECHANISM_TYPE unknown[] = {CKM_VENDOR_DEFINED, CKM_VENDOR_DEFINED | 0x1234, ~0UL, 0x7fffffff, CKM_SKIPJACK_KEY_GEN};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        scenario("%s with unknown mechanism %#lx", function->name, unknown[i]);
        fresh();
        CK_RV code = call_with(function, unknown[i], NULL, 0);
        if (code != CKR_MECHANISM_INVALID) failure("%s gave %s", function->name, code_name(code));
    }
}

/* A mechanism for something else. */
static void test_misused(const struct function *function, CK_MECHANISM_TYPE type) {
    fresh();
    CK_RV code = call_with(function, type, NULL, 0);
    if (code != CKR_MECHANISM_INVALID)
        failure("%s gave %s, although the mechanism is not for it", function->name, code_name(code));
}

/* Parameters that fit no mechanism, or just look as if: NULL with a length, zeros of every length. */
static void test_any_parameter(const struct function *function, CK_MECHANISM_TYPE type) {
    static const CK_ULONG impossible[] = {1, 40, 48, ~0UL, ~0UL / 2};
    static const CK_ULONG lens[] = {1, 8, 12, 15, 16, 24, 32, 40, 48, 64, 1000};
    for (size_t i = 0; i < COUNT(impossible); i++) {
        scenario("%s with mechanism %#lx, its parameter NULL, of length %#lx", function->name, type, impossible[i]);
        fresh();
        CK_RV code = call_with(function, type, NULL, impossible[i]);
        if (code == CKR_OK && !looks_at_messages(function)) failure("%s succeeded", function->name);
    }
    for (size_t i = 0; i < COUNT(lens); i++) {
        scenario("%s with mechanism %#lx and %lu zeros for a parameter", function->name, type, lens[i]);
        fresh();
        call_with(function, type, lent(zeros, lens[i]), lens[i]);
    }
}

/* The mechanism's own structure, with pointers that are NULL and lengths that are absurd. */
static void test_absurd(const struct function *function, CK_MECHANISM_TYPE type, const void *structure, size_t len) {
    scenario("%s with mechanism %#lx and a structure of %zu bytes with NULL inside", function->name, type, len);
    fresh();
    if (call_with(function, type, lent(structure, len), len) == CKR_OK && !looks_at_messages(function))
        failure("%s succeeded", function->name);
}

static void test_structure(const struct function *function, CK_MECHANISM_TYPE type) {
    static const CK_ULONG lens[] = {1, 12, 16, ~0UL / 2, ~0UL};
    for (size_t i = 0; i < COUNT(lens); i++) {
        CK_ULONG len = lens[i];
        CK_BYTE *iv = lent("twelve bytes", 12);
        CK_GCM_PARAMS gcm[] = {{NULL, len, 0, NULL, 0, 128}, {iv, 12, 96, NULL, len, 128}, {NULL, 0, 0, NULL, 0, len}};
        CK_GCM_WRAP_PARAMS wrap[] = {{.pIv = NULL, .ulIvLen = len, .ulTagBits = 128},
                                     {.pIv = iv, .ulIvLen = 12, .ulAADLen = len, .ulTagBits = 128}};
        CK_AES_CTR_PARAMS counter = {i ? len : 0, {0}};
        CK_RSA_PKCS_OAEP_PARAMS oaep[] = {{CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, len},
                                          {len, len, CKZ_DATA_SPECIFIED, NULL, 0}};
        CK_RSA_PKCS_PSS_PARAMS pss[] = {{CKM_SHA256, CKG_MGF1_SHA256, ~0UL - i}, {len, len, 32}};
        CK_ECDH1_DERIVE_PARAMS ecdh[] = {{CKD_NULL, 0, NULL, len, NULL},
                                         {CKD_SHA256_KDF, len, NULL, 0, NULL},
                                         {len, 0, NULL, 0, NULL}};
        CK_KEY_DERIVATION_STRING_DATA string = {NULL, len};
        CK_AES_CBC_ENCRYPT_DATA_PARAMS cbc = {{0}, NULL, len};
        CK_EDDSA_PARAMS eddsa = {CK_FALSE, len, NULL};
        switch (type) {
        case CKM_AES_GCM:
            for (size_t j = 0; j < COUNT(gcm); j++) test_absurd(function, type, &gcm[j], sizeof *gcm);
            for (size_t j = 0; j < COUNT(wrap); j++) test_absurd(function, type, &wrap[j], sizeof *wrap);
            break;
        case CKM_AES_CTR:
            if (len != 1 && len != 12 && len != 16) test_absurd(function, type, &counter, sizeof counter);
            break;
        case CKM_RSA_PKCS_OAEP:
            for (size_t j = 0; j < COUNT(oaep); j++) test_absurd(function, type, &oaep[j], sizeof *oaep);
            break;
        case CKM_RSA_PKCS_PSS: case CKM_SHA256_RSA_PKCS_PSS:
            for (size_t j = 0; j < COUNT(pss); j++) test_absurd(function, type, &pss[j], sizeof *pss);
            break;
        case CKM_ECDH1_DERIVE:
            for (size_t j = 0; j < COUNT(ecdh); j++) test_absurd(function, type, &ecdh[j], sizeof *ecdh);
            break;
        case CKM_AES_ECB_ENCRYPT_DATA: test_absurd(function, type, &string, sizeof string); break;
        case CKM_AES_CBC_ENCRYPT_DATA: test_absurd(function, type, &cbc, sizeof cbc); break;
        case CKM_EDDSA: test_absurd(function, type, &eddsa, sizeof eddsa); break;
        default: break;
        }
    }
}

/* Each mechanism with each kind of key. */
static void test_all_keys(const struct function *function, CK_MECHANISM_TYPE type) {
    const CK_OBJECT_HANDLE keys[] = {aes,       generic,    rsa_public,     rsa_private,
                                     ec_public, ec_private, edwards_public, edwards_private};
    if (function->arguments[2].kind == TEMPLATE || function->arguments[2].kind == END) return;
    for (size_t i = 0; i < COUNT(keys); i++) {
        word words[MAX_WORDS];
        scenario("%s with mechanism %#lx and key %zu", function->name, type, i);
        fresh();
        fill(function, words);
        words[1] = (word)lent_mechanism(type);
        words[2] = keys[i];
        call(function, words);
    }
}

/* A mechanism that cannot be without its parameter. */
static void test_no_parameter(const struct function *function, CK_MECHANISM_TYPE type) {
    CK_ULONG len;
    if (!fitting_parameter(type, &len) || looks_at_messages(function)) return;
    if (authenticates(function) && type != CKM_AES_GCM) return;
    scenario("%s with mechanism %#lx without its parameter", function->name, type);
    fresh();
    CK_RV code = call_with(function, type, NULL, 0);
    if (code != CKR_MECHANISM_PARAM_INVALID && code != CKR_ARGUMENTS_BAD)
        failure("%s gave %s", function->name, code_name(code));
}

void test_mechanisms(void) {
    CK_MECHANISM_TYPE types[512];
    CK_ULONG count = COUNT(types);
    scenario("the list of mechanisms");
    MUST(C_GetMechanismList, own_slot, types, &count);
    take_back();
    log_in();
    for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
        if (!use(function)) continue;
        test_unknown(function);
        for (CK_ULONG i = 0; i < count; i++) {
            CK_MECHANISM_INFO info;
            MUST(C_GetMechanismInfo, own_slot, types[i], &info);
            scenario("%s with mechanism %#lx", function->name, types[i]);
            if (info.flags & use(function))
                test_no_parameter(function, types[i]);
            else
                test_misused(function, types[i]);
            test_any_parameter(function, types[i]);
            test_structure(function, types[i]);
            test_all_keys(function, types[i]);
        }
    }
}
