/* Inserts, looks up and deletes in one hash table of linked nodes, shared by
 * all threads under striped locks: hashtable [OPERATIONS] [THREADS]. Each
 * thread has its own keys, so what is left is the same in any interleaving. */
#include "common.h"

enum { BUCKETS = 1 << 16, STRIPES = 64, KEYS = 1 << 14, PAYLOAD = 104 };

struct node {
    uint64_t key;
    uint64_t value;
    struct node *next;
    unsigned char payload[PAYLOAD];
};

struct worker {
    int id;
    long operations;
    uint64_t found, missed, inserted, deleted;
    unsigned char present[KEYS]; /* what the table should say */
};

static struct node *buckets[BUCKETS];
static pthread_rwlock_t stripes[STRIPES];

static size_t bucket_of(uint64_t key) {
    uint64_t state = key;
    return next_random(&state) % BUCKETS;
}

static struct node **find(uint64_t key) {
    struct node **at = &buckets[bucket_of(key)];
    while (*at && (*at)->key != key)
        at = &(*at)->next;
    return at;
}

static void lookup(struct worker *w, uint64_t key, int expected) {
    struct node *n = *find(key);
    CHECK((n != NULL) == expected);
    if (!n) {
        w->missed++;
        return;
    }
    CHECK(n->value == ~key && n->payload[0] == (key & 0xff) &&
          n->payload[PAYLOAD - 1] == (key & 0xff));
    w->found++;
}

static void insert(struct worker *w, uint64_t key) {
    struct node *n = malloc(sizeof *n);
    CHECK(n);
    struct node **at = &buckets[bucket_of(key)];
    *n = (struct node){.key = key, .value = ~key, .next = *at};
    memset(n->payload, (int)(key & 0xff), PAYLOAD);
    *at = n;
    w->inserted++;
}

static void delete(struct worker *w, uint64_t key) {
    struct node **at = find(key), *gone = *at;
    CHECK(gone);
    *at = gone->next;
    free(gone);
    w->deleted++;
}

static void *work(void *argument) {
    struct worker *w = argument;
    uint64_t seed = (uint64_t)w->id + 100;
    for (long i = 0; i < w->operations; i++) {
        uint64_t choice = next_random(&seed);
        size_t own = (choice >> 8) % KEYS;
        uint64_t key = (uint64_t)w->id * KEYS + own;
        pthread_rwlock_t *lock = &stripes[bucket_of(key) % STRIPES];
        if (choice % 100 < 50) {
            pthread_rwlock_rdlock(lock);
            lookup(w, key, w->present[own]);
        } else {
            pthread_rwlock_wrlock(lock);
            (w->present[own] ? delete : insert)(w, key);
            w->present[own] ^= 1;
        }
        pthread_rwlock_unlock(lock);
    }
    return NULL;
}

int main(int argc, char **argv) {
    long operations = number(argc, argv, 1, 200000);
    int threads = (int)number(argc, argv, 2, 2);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    CHECK(workers);
    for (int i = 0; i < STRIPES; i++)
        CHECK(pthread_rwlock_init(&stripes[i], NULL) == 0);
    for (int i = 0; i < threads; i++) {
        workers[i].id = i;
        workers[i].operations = operations / threads;
    }
    run_threads(threads, work, workers, sizeof *workers);
    uint64_t left = 0, sum = 0;
    for (int i = 0; i < BUCKETS; i++)
        for (struct node *n = buckets[i]; n; n = n->next, left++)
            sum += n->key ^ n->value ^ digest(n->key, n->payload, PAYLOAD);
    for (int i = 0; i < threads; i++)
        printf("worker %d: %llu found, %llu missed, %llu inserted, %llu deleted\n", i,
               (unsigned long long)workers[i].found, (unsigned long long)workers[i].missed,
               (unsigned long long)workers[i].inserted, (unsigned long long)workers[i].deleted);
    printf("%llu left, sum %016llx\n", (unsigned long long)left, (unsigned long long)sum);
    return 0;
}
