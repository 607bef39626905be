/* What the test programs share. Their output depends on their arguments
 * alone, so that a run under Splitkernel can be compared with a native one. */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program, saying what was expected, unless `condition` holds.
 * _Exit, so that no handler of atexit adds to the damage. */
#define CHECK(condition)                                                                      \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            int check_errno = errno;                                                          \
            fflush(stdout);                                                                   \
            fprintf(stderr, "%s:%d: not so: %s (errno %d, %s)\n", __FILE__, __LINE__,         \
                    #condition, check_errno, strerror(check_errno));                          \
            _Exit(1);                                                                         \
        }                                                                                     \
    } while (0)

/* A call that fails with exactly this errno. */
#define FAILS(call, expected)                                                                 \
    do {                                                                                      \
        errno = 0;                                                                            \
        CHECK((call) == -1 && errno == (expected));                                           \
    } while (0)

/* Argument `index` as a number, or `otherwise` where it was not given. */
static inline long number(int argc, char **argv, int index, long otherwise) {
    return index < argc ? strtol(argv[index], NULL, 0) : otherwise;
}

/* splitmix64 (Steele, Lea, Flood 2014): a stream for each seed. */
static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

enum { DIGEST_WORD = 8 };
static const uint64_t DIGEST_START = 0xcbf29ce484222325u;

/* FNV-1a over 8-byte words, then over the bytes that remain. */
static inline uint64_t digest(uint64_t so_far, const void *data, size_t size) {
    const unsigned char *at = data;
    for (; size >= DIGEST_WORD; size -= DIGEST_WORD, at += DIGEST_WORD) {
        uint64_t word;
        memcpy(&word, at, DIGEST_WORD);
        so_far = (so_far ^ word) * 0x100000001b3u;
        so_far ^= so_far >> 32;
    }
    for (; size > 0; size--, at++)
        so_far = (so_far ^ *at) * 0x100000001b3u;
    return so_far;
}

/* Runs `body` on `n` threads, each with its element of `arguments`, and waits. */
static inline void run_threads(int n, void *(*body)(void *), void *arguments, size_t element) {
    pthread_t *ids = calloc((size_t)n, sizeof *ids);
    CHECK(ids);
    for (int i = 0; i < n; i++)
        CHECK((errno = pthread_create(&ids[i], NULL, body,
                                      (char *)arguments + (size_t)i * element)) == 0);
    for (int i = 0; i < n; i++)
        CHECK((errno = pthread_join(ids[i], NULL)) == 0);
    free(ids);
}

#endif
