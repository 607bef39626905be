/* Producers and consumers through a bounded queue: producers [ITEMS] [THREADS].
 * Done four times: mutex and condition, semaphores, a pipe, spinning. */
#include "common.h"
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

enum { SLOTS = 16 };

static uint64_t slots[SLOTS];
static size_t head, tail;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER, not_empty = PTHREAD_COND_INITIALIZER;
static sem_t free_slots, full_slots;
static int ends[2];
static atomic_flag spin_lock = ATOMIC_FLAG_INIT;

static void put_condition(uint64_t item) {
    pthread_mutex_lock(&lock);
    while (head - tail == SLOTS)
        pthread_cond_wait(&not_full, &lock);
    slots[head++ % SLOTS] = item;
    pthread_cond_signal(&not_empty);
    pthread_mutex_unlock(&lock);
}

static uint64_t get_condition(void) {
    pthread_mutex_lock(&lock);
    while (head == tail)
        pthread_cond_wait(&not_empty, &lock);
    uint64_t item = slots[tail++ % SLOTS];
    pthread_cond_signal(&not_full);
    pthread_mutex_unlock(&lock);
    return item;
}

static void put_semaphore(uint64_t item) {
    CHECK(sem_wait(&free_slots) == 0);
    pthread_mutex_lock(&lock);
    slots[head++ % SLOTS] = item;
    pthread_mutex_unlock(&lock);
    CHECK(sem_post(&full_slots) == 0);
}

static uint64_t get_semaphore(void) {
    CHECK(sem_wait(&full_slots) == 0);
    pthread_mutex_lock(&lock);
    uint64_t item = slots[tail++ % SLOTS];
    pthread_mutex_unlock(&lock);
    CHECK(sem_post(&free_slots) == 0);
    return item;
}

static void put_pipe(uint64_t item) {
    CHECK(write(ends[1], &item, sizeof item) == sizeof item);
}

static uint64_t get_pipe(void) {
    uint64_t item;
    CHECK(read(ends[0], &item, sizeof item) == sizeof item);
    return item;
}

static void spin(void) {
    while (atomic_flag_test_and_set_explicit(&spin_lock, memory_order_acquire))
        sched_yield();
}

static void unspin(void) {
    atomic_flag_clear_explicit(&spin_lock, memory_order_release);
}

static void put_spinning(uint64_t item) {
    for (;; sched_yield()) {
        spin();
        if (head - tail < SLOTS)
            break;
        unspin();
    }
    slots[head++ % SLOTS] = item;
    unspin();
}

static uint64_t get_spinning(void) {
    for (;; sched_yield()) {
        spin();
        if (head != tail)
            break;
        unspin();
    }
    uint64_t item = slots[tail++ % SLOTS];
    unspin();
    return item;
}

struct way {
    const char *name;
    void (*put)(uint64_t);
    uint64_t (*get)(void);
};

static const struct way ways[] = {
    {"condition", put_condition, get_condition},
    {"semaphore", put_semaphore, get_semaphore},
    {"pipe", put_pipe, get_pipe},
    {"spinning", put_spinning, get_spinning},
};

struct worker {
    const struct way *way;
    long items;
    int id; /* even: producer, odd: consumer */
    uint64_t sum;
};

static void *work(void *argument) {
    struct worker *w = argument;
    uint64_t seed = (uint64_t)w->id;
    for (long i = 0; i < w->items; i++) {
        uint64_t item = w->id % 2 ? w->way->get() : next_random(&seed);
        w->sum += item;
        if (w->id % 2 == 0)
            w->way->put(item);
    }
    return NULL;
}

int main(int argc, char **argv) {
    long items = number(argc, argv, 1, 4000);
    int pairs = (int)number(argc, argv, 2, 4) / 2;
    pairs = pairs < 1 ? 1 : pairs;
    struct worker *workers = calloc((size_t)pairs * 2, sizeof *workers);
    CHECK(workers && pipe(ends) == 0);
    CHECK(sem_init(&free_slots, 0, SLOTS) == 0 && sem_init(&full_slots, 0, 0) == 0);
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        uint64_t made = 0, used = 0;
        for (int i = 0; i < pairs * 2; i++)
            workers[i] = (struct worker){&ways[k], items / pairs, i, 0};
        run_threads(pairs * 2, work, workers, sizeof *workers);
        for (int i = 0; i < pairs * 2; i++)
            *(i % 2 ? &used : &made) += workers[i].sum;
        CHECK(made == used);
        printf("%s: sum %016llx\n", ways[k].name, (unsigned long long)used);
    }
    return 0;
}
