/* Every pointer NULL, one after the other and all at once. */
#include "matrix.h"

/* Some functions refuse whatever comes, and need not look at it. */
static void expect_refusal(const struct function *function, const word *words, CK_RV code) {
    CK_RV always = function->codes[0];
    expect_either(function, words, code, always == CKR_OK || always == CKR_NO_EVENT ? code : always);
}

/* The first word is NULL. */
static void test_first(const struct function *function, const struct argument *argument, word *words, word *at) {
    *at = 0;
    switch (argument->kind) {
    case MECHANISM: case STARTING: case INPUT: case FOUND: case RANDOM: case TEMPLATE: case ATTRIBUTES: case RESULT:
    case LABEL:
        expect_refusal(function, words, CKR_ARGUMENTS_BAD);
        break;
    case MESSAGE_PARAMETER: expect_either(function, words, CKR_MECHANISM_PARAM_INVALID, CKR_ARGUMENTS_BAD); break;
    case OUTPUT: case LAST_OUTPUT: case LIST: case TEXT: expect(function, words, function->codes[0]); break;
    case EMPTY:
        at[1] = 5;
        expect_either(function, words, CKR_ARGUMENTS_BAD, CKR_MECHANISM_PARAM_INVALID);
        break;
    case RESERVED:
        *at = 1;
        expect(function, words, CKR_ARGUMENTS_BAD);
        break;
    default: break;
    }
}

/* The pointer to a length is NULL. */
static void test_length(const struct function *function, const struct argument *argument, word *words, word *at) {
    switch (argument->kind) {
    case OUTPUT: case LIST: at[1] = 0; break;
    case FOUND: at[2] = 0; break;
    default: return;
    }
    expect_refusal(function, words, CKR_ARGUMENTS_BAD);
    if (argument->kind == FOUND) return;
    at[0] = 0;
    expect_refusal(function, words, CKR_ARGUMENTS_BAD);
}

static void test_all(const struct function *function) {
    word words[MAX_WORDS] = {0};
    if (function == &functions[FUNCTION_C_Initialize] || function == &functions[FUNCTION_C_Finalize]) return;
    scenario("%s without arguments", function->name);
    prepare(function, words);
    for (size_t i = 1; i < MAX_WORDS; i++) words[i] = 0;
    if (function->arguments[0].kind == SESSION) {
        words[0] = 0;
        expect_refusal(function, words, CKR_SESSION_HANDLE_INVALID);
        words[0] = session;
    } else if (function->arguments[0].kind != SLOT) {
        words[0] = 0;
    }
    scenario("%s with nothing but a session or a slot", function->name);
    call(function, words);
}

void test_nulls(void) {
    for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
        size_t at = 0;
        for (const struct argument *each = function->arguments; each->kind != END; each++) {
            word words[MAX_WORDS];
            scenario("%s with NULL at word %zu", function->name, at);
            prepare(function, words);
            test_first(function, each, words, words + at);
            scenario("%s with NULL for the length at word %zu", function->name, at);
            prepare(function, words);
            test_length(function, each, words, words + at);
            at += words_of(each->kind);
        }
        test_all(function);
    }
}
