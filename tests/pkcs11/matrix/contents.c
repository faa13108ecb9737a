/* Inputs of a length or a content that the mechanism cannot have. */
#include "matrix.h"

/* (session, input, output with room for all) after an initialisation: the code, and the operation is over. */
static void test_call(enum function_number init, CK_MECHANISM_TYPE type, CK_OBJECT_HANDLE key, enum function_number number,
                      const void *input, CK_ULONG input_len, CK_RV expected) {
    CK_ULONG len = 1024;
    take_back();
    open_session(CKF_RW_SESSION);
    word start[MAX_WORDS] = {session, (word)lent_mechanism(type), key};
    scenario("%s with %lu bytes for mechanism %#lx", functions[number].name, input_len, type);
    expect(&functions[init], start, CKR_OK);
    word words[MAX_WORDS] = {session, (word)lent(input, input_len), input_len, (word)room(len)};
    words[4] = (word)lent_writable(&len, sizeof len);
    expect(&functions[number], words, expected);
    expect(&functions[number], words, CKR_OPERATION_NOT_INITIALIZED);
}

static void test_data(void) {
    const struct {
        enum function_number init, function;
        CK_MECHANISM_TYPE type;
        const CK_OBJECT_HANDLE *key;
        const CK_BYTE *input;
        CK_ULONG input_len;
        CK_RV expected;
    } cases[] = {
#define ENCRYPT FUNCTION_C_EncryptInit, FUNCTION_C_Encrypt
#define DECRYPT FUNCTION_C_DecryptInit, FUNCTION_C_Decrypt
#define SIGN FUNCTION_C_SignInit, FUNCTION_C_Sign
#define SIGN_RECOVER FUNCTION_C_SignRecoverInit, FUNCTION_C_SignRecover
#define VERIFY_RECOVER FUNCTION_C_VerifyRecoverInit, FUNCTION_C_VerifyRecover
        {ENCRYPT, CKM_AES_ECB, &aes, zeros, 15, CKR_DATA_LEN_RANGE},
        {ENCRYPT, CKM_AES_CBC, &aes, zeros, 17, CKR_DATA_LEN_RANGE},
        {ENCRYPT, CKM_RSA_PKCS, &rsa_public, zeros, 246, CKR_DATA_LEN_RANGE},
        {ENCRYPT, CKM_RSA_X_509, &rsa_public, zeros, 257, CKR_DATA_LEN_RANGE},
        {ENCRYPT, CKM_RSA_PKCS_OAEP, &rsa_public, zeros, 191, CKR_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_ECB, &aes, zeros, 15, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_CBC, &aes, zeros, 17, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_CBC_PAD, &aes, zeros, 0, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_CBC_PAD, &aes, zeros, 17, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_CBC_PAD, &aes, zeros, 16, CKR_ENCRYPTED_DATA_INVALID},
        {DECRYPT, CKM_AES_GCM, &aes, zeros, 0, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_GCM, &aes, zeros, 15, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_AES_GCM, &aes, zeros, 32, CKR_ENCRYPTED_DATA_INVALID},
        {DECRYPT, CKM_RSA_PKCS_OAEP, &rsa_private, zeros, 256, CKR_ENCRYPTED_DATA_INVALID},
        {DECRYPT, CKM_RSA_PKCS_OAEP, &rsa_private, zeros, 255, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_RSA_PKCS, &rsa_private, zeros, 257, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {DECRYPT, CKM_RSA_X_509, &rsa_private, ones, 256, CKR_ENCRYPTED_DATA_INVALID},
        {SIGN, CKM_RSA_PKCS, &rsa_private, zeros, 246, CKR_DATA_LEN_RANGE},
        {SIGN, CKM_RSA_X_509, &rsa_private, zeros, 257, CKR_DATA_LEN_RANGE},
        {SIGN, CKM_RSA_PKCS_PSS, &rsa_private, zeros, 31, CKR_DATA_LEN_RANGE},
        {SIGN_RECOVER, CKM_RSA_PKCS, &rsa_private, zeros, 246, CKR_DATA_LEN_RANGE},
        {VERIFY_RECOVER, CKM_RSA_PKCS, &rsa_public, zeros, 255, CKR_SIGNATURE_LEN_RANGE},
        {VERIFY_RECOVER, CKM_RSA_PKCS, &rsa_public, zeros, 256, CKR_SIGNATURE_INVALID},
        {VERIFY_RECOVER, CKM_RSA_X_509, &rsa_public, ones, 256, CKR_SIGNATURE_INVALID},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        test_call(cases[i].init, cases[i].type, *cases[i].key, cases[i].function, cases[i].input, cases[i].input_len,
                  cases[i].expected);
}

/* Wrapped keys that are none. */
static void test_wrapped_keys(void) {
    const struct {
        CK_MECHANISM_TYPE type;
        CK_ULONG len;
        CK_RV expected;
    } cases[] = {
        {CKM_AES_KEY_WRAP, 0, CKR_WRAPPED_KEY_LEN_RANGE},   {CKM_AES_KEY_WRAP, 23, CKR_WRAPPED_KEY_LEN_RANGE},
        {CKM_AES_KEY_WRAP, 24, CKR_WRAPPED_KEY_INVALID},    {CKM_AES_KEY_WRAP_KWP, 16, CKR_WRAPPED_KEY_INVALID},
        {CKM_AES_KEY_WRAP_KWP, 15, CKR_WRAPPED_KEY_LEN_RANGE}, {CKM_AES_CBC_PAD, 15, CKR_WRAPPED_KEY_LEN_RANGE},
        {CKM_AES_CBC_PAD, 16, CKR_WRAPPED_KEY_INVALID},     {CKM_AES_GCM, 40, CKR_WRAPPED_KEY_INVALID},
        {CKM_AES_CBC, 15, CKR_WRAPPED_KEY_LEN_RANGE},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        take_back();
        scenario("C_UnwrapKey with %lu zeros for mechanism %#lx", cases[i].len, cases[i].type);
        EXPECT(cases[i].expected, C_UnwrapKey, session, lent_mechanism(cases[i].type), aes, lent(zeros, cases[i].len),
               cases[i].len, lent_template(&template_generic), template_generic.count, room(sizeof(CK_OBJECT_HANDLE)));
    }
}

static void test_saved_states(void) {
    CK_BYTE changed[32];
    scenario("saved states");
    take_back();
    for (size_t i = 0; i < sizeof changed; i++) changed[i] = saved_state.bytes[i];
    changed[31] ^= 1;
    EXPECT(CKR_SAVED_STATE_INVALID, C_SetOperationState, session, lent(changed, 32), 32, 0, 0);
    EXPECT(CKR_SAVED_STATE_INVALID, C_SetOperationState, session, lent(zeros, 1000), 1000, 0, 0);
    EXPECT(CKR_KEY_NOT_NEEDED, C_SetOperationState, session, lent(saved_state.bytes, 32), 32, aes, 0);
    EXPECT(CKR_KEY_NOT_NEEDED, C_SetOperationState, session, lent(saved_state.bytes, 32), 32, 0, generic);
}

void test_contents(void) {
    test_data();
    test_wrapped_keys();
    test_saved_states();
}
