/* openssl ORDER LIBRARY: a program that uses the system's OpenSSL before, between and after calls.
   Its functions are declared here, as OpenSSL's headers need not be installed. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

/* --- the system's OpenSSL ------------------------------------------------- */

typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct evp_md_st EVP_MD;
typedef struct evp_pkey_st EVP_PKEY;
typedef struct ecdsa_sig_st ECDSA_SIG;
typedef struct bignum_st BIGNUM;
void OPENSSL_cleanup(void);
int OPENSSL_atexit(void (*handler)(void));
unsigned long ERR_peek_error(void);
int RAND_bytes(unsigned char *bytes, int len);
const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *context);
int EVP_DigestVerifyInit(EVP_MD_CTX *context, void *, const EVP_MD *digest, void *engine, EVP_PKEY *key);
int EVP_DigestVerify(EVP_MD_CTX *context, const unsigned char *signature, size_t signature_len,
                     const unsigned char *data, size_t len);
int EVP_Digest(const void *data, size_t len, unsigned char *digest, unsigned *digest_len, const EVP_MD *type, void *);
EVP_PKEY *d2i_PUBKEY(EVP_PKEY **, const unsigned char **bytes, long len);
void EVP_PKEY_free(EVP_PKEY *key);
ECDSA_SIG *ECDSA_SIG_new(void);
void ECDSA_SIG_free(ECDSA_SIG *signature);
int ECDSA_SIG_set0(ECDSA_SIG *signature, BIGNUM *r, BIGNUM *s);
int i2d_ECDSA_SIG(const ECDSA_SIG *signature, unsigned char **bytes);
BIGNUM *BN_bin2bn(const unsigned char *bytes, int len, BIGNUM *);

static int of_openssl(CK_BYTE point[65], const CK_BYTE raw[64]) {
    static const unsigned char prefix[] = {0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a,
                                           0x86, 0x48, 0xce, 0x3d, 3, 1, 7, 3, 0x42, 0};
    unsigned char der[sizeof prefix + 65], signature[80];
    memcpy(der, prefix, sizeof prefix);
    memcpy(der + sizeof prefix, point, 65);
    const unsigned char *bytes = der;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &bytes, sizeof der);
    ECDSA_SIG *parsed = ECDSA_SIG_new();
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!key || !parsed || !context) fail("OpenSSL does not take the key");
    ECDSA_SIG_set0(parsed, BN_bin2bn(raw, 32, NULL), BN_bin2bn(raw + 32, 32, NULL));
    unsigned char *end = signature;
    int len = i2d_ECDSA_SIG(parsed, &end);
    EVP_DigestVerifyInit(context, NULL, EVP_sha256(), NULL, key);
    int good = EVP_DigestVerify(context, signature, len, (const unsigned char *)"data", 4);
    EVP_MD_CTX_free(context);
    ECDSA_SIG_free(parsed);
    EVP_PKEY_free(key);
    return good;
}

/* OpenSSL, as it should be, whatever the library does with its own. */
static void use_openssl(void) {
    unsigned char digest[32], random[32];
    unsigned len;
    if (!EVP_Digest("abc", 3, digest, &len, EVP_sha256(), NULL) || digest[0] != 0xba || digest[31] != 0xad)
        fail("OpenSSL's digest is wrong");
    if (RAND_bytes(random, sizeof random) != 1) fail("OpenSSL has no random bytes");
    /* An error of the library's must not be in the application's queue. */
    if (ERR_peek_error()) fail("OpenSSL's queue has error %#lx", ERR_peek_error());
}

/* --- both ----------------------------------------------------------------- */

static CK_SESSION_HANDLE session;
static struct keys keys;

static void use_both(void) {
    CK_BYTE signature[64], point[67];
    CK_ATTRIBUTE attribute = {CKA_EC_POINT, point, sizeof point};
    use_keys(session, keys);
    use_openssl();
    MUST(sign(session, keys.private_key, "data", 4, signature));
    MUST(p11->C_GetAttributeValue(session, keys.public_key, &attribute, 1));
    if (of_openssl(point + 2, signature) != 1) fail("OpenSSL does not verify what the token has signed");
    use_openssl();
    use_keys(session, keys);
}

static void *use_both_in_thread(void *slot) {
    CK_SESSION_HANDLE own = open_session(*(CK_SLOT_ID *)slot);
    for (int i = 0; i < 50; i++) {
        use_keys(own, keys);
        use_openssl();
    }
    MUST(p11->C_CloseSession(own));
    return NULL;
}

static void at_exit(void) {
    use_keys(session, keys);
    MUST(p11->C_Finalize(NULL));
    static const char text[] = "finalized at exit\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0) _exit(4);
}

int main(int argc, char **argv) {
    if (argc != 3) fail("Usage: %s ORDER LIBRARY", argv[0]);
    limit_seconds(60);
    const char *order = argv[1];
#define ORDER(name) (!strcmp(order, name))
    /* Handlers run in the opposite order of their registration; OpenSSL's own is registered at its first use. */
    if (ORDER("finalized-after-openssl")) atexit(at_exit);
    if (!ORDER("loaded-first") && !ORDER("never-used")) use_openssl();
    p11 = load(argv[2], NULL);
    initialize();
    if (ORDER("finalized-before-openssl")) {
        use_openssl();
        atexit(at_exit);
    }
    if (ORDER("finalized-by-openssl")) OPENSSL_atexit(at_exit);
    CK_SLOT_ID slot = make_token(order);
    session = user_session(slot);
    keys = make_keys(session, CK_FALSE, CK_TRUE);
    if (ORDER("never-used")) {
        use_keys(session, keys);
        return 0;
    }
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++)
        if (pthread_create(&threads[i], NULL, use_both_in_thread, &slot)) fail("no thread");
    use_both();
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    if (ORDER("cleaned-up-between")) {
        OPENSSL_cleanup();
        /* That was the application's OpenSSL; the library has its own. */
        use_keys(session, keys);
        MUST(p11->C_Finalize(NULL));
        initialize();
        session = user_session(token_slot(order));
        use_keys(session, make_keys(session, CK_FALSE, CK_TRUE));
        return 0;
    }
    if (ORDER("loaded-first")) {
        MUST(p11->C_Finalize(NULL));
        use_openssl();
        OPENSSL_cleanup();
    }
    return 0;
}
