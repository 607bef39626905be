/* Thread-local storage of every kind: tls [THREADS]. */
#include "common.h"
#include <sched.h>
#include <unistd.h>

enum { KEYS = 40, ROUNDS = 2000, BIG = 50000 };

static __thread int plain;
static __thread uint64_t set_up = 0x1234567890abcdefu;
static __thread unsigned char big[BIG] __attribute__((aligned(64)));
static pthread_key_t keys[KEYS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int destroyed;

static void destroy(void *value) {
    pthread_mutex_lock(&lock);
    destroyed++;
    pthread_mutex_unlock(&lock);
    free(value);
}

static void *work(void *argument) {
    int id = *(int *)argument;
    CHECK(plain == 0 && set_up == 0x1234567890abcdefu && big[BIG - 1] == 0);
    CHECK(((uintptr_t)big & 63) == 0);
    for (int i = 0; i < KEYS; i++) {
        int *value = malloc(sizeof *value);
        CHECK(value && pthread_getspecific(keys[i]) == NULL);
        *value = id * KEYS + i;
        CHECK(pthread_setspecific(keys[i], value) == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        plain += id;
        set_up ^= (uint64_t)id << (round % 32);
        big[round % BIG] = (unsigned char)id;
        FAILS(close(-1), EBADF); /* errno is thread-local too */
        if (round % 50 == 0)
            sched_yield();
        CHECK(plain == id * (round + 1) && errno == EBADF);
        CHECK(*(int *)pthread_getspecific(keys[round % KEYS]) == id * KEYS + round % KEYS);
    }
    for (int i = 0; i < ROUNDS; i++)
        CHECK(big[i] == (unsigned char)id);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = (int)number(argc, argv, 1, 4);
    int *ids = calloc((size_t)threads, sizeof *ids);
    CHECK(ids);
    for (int i = 0; i < KEYS; i++)
        CHECK(pthread_key_create(&keys[i], destroy) == 0);
    for (int i = 0; i < threads; i++)
        ids[i] = i + 1;
    run_threads(threads, work, ids, sizeof *ids);
    CHECK(plain == 0 && set_up == 0x1234567890abcdefu);
    printf("%d threads, %d values destroyed\n", threads, destroyed);
    return 0;
}
