/* Every length shorter than it should be, and longer than any memory. */
#include "matrix.h"

static const CK_ULONG impossible[] = {~0UL, ~0UL / 2, ~0UL / 2 + 1, ~0UL / sizeof(CK_ATTRIBUTE) + 1, 1UL << 40};

/* Must be refused, with whatever code says why. */
static void refused(const struct function *function, const word *words) {
    if (call(function, words) == CKR_OK) failure("%s succeeded", function->name);
}

static void test_shorter(const struct function *function, size_t at, CK_ULONG len) {
    const CK_ULONG shorter[] = {0, 1, len - 1};
    for (size_t i = 0; i < sizeof shorter / sizeof *shorter; i++) {
        word words[MAX_WORDS];
        if (shorter[i] >= len) continue;
        scenario("%s with %lu instead of %lu at word %zu", function->name, shorter[i], len, at + 1);
        prepare(function, words);
        words[at + 1] = shorter[i];
        call(function, words);
        scenario("%s with NULL, and 0 instead of %lu at word %zu", function->name, len, at + 1);
        prepare(function, words);
        words[at] = words[at + 1] = 0;
        call(function, words);
    }
}

static void test_impossible(const struct function *function, size_t at) {
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        word words[MAX_WORDS];
        scenario("%s with NULL and %#lx at word %zu", function->name, impossible[i], at);
        prepare(function, words);
        words[at] = 0;
        words[at + 1] = impossible[i];
        refused(function, words);
    }
    /* No object in memory is that large, so that the library may not believe it. */
    word words[MAX_WORDS];
    scenario("%s with a length of %#lx at word %zu", function->name, ~0UL, at + 1);
    prepare(function, words);
    words[at + 1] = ~0UL;
    refused(function, words);
}

void test_lengths(void) {
    for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
        size_t at = 0;
        for (const struct argument *each = function->arguments; each->kind != END; each++) {
            word words[MAX_WORDS];
            switch (each->kind) {
            case INPUT: case RANDOM: case TEMPLATE: case ATTRIBUTES: case MESSAGE_PARAMETER:
                prepare(function, words);
                test_shorter(function, at, words[at + 1]);
                test_impossible(function, at);
                break;
            case EMPTY:
                test_impossible(function, at);
                break;
            case FOUND:
                prepare(function, words);
                test_shorter(function, at, words[at + 1]);
                break;
            default: break;
            }
            at += words_of(each->kind);
        }
    }
}
