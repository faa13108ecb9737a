/* objects write|read LIBRARY NAME SEED: token objects that are written until the process is killed, and looked at.

   A writer says "try PLACE STATE" before each change of one of its places and "ok" after it. A state is "absent", a
   generation (a number), or "GENERATION public" for what is left of a key pair whose private key was destroyed.
   A reader says "NAME PLACE STATE" for all that it finds, and fails if anything of it is not whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

#define PLACES 9

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
static CK_SESSION_HANDLE session;
/* The user's alone, if the writer is logged in. */
static CK_BBOOL private;
static const char *name;

/* --- what is in a place --------------------------------------------------- */

enum kind { DATUM, SECRET, PAIR };

static enum kind kind_of(unsigned place) { return place % 3; }

/* The value follows from the name, the place and the generation. */
static CK_ULONG expected_value(const char *of, unsigned place, unsigned generation, CK_BYTE value[8000]) {
    uint64_t state = place * 1000003u + generation;
    for (const char *c = of; *c; c++) state = state * 31 + *c;
    CK_ULONG len = kind_of(place) == SECRET ? 32 : 20 + dice(&state) % 7000;
    for (CK_ULONG i = 0; i < len; i++) value[i] = dice(&state);
    return len;
}

struct place {
    char label[64], id[16];
    /* The first one is the only one, or the private key. */
    CK_OBJECT_HANDLE objects[2];
    unsigned generation;
};

static void text_of(struct place *self, unsigned place, unsigned generation) {
    snprintf(self->label, sizeof self->label, "%s %u", name, place);
    snprintf(self->id, sizeof self->id, "%u", generation);
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...) {
    char line[100];
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    int len = vsnprintf(line, sizeof line, format, arguments);
    __builtin_va_end(arguments);
    if (write(STDOUT_FILENO, line, len) != len) _exit(4);
}

/* --- writing -------------------------------------------------------------- */

static void create(struct place *self, unsigned place) {
    static CK_BYTE p256[] = {6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7};
    CK_BYTE value[8000];
    CK_ULONG len = expected_value(name, place, self->generation, value);
    CK_OBJECT_CLASS data = CKO_DATA, secret = CKO_SECRET_KEY;
    CK_KEY_TYPE aes = CKK_AES;
    CK_MECHANISM pair = {CKM_EC_KEY_PAIR_GEN, NULL, 0};
#define COMMON {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &private, 1}, {CKA_LABEL, self->label, strlen(self->label)}
#define IDENTIFIED {CKA_ID, self->id, strlen(self->id)}
    CK_ATTRIBUTE datum_template[] = {COMMON, {CKA_CLASS, &data, sizeof data}, {CKA_VALUE, value, len},
                                     {CKA_OBJECT_ID, self->id, strlen(self->id)}};
    CK_ATTRIBUTE secret_template[] = {COMMON, IDENTIFIED, {CKA_CLASS, &secret, sizeof secret},
                                      {CKA_KEY_TYPE, &aes, sizeof aes}, {CKA_VALUE, value, len},
                                      {CKA_SENSITIVE, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}, {CKA_ENCRYPT, &yes, 1}};
    CK_ATTRIBUTE public_template[] = {COMMON, IDENTIFIED, {CKA_EC_PARAMS, p256, sizeof p256}, {CKA_VERIFY, &yes, 1}};
    CK_ATTRIBUTE private_template[] = {COMMON, IDENTIFIED, {CKA_SIGN, &yes, 1}};
    say("try %u %u\n", place, self->generation);
    switch (kind_of(place)) {
    case DATUM:
        MUST(p11->C_CreateObject(session, datum_template, COUNT(datum_template), &self->objects[0]));
        break;
    case SECRET:
        MUST(p11->C_CreateObject(session, secret_template, COUNT(secret_template), &self->objects[0]));
        break;
    case PAIR:
        MUST(p11->C_GenerateKeyPair(session, &pair, public_template, COUNT(public_template), private_template,
                                    COUNT(private_template), &self->objects[1], &self->objects[0]));
    }
    say("ok\n");
}

/* Value and generation in one call. A secret key's value stays, so its generation does. */
static void change(struct place *self, unsigned place) {
    CK_BYTE value[8000];
    unsigned generation = self->generation + 1;
    CK_ULONG len = expected_value(name, place, generation, value);
    text_of(self, place, generation);
    CK_ATTRIBUTE changes[] = {{CKA_VALUE, value, len}, {CKA_OBJECT_ID, self->id, strlen(self->id)}};
    say("try %u %u\n", place, generation);
    MUST(p11->C_SetAttributeValue(session, self->objects[0], changes, COUNT(changes)));
    say("ok\n");
    self->generation = generation;
}

static void destroy(struct place *self, unsigned place) {
    if (kind_of(place) == PAIR && self->objects[0]) {
        say("try %u %u public\n", place, self->generation);
        MUST(p11->C_DestroyObject(session, self->objects[0]));
        say("ok\n");
        self->objects[0] = self->objects[1];
    }
    say("try %u absent\n", place);
    MUST(p11->C_DestroyObject(session, self->objects[0]));
    say("ok\n");
}

/* Begins with empty places: a name is used once. */
static void keep_writing(uint64_t state) {
    struct place places[PLACES] = {0};
    unsigned generation = 0;
    for (;;) {
        unsigned place = dice(&state) % PLACES;
        struct place *self = &places[place];
        if (!self->generation) {
            self->generation = generation += 1000;
            text_of(self, place, self->generation);
            create(self, place);
        } else if (kind_of(place) == DATUM && dice(&state) % 3) {
            change(self, place);
        } else {
            destroy(self, place);
            *self = (struct place){0};
        }
    }
}

/* --- reading -------------------------------------------------------------- */

static CK_ULONG read_attribute(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, void *value, CK_ULONG room) {
    CK_ATTRIBUTE attribute = {type, value, room};
    MUST(p11->C_GetAttributeValue(session, object, &attribute, 1));
    return attribute.ulValueLen;
}

static void *read_text(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type, char *text, CK_ULONG room) {
    text[read_attribute(object, type, text, room - 1)] = 0;
    return text;
}

static void check_value(CK_OBJECT_HANDLE object, const char *of, unsigned place, unsigned generation) {
    CK_BYTE value[8000], expected[8000];
    CK_ULONG len = read_attribute(object, CKA_VALUE, value, sizeof value);
    if (len != expected_value(of, place, generation, expected) || memcmp(value, expected, len))
        fail("half an object: %s %u of generation %u has another value", of, place, generation);
}

static void read_object(CK_OBJECT_HANDLE object) {
    char label[64], id[16], of[40];
    unsigned place;
    CK_OBJECT_CLASS class;
    read_attribute(object, CKA_CLASS, &class, sizeof class);
    read_text(object, CKA_LABEL, label, sizeof label);
    read_text(object, class == CKO_DATA ? CKA_OBJECT_ID : CKA_ID, id, sizeof id);
    if (sscanf(label, "%39s %u", of, &place) != 2 || place >= PLACES) fail("half an object: label %s", label);
    unsigned generation = strtoul(id, NULL, 10);
    if (!generation) fail("half an object: %s has no generation", label);
    CK_OBJECT_CLASS other_class = class == CKO_PRIVATE_KEY ? CKO_PUBLIC_KEY : CKO_PRIVATE_KEY;
    CK_ATTRIBUTE other_template[] = {{CKA_CLASS, &other_class, sizeof other_class},
                                     {CKA_LABEL, label, strlen(label)}, {CKA_ID, id, strlen(id)}};
    CK_OBJECT_HANDLE other[2];
    CK_ULONG count = 0;
    struct keys keys;
    CK_BYTE bytes[16] = {0};
    CK_ULONG len = sizeof bytes;
    CK_MECHANISM ecb = {CKM_AES_ECB, NULL, 0};
    switch (class) {
    case CKO_DATA:
        check_value(object, of, place, generation);
        break;
    case CKO_SECRET_KEY:
        check_value(object, of, place, generation);
        MUST(p11->C_EncryptInit(session, &ecb, object));
        MUST(p11->C_Encrypt(session, bytes, sizeof bytes, bytes, &len));
        break;
    default:
        MUST(find(session, other_template, COUNT(other_template), other, 2, &count));
        if (count > 1) fail("%s has %lu pairs", label, count);
        if (class == CKO_PUBLIC_KEY) {
            /* With its private key it's told of there. */
            if (!count) printf("%s %s public\n", label, id);
            return;
        }
        keys = (struct keys){.private_key = object, .public_key = count ? other[0] : 0};
        if (!count) {
            printf("%s %s private\n", label, id);
            return;
        }
        use_keys(session, keys);
    }
    printf("%s %s\n", label, id);
}

static void read_all(void) {
    static CK_OBJECT_HANDLE objects[10000];
    CK_ULONG count;
    MUST(find(session, NULL, 0, objects, COUNT(objects), &count));
    for (CK_ULONG i = 0; i < count; i++) read_object(objects[i]);
    /* What is left over is looked at once: the next ones begin with an empty token. */
    for (CK_ULONG i = 0; i < count; i++) MUST(p11->C_DestroyObject(session, objects[i]));
}

int main(int argc, char **argv) {
    if (argc < 3) fail("Usage: %s make|read|write LIBRARY [NAME SEED]", argv[0]);
    limit_seconds(60);
    p11 = load(argv[2], NULL);
    initialize();
    if (!strcmp(argv[1], "make")) {
        make_token("objects");
        return 0;
    }
    CK_SLOT_ID slot = token_slot("objects");
    if (!strcmp(argv[1], "write")) {
        name = argv[3];
        uint64_t seed = strtoul(argv[4], NULL, 10);
        private = seed % 4 == 0;
        session = private ? user_session(slot) : open_session(slot);
        keep_writing(seed);
    }
    session = user_session(slot);
    read_all();
    return 0;
}
