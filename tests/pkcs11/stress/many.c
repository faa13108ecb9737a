/* many LIBRARY COUNT: a token with many objects, found by whatever an application looks for; two processes that see each
   other's changes. Times are printed, in milliseconds. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define THREADS 8

static const char *name = "many";
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static unsigned long count;
static atomic_ulong next;

/* --- objects: by turns a datum, an AES key and a generic secret ------------ */

static CK_OBJECT_HANDLE create(CK_SESSION_HANDLE in, unsigned long number) {
    CK_OBJECT_CLASS class = number % 3 ? CKO_SECRET_KEY : CKO_DATA;
    CK_KEY_TYPE type = number % 3 == 1 ? CKK_AES : CKK_GENERIC_SECRET;
    CK_BYTE value[32] = {0};
    char label[32], id[32];
    memcpy(value, &number, sizeof number);
    CK_ULONG label_len = snprintf(label, sizeof label, "object %lu", number);
    CK_ULONG id_len = snprintf(id, sizeof id, "%lu", number / 10);
    CK_ATTRIBUTE datum[] = {{CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &no, 1}, {CKA_CLASS, &class, sizeof class},
                            {CKA_LABEL, label, label_len}, {CKA_APPLICATION, id, id_len}, {CKA_VALUE, value, 32}};
    CK_ATTRIBUTE secret[] = {{CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &no, 1}, {CKA_CLASS, &class, sizeof class},
                             {CKA_LABEL, label, label_len}, {CKA_ID, id, id_len}, {CKA_VALUE, value, 32},
                             {CKA_KEY_TYPE, &type, sizeof type}};
    CK_OBJECT_HANDLE made;
    if (class == CKO_DATA) MUST(p11->C_CreateObject(in, datum, COUNT(datum), &made));
    else MUST(p11->C_CreateObject(in, secret, COUNT(secret), &made));
    return made;
}

static void *create_some(void *unused) {
    (void)unused;
    CK_SESSION_HANDLE own = open_session(slot);
    for (unsigned long number; (number = next++) < count;) create(own, number);
    MUST(p11->C_CloseSession(own));
    return NULL;
}

/* --- searches ------------------------------------------------------------- */

/* All that fit are found, each once. */
static void search(const char *what, CK_ATTRIBUTE *template, CK_ULONG attributes, unsigned long expected) {
    double begun = now_seconds();
    unsigned long found = 0;
    CK_OBJECT_HANDLE handles[1000];
    CK_ULONG some;
    MUST(p11->C_FindObjectsInit(session, template, attributes));
    do {
        MUST(p11->C_FindObjects(session, handles, COUNT(handles), &some));
        found += some;
    } while (some);
    MUST(p11->C_FindObjectsFinal(session));
    printf("%-28s %8.2f ms\n", what, (now_seconds() - begun) * 1000);
    if (found != expected) fail("%s: %lu objects instead of %lu", what, found, expected);
}

static unsigned long fitting(unsigned long remainder) { return (count + 2 - remainder) / 3; }

static void search_all(void) {
    CK_OBJECT_CLASS data = CKO_DATA, secret = CKO_SECRET_KEY, certificate = CKO_CERTIFICATE;
    CK_KEY_TYPE aes = CKK_AES;
    CK_BYTE value[32] = {0};
    unsigned long number = count / 3 * 3 - 3;
    char label[32], application[32];
    memcpy(value, &number, sizeof number);
    CK_ULONG label_len = snprintf(label, sizeof label, "object %lu", number);
    CK_ULONG application_len = snprintf(application, sizeof application, "%lu", number / 10);
    unsigned long in_ten = 0;
    for (unsigned long other = number / 10 * 10; other < number / 10 * 10 + 10 && other < count; other++)
        in_ten += other % 3 == 0;
    CK_ATTRIBUTE by_label = {CKA_LABEL, label, label_len}, by_no_label = {CKA_LABEL, "none", 4}, by_id = {CKA_ID, "0", 1};
    CK_ATTRIBUTE by_class = {CKA_CLASS, &data, sizeof data}, by_no_class = {CKA_CLASS, &certificate, sizeof certificate};
    CK_ATTRIBUTE by_type[] = {{CKA_CLASS, &secret, sizeof secret}, {CKA_KEY_TYPE, &aes, sizeof aes}};
    CK_ATTRIBUTE by_application = {CKA_APPLICATION, application, application_len}, by_value = {CKA_VALUE, value, 32};
    search("all", NULL, 0, count);
    search("all again", NULL, 0, count);
    search("label", &by_label, 1, 1);
    search("label of none", &by_no_label, 1, 0);
    search("ID", &by_id, 1, 6);
    search("class", &by_class, 1, fitting(0));
    search("class of none", &by_no_class, 1, 0);
    search("class and key type", by_type, 2, fitting(1));
    search("application", &by_application, 1, in_ten);
    search("value of a datum", &by_value, 1, 1);
}

/* --- the other process ---------------------------------------------------- */

static void begin(void) {
    initialize();
    slot = token_slot(name);
    session = open_session(slot);
}

/* One byte on a pipe is a turn. */
static void pass(int pipe) {
    if (write(pipe, "x", 1) != 1) fail("the other process is gone");
}

static void wait_turn(int pipe) {
    char byte;
    if (read(pipe, &byte, 1) != 1) fail("the other process is gone");
}

static CK_OBJECT_HANDLE the_one(const char *label) {
    CK_ATTRIBUTE template = {CKA_LABEL, (void *)label, strlen(label)};
    CK_OBJECT_HANDLE found[2];
    CK_ULONG here;
    MUST(find(session, &template, 1, found, 2, &here));
    if (here > 1) fail("%lu objects %s", here, label);
    return here ? found[0] : CK_INVALID_HANDLE;
}

static void other_process(int from, int to) {
    wait_turn(from);
    double begun = now_seconds();
    begin();
    if (!the_one("object 0")) fail("the other process does not find what was made");
    printf("%-28s %8.2f ms\n", "first search elsewhere", (now_seconds() - begun) * 1000);
    for (int round = 0; round < 20; round++) {
        char label[32];
        snprintf(label, sizeof label, "round %d", round);
        CK_ATTRIBUTE name_of = {CKA_LABEL, label, strlen(label)};
        CK_OBJECT_HANDLE object = the_one("object 1");
        if (!object) fail("the object has gone");
        MUST(p11->C_SetAttributeValue(session, object, &name_of, 1));
        pass(to);
        wait_turn(from);
        if (the_one(label)) fail("an object that another process has destroyed is found");
    }
    MUST(p11->C_Finalize(NULL));
}

static void take_turns(int from, int to) {
    pass(to);
    for (int round = 0; round < 20; round++) {
        char label[32];
        snprintf(label, sizeof label, "round %d", round);
        wait_turn(from);
        if (the_one("object 1")) fail("an object is found by its former label");
        CK_OBJECT_HANDLE changed = the_one(label);
        if (!changed) fail("a change of another process is not seen");
        MUST(p11->C_DestroyObject(session, changed));
        create(session, 1);
        pass(to);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) fail("Usage: %s LIBRARY COUNT", argv[0]);
    limit_seconds(900);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int to_other[2], from_other[2];
    if (pipe(to_other) || pipe(from_other)) fail("no pipe");
    p11 = load(argv[1], NULL);
    pid_t other = fork();
    if (!other) {
        close(to_other[1]);
        other_process(to_other[0], from_other[1]);
        exit(0);
    }
    close(from_other[1]);
    count = strtoul(argv[2], NULL, 10);
    initialize();
    slot = make_token(name);
    session = open_session(slot);
    double begun = now_seconds();
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, create_some, NULL)) fail("no thread");
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    printf("%-28s %8.2f ms\n", "making one", (now_seconds() - begun) * 1000 / count);
    search_all();
    MUST(p11->C_Finalize(NULL));
    begun = now_seconds();
    begin();
    printf("%-28s %8.2f ms\n", "C_Initialize", (now_seconds() - begun) * 1000);
    search_all();
    take_turns(from_other[0], to_other[1]);
    int status;
    if (waitpid(other, &status, 0) != other || status) fail("the other process has failed");
    MUST(p11->C_Finalize(NULL));
    return 0;
}
