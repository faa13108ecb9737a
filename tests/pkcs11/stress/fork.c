/* fork CASE LIBRARY: child processes of a process that uses the library. */
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

extern char **environ;

static const char *label;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static struct keys keys;

static void await(pid_t child, const char *what, unsigned long round) {
    int status;
    if (waitpid(child, &status, 0) != child) fail("no child");
    if (status) fail("%s, round %lu: the child ended with %s %d", what, round, WIFSIGNALED(status) ? "signal" : "code",
                     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* In a child that has not called C_Initialize, no function has anything to do with the parent's sessions. */
static void want_not_initialized(void) {
    CK_INFO info;
    CK_SESSION_INFO session_info;
    CK_TOKEN_INFO token_info;
    CK_SESSION_HANDLE opened;
    CK_OBJECT_HANDLE object = keys.public_key;
    CK_BYTE bytes[64];
    CK_ULONG count = 1, len = sizeof bytes;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template = {CKA_TOKEN, &yes, sizeof yes};
    CK_MECHANISM digest = {CKM_SHA256, NULL, 0};
#define NOT_INITIALIZED(call) WANT(CKR_CRYPTOKI_NOT_INITIALIZED, call)
    NOT_INITIALIZED(p11->C_GetInfo(&info));
    NOT_INITIALIZED(p11->C_GetSlotList(CK_TRUE, NULL, &count));
    NOT_INITIALIZED(p11->C_GetTokenInfo(slot, &token_info));
    NOT_INITIALIZED(p11->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &opened));
    NOT_INITIALIZED(p11->C_GetSessionInfo(session, &session_info));
    NOT_INITIALIZED(log_in(session, CKU_USER, PIN));
    NOT_INITIALIZED(p11->C_Logout(session));
    NOT_INITIALIZED(p11->C_FindObjects(session, &object, 1, &count));
    NOT_INITIALIZED(p11->C_FindObjectsFinal(session));
    NOT_INITIALIZED(p11->C_GetAttributeValue(session, object, &template, 1));
    NOT_INITIALIZED(p11->C_CreateObject(session, &template, 1, &object));
    NOT_INITIALIZED(p11->C_DestroyObject(session, object));
    NOT_INITIALIZED(p11->C_SignUpdate(session, bytes, 4));
    NOT_INITIALIZED(p11->C_Sign(session, bytes, 4, bytes, &len));
    NOT_INITIALIZED(p11->C_SignFinal(session, bytes, &len));
    NOT_INITIALIZED(p11->C_DigestInit(session, &digest));
    NOT_INITIALIZED(p11->C_GenerateRandom(session, bytes, sizeof bytes));
    NOT_INITIALIZED(p11->C_SessionCancel(session, CKF_SIGN));
    NOT_INITIALIZED(p11->C_CloseSession(session));
    NOT_INITIALIZED(p11->C_CloseAllSessions(slot));
    NOT_INITIALIZED(p11->C_Finalize(NULL));
}

static void make_datum(CK_SESSION_HANDLE in, const char *name) {
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},
                               {CKA_TOKEN, &yes, sizeof yes},
                               {CKA_PRIVATE, &no, sizeof no},
                               {CKA_LABEL, (void *)name, strlen(name)}};
    CK_OBJECT_HANDLE made;
    MUST(p11->C_CreateObject(in, template, COUNT(template), &made));
}

/* A child that begins on its own, as the user, whom its parent's login does not log in. */
static void work_as_child(void) {
    initialize();
    WANT(CKR_CRYPTOKI_ALREADY_INITIALIZED, p11->C_Initialize(NULL));
    CK_SESSION_INFO info;
    CK_SLOT_ID own = token_slot(label);
    CK_SESSION_HANDLE opened = open_session(own);
    MUST(p11->C_GetSessionInfo(opened, &info));
    if (info.state != CKS_RW_PUBLIC_SESSION) fail("the child begins in state %lu", info.state);
    MUST(log_in(opened, CKU_USER, PIN));
    use_keys(opened, find_keys(opened));
    use_keys(opened, make_keys(opened, CK_FALSE, CK_TRUE));
    make_datum(opened, "the child's");
}

/* --- a parent in the midst of everything ---------------------------------- */

static void in_operations(void) {
    CK_SESSION_HANDLE signing = open_session(slot), finding = open_session(slot), digesting = open_session(slot);
    CK_MECHANISM ecdsa = {CKM_ECDSA_SHA256, NULL, 0}, sha256 = {CKM_SHA256, NULL, 0};
    CK_BYTE signature[64], digest[32];
    CK_ULONG len = sizeof signature, count;
    CK_OBJECT_HANDLE found[10];
    MUST(p11->C_SignInit(signing, &ecdsa, keys.private_key));
    MUST(p11->C_SignUpdate(signing, (CK_BYTE *)"da", 2));
    MUST(p11->C_FindObjectsInit(finding, NULL, 0));
    MUST(p11->C_DigestInit(digesting, &sha256));
    MUST(p11->C_DigestUpdate(digesting, (CK_BYTE *)"da", 2));

    pid_t child = fork();
    if (!child) {
        limit_seconds(60);
        session = signing;
        want_not_initialized();
        work_as_child();
        /* A grandchild, of which the same is true. */
        pid_t grandchild = fork();
        if (!grandchild) {
            limit_seconds(60);
            want_not_initialized();
            work_as_child();
            MUST(p11->C_Finalize(NULL));
            exit(0);
        }
        await(grandchild, "a grandchild", 0);
        MUST(p11->C_Finalize(NULL));
        want_not_initialized();
        exit(0);
    }
    await(child, "operations", 0);

    CK_SESSION_INFO info;
    MUST(p11->C_GetSessionInfo(session, &info));
    if (info.state != CKS_RW_USER_FUNCTIONS) fail("the parent is in state %lu", info.state);
    MUST(p11->C_SignUpdate(signing, (CK_BYTE *)"ta", 2));
    MUST(p11->C_SignFinal(signing, signature, &len));
    MUST(verify(session, keys.public_key, "data", 4, signature));
    MUST(p11->C_FindObjects(finding, found, COUNT(found), &count));
    if (count != 3) fail("the search from before the fork finds %lu", count);
    MUST(p11->C_FindObjectsFinal(finding));
    len = sizeof digest;
    MUST(p11->C_DigestFinal(digesting, digest, &len));
    CK_ATTRIBUTE name = {CKA_LABEL, "the child's", 11};
    MUST(find(finding, &name, 1, found, COUNT(found), &count));
    if (count != 2) fail("the parent finds %lu of the objects that its children made", count);
    use_keys(session, keys);
}

/* --- forks while other threads are inside calls --------------------------- */

static atomic_int stopped;
static atomic_ulong signatures;

static void *keep_signing(void *unused) {
    (void)unused;
    CK_SESSION_HANDLE own = open_session(slot);
    uint64_t state = own;
    while (!stopped) {
        use_keys(own, keys);
        signatures++;
        /* Two cores are busy with two threads: the others need not be in the children's way. */
        sleep_microseconds(dice(&state) % 2000);
    }
    MUST(p11->C_CloseSession(own));
    return NULL;
}

/* Writes, so that locks of the store are held at the moment of a fork, too. */
static void *keep_writing(void *unused) {
    (void)unused;
    CK_SESSION_HANDLE own = open_session(slot);
    while (!stopped) {
        struct keys made = make_keys(own, CK_FALSE, CK_TRUE);
        MUST(p11->C_DestroyObject(own, made.private_key));
        MUST(p11->C_DestroyObject(own, made.public_key));
        MUST(p11->C_DestroyObject(own, made.aes));
        make_datum(own, "a thread's");
        CK_ATTRIBUTE name = {CKA_LABEL, "a thread's", 10};
        CK_OBJECT_HANDLE found[2];
        CK_ULONG count;
        MUST(find(own, &name, 1, found, 2, &count));
        if (count != 1) fail("%lu objects of the thread", count);
        MUST(p11->C_DestroyObject(own, found[0]));
        /* Children want to write as well, and processes take no turns. */
        sleep_microseconds(5000);
    }
    MUST(p11->C_CloseSession(own));
    return NULL;
}

static void child_of_threads(unsigned long round) {
    limit_seconds(60);
    want_not_initialized();
    switch (round % 10) {
    case 0: /* works, and ends as it should */
        work_as_child();
        MUST(p11->C_Finalize(NULL));
        exit(0);
    case 1: /* works, and just ends */
        work_as_child();
        exit(0);
    case 2: /* has nothing to do with the library */
        exit(0);
    case 3:
        initialize();
        MUST(p11->C_Finalize(NULL));
        initialize();
        MUST(p11->C_Finalize(NULL));
        _exit(0);
    case 4:
        initialize();
        _exit(0);
    default:
        execl("/bin/true", "true", NULL);
        fail("exec");
    }
}

static void in_threads(void) {
    pthread_t threads[9];
    for (size_t i = 0; i < COUNT(threads); i++)
        if (pthread_create(&threads[i], NULL, i ? keep_signing : keep_writing, NULL)) fail("no thread");
    unsigned long rounds = setting("FORKS", 200);
    for (unsigned long round = 0; round < rounds; round++) {
        unsigned long before = signatures;
        pid_t child = fork();
        if (!child) child_of_threads(round);
        await(child, "threads", round);
        /* The parent's threads go on. */
        while (signatures < before + COUNT(threads)) sleep_microseconds(100);
    }
    stopped = 1;
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    use_keys(session, keys);
    printf("%lu forks, %lu signatures meanwhile\n", rounds, (unsigned long)signatures);
}

/* --- children that only run another program ------------------------------- */

static void in_spawns(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, keep_signing, NULL)) fail("no thread");
    char *arguments[] = {"true", NULL};
    for (unsigned long round = 0; round < 50; round++) {
        pid_t child = vfork();
        if (!child) {
            execv("/bin/true", arguments);
            _exit(1);
        }
        await(child, "vfork", round);
        if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environ)) fail("posix_spawn");
        await(child, "posix_spawn", round);
        use_keys(session, keys);
        if (system("true")) fail("system");
    }
    stopped = 1;
    pthread_join(thread, NULL);
}

/* How many files a program inherits that a child runs. */
static int inherited(void) {
    FILE *list = popen("ls /proc/self/fd | wc -l", "r");
    int count;
    if (!list || fscanf(list, "%d", &count) != 1 || pclose(list)) fail("popen");
    return count;
}

int main(int argc, char **argv) {
    if (argc != 3) fail("Usage: %s operations|threads|spawns LIBRARY", argv[0]);
    limit_seconds(300);
    int files = inherited();
    p11 = load(argv[2], NULL);
    initialize();
    label = argv[1];
    slot = make_token(label);
    session = user_session(slot);
    keys = make_keys(session, CK_TRUE, CK_TRUE);
    if (!strcmp(argv[1], "operations")) in_operations();
    else if (!strcmp(argv[1], "threads")) in_threads();
    else if (!strcmp(argv[1], "spawns")) in_spawns();
    else fail("no such case");
    if (inherited() != files) fail("a child's program has inherited files of the library's");
    MUST(p11->C_Finalize(NULL));
    return 0;
}
