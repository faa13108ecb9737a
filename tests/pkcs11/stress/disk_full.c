/* disk_full disk|limit LIBRARY DIRECTORY: objects are written until there is no room for more.

   disk    DIRECTORY, where the HSM's state is, is a small file system
   limit   files may not grow beyond a size that is set here
   look-disk, look-limit    what these two run in another process while there is no room */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define MIB (1ul << 20)
#define BALLAST (4 * MIB)

static const char *directory;
static int on_disk;
static unsigned problems;
static CK_SESSION_HANDLE session;
static unsigned long made;

/* What is wrong does not keep the rest from being looked at. */
static void expect(const char *what, CK_RV expected, CK_RV code) {
    if (code == expected) return;
    problems++;
    printf("%s gave %s", what, code_name(code));
    printf(" instead of %s\n", code_name(expected));
}

/* Without room for more. A limit of the process is none of the disk's, and no spare room helps against it. */
static void expect_full(const char *what, CK_RV code) {
    if (on_disk || code != CKR_DEVICE_ERROR) expect(what, CKR_DEVICE_MEMORY, code);
}

/* What is to work without room. */
static void expect_done(const char *what, CK_RV code) {
    if (code == CKR_OK) return;
    if (on_disk) expect(what, CKR_OK, code);
    else expect_full(what, code);
}

/* --- room ----------------------------------------------------------------- */

static void limit_files(rlim_t bytes) {
    struct rlimit limit = {bytes, RLIM_INFINITY};
    if (setrlimit(RLIMIT_FSIZE, &limit)) fail("setrlimit: %s", strerror(errno));
}

static char *ballast(void) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/ballast", directory);
    return path;
}

static void limit_room(void) {
    if (!on_disk) {
        signal(SIGXFSZ, SIG_IGN);
        limit_files(2 * MIB);
        return;
    }
    int file = open(ballast(), O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0 || posix_fallocate(file, 0, BALLAST) || close(file)) fail("%s: %s", ballast(), strerror(errno));
}

static void make_room(void) {
    if (!on_disk) limit_files(RLIM_INFINITY);
    else if (unlink(ballast())) fail("%s: %s", ballast(), strerror(errno));
}

/* --- objects -------------------------------------------------------------- */

static CK_BYTE *value_of(unsigned long number, CK_ULONG len) {
    static CK_BYTE value[16384];
    uint64_t state = number;
    for (CK_ULONG i = 0; i < len; i++) value[i] = dice(&state);
    return value;
}

static CK_RV create(CK_ULONG len, CK_OBJECT_HANDLE *object) {
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},
                               {CKA_TOKEN, &yes, 1},
                               {CKA_PRIVATE, &yes, 1},
                               {CKA_APPLICATION, "filling", 7},
                               {CKA_LABEL, &made, sizeof made},
                               {CKA_VALUE, value_of(made, len), len}};
    CK_RV code = p11->C_CreateObject(session, template, COUNT(template), object);
    if (code == CKR_OK) made++;
    return code;
}

/* All that were made are there, with their values. */
static void read_all(const char *when, unsigned long expected) {
    static CK_OBJECT_HANDLE found[100000];
    static CK_BYTE value[16384];
    CK_ATTRIBUTE template = {CKA_APPLICATION, "filling", 7};
    CK_ULONG count;
    CK_RV code = find(session, &template, 1, found, COUNT(found), &count);
    expect(when, CKR_OK, code);
    if (code != CKR_OK) return;
    if (count != expected) {
        problems++;
        printf("%s: %lu objects instead of %lu\n", when, count, expected);
    }
    for (CK_ULONG i = 0; i < count; i++) {
        unsigned long number;
        CK_ATTRIBUTE attributes[] = {{CKA_LABEL, &number, sizeof number}, {CKA_VALUE, value, sizeof value}};
        MUST(p11->C_GetAttributeValue(session, found[i], attributes, 2));
        if (memcmp(value, value_of(number, attributes[1].ulValueLen), attributes[1].ulValueLen))
            fail("%s: the value of object %lu is another one", when, number);
    }
}

static CK_ULONG count_pairs(void) {
    CK_OBJECT_HANDLE found[100];
    CK_BBOOL yes = CK_TRUE;
    CK_OBJECT_CLASS class = CKO_PUBLIC_KEY;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1}};
    CK_ULONG count;
    MUST(find(session, template, 2, found, COUNT(found), &count));
    return count;
}

static CK_RV generate_pair(void) {
    static CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &yes, 1}, {CKA_EC_PARAMS, p256, sizeof p256}}, private[] = {{CKA_TOKEN, &yes, 1}};
    CK_MECHANISM mechanism = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
    CK_OBJECT_HANDLE public_key, private_key;
    return p11->C_GenerateKeyPair(session, &mechanism, public, 2, private, 1, &public_key, &private_key);
}

/* --- while there is no room ----------------------------------------------- */

static void look(unsigned long expected) {
    CK_RV code = p11->C_Initialize(NULL);
    expect("C_Initialize of another process", CKR_OK, code);
    if (code != CKR_OK) return;
    session = open_session(token_slot("full"));
    code = log_in(session, CKU_USER, PIN);
    expect_done("C_Login of another process", code);
    if (code != CKR_OK) return;
    use_keys(session, find_keys(session));
    read_all("another process reads", expected);
}

static void look_in_another_process(char **argv) {
    char expected[24];
    snprintf(expected, sizeof expected, "%lu", made);
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        execl(argv[0], argv[0], on_disk ? "look-disk" : "look-limit", argv[2], expected, NULL);
        fail("exec");
    }
    int status;
    if (waitpid(child, &status, 0) != child || status) problems++;
}

static void use_while_full(CK_SLOT_ID slot, struct keys keys, CK_OBJECT_HANDLE expendable) {
    CK_SESSION_INFO info;
    read_all("reading", made);
    use_keys(session, keys);
    /* What is of the session needs no room. */
    use_keys(session, make_keys(session, CK_FALSE, CK_TRUE));
    CK_SESSION_HANDLE other = open_session(slot);
    MUST(p11->C_GetSessionInfo(other, &info));
    MUST(p11->C_CloseSession(other));
    expect("C_Logout", CKR_OK, p11->C_Logout(session));
    /* No guess may go uncounted, and to count takes room. */
    CK_RV guess = log_in(session, CKU_USER, "wrong");
    if (guess != CKR_PIN_INCORRECT) expect_full("C_Login with a wrong PIN", guess);
    expect_done("C_Login", log_in(session, CKU_USER, PIN));
    MUST(p11->C_GetSessionInfo(session, &info));
    if (info.state != CKS_RW_USER_FUNCTIONS) return;
    use_keys(session, find_keys(session));
    /* The logout has given it another handle. */
    CK_ATTRIBUTE label = {CKA_LABEL, "expendable", 10};
    CK_ULONG count;
    MUST(find(session, &label, 1, &expendable, 1, &count));
    CK_RV code = p11->C_DestroyObject(session, expendable);
    expect_done("C_DestroyObject", code);
    MUST(find(session, &label, 1, &expendable, 1, &count));
    if (count != (code != CKR_OK)) fail("C_DestroyObject gave %s, and %lu objects are left", code_name(code), count);
}

int main(int argc, char **argv) {
    if (argc != 4) fail("Usage: %s disk|limit LIBRARY DIRECTORY", argv[0]);
    limit_seconds(100);
    p11 = load(argv[2], NULL);
    on_disk = strstr(argv[1], "disk") != NULL;
    if (!strncmp(argv[1], "look", 4)) {
        look(strtoul(argv[3], NULL, 10));
        return problems != 0;
    }
    directory = argv[3];
    limit_room();
    initialize();
    CK_SLOT_ID slot = make_token("full");
    session = user_session(slot);
    struct keys keys = make_keys(session, CK_TRUE, CK_TRUE);
    CK_ATTRIBUTE label = {CKA_LABEL, "expendable", 10};
    CK_OBJECT_HANDLE expendable, object;
    CK_BBOOL yes = CK_TRUE;
    CK_ATTRIBUTE on_token = {CKA_TOKEN, &yes, 1};
    MUST(p11->C_CopyObject(session, keys.aes, (CK_ATTRIBUTE[]){label, on_token}, 2, &expendable));

    static const CK_ULONG sizes[] = {8000, 1000, 10};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        CK_RV code;
        while ((code = create(sizes[i], &object)) == CKR_OK) continue;
        expect_full("C_CreateObject without room", code);
    }
    printf("%lu objects\n", made);
    CK_ULONG pairs = count_pairs();
    CK_RV code = generate_pair();
    if (code != CKR_OK) expect_full("C_GenerateKeyPair without room", code);
    if (count_pairs() != pairs + (code == CKR_OK)) {
        problems++;
        printf("C_GenerateKeyPair gave %s, and left half a pair\n", code_name(code));
    }
    use_while_full(slot, keys, expendable);
    look_in_another_process(argv);

    make_room();
    session = open_session(slot);
    code = log_in(session, CKU_USER, PIN);
    if (code != CKR_USER_ALREADY_LOGGED_IN) expect("C_Login with room", CKR_OK, code);
    read_all("reading with room", made);
    for (int i = 0; i < 20; i++) expect("C_CreateObject with room", CKR_OK, create(8000, &object));
    expect("C_DestroyObject with room", CKR_OK, p11->C_DestroyObject(session, object));
    use_keys(session, find_keys(session));
    MUST(p11->C_Finalize(NULL));
    made--;
    look_in_another_process(argv);
    printf("%u problems\n", problems);
    return problems != 0;
}
