/* Timer signals all the while memory is missed: storm [PAGES] [ROUNDS] [THREADS].
 * The handler itself touches pages, in some threads on an alternate stack, and
 * each thread checks that neither its memory nor the sums it holds in
 * registers have changed under it. */
#include "common.h"
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/time.h>

enum { PAGE = 4096, WORDS = PAGE / 8, HANDLER_PAGES = 64, MAX_THREADS = 16 };

static uint64_t *memory;
static _Atomic uint64_t *handler_pages;
static size_t pages;
static long rounds;
static atomic_ulong calls;

static void touch(int signal) {
    (void)signal;
    unsigned long call = atomic_fetch_add(&calls, 1);
    size_t page = call * 7 % HANDLER_PAGES;
    atomic_fetch_add(&handler_pages[page * WORDS], 1);
}

struct worker {
    int id, threads;
    double sum;
};

/* Adds up whole numbers in floating point, so that the sum is exact and lives
 * in registers that a careless handler would spoil. */
static double walk(const struct worker *w, uint64_t round) {
    double sum = 0;
    for (size_t i = (size_t)w->id; i < pages; i += (size_t)w->threads) {
        uint64_t *word = &memory[i * WORDS + round % WORDS];
        CHECK(memory[i * WORDS + WORDS - 1] == i + 1);
        *word = round % WORDS == WORDS - 1 ? i + 1 : round;
        sum += (double)memory[i * WORDS + WORDS - 1];
    }
    return sum;
}

static void *work(void *argument) {
    struct worker *w = argument;
    stack_t stack = {.ss_sp = malloc(64 << 10), .ss_size = 64 << 10};
    CHECK(stack.ss_sp);
    if (w->id % 2)
        CHECK(sigaltstack(&stack, NULL) == 0);
    double first = walk(w, 0);
    for (long round = 1; round < rounds; round++)
        CHECK(walk(w, (uint64_t)round) == first);
    w->sum = first;
    return NULL;
}

int main(int argc, char **argv) {
    pages = (size_t)number(argc, argv, 1, 1000);
    rounds = number(argc, argv, 2, 20);
    int threads = (int)number(argc, argv, 3, 2);
    CHECK(threads > 0 && threads <= MAX_THREADS);
    int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    memory = mmap(NULL, pages * PAGE, prot, flags, -1, 0);
    handler_pages = mmap(NULL, HANDLER_PAGES * PAGE, prot, flags, -1, 0);
    CHECK(memory != MAP_FAILED && handler_pages != MAP_FAILED);
    for (size_t i = 0; i < pages; i++)
        memory[i * WORDS + WORDS - 1] = i + 1;
    struct sigaction action = {.sa_handler = touch, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct itimerval every = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGPROF, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0 && setitimer(ITIMER_PROF, &every, NULL) == 0);
    struct worker workers[MAX_THREADS];
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){i, threads, 0};
    run_threads(threads, work, workers, sizeof *workers);
    CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0 && setitimer(ITIMER_PROF, &off, NULL) == 0);
    uint64_t touched = 0;
    double sum = 0;
    for (int i = 0; i < HANDLER_PAGES; i++)
        touched += handler_pages[i * WORDS];
    for (int i = 0; i < threads; i++)
        sum += workers[i].sum;
    CHECK(touched == calls);
    printf("sum %.0f\n", sum);
    return 0;
}
