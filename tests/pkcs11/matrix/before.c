/* What must be in progress in the session before a call. */
#include "matrix.h"

static CK_BYTE ignored[256];

/* Enough room for whatever a step gives. */
static CK_ULONG *room_for_all(void) {
    static CK_ULONG len;
    len = sizeof ignored;
    return &len;
}

void before_nothing(void) {}

void before_logout(void) { log_out(); }

void before_so_login(void) {
    log_out();
    MUST(C_Login, session, CKU_SO, so_pin.bytes, so_pin.len);
}

void before_make_expendable(void) {
    MUST(C_CreateObject, session, lent_template(&template_data_object), template_data_object.count, &expendable);
}

void before_find(void) { MUST(C_FindObjectsInit, session, NULL, 0); }

void before_encrypt(void) { MUST(C_EncryptInit, session, lent_mechanism(CKM_AES_CBC), aes); }

void before_encrypt_part(void) {
    MUST(C_EncryptInit, session, lent_mechanism(CKM_AES_CBC_PAD), aes);
    MUST(C_EncryptUpdate, session, data.bytes, data.len, ignored, room_for_all());
}

void before_decrypt(void) { MUST(C_DecryptInit, session, lent_mechanism(CKM_AES_CBC), aes); }

/* Four bytes are left for the end. */
void before_decrypt_part(void) {
    CK_BYTE plain[20] = "twenty bytes of text", encrypted[32];
    CK_ULONG len = sizeof encrypted;
    MUST(C_EncryptInit, session, lent_mechanism(CKM_AES_CBC_PAD), aes);
    MUST(C_Encrypt, session, plain, sizeof plain, encrypted, &len);
    MUST(C_DecryptInit, session, lent_mechanism(CKM_AES_CBC_PAD), aes);
    MUST(C_DecryptUpdate, session, encrypted, len, ignored, room_for_all());
}

void before_digest(void) { MUST(C_DigestInit, session, lent_mechanism(CKM_SHA256)); }

void before_digest_part(void) {
    before_digest();
    MUST(C_DigestUpdate, session, data.bytes, data.len);
}

void before_sign(void) { MUST(C_SignInit, session, lent_mechanism(CKM_SHA256_HMAC), generic); }

void before_sign_part(void) {
    before_sign();
    MUST(C_SignUpdate, session, data.bytes, data.len);
}

void before_sign_recover(void) { MUST(C_SignRecoverInit, session, lent_mechanism(CKM_RSA_PKCS), rsa_private); }

void before_verify(void) { MUST(C_VerifyInit, session, lent_mechanism(CKM_SHA256_HMAC), generic); }

void before_verify_part(void) {
    before_verify();
    MUST(C_VerifyUpdate, session, data.bytes, data.len);
}

void before_verify_recover(void) {
    MUST(C_VerifyRecoverInit, session, lent_mechanism(CKM_RSA_PKCS), rsa_public);
}

void before_digest_encrypt(void) {
    before_digest();
    before_encrypt();
}

void before_decrypt_digest(void) {
    before_decrypt();
    before_digest();
}

void before_sign_encrypt(void) {
    before_sign();
    before_encrypt();
}

void before_decrypt_verify(void) {
    before_decrypt();
    before_verify();
}

void before_message_encrypt(void) { MUST(C_MessageEncryptInit, session, lent_mechanism(CKM_AES_GCM), aes); }

void before_message_encrypt_begun(void) {
    CK_ULONG len;
    before_message_encrypt();
    void *parameter = message_parameter(&len);
    MUST(C_EncryptMessageBegin, session, parameter, len, NULL, 0);
}

void before_message_decrypt(void) { MUST(C_MessageDecryptInit, session, lent_mechanism(CKM_AES_GCM), aes); }

void before_message_decrypt_begun(void) {
    CK_ULONG len;
    before_message_decrypt();
    void *parameter = message_parameter(&len);
    MUST(C_DecryptMessageBegin, session, parameter, len, NULL, 0);
}

void before_message_sign(void) { MUST(C_MessageSignInit, session, lent_mechanism(CKM_SHA256_HMAC), generic); }

void before_message_sign_begun(void) {
    before_message_sign();
    MUST(C_SignMessageBegin, session, NULL, 0);
}

void before_message_verify(void) { MUST(C_MessageVerifyInit, session, lent_mechanism(CKM_SHA256_HMAC), generic); }

void before_message_verify_begun(void) {
    before_message_verify();
    MUST(C_VerifyMessageBegin, session, NULL, 0);
}

void before_verify_signature(void) {
    MUST(C_VerifySignatureInit, session, lent_mechanism(CKM_SHA256_HMAC), generic, mac.bytes, mac.len);
}

void before_verify_signature_part(void) {
    before_verify_signature();
    MUST(C_VerifySignatureUpdate, session, data.bytes, data.len);
}
