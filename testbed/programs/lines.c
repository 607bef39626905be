/* Threads fight over lines: lines [PAGES] [ROUNDS] [THREADS]. Every thread adds
 * to every page's counters in its own order, while the cache is smaller than
 * the pages: an update that is lost shows in the sums. Half of the counters
 * are shared and atomic, half belong to one thread and are plain. */
#include "common.h"
#include <stdatomic.h>
#include <sys/mman.h>

enum { PAGE = 4096, MAX_THREADS = 32, SHARED = 64 };

struct page {
    _Atomic uint64_t shared[SHARED];
    uint64_t own[MAX_THREADS];
    unsigned char rest[PAGE - SHARED * 8 - MAX_THREADS * 8];
};

struct worker {
    int id;
    uint64_t done;
};

static struct page *pages;
static size_t count;
static long rounds;

static void *work(void *argument) {
    struct worker *w = argument;
    uint64_t seed = (uint64_t)w->id;
    for (long i = 0; i < rounds; i++) {
        uint64_t choice = next_random(&seed);
        struct page *p = &pages[choice % count];
        atomic_fetch_add_explicit(&p->shared[(choice >> 32) % SHARED], 1, memory_order_relaxed);
        p->own[w->id]++;
        w->done++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    count = (size_t)number(argc, argv, 1, 256);
    rounds = number(argc, argv, 2, 20000);
    int threads = (int)number(argc, argv, 3, 8);
    CHECK(threads > 0 && threads <= MAX_THREADS && count > 0);
    CHECK(sizeof(struct page) == PAGE);
    pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    struct worker workers[MAX_THREADS] = {{0, 0}};
    for (int i = 0; i < threads; i++)
        workers[i].id = i;
    run_threads(threads, work, workers, sizeof *workers);
    uint64_t shared = 0, own = 0;
    for (size_t i = 0; i < count; i++) {
        for (int k = 0; k < SHARED; k++)
            shared += pages[i].shared[k];
        for (int k = 0; k < threads; k++)
            own += pages[i].own[k];
    }
    printf("%llu shared, %llu own, of %llu\n", (unsigned long long)shared,
           (unsigned long long)own, (unsigned long long)rounds * (unsigned)threads);
    CHECK(shared == own && own == (uint64_t)rounds * (unsigned)threads);
    return 0;
}
