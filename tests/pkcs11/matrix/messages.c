/* Messages of AES-GCM: parameters with a fault, and a message that was changed. */
#include "matrix.h"

/* Parameters of messages, each with one fault. */
static void test_message_parameters(const struct function *function) {
    CK_BYTE *iv = lent_writable("twelve bytes", 12), *tag = lent_writable(message_tag, sizeof message_tag);
    const CK_GCM_MESSAGE_PARAMS good = {iv, 12, 0, CKG_NO_GENERATE, tag, 128};
    CK_GCM_MESSAGE_PARAMS faults[13];
    const CK_ULONG impossible[] = {0, ~0UL, ~0UL / 2, 1UL << 40};
    for (size_t i = 0; i < COUNT(faults); i++) faults[i] = good;
    for (size_t i = 0; i < 4; i++) {
        faults[i].ulIvLen = impossible[i];
        faults[4 + i].ulTagBits = impossible[i] == 0 ? 7 : impossible[i];
    }
    faults[8].pIv = NULL;
    faults[9].pTag = NULL;
    faults[10].ulTagBits = 129;
    faults[11].ulIvFixedBits = 97;
    faults[12].ulIvFixedBits = ~0UL;
    for (size_t i = 0; i <= COUNT(faults); i++) {
        word words[MAX_WORDS];
        scenario("%s with fault %zu in the parameter of the message", function->name, i);
        prepare(function, words);
        /* prepare() has taken back what the pointers led to. */
        CK_GCM_MESSAGE_PARAMS given = i < COUNT(faults) ? faults[i] : good;
        if (given.pIv) given.pIv = lent_writable("twelve bytes", 12);
        if (given.pTag) given.pTag = lent_writable(message_tag, sizeof message_tag);
        words[1] = (word)lent(&given, sizeof given);
        if (i == COUNT(faults)) words[2] = sizeof given - 8;
        expect(function, words, CKR_MECHANISM_PARAM_INVALID);
    }
}

void test_messages(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++)
        if (each->arguments[1].kind == MESSAGE_PARAMETER) test_message_parameters(each);
    for (CK_GENERATOR_FUNCTION generator = CKG_GENERATE_COUNTER_XOR + 1; generator; generator <<= 8) {
        word words[MAX_WORDS];
        scenario("C_EncryptMessage with unknown generator %#lx", generator);
        prepare(&functions[FUNCTION_C_EncryptMessage], words);
        CK_GCM_MESSAGE_PARAMS given = *(CK_GCM_MESSAGE_PARAMS *)words[1];
        given.ivGenerator = generator;
        words[1] = (word)lent(&given, sizeof given);
        expect(&functions[FUNCTION_C_EncryptMessage], words, CKR_MECHANISM_PARAM_INVALID);
    }
    /* A message that was changed is the end of the message alone. */
    word words[MAX_WORDS];
    const struct function *decrypt = &functions[FUNCTION_C_DecryptMessage];
    scenario("C_DecryptMessage with a message that was changed");
    prepare(decrypt, words);
    words[5] = (word)lent(data.bytes, 16);
    expect(decrypt, words, CKR_AEAD_DECRYPT_FAILED);
    fill(decrypt, words);
    expect(decrypt, words, CKR_OK);
}
