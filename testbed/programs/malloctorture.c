/* Random malloc, calloc, realloc and free on many threads, every block checked:
 * malloctorture [STEPS] [THREADS]. Large blocks make realloc use mremap, and
 * some blocks are freed by another thread than the one that made them. */
#include "common.h"
#include <malloc.h>

enum { BLOCKS = 200, HANDED = 64, LARGE = 3 << 20 };

struct block {
    unsigned char *at;
    size_t size;
    unsigned char mark;
};

struct worker {
    int id;
    long steps;
    uint64_t bytes;
};

static struct block handed[HANDED];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t random_size(uint64_t *seed) {
    uint64_t r = next_random(seed);
    size_t scale = (size_t)1 << (r % 18);
    return r % 97 == 0 ? (r >> 20) % LARGE : (r >> 20) % scale + 1;
}

/* The two ends and a word in each page between them. */
static void fill(struct block *b) {
    for (size_t i = 0; i < b->size; i += 509)
        b->at[i] = b->mark;
    if (b->size)
        b->at[b->size - 1] = b->mark;
}

static void verify(const struct block *b, size_t size) {
    for (size_t i = 0; i < size; i += 509)
        CHECK(b->at[i] == b->mark);
}

static void fresh(struct block *b, uint64_t *seed) {
    b->size = random_size(seed);
    b->mark = (unsigned char)next_random(seed);
    int zeroed = next_random(seed) % 2 == 0;
    b->at = zeroed ? calloc(1, b->size) : malloc(b->size);
    CHECK(b->at || b->size == 0);
    for (size_t i = 0; zeroed && i < b->size; i += 61)
        CHECK(b->at[i] == 0);
    fill(b);
}

static void resize(struct block *b, uint64_t *seed) {
    size_t size = random_size(seed);
    size_t kept = size < b->size ? size : b->size;
    b->at = realloc(b->at, size);
    CHECK(b->at);
    b->size = size;
    verify(b, kept);
    fill(b);
}

static void release(struct block *b) {
    verify(b, b->size);
    CHECK(b->size == 0 || b->at[b->size - 1] == b->mark);
    free(b->at);
    *b = (struct block){NULL, 0, 0};
}

static void hand_over(struct block *b, uint64_t *seed) {
    pthread_mutex_lock(&lock);
    struct block *slot = &handed[next_random(seed) % HANDED];
    struct block taken = *slot;
    *slot = *b;
    *b = taken;
    pthread_mutex_unlock(&lock);
    if (b->at)
        release(b);
}

static void *work(void *argument) {
    struct worker *w = argument;
    static __thread struct block blocks[BLOCKS];
    uint64_t seed = (uint64_t)w->id + 1;
    for (long i = 0; i < w->steps; i++) {
        struct block *b = &blocks[next_random(&seed) % BLOCKS];
        uint64_t choice = next_random(&seed) % 10;
        if (!b->at)
            fresh(b, &seed);
        else if (choice < 4)
            resize(b, &seed);
        else if (choice < 9)
            release(b);
        else
            hand_over(b, &seed);
        w->bytes += b->size;
    }
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].at)
            release(&blocks[i]);
    return NULL;
}

static void grow_large(void) {
    struct block b = {malloc(1 << 20), 1 << 20, 0xa5};
    CHECK(b.at);
    fill(&b);
    for (size_t size = 1 << 20; size <= 24u << 20; size += 1 << 20) {
        size_t before = b.size;
        CHECK((b.at = realloc(b.at, size)) != NULL);
        b.size = size;
        verify(&b, before);
        fill(&b);
    }
    uint64_t sum = digest(DIGEST_START, b.at, 4096);
    release(&b);
    printf("grown to 24 MiB, %016llx\n", (unsigned long long)sum);
}

int main(int argc, char **argv) {
    long steps = number(argc, argv, 1, 20000);
    int threads = (int)number(argc, argv, 2, 4);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    CHECK(workers);
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){i, steps / threads, 0};
    run_threads(threads, work, workers, sizeof *workers);
    for (int i = 0; i < HANDED; i++)
        if (handed[i].at)
            release(&handed[i]);
    grow_large();
    free(workers);
    printf("%ld steps on %d threads\n", steps, threads);
    return 0;
}
