/* Handles of what is not, is no more, or is somebody else's. */
#include "matrix.h"

/* C_GetFunctionStatus and C_CancelFunction have one answer to everything. */
static CK_RV answer_to_bad_session(const struct function *function) {
    return function->codes[0] == CKR_FUNCTION_NOT_PARALLEL ? CKR_FUNCTION_NOT_PARALLEL : CKR_SESSION_HANDLE_INVALID;
}

static void test_session(const struct function *function, CK_SESSION_HANDLE handle, const char *what) {
    word words[MAX_WORDS];
    scenario("%s in %s", function->name, what);
    prepare(function, words);
    words[0] = handle;
    expect(function, words, answer_to_bad_session(function));
}

static void test_sessions(void) {
    CK_SESSION_HANDLE closed, closed_with_all;
    MUST(C_OpenSession, own_slot, CKF_SERIAL_SESSION, NULL, NULL, &closed);
    MUST(C_CloseSession, closed);
    MUST(C_OpenSession, spare_slot, CKF_SERIAL_SESSION, NULL, NULL, &closed_with_all);
    MUST(C_CloseAllSessions, spare_slot);
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        if (each->arguments[0].kind != SESSION) continue;
        test_session(each, 0, "session 0");
        test_session(each, ~0UL, "a session that never was");
        test_session(each, closed, "a closed session");
        test_session(each, closed_with_all, "a session that was closed with all others");
        test_session(each, aes, "a session whose handle is an object's");
    }
}

static void test_slots(void) {
    const CK_SLOT_ID none[] = {~0UL, 0x7ffffffe, 1UL << 40};
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        if (each->arguments[0].kind != SLOT) continue;
        for (size_t i = 0; i < COUNT(none); i++) {
            word words[MAX_WORDS];
            scenario("%s in slot %#lx", each->name, none[i]);
            prepare(each, words);
            words[0] = none[i];
            expect(each, words, CKR_SLOT_ID_INVALID);
        }
    }
}

static CK_RV code_of_bad(enum kind kind) {
    switch (kind) {
    case KEY: return CKR_KEY_HANDLE_INVALID;
    case OBJECT: return CKR_OBJECT_HANDLE_INVALID;
    case WRAPPING: return CKR_WRAPPING_KEY_HANDLE_INVALID;
    default: return CKR_UNWRAPPING_KEY_HANDLE_INVALID;
    }
}

/* Whether there is such a mechanism may be looked at before the key. */
static void expect_bad_handle(const struct function *function, const word *words, enum kind kind) {
    CK_RV always = function->codes[0];
    expect_either(function, words, code_of_bad(kind), always == CKR_OK ? code_of_bad(kind) : always);
}

static void test_object(const struct function *function, size_t at, enum kind kind) {
    const struct {
        CK_OBJECT_HANDLE handle;
        const char *what;
        int is_object;
    } handles[] = {
        {0, "0", 0},
        {~0UL, "of nothing", 0},
        {destroyed, "of a destroyed key", 0},
        {foreign, "of another token's key", 0},
        {session, "of a session", 0},
        {data_object, "of data", 1},
        {certificate, "of a certificate", 1},
    };
    word words[MAX_WORDS];
    for (size_t i = 0; i < COUNT(handles); i++) {
        if (kind == OBJECT && handles[i].is_object) continue;
        scenario("%s with a handle %s at word %zu", function->name, handles[i].what, at);
        prepare(function, words);
        words[at] = handles[i].handle;
        expect_bad_handle(function, words, kind);
    }
    scenario("%s with the handle of a private key at word %zu, and nobody logged in", function->name, at);
    prepare(function, words);
    log_out();
    words[at] = private_aes;
    expect_bad_handle(function, words, kind);
    /* Keys that exist, and are not for this: what is wrong with them is the library's to say. */
    const CK_OBJECT_HANDLE others[] = {rsa_public, rsa_private, ec_public, ec_private, generic, aes};
    for (size_t i = 0; i < COUNT(others); i++) {
        if (function == &functions[FUNCTION_C_DestroyObject]) break;
        scenario("%s with key %zu at word %zu", function->name, i, at);
        prepare(function, words);
        words[at] = others[i];
        call(function, words);
    }
}

static void test_objects(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        size_t at = 0;
        for (const struct argument *argument = each->arguments; argument->kind != END; argument++) {
            enum kind kind = argument->kind;
            if (kind == KEY || kind == OBJECT || kind == WRAPPING || kind == UNWRAPPING) test_object(each, at, kind);
            at += words_of(kind);
        }
    }
}

void test_handles(void) {
    test_sessions();
    test_slots();
    test_objects();
}

void test_handles_of_before(void) {
    const CK_OBJECT_HANDLE objects[] = {aes, data_object, private_aes, foreign};
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (each->arguments[0].kind != SESSION) continue;
        scenario("%s in a session of before C_Finalize", each->name);
        fill(each, words);
        words[0] = keeper;
        expect(each, words, answer_to_bad_session(each));
        take_back();
    }
    scenario("a new session");
    MUST(C_OpenSession, slot_with_token(1), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session);
    for (size_t i = 0; i < COUNT(objects); i++) {
        CK_ULONG size;
        scenario("object %zu of before C_Finalize", i);
        EXPECT(CKR_OBJECT_HANDLE_INVALID, C_GetObjectSize, session, objects[i], &size);
        EXPECT(CKR_OBJECT_HANDLE_INVALID, C_DestroyObject, session, objects[i]);
        EXPECT(CKR_KEY_HANDLE_INVALID, C_EncryptInit, session, lent_mechanism(CKM_AES_CBC), objects[i]);
        take_back();
    }
}
