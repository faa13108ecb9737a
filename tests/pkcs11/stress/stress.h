/* What the stress programs have in common: the library, a token, keys, and calls that are checked. */
#ifndef STRESS_H
#define STRESS_H

#include <pkcs11.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define PIN "1234"
#define SO_PIN "56785678"

/* --- calls ---------------------------------------------------------------- */

/* The library's functions. */
extern CK_FUNCTION_LIST_3_2 *p11;

/* Loads a library; `handle` may be NULL. Ends the program if it can't be. */
CK_FUNCTION_LIST_3_2 *load(const char *path, void **handle);
/* The end of the program, with a reason: at once, as other threads may hold anything. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Ends the program unless the call gave the code. */
void want(CK_RV expected, CK_RV code, const char *call, const char *file, int line);
#define WANT(code, call) want(code, call, #call, __FILE__, __LINE__)
#define MUST(call) WANT(CKR_OK, call)
/* The name of a code that is to be expected here, or its number. */
const char *code_name(CK_RV code);

/* The program is killed, and says so, unless it ends within this time. */
void limit_seconds(unsigned seconds);
void sleep_microseconds(unsigned microseconds);
double now_seconds(void);
/* The environment's number, or the default. */
unsigned long setting(const char *name, unsigned long without);
/* A number that a thread's or process's own generator gives. */
uint32_t dice(uint64_t *state);

/* --- tokens and sessions -------------------------------------------------- */

void initialize(void);
/* A new token with both PINs; its slot. */
CK_SLOT_ID make_token(const char *label);
/* The slot of the token with the label. */
CK_SLOT_ID token_slot(const char *label);
CK_FLAGS token_flags(CK_SLOT_ID slot);
CK_SESSION_HANDLE open_session(CK_SLOT_ID slot);
/* A session in which the user is logged in. */
CK_SESSION_HANDLE user_session(CK_SLOT_ID slot);
CK_RV log_in(CK_SESSION_HANDLE session, CK_USER_TYPE user, const char *pin);

/* --- objects -------------------------------------------------------------- */

struct keys {
    CK_OBJECT_HANDLE private_key, public_key, aes;
};

/* A pair of P-256 keys and one for AES: on the token or not, the secret ones for everybody or for the user alone. */
struct keys make_keys(CK_SESSION_HANDLE session, CK_BBOOL on_token, CK_BBOOL private);
/* The token's own. */
struct keys find_keys(CK_SESSION_HANDLE session);
/* The objects that fit; at most `max`. */
CK_RV find(CK_SESSION_HANDLE session, CK_ATTRIBUTE *template, CK_ULONG count, CK_OBJECT_HANDLE *found, CK_ULONG max,
           CK_ULONG *found_count);
/* ECDSA with SHA-256; a signature is 64 bytes. */
CK_RV sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const void *data, CK_ULONG len, CK_BYTE signature[64]);
CK_RV verify(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, const void *data, CK_ULONG len, CK_BYTE signature[64]);
/* Signs, verifies, and sees an altered signature refused. */
void use_keys(CK_SESSION_HANDLE session, struct keys keys);

#endif
