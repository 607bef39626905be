/* Threads and everything that parks them: threads [CREATED] [THREADS]. */
#include "common.h"
#include <sched.h>
#include <semaphore.h>
#include <unistd.h>

enum { ROUNDS = 300, MAX_THREADS = 16, BATCH = 8 };

static int threads;
static long shared;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t table_lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static long table[2];

static void *add_one(void *argument) {
    pthread_mutex_lock(&lock);
    shared += (long)(intptr_t)argument;
    pthread_mutex_unlock(&lock);
    return (void *)((intptr_t)argument * 2);
}

/* Each is created, runs and is joined: what clone and exit leave adds up. */
static void create_many(long created) {
    pthread_t ids[BATCH];
    long expected = 0;
    shared = 0;
    for (long i = 0; i < created; i += BATCH) {
        for (long k = 0; k < BATCH; k++) {
            CHECK((errno = pthread_create(&ids[k], NULL, add_one, (void *)(i + k))) == 0);
            expected += i + k;
        }
        for (long k = 0; k < BATCH; k++) {
            void *result;
            CHECK(pthread_join(ids[k], &result) == 0 && (long)result == (i + k) * 2);
        }
    }
    CHECK(shared == expected);
    printf("created %ld, sum %ld\n", created, shared);
}

static void *post(void *argument) {
    CHECK(sem_post(argument) == 0);
    return NULL;
}

static void detached(void) {
    sem_t done;
    pthread_attr_t attributes;
    CHECK(sem_init(&done, 0, 0) == 0 && pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 256 << 10) == 0);
    for (int i = 0; i < 100; i++) {
        pthread_t id;
        CHECK(pthread_create(&id, &attributes, post, &done) == 0);
    }
    for (int i = 0; i < 100; i++)
        CHECK(sem_wait(&done) == 0);
    puts("detached threads");
}

static void initialise(void) {
    shared = 1000;
}

static long places[MAX_THREADS];

static void *meet(void *argument) {
    long *mine = argument;
    CHECK(pthread_once(&once, initialise) == 0 && shared >= 1000);
    for (int round = 0; round < ROUNDS; round++) {
        *mine = round;
        int last = pthread_barrier_wait(&barrier);
        CHECK(last == 0 || last == PTHREAD_BARRIER_SERIAL_THREAD);
        if (last)
            shared++; /* one thread alone, between two barriers */
        for (int i = 0; i < threads; i++)
            CHECK(places[i] == round);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void barriers(void) {
    CHECK(pthread_barrier_init(&barrier, NULL, (unsigned)threads) == 0);
    run_threads(threads, meet, places, sizeof *places);
    CHECK(shared == 1000 + ROUNDS);
    puts("barriers");
}

static void *read_or_write(void *argument) {
    long id = *(long *)argument;
    for (int i = 0; i < ROUNDS * 10; i++) {
        if (i % 10 == id % 10) {
            CHECK(pthread_rwlock_wrlock(&table_lock) == 0);
            table[0]++;
            sched_yield();
            table[1]++;
        } else {
            CHECK(pthread_rwlock_rdlock(&table_lock) == 0);
            CHECK(table[0] == table[1]);
        }
        CHECK(pthread_rwlock_unlock(&table_lock) == 0);
    }
    return NULL;
}

static void read_write_locks(void) {
    long ids[MAX_THREADS];
    for (int i = 0; i < threads; i++)
        ids[i] = i;
    run_threads(threads, read_or_write, ids, sizeof *ids);
    CHECK(table[0] == threads * ROUNDS);
    puts("read-write locks");
}

static void count_cleanup(void *argument) {
    ++*(int *)argument;
}

static void unlock(void *mutex) {
    pthread_mutex_unlock(mutex);
}

static void *wait_for_ever(void *argument) {
    static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
    pthread_cleanup_push(count_cleanup, argument);
    pthread_mutex_lock(&held);
    pthread_cleanup_push(unlock, &held);
    for (;;)
        pthread_cond_wait(&never, &held);
    pthread_cleanup_pop(1);
    pthread_cleanup_pop(1);
    return NULL;
}

static void *sleep_for_ever(void *argument) {
    pthread_cleanup_push(count_cleanup, argument);
    for (;;)
        sleep(1000);
    pthread_cleanup_pop(1);
    return NULL;
}

static void *read_for_ever(void *argument) {
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    pthread_cleanup_push(count_cleanup, argument);
    CHECK(read(ends[0], &byte, 1) == -2);
    pthread_cleanup_pop(1);
    return NULL;
}

static void *spin_for_ever(void *argument) {
    pthread_cleanup_push(count_cleanup, argument);
    CHECK(pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL) == 0);
    for (volatile long i = 0;; i++)
        ;
    pthread_cleanup_pop(1);
    return NULL;
}

static void cancellation(void) {
    void *(*bodies[])(void *) = {wait_for_ever, sleep_for_ever, read_for_ever, spin_for_ever};
    int cleanups = 0, expected = 0;
    for (int round = 0; round < 10; round++)
        for (size_t k = 0; k < sizeof bodies / sizeof *bodies; k++) {
            pthread_t id;
            void *result;
            CHECK(pthread_create(&id, NULL, bodies[k], &cleanups) == 0);
            /* At times before it waits, at times while it does. */
            usleep(round * 500);
            CHECK(pthread_cancel(id) == 0 && pthread_join(id, &result) == 0);
            CHECK(result == PTHREAD_CANCELED);
            expected++;
        }
    /* A thread cancelled before it ran has pushed no cleanup. */
    CHECK(cleanups <= expected && cleanups > 0);
    puts("cancellation");
}

static void mutex_kinds(void) {
    pthread_mutexattr_t attributes;
    pthread_mutex_t recursive, checked;
    CHECK(pthread_mutexattr_init(&attributes) == 0);
    CHECK(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE) == 0);
    CHECK(pthread_mutex_init(&recursive, &attributes) == 0);
    CHECK(pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK) == 0);
    CHECK(pthread_mutex_init(&checked, &attributes) == 0);
    CHECK(pthread_mutex_lock(&recursive) == 0 && pthread_mutex_lock(&recursive) == 0);
    CHECK(pthread_mutex_unlock(&recursive) == 0 && pthread_mutex_unlock(&recursive) == 0);
    CHECK(pthread_mutex_lock(&checked) == 0 && pthread_mutex_lock(&checked) == EDEADLK);
    CHECK(pthread_mutex_trylock(&checked) == EBUSY && pthread_mutex_unlock(&checked) == 0);
    CHECK(pthread_mutex_unlock(&checked) == EPERM);
    puts("kinds of mutex");
}

int main(int argc, char **argv) {
    long created = number(argc, argv, 1, 2000);
    threads = (int)number(argc, argv, 2, 4);
    CHECK(threads > 0 && threads <= MAX_THREADS && created % BATCH == 0);
    create_many(created);
    detached();
    barriers();
    read_write_locks();
    cancellation();
    mutex_kinds();
    return 0;
}
