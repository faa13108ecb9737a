/* own_changes LIBRARY: what a thread has just changed on the token it sees changed, while other threads search. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "stress.h"

#define SEARCHING 4
#define WRITING 4

static CK_SLOT_ID slot;
static double deadline;
static atomic_ulong objects, stale, undead;
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

/* Each search takes in what changed on the token. */
static void *search(void *unused) {
    (void)unused;
    CK_SESSION_HANDLE session = open_session(slot);
    CK_ATTRIBUTE label = {CKA_LABEL, "nothing", 7};
    CK_OBJECT_HANDLE found;
    CK_ULONG count;
    while (now_seconds() < deadline) {
        MUST(find(session, &label, 1, &found, 1, &count));
        sleep_microseconds(100);
    }
    return NULL;
}

static void *change(void *unused) {
    (void)unused;
    CK_SESSION_HANDLE session = open_session(slot);
    CK_OBJECT_CLASS class = CKO_DATA;
    for (CK_ULONG before = 0; now_seconds() < deadline; before += 2) {
        CK_ULONG after = before + 1, read;
        CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},
                                   {CKA_TOKEN, &yes, sizeof yes},
                                   {CKA_PRIVATE, &no, sizeof no},
                                   {CKA_VALUE, &before, sizeof before}};
        CK_ATTRIBUTE changed = {CKA_VALUE, &after, sizeof after}, result = {CKA_VALUE, &read, sizeof read};
        CK_OBJECT_HANDLE object;
        MUST(p11->C_CreateObject(session, template, COUNT(template), &object));
        MUST(p11->C_SetAttributeValue(session, object, &changed, 1));
        for (int i = 0; i < 3; i++) {
            MUST(p11->C_GetAttributeValue(session, object, &result, 1));
            if (read != after) {
                stale++;
                break;
            }
            sleep_microseconds(300);
        }
        MUST(p11->C_DestroyObject(session, object));
        for (int i = 0; i < 3; i++) {
            CK_RV code = p11->C_GetAttributeValue(session, object, &result, 1);
            if (code == CKR_OK) {
                undead++;
                break;
            }
            if (code != CKR_OBJECT_HANDLE_INVALID) fail("a destroyed object gave %s", code_name(code));
            sleep_microseconds(300);
        }
        objects++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2) fail("Usage: %s LIBRARY", argv[0]);
    unsigned long seconds = setting("CHANGES_SECONDS", 2);
    limit_seconds(seconds + 60);
    p11 = load(argv[1], NULL);
    initialize();
    slot = make_token("changes");
    deadline = now_seconds() + seconds;
    pthread_t threads[SEARCHING + WRITING];
    for (size_t i = 0; i < COUNT(threads); i++)
        if (pthread_create(&threads[i], NULL, i < SEARCHING ? search : change, NULL)) fail("no thread");
    for (size_t i = 0; i < COUNT(threads); i++) pthread_join(threads[i], NULL);
    printf("%lu objects: %lu had their old value after C_SetAttributeValue, %lu were there after C_DestroyObject\n",
           (unsigned long)objects, (unsigned long)stale, (unsigned long)undead);
    MUST(p11->C_Finalize(NULL));
    return stale || undead || !objects;
}
