/* Follows pointers around one random cycle: chase [BYTES] [STEPS] [THREADS].
 * Nothing can be fetched ahead, so each step off the cache is a full miss. */
#include "common.h"

struct node {
    struct node *next;
    uint64_t id;
    unsigned char padding[48];
};

struct walk {
    struct node *at;
    long steps;
    uint64_t sum;
};

static void *follow(void *argument) {
    struct walk *w = argument;
    for (long i = 0; i < w->steps; i++) {
        w->sum += w->at->id;
        w->at = w->at->next;
    }
    return NULL;
}

/* Sattolo's shuffle: a permutation that is a single cycle. */
static void link_cycle(struct node *nodes, size_t count) {
    size_t *order = malloc(count * sizeof *order);
    CHECK(order);
    uint64_t seed = 11;
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t other = next_random(&seed) % i;
        size_t swapped = order[i];
        order[i] = order[other];
        order[other] = swapped;
    }
    for (size_t i = 0; i < count; i++) {
        nodes[i].id = i;
        nodes[i].next = &nodes[order[i]];
    }
    free(order);
}

int main(int argc, char **argv) {
    size_t count = (size_t)number(argc, argv, 1, 16 << 20) / sizeof(struct node);
    long steps = number(argc, argv, 2, 200000);
    int threads = (int)number(argc, argv, 3, 1);
    CHECK(count > 1 && threads > 0);
    struct node *nodes = malloc(count * sizeof *nodes);
    struct walk *walks = calloc((size_t)threads, sizeof *walks);
    CHECK(nodes && walks);
    link_cycle(nodes, count);
    for (int i = 0; i < threads; i++)
        walks[i] = (struct walk){&nodes[count / (size_t)threads * (size_t)i], steps, 0};
    run_threads(threads, follow, walks, sizeof *walks);
    for (int i = 0; i < threads; i++)
        printf("walker %d: at %llu, sum %llu\n", i, (unsigned long long)walks[i].at->id,
               (unsigned long long)walks[i].sum);
    return 0;
}
