/* Memory for arguments. Each piece ends right before a page that nobody may touch, so that one byte too far is a crash. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "matrix.h"

/* Enough for the longest template. */
#define PIECE_BYTES (8 * 4096)
#define GUARD_BYTES 4096
#define PIECES 512
/* Bytes before a room that must stay as they are. */
#define CANARY_BYTES 64
#define FRESH 0xA5

static unsigned char *pool;
/* Pieces in use, and which of them are rooms. */
static struct {
    size_t len;
    int is_room, is_read_only;
} pieces[PIECES];
static size_t used;

static unsigned char *piece(size_t i) { return pool + i * (PIECE_BYTES + GUARD_BYTES); }

static unsigned char *take(size_t len) {
    if (!pool) {
        size_t all = PIECES * (PIECE_BYTES + GUARD_BYTES);
        pool = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pool == MAP_FAILED) {
            perror("mmap");
            exit(2);
        }
        for (size_t i = 0; i < PIECES; i++) mprotect(piece(i) + PIECE_BYTES, GUARD_BYTES, PROT_NONE);
    }
    if (used == PIECES || len > PIECE_BYTES - CANARY_BYTES) {
        fprintf(stderr, "no room for %zu bytes more\n", len);
        exit(2);
    }
    pieces[used].len = len;
    pieces[used].is_room = pieces[used].is_read_only = 0;
    return piece(used++) + PIECE_BYTES - len;
}

void *lent_writable(const void *bytes, size_t len) {
    unsigned char *copy = take(len);
    if (len) memcpy(copy, bytes, len);
    return copy;
}

void *lent(const void *bytes, size_t len) {
    void *copy = lent_writable(bytes, len);
    pieces[used - 1].is_read_only = 1;
    mprotect(piece(used - 1), PIECE_BYTES, PROT_READ);
    return copy;
}

void *room(size_t len) {
    unsigned char *buffer = take(len);
    pieces[used - 1].is_room = 1;
    memset(buffer - CANARY_BYTES, FRESH, len + CANARY_BYTES);
    return buffer;
}

int untouched(const void *buffer, size_t len) {
    const unsigned char *bytes = buffer;
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != FRESH) return 0;
    return 1;
}

void take_back(void) {
    while (used) {
        used--;
        unsigned char *start = piece(used) + PIECE_BYTES - pieces[used].len;
        if (pieces[used].is_room && !untouched(start - CANARY_BYTES, CANARY_BYTES))
            failure("bytes before a buffer were written");
        if (pieces[used].is_read_only) mprotect(piece(used), PIECE_BYTES, PROT_READ | PROT_WRITE);
    }
}
