/* life CASE LIBRARY [COPY]: the library's beginning and end, again and again and at any moment. */
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

#define THREADS 8

static CK_SLOT_ID slot;
static atomic_int stopped;
static atomic_ulong calls;

/* Not the pages of files, which come and go with what else the machine does. */
static unsigned long resident_kib(void) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long kib = 0;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %lu", &kib) == 1) break;
    if (status) fclose(status);
    if (!kib) fail("no RssAnon");
    return kib;
}

static unsigned long entries(const char *path) {
    DIR *directory = opendir(path);
    unsigned long count = 0;
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

/* --- nothing is left over ------------------------------------------------- */

static void one_life(int with_login) {
    initialize();
    CK_SESSION_HANDLE session = with_login ? user_session(token_slot("life")) : open_session(token_slot("life"));
    struct keys keys = find_keys(session);
    use_keys(session, keys);
    CK_MECHANISM sha256 = {CKM_SHA256, NULL, 0};
    MUST(p11->C_DigestInit(session, &sha256));
    MUST(p11->C_FindObjectsInit(session, NULL, 0));
    MUST(p11->C_Finalize(NULL));
}

static void leaks(void) {
    unsigned long lives = setting("LIVES", 1000), warm_up = 100;
    for (unsigned long i = 0; i < warm_up; i++) one_life(i % 50 == 0);
    unsigned long memory = resident_kib(), files = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    double begun = now_seconds();
    for (unsigned long i = 0; i < lives; i++) one_life(i % 50 == 0);
    long grown = (long)(resident_kib() - memory);
    printf("%lu lives: %+ld KiB, %.1f ms each\n", lives, grown, (now_seconds() - begun) * 1000 / lives);
    if (entries("/proc/self/fd") != files) fail("%lu files became %lu", files, entries("/proc/self/fd"));
    /* A thread that is told to end may take a moment. */
    for (int i = 0; entries("/proc/self/task") > threads && i < 100; i++) sleep_microseconds(10000);
    if (entries("/proc/self/task") > threads) fail("%lu threads became %lu", threads, entries("/proc/self/task"));
    /* 1 KiB in each of 600 lives would be more; an allocator's own ups and downs are below this. */
    if (grown > 400) fail("%lu lives left %ld KiB", lives, grown);
}

/* --- two of it ------------------------------------------------------------ */

static void copies(const char *copy) {
    CK_FUNCTION_LIST_3_2 *one = p11, *two = load(copy, NULL);
    if (one == two) fail("the copy is the same library");
    initialize();
    CK_INFO info;
    WANT(CKR_CRYPTOKI_NOT_INITIALIZED, two->C_GetInfo(&info));
    CK_SESSION_HANDLE first = user_session(token_slot("life"));
    struct keys first_keys = find_keys(first);
    p11 = two;
    initialize();
    CK_SESSION_HANDLE second = user_session(token_slot("life"));
    struct keys second_keys = find_keys(second);
    for (int i = 0; i < 100; i++) {
        p11 = one;
        use_keys(first, first_keys);
        p11 = two;
        use_keys(second, second_keys);
    }
    p11 = one;
    MUST(p11->C_Finalize(NULL));
    WANT(CKR_CRYPTOKI_NOT_INITIALIZED, p11->C_GetInfo(&info));
    p11 = two;
    use_keys(second, second_keys);
    p11 = one;
    one_life(1);
    p11 = two;
    use_keys(second, second_keys);
    MUST(p11->C_Finalize(NULL));
}

/* --- unloaded and loaded again -------------------------------------------- */

static void reloads(const char *path, void *library) {
    for (int round = 0; round < 50; round++) {
        initialize();
        CK_SESSION_HANDLE session = open_session(token_slot("life"));
        use_keys(session, find_keys(session));
        /* Not everybody finalizes what he unloads. */
        if (round % 2) MUST(p11->C_Finalize(NULL));
        if (dlclose(library)) fail("%s", dlerror());
        p11 = load(path, &library);
        /* It stays mapped, so what was not finalized goes on. */
        CK_INFO info;
        WANT(round % 2 ? CKR_CRYPTOKI_NOT_INITIALIZED : CKR_OK, p11->C_GetInfo(&info));
        if (!(round % 2)) MUST(p11->C_Finalize(NULL));
    }
}

/* --- an end in the midst of calls ----------------------------------------- */

/* A call's code, while another thread calls C_Finalize and C_Initialize. */
static int ended(CK_RV code, const char *call) {
    switch (code) {
    case CKR_OK:
        return 0;
    case CKR_CRYPTOKI_NOT_INITIALIZED:
    /* After C_Initialize, all that was before is unknown. */
    case CKR_SESSION_HANDLE_INVALID:
    case CKR_SESSION_CLOSED:
    case CKR_OBJECT_HANDLE_INVALID:
    case CKR_KEY_HANDLE_INVALID:
    case CKR_OPERATION_NOT_INITIALIZED:
    case CKR_USER_NOT_LOGGED_IN:
        return 1;
    default:
        fail("%s gave %s", call, code_name(code));
    }
}
#define ENDED(call) ended(call, #call)

static void *keep_calling(void *number) {
    size_t kind = (size_t)number;
    static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    while (!stopped) {
        CK_SESSION_HANDLE session;
        CK_OBJECT_CLASS class = CKO_PRIVATE_KEY, data = CKO_DATA;
        CK_ATTRIBUTE find_template = {CKA_CLASS, &class, sizeof class};
        CK_ATTRIBUTE datum[] = {
            {CKA_CLASS, &data, sizeof data}, {CKA_TOKEN, kind == 1 ? &yes : &no, 1}, {CKA_PRIVATE, &no, sizeof no}};
        CK_OBJECT_HANDLE key, made;
        CK_ULONG count;
        CK_BYTE signature[64], bytes[1000];
        if (ENDED(p11->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session))) continue;
        if (kind == 3) {
            CK_RV code = log_in(session, CKU_USER, PIN);
            if (code != CKR_USER_ALREADY_LOGGED_IN && ended(code, "C_Login")) continue;
        }
        if (ENDED(find(session, &find_template, 1, &key, 1, &count)) || !count) continue;
        while (!stopped) {
            calls++;
            if (ENDED(sign(session, key, "data", 4, signature))) break;
            if (ENDED(p11->C_GenerateRandom(session, bytes, sizeof bytes))) break;
            if (kind > 2) continue;
            if (ENDED(p11->C_CreateObject(session, datum, COUNT(datum), &made))) break;
            if (ENDED(p11->C_DestroyObject(session, made))) break;
        }
    }
    return NULL;
}

static void start(pthread_t threads[THREADS]) {
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, keep_calling, (void *)i)) fail("no thread");
    while (calls < 2 * THREADS) sleep_microseconds(100);
}

static void finalize_in_calls(void) {
    pthread_t threads[THREADS];
    uint64_t state = getpid();
    initialize();
    start(threads);
    for (unsigned long i = 0; i < setting("FINALIZES", 100); i++) {
        unsigned long before = calls;
        while (calls < before + THREADS) sleep_microseconds(100);
        sleep_microseconds(dice(&state) % 5000);
        MUST(p11->C_Finalize(NULL));
        sleep_microseconds(dice(&state) % 1000);
        initialize();
    }
    stopped = 1;
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    MUST(p11->C_Finalize(NULL));
    one_life(1);
}

/* How main ends is chosen by the number. */
static void exit_in_calls(unsigned long way) {
    pthread_t threads[THREADS];
    uint64_t state = getpid();
    /* A login that is cut off counts as a wrong PIN, until one is right. */
    one_life(1);
    initialize();
    start(threads);
    sleep_microseconds(dice(&state) % 20000);
    if (way == 1) MUST(p11->C_Finalize(NULL));
    if (way == 2) quick_exit(0);
    /* Otherwise main returns. */
}

int main(int argc, char **argv) {
    if (argc < 3) fail("Usage: %s make|leaks|copies|reloads|finalize|exit LIBRARY [COPY|NUMBER]", argv[0]);
    limit_seconds(300);
    void *library;
    p11 = load(argv[2], &library);
    initialize();
    if (!strcmp(argv[1], "make")) {
        CK_SESSION_HANDLE session = user_session(make_token("life"));
        /* Of use without a login. */
        make_keys(session, CK_TRUE, CK_FALSE);
        return 0;
    }
    slot = token_slot("life");
    MUST(p11->C_Finalize(NULL));
    if (!strcmp(argv[1], "leaks")) leaks();
    else if (!strcmp(argv[1], "copies")) copies(argv[3]);
    else if (!strcmp(argv[1], "reloads")) reloads(argv[2], library);
    else if (!strcmp(argv[1], "finalize")) finalize_in_calls();
    else if (!strcmp(argv[1], "exit")) exit_in_calls(strtoul(argv[3], NULL, 10));
    else fail("no such case");
    return 0;
}
