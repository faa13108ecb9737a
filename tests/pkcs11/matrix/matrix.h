/* A matrix of calls: every function of PKCS #11 with whatever an application may get wrong. */
#ifndef MATRIX_H
#define MATRIX_H

#include <pkcs11.h>
#include <stddef.h>

#include "names.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* --- the table (functions.txt) ------------------------------------------- */

/* An argument, or a half of one. */
typedef unsigned long word;

enum kind {
    END, SESSION, SLOT, KEY, OBJECT, WRAPPING, UNWRAPPING, MECHANISM, STARTING, INPUT, EMPTY, OUTPUT, LAST_OUTPUT,
    LIST, FOUND, RANDOM, TEMPLATE, ATTRIBUTES, RESULT, MESSAGE_PARAMETER, TEXT, LABEL, RESERVED, VERSION, APPLICATION,
    NOTIFY, NUMBER
};

struct argument {
    enum kind kind;
    const void *what;
    word number;
};

#define MAX_ARGUMENTS 9
#define MAX_WORDS 11

struct function {
    const char *name;
    CK_RV (*call)(const word *words);
    struct argument arguments[MAX_ARGUMENTS + 1];
    void (*before)(void);
    const CK_RV *codes; /* the first one is that of the call that the table describes */
    size_t code_count;
};

extern const struct function functions[FUNCTIONS];
const char *code_name(CK_RV code);

/* --- calls (call.c) ------------------------------------------------------- */

/* The functions under test. */
extern CK_FUNCTION_LIST_3_2 *list;
extern unsigned long call_count, failure_count;

/* What is being tried, for messages. */
void scenario(const char *format, ...) __attribute__((format(printf, 1, 2)));
void failure(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Makes a call. Its code must be one that the table allows. */
CK_RV call(const struct function *function, const word *words);
/* Makes a call that has exactly one right code. */
void expect(const struct function *function, const word *words, CK_RV expected);
/* Makes a call that has two right codes. */
void expect_either(const struct function *function, const word *words, CK_RV one, CK_RV other);

/* The same for a call that is written out. */
void announce(enum function_number number);
CK_RV judge(enum function_number number, CK_RV code);
void judge_exactly(enum function_number number, CK_RV code, CK_RV expected, int line);
#define CALL(name, ...) judge(FUNCTION_##name, (announce(FUNCTION_##name), list->name(__VA_ARGS__)))
#define EXPECT(expected, name, ...) \
    judge_exactly(FUNCTION_##name, (announce(FUNCTION_##name), list->name(__VA_ARGS__)), expected, __LINE__)
/* What all else depends on: ends the program unless it succeeds. */
#define MUST(name, ...) must(#name, list->name(__VA_ARGS__), __LINE__)
void must(const char *name, CK_RV code, int line);

/* --- memory that ends where it should (guard.c) --------------------------- */

/* A copy that nobody may write, right before a page that nobody may touch. */
void *lent(const void *bytes, size_t len);
/* The same, to be written: for results, and for values that go both ways. */
void *lent_writable(const void *bytes, size_t len);
/* Room for results, right before such a page. */
void *room(size_t len);
/* Is what room() gave still as it was? */
int untouched(const void *buffer, size_t len);
/* Takes back everything, and looks at the bytes before each room. */
void take_back(void);

/* --- a token with keys (world.c) ------------------------------------------ */

struct bytes {
    CK_BYTE bytes[256];
    CK_ULONG len;
};

/* The curve of `ec_public`. */
extern const CK_BYTE p256[10];
/* Inputs that mean nothing. */
extern const CK_BYTE zeros[1000], ones[1025];

struct attribute {
    CK_ATTRIBUTE_TYPE type;
    const void *value;
    CK_ULONG len;
};

struct template {
    const struct attribute *attributes;
    CK_ULONG count;
};

/* Slots with an initialised token; nobody opens a session in the spare one. */
extern CK_SLOT_ID own_slot, other_slot, spare_slot;
/* A slot whose token is initialised, or one whose is not yet. */
CK_SLOT_ID slot_with_token(int initialized);
/* The session of the case, and one that keeps the keys. */
extern CK_SESSION_HANDLE session, keeper;
extern CK_OBJECT_HANDLE aes, generic, rsa_public, rsa_private, ec_public, ec_private, edwards_public, edwards_private;
extern CK_OBJECT_HANDLE data_object, certificate, expendable;
/* Keys that the case's session must not see: destroyed, another token's, the user's. */
extern CK_OBJECT_HANDLE destroyed, foreign, private_aes;
extern struct bytes so_pin, user_pin, data, mac, recoverable, wrapped, sealed, message, saved_state;
/* What belongs to `message`, and to `ec_public`. */
extern CK_BYTE message_tag[16], ec_point[67];
extern const struct template template_data_object, template_label, template_aes, template_generic, template_ec_public,
    template_ec_private;

void set_up(void);
/* Opens the session of a case, and closes that of the case before. */
void open_session(CK_FLAGS flags);
/* The user, whoever is logged in now. */
void log_in(void);
void log_out(void);

/* --- arguments (arguments.c) ---------------------------------------------- */

CK_ATTRIBUTE *lent_template(const struct template *template);
/* The words of the call that the table describes. */
void fill(const struct function *function, word *words);
/* A session in which that call succeeds, and its words. */
void prepare(const struct function *function, word *words);
/* How many words an argument is. */
size_t words_of(enum kind kind);

/* --- parameters of mechanisms (parameters.c) ------------------------------ */

/* One that fits the mechanism; NULL and 0 if it has none. */
void *fitting_parameter(CK_MECHANISM_TYPE type, CK_ULONG *len);
/* That of a message of AES-GCM. */
void *message_parameter(CK_ULONG *len);
/* The mechanism with one that fits. */
CK_MECHANISM *lent_mechanism(CK_MECHANISM_TYPE type);

/* --- what must be in progress before a call (before.c) -------------------- */

void before_nothing(void);
void before_logout(void);
void before_so_login(void);
void before_make_expendable(void);
void before_find(void);
void before_encrypt(void);
void before_encrypt_part(void);
void before_decrypt(void);
void before_decrypt_part(void);
void before_digest(void);
void before_digest_part(void);
void before_sign(void);
void before_sign_part(void);
void before_sign_recover(void);
void before_verify(void);
void before_verify_part(void);
void before_verify_recover(void);
void before_digest_encrypt(void);
void before_decrypt_digest(void);
void before_sign_encrypt(void);
void before_decrypt_verify(void);
void before_message_encrypt(void);
void before_message_encrypt_begun(void);
void before_message_decrypt(void);
void before_message_decrypt_begun(void);
void before_message_sign(void);
void before_message_sign_begun(void);
void before_message_verify(void);
void before_message_verify_begun(void);
void before_verify_signature(void);
void before_verify_signature_part(void);

/* --- the chapters --------------------------------------------------------- */

void test_not_initialized(void);
void test_successes(void);
void test_nulls(void);
void test_lengths(void);
void test_handles(void);
void test_handles_of_before(void);
void test_buffers(void);
void test_order(void);
void test_states(void);
void test_mechanisms(void);
void test_templates(void);
void test_contents(void);
void test_keys(void);
void test_permissions(void);
void test_attributes(void);
void test_interfaces(void);
void test_messages(void);

#endif
