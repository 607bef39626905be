/*
 * What a host charges for the parts of a miss: `hostcosts` prints samples, as
 * JSON. A sample is the mean of a batch of calls, nanoseconds a call. What one
 * thread does is measured before there is another one, so that no other CPU has
 * this address space in its TLB; then again while a thread counts on another CPU.
 */
#include "common.h"
#include "hostcpus.h"
#include "hostfaults.h"
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <x86intrin.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

enum { SAMPLES = 25, WARM_UP = 3, QUIET_NS = 100000, COLD_PAGES = 4096, CACHE_LINE = 64 };

static unsigned char *cold, *copied;
static int itself = -1;
static char no_self_advice[120];

static void set_up(void) {
    choose_cpus();
    region = map((size_t)CALLS * GROUP_STRIDE);
    cold = map((size_t)COLD_PAGES * PAGE);
    copied = map(PAGE);
    memset(cold, 1, (size_t)COLD_PAGES * PAGE);
    memset(source, 2, sizeof source);
    take_faults_over();
    itself = (int)syscall(SYS_pidfd_open, getpid(), 0);
    struct iovec nothing = {NULL, 0};
    if (itself < 0 || syscall(SYS_process_madvise, itself, &nothing, 1, MADV_DONTNEED, 0) != 0)
        snprintf(no_self_advice, sizeof no_self_advice,
                 "process_madvise on itself: %s (Linux 6.13 has it)", strerror(errno));
}

/* --- What is measured: what comes before a batch, and one call of it. */

struct cost {
    const char *what, *lacking;
    unsigned pages, calls, group;
    void (*prepare)(const struct cost *);
    void (*call)(const struct cost *, unsigned n);
};

static unsigned char *group(unsigned n) { return region + (size_t)n * GROUP_STRIDE; }

/* Never a whole page table at once, which newer kernels would free with it. */
static void empty(const struct cost *c) {
    (void)c;
    for (unsigned n = 0; n < CALLS; n++)
        CHECK(madvise(group(n), GROUP * PAGE, MADV_DONTNEED) == 0);
}

static void fill(const struct cost *c) {
    empty(c);
    for (unsigned n = 0; n < CALLS; n++) {
        if (uffd >= 0)
            copy_in(group(n), c->group, 0);
        for (unsigned p = 0; p < c->group; p++)
            touch(group(n) + (size_t)p * PAGE, 1);
    }
}

static void fill_protected(const struct cost *c) {
    fill(c);
    for (unsigned n = 0; n < CALLS; n++) {
        protect(group(n), c->group, 1);
        for (unsigned p = 0; p < c->group; p++)
            touch(group(n) + (size_t)p * PAGE, 0);
    }
    answer = LIFT;
}

static void empty_pass(const struct cost *c) { empty(c), answer = PASS; }
static void empty_clean(const struct cost *c) { empty(c), answer = FILL_CLEAN; }
static void empty_dirty(const struct cost *c) { empty(c), answer = FILL_DIRTY; }
static void nothing(const struct cost *c) { (void)c; }

static void ask_parent(const struct cost *c, unsigned n) {
    (void)c, (void)n;
    syscall(SYS_getppid);
}
static void load(const struct cost *c, unsigned n) { (void)c, touch(group(n), 0); }
static void store(const struct cost *c, unsigned n) { (void)c, touch(group(n), 1); }
static void copy(const struct cost *c, unsigned n) { copy_in(group(n), c->pages, 0); }
static void guard(const struct cost *c, unsigned n) { protect(group(n), c->pages, 1); }
static void lift(const struct cost *c, unsigned n) { protect(group(n), c->pages, 0); }

static void zero(const struct cost *c, unsigned n) {
    struct uffdio_zeropage z = {.range = {(uintptr_t)group(n), (uint64_t)c->pages * PAGE},
                                .mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE};
    ask_uffd(UFFDIO_ZEROPAGE, &z);
}

static void drop(const struct cost *c, unsigned n) {
    CHECK(madvise(group(n), (size_t)c->pages * PAGE, MADV_DONTNEED) == 0);
}

static void drop_scattered(const struct cost *c, unsigned n) {
    struct iovec spans[CALLS];
    for (unsigned g = 0; g < c->pages; g++)
        spans[g] = (struct iovec){group(g) + (size_t)n * PAGE, PAGE};
    long dropped = syscall(SYS_process_madvise, itself, spans, c->pages, MADV_DONTNEED, 0);
    CHECK(dropped == (long)c->pages * PAGE);
}

/* Scattered, so that nothing is fetched ahead; out of every processor cache. */
static unsigned char *cold_page(unsigned n) {
    return cold + (size_t)(n * 2477u % COLD_PAGES) * PAGE;
}

static void chill(const struct cost *c) {
    for (unsigned n = 0; n < c->calls; n++)
        for (unsigned at = 0; at < PAGE; at += CACHE_LINE)
            _mm_clflush(cold_page(n) + at);
    _mm_mfence();
}

static void copy_cold(const struct cost *c, unsigned n) {
    (void)c;
    memcpy(copied, cold_page(n), PAGE);
    __asm__ volatile("" : : "r"(copied) : "memory");
}

/* --- Two threads that pass a turn to each other. */

enum { PING, PONG, OVER };
static atomic_uint turn;

static void pass(unsigned to) {
    atomic_store(&turn, to);
    syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int await(unsigned mine) {
    for (unsigned seen; (seen = atomic_load(&turn)) != mine;) {
        if (seen == OVER)
            return 0;
        syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    }
    return 1;
}

static void *answer_turns(void *cpu) {
    pin(*(int *)cpu);
    while (await(PONG))
        pass(PING);
    return NULL;
}

static void there_and_back(const struct cost *c, unsigned n) {
    (void)c, (void)n;
    pass(PONG);
    await(PING);
}

/* --- The thread that runs beside. It counts; what it counts less than when it is
 * left alone, over the same time, is what the calls cost it. */

static _Alignas(128) volatile uint64_t counted;
static _Alignas(128) atomic_int enough;

static void *count(void *unused) {
    (void)unused;
    pin(cpus[1]);
    while (!atomic_load_explicit(&enough, memory_order_relaxed))
        counted++;
    return NULL;
}

/* Counts a nanosecond while this thread makes no calls. Where something else had
 * its CPU all the while, once more. */
static double quiet_rate(void) {
    double begun, end;
    uint64_t before;
    do {
        before = counted;
        begun = now();
        while ((end = now()) - begun < QUIET_NS)
            ;
    } while (counted == before);
    return (double)(counted - before) / (end - begun);
}

static void print_samples(const char *name, const double *samples) {
    printf(", \"%s\": [", name);
    for (int s = 0; s < SAMPLES; s++)
        printf("%s%.1f", s ? ", " : "", samples[s]);
    printf("]");
}

static void measure(const struct cost *c, int beside) {
    static int any;
    double ns[SAMPLES], lost[SAMPLES];
    printf("%s\n{\"what\": \"%s\", \"beside\": %s", any++ ? "," : "", c->what,
           beside ? "true" : "false");
    if (c->pages)
        printf(", \"pages\": %u", c->pages);
    const char *lacking = beside && *no_second_cpu ? no_second_cpu : c->lacking;
    if (lacking && *lacking) {
        printf(", \"lacking\": \"%s\"}", lacking);
        return;
    }
    for (int s = -WARM_UP; s < SAMPLES; s++) {
        c->prepare(c);
        double rate = beside ? quiet_rate() : 0, begun = now();
        uint64_t before = counted;
        for (unsigned n = 0; n < c->calls; n++)
            c->call(c, n);
        double took = now() - begun, counts = (double)(counted - before);
        if (s < 0)
            continue;
        ns[s] = took / c->calls;
        lost[s] = beside ? (took - counts / rate) / c->calls : 0;
    }
    print_samples("ns", ns);
    if (beside)
        print_samples("lost_ns", lost);
    printf("}");
}

#define SHARED                                                                                \
    {"write-protect, 1 page", no_protection, 1, CALLS, 1, fill, guard},                       \
    {"write-protect, 16 pages", no_protection, 16, CALLS, 16, fill, guard},                   \
    {"lift protection, 1 page", no_protection, 1, CALLS, 1, fill_protected, lift},            \
    {"lift protection, 16 pages", no_protection, 16, CALLS, 16, fill_protected, lift},        \
    {"drop by madvise, 1 page", NULL, 1, CALLS, 1, fill, drop},                               \
    {"drop by madvise, 16 pages", NULL, 16, CALLS, 16, fill, drop},                           \
    {"drop by process_madvise, 64 scattered", no_self_advice, CALLS, GROUP, GROUP, fill,      \
     drop_scattered}

static const struct cost alone[] = {
    {"system call (getppid)", NULL, 0, CALLS, 0, nothing, ask_parent},
    {"memcpy of a cold page", NULL, 1, CALLS, 0, chill, copy_cold},
    {"missing page: signal alone, load", no_uffd, 1, CALLS, 0, empty_pass, load},
    {"missing page: signal alone, store", no_uffd, 1, CALLS, 0, empty_pass, store},
    {"missing page: filled, load", no_uffd, 1, CALLS, 0, empty_clean, load},
    {"missing page: filled, store", no_uffd, 1, CALLS, 0, empty_dirty, store},
    {"protected page: lifted, store", no_protection, 1, CALLS, 1, fill_protected, store},
    {"UFFDIO_COPY, 1 page", no_uffd, 1, CALLS, 0, empty, copy},
    {"UFFDIO_COPY, 16 pages", no_uffd, 16, CALLS, 0, empty, copy},
    {"UFFDIO_ZEROPAGE, 1 page", no_uffd, 1, CALLS, 0, empty, zero},
    SHARED,
};
/* The first disturbs nobody: what the other loses by it is the error of the rest. */
static const struct cost beside_another[] = {
    {"system call (getppid)", NULL, 0, CALLS * 16, 0, nothing, ask_parent},
    SHARED,
};
static const struct cost turns[] = {
    {"futex there and back, one CPU", NULL, 0, 16, 0, nothing, there_and_back},
    {"futex there and back, two CPUs", no_second_cpu, 0, 8, 0, nothing, there_and_back},
};

static void measure_beside_another(void) {
    pthread_t other;
    int runs = !*no_second_cpu;
    CHECK(!runs || (errno = pthread_create(&other, NULL, count, NULL)) == 0);
    while (runs && counted == 0)
        sched_yield();
    for (size_t i = 0; i < sizeof beside_another / sizeof *beside_another; i++)
        measure(&beside_another[i], 1);
    atomic_store(&enough, 1);
    CHECK(!runs || (errno = pthread_join(other, NULL)) == 0);
}

static void measure_turns(int which) {
    pthread_t other;
    int runs = cpus[which] >= 0;
    atomic_store(&turn, PING);
    CHECK(!runs || (errno = pthread_create(&other, NULL, answer_turns, &cpus[which])) == 0);
    measure(&turns[which], 0);
    pass(OVER);
    CHECK(!runs || (errno = pthread_join(other, NULL)) == 0);
}

int main(void) {
    set_up();
    printf("{\"cpus\": [%d", cpus[0]);
    if (cpus[1] >= 0)
        printf(", %d", cpus[1]);
    printf("], \"one_core\": %s, \"costs\": [", one_core ? "true" : "false");
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++)
        measure(&alone[i], 0);
    measure_beside_another();
    measure_turns(0);
    measure_turns(1);
    printf("\n]}\n");
    return 0;
}
