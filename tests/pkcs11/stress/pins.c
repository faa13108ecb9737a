/* pins ACTION LIBRARY TOKEN user|so: wrong PINs, which are counted.

     flags      one after the other on a new token, with what C_GetTokenInfo says after each
     threads    GUESSERS threads at once on a new token
     make       a new token
     guess      wrong PINs until the PIN is locked: "try" is written before each, the code's name after it
     locked     the PIN is locked, also for who knows it; the SO unlocks the user's */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

#define MAX_THREADS 64
/* Wrong PINs in a row at which a PIN is locked. */
#define LIMIT 10

static CK_SLOT_ID slot;
static CK_USER_TYPE user;
static CK_FLAGS count_low, final_try, locked;

/* A wrong PIN, in one of the ways in which PINs are given. */
static CK_RV guess(CK_SESSION_HANDLE session, unsigned number) {
    char pin[32];
    CK_ULONG len = snprintf(pin, sizeof pin, "wrong %u", number);
    switch (number % 3) {
    case 0:
        return p11->C_LoginUser(session, user, (CK_BYTE *)pin, len, NULL, 0);
    case 1:
        /* That of the user, if nobody is logged in. */
        if (user == CKU_USER) return p11->C_SetPIN(session, (CK_BYTE *)pin, len, (CK_BYTE *)"guessed", 7);
    /* Fallthrough. */
    default:
        return p11->C_Login(session, user, (CK_BYTE *)pin, len);
    }
}

static void want_flags(unsigned failures) {
    CK_FLAGS expected = failures == 0           ? 0
                        : failures < LIMIT - 1  ? count_low
                        : failures == LIMIT - 1 ? count_low | final_try
                                                : locked;
    CK_FLAGS flags = token_flags(slot) & (count_low | final_try | locked);
    /* What is locked may be low as well. */
    if (flags & locked) flags &= locked;
    if (flags != expected) fail("after %u wrong PINs the flags are %#lx instead of %#lx", failures, flags, expected);
}

static const char *right_pin(void) { return user == CKU_SO ? SO_PIN : PIN; }

static void one_after_the_other(void) {
    CK_SESSION_HANDLE session = open_session(slot);
    /* One that is right takes the count back. */
    for (unsigned i = 0; i < LIMIT - 1; i++) {
        want_flags(i);
        WANT(CKR_PIN_INCORRECT, guess(session, i));
    }
    want_flags(LIMIT - 1);
    MUST(log_in(session, user, right_pin()));
    want_flags(0);
    MUST(p11->C_Logout(session));
    for (unsigned i = 0; i < LIMIT; i++) {
        want_flags(i);
        WANT(i < LIMIT - 1 ? CKR_PIN_INCORRECT : CKR_PIN_LOCKED, guess(session, i));
    }
    want_flags(LIMIT);
}

static atomic_uint incorrect, refused;
static pthread_barrier_t arrived;

static void *guess_once(void *number) {
    CK_SESSION_HANDLE session = open_session(slot);
    pthread_barrier_wait(&arrived);
    CK_RV code = guess(session, (unsigned)(size_t)number);
    if (code == CKR_PIN_INCORRECT) incorrect++;
    else if (code == CKR_PIN_LOCKED) refused++;
    else fail("a wrong PIN gave %s", code_name(code));
    return NULL;
}

static void at_once(void) {
    pthread_t threads[MAX_THREADS];
    unsigned long thread_count = setting("GUESSERS", 16);
    if (pthread_barrier_init(&arrived, NULL, thread_count)) fail("no barrier");
    for (size_t i = 0; i < thread_count; i++)
        if (pthread_create(&threads[i], NULL, guess_once, (void *)i)) fail("no thread");
    for (size_t i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
    printf("%u incorrect, %u locked\n", incorrect, refused);
    /* The last one that is compared has locked the PIN, and says so. */
    if (incorrect != LIMIT - 1 || refused != thread_count - incorrect) fail("the limit is %d", LIMIT);
}

static void say(const char *text) {
    char line[64];
    int len = snprintf(line, sizeof line, "%s\n", text);
    if (write(STDOUT_FILENO, line, len) != len) _exit(4);
}

static void keep_guessing(void) {
    CK_SESSION_HANDLE session = open_session(slot);
    CK_RV code = CKR_PIN_INCORRECT;
    for (unsigned i = getpid(); code == CKR_PIN_INCORRECT; i++) {
        say("try");
        code = guess(session, i);
        say(code_name(code));
    }
}

static void want_locked(void) {
    CK_SESSION_HANDLE session = open_session(slot);
    want_flags(LIMIT);
    WANT(CKR_PIN_LOCKED, log_in(session, user, right_pin()));
    WANT(CKR_PIN_LOCKED, guess(session, 0));
    if (user == CKU_SO) {
        /* That of the user is another one. */
        MUST(log_in(session, CKU_USER, PIN));
        MUST(p11->C_CloseAllSessions(slot));
        CK_BYTE label[32] = "taken                           ";
        WANT(CKR_PIN_LOCKED, p11->C_InitToken(slot, (CK_BYTE *)SO_PIN, strlen(SO_PIN), label));
        return;
    }
    WANT(CKR_PIN_LOCKED, p11->C_SetPIN(session, (CK_BYTE *)PIN, strlen(PIN), (CK_BYTE *)"other", 5));
    MUST(log_in(session, CKU_SO, SO_PIN));
    MUST(p11->C_InitPIN(session, (CK_BYTE *)"unlocked", 8));
    MUST(p11->C_Logout(session));
    want_flags(0);
    WANT(CKR_PIN_INCORRECT, log_in(session, CKU_USER, PIN));
    MUST(log_in(session, CKU_USER, "unlocked"));
    want_flags(0);
}

int main(int argc, char **argv) {
    if (argc != 5) fail("Usage: %s ACTION LIBRARY TOKEN user|so", argv[0]);
    const char *action = argv[1], *label = argv[3];
    limit_seconds(60);
    user = !strcmp(argv[4], "so") ? CKU_SO : CKU_USER;
    count_low = user == CKU_SO ? CKF_SO_PIN_COUNT_LOW : CKF_USER_PIN_COUNT_LOW;
    final_try = user == CKU_SO ? CKF_SO_PIN_FINAL_TRY : CKF_USER_PIN_FINAL_TRY;
    locked = user == CKU_SO ? CKF_SO_PIN_LOCKED : CKF_USER_PIN_LOCKED;
    p11 = load(argv[2], NULL);
    initialize();
    int is_new = strcmp(action, "guess") && strcmp(action, "locked");
    slot = is_new ? make_token(label) : token_slot(label);
    if (!strcmp(action, "flags")) one_after_the_other();
    if (!strcmp(action, "threads")) at_once();
    if (!strcmp(action, "guess")) keep_guessing();
    if (is_new && strcmp(action, "make")) MUST(p11->C_CloseAllSessions(slot));
    if (!strcmp(action, "locked") || (is_new && strcmp(action, "make"))) want_locked();
    return 0;
}
