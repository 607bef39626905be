/* cachewalk --self-test: its samplers against what they must give, its
 * histogram against sorted values. Says what is wrong and ends with 1. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "sampling.h"

static void test_scatter(uint64_t n) {
    struct scatter s = scatter_new(n, 5);
    unsigned char *hit = calloc(n, 1);
    CHECK(hit);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = scatter_at(&s, i);
        CHECK(at < n && !hit[at]);
        hit[at] = 1;
    }
    free(hit);
}

/* Chi squared over the ranks, those that are expected less than 20 times
 * together. For d degrees of freedom it has mean d and variance 2d. */
static void test_zipf(uint64_t n, double theta) {
    enum { DRAWS = 400000 };
    struct zipf z = zipf_new(n, theta);
    uint64_t seed = 11, *seen = calloc(n + 1, sizeof *seen);
    CHECK(seen);
    for (int i = 0; i < DRAWS; i++) {
        uint64_t k = zipf_next(&z, &seed);
        CHECK(k >= 1 && k <= n);
        seen[k]++;
    }
    double whole = 0, chi = 0, rest_expected = 0, rest_seen = 0;
    for (uint64_t k = 1; k <= n; k++)
        whole += pow((double)k, -theta);
    int degrees = 0;
    for (uint64_t k = 1; k <= n; k++) {
        double expected = DRAWS * pow((double)k, -theta) / whole;
        if (expected < 20) {
            rest_expected += expected;
            rest_seen += (double)seen[k];
            continue;
        }
        chi += (seen[k] - expected) * (seen[k] - expected) / expected;
        degrees++;
    }
    if (rest_expected > 20) {
        chi += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
        degrees++;
    }
    if (n > 1)
        CHECK(fabs(chi - (degrees - 1)) < 5 * sqrt(2.0 * degrees) + 1);
    free(seen);
}

static void test_cycle(uint32_t n) {
    uint32_t *next = calloc(n, sizeof *next), at = 0, steps = 0;
    CHECK(next);
    random_cycle(next, n, 3);
    do {
        CHECK(next[at] < n);
        at = next[at];
        steps++;
    } while (at != 0 && steps <= n);
    CHECK(steps == n);
    free(next);
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void test_histogram(unsigned bits) {
    enum { VALUES = 50001 };
    static uint64_t values[VALUES];
    static struct histogram whole, half[2];
    memset(&whole, 0, sizeof whole);
    memset(half, 0, sizeof half);
    uint64_t seed = bits, sum = 0;
    for (int i = 0; i < VALUES; i++) {
        values[i] = next_random(&seed) >> (64 - bits) >> (next_random(&seed) % bits);
        sum += values[i];
        record(&half[i % 2], values[i]);
        CHECK(bucket_top(bucket_of(values[i])) >= values[i]);
        CHECK(bucket_of(values[i]) == 0 || bucket_top(bucket_of(values[i]) - 1) < values[i]);
    }
    merge(&whole, &half[0]);
    merge(&whole, &half[1]);
    qsort(values, VALUES, sizeof *values, ascending);
    CHECK(whole.count == VALUES && whole.sum == sum);
    CHECK(whole.min == values[0] && whole.max == values[VALUES - 1]);
    const double shares[] = {0.001, 0.5, 0.9, 0.99, 0.999, 1};
    for (unsigned i = 0; i < sizeof shares / sizeof *shares; i++) {
        uint64_t exact = values[(size_t)ceil(shares[i] * VALUES) - 1];
        uint64_t told = quantile(&whole, shares[i]);
        CHECK(told >= exact && told - exact <= exact / SUB);
    }
}

static void self_test(void) {
    for (uint64_t n = 1; n < 70; n++)
        test_scatter(n);
    test_scatter(100003);
    test_zipf(1, 0.99);
    test_zipf(10, 0.5);
    test_zipf(1000, 0.99);
    test_zipf(1000, 1);
    test_zipf(5000, 1.5);
    test_zipf(200, 0);
    test_cycle(1);
    test_cycle(2);
    test_cycle(100000);
    for (unsigned bits = 1; bits <= 47; bits++)
        test_histogram(bits);
    CHECK(bucket_of(UINT64_MAX) == BUCKETS - 1 && bucket_top(BUCKETS - 1) == UINT64_MAX);
    puts("self-test passed");
}

#endif
