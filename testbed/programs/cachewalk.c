/* What an access to memory costs, by pattern:
 *
 *     cachewalk [--footprint BYTES] [--patterns LIST] [--mix LIST] [--threads LIST]
 *               [--accesses N | --time SECONDS] [--warmup N] [--stride BYTES]
 *               [--theta X] [--seed N] [--bits N] | --self-test
 *
 * Fills the footprint in sequence, then measures each pattern with each mix and
 * each number of threads, one word of one page an access, and prints JSON. Each
 * page holds its own number, which every read but those of the chase checks. Patterns:
 *
 *   random      every page equally likely
 *   sequential  one page after the other; threads begin evenly spread
 *   strided     every STRIDE bytes; from the end on with the next page (below a
 *               page: the next 64 bytes) after where the round began
 *   zipf        rank k with probability ~ k^-THETA, ranks scattered over pages
 *   chase       along one random cycle through all pages, whose links lie in
 *               the pages: each access must wait for the one before
 *
 * Mixes: read; write; mixed, which is either with equal probability. Random
 * numbers are splitmix64's (common.h), of a stream for each thread.
 *
 * ACCESSES (default: one for each page) and WARMUP, which is not measured, are
 * divided among the threads. The words of a page are random numbers of BITS
 * bits (default 16), for swap that compresses.
 *
 * On Splitkernel each phase comes with the counters of /proc/self/splitkernel
 * before and after it.
 */
#include "common.h"
#include "sampling.h"
#include "selftest.h"
#include <fcntl.h>
#include <getopt.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

/* Of a page: word 0 is the chase's link; in each block of 64 bytes, word 2
 * begins with the page's number and is what accesses load and store. */
enum { PAGE = 4096, WORDS = PAGE / 8, BLOCK = 64, BLOCK_WORDS = BLOCK / 8, TOUCHED = 2 };
enum { MOST_THREADS = 256, MOST_LIST = 16 };

enum pattern { RANDOM, SEQUENTIAL, STRIDED, ZIPF, CHASE, PATTERNS };
static const char *const PATTERN_NAMES[] = {"random", "sequential", "strided", "zipf", "chase"};
enum mix { READ, WRITE, MIXED, MIXES };
static const char *const MIX_NAMES[] = {"read", "write", "mixed"};

static struct {
    size_t footprint, stride;
    int patterns[MOST_LIST], mixes[MOST_LIST], threads[MOST_LIST];
    uint64_t accesses, warmup, seed;
    double seconds, theta;
    int bits;
} options = {
    .footprint = 400 << 20, .stride = 64 << 10, .patterns = {0, 1, 2, 3, 4, -1},
    .mixes = {0, 1, 2, -1}, .threads = {1, -1}, .seed = 1, .theta = 0.99, .bits = 16,
};

static volatile uint64_t *memory;
static uint64_t pages;
static double ticks_per_ns;
static uint64_t overhead;
static struct zipf zipf;
static struct scatter scattered;

/* --- Clocks. */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What is between the two is neither begun before nor ended after them. */
static inline uint64_t begin_ticks(void) {
    _mm_lfence();
    uint64_t t = __rdtsc();
    _mm_lfence();
    return t;
}

static inline uint64_t end_ticks(void) {
    unsigned processor;
    uint64_t t = __rdtscp(&processor);
    _mm_lfence();
    return t;
}

/* The counter's rate, and what two readings cost with nothing between. */
static void calibrate(void) {
    static struct histogram empty;
    uint64_t start = now_ns(), ticks = begin_ticks();
    while (now_ns() - start < 50000000)
        ;
    ticks = end_ticks() - ticks;
    ticks_per_ns = (double)ticks / (double)(now_ns() - start);
    for (int i = 0; i < 20001; i++) {
        uint64_t t = begin_ticks();
        record(&empty, end_ticks() - t);
    }
    overhead = quantile(&empty, 0.5);
}

/* --- Accesses. */

struct worker {
    int index, threads;
    enum pattern pattern;
    enum mix mix;
    uint64_t seed, at, shift, started, ended;
    pthread_barrier_t *ready, *go;
    struct histogram *seen;
};

static void begin_pattern(struct worker *w) {
    uint64_t seed = options.seed + (uint64_t)w->index;
    w->seed = next_random(&seed);
    w->at = pages * (uint64_t)w->index / (uint64_t)w->threads;
    w->shift = 0;
    if (w->pattern == STRIDED)
        w->at = w->at * PAGE / options.stride * options.stride;
}

/* The word to touch next; `at` is a page's number, or a byte's where strided. */
static uint64_t next_word(struct worker *w) {
    uint64_t word;
    switch (w->pattern) {
    case RANDOM:
        return below(&w->seed, pages) * WORDS + TOUCHED;
    case ZIPF:
        return scatter_at(&scattered, zipf_next(&zipf, &w->seed) - 1) * WORDS + TOUCHED;
    case STRIDED:
        word = w->at / BLOCK * BLOCK_WORDS + TOUCHED;
        if ((w->at += options.stride) >= pages * PAGE) {
            size_t step = options.stride < PAGE ? BLOCK : PAGE;
            w->shift = (w->shift + step) % options.stride;
            w->at = w->shift < pages * PAGE ? w->shift : 0;
        }
        return word;
    case SEQUENTIAL:
        word = w->at * WORDS + TOUCHED;
        w->at = w->at + 1 < pages ? w->at + 1 : 0;
        return word;
    default: /* The chase: its next link is only known after the access. */
        return w->at * WORDS + TOUCHED;
    }
}

/* One access; its ticks. `*end` is when it ended. */
static inline uint64_t access_one(struct worker *w, uint64_t round, uint64_t *end) {
    uint64_t word = next_word(w), page = word / WORDS, start, value = page;
    int writes = w->mix == WRITE || (w->mix == MIXED && (next_random(&w->seed) & 1));
    volatile uint64_t *link = &memory[page * WORDS], *touched = &memory[word];
    if (w->pattern == CHASE) {
        start = begin_ticks();
        if (writes)
            *touched = round << 32 | page;
        w->at = *link;
        *end = end_ticks();
        CHECK(w->at < pages);
    } else if (writes) {
        start = begin_ticks();
        *touched = round << 32 | page;
        *end = end_ticks();
    } else {
        start = begin_ticks();
        value = *touched;
        *end = end_ticks();
    }
    CHECK((uint32_t)value == (uint32_t)page);
    uint64_t took = *end - start;
    return took > overhead ? took - overhead : 0;
}

static uint64_t share(const struct worker *w, uint64_t of) {
    return of / (uint64_t)w->threads + ((uint64_t)w->index < of % (uint64_t)w->threads);
}

static void warm_up(struct worker *w) {
    uint64_t end;
    begin_pattern(w);
    for (uint64_t i = share(w, options.warmup); i > 0; i--)
        access_one(w, i, &end);
    pthread_barrier_wait(w->ready);
}

static void measure(struct worker *w) {
    uint64_t end, accesses = share(w, options.accesses);
    uint64_t limit = (uint64_t)(options.seconds * 1e9 * ticks_per_ns);
    pthread_barrier_wait(w->go);
    w->started = now_ns();
    uint64_t begun = begin_ticks();
    for (uint64_t i = 0; limit ? 1 : i < accesses; i++) {
        record(w->seen, access_one(w, i, &end));
        if (limit && end - begun >= limit)
            break;
    }
    w->ended = now_ns();
    pthread_barrier_wait(w->ready);
}

static void *work(void *worker) {
    warm_up(worker);
    measure(worker);
    return NULL;
}

/* --- Phases. */

/* Splitkernel's counters; NULL elsewhere. */
static char *counters(char **kept) {
    enum { MOST = 512 << 10 };
    int fd = open("/proc/self/splitkernel", O_RDONLY);
    if (fd < 0)
        return NULL;
    if (!*kept)
        CHECK((*kept = malloc(MOST)));
    size_t got = 0;
    for (ssize_t n; (n = read(fd, *kept + got, MOST - 1 - got)) > 0;)
        got += (size_t)n;
    CHECK(got > 0 && got < MOST - 1);
    (*kept)[got] = 0;
    close(fd);
    return *kept;
}

static double ns(uint64_t ticks) { return (double)ticks / ticks_per_ns; }

static void print_phase(const struct worker *w, uint64_t wall, const struct histogram *h,
                        const char *before, const char *after) {
    printf("{\"pattern\":\"%s\",\"mix\":\"%s\",\"threads\":%d,\"accesses\":%ju,\"wall_ns\":%ju,",
           PATTERN_NAMES[w->pattern], MIX_NAMES[w->mix], w->threads, (uintmax_t)h->count,
           (uintmax_t)wall);
    printf("\"mean_ns\":%.1f,\"min_ns\":%.1f,\"p50_ns\":%.1f,\"p90_ns\":%.1f,\"p99_ns\":%.1f,"
           "\"p999_ns\":%.1f,\"max_ns\":%.1f,\"histogram\":[",
           ns(h->sum) / (double)h->count, ns(h->min), ns(quantile(h, 0.5)),
           ns(quantile(h, 0.9)), ns(quantile(h, 0.99)), ns(quantile(h, 0.999)), ns(h->max));
    const char *comma = "";
    for (unsigned i = 0; i < BUCKETS; i++)
        if (h->buckets[i]) {
            printf("%s[%.1f,%ju]", comma, ns(bucket_top(i)), (uintmax_t)h->buckets[i]);
            comma = ",";
        }
    printf("],\"before\":%s,\"after\":%s}", before ? before : "null", after ? after : "null");
}

static void phase(enum pattern pattern, enum mix mix, int threads) {
    static struct worker workers[MOST_THREADS];
    static struct histogram seen[MOST_THREADS], all;
    static char *kept[2];
    static pthread_t ids[MOST_THREADS];
    pthread_barrier_t ready, go;
    CHECK(pthread_barrier_init(&ready, NULL, (unsigned)threads) == 0);
    CHECK(pthread_barrier_init(&go, NULL, (unsigned)threads) == 0);
    for (int i = 0; i < threads; i++) {
        memset(&seen[i], 0, sizeof seen[i]);
        workers[i] = (struct worker){.index = i, .threads = threads, .pattern = pattern,
                                     .mix = mix, .ready = &ready, .go = &go, .seen = &seen[i]};
        if (i > 0)
            CHECK((errno = pthread_create(&ids[i], NULL, work, &workers[i])) == 0);
    }
    /* This thread is the first of them: a phase of one has no other beside it. */
    warm_up(&workers[0]);
    char *before = counters(&kept[0]);
    measure(&workers[0]);
    char *after = counters(&kept[1]);
    uint64_t started = UINT64_MAX, ended = 0;
    memset(&all, 0, sizeof all);
    for (int i = 0; i < threads; i++) {
        if (i > 0)
            CHECK((errno = pthread_join(ids[i], NULL)) == 0);
        started = workers[i].started < started ? workers[i].started : started;
        ended = workers[i].ended > ended ? workers[i].ended : ended;
        merge(&all, &seen[i]);
    }
    print_phase(&workers[0], ended - started, &all, before, after);
    pthread_barrier_destroy(&ready);
    pthread_barrier_destroy(&go);
}

static void fill(void) {
    uint64_t mask = options.bits >= 64 ? UINT64_MAX : ((uint64_t)1 << options.bits) - 1;
    size_t size = pages * sizeof(uint32_t);
    uint32_t *next = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(next != MAP_FAILED);
    random_cycle(next, (uint32_t)pages, options.seed);
    for (uint64_t page = 0; page < pages; page++) {
        volatile uint64_t *words = memory + page * WORDS;
        uint64_t seed = page;
        for (size_t i = 1; i < WORDS; i++)
            words[i] = i % BLOCK_WORDS == TOUCHED ? page : next_random(&seed) & mask;
        words[0] = next[page];
    }
    munmap(next, size);
}

/* --- The command line. */

static void refuse(const char *option, const char *value, const char *cure) {
    fprintf(stderr, "cachewalk: --%s %s: give %s\n", option, value, cure);
    exit(2);
}

static uint64_t whole(const char *option, const char *text, uint64_t least, uint64_t most) {
    char *end, cure[80];
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    snprintf(cure, sizeof cure, "a number from %ju to %ju", (uintmax_t)least, (uintmax_t)most);
    if (errno || end == text || *end || *text == '-' || n < least || n > most)
        refuse(option, text, cure);
    return n;
}

static double real(const char *option, const char *text, double most) {
    char *end, cure[80];
    double x = strtod(text, &end);
    snprintf(cure, sizeof cure, "a number from 0 to %g", most);
    if (end == text || *end || !(x >= 0 && x <= most))
        refuse(option, text, cure);
    return x;
}

/* A list of names, or of numbers where there are none; -1 ends it. */
static void list(const char *option, char *text, const char *const *names, int count, int *to) {
    int n = 0;
    for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
        int i = names ? 0 : (int)whole(option, word, 1, MOST_THREADS);
        while (names && i < count && strcmp(names[i], word) != 0)
            i++;
        if ((names && i == count) || n == MOST_LIST - 1)
            refuse(option, word, "at most 15 of those that the head of cachewalk.c names");
        to[n++] = i;
    }
    if (n == 0)
        refuse(option, "''", "one or more");
    to[n] = -1;
}

static void parse(int argc, char **argv) {
    static const struct option known[] = {
        {"footprint", 1, 0, 'f'}, {"patterns", 1, 0, 'p'}, {"mix", 1, 0, 'm'},
        {"threads", 1, 0, 't'},   {"accesses", 1, 0, 'a'}, {"time", 1, 0, 's'},
        {"warmup", 1, 0, 'w'},    {"stride", 1, 0, 'd'},   {"theta", 1, 0, 'z'},
        {"seed", 1, 0, 'r'},      {"bits", 1, 0, 'b'},     {"self-test", 0, 0, 'x'},
        {0, 0, 0, 0}};
    for (int c, i; (c = getopt_long(argc, argv, "", known, &i)) != -1;) {
        const char *name = c == '?' ? "" : known[i].name;
        switch (c) {
        case 'f': options.footprint = whole(name, optarg, PAGE, (uint64_t)1 << 43); break;
        case 'p': list(name, optarg, PATTERN_NAMES, PATTERNS, options.patterns); break;
        case 'm': list(name, optarg, MIX_NAMES, MIXES, options.mixes); break;
        case 't': list(name, optarg, NULL, 0, options.threads); break;
        case 'a': options.accesses = whole(name, optarg, 1, INT64_MAX); break;
        case 's': options.seconds = real(name, optarg, 86400); break;
        case 'w': options.warmup = whole(name, optarg, 0, INT64_MAX); break;
        case 'd': options.stride = whole(name, optarg, BLOCK, (uint64_t)1 << 40); break;
        case 'z': options.theta = real(name, optarg, 10); break;
        case 'r': options.seed = whole(name, optarg, 0, UINT64_MAX); break;
        case 'b': options.bits = (int)whole(name, optarg, 0, 64); break;
        case 'x': self_test(); exit(0);
        default: exit(2);
        }
    }
    if (optind < argc)
        refuse("", argv[optind], "options only");
    if (options.stride % BLOCK)
        refuse("stride", "", "a multiple of 64");
}

int main(int argc, char **argv) {
    parse(argc, argv);
    pages = options.footprint / PAGE;
    if (!options.accesses)
        options.accesses = pages;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    /* Natively, huge pages would be another machine. */
    madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE);
    calibrate();
    zipf = zipf_new(pages, options.theta);
    scattered = scatter_new(pages, options.seed);
    uint64_t start = now_ns();
    fill();
    printf("{\"pages\":%ju,\"ticks_per_second\":%.0f,\"clock_overhead_ns\":%.1f,\"fill_ns\":%ju,"
           "\"phases\":[\n", (uintmax_t)pages, ticks_per_ns * 1e9, ns(overhead),
           (uintmax_t)(now_ns() - start));
    const char *comma = "";
    for (int *t = options.threads; *t >= 0; t++)
        for (int *p = options.patterns; *p >= 0; p++)
            for (int *m = options.mixes; *m >= 0; m++) {
                fputs(comma, stdout);
                phase((enum pattern)*p, (enum mix)*m, *t);
                comma = ",\n";
            }
    puts("\n]}");
    return 0;
}
