/* Read-only sessions, nobody logged in, the security officer, and slots and tokens in other states. */
#include "matrix.h"

/* Logins and logouts have tests of their own, and so has what needs one. */
static int keeps_the_state(const struct function *function) {
    switch (function - functions) {
    case FUNCTION_C_Initialize: case FUNCTION_C_Finalize: case FUNCTION_C_Logout: case FUNCTION_C_Login:
    case FUNCTION_C_LoginUser: case FUNCTION_C_SetPIN:
        return 0;
    default: return function->before != before_so_login;
    }
}

/* The calls of the table, where only what is said here may be refused. */
static void test_all_in(const char *state, CK_FLAGS flags, void (*enter)(void)) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (!keeps_the_state(each)) continue;
        scenario("%s %s", each->name, state);
        take_back();
        open_session(flags);
        enter();
        each->before();
        fill(each, words);
        expect(each, words, each->codes[0]);
    }
}

/* A template of the table, and one attribute more. */
static CK_ATTRIBUTE *with(const struct template *template, CK_ATTRIBUTE_TYPE type, CK_BBOOL value, CK_ULONG *count) {
    CK_ATTRIBUTE longer[32], *original = lent_template(template);
    CK_ULONG others = 0;
    for (CK_ULONG i = 0; i < template->count; i++)
        if (original[i].type != type) longer[others++] = original[i];
    longer[others++] = (CK_ATTRIBUTE){type, lent(&value, 1), 1};
    *count = others;
    return lent(longer, others * sizeof *longer);
}

/* Every function that makes an object is refused one with this attribute. */
static void test_makers(CK_ATTRIBUTE_TYPE type, CK_RV expected) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        size_t at = 0;
        if (each->codes[0] != CKR_OK || each == &functions[FUNCTION_C_FindObjectsInit] ||
            each == &functions[FUNCTION_C_SetAttributeValue])
            continue;
        for (const struct argument *argument = each->arguments; argument->kind != END; argument++) {
            /* The public half of a pair may be anybody's. */
            if (argument->kind == TEMPLATE && !(type == CKA_PRIVATE && argument->what == &template_ec_public)) {
                word words[MAX_WORDS];
                take_back();
                fill(each, words);
                words[at] = (word)with(argument->what, type, CK_TRUE, &words[at + 1]);
                expect(each, words, expected);
            }
            at += words_of(argument->kind);
        }
    }
}

static void test_read_only(void) {
    CK_OBJECT_HANDLE on_token;
    CK_ULONG count;
    scenario("in a read-only session");
    take_back();
    open_session(CKF_RW_SESSION);
    log_in();
    CK_ATTRIBUTE *template = with(&template_data_object, CKA_TOKEN, CK_TRUE, &count);
    MUST(C_CreateObject, session, template, count, &on_token);
    open_session(0);
    test_makers(CKA_TOKEN, CKR_SESSION_READ_ONLY);
    EXPECT(CKR_SESSION_READ_ONLY, C_DestroyObject, session, on_token);
    EXPECT(CKR_SESSION_READ_ONLY, C_SetAttributeValue, session, on_token, lent_template(&template_label),
           template_label.count);
    EXPECT(CKR_SESSION_READ_ONLY, C_SetPIN, session, user_pin.bytes, user_pin.len, user_pin.bytes, user_pin.len);
    log_out();
    EXPECT(CKR_SESSION_READ_ONLY_EXISTS, C_Login, keeper, CKU_SO, so_pin.bytes, so_pin.len);
    open_session(CKF_RW_SESSION);
    MUST(C_DestroyObject, session, on_token);
    test_all_in("in a read-only session", 0, log_in);
}

static void test_public(void) {
    test_all_in("without a login", CKF_RW_SESSION, log_out);
    scenario("without a login");
    take_back();
    open_session(CKF_RW_SESSION);
    log_out();
    test_makers(CKA_PRIVATE, CKR_USER_NOT_LOGGED_IN);
    EXPECT(CKR_USER_NOT_LOGGED_IN, C_Logout, session);
    EXPECT(CKR_USER_NOT_LOGGED_IN, C_InitPIN, session, user_pin.bytes, user_pin.len);
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_Login, session, CKU_CONTEXT_SPECIFIC, user_pin.bytes, user_pin.len);
    EXPECT(CKR_USER_TYPE_INVALID, C_Login, session, 7, user_pin.bytes, user_pin.len);
    EXPECT(CKR_USER_TYPE_INVALID, C_LoginUser, session, ~0UL, user_pin.bytes, user_pin.len, NULL, 0);
    EXPECT(CKR_PIN_INCORRECT, C_Login, session, CKU_USER, so_pin.bytes, so_pin.len);
    EXPECT(CKR_PIN_INCORRECT, C_SetPIN, session, so_pin.bytes, so_pin.len, user_pin.bytes, user_pin.len);
    EXPECT(CKR_PIN_LEN_RANGE, C_SetPIN, session, user_pin.bytes, user_pin.len, so_pin.bytes, 1);
}

/* The handles of private objects change with each login. */
static CK_OBJECT_HANDLE private_aes_now(void) {
    const CK_BBOOL yes = CK_TRUE;
    const CK_ATTRIBUTE wanted[] = {{CKA_TOKEN, lent(&yes, sizeof yes), sizeof yes}, {CKA_PRIVATE, lent(&yes, sizeof yes), sizeof yes}};
    CK_OBJECT_HANDLE found;
    CK_ULONG count;
    MUST(C_FindObjectsInit, session, lent(wanted, sizeof wanted), 2);
    MUST(C_FindObjects, session, &found, 1, &count);
    MUST(C_FindObjectsFinal, session);
    if (count != 1) failure("%lu private token objects were found", count);
    return found;
}

/* The handle of a private object ends with the login (section 5.6.10), also for the next one. */
static void test_after_logout(void) {
    CK_OBJECT_HANDLE key, found[2];
    CK_ULONG count, size;
    const CK_BYTE id[] = "after a logout";
    CK_ATTRIBUTE with_id = {CKA_ID, lent(id, sizeof id), sizeof id};
    scenario("a private key after a logout");
    log_in();
    EXPECT(CKR_OK, C_CopyObject, session, private_aes_now(), &with_id, 1, &key);
    MUST(C_EncryptInit, session, lent_mechanism(CKM_AES_CBC), key);
    MUST(C_FindObjectsInit, session, &with_id, 1);
    log_out();
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_Encrypt, session, data.bytes, data.len, room(16), lent_writable(&data.len, 8));
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_FindObjects, session, found, 2, &count);
    EXPECT(CKR_OBJECT_HANDLE_INVALID, C_GetObjectSize, session, key, &size);
    log_in();
    EXPECT(CKR_OBJECT_HANDLE_INVALID, C_GetObjectSize, session, key, &size);
    MUST(C_FindObjectsInit, session, &with_id, 1);
    EXPECT(CKR_OK, C_FindObjects, session, found, 2, &count);
    MUST(C_FindObjectsFinal, session);
    if (count != 1) failure("%lu keys were found", count);
    MUST(C_DestroyObject, session, found[0]);
}

static void test_user(void) {
    scenario("with the user logged in");
    log_in();
    EXPECT(CKR_USER_ALREADY_LOGGED_IN, C_Login, session, CKU_USER, user_pin.bytes, user_pin.len);
    EXPECT(CKR_USER_ANOTHER_ALREADY_LOGGED_IN, C_Login, session, CKU_SO, so_pin.bytes, so_pin.len);
    EXPECT(CKR_USER_NOT_LOGGED_IN, C_InitPIN, session, user_pin.bytes, user_pin.len);
    EXPECT(CKR_OPERATION_NOT_INITIALIZED, C_Login, session, CKU_CONTEXT_SPECIFIC, user_pin.bytes, user_pin.len);
}

static void as_security_officer(void) {
    CK_SESSION_INFO info;
    MUST(C_GetSessionInfo, session, &info);
    if (info.state != CKS_RW_SO_FUNCTIONS) before_so_login();
}

static void test_security_officer(void) {
    scenario("with the security officer logged in");
    take_back();
    open_session(CKF_RW_SESSION);
    as_security_officer();
    EXPECT(CKR_USER_ALREADY_LOGGED_IN, C_Login, session, CKU_SO, so_pin.bytes, so_pin.len);
    EXPECT(CKR_USER_ANOTHER_ALREADY_LOGGED_IN, C_Login, session, CKU_USER, user_pin.bytes, user_pin.len);
    EXPECT(CKR_SESSION_READ_WRITE_SO_EXISTS, C_OpenSession, own_slot, CKF_SERIAL_SESSION, NULL, NULL, room(8));
    EXPECT(CKR_PIN_LEN_RANGE, C_InitPIN, session, user_pin.bytes, 1);
    test_makers(CKA_PRIVATE, CKR_USER_NOT_LOGGED_IN);
    test_all_in("with the security officer logged in", CKF_RW_SESSION, as_security_officer);
    log_in();
}

static void test_slots(void) {
    CK_SLOT_ID empty = slot_with_token(0);
    CK_BYTE label[32] = "matrix                          ";
    scenario("in a slot whose token is not initialised");
    EXPECT(CKR_OK, C_GetSlotInfo, empty, room(sizeof(CK_SLOT_INFO)));
    EXPECT(CKR_OK, C_GetMechanismInfo, empty, CKM_AES_GCM, room(sizeof(CK_MECHANISM_INFO)));
    EXPECT(CKR_TOKEN_NOT_RECOGNIZED, C_OpenSession, empty, CKF_SERIAL_SESSION, NULL, NULL, room(8));
    EXPECT(CKR_OK, C_CloseAllSessions, empty);
    CALL(C_GetTokenInfo, empty, room(sizeof(CK_TOKEN_INFO)));
    CK_ULONG count = 0;
    EXPECT(CKR_OK, C_GetMechanismList, empty, NULL, &count);
    EXPECT(CKR_PIN_LEN_RANGE, C_InitToken, empty, so_pin.bytes, 3, label);
    scenario("after a token was made here");
    EXPECT(CKR_OK, C_InitToken, empty, so_pin.bytes, so_pin.len, label);
    /* Nobody inserted it. */
    EXPECT(CKR_NO_EVENT, C_WaitForSlotEvent, CKF_DONT_BLOCK, room(sizeof(CK_SLOT_ID)), NULL);
    scenario("in a slot with a token");
    CK_SESSION_HANDLE other;
    EXPECT(CKR_OK, C_OpenSession, other_slot, CKF_SERIAL_SESSION, NULL, NULL, &other);
    EXPECT(CKR_USER_PIN_NOT_INITIALIZED, C_Login, other, CKU_USER, user_pin.bytes, user_pin.len);
    EXPECT(CKR_SESSION_EXISTS, C_InitToken, own_slot, so_pin.bytes, so_pin.len, label);
    EXPECT(CKR_PIN_INCORRECT, C_InitToken, spare_slot, so_pin.bytes, so_pin.len - 1, label);
    EXPECT(CKR_SESSION_PARALLEL_NOT_SUPPORTED, C_OpenSession, own_slot, 0, NULL, NULL, room(8));
    EXPECT(CKR_SESSION_ASYNC_NOT_SUPPORTED, C_OpenSession, own_slot, CKF_SERIAL_SESSION | CKF_ASYNC_SESSION, NULL, NULL,
           room(8));
    const CK_MECHANISM_TYPE unknown[] = {CKM_VENDOR_DEFINED, CKM_VENDOR_DEFINED | 1, ~0UL, CKM_SKIPJACK_KEY_GEN};
    for (size_t i = 0; i < COUNT(unknown); i++)
        EXPECT(CKR_MECHANISM_INVALID, C_GetMechanismInfo, own_slot, unknown[i], room(sizeof(CK_MECHANISM_INFO)));
    take_back();
}

void test_states(void) {
    test_read_only();
    test_public();
    test_after_logout();
    test_user();
    test_security_officer();
    test_slots();
}
