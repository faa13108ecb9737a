/* Tokens, sessions, keys, and what they have made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

CK_SLOT_ID own_slot, other_slot, spare_slot;
CK_SESSION_HANDLE session, keeper;
CK_OBJECT_HANDLE aes, generic, rsa_public, rsa_private, ec_public, ec_private, edwards_public, edwards_private;
CK_OBJECT_HANDLE data_object, certificate, expendable;
CK_OBJECT_HANDLE destroyed, foreign, private_aes;
struct bytes so_pin = {"56785678", 8}, user_pin = {"1234", 4}, data = {"sixteen bytes...", 16};
struct bytes mac, recoverable, wrapped, sealed, message, saved_state;
CK_BYTE message_tag[16], ec_point[67];
const CK_BYTE zeros[1000], ones[1025] = {[0 ... 1024] = 0xff};

/* --- templates ------------------------------------------------------------ */

static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static const CK_ULONG of_data = CKO_DATA, of_certificate = CKO_CERTIFICATE, of_secret_key = CKO_SECRET_KEY;
static const CK_ULONG of_generic_secret = CKK_GENERIC_SECRET, of_x509 = CKC_X_509;
static const CK_ULONG bytes_32 = 32, bits_2048 = 2048;
const CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
static const CK_BYTE exponent[] = {1, 0, 1};
static const CK_BYTE ed25519[] = {6, 3, 0x2b, 0x65, 0x70};

#define VALUE(type, value) {type, &(value), sizeof(value)}
#define TEMPLATE(name, ...) \
    static const struct attribute attributes_##name[] = {__VA_ARGS__}; \
    const struct template template_##name = {attributes_##name, sizeof attributes_##name / sizeof *attributes_##name}

TEMPLATE(label, {CKA_LABEL, "label", 5});
TEMPLATE(data_object, VALUE(CKA_CLASS, of_data), {CKA_LABEL, "datum", 5}, {CKA_VALUE, "value", 5});
TEMPLATE(certificate, VALUE(CKA_CLASS, of_certificate), VALUE(CKA_CERTIFICATE_TYPE, of_x509), {CKA_SUBJECT, "0\0", 2},
         {CKA_VALUE, "0\0", 2});
TEMPLATE(aes, VALUE(CKA_VALUE_LEN, bytes_32), VALUE(CKA_PRIVATE, no), VALUE(CKA_SENSITIVE, no),
         VALUE(CKA_EXTRACTABLE, yes), VALUE(CKA_ENCRYPT, yes), VALUE(CKA_DECRYPT, yes), VALUE(CKA_SIGN, yes),
         VALUE(CKA_VERIFY, yes), VALUE(CKA_WRAP, yes), VALUE(CKA_UNWRAP, yes), VALUE(CKA_DERIVE, yes));
TEMPLATE(generic, VALUE(CKA_CLASS, of_secret_key), VALUE(CKA_KEY_TYPE, of_generic_secret), VALUE(CKA_PRIVATE, no),
         VALUE(CKA_EXTRACTABLE, yes), VALUE(CKA_SIGN, yes), VALUE(CKA_VERIFY, yes));
TEMPLATE(generic_32, VALUE(CKA_VALUE_LEN, bytes_32), VALUE(CKA_PRIVATE, no), VALUE(CKA_EXTRACTABLE, yes),
         VALUE(CKA_SIGN, yes), VALUE(CKA_VERIFY, yes));
TEMPLATE(private_aes, VALUE(CKA_VALUE_LEN, bytes_32), VALUE(CKA_TOKEN, yes), VALUE(CKA_PRIVATE, yes));
TEMPLATE(ec_public, {CKA_EC_PARAMS, p256, sizeof p256}, VALUE(CKA_VERIFY, yes));
TEMPLATE(ec_private, VALUE(CKA_PRIVATE, no), VALUE(CKA_SIGN, yes), VALUE(CKA_DERIVE, yes));
TEMPLATE(edwards_public, {CKA_EC_PARAMS, ed25519, sizeof ed25519}, VALUE(CKA_VERIFY, yes));
TEMPLATE(edwards_private, VALUE(CKA_PRIVATE, no), VALUE(CKA_SIGN, yes));
TEMPLATE(rsa_public, VALUE(CKA_MODULUS_BITS, bits_2048), {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent},
         VALUE(CKA_ENCRYPT, yes), VALUE(CKA_VERIFY, yes), VALUE(CKA_VERIFY_RECOVER, yes), VALUE(CKA_WRAP, yes));
TEMPLATE(rsa_private, VALUE(CKA_PRIVATE, no), VALUE(CKA_DECRYPT, yes), VALUE(CKA_SIGN, yes),
         VALUE(CKA_SIGN_RECOVER, yes), VALUE(CKA_UNWRAP, yes));

/* --- sessions and logins -------------------------------------------------- */

void open_session(CK_FLAGS flags) {
    /* Whoever was tried may have closed it. */
    if (session) list->C_CloseSession(session);
    MUST(C_OpenSession, own_slot, CKF_SERIAL_SESSION | flags, NULL, NULL, &session);
}

static CK_STATE state(void) {
    CK_SESSION_INFO info;
    MUST(C_GetSessionInfo, keeper, &info);
    return info.state;
}

void log_in(void) {
    if (state() == CKS_RW_USER_FUNCTIONS) return;
    log_out();
    MUST(C_Login, keeper, CKU_USER, user_pin.bytes, user_pin.len);
}

void log_out(void) {
    if (state() != CKS_RW_PUBLIC_SESSION) MUST(C_Logout, keeper);
}

/* --- what there is -------------------------------------------------------- */

static void make_token(CK_SLOT_ID *slot) {
    static CK_BYTE label[32] = "matrix                          ";
    *slot = slot_with_token(0);
    MUST(C_InitToken, *slot, so_pin.bytes, so_pin.len, label);
}

CK_SLOT_ID slot_with_token(int initialized) {
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    /* With NULL the library looks anew. */
    MUST(C_GetSlotList, CK_TRUE, NULL, &count);
    count = 64;
    MUST(C_GetSlotList, CK_TRUE, slots, &count);
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        MUST(C_GetTokenInfo, slots[i], &info);
        if (!(info.flags & CKF_TOKEN_INITIALIZED) == !initialized) return slots[i];
    }
    fprintf(stderr, "no slot has such a token\n");
    exit(2);
}

static CK_OBJECT_HANDLE object(CK_SESSION_HANDLE in, const struct template *template) {
    CK_OBJECT_HANDLE made;
    MUST(C_CreateObject, in, lent_template(template), template->count, &made);
    return made;
}

static CK_OBJECT_HANDLE key(CK_SESSION_HANDLE in, CK_MECHANISM_TYPE type, const struct template *template) {
    CK_MECHANISM mechanism = {type, NULL, 0};
    CK_OBJECT_HANDLE made;
    MUST(C_GenerateKey, in, &mechanism, lent_template(template), template->count, &made);
    return made;
}

static void key_pair(CK_MECHANISM_TYPE type, const struct template *public, const struct template *private,
                     CK_OBJECT_HANDLE *public_key, CK_OBJECT_HANDLE *private_key) {
    CK_MECHANISM mechanism = {type, NULL, 0};
    MUST(C_GenerateKeyPair, keeper, &mechanism, lent_template(public), public->count, lent_template(private),
         private->count, public_key, private_key);
}

static void set_up_tokens(void) {
    make_token(&own_slot);
    make_token(&other_slot);
    make_token(&spare_slot);
    /* From here on there is no slot that the library has not told of. */
    slot_with_token(0);
    MUST(C_OpenSession, own_slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &keeper);
    MUST(C_Login, keeper, CKU_SO, so_pin.bytes, so_pin.len);
    MUST(C_InitPIN, keeper, user_pin.bytes, user_pin.len);
    MUST(C_Logout, keeper);
    log_in();
}

static void set_up_objects(void) {
    CK_SESSION_HANDLE other;
    MUST(C_OpenSession, other_slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &other);
    foreign = key(other, CKM_AES_KEY_GEN, &template_aes);
    aes = key(keeper, CKM_AES_KEY_GEN, &template_aes);
    generic = key(keeper, CKM_GENERIC_SECRET_KEY_GEN, &template_generic_32);
    private_aes = key(keeper, CKM_AES_KEY_GEN, &template_private_aes);
    destroyed = key(keeper, CKM_AES_KEY_GEN, &template_aes);
    MUST(C_DestroyObject, keeper, destroyed);
    key_pair(CKM_RSA_PKCS_KEY_PAIR_GEN, &template_rsa_public, &template_rsa_private, &rsa_public, &rsa_private);
    key_pair(CKM_EC_KEY_PAIR_GEN, &template_ec_public, &template_ec_private, &ec_public, &ec_private);
    key_pair(CKM_EC_EDWARDS_KEY_PAIR_GEN, &template_edwards_public, &template_edwards_private, &edwards_public,
             &edwards_private);
    CK_ATTRIBUTE point = {CKA_EC_POINT, ec_point, sizeof ec_point};
    MUST(C_GetAttributeValue, keeper, ec_public, &point, 1);
    data_object = object(keeper, &template_data_object);
    certificate = object(keeper, &template_certificate);
}

/* What other calls take apart. */
static void set_up_inputs(void) {
    struct bytes *made[] = {&mac, &recoverable, &wrapped, &sealed, &message, &saved_state};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) made[i]->len = sizeof made[i]->bytes;
    open_session(CKF_RW_SESSION);
    before_sign();
    MUST(C_Sign, session, data.bytes, data.len, mac.bytes, &mac.len);
    before_sign_recover();
    MUST(C_SignRecover, session, data.bytes, data.len, recoverable.bytes, &recoverable.len);
    MUST(C_WrapKey, session, lent_mechanism(CKM_AES_KEY_WRAP), aes, generic, wrapped.bytes, &wrapped.len);
    MUST(C_WrapKeyAuthenticated, session, lent_mechanism(CKM_AES_GCM), aes, generic, data.bytes, data.len, sealed.bytes,
         &sealed.len);
    before_message_encrypt();
    CK_ULONG len;
    CK_GCM_MESSAGE_PARAMS *given = message_parameter(&len);
    MUST(C_EncryptMessage, session, given, len, NULL, 0, data.bytes, data.len, message.bytes, &message.len);
    memcpy(message_tag, given->pTag, sizeof message_tag);
    /* A message-based operation cannot be saved. */
    open_session(CKF_RW_SESSION);
    before_digest_part();
    MUST(C_GetOperationState, session, saved_state.bytes, &saved_state.len);
}

void set_up(void) {
    scenario("setting up");
    set_up_tokens();
    set_up_objects();
    set_up_inputs();
    take_back();
}
