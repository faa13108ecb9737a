/* Templates with attributes that are twice there, of the wrong size, unknown, or without their value. */
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

static const CK_BBOOL two_booleans[] = {CK_TRUE, CK_TRUE};
static const CK_ULONG number = 16;

/* An attribute that is added to the table's template, and the code for it. */
static const struct {
    const char *what;
    CK_ATTRIBUTE_TYPE type;
    const void *value;
    CK_ULONG len, real_len;
    CK_RV one, other;
} faults[] = {
    {"a boolean without a byte", CKA_MODIFIABLE, two_booleans, 0, 0, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID},
    {"a boolean of two bytes", CKA_MODIFIABLE, two_booleans, 2, 2, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID},
    {"a number of four bytes", CKA_KEY_GEN_MECHANISM, &number, 4, 4, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ATTRIBUTE_READ_ONLY},
    {"a number of no bytes", CKA_MODULUS_BITS, &number, 0, 0, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ATTRIBUTE_TYPE_INVALID},
    {"an unknown attribute", 0x3fffffff, &number, 8, 8, CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_TYPE_INVALID},
    {"an attribute of a vendor", CKA_VENDOR_DEFINED | 77, &number, 8, 8, CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_TYPE_INVALID},
    {"an attribute with all bits set", ~0UL, &number, 8, 8, CKR_ATTRIBUTE_TYPE_INVALID, CKR_ATTRIBUTE_TYPE_INVALID},
    {"a value that is NULL", CKA_ID, NULL, 5, 0, CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID},
    {"a value that is NULL and endless", CKA_ID, NULL, ~0UL, 0, CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID},
    {"a value that is NULL and half endless", CKA_ID, NULL, ~0UL / 2, 0, CKR_ARGUMENTS_BAD, CKR_ATTRIBUTE_VALUE_INVALID},
};

/* A search may also find that no object has such an attribute. */
static int finds(const struct function *function) { return function == &functions[FUNCTION_C_FindObjectsInit]; }

/* The table's template and more. */
static CK_ATTRIBUTE *longer(const struct template *template, const CK_ATTRIBUTE *added, CK_ULONG count) {
    size_t all = (template->count + count) * sizeof *added;
    CK_ATTRIBUTE *copy = malloc(all), *original = lent_template(template);
    memcpy(copy, original, template->count * sizeof *added);
    memcpy(copy + template->count, added, count * sizeof *added);
    CK_ATTRIBUTE *guarded = lent(copy, all);
    free(copy);
    return guarded;
}

static void test_faults(const struct function *function, const struct template *template, size_t at) {
    for (size_t i = 0; i < COUNT(faults); i++) {
        word words[MAX_WORDS];
        scenario("%s with %s in the template at word %zu", function->name, faults[i].what, at);
        prepare(function, words);
        CK_ATTRIBUTE added = {faults[i].type, NULL, faults[i].len};
        if (faults[i].value) added.pValue = lent(faults[i].value, faults[i].real_len);
        words[at] = (word)longer(template, &added, 1);
        words[at + 1] = template->count + 1;
        if (function->codes[0] != CKR_OK)
            call(function, words);
        else if (finds(function) && faults[i].one == CKR_ATTRIBUTE_TYPE_INVALID)
            expect_either(function, words, faults[i].one, CKR_OK);
        else
            expect_either(function, words, faults[i].one, faults[i].other);
    }
}

static void test_twice(const struct function *function, const struct template *template, size_t at) {
    word words[MAX_WORDS];
    scenario("%s with an attribute twice in the template at word %zu", function->name, at);
    prepare(function, words);
    CK_ATTRIBUTE *again = lent_template(template);
    words[at] = (word)longer(template, again, 1);
    words[at + 1] = template->count + 1;
    /* An object that has the attribute matches it twice. */
    if (function->codes[0] == CKR_OK)
        expect(function, words, finds(function) ? CKR_OK : CKR_TEMPLATE_INCONSISTENT);
    else
        call(function, words);
}

static void test_many(const struct function *function, const struct template *template, size_t at) {
    enum { MANY = 1025 };
    static CK_ATTRIBUTE many[MANY];
    word words[MAX_WORDS];
    scenario("%s with %d attributes more in the template at word %zu", function->name, MANY, at);
    prepare(function, words);
    CK_BYTE *value = lent(&number, 8);
    for (CK_ULONG i = 0; i < MANY; i++) many[i] = (CK_ATTRIBUTE){CKA_VENDOR_DEFINED | i, value, 8};
    words[at] = (word)longer(template, many, MANY);
    words[at + 1] = template->count + MANY;
    if (call(function, words) == CKR_OK && !finds(function))
        failure("%s succeeded", function->name);
}

/* An array of attributes for the value, without what it should hold. */
static void test_nested(const struct function *function, const struct template *template, size_t at) {
    const CK_ATTRIBUTE inner = {CKA_ID, NULL, ~0UL};
    const CK_ATTRIBUTE nested[] = {
        {CKA_WRAP_TEMPLATE, lent(&inner, sizeof inner), sizeof inner},
        {CKA_UNWRAP_TEMPLATE, lent(&inner, sizeof inner), sizeof inner - 1},
        {CKA_DERIVE_TEMPLATE, NULL, sizeof inner},
        {CKA_ALLOWED_MECHANISMS, lent(&number, 8), 7},
    };
    for (size_t i = 0; i < COUNT(nested); i++) {
        word words[MAX_WORDS];
        scenario("%s with nested template %zu at word %zu", function->name, i, at);
        prepare(function, words);
        CK_ATTRIBUTE added = nested[i];
        if (added.pValue) added.pValue = lent(i == 3 ? (const void *)&number : &inner, added.ulValueLen);
        words[at] = (word)longer(template, &added, 1);
        words[at + 1] = template->count + 1;
        if (call(function, words) == CKR_OK && !finds(function))
            failure("%s succeeded", function->name);
    }
}

/* --- C_GetAttributeValue: every attribute has its own answer (section 5.7.5) --- */

static void test_reading(void) {
    const struct {
        const char *what;
        const CK_OBJECT_HANDLE *object;
        CK_ATTRIBUTE_TYPE type;
        CK_ULONG len;
        CK_RV code;
        CK_ULONG answer;
    } cases[] = {
        {"enough room", &data_object, CKA_VALUE, 5, CKR_OK, 5},
        {"more room", &data_object, CKA_VALUE, 50, CKR_OK, 5},
        {"one byte too few", &data_object, CKA_VALUE, 4, CKR_BUFFER_TOO_SMALL, CK_UNAVAILABLE_INFORMATION},
        {"no room", &data_object, CKA_VALUE, 0, CKR_BUFFER_TOO_SMALL, CK_UNAVAILABLE_INFORMATION},
        {"a class in four bytes", &data_object, CKA_CLASS, 4, CKR_BUFFER_TOO_SMALL, CK_UNAVAILABLE_INFORMATION},
        {"an unknown attribute", &data_object, 0x3fffffff, 8, CKR_ATTRIBUTE_TYPE_INVALID, CK_UNAVAILABLE_INFORMATION},
        {"an attribute of a vendor", &data_object, ~0UL, 8, CKR_ATTRIBUTE_TYPE_INVALID, CK_UNAVAILABLE_INFORMATION},
        {"an attribute of keys", &data_object, CKA_MODULUS, 8, CKR_ATTRIBUTE_TYPE_INVALID, CK_UNAVAILABLE_INFORMATION},
        {"a secret", &rsa_private, CKA_PRIVATE_EXPONENT, 256, CKR_ATTRIBUTE_SENSITIVE, CK_UNAVAILABLE_INFORMATION},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        scenario("reading %s", cases[i].what);
        take_back();
        open_session(CKF_RW_SESSION);
        unsigned char *value = room(cases[i].len);
        CK_ATTRIBUTE wanted[] = {
            {cases[i].type, value, cases[i].len},
            /* Those behind it are answered, too. */
            {CKA_CLASS, room(sizeof(CK_ULONG)), sizeof(CK_ULONG)},
            {CKA_CLASS, NULL, 0},
        };
        CK_ATTRIBUTE *template = lent_writable(wanted, sizeof wanted);
        EXPECT(cases[i].code, C_GetAttributeValue, session, *cases[i].object, template, COUNT(wanted));
        if (template[0].ulValueLen != cases[i].answer) failure("the length is %#lx", template[0].ulValueLen);
        if (cases[i].code != CKR_OK && !untouched(value, cases[i].len)) failure("the buffer was written");
        if (cases[i].code == CKR_OK && !untouched(value + cases[i].answer, cases[i].len - cases[i].answer))
            failure("the buffer was written behind the value");
        if (template[1].ulValueLen != sizeof(CK_ULONG) || template[2].ulValueLen != sizeof(CK_ULONG))
            failure("the other attributes were not answered");
    }
}

void test_templates(void) {
    for (const struct function *function = functions; function < functions + FUNCTIONS; function++) {
        size_t at = 0;
        for (const struct argument *each = function->arguments; each->kind != END; each++) {
            if (each->kind == TEMPLATE) {
                test_faults(function, each->what, at);
                test_twice(function, each->what, at);
                test_many(function, each->what, at);
                test_nested(function, each->what, at);
            }
            at += words_of(each->kind);
        }
    }
    test_reading();
}
