/* Keys that cannot be: sizes, exponents, curves and points that are none. */
#include "matrix.h"

/* Key pairs that cannot be made: an exponent, a curve that is none. */
static void test_key_pairs(void) {
    static const CK_BYTE cut_off[] = {6, 8, 0x2a, 0x86, 0x48, 0xce}, unknown[] = {6, 3, 0x2a, 3, 4};
    static const CK_ULONG bits = 2048;
    const struct {
        const void *bytes;
        CK_ULONG len;
    } exponents[] = {{zeros, 0}, {zeros, 1}, {zeros, 300}, {ones, 300}, {"\1", 1}, {"\2", 1}},
      curves[] = {{zeros, 0}, {zeros, 1000}, {ones, 300}, {cut_off, sizeof cut_off}, {cut_off, 1}, {unknown, sizeof unknown}};
    for (size_t i = 0; i < COUNT(exponents); i++) {
        scenario("RSA keys with exponent %zu", i);
        take_back();
        CK_ATTRIBUTE template[] = {{CKA_MODULUS_BITS, lent(&bits, sizeof bits), sizeof bits},
                                   {CKA_PUBLIC_EXPONENT, lent(exponents[i].bytes, exponents[i].len), exponents[i].len}};
        EXPECT(CKR_ATTRIBUTE_VALUE_INVALID, C_GenerateKeyPair, session, lent_mechanism(CKM_RSA_PKCS_KEY_PAIR_GEN),
               lent(template, sizeof template), COUNT(template), NULL, 0, room(sizeof(CK_OBJECT_HANDLE)),
               room(sizeof(CK_OBJECT_HANDLE)));
    }
    for (size_t i = 0; i < COUNT(curves); i++) {
        scenario("EC keys on curve %zu", i);
        take_back();
        CK_ATTRIBUTE template = {CKA_EC_PARAMS, lent(curves[i].bytes, curves[i].len), curves[i].len};
        word words[MAX_WORDS] = {session, (word)lent_mechanism(CKM_EC_KEY_PAIR_GEN), (word)lent(&template, sizeof template), 1,
                                 0, 0, (word)room(sizeof(CK_OBJECT_HANDLE)), (word)room(sizeof(CK_OBJECT_HANDLE))};
        expect_either(&functions[FUNCTION_C_GenerateKeyPair], words, CKR_ATTRIBUTE_VALUE_INVALID, CKR_CURVE_NOT_SUPPORTED);
    }
}

/* Points that are not on the curve: in a key, and for a derivation. */
static void test_points(void) {
    static const CK_ULONG class = CKO_PUBLIC_KEY, key_type = CKK_EC;
    static const CK_BYTE off_curve[67] = {4, 65, 4, 1};
    const struct {
        const void *bytes;
        CK_ULONG len;
    } points[] = {{zeros, 0},      {zeros, 1},     {zeros, 67},   {ones, 67},
                  {off_curve, 67}, {ec_point, 66}, {ec_point, 3}, {zeros, 1000}};
    for (size_t i = 0; i < COUNT(points); i++) {
        scenario("EC public keys with point %zu", i);
        take_back();
        CK_ATTRIBUTE key[] = {{CKA_CLASS, lent(&class, sizeof class), sizeof class},
                              {CKA_KEY_TYPE, lent(&key_type, sizeof key_type), sizeof key_type},
                              {CKA_EC_PARAMS, lent(p256, sizeof p256), sizeof p256},
                              {CKA_EC_POINT, lent(points[i].bytes, points[i].len), points[i].len}};
        EXPECT(CKR_ATTRIBUTE_VALUE_INVALID, C_CreateObject, session, lent(key, sizeof key), COUNT(key),
               room(sizeof(CK_OBJECT_HANDLE)));
        scenario("CKM_ECDH1_DERIVE with point %zu", i);
        CK_ECDH1_DERIVE_PARAMS given = {CKD_NULL, 0, NULL, points[i].len, lent(points[i].bytes, points[i].len)};
        CK_MECHANISM derive = {CKM_ECDH1_DERIVE, lent(&given, sizeof given), sizeof given};
        EXPECT(CKR_MECHANISM_PARAM_INVALID, C_DeriveKey, session, lent(&derive, sizeof derive), ec_private,
               lent_template(&template_generic), template_generic.count, room(sizeof(CK_OBJECT_HANDLE)));
    }
}

/* One attribute is a number, or bytes, of a size that no key has. */
static void test_size(enum function_number number, CK_MECHANISM_TYPE type, const CK_ATTRIBUTE *template, CK_ULONG count) {
    word words[MAX_WORDS] = {session};
    word *at = words + 1;
    take_back();
    if (number != FUNCTION_C_CreateObject) *at++ = (word)lent_mechanism(type);
    *at++ = (word)lent(template, count * sizeof *template);
    *at++ = count;
    if (number == FUNCTION_C_GenerateKeyPair) {
        *at++ = 0;
        *at++ = 0;
        *at++ = (word)room(sizeof(CK_OBJECT_HANDLE));
    }
    *at = (word)room(sizeof(CK_OBJECT_HANDLE));
    expect(&functions[number], words, CKR_ATTRIBUTE_VALUE_INVALID);
}

/* A wrapped key that is too long for what the template says it is. */
static void test_wrapped_size(void) {
    static const CK_ULONG class = CKO_SECRET_KEY, key_type = CKK_AES, long_len = 33;
    static const CK_BBOOL yes = CK_TRUE;
    const CK_ATTRIBUTE secret[] = {{CKA_VALUE_LEN, (void *)&long_len, sizeof long_len}, {CKA_EXTRACTABLE, (void *)&yes, 1}};
    const CK_ATTRIBUTE key[] = {{CKA_CLASS, (void *)&class, sizeof class}, {CKA_KEY_TYPE, (void *)&key_type, sizeof key_type}};
    CK_OBJECT_HANDLE made;
    CK_BYTE bytes[48];
    CK_ULONG len = sizeof bytes;
    scenario("a secret of 33 bytes unwrapped as an AES key");
    take_back();
    MUST(C_GenerateKey, session, lent_mechanism(CKM_GENERIC_SECRET_KEY_GEN), (CK_ATTRIBUTE *)secret, COUNT(secret), &made);
    MUST(C_WrapKey, session, lent_mechanism(CKM_AES_KEY_WRAP_KWP), aes, made, bytes, &len);
    word words[MAX_WORDS] = {session, (word)lent_mechanism(CKM_AES_KEY_WRAP_KWP), aes, (word)lent(bytes, len), len,
                             (word)lent(key, sizeof key), COUNT(key), (word)room(sizeof(CK_OBJECT_HANDLE))};
    expect_either(&functions[FUNCTION_C_UnwrapKey], words, CKR_WRAPPED_KEY_LEN_RANGE, CKR_WRAPPED_KEY_INVALID);
}

/* Section 4.1.1: an invalid value for a valid attribute is CKR_ATTRIBUTE_VALUE_INVALID. */
static void test_key_sizes(void) {
    static const CK_ULONG class = CKO_SECRET_KEY, key_type = CKK_AES;
    static const CK_ULONG lens[] = {0, 1, 15, 33, 1UL << 32, ~0UL / 2, ~0UL};
    static const CK_ULONG bits[] = {0, 1, 7, 511, 1023, 1UL << 20, 1UL << 40, ~0UL};
    for (size_t i = 0; i < COUNT(lens); i++) {
        const CK_ATTRIBUTE len = {CKA_VALUE_LEN, (void *)&lens[i], sizeof *lens};
        scenario("AES keys of %lu bytes", lens[i]);
        test_size(FUNCTION_C_GenerateKey, CKM_AES_KEY_GEN, &len, 1);
        scenario("generic secrets of %lu bytes", lens[i]);
        if (lens[i] == 0 || lens[i] > 100) test_size(FUNCTION_C_GenerateKey, CKM_GENERIC_SECRET_KEY_GEN, &len, 1);
        const CK_ATTRIBUTE key[] = {{CKA_CLASS, (void *)&class, sizeof class},
                                    {CKA_KEY_TYPE, (void *)&key_type, sizeof key_type},
                                    {CKA_VALUE, (void *)zeros, lens[i]}};
        scenario("AES keys with a value of %lu bytes", lens[i]);
        if (lens[i] < sizeof zeros) test_size(FUNCTION_C_CreateObject, 0, key, COUNT(key));
    }
    static const CK_ULONG public = CKO_PUBLIC_KEY, rsa = CKK_RSA;
    const CK_ATTRIBUTE without_modulus[] = {{CKA_CLASS, (void *)&public, sizeof public},
                                            {CKA_KEY_TYPE, (void *)&rsa, sizeof rsa},
                                            {CKA_MODULUS, (void *)ones, 0},
                                            {CKA_PUBLIC_EXPONENT, "\1\0\1", 3}};
    scenario("RSA public keys with an empty modulus");
    test_size(FUNCTION_C_CreateObject, 0, without_modulus, COUNT(without_modulus));
    for (size_t i = 0; i < COUNT(bits); i++) {
        const CK_ATTRIBUTE modulus = {CKA_MODULUS_BITS, (void *)&bits[i], sizeof *bits};
        scenario("RSA keys of %lu bits", bits[i]);
        test_size(FUNCTION_C_GenerateKeyPair, CKM_RSA_PKCS_KEY_PAIR_GEN, &modulus, 1);
    }
}

void test_keys(void) {
    take_back();
    open_session(CKF_RW_SESSION);
    test_key_pairs();
    test_points();
    test_wrapped_size();
    test_key_sizes();
}
