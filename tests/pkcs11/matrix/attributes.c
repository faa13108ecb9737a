/* Attributes that may not be set, changed or left out, and objects that may not be changed, copied or destroyed (4.1). */
#include "matrix.h"

static const CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static const CK_ULONG of_data = CKO_DATA, of_secret_key = CKO_SECRET_KEY, of_aes = CKK_AES, of_rsa = CKK_RSA;
static const CK_ULONG none = 0x7ffffffe, bytes_16 = 16, bytes_32 = 32;

#define VALUE(type, value) {type, (void *)&(value), sizeof(value)}
#define OUT room(sizeof(CK_OBJECT_HANDLE))

static CK_OBJECT_HANDLE object_with(CK_ATTRIBUTE_TYPE type, CK_BBOOL value) {
    CK_ATTRIBUTE template[] = {VALUE(CKA_CLASS, of_data), {type, &value, sizeof value}};
    CK_OBJECT_HANDLE made;
    MUST(C_CreateObject, session, template, COUNT(template), &made);
    return made;
}

static void test_prohibited(void) {
    scenario("what an object prohibits");
    EXPECT(CKR_ACTION_PROHIBITED, C_SetAttributeValue, session, object_with(CKA_MODIFIABLE, CK_FALSE),
           lent_template(&template_label), template_label.count);
    EXPECT(CKR_ACTION_PROHIBITED, C_CopyObject, session, object_with(CKA_COPYABLE, CK_FALSE), lent_template(&template_label),
           template_label.count, OUT);
    EXPECT(CKR_ACTION_PROHIBITED, C_DestroyObject, session, object_with(CKA_DESTROYABLE, CK_FALSE));
}

static void test_changes(void) {
    CK_ATTRIBUTE closed[] = {VALUE(CKA_VALUE_LEN, bytes_32), VALUE(CKA_PRIVATE, no), VALUE(CKA_SENSITIVE, yes),
                             VALUE(CKA_EXTRACTABLE, no)};
    const CK_ATTRIBUTE changes[] = {VALUE(CKA_CLASS, of_data),       VALUE(CKA_KEY_TYPE, of_rsa),   VALUE(CKA_SENSITIVE, no),
                                    VALUE(CKA_EXTRACTABLE, yes),     VALUE(CKA_LOCAL, no),          VALUE(CKA_TOKEN, yes),
                                    VALUE(CKA_ALWAYS_SENSITIVE, no), VALUE(CKA_VALUE_LEN, bytes_16), VALUE(CKA_PRIVATE, yes)};
    CK_OBJECT_HANDLE key;
    MUST(C_GenerateKey, session, lent_mechanism(CKM_AES_KEY_GEN), closed, COUNT(closed), &key);
    for (size_t i = 0; i < COUNT(changes); i++) {
        scenario("changing attribute %#lx of a key", changes[i].type);
        EXPECT(CKR_ATTRIBUTE_READ_ONLY, C_SetAttributeValue, session, key, lent(&changes[i], sizeof *changes), 1);
    }
    CK_ULONG len = 0;
    CK_ATTRIBUTE read = VALUE(CKA_VALUE_LEN, len);
    scenario("reading the length after all changes");
    EXPECT(CKR_OK, C_GetAttributeValue, session, key, &read, 1);
    if (len != 32) failure("it is %lu", len);
}

static void test_new_objects(void) {
    const struct {
        CK_ATTRIBUTE template[4];
        CK_ULONG count;
        CK_RV expected;
    } cases[] = {
        {{VALUE(CKA_TOKEN, no)}, 1, CKR_TEMPLATE_INCOMPLETE},
        {{VALUE(CKA_CLASS, none)}, 1, CKR_ATTRIBUTE_VALUE_INVALID},
        {{VALUE(CKA_CLASS, of_secret_key)}, 1, CKR_TEMPLATE_INCOMPLETE},
        {{VALUE(CKA_CLASS, of_secret_key), VALUE(CKA_KEY_TYPE, none), {CKA_VALUE, "key", 3}}, 3, CKR_ATTRIBUTE_VALUE_INVALID},
        {{VALUE(CKA_CLASS, of_secret_key), VALUE(CKA_KEY_TYPE, of_aes)}, 2, CKR_TEMPLATE_INCOMPLETE},
        {{VALUE(CKA_CLASS, of_data), VALUE(CKA_LOCAL, yes)}, 2, CKR_ATTRIBUTE_TYPE_INVALID},
        {{VALUE(CKA_CLASS, of_secret_key), VALUE(CKA_KEY_TYPE, of_aes), {CKA_VALUE, "sixteen bytes...", 16},
          VALUE(CKA_LOCAL, yes)}, 4, CKR_ATTRIBUTE_READ_ONLY},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        scenario("a new object with template %zu", i);
        EXPECT(cases[i].expected, C_CreateObject, session, lent(cases[i].template, cases[i].count * sizeof(CK_ATTRIBUTE)),
               cases[i].count, OUT);
    }
}

static void test_new_keys(void) {
    const CK_ATTRIBUTE contradictions[] = {VALUE(CKA_CLASS, of_data), VALUE(CKA_KEY_TYPE, of_rsa)};
    for (size_t i = 0; i < COUNT(contradictions); i++) {
        const CK_ATTRIBUTE template[] = {VALUE(CKA_VALUE_LEN, bytes_32), contradictions[i]};
        scenario("an AES key with attribute %#lx of something else", contradictions[i].type);
        EXPECT(CKR_TEMPLATE_INCONSISTENT, C_GenerateKey, session, lent_mechanism(CKM_AES_KEY_GEN),
               lent(template, sizeof template), COUNT(template), OUT);
    }
    scenario("an AES key without a length");
    EXPECT(CKR_TEMPLATE_INCOMPLETE, C_GenerateKey, session, lent_mechanism(CKM_AES_KEY_GEN), NULL, 0, OUT);
    scenario("keys without a size, or a curve");
    EXPECT(CKR_TEMPLATE_INCOMPLETE, C_GenerateKeyPair, session, lent_mechanism(CKM_RSA_PKCS_KEY_PAIR_GEN), NULL, 0, NULL, 0,
           OUT, OUT);
    EXPECT(CKR_TEMPLATE_INCOMPLETE, C_GenerateKeyPair, session, lent_mechanism(CKM_EC_KEY_PAIR_GEN), NULL, 0, NULL, 0, OUT,
           OUT);
}

/* Every object has an identifier that the token makes (version 3.0, section 4.4.1). */
static void test_unique_id(void) {
    const CK_ATTRIBUTE given[] = {VALUE(CKA_CLASS, of_data), {CKA_UNIQUE_ID, "id", 2}};
    CK_ATTRIBUTE read = {CKA_UNIQUE_ID, NULL, 0};
    scenario("CKA_UNIQUE_ID");
    EXPECT(CKR_ATTRIBUTE_READ_ONLY, C_CreateObject, session, lent(given, sizeof given), COUNT(given), OUT);
    EXPECT(CKR_OK, C_GetAttributeValue, session, data_object, &read, 1);
}

void test_attributes(void) {
    take_back();
    open_session(CKF_RW_SESSION);
    test_prohibited();
    test_changes();
    test_new_objects();
    test_new_keys();
    test_unique_id();
}
