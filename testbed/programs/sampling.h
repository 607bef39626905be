/* What cachewalk draws from and counts with: a bijection that scatters, a Zipf
 * sampler, a random cycle, and a histogram. No input or output here. */
#ifndef SAMPLING_H
#define SAMPLING_H

#include "common.h"
#include <math.h>

/* A uniform number below `n` (Lemire 2019, without the rejection: the bias is
 * below n / 2^64). */
static inline uint64_t below(uint64_t *state, uint64_t n) {
    return (uint64_t)(((unsigned __int128)next_random(state) * n) >> 64);
}

/* --- A permutation of 0..n-1 without a table: Feistel's network of four rounds
 * over the next power of four, walked along its cycle until below n. A table of
 * the pages would itself take room in the cache that is measured. */

struct scatter {
    uint64_t n, keys[4];
    unsigned half;
};

static inline struct scatter scatter_new(uint64_t n, uint64_t seed) {
    struct scatter s = {.n = n, .half = 1};
    while (s.half < 31 && ((uint64_t)1 << (2 * s.half)) < n)
        s.half++;
    for (int i = 0; i < 4; i++)
        s.keys[i] = next_random(&seed);
    return s;
}

static inline uint64_t scatter_at(const struct scatter *s, uint64_t x) {
    uint64_t mask = ((uint64_t)1 << s->half) - 1;
    do {
        uint64_t left = x >> s->half, right = x & mask;
        for (int i = 0; i < 4; i++) {
            uint64_t state = right ^ s->keys[i];
            uint64_t mixed = left ^ (next_random(&state) & mask);
            left = right;
            right = mixed;
        }
        x = left << s->half | right;
    } while (x >= s->n);
    return x;
}

/* --- Zipf by rejection-inversion (Hörmann and Derflinger 1996): rank k of 1..n
 * with probability proportional to k^-theta, in constant time and memory. */

struct zipf {
    double n, theta, h_first, h_last, shortcut;
};

/* The integral of x^-theta, also where theta is 1. */
static inline double zipf_integral(double theta, double x) {
    double log_x = log(x), t = (1 - theta) * log_x;
    return (fabs(t) > 1e-8 ? expm1(t) / t : 1 + t / 2 * (1 + t / 3)) * log_x;
}

static inline double zipf_inverse(double theta, double x) {
    double t = x * (1 - theta);
    if (t < -1)
        t = -1;
    return exp((fabs(t) > 1e-8 ? log1p(t) / t : 1 - t / 2 + t * t / 3) * x);
}

static inline struct zipf zipf_new(uint64_t n, double theta) {
    struct zipf z = {.n = (double)n, .theta = theta};
    z.h_first = zipf_integral(theta, 1.5) - 1;
    z.h_last = zipf_integral(theta, z.n + 0.5);
    z.shortcut = 2 - zipf_inverse(theta, zipf_integral(theta, 2.5) - pow(2, -theta));
    return z;
}

static inline uint64_t zipf_next(const struct zipf *z, uint64_t *state) {
    for (;;) {
        double uniform = (double)(next_random(state) >> 11) * 0x1p-53;
        double u = z->h_last + uniform * (z->h_first - z->h_last);
        double x = zipf_inverse(z->theta, u);
        double k = floor(x + 0.5);
        k = k < 1 ? 1 : k > z->n ? z->n : k;
        if (k - x <= z->shortcut ||
            u >= zipf_integral(z->theta, k + 0.5) - pow(k, -z->theta))
            return (uint64_t)k;
    }
}

/* --- One random cycle through all of 0..n-1 (Sattolo 1986). */
static inline void random_cycle(uint32_t *next, uint32_t n, uint64_t seed) {
    for (uint32_t i = 0; i < n; i++)
        next[i] = i;
    for (uint32_t i = n; i-- > 1;) {
        uint32_t j = (uint32_t)below(&seed, i), kept = next[i];
        next[i] = next[j];
        next[j] = kept;
    }
}

/* --- A log-linear histogram: 64 buckets to each power of two, so a value is
 * known to one part in 64. */

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = (64 - SUB_BITS + 1) * SUB };

struct histogram {
    uint64_t count, sum, min, max, buckets[BUCKETS];
};

static inline unsigned bucket_of(uint64_t value) {
    if (value < SUB)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return (shift + 1) * SUB + (unsigned)((value >> shift) - SUB);
}

/* The largest value of a bucket. */
static inline uint64_t bucket_top(unsigned bucket) {
    if (bucket < SUB)
        return bucket;
    unsigned shift = bucket / SUB - 1;
    uint64_t first = (uint64_t)(SUB + bucket % SUB) << shift;
    return first + (((uint64_t)1 << shift) - 1);
}

static inline void record(struct histogram *h, uint64_t value) {
    if (h->count == 0 || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->count++;
    h->sum += value;
    h->buckets[bucket_of(value)]++;
}

static inline void merge(struct histogram *to, const struct histogram *from) {
    if (from->count == 0)
        return;
    if (to->count == 0 || from->min < to->min)
        to->min = from->min;
    if (from->max > to->max)
        to->max = from->max;
    to->count += from->count;
    to->sum += from->sum;
    for (unsigned i = 0; i < BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
}

/* The value that a share `q` of all values does not exceed, from above. */
static inline uint64_t quantile(const struct histogram *h, double q) {
    uint64_t rank = (uint64_t)ceil(q * (double)h->count), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= rank && seen > 0)
            return bucket_top(i) < h->max ? bucket_top(i) : h->max;
    }
    return h->max;
}

#endif
