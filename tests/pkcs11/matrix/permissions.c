/* What keys are not good for, and when they want a login. */
#include "matrix.h"

/* A key that is good for nothing. */
static void test_good_for_nothing(void) {
    static const CK_BBOOL no = CK_FALSE, yes = CK_TRUE;
    static const CK_ULONG len = 32;
    const CK_ATTRIBUTE_TYPE uses[] = {CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE};
    CK_ATTRIBUTE template[COUNT(uses) + 3] = {{CKA_VALUE_LEN, (void *)&len, sizeof len}, {CKA_EXTRACTABLE, (void *)&no, 1},
                                              {CKA_SENSITIVE, (void *)&yes, 1}};
    CK_OBJECT_HANDLE key;
    for (size_t i = 0; i < COUNT(uses); i++) template[3 + i] = (CK_ATTRIBUTE){uses[i], (void *)&no, 1};
    take_back();
    scenario("a key that is good for nothing");
    MUST(C_GenerateKey, session, lent_mechanism(CKM_AES_KEY_GEN), lent(template, sizeof template), COUNT(template), &key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_EncryptInit, session, lent_mechanism(CKM_AES_CBC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_DecryptInit, session, lent_mechanism(CKM_AES_CBC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_MessageEncryptInit, session, lent_mechanism(CKM_AES_GCM), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_MessageDecryptInit, session, lent_mechanism(CKM_AES_GCM), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_SignInit, session, lent_mechanism(CKM_AES_CMAC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_VerifyInit, session, lent_mechanism(CKM_AES_CMAC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_MessageSignInit, session, lent_mechanism(CKM_AES_CMAC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_MessageVerifyInit, session, lent_mechanism(CKM_AES_CMAC), key);
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_VerifySignatureInit, session, lent_mechanism(CKM_AES_CMAC), key,
           lent(zeros, 16), 16);
    CK_ULONG room_len = 64;
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_WrapKey, session, lent_mechanism(CKM_AES_KEY_WRAP), key, generic, room(64),
           lent_writable(&room_len, sizeof room_len));
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_UnwrapKey, session, lent_mechanism(CKM_AES_KEY_WRAP), key,
           lent(wrapped.bytes, wrapped.len), wrapped.len, lent_template(&template_generic), template_generic.count,
           room(sizeof(CK_OBJECT_HANDLE)));
    EXPECT(CKR_KEY_FUNCTION_NOT_PERMITTED, C_DeriveKey, session, lent_mechanism(CKM_AES_ECB_ENCRYPT_DATA), key,
           lent_template(&template_generic), template_generic.count, room(sizeof(CK_OBJECT_HANDLE)));
    EXPECT(CKR_KEY_UNEXTRACTABLE, C_WrapKey, session, lent_mechanism(CKM_AES_KEY_WRAP), aes, key, room(64),
           lent_writable(&room_len, sizeof room_len));
    before_digest();
    EXPECT(CKR_KEY_INDIGESTIBLE, C_DigestKey, session, key);
}

/* A key that wants a login for each use. */
static void test_login_for_each_use(void) {
    static const CK_BBOOL yes = CK_TRUE;
    const CK_ATTRIBUTE public = {CKA_EC_PARAMS, (void *)p256, sizeof p256};
    const CK_ATTRIBUTE private[] = {{CKA_ALWAYS_AUTHENTICATE, (void *)&yes, 1}, {CKA_PRIVATE, (void *)&yes, 1}};
    CK_OBJECT_HANDLE public_key, private_key;
    CK_ULONG len = 64;
    take_back();
    scenario("a key that wants a login for each use");
    MUST(C_GenerateKeyPair, session, lent_mechanism(CKM_EC_KEY_PAIR_GEN), lent(&public, sizeof public), 1,
         lent(private, sizeof private), COUNT(private), &public_key, &private_key);
    EXPECT(CKR_OK, C_SignInit, session, lent_mechanism(CKM_ECDSA), private_key);
    EXPECT(CKR_USER_NOT_LOGGED_IN, C_Sign, session, lent(zeros, 32), 32, room(64), lent_writable(&len, sizeof len));
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_Sign, session, lent(zeros, 32), 32, room(64), lent_writable(&len, sizeof len));
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_Login, session, CKU_CONTEXT_SPECIFIC, user_pin.bytes, user_pin.len);
    EXPECT(CKR_OK, C_SignInit, session, lent_mechanism(CKM_ECDSA), private_key);
    EXPECT(CKR_PIN_INCORRECT, C_Login, session, CKU_CONTEXT_SPECIFIC, so_pin.bytes, so_pin.len);
    EXPECT(CKR_OK, C_Login, session, CKU_CONTEXT_SPECIFIC, user_pin.bytes, user_pin.len);
    EXPECT(CKR_OK, C_Sign, session, lent(zeros, 32), 32, room(64), lent_writable(&len, sizeof len));
}

void test_permissions(void) {
    take_back();
    open_session(CKF_RW_SESSION);
    log_in();
    test_good_for_nothing();
    test_login_for_each_use();
}
