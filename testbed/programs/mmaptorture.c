/* Random mmap, munmap, mprotect, mremap, madvise and brk against a model that
 * knows every page: mmaptorture [SEED] [STEPS] [PAGES] [THREADS]. Each thread
 * has an arena and a model of its own; all change one address space. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_PAGES = 4096, HEAP_PAGES = 64, MAX_THREADS = 16 };
enum state { FREE, NONE, READ, WRITE };

struct model {
    enum state state;
    uint64_t content; /* first and last word; 0: never written */
};

static size_t pages;
static long steps;
static __thread char *arena;
static __thread struct model model[MAX_PAGES];
static __thread uint64_t seed, written = 1;
static __thread sigjmp_buf recovery;
static __thread int may_break; /* there is but one heap */

static void fault(int signal) {
    (void)signal;
    siglongjmp(recovery, 1);
}

static uint64_t *word(size_t page, size_t index) {
    return (uint64_t *)(arena + page * PAGE) + index;
}

static int faults_on_read(volatile uint64_t *at) {
    if (sigsetjmp(recovery, 1))
        return 1;
    (void)*at;
    return 0;
}

static int faults_on_write(volatile uint64_t *at, uint64_t value) {
    if (sigsetjmp(recovery, 1))
        return 1;
    *at = value;
    return 0;
}

static void verify(size_t page) {
    const struct model *m = &model[page];
    int readable = m->state == READ || m->state == WRITE;
    CHECK(faults_on_read(word(page, 0)) == !readable);
    if (!readable)
        return;
    CHECK(*word(page, 0) == m->content && *word(page, PAGE / 8 - 1) == m->content);
    CHECK(*word(page, 100) == 0);
}

static void put(size_t page) {
    struct model *m = &model[page];
    uint64_t value = ++written;
    CHECK(faults_on_write(word(page, 0), value) == (m->state != WRITE));
    if (m->state != WRITE)
        return;
    *word(page, PAGE / 8 - 1) = value;
    m->content = value;
}

static int prot_of(enum state state) {
    return state == WRITE ? PROT_READ | PROT_WRITE : state == READ ? PROT_READ : PROT_NONE;
}

struct span {
    size_t at, length;
};

static struct span random_span(void) {
    struct span s = {next_random(&seed) % pages, 0};
    size_t longest = pages - s.at < 40 ? pages - s.at : 40;
    s.length = 1 + next_random(&seed) % longest;
    return s;
}

static int all_mapped(struct span s) {
    for (size_t i = 0; i < s.length; i++)
        if (model[s.at + i].state == FREE)
            return 0;
    return 1;
}

static int all_free(struct span s) {
    for (size_t i = 0; i < s.length; i++)
        if (model[s.at + i].state != FREE)
            return 0;
    return 1;
}

static char *start(struct span s) {
    return arena + s.at * PAGE;
}

static void set(struct span s, enum state state, int wipe) {
    for (size_t i = 0; i < s.length; i++) {
        model[s.at + i].state = state;
        if (wipe)
            model[s.at + i].content = 0;
    }
}

static void do_map(struct span s, enum state state) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (next_random(&seed) % 2)
        flags |= MAP_NORESERVE;
    CHECK(mmap(start(s), s.length * PAGE, prot_of(state), flags, -1, 0) == start(s));
    set(s, state, 1);
}

static void do_map_no_replace(struct span s) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    int room = all_free(s);
    void *at = mmap(start(s), s.length * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(room ? at == start(s) : at == MAP_FAILED && errno == EEXIST);
    if (room)
        set(s, WRITE, 1);
}

static void do_unmap(struct span s) {
    CHECK(munmap(start(s), s.length * PAGE) == 0);
    set(s, FREE, 1);
}

/* mprotect works up to the first hole, then says ENOMEM. */
static void do_protect(struct span s, enum state state) {
    int whole = all_mapped(s);
    int result = mprotect(start(s), s.length * PAGE, prot_of(state));
    CHECK(whole ? result == 0 : result == -1 && errno == ENOMEM);
    for (size_t i = 0; i < s.length && model[s.at + i].state != FREE; i++)
        model[s.at + i].state = state;
}

/* The mapped parts are emptied, holes or not. */
static void do_discard(struct span s) {
    int whole = all_mapped(s);
    int result = madvise(start(s), s.length * PAGE, MADV_DONTNEED);
    CHECK(whole ? result == 0 : result == -1 && errno == ENOMEM);
    for (size_t i = 0; i < s.length; i++)
        model[s.at + i].content = 0;
}

/* Moves a span to another place. It is mapped afresh first: Linux moves only
 * what is one mapping (before 6.17), and which neighbours are is its affair. */
static void do_move(struct span s, struct span to) {
    to.length = s.length = s.length < to.length ? s.length : to.length;
    if (s.at < to.at + to.length && to.at < s.at + s.length)
        return;
    do_map(s, WRITE);
    for (size_t i = 0; i < s.length; i += 1 + next_random(&seed) % 3)
        put(s.at + i);
    size_t size = s.length * PAGE;
    void *at = mremap(start(s), size, size, MREMAP_MAYMOVE | MREMAP_FIXED, start(to));
    CHECK(at == start(to));
    for (size_t i = 0; i < s.length; i++)
        model[to.at + i] = model[s.at + i];
    set(s, FREE, 1);
}

#ifdef __GLIBC__
static void do_break(void) {
    static char *base;
    static size_t grown;
    if (!base)
        base = sbrk(0);
    size_t wanted = next_random(&seed) % HEAP_PAGES;
    size_t before = grown;
    CHECK(brk(base + wanted * PAGE) == 0 && sbrk(0) == base + wanted * PAGE);
    for (size_t i = before; i < wanted; i++) {
        volatile uint64_t *page = (uint64_t *)(base + i * PAGE);
        if (i > before || ((uintptr_t)base & (PAGE - 1)) == 0)
            CHECK(page[PAGE / 16] == 0); /* what was given up comes back empty */
        page[PAGE / 16] = i + 1;
    }
    for (size_t i = 0; i < wanted; i++)
        CHECK(((volatile uint64_t *)(base + i * PAGE))[PAGE / 16] == i + 1);
    grown = wanted;
}
#else
static void do_break(void) {} /* musl's brk always refuses */
#endif

static void step(void) {
    struct span s = random_span();
    enum state state = READ + next_random(&seed) % 2;
    switch (next_random(&seed) % 16) {
    case 0: case 1: do_map(s, WRITE); break;
    case 2: do_map(s, state); break;
    case 3: do_map(s, NONE); break;
    case 4: do_map_no_replace(s); break;
    case 5: do_unmap(s); break;
    case 6: case 7: do_protect(s, WRITE); break;
    case 8: do_protect(s, READ); break;
    case 9: do_protect(s, NONE); break;
    case 10: do_discard(s); break;
    case 11: do_move(s, random_span()); break;
    case 12: if (may_break) do_break(); break;
    default:
        for (size_t i = 0; i < s.length; i++)
            put(s.at + i);
    }
    for (int i = 0; i < 8; i++)
        verify(next_random(&seed) % pages);
}

struct worker {
    int id;
    uint64_t seed, sum;
};

static void *work(void *argument) {
    struct worker *w = argument;
    seed = w->seed;
    may_break = w->id == 0;
    arena = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(arena != MAP_FAILED);
    set((struct span){0, pages}, NONE, 1);
    for (long i = 0; i < steps; i++)
        step();
    for (size_t i = 0; i < pages; i++) {
        verify(i);
        w->sum = (w->sum ^ (model[i].content * 4 + model[i].state)) * 0x100000001b3u;
    }
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t first_seed = (uint64_t)number(argc, argv, 1, 1);
    steps = number(argc, argv, 2, 3000);
    pages = (size_t)number(argc, argv, 3, 512);
    int threads = (int)number(argc, argv, 4, 1);
    struct worker workers[MAX_THREADS];
    CHECK(pages > 0 && pages <= MAX_PAGES && threads > 0 && threads <= MAX_THREADS);
    struct sigaction action = {.sa_handler = fault};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    for (int i = 0; i < threads; i++)
        workers[i] = (struct worker){i, first_seed + (uint64_t)i, 0};
    run_threads(threads, work, workers, sizeof *workers);
    for (int i = 0; i < threads; i++)
        printf("%ld steps, model %016llx\n", steps, (unsigned long long)workers[i].sum);
    return 0;
}
