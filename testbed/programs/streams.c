/* Threads go through memory in all ways that are fetched ahead: streams
 * [PAGES] [ROUNDS] [THREADS]. Up, down, by strides, by pieces in turn with the
 * next thread, with a few touches here and there between, and through a heap
 * that grows by small steps. Each thread counts in words of its own in every
 * page, while the cache is smaller than the pages: an update that is lost, or a
 * page that is brought twice, shows in the counts. */
#include "common.h"
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_THREADS = 16, PIECE = 16, BLOCKS = 64 };

struct worker {
    long id;
    uint64_t done;
};

static unsigned char *memory;
static long pages, rounds;

static volatile uint32_t *word(long page, long thread) {
    return (volatile uint32_t *)(memory + page * PAGE + thread * 64);
}

static void count(struct worker *w, long page) {
    *word(page, w->id) += 1;
    w->done++;
}

static void grow_a_heap(long id) {
    size_t len[BLOCKS];
    unsigned char *block[BLOCKS];
    for (int n = 0; n < BLOCKS; n++) {
        len[n] = 20000 + 1000 * (size_t)n;
        block[n] = malloc(len[n]);
        CHECK(block[n] != NULL);
        memset(block[n], (int)(n + id), len[n]);
    }
    for (int n = 0; n < BLOCKS; n++) {
        for (size_t k = 0; k < len[n]; k += 997)
            CHECK(block[n][k] == (unsigned char)(n + id));
        free(block[n]);
    }
}

static void *work(void *argument) {
    struct worker *w = argument;
    uint64_t seed = (uint64_t)w->id;
    for (long round = 0; round < rounds; round++) {
        for (long p = 0; p < pages; p++)
            if (p / PIECE % 2 == w->id % 2 || round % 2)
                count(w, p);
        for (long p = pages - 1; p >= 0; p--)
            count(w, p);
        for (long stride = 2; stride < 18; stride += 5)
            for (long p = w->id; p < pages; p += stride)
                count(w, p);
        for (long stride = 3; stride < 18; stride += 7)
            for (long p = pages - 1 - w->id; p >= 0; p -= stride)
                count(w, p);
        for (long n = 0; n < pages / 4; n++)
            count(w, (long)(next_random(&seed) % (uint64_t)pages));
        uint64_t sum = 0;
        for (long p = 0; p < pages; p++)
            sum += *word(p, w->id);
        CHECK(sum == w->done);
        grow_a_heap(w->id);
    }
    return NULL;
}

/* The break goes up, down and up again: what comes anew is zeros. */
static void move_the_break(void) {
    enum { LARGE = 3 << 20, SMALL = 1 << 20 };
    CHECK(sbrk(LARGE) != (void *)-1);
    unsigned char *end = sbrk(0);
    memset(end - LARGE, 7, LARGE);
    CHECK(sbrk(-LARGE) != (void *)-1);
    CHECK(sbrk(SMALL) == end - LARGE);
    for (size_t n = 0; n < SMALL; n++)
        CHECK(end[(long)n - LARGE] == 0);
}

int main(int argc, char **argv) {
    pages = number(argc, argv, 1, 4096);
    rounds = number(argc, argv, 2, 2);
    int threads = (int)number(argc, argv, 3, 2);
    CHECK(threads > 0 && threads <= MAX_THREADS && pages > MAX_THREADS);
    memory = mmap(NULL, (size_t)pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    CHECK(memory != MAP_FAILED);
    struct worker workers[MAX_THREADS] = {{0, 0}};
    for (int n = 0; n < threads; n++)
        workers[n].id = n;
    run_threads(threads, work, workers, sizeof *workers);
    for (int n = 0; n < threads; n++) {
        uint64_t hash = 0;
        for (long p = 0; p < pages; p++)
            hash = hash * 31 + *word(p, n);
        printf("%d: %llu touches, %016llx\n", n, (unsigned long long)workers[n].done,
               (unsigned long long)hash);
    }
    move_the_break();
    return 0;
}
