/* pins_killed ACTION LIBRARY ...: PINs and tokens that are changed until the process is killed, and tried.

     make                   a token; its PINs are those of stress.h
     set-pin USER NUMBER    C_SetPIN from PIN number NUMBER to the next, and so on; USER is "user" or "so"
     init-pin NUMBER        C_InitPIN likewise
     init-token NUMBER      C_InitToken likewise: the number is in the label, and in that of an object made then
     new-tokens             C_InitToken of one more token after the other
     try USER NUMBER        the name of C_Login's code
     look                   the number of initialized tokens; the first one's label, how many objects it has, and
                            whether the user has a PIN

   Before each change the next number is written, and "ok" after it. PIN number 0 is the one of `make`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

static void say(const char *text) {
    if (write(STDOUT_FILENO, text, strlen(text)) != (ssize_t)strlen(text)) _exit(4);
}

static void say_number(unsigned long number) {
    char line[24];
    snprintf(line, sizeof line, "%lu\n", number);
    say(line);
}

struct pin {
    char text[32];
};

static struct pin pin(CK_USER_TYPE user, unsigned long number) {
    struct pin made;
    if (number) snprintf(made.text, sizeof made.text, "PIN number %lu", number);
    else snprintf(made.text, sizeof made.text, "%s", user == CKU_SO ? SO_PIN : PIN);
    return made;
}

/* The first token's slot, whatever its label, and how many tokens there are: the last slot's is not initialized. */
static CK_SLOT_ID first_slot(CK_ULONG *tokens) {
    CK_SLOT_ID slots[300];
    CK_ULONG count = COUNT(slots);
    MUST(p11->C_GetSlotList(CK_TRUE, slots, &count));
    *tokens = count - 1;
    return slots[0];
}

static void set_pins(CK_SLOT_ID slot, CK_USER_TYPE user, unsigned long number) {
    CK_SESSION_HANDLE session = open_session(slot);
    /* Without a login it's the user's. */
    if (user == CKU_SO) MUST(log_in(session, CKU_SO, pin(user, number).text));
    for (;; number++) {
        struct pin old = pin(user, number), new = pin(user, number + 1);
        say_number(number + 1);
        MUST(p11->C_SetPIN(session, (CK_BYTE *)old.text, strlen(old.text), (CK_BYTE *)new.text, strlen(new.text)));
        say("ok\n");
    }
}

static void init_pins(CK_SLOT_ID slot, unsigned long number) {
    CK_SESSION_HANDLE session = open_session(slot);
    MUST(log_in(session, CKU_SO, SO_PIN));
    for (;;) {
        struct pin new = pin(CKU_USER, ++number);
        say_number(number);
        MUST(p11->C_InitPIN(session, (CK_BYTE *)new.text, strlen(new.text)));
        say("ok\n");
    }
}

static void make_object(CK_SESSION_HANDLE session, const char *label) {
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE made;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &no, 1},
                               {CKA_LABEL, (void *)label, strlen(label)}};
    MUST(p11->C_CreateObject(session, template, COUNT(template), &made));
}

static void init_token(CK_SLOT_ID slot, const char *label) {
    char padded[33];
    snprintf(padded, sizeof padded, "%-32s", label);
    MUST(p11->C_InitToken(slot, (CK_BYTE *)SO_PIN, strlen(SO_PIN), (CK_BYTE *)padded));
}

static void init_tokens(CK_SLOT_ID slot, unsigned long number) {
    for (;;) {
        char label[33];
        snprintf(label, sizeof label, "%lu", ++number);
        say_number(number);
        init_token(slot, label);
        say("ok\n");
        CK_SESSION_HANDLE session = open_session(slot);
        MUST(log_in(session, CKU_SO, SO_PIN));
        MUST(p11->C_InitPIN(session, (CK_BYTE *)PIN, strlen(PIN)));
        for (int i = 0; i < 20; i++) make_object(session, label);
        MUST(p11->C_CloseSession(session));
        say("filled\n");
    }
}

static void new_tokens(void) {
    for (;;) {
        CK_SLOT_ID slots[300];
        CK_ULONG count;
        MUST(p11->C_GetSlotList(CK_TRUE, NULL, &count));
        count = COUNT(slots);
        MUST(p11->C_GetSlotList(CK_TRUE, slots, &count));
        say_number(count);
        init_token(slots[count - 1], "new");
        say("ok\n");
    }
}

static void look(void) {
    CK_ULONG tokens, count;
    CK_SLOT_ID slot = first_slot(&tokens);
    CK_TOKEN_INFO info;
    CK_OBJECT_HANDLE objects[100];
    MUST(p11->C_GetTokenInfo(slot, &info));
    CK_SESSION_HANDLE session = open_session(slot);
    MUST(find(session, NULL, 0, objects, COUNT(objects), &count));
    for (CK_ULONG i = 0; i < count; i++) {
        char label[33] = "";
        CK_ATTRIBUTE attribute = {CKA_LABEL, label, sizeof label - 1};
        MUST(p11->C_GetAttributeValue(session, objects[i], &attribute, 1));
        if (strtoul(label, NULL, 10) != strtoul((char *)info.label, NULL, 10))
            fail("an object %s is on the token %.32s", label, info.label);
    }
    printf("%lu %.32s %lu %d\n", tokens, info.label, count, !!(info.flags & CKF_USER_PIN_INITIALIZED));
}

int main(int argc, char **argv) {
    if (argc < 3) fail("Usage: %s ACTION LIBRARY ...", argv[0]);
    const char *action = argv[1];
    limit_seconds(60);
    p11 = load(argv[2], NULL);
    initialize();
    if (!strcmp(action, "make")) {
        make_token("0");
        return 0;
    }
    CK_ULONG tokens;
    CK_SLOT_ID slot = first_slot(&tokens);
    if (!strcmp(action, "new-tokens")) new_tokens();
    if (!strcmp(action, "look")) {
        look();
        return 0;
    }
    unsigned long number = strtoul(argv[argc - 1], NULL, 10);
    CK_USER_TYPE user = !strcmp(argv[3], "so") ? CKU_SO : CKU_USER;
    if (!strcmp(action, "set-pin")) set_pins(slot, user, number);
    if (!strcmp(action, "init-pin")) init_pins(slot, number);
    if (!strcmp(action, "init-token")) init_tokens(slot, number);
    puts(code_name(log_in(open_session(slot), user, pin(user, number).text)));
    return 0;
}
