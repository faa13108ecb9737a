/* storm LIBRARY: 256 threads, each with its own sessions, all kinds of calls, and every result looked at. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "stress.h"

#define THREADS 256
/* Threads that log in and out; those that use what is the user's alone. The others use another token. */
#define LOGGING 4
#define PRIVATE 60

/* The token that nobody logs in to, and the one that some do: a logout may cancel any session's operations. */
static CK_SLOT_ID slot, user_slot;
static struct keys shared;
static double deadline;

struct worker {
    pthread_t thread;
    uint64_t state;
    unsigned long rounds, refused;
    CK_SESSION_HANDLE session;
    struct keys keys;
    char label[32];
};

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

static CK_ULONG random_len(struct worker *self, CK_ULONG max) { return dice(&self->state) % max + 1; }
/* Of a value that is no other one's, by chance. */
static CK_ULONG unique_len(struct worker *self, CK_ULONG max) { return 15 + random_len(self, max - 15); }

/* --- what needs no login, and always succeeds ----------------------------- */

static void sessions(struct worker *self) {
    CK_SESSION_HANDLE opened[3];
    CK_SESSION_INFO info;
    for (size_t i = 0; i < COUNT(opened); i++) opened[i] = open_session(slot);
    MUST(p11->C_GetSessionInfo(opened[1], &info));
    if (info.slotID != slot || !(info.flags & CKF_RW_SESSION)) fail("the session is another one");
    for (size_t i = 0; i < COUNT(opened); i++) MUST(p11->C_CloseSession(opened[i]));
    WANT(CKR_SESSION_HANDLE_INVALID, p11->C_GetSessionInfo(opened[1], &info));
    MUST(p11->C_CloseSession(self->session));
    self->session = open_session(slot);
}

static void signatures(struct worker *self) { use_keys(self->session, shared); }

static void random_bytes(struct worker *self) {
    CK_BYTE one[32], two[32];
    MUST(p11->C_GenerateRandom(self->session, one, sizeof one));
    MUST(p11->C_GenerateRandom(self->session, two, sizeof two));
    if (!memcmp(one, two, sizeof one)) fail("twice the same random bytes");
}

static void digests(struct worker *self) {
    CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
    CK_BYTE data[3000], whole[32], parts[32];
    CK_ULONG len = random_len(self, sizeof data), first = dice(&self->state) % len, digest_len = sizeof whole;
    MUST(p11->C_GenerateRandom(self->session, data, len));
    MUST(p11->C_DigestInit(self->session, &sha256));
    MUST(p11->C_Digest(self->session, data, len, whole, &digest_len));
    MUST(p11->C_DigestInit(self->session, &sha256));
    MUST(p11->C_DigestUpdate(self->session, data, first));
    MUST(p11->C_DigestUpdate(self->session, data + first, len - first));
    digest_len = sizeof parts;
    MUST(p11->C_DigestFinal(self->session, parts, &digest_len));
    if (memcmp(whole, parts, sizeof whole)) fail("a digest is wrong");
    CK_BYTE abc[32];
    digest_len = sizeof abc;
    MUST(p11->C_DigestInit(self->session, &sha256));
    MUST(p11->C_Digest(self->session, (CK_BYTE *)"abc", 3, abc, &digest_len));
    if (abc[0] != 0xba || abc[31] != 0xad) fail("the digest of abc is wrong");
}

/* Encrypts, in one or in parts, and decrypts; the code of the first call that fails. */
static CK_RV encryption(struct worker *self, CK_OBJECT_HANDLE key) {
    CK_BYTE iv[16], data[2000], sealed[2040], opened[2040];
    CK_ULONG len = random_len(self, sizeof data), sealed_len = sizeof sealed, opened_len = sizeof opened, more;
    MUST(p11->C_GenerateRandom(self->session, iv, sizeof iv));
    MUST(p11->C_GenerateRandom(self->session, data, len));
    CK_GCM_PARAMS gcm = {.pIv = iv, .ulIvLen = 12, .ulIvBits = 96, .pAAD = data, .ulAADLen = 1, .ulTagBits = 128};
    CK_MECHANISM mechanisms[] = {{CKM_AES_CBC_PAD, iv, sizeof iv}, {CKM_AES_GCM, &gcm, sizeof gcm}};
    CK_MECHANISM *mechanism = &mechanisms[dice(&self->state) % 2];
    CK_RV code = p11->C_EncryptInit(self->session, mechanism, key);
    if (code != CKR_OK) return code;
    if (dice(&self->state) % 2) {
        code = p11->C_Encrypt(self->session, data, len, sealed, &sealed_len);
        if (code != CKR_OK) return code;
    } else {
        code = p11->C_EncryptUpdate(self->session, data, len, sealed, &sealed_len);
        if (code != CKR_OK) return code;
        more = sizeof sealed - sealed_len;
        code = p11->C_EncryptFinal(self->session, sealed + sealed_len, &more);
        if (code != CKR_OK) return code;
        sealed_len += more;
    }
    code = p11->C_DecryptInit(self->session, mechanism, key);
    if (code != CKR_OK) return code;
    code = p11->C_Decrypt(self->session, sealed, sealed_len, opened, &opened_len);
    if (code == CKR_OK && (opened_len != len || memcmp(opened, data, len))) fail("a decryption is wrong");
    return code;
}

static void encryptions(struct worker *self) { MUST(encryption(self, self->keys.aes)); }

static void own_keys(struct worker *self) {
    struct keys made = make_keys(self->session, CK_FALSE, CK_FALSE);
    use_keys(self->session, made);
    MUST(encryption(self, made.aes));
    MUST(p11->C_DestroyObject(self->session, made.private_key));
    MUST(p11->C_DestroyObject(self->session, made.public_key));
    CK_BYTE signature[64];
    WANT(CKR_KEY_HANDLE_INVALID, sign(self->session, made.private_key, "data", 4, signature));
    MUST(p11->C_DestroyObject(self->session, made.aes));
}

/* A datum of the thread's: made, found, changed, read, destroyed. */
static CK_RV datum(struct worker *self, CK_BBOOL on_token, CK_BBOOL private) {
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BYTE value[500], read[500];
    CK_ULONG len = unique_len(self, sizeof value), count;
    CK_OBJECT_HANDLE made, found[3];
    MUST(p11->C_GenerateRandom(self->session, value, len));
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &on_token, 1}, {CKA_PRIVATE, &private, 1},
        {CKA_LABEL, self->label, strlen(self->label)}, {CKA_VALUE, value, len},
    };
    CK_RV code = p11->C_CreateObject(self->session, template, COUNT(template), &made);
    if (code != CKR_OK) return code;
    code = find(self->session, template, COUNT(template), found, COUNT(found), &count);
    if (code != CKR_OK) return code;
    /* After a logout, what is private is not found. */
    if (!count && private) return CKR_USER_NOT_LOGGED_IN;
    /* A private object that a logout has made somebody forget stays on the token; all have other values. */
    if (count != 1 || (found[0] != made && !private)) fail("%s: %lu objects found", self->label, count);
    len = unique_len(self, sizeof value);
    MUST(p11->C_GenerateRandom(self->session, value, len));
    CK_ATTRIBUTE change = {CKA_VALUE, value, len}, result = {CKA_VALUE, read, sizeof read};
    code = p11->C_SetAttributeValue(self->session, made, &change, 1);
    if (code != CKR_OK) return code;
    code = p11->C_GetAttributeValue(self->session, made, &result, 1);
    if (code != CKR_OK) return code;
    if (result.ulValueLen != len || memcmp(read, value, len)) fail("%s: the value is another one", self->label);
    code = p11->C_DestroyObject(self->session, made);
    if (code != CKR_OK) return code;
    WANT(CKR_OBJECT_HANDLE_INVALID, p11->C_DestroyObject(self->session, made));
    return CKR_OK;
}

static void session_data(struct worker *self) { MUST(datum(self, no, no)); }
static void token_data(struct worker *self) { MUST(datum(self, yes, no)); }

static void information(struct worker *self) {
    (void)self;
    CK_ULONG count = 0;
    MUST(p11->C_GetSlotList(CK_TRUE, NULL, &count));
    if (count < 3) fail("%lu slots", count);
    if (!(token_flags(slot) & CKF_TOKEN_INITIALIZED)) fail("the token is not initialized");
}

static void (*const steps[])(struct worker *) = {
    sessions, signatures,   random_bytes, digests,     encryptions,
    own_keys, session_data, token_data,   information, signatures,
};

static void *work(void *argument) {
    struct worker *self = argument;
    self->session = open_session(slot);
    CK_SESSION_HANDLE keeper = self->session;
    self->keys = make_keys(keeper, CK_FALSE, CK_FALSE);
    self->session = open_session(slot);
    do {
        steps[dice(&self->state) % COUNT(steps)](self);
        self->rounds++;
    } while (now_seconds() < deadline);
    MUST(p11->C_CloseSession(self->session));
    MUST(p11->C_CloseSession(keeper));
    return NULL;
}

/* --- what others' logins and logouts may come between ---------------------- */

static int explained(CK_RV code) {
    return code == CKR_USER_NOT_LOGGED_IN || code == CKR_KEY_HANDLE_INVALID || code == CKR_OBJECT_HANDLE_INVALID ||
           code == CKR_OPERATION_NOT_INITIALIZED;
}

static CK_RV private_keys(struct worker *self) {
    CK_BYTE signature[64];
    CK_BBOOL on_token = CK_TRUE;
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &on_token, 1}, {CKA_PRIVATE, &yes, 1}};
    CK_OBJECT_HANDLE found[3];
    CK_ULONG count;
    CK_RV code = find(self->session, template, COUNT(template), found, COUNT(found), &count);
    if (code != CKR_OK) return code;
    if (!count) return CKR_USER_NOT_LOGGED_IN;
    if (count != 1) fail("%lu private keys", count);
    code = sign(self->session, found[0], self->label, strlen(self->label), signature);
    if (code == CKR_OK) {
        CK_OBJECT_CLASS public_class = CKO_PUBLIC_KEY;
        CK_ATTRIBUTE public_template[] = {{CKA_CLASS, &public_class, sizeof public_class}, {CKA_TOKEN, &on_token, 1}};
        code = find(self->session, public_template, COUNT(public_template), found, COUNT(found), &count);
        if (code != CKR_OK) return code;
        if (count != 1) fail("%lu public keys", count);
        code = verify(self->session, found[0], self->label, strlen(self->label), signature);
    }
    return code;
}

static CK_RV private_secret(struct worker *self) {
    CK_ULONG bytes = 32;
    CK_ATTRIBUTE template[] = {{CKA_VALUE_LEN, &bytes, sizeof bytes}, {CKA_PRIVATE, &yes, 1}, {CKA_TOKEN, &no, 1},
                               {CKA_ENCRYPT, &yes, 1}, {CKA_DECRYPT, &yes, 1}};
    CK_MECHANISM aes = {CKM_AES_KEY_GEN, NULL, 0};
    CK_OBJECT_HANDLE made;
    CK_RV code = p11->C_GenerateKey(self->session, &aes, template, COUNT(template), &made);
    if (code == CKR_OK) code = encryption(self, made);
    if (code == CKR_OK) code = p11->C_DestroyObject(self->session, made);
    return code;
}

static void *work_in_private(void *argument) {
    struct worker *self = argument;
    self->session = open_session(user_slot);
    do {
        CK_RV code;
        switch (dice(&self->state) % 4) {
        case 0: code = private_keys(self); break;
        case 1: code = private_secret(self); break;
        case 2: code = datum(self, yes, yes); break;
        default: code = datum(self, no, yes); break;
        }
        self->rounds++;
        if (code != CKR_OK) {
            if (!explained(code)) fail("what is the user's alone gave %s", code_name(code));
            self->refused++;
            /* Whatever a logout left half-way. */
            MUST(p11->C_CloseSession(self->session));
            self->session = open_session(user_slot);
        }
    } while (now_seconds() < deadline);
    return NULL;
}

static void *log_in_and_out(void *argument) {
    struct worker *self = argument;
    self->session = open_session(user_slot);
    do {
        CK_RV code = log_in(self->session, CKU_USER, PIN);
        if (code != CKR_OK && code != CKR_USER_ALREADY_LOGGED_IN) fail("a login gave %s", code_name(code));
        sleep_microseconds(dice(&self->state) % 50000);
        code = p11->C_Logout(self->session);
        if (code != CKR_OK && code != CKR_USER_NOT_LOGGED_IN) fail("a logout gave %s", code_name(code));
        self->rounds++;
    } while (now_seconds() < deadline);
    return NULL;
}

/* --- all of them ---------------------------------------------------------- */

int main(int argc, char **argv) {
    static struct worker workers[THREADS];
    if (argc != 2) fail("Usage: %s LIBRARY", argv[0]);
    unsigned long seconds = setting("STORM_SECONDS", 5);
    limit_seconds(seconds + 120);
    p11 = load(argv[1], NULL);
    initialize();
    user_slot = make_token("private");
    make_keys(user_session(user_slot), CK_TRUE, CK_TRUE);
    slot = make_token("public");
    CK_SESSION_HANDLE session = open_session(slot);
    shared = make_keys(session, CK_TRUE, CK_FALSE);
    deadline = now_seconds() + seconds;
    for (size_t i = 0; i < THREADS; i++) {
        struct worker *worker = &workers[i];
        worker->state = setting("STORM_SEED", (unsigned long)(now_seconds() * 1e9)) + i;
        snprintf(worker->label, sizeof worker->label, "thread %zu", i);
        void *(*task)(void *) = i < LOGGING ? log_in_and_out : i < LOGGING + PRIVATE ? work_in_private : work;
        if (pthread_create(&worker->thread, NULL, task, worker)) fail("no thread");
    }
    unsigned long rounds[3] = {0}, refused = 0;
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        rounds[i < LOGGING ? 0 : i < LOGGING + PRIVATE ? 1 : 2] += workers[i].rounds;
        refused += workers[i].refused;
    }
    printf("%lu logins, %lu rounds of private objects (%lu refused), %lu others\n", rounds[0], rounds[1], refused,
           rounds[2]);
    if (!refused || refused == rounds[1]) fail("logins and logouts came between nothing");
    /* Nothing is left over but these. */
    CK_OBJECT_HANDLE found[4];
    CK_ULONG count;
    MUST(find(session, NULL, 0, found, COUNT(found), &count));
    if (count != 3) fail("there are %lu objects or more instead of 3", count);
    use_keys(session, shared);
    MUST(p11->C_Finalize(NULL));
    return 0;
}
