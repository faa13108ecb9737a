/* The arguments of calls that succeed. */
#include <stdlib.h>

#include "matrix.h"

/* Attributes to be sent (values that nobody may write), or to be read (room for values). */
static CK_ATTRIBUTE *attributes(const struct template *template, int to_read) {
    size_t len = template->count * sizeof(CK_ATTRIBUTE);
    CK_ATTRIBUTE *copy = malloc(len);
    for (CK_ULONG i = 0; i < template->count; i++) {
        const struct attribute *each = &template->attributes[i];
        void *value = to_read ? room(each->len) : lent(each->value, each->len);
        copy[i] = (CK_ATTRIBUTE){each->type, value, each->len};
    }
    CK_ATTRIBUTE *guarded = to_read ? lent_writable(copy, len) : lent(copy, len);
    free(copy);
    return guarded;
}

CK_ATTRIBUTE *lent_template(const struct template *template) { return attributes(template, 0); }

/* More than the longest list has. */
#define LIST_ROOM 512

size_t words_of(enum kind kind) {
    switch (kind) {
    case END: return 0;
    case FOUND: return 3;
    case INPUT: case EMPTY: case OUTPUT: case LAST_OUTPUT: case LIST: case RANDOM: case TEMPLATE: case ATTRIBUTES:
    case MESSAGE_PARAMETER: return 2;
    default: return 1;
    }
}

static void fill_argument(const struct argument *argument, word *words) {
    const struct bytes *bytes = argument->what;
    const struct template *template = argument->what;
    CK_ULONG len = argument->number;
    switch (argument->kind) {
    case SESSION: words[0] = session; break;
    case SLOT: case KEY: case OBJECT: case WRAPPING: case UNWRAPPING: words[0] = *(const CK_ULONG *)argument->what; break;
    case MECHANISM: case STARTING: words[0] = (word)lent_mechanism(argument->number); break;
    case INPUT:
        words[0] = (word)lent(bytes->bytes, bytes->len);
        words[1] = bytes->len;
        break;
    case OUTPUT: case LAST_OUTPUT:
        words[0] = (word)room(len);
        words[1] = (word)lent_writable(&len, sizeof len);
        break;
    case LIST:
        len = LIST_ROOM;
        words[0] = (word)room(LIST_ROOM * sizeof(CK_INTERFACE));
        words[1] = (word)lent_writable(&len, sizeof len);
        break;
    case FOUND:
        words[0] = (word)room(4 * sizeof(CK_OBJECT_HANDLE));
        words[1] = 4;
        words[2] = (word)room(sizeof(CK_ULONG));
        break;
    case RANDOM:
        words[0] = (word)room(32);
        words[1] = 32;
        break;
    case TEMPLATE: case ATTRIBUTES:
        words[0] = (word)attributes(template, argument->kind == ATTRIBUTES);
        words[1] = template->count;
        break;
    case RESULT: words[0] = (word)room(argument->number); break;
    case MESSAGE_PARAMETER:
        words[0] = (word)message_parameter(&len);
        words[1] = len;
        break;
    case TEXT: words[0] = (word)lent("PKCS 11", 8); break;
    case LABEL: words[0] = (word)lent("matrix                          ", 32); break;
    case NUMBER: words[0] = argument->number; break;
    case EMPTY: words[0] = words[1] = 0; break;
    case RESERVED: case VERSION: case APPLICATION: case NOTIFY: words[0] = 0; break;
    case END: break;
    }
}

void fill(const struct function *function, word *words) {
    for (const struct argument *each = function->arguments; each->kind != END; each++) {
        fill_argument(each, words);
        words += words_of(each->kind);
    }
}

void prepare(const struct function *function, word *words) {
    take_back();
    open_session(CKF_RW_SESSION);
    log_in();
    function->before();
    fill(function, words);
}
