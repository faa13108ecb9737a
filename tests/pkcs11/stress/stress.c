/* What the stress programs have in common. */
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

CK_FUNCTION_LIST_3_2 *p11;

/* --- calls ---------------------------------------------------------------- */

CK_FUNCTION_LIST_3_2 *load(const char *path, void **handle) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) fail("%s", dlerror());
    CK_C_GetInterface get_interface = (CK_C_GetInterface)dlsym(library, "C_GetInterface");
    CK_VERSION version = {3, 2};
    CK_INTERFACE *interface;
    if (!get_interface || get_interface(NULL, &version, &interface, 0) != CKR_OK) fail("%s has no interface of 3.2", path);
    if (handle) *handle = library;
    return interface->pFunctionList;
}

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    /* One write, as other processes and threads may fail as well. */
    char text[1024];
    int len = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (len > (int)sizeof text - 2) len = sizeof text - 2;
    text[len++] = '\n';
    if (write(STDERR_FILENO, text, len) < 0) _exit(4);
    _exit(1);
}

void want(CK_RV expected, CK_RV code, const char *call, const char *file, int line) {
    if (code != expected) {
        char expected_name[40];
        snprintf(expected_name, sizeof expected_name, "%s", code_name(expected));
        fail("%s:%d: %s gave %s instead of %s", file, line, call, code_name(code), expected_name);
    }
}

const char *code_name(CK_RV code) {
    static const struct {
        CK_RV code;
        const char *name;
    } names[] = {
#define NAME(code) {code, #code}
        NAME(CKR_OK),
        NAME(CKR_ARGUMENTS_BAD),
        NAME(CKR_CRYPTOKI_ALREADY_INITIALIZED),
        NAME(CKR_CRYPTOKI_NOT_INITIALIZED),
        NAME(CKR_DEVICE_ERROR),
        NAME(CKR_DEVICE_MEMORY),
        NAME(CKR_FUNCTION_FAILED),
        NAME(CKR_GENERAL_ERROR),
        NAME(CKR_HOST_MEMORY),
        NAME(CKR_KEY_HANDLE_INVALID),
        NAME(CKR_OBJECT_HANDLE_INVALID),
        NAME(CKR_OPERATION_ACTIVE),
        NAME(CKR_OPERATION_NOT_INITIALIZED),
        NAME(CKR_PIN_INCORRECT),
        NAME(CKR_PIN_LOCKED),
        NAME(CKR_SESSION_CLOSED),
        NAME(CKR_SESSION_EXISTS),
        NAME(CKR_SESSION_HANDLE_INVALID),
        NAME(CKR_SIGNATURE_INVALID),
        NAME(CKR_TOKEN_NOT_PRESENT),
        NAME(CKR_TOKEN_NOT_RECOGNIZED),
        NAME(CKR_USER_ALREADY_LOGGED_IN),
        NAME(CKR_USER_NOT_LOGGED_IN),
        NAME(CKR_USER_PIN_NOT_INITIALIZED),
#undef NAME
    };
    for (size_t i = 0; i < COUNT(names); i++)
        if (names[i].code == code) return names[i].name;
    static _Thread_local char number[24];
    snprintf(number, sizeof number, "%#lx", code);
    return number;
}

static void on_alarm(int number) {
    (void)number;
    static const char text[] = "it hangs\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(4);
    _exit(3);
}

void limit_seconds(unsigned seconds) {
    signal(SIGALRM, on_alarm);
    alarm(seconds);
}

void sleep_microseconds(unsigned microseconds) {
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000L};
    while (nanosleep(&time, &time) && errno == EINTR) continue;
}

double now_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

unsigned long setting(const char *name, unsigned long without) {
    const char *value = getenv(name);
    return value ? strtoul(value, NULL, 10) : without;
}

uint32_t dice(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* --- tokens and sessions -------------------------------------------------- */

void initialize(void) {
    CK_C_INITIALIZE_ARGS arguments = {.flags = CKF_OS_LOCKING_OK};
    MUST(p11->C_Initialize(&arguments));
}

CK_FLAGS token_flags(CK_SLOT_ID slot) {
    CK_TOKEN_INFO info;
    MUST(p11->C_GetTokenInfo(slot, &info));
    return info.flags;
}

static void pad(CK_BYTE padded[32], const char *label) {
    memset(padded, ' ', 32);
    memcpy(padded, label, strlen(label));
}

/* NULL: the one with an uninitialized token. */
static CK_SLOT_ID slot_with_token(const char *label) {
    CK_SLOT_ID slots[1001];
    CK_ULONG count = 0;
    CK_BYTE padded[32];
    if (label) pad(padded, label);
    /* With NULL the library looks anew. */
    MUST(p11->C_GetSlotList(CK_TRUE, NULL, &count));
    count = COUNT(slots);
    MUST(p11->C_GetSlotList(CK_TRUE, slots, &count));
    for (CK_ULONG i = 0; i < count; i++) {
        CK_TOKEN_INFO info;
        MUST(p11->C_GetTokenInfo(slots[i], &info));
        CK_FLAGS initialized = info.flags & CKF_TOKEN_INITIALIZED;
        if (label ? initialized && !memcmp(info.label, padded, sizeof padded) : !initialized) return slots[i];
    }
    fail("no slot has the token %s", label ? label : "that is not initialized");
}

CK_SLOT_ID make_token(const char *label) {
    CK_SLOT_ID slot = slot_with_token(NULL);
    CK_BYTE padded[32];
    pad(padded, label);
    MUST(p11->C_InitToken(slot, (CK_BYTE *)SO_PIN, strlen(SO_PIN), padded));
    CK_SESSION_HANDLE session = open_session(slot);
    MUST(log_in(session, CKU_SO, SO_PIN));
    MUST(p11->C_InitPIN(session, (CK_BYTE *)PIN, strlen(PIN)));
    MUST(p11->C_Logout(session));
    MUST(p11->C_CloseSession(session));
    return slot;
}

CK_SLOT_ID token_slot(const char *label) { return slot_with_token(label); }

CK_SESSION_HANDLE open_session(CK_SLOT_ID slot) {
    CK_SESSION_HANDLE session;
    MUST(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    return session;
}

CK_SESSION_HANDLE user_session(CK_SLOT_ID slot) {
    CK_SESSION_HANDLE session = open_session(slot);
    MUST(log_in(session, CKU_USER, PIN));
    return session;
}

CK_RV log_in(CK_SESSION_HANDLE session, CK_USER_TYPE user, const char *pin) {
    return p11->C_Login(session, user, (CK_BYTE *)pin, strlen(pin));
}

/* --- objects -------------------------------------------------------------- */

static CK_BBOOL yes = CK_TRUE;
static CK_BYTE keys_label[] = "stress keys";

struct keys make_keys(CK_SESSION_HANDLE session, CK_BBOOL on_token, CK_BBOOL private) {
    static CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    CK_ULONG aes_bytes = 32;
    CK_BBOOL no = CK_FALSE;
    CK_ATTRIBUTE public_template[] = {
        {CKA_TOKEN, &on_token, sizeof on_token},  {CKA_PRIVATE, &no, sizeof no},
        {CKA_EC_PARAMS, p256, sizeof p256},       {CKA_LABEL, keys_label, sizeof keys_label},
        {CKA_VERIFY, &yes, sizeof yes},
    };
    CK_ATTRIBUTE private_template[] = {
        {CKA_TOKEN, &on_token, sizeof on_token},
        {CKA_PRIVATE, &private, sizeof private},
        {CKA_LABEL, keys_label, sizeof keys_label},
        {CKA_SIGN, &yes, sizeof yes},
    };
    CK_ATTRIBUTE aes_template[] = {
        {CKA_TOKEN, &on_token, sizeof on_token},      {CKA_PRIVATE, &private, sizeof private},
        {CKA_VALUE_LEN, &aes_bytes, sizeof aes_bytes}, {CKA_LABEL, keys_label, sizeof keys_label},
        {CKA_ENCRYPT, &yes, sizeof yes},              {CKA_DECRYPT, &yes, sizeof yes},
    };
    CK_MECHANISM pair = {CKM_EC_KEY_PAIR_GEN, NULL, 0}, aes = {CKM_AES_KEY_GEN, NULL, 0};
    struct keys keys;
    MUST(p11->C_GenerateKeyPair(session, &pair, public_template, COUNT(public_template), private_template,
                                COUNT(private_template), &keys.public_key, &keys.private_key));
    MUST(p11->C_GenerateKey(session, &aes, aes_template, COUNT(aes_template), &keys.aes));
    return keys;
}

static CK_OBJECT_HANDLE the_only(CK_SESSION_HANDLE session, CK_OBJECT_CLASS class) {
    CK_ATTRIBUTE template[] = {
        {CKA_CLASS, &class, sizeof class}, {CKA_LABEL, keys_label, sizeof keys_label}, {CKA_TOKEN, &yes, sizeof yes}};
    CK_OBJECT_HANDLE found[2];
    CK_ULONG count;
    MUST(find(session, template, COUNT(template), found, 2, &count));
    if (count != 1) fail("%lu keys of class %lu instead of one", count, class);
    return found[0];
}

struct keys find_keys(CK_SESSION_HANDLE session) {
    return (struct keys){.private_key = the_only(session, CKO_PRIVATE_KEY),
                         .public_key = the_only(session, CKO_PUBLIC_KEY),
                         .aes = the_only(session, CKO_SECRET_KEY)};
}

CK_RV find(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *found, CK_ULONG max,
           CK_ULONG *found_count) {
    CK_RV code = p11->C_FindObjectsInit(session, template, count);
    if (code != CKR_OK) return code;
    code = p11->C_FindObjects(session, found, max, found_count);
    if (code != CKR_OK) return code;
    return p11->C_FindObjectsFinal(session);
}

static CK_MECHANISM ecdsa = {CKM_ECDSA_SHA256, NULL, 0};

CK_RV sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const void *data, CK_ULONG len, CK_BYTE signature[64]) {
    CK_ULONG signature_len = 64;
    CK_RV code = p11->C_SignInit(session, &ecdsa, key);
    if (code != CKR_OK) return code;
    code = p11->C_Sign(session, (CK_BYTE *)data, len, signature, &signature_len);
    if (code == CKR_OK && signature_len != 64) fail("a signature of %lu bytes", signature_len);
    return code;
}

CK_RV verify(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const void *data, CK_ULONG len, CK_BYTE signature[64]) {
    CK_RV code = p11->C_VerifyInit(session, &ecdsa, key);
    return code != CKR_OK ? code : p11->C_Verify(session, (CK_BYTE *)data, len, signature, 64);
}

void use_keys(CK_SESSION_HANDLE session, struct keys keys) {
    CK_BYTE signature[64];
    MUST(sign(session, keys.private_key, "data", 4, signature));
    MUST(verify(session, keys.public_key, "data", 4, signature));
    signature[40] ^= 1;
    WANT(CKR_SIGNATURE_INVALID, verify(session, keys.public_key, "data", 4, signature));
}
