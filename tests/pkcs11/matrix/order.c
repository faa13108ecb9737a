/* Steps without a beginning, twice, after the end, and in the midst of something else. */
#include "matrix.h"

/* Is the call a step of an operation that another one has begun? */
static int is_step(const struct function *function) {
    return function->before != before_nothing && function->before != before_logout && function->before != before_so_login &&
           function->before != before_make_expendable;
}

static int starts(const struct function *function) { return function->arguments[1].kind == STARTING; }

static void test_without_beginning(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (!is_step(each)) continue;
        scenario("%s without a beginning", each->name);
        prepare(each, words);
        open_session(CKF_RW_SESSION);
        words[0] = session;
        expect(each, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

static void test_twice(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (!starts(each) && each != &functions[FUNCTION_C_FindObjectsInit]) continue;
        scenario("%s twice", each->name);
        prepare(each, words);
        expect(each, words, CKR_OK);
        expect(each, words, CKR_OPERATION_ACTIVE);
        if (!starts(each)) continue;
        scenario("%s without a mechanism", each->name);
        words[1] = 0;
        expect(each, words, CKR_OK);
        expect(each, words, CKR_ARGUMENTS_BAD);
    }
}

/* What ends its operation when it succeeds. */
static const enum function_number last_steps[] = {
    FUNCTION_C_FindObjectsFinal, FUNCTION_C_Encrypt, FUNCTION_C_EncryptFinal, FUNCTION_C_Decrypt, FUNCTION_C_DecryptFinal,
    FUNCTION_C_Digest, FUNCTION_C_DigestFinal, FUNCTION_C_Sign, FUNCTION_C_SignFinal, FUNCTION_C_SignRecover,
    FUNCTION_C_Verify, FUNCTION_C_VerifyFinal, FUNCTION_C_VerifyRecover, FUNCTION_C_VerifySignature,
    FUNCTION_C_VerifySignatureFinal, FUNCTION_C_MessageEncryptFinal, FUNCTION_C_MessageDecryptFinal,
    FUNCTION_C_MessageSignFinal, FUNCTION_C_MessageVerifyFinal, FUNCTION_C_EncryptMessageNext,
    FUNCTION_C_DecryptMessageNext, FUNCTION_C_SignMessageNext, FUNCTION_C_VerifyMessageNext,
};

static void test_after_the_end(void) {
    for (size_t i = 0; i < COUNT(last_steps); i++) {
        const struct function *function = &functions[last_steps[i]];
        word words[MAX_WORDS];
        scenario("%s twice", function->name);
        prepare(function, words);
        expect(function, words, CKR_OK);
        fill(function, words);
        expect(function, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

/* Calls of one operation, in an order that is none: the second one finds nothing that waits for it. */
static void test_out_of_order(void) {
    const struct {
        enum function_number first, then;
    } pairs[] = {
        {FUNCTION_C_EncryptUpdate, FUNCTION_C_Encrypt},
        {FUNCTION_C_DecryptUpdate, FUNCTION_C_Decrypt},
        {FUNCTION_C_DigestUpdate, FUNCTION_C_Digest},
        {FUNCTION_C_DigestKey, FUNCTION_C_Digest},
        {FUNCTION_C_SignUpdate, FUNCTION_C_Sign},
        {FUNCTION_C_VerifyUpdate, FUNCTION_C_Verify},
        {FUNCTION_C_VerifySignatureUpdate, FUNCTION_C_VerifySignature},
        {FUNCTION_C_EncryptFinal, FUNCTION_C_EncryptUpdate},
        {FUNCTION_C_DecryptFinal, FUNCTION_C_DecryptUpdate},
        {FUNCTION_C_DigestFinal, FUNCTION_C_DigestUpdate},
        {FUNCTION_C_SignFinal, FUNCTION_C_SignUpdate},
        {FUNCTION_C_VerifyFinal, FUNCTION_C_VerifyUpdate},
        {FUNCTION_C_VerifySignatureFinal, FUNCTION_C_VerifySignatureUpdate},
        {FUNCTION_C_FindObjectsFinal, FUNCTION_C_FindObjects},
        {FUNCTION_C_MessageEncryptFinal, FUNCTION_C_EncryptMessage},
        {FUNCTION_C_MessageDecryptFinal, FUNCTION_C_DecryptMessage},
        {FUNCTION_C_MessageSignFinal, FUNCTION_C_SignMessage},
        {FUNCTION_C_MessageVerifyFinal, FUNCTION_C_VerifyMessage},
    };
    for (size_t i = 0; i < COUNT(pairs); i++) {
        const struct function *first = &functions[pairs[i].first], *then = &functions[pairs[i].then];
        word words[MAX_WORDS];
        scenario("%s and then %s", first->name, then->name);
        prepare(first, words);
        expect(first, words, CKR_OK);
        fill(then, words);
        expect(then, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

/* Parts of a message before its beginning; messages, and new beginnings, before its end. */
static void test_messages_out_of_order(void) {
    const struct {
        enum function_number function;
        void (*before)(void);
        CK_RV expected;
    } cases[] = {
        {FUNCTION_C_EncryptMessageNext, before_message_encrypt, CKR_OPERATION_NOT_INITIALIZED},
        {FUNCTION_C_DecryptMessageNext, before_message_decrypt, CKR_OPERATION_NOT_INITIALIZED},
        {FUNCTION_C_SignMessageNext, before_message_sign, CKR_OPERATION_NOT_INITIALIZED},
        {FUNCTION_C_VerifyMessageNext, before_message_verify, CKR_OPERATION_NOT_INITIALIZED},
        {FUNCTION_C_EncryptMessageBegin, before_message_encrypt_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_DecryptMessageBegin, before_message_decrypt_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_SignMessageBegin, before_message_sign_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_VerifyMessageBegin, before_message_verify_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_EncryptMessage, before_message_encrypt_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_DecryptMessage, before_message_decrypt_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_SignMessage, before_message_sign_begun, CKR_OPERATION_ACTIVE},
        {FUNCTION_C_VerifyMessage, before_message_verify_begun, CKR_OPERATION_ACTIVE},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct function *function = &functions[cases[i].function];
        word words[MAX_WORDS];
        scenario("%s out of order", function->name);
        take_back();
        open_session(CKF_RW_SESSION);
        cases[i].before();
        fill(function, words);
        expect(function, words, cases[i].expected);
    }
}

/* Whatever is in progress can be cancelled; nothing of it is left. */
static void test_cancelled(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (!is_step(each)) continue;
        scenario("%s after C_SessionCancel", each->name);
        prepare(each, words);
        EXPECT(CKR_OK, C_SessionCancel, session, ~0UL);
        expect(each, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

/* Two operations are wanted, and there is one. */
static void test_half_of_two(void) {
    const struct {
        enum function_number function;
        void (*before)(void);
    } cases[] = {
        {FUNCTION_C_DigestEncryptUpdate, before_digest}, {FUNCTION_C_DigestEncryptUpdate, before_encrypt},
        {FUNCTION_C_DecryptDigestUpdate, before_digest}, {FUNCTION_C_DecryptDigestUpdate, before_decrypt},
        {FUNCTION_C_SignEncryptUpdate, before_sign},     {FUNCTION_C_SignEncryptUpdate, before_encrypt},
        {FUNCTION_C_DecryptVerifyUpdate, before_verify}, {FUNCTION_C_DecryptVerifyUpdate, before_decrypt},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct function *function = &functions[cases[i].function];
        word words[MAX_WORDS];
        scenario("%s with one of its operations", function->name);
        take_back();
        open_session(CKF_RW_SESSION);
        cases[i].before();
        fill(function, words);
        expect(function, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

/* Every call in the midst of every operation: those of other operations go on as if there were none. */
static void test_during_others(void) {
    for (const struct function *other = functions; other < functions + FUNCTIONS; other++) {
        if (!is_step(other)) continue;
        for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
            word words[MAX_WORDS];
            if (function->arguments[0].kind != SESSION || function->before == before_logout ||
                function->before == before_so_login || function == &functions[FUNCTION_C_SetPIN])
                continue;
            scenario("%s during what %s belongs to", function->name, other->name);
            take_back();
            open_session(CKF_RW_SESSION);
            log_in();
            other->before();
            fill(function, words);
            call(function, words);
        }
    }
}

/* Faults that end an operation: the next step finds none. */
static void test_faults_end_operations(void) {
    const struct {
        enum function_number function;
        size_t len_at; /* the word that is made smaller by one */
        CK_RV expected;
    } faults[] = {
        {FUNCTION_C_Encrypt, 2, CKR_DATA_LEN_RANGE},
        {FUNCTION_C_Decrypt, 2, CKR_ENCRYPTED_DATA_LEN_RANGE},
        {FUNCTION_C_Verify, 4, CKR_SIGNATURE_LEN_RANGE},
        {FUNCTION_C_Verify, 2, CKR_SIGNATURE_INVALID},
        {FUNCTION_C_VerifyFinal, 2, CKR_SIGNATURE_LEN_RANGE},
        {FUNCTION_C_VerifySignature, 2, CKR_SIGNATURE_INVALID},
        {FUNCTION_C_VerifyRecover, 2, CKR_SIGNATURE_LEN_RANGE},
    };
    for (size_t i = 0; i < COUNT(faults); i++) {
        const struct function *function = &functions[faults[i].function];
        word words[MAX_WORDS];
        scenario("%s with a fault", function->name);
        prepare(function, words);
        words[faults[i].len_at]--;
        expect(function, words, faults[i].expected);
        fill(function, words);
        expect(function, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

/* A step ends its operation with every error but CKR_BUFFER_TOO_SMALL, also if it is the arguments that are wrong. */
static void test_bad_arguments_end_operations(void) {
    const struct {
        enum function_number function;
        size_t null_at; /* the word that is NULL: input, or the pointer to the output's length */
    } cases[] = {
        {FUNCTION_C_Encrypt, 1},        {FUNCTION_C_EncryptUpdate, 1},   {FUNCTION_C_EncryptFinal, 2},
        {FUNCTION_C_Decrypt, 1},        {FUNCTION_C_DecryptUpdate, 1},   {FUNCTION_C_DecryptFinal, 2},
        {FUNCTION_C_Digest, 1},         {FUNCTION_C_DigestUpdate, 1},    {FUNCTION_C_DigestFinal, 2},
        {FUNCTION_C_Sign, 1},           {FUNCTION_C_SignUpdate, 1},      {FUNCTION_C_SignFinal, 2},
        {FUNCTION_C_SignRecover, 1},    {FUNCTION_C_Verify, 1},          {FUNCTION_C_VerifyUpdate, 1},
        {FUNCTION_C_VerifyFinal, 1},    {FUNCTION_C_VerifyRecover, 1},   {FUNCTION_C_VerifySignature, 1},
        {FUNCTION_C_VerifySignatureUpdate, 1},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct function *function = &functions[cases[i].function];
        word words[MAX_WORDS];
        scenario("%s after a call with NULL", function->name);
        prepare(function, words);
        words[cases[i].null_at] = 0;
        expect(function, words, CKR_ARGUMENTS_BAD);
        fill(function, words);
        expect(function, words, CKR_OPERATION_NOT_INITIALIZED);
    }
}

void test_order(void) {
    test_bad_arguments_end_operations();
    test_without_beginning();
    test_twice();
    test_after_the_end();
    test_out_of_order();
    test_messages_out_of_order();
    test_cancelled();
    test_half_of_two();
    test_during_others();
    test_faults_end_operations();
}
