/* Sorts generated numbers: sort [COUNT] [THREADS]. Each thread sorts its run
 * with qsort, then pairs of runs are merged, by threads too, until one is left. */
#include "common.h"

struct run {
    uint64_t *from;
    size_t length;
    size_t second; /* length of the neighbour to merge with, 0 for none */
    uint64_t *spare;
};

static int by_value(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void *sort_run(void *argument) {
    struct run *r = argument;
    qsort(r->from, r->length, sizeof *r->from, by_value);
    return NULL;
}

static void *merge_run(void *argument) {
    struct run *r = argument;
    const uint64_t *a = r->from, *a_end = a + r->length;
    const uint64_t *b = a_end, *b_end = b + r->second;
    uint64_t *to = r->spare;
    while (a < a_end && b < b_end)
        *to++ = *b < *a ? *b++ : *a++;
    while (a < a_end)
        *to++ = *a++;
    while (b < b_end)
        *to++ = *b++;
    return NULL;
}

/* One round: runs 2k and 2k+1 become run k, in the other array. */
static int merge_round(struct run *runs, int n, uint64_t *numbers, uint64_t *spare) {
    int pairs = (n + 1) / 2;
    for (int k = 0; k < pairs; k++) {
        struct run *left = &runs[2 * k];
        size_t second = 2 * k + 1 < n ? runs[2 * k + 1].length : 0;
        runs[k] = (struct run){left->from, left->length, second, spare + (left->from - numbers)};
    }
    run_threads(pairs, merge_run, runs, sizeof *runs);
    for (int k = 0; k < pairs; k++)
        runs[k] = (struct run){runs[k].spare, runs[k].length + runs[k].second, 0, NULL};
    return pairs;
}

int main(int argc, char **argv) {
    size_t count = (size_t)number(argc, argv, 1, 1 << 20);
    int threads = (int)number(argc, argv, 2, 2);
    CHECK(threads > 0 && count >= (size_t)threads);
    uint64_t *numbers = malloc(count * sizeof *numbers);
    uint64_t *spare = malloc(count * sizeof *spare);
    struct run *runs = calloc((size_t)threads, sizeof *runs);
    CHECK(numbers && spare && runs);
    uint64_t seed = 1, sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += numbers[i] = next_random(&seed);
    size_t share = count / (size_t)threads;
    for (int i = 0; i < threads; i++)
        runs[i] = (struct run){numbers + share * (size_t)i,
                               i == threads - 1 ? count - share * (size_t)i : share, 0, NULL};
    run_threads(threads, sort_run, runs, sizeof *runs);
    for (int n = threads; n > 1;) {
        n = merge_round(runs, n, numbers, spare);
        uint64_t *other = numbers;
        numbers = spare;
        spare = other;
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(i == 0 || numbers[i - 1] <= numbers[i]);
        sum -= numbers[i];
    }
    CHECK(sum == 0);
    printf("%zu sorted, digest %016llx\n", count,
           (unsigned long long)digest(DIGEST_START, numbers, count * sizeof *numbers));
    return 0;
}
