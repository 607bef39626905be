/* What an access to remote memory costs:
 *
 *     pagewalk [MEGABYTES] [ACCESSES] [SEED] [BITS]
 *
 * Fills MEGABYTES (default 400) in sequence, then makes ACCESSES (default one
 * to each page) random reads, random writes, sequential reads and sequential
 * writes, one word in each page visited, and prints the mean nanoseconds an
 * access. Each page holds its own number, so a wrong page is noticed. Run it
 * natively, swapping under a memory limit, and with `testbed run --cache 100M`.
 *
 * The words of a page are random numbers of BITS bits (default 16): swap that
 * compresses (zram, zswap) is as fast as its pages are easy. 16 is like the
 * numbers programs hold, 0 is nearly nothing to compress, 64 cannot be.
 */
#include "common.h"
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8 };

static uint64_t *memory;
static size_t pages;
static uint64_t mask;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fill_page(size_t page) {
    uint64_t seed = page;
    uint64_t *words = memory + page * WORDS;
    for (size_t i = 1; i < WORDS - 1; i++)
        words[i] = next_random(&seed) & mask;
    words[0] = words[WORDS - 1] = page;
}

static void read_page(size_t page, size_t round) {
    (void)round;
    CHECK(memory[page * WORDS] == page && memory[page * WORDS + WORDS - 1] == page);
}

static void write_page(size_t page, size_t round) {
    memory[page * WORDS + WORDS / 2] = round;
}

static void phase(const char *name, size_t accesses, uint64_t seed, int random,
                  void (*visit)(size_t, size_t)) {
    uint64_t start = now_ns();
    for (size_t i = 0; i < accesses; i++)
        visit(random ? next_random(&seed) % pages : i % pages, i);
    uint64_t took = now_ns() - start;
    printf("%-17s %9zu accesses %9.0f ns each\n", name, accesses,
           (double)took / (double)accesses);
    fflush(stdout);
}

static void fill(size_t page, size_t round) {
    (void)round;
    fill_page(page);
}

int main(int argc, char **argv) {
    size_t megabytes = (size_t)number(argc, argv, 1, 400);
    pages = megabytes << 20 >> 12;
    size_t accesses = (size_t)number(argc, argv, 2, (long)pages);
    uint64_t seed = (uint64_t)number(argc, argv, 3, 1);
    long bits = number(argc, argv, 4, 16);
    mask = bits >= 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && pages > 0);
    /* Huge pages would make the kernel swap 2 MiB at a time. */
    madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
    phase("sequential fill", pages, seed, 0, fill);
    phase("random read", accesses, seed + 1, 1, read_page);
    phase("random write", accesses, seed + 2, 1, write_page);
    phase("sequential read", accesses, seed, 0, read_page);
    phase("sequential write", accesses, seed, 0, write_page);
    return 0;
}
