/* The convention of section 5.2: a query, a buffer that is too small, and one that suffices. */
#include <string.h>

#include "matrix.h"

/* Where the output of a call is, and how long it is. */
struct output {
    const struct function *function;
    word *words, *at;
    size_t unit; /* bytes of each element */
};

static CK_ULONG *set(struct output *output, void *buffer, CK_ULONG len) {
    CK_ULONG *place = lent_writable(&len, sizeof len);
    output->at[0] = (word)buffer;
    output->at[1] = (word)place;
    return place;
}

static void too_small(struct output *output, CK_ULONG given, CK_ULONG needed) {
    unsigned char *buffer = room(given * output->unit);
    CK_ULONG *len = set(output, buffer, given);
    expect(output->function, output->words, CKR_BUFFER_TOO_SMALL);
    if (*len < needed) failure("%s says that %lu suffice, which need %lu", output->function->name, *len, needed);
    if (!untouched(buffer, given * output->unit)) failure("%s wrote into a buffer that is too small", output->function->name);
}

/* Everything in one operation that gives `needed`, ended by a call that succeeds; the buffer with what it gave. */
static unsigned char *test_output(struct output *output, CK_ULONG needed) {
    CK_ULONG *len = set(output, NULL, 12345);
    expect(output->function, output->words, CKR_OK);
    if (*len < needed) failure("%s says that %lu suffice, which need %lu", output->function->name, *len, needed);
    if (needed > 0) {
        too_small(output, 0, needed);
        too_small(output, needed - 1, needed);
        too_small(output, needed / 2, needed);
    }
    unsigned char *buffer = room(needed * output->unit);
    len = set(output, buffer, needed);
    expect(output->function, output->words, CKR_OK);
    if (*len != needed) failure("%s gave %lu instead of %lu", output->function->name, *len, needed);
    return buffer;
}

/* More room than is needed: what is behind the result stays as it is. */
static void test_more_room(struct output *output, CK_ULONG needed) {
    const CK_ULONG more = 40;
    unsigned char *buffer = room((needed + more) * output->unit);
    CK_ULONG *len = set(output, buffer, needed + more);
    expect(output->function, output->words, CKR_OK);
    if (*len != needed) failure("%s gave %lu instead of %lu", output->function->name, *len, needed);
    if (!untouched(buffer + needed * output->unit, more * output->unit))
        failure("%s wrote behind its result", output->function->name);
}

static void test_function(const struct function *function, const struct argument *argument, size_t at) {
    word words[MAX_WORDS];
    struct output output = {function, words, words + at, 1};
    CK_ULONG needed = argument->number;
    scenario("%s with buffers of all lengths", function->name);
    prepare(function, words);
    if (argument->kind == LIST) {
        output.unit = function == &functions[FUNCTION_C_GetInterfaceList] ? sizeof(CK_INTERFACE) : sizeof(CK_ULONG);
        CK_ULONG *len = set(&output, NULL, 0);
        expect(function, words, CKR_OK);
        needed = *len;
    }
    test_output(&output, needed);
    scenario("%s with more room than it needs", function->name);
    prepare(function, words);
    test_more_room(&output, needed);
}

/* --- the lengths that mechanisms have ------------------------------------- */

struct case_of {
    CK_MECHANISM_TYPE type;
    const CK_OBJECT_HANDLE *key, *inverse_key;
    CK_ULONG input_len, output_len;
};

static void start(CK_RV (*init)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE), const char *name,
                  const struct case_of *each, CK_OBJECT_HANDLE key) {
    scenario("%s with mechanism %#lx", name, each->type);
    must(name, init(session, lent_mechanism(each->type), key), __LINE__);
}

/* Makes the call (session, input, output) through all lengths; what it gave. */
static unsigned char *test_call(enum function_number number, const void *input, CK_ULONG input_len, CK_ULONG needed) {
    word words[MAX_WORDS] = {session, (word)lent(input, input_len), input_len};
    struct output output = {&functions[number], words, words + 3, 1};
    return test_output(&output, needed);
}

static void test_digests(void) {
    const struct case_of cases[] = {
        {CKM_SHA_1, NULL, NULL, 16, 20},    {CKM_SHA224, NULL, NULL, 16, 28},
        {CKM_SHA384, NULL, NULL, 16, 48},   {CKM_SHA512, NULL, NULL, 0, 64},
        {CKM_SHA3_256, NULL, NULL, 16, 32}, {CKM_SHA3_512, NULL, NULL, 16, 64},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        scenario("C_Digest with mechanism %#lx", cases[i].type);
        take_back();
        MUST(C_DigestInit, session, lent_mechanism(cases[i].type));
        test_call(FUNCTION_C_Digest, zeros, cases[i].input_len, cases[i].output_len);
    }
}

static void test_signatures(void) {
    const struct case_of cases[] = {
        {CKM_SHA_1_HMAC, &generic, &generic, 16, 20},
        {CKM_SHA512_HMAC, &generic, &generic, 0, 64},
        {CKM_AES_CMAC, &aes, &aes, 16, 16},
        {CKM_AES_MAC, &aes, &aes, 16, 8},
        {CKM_RSA_PKCS, &rsa_private, &rsa_public, 16, 256},
        {CKM_SHA256_RSA_PKCS, &rsa_private, &rsa_public, 16, 256},
        {CKM_RSA_X_509, &rsa_private, &rsa_public, 256, 256},
        {CKM_RSA_PKCS_PSS, &rsa_private, &rsa_public, 32, 256},
        {CKM_ECDSA, &ec_private, &ec_public, 32, 64},
        {CKM_ECDSA_SHA384, &ec_private, &ec_public, 16, 64},
        {CKM_EDDSA, &edwards_private, &edwards_public, 16, 64},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct case_of *each = &cases[i];
        take_back();
        start(list->C_SignInit, "C_SignInit", each, *each->key);
        unsigned char *signature = test_call(FUNCTION_C_Sign, zeros, each->input_len, each->output_len);
        start(list->C_VerifyInit, "C_VerifyInit", each, *each->inverse_key);
        EXPECT(CKR_OK, C_Verify, session, lent(zeros, each->input_len), each->input_len, signature, each->output_len);
    }
}

static void test_ciphers(void) {
    const struct case_of cases[] = {
        {CKM_AES_ECB, &aes, &aes, 48, 48},
        {CKM_AES_CBC, &aes, &aes, 32, 32},
        {CKM_AES_CBC_PAD, &aes, &aes, 15, 16},
        {CKM_AES_CBC_PAD, &aes, &aes, 16, 32},
        {CKM_AES_CTR, &aes, &aes, 17, 17},
        {CKM_AES_GCM, &aes, &aes, 17, 33},
        {CKM_AES_GCM, &aes, &aes, 0, 16},
        {CKM_RSA_PKCS, &rsa_public, &rsa_private, 16, 256},
        {CKM_RSA_PKCS_OAEP, &rsa_public, &rsa_private, 16, 256},
        {CKM_RSA_X_509, &rsa_public, &rsa_private, 256, 256},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct case_of *each = &cases[i];
        take_back();
        start(list->C_EncryptInit, "C_EncryptInit", each, *each->key);
        unsigned char *encrypted = test_call(FUNCTION_C_Encrypt, zeros, each->input_len, each->output_len);
        start(list->C_DecryptInit, "C_DecryptInit", each, *each->inverse_key);
        unsigned char *plain = test_call(FUNCTION_C_Decrypt, encrypted, each->output_len, each->input_len);
        if (memcmp(plain, zeros, each->input_len)) failure("the plaintext did not come back");
    }
}

/* Parts, and the end: each with a query and a buffer that is too small, after which the part is taken but once. */
static void test_parts(void) {
    const struct {
        struct case_of each;
        CK_ULONG from_update, from_final;
    } cases[] = {
        {{CKM_AES_ECB, &aes, &aes, 20, 0}, 16, 0},
        {{CKM_AES_CBC, &aes, &aes, 20, 0}, 16, 0},
        {{CKM_AES_CBC_PAD, &aes, &aes, 20, 0}, 16, 16},
        {{CKM_AES_CTR, &aes, &aes, 20, 0}, 20, 0},
        {{CKM_AES_GCM, &aes, &aes, 20, 0}, 0, 36},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct case_of *each = &cases[i].each;
        take_back();
        start(list->C_EncryptInit, "C_EncryptInit", each, *each->key);
        word words[MAX_WORDS] = {session, (word)lent(zeros, each->input_len), each->input_len};
        struct output output = {&functions[FUNCTION_C_EncryptUpdate], words, words + 3, 1};
        test_output(&output, cases[i].from_update);
        word end[MAX_WORDS] = {session};
        struct output last = {&functions[FUNCTION_C_EncryptFinal], end, end + 1, 1};
        if (each->type == CKM_AES_ECB || each->type == CKM_AES_CBC) {
            /* Four bytes of a block are left over, and that is an end, too. */
            set(&last, room(16), 16);
            expect(last.function, end, CKR_DATA_LEN_RANGE);
        } else {
            test_output(&last, cases[i].from_final);
        }
        expect(last.function, end, CKR_OPERATION_NOT_INITIALIZED);
    }
}

static void test_wraps(void) {
    const struct case_of cases[] = {
        {CKM_AES_KEY_WRAP, &aes, &aes, 32, 40},
        {CKM_AES_KEY_WRAP_KWP, &aes, &aes, 32, 40},
        {CKM_AES_ECB, &aes, &aes, 32, 32},
        {CKM_AES_CBC, &aes, &aes, 32, 32},
        {CKM_AES_CBC_PAD, &aes, &aes, 32, 48},
        {CKM_AES_GCM, &aes, &aes, 32, 48},
        {CKM_RSA_PKCS, &rsa_public, &rsa_private, 32, 256},
        {CKM_RSA_PKCS_OAEP, &rsa_public, &rsa_private, 32, 256},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const struct case_of *each = &cases[i];
        scenario("C_WrapKey with mechanism %#lx", each->type);
        take_back();
        word words[MAX_WORDS] = {session, (word)lent_mechanism(each->type), *each->key, generic};
        struct output output = {&functions[FUNCTION_C_WrapKey], words, words + 4, 1};
        unsigned char *wrapped_key = test_output(&output, each->output_len);
        CK_OBJECT_HANDLE *key = room(sizeof *key);
        EXPECT(CKR_OK, C_UnwrapKey, session, lent_mechanism(each->type), *each->inverse_key, wrapped_key, each->output_len,
               lent_template(&template_generic), template_generic.count, key);
    }
}

void test_buffers(void) {
    for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
        size_t at = 0;
        if (function == &functions[FUNCTION_C_EncapsulateKey]) continue; /* its key in the table does not encapsulate */
        for (const struct argument *each = function->arguments; each->kind != END; each++) {
            if (each->kind == OUTPUT || each->kind == LAST_OUTPUT || each->kind == LIST) test_function(function, each, at);
            at += words_of(each->kind);
        }
    }
    take_back();
    open_session(CKF_RW_SESSION);
    test_digests();
    test_signatures();
    test_ciphers();
    test_parts();
    test_wraps();
}
