/* Misses all the while, with everything that a thread owns held across them:
 * misses [PAGES] [SIGNALS]. General registers, flags, the red zone, vector
 * registers, the x87 and MXCSR; then under timers whose handlers miss as well,
 * on stacks of their own, by leaps out of handlers, with changing masks, and
 * with signals (SIGBUS and SIGSEGV among them) from thread to thread. */
#include "common.h"
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, THREADS = 4, ALTSTACK = 256 << 10 };

extern char __executable_start, etext;

static unsigned char *memory;
static size_t pages;
static long wanted;

/* A thread's registers; the code below knows the offsets. */
struct state {
    uint64_t r[13]; /* rbx rbp r12 r13 r14 r15 rdi rsi rdx r8 r9 r10 r11 */
    uint64_t flags; /* 104 */
    unsigned char red_zone[112]; /* 112 */
    unsigned char xmm[16][16];   /* 224 */
    uint32_t mxcsr;              /* 480 */
    uint16_t control, padding;   /* 484 */
    long double x87;             /* 496 */
};

/* cross_N(in, out, at): loads everything from `in`, with `at` in rax does one
 * access to it, stores everything to `out`. rcx is the memory's side of it. */
#define CROSS(name, access)                                                   \
    asm(".text\n.p2align 4\n" name ":\n"                                      \
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"  \
        "push %rsi\n"                                                         \
        "fldt 496(%rdi)\nfldcw 484(%rdi)\nldmxcsr 480(%rdi)\n"                \
        "mov %rdx, %rax\nmov $0, %ecx\n"                                      \
        "1: mov 112(%rdi,%rcx), %rdx\nmov %rdx, -128(%rsp,%rcx)\n"            \
        "add $8, %rcx\ncmp $112, %rcx\njne 1b\n"                              \
        "movups 224(%rdi), %xmm0\nmovups 240(%rdi), %xmm1\n"                  \
        "movups 256(%rdi), %xmm2\nmovups 272(%rdi), %xmm3\n"                  \
        "movups 288(%rdi), %xmm4\nmovups 304(%rdi), %xmm5\n"                  \
        "movups 320(%rdi), %xmm6\nmovups 336(%rdi), %xmm7\n"                  \
        "movups 352(%rdi), %xmm8\nmovups 368(%rdi), %xmm9\n"                  \
        "movups 384(%rdi), %xmm10\nmovups 400(%rdi), %xmm11\n"                \
        "movups 416(%rdi), %xmm12\nmovups 432(%rdi), %xmm13\n"                \
        "movups 448(%rdi), %xmm14\nmovups 464(%rdi), %xmm15\n"                \
        "mov (%rdi), %rbx\nmov 8(%rdi), %rbp\nmov 16(%rdi), %r12\n"           \
        "mov 24(%rdi), %r13\nmov 32(%rdi), %r14\nmov 40(%rdi), %r15\n"        \
        "mov 56(%rdi), %rsi\nmov 64(%rdi), %rdx\nmov 72(%rdi), %r8\n"         \
        "mov 80(%rdi), %r9\nmov 88(%rdi), %r10\nmov 96(%rdi), %r11\n"         \
        "pushq 104(%rdi)\nmov 48(%rdi), %rdi\npopfq\n" access "\n"                                     \
        "mov (%rsp), %rcx\n"                                                  \
        "mov %rbx, (%rcx)\nmov %rbp, 8(%rcx)\nmov %r12, 16(%rcx)\n"           \
        "mov %r13, 24(%rcx)\nmov %r14, 32(%rcx)\nmov %r15, 40(%rcx)\n"        \
        "mov %rdi, 48(%rcx)\nmov %rsi, 56(%rcx)\nmov %rdx, 64(%rcx)\n"        \
        "mov %r8, 72(%rcx)\nmov %r9, 80(%rcx)\nmov %r10, 88(%rcx)\n"          \
        "mov %r11, 96(%rcx)\n"                                                \
        "lea -128(%rsp), %rsi\nlea 112(%rcx), %rdi\nmov %rcx, %rdx\n"         \
        "lea -136(%rsp), %rsp\npushfq\npopq 104(%rdx)\ncld\n"                 \
        "lea 136(%rsp), %rsp\nmov $14, %ecx\nrep movsq\n"                     \
        "movups %xmm0, 224(%rdx)\nmovups %xmm1, 240(%rdx)\n"                  \
        "movups %xmm2, 256(%rdx)\nmovups %xmm3, 272(%rdx)\n"                  \
        "movups %xmm4, 288(%rdx)\nmovups %xmm5, 304(%rdx)\n"                  \
        "movups %xmm6, 320(%rdx)\nmovups %xmm7, 336(%rdx)\n"                  \
        "movups %xmm8, 352(%rdx)\nmovups %xmm9, 368(%rdx)\n"                  \
        "movups %xmm10, 384(%rdx)\nmovups %xmm11, 400(%rdx)\n"                \
        "movups %xmm12, 416(%rdx)\nmovups %xmm13, 432(%rdx)\n"                \
        "movups %xmm14, 448(%rdx)\nmovups %xmm15, 464(%rdx)\n"                \
        "stmxcsr 480(%rdx)\nfnstcw 484(%rdx)\nfstpt 496(%rdx)\nfninit\n"      \
        "movl $0x1f80, -8(%rsp)\nldmxcsr -8(%rsp)\n"                          \
        "pop %rsi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n" \
        "ret\n")
CROSS("cross_load", "movzbl (%rax), %ecx");
CROSS("cross_store", "movb $90, 1(%rax)");
extern void cross_load(const struct state *, struct state *, void *);
extern void cross_store(const struct state *, struct state *, void *);

/* Some page, not soon again. */
static unsigned char *page_of(uint64_t n) { return memory + n * 7919 % pages * PAGE; }

static struct state filled(uint64_t seed) {
    static const unsigned flags[] = {0x202, 0x203, 0x246, 0x286, 0xa02, 0x606, 0xed7};
    static const unsigned rounding[] = {0x1f80, 0x3f80, 0x5f80, 0x7f80, 0xffc0};
    static const unsigned short control[] = {0x37f, 0x77f, 0xb7f, 0xf7f, 0x27f};
    struct state s;
    uint64_t n = seed, words[sizeof s / 8];
    for (size_t w = 0; w < sizeof s / 8; w++)
        words[w] = next_random(&seed);
    memcpy(&s, words, sizeof s);
    s.flags = flags[n % 7];
    s.mxcsr = rounding[n % 5];
    s.control = control[n / 3 % 5];
    s.x87 = (long double)n * 1.25L + 0.0625L;
    return s;
}

/* One access to a page, of whatever kind of miss it is, or none. */
static void cross(uint64_t n) {
    struct state in = filled(n), out;
    memset(&out, 0, sizeof out);
    unsigned char *at = page_of(n);
    (n % 3 ? cross_load : cross_store)(&in, &out, at);
    CHECK(memcmp(in.r, out.r, sizeof in.r) == 0);
    /* Carry, parity, adjust, zero, sign, direction, overflow. */
    CHECK((in.flags & 0xcd5) == (out.flags & 0xcd5));
    CHECK(memcmp(in.red_zone, out.red_zone, sizeof in.red_zone) == 0);
    CHECK(memcmp(in.xmm, out.xmm, sizeof in.xmm) == 0);
    CHECK((in.mxcsr & 0xffc0) == (out.mxcsr & 0xffc0));
    CHECK(in.control == out.control && in.x87 == out.x87);
    CHECK(n % 3 || at[1] == 90);
}

__attribute__((target("avx"), noinline)) static void cross_wide(uint64_t n) {
    unsigned char in[32], out[32];
    memset(in, (int)(n | 1), 32);
    asm volatile("vmovdqu %[in], %%ymm3\nvmovdqu %[in], %%ymm15\nmovb (%[at]), %%al\n"
                 "vmovdqu %%ymm3, %[out]\nvpxor %%xmm0, %%xmm0, %%xmm0\n"
                 "vxorps %[out], %%ymm15, %%ymm15\nvptest %%ymm15, %%ymm15\njz 1f\nud2\n1:\n"
                 "vzeroupper\n"
                 : [out] "=m"(out)
                 : [in] "m"(in), [at] "r"(page_of(n))
                 : "rax", "xmm0", "xmm3", "xmm15", "memory", "cc");
    CHECK(memcmp(in, out, 32) == 0);
}

__attribute__((target("avx512f"), noinline)) static void cross_widest(uint64_t n) {
    unsigned char in[64], out[64];
    memset(in, (int)(n | 1), 64);
    unsigned mask;
    asm volatile("vmovdqu64 %[in], %%zmm29\nmov $0xbeef, %%eax\nkmovw %%eax, %%k5\n"
                 "movb (%[at]), %%al\n"
                 "vmovdqu64 %%zmm29, %[out]\nkmovw %%k5, %[mask]\nvzeroupper\n"
                 : [out] "=m"(out), [mask] "=r"(mask)
                 : [in] "m"(in), [at] "r"(page_of(n))
                 : "rax", "xmm29", "k5", "memory");
    CHECK(memcmp(in, out, 64) == 0 && mask == 0xbeef);
}

static void all_of_it(uint64_t n) {
    cross(n);
    if (__builtin_cpu_supports("avx"))
        cross_wide(n + 1);
    if (__builtin_cpu_supports("avx512f"))
        cross_widest(n + 2);
}

static atomic_ulong ticks, astray;
static atomic_bool armed;
static volatile sig_atomic_t leap;
static sigjmp_buf away;
static __thread unsigned char *own_stack, *base;
static __thread volatile sig_atomic_t may_come = 1;

/* SIGALRM once, soon. By a timer that repeats itself, a machine that takes
 * longer for a handler than for the timer would do nothing but handle: the next
 * signal waits when the handler ends, and one that leaves it by siglongjmp has
 * the next on top of itself, until the stack is full. */
static void arm(long microseconds) {
    if (atomic_exchange(&armed, true))
        return;
    struct itimerval once = {{0, 0}, {0, microseconds}};
    CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

/* The program's own part, with a signal to come somewhere in it or after. */
static void all_of_it_timed(uint64_t n) {
    arm(100 + (long)(n % 128));
    all_of_it(n);
}

/* Wherever it came, the program was at an instruction of its own and on its own
 * stack; misses from here, and what they leave in registers, change nothing. */
static void tick(int signal, siginfo_t *info, void *context) {
    (void)info;
    ucontext_t *c = context;
    unsigned long rip = (unsigned long)c->uc_mcontext.gregs[REG_RIP];
    unsigned char here, *rsp = (void *)c->uc_mcontext.gregs[REG_RSP];
    unsigned long n = atomic_fetch_add(&ticks, 1);
    if (signal == SIGALRM) {
        armed = false;
        if (n % 8 == 0 && !leap)
            arm(1); /* one that waits when this handler ends */
    }
    if (rip < (unsigned long)&__executable_start || rip >= (unsigned long)&etext)
        astray++;
    if (own_stack && (&here < own_stack || &here >= own_stack + ALTSTACK))
        astray++;
    bool nested = own_stack && rsp >= own_stack && rsp < own_stack + ALTSTACK;
    if (base && !nested && (rsp > base || rsp < base - (1 << 20)))
        astray++;
    if (!may_come && signal != SIGBUS && signal != SIGSEGV)
        astray++;
    all_of_it(n * 31 + 7);
    if (leap)
        siglongjmp(away, 1);
}

static void handle(int signal, int flags) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART | flags};
    CHECK(sigfillset(&action.sa_mask) == 0);
    CHECK(sigaction(signal, &action, NULL) == 0);
}

static void take_stack(void) {
    stack_t stack = {.ss_sp = malloc(ALTSTACK), .ss_size = ALTSTACK};
    CHECK(stack.ss_sp && sigaltstack(&stack, NULL) == 0);
    own_stack = stack.ss_sp; /* from here on signals must come there */
}

static void quietly(void) {
    for (uint64_t n = 0; n < 3 * pages; n++)
        all_of_it(n);
    printf("registers\n");
}

static void under_timers(void) {
    uint64_t n = 0;
    for (unsigned long upto = ticks + (unsigned long)wanted; ticks < upto;)
        all_of_it_timed(n++);
    handle(SIGALRM, SA_ONSTACK);
    take_stack();
    for (unsigned long upto = ticks + (unsigned long)wanted; ticks < upto;)
        all_of_it_timed(n++);
    CHECK(astray == 0);
    printf("timers\n");
}

static void with_masks(void) {
    sigset_t alarm, now;
    CHECK(sigemptyset(&alarm) == 0 && sigaddset(&alarm, SIGALRM) == 0);
    uint64_t n = 0;
    for (unsigned long upto = ticks + (unsigned long)wanted; ticks < upto;) {
        CHECK(sigprocmask(SIG_BLOCK, &alarm, NULL) == 0);
        may_come = 0;
        for (int k = 0; k < 5; k++)
            all_of_it_timed(n++);
        CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && sigismember(&now, SIGALRM));
        may_come = 1;
        CHECK(sigprocmask(SIG_UNBLOCK, &alarm, NULL) == 0);
        all_of_it_timed(n++);
        CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && !sigismember(&now, SIGALRM));
    }
    CHECK(astray == 0);
    printf("masks\n");
}

static void with_leaps(void) {
    static volatile uint64_t n;
    static volatile long left;
    left = wanted;
    if (sigsetjmp(away, 1) != 0)
        left--;
    leap = left > 0;
    while (left > 0)
        all_of_it_timed(n++);
    sigset_t now;
    CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && !sigismember(&now, SIGALRM));
    CHECK(astray == 0);
    printf("leaps\n");
}

static pthread_t threads[THREADS];
static pthread_barrier_t barrier;
static atomic_int running;

/* Each thread misses, and sends signals to the others, SIGBUS and SIGSEGV also. */
static void *storm(void *argument) {
    const int signals[] = {SIGUSR1, SIGBUS, SIGUSR2, SIGSEGV, SIGRTMIN};
    long id = (long)(intptr_t)argument;
    base = (unsigned char *)__builtin_frame_address(0) + 64;
    take_stack();
    threads[id] = pthread_self();
    pthread_barrier_wait(&barrier);
    for (uint64_t n = 0; n < (uint64_t)wanted * 3; n++) {
        all_of_it_timed(n * 17 + (uint64_t)id);
        int signal = signals[n % 5];
        CHECK((errno = pthread_kill(threads[(id + 1 + (long)(n % 3)) % THREADS], signal)) == 0);
    }
    running--;
    while (running > 0)
        all_of_it((uint64_t)id);
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void between_threads(void) {
    static const int signals[] = {SIGUSR1, SIGUSR2, SIGBUS, SIGSEGV};
    for (int k = 0; k < 4; k++)
        handle(signals[k], SA_ONSTACK);
    handle(SIGRTMIN, SA_ONSTACK);
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    running = THREADS;
    pthread_t ids[THREADS];
    for (long k = 0; k < THREADS; k++)
        CHECK(pthread_create(&ids[k], NULL, storm, (void *)(intptr_t)k) == 0);
    for (int k = 0; k < THREADS; k++)
        CHECK(pthread_join(ids[k], NULL) == 0);
    CHECK(astray == 0);
    printf("threads\n");
}

static sigjmp_buf past;
static volatile long faults;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info, (void)context;
    faults++;
    siglongjmp(past, 1);
}

/* Faults of the program's own, while a timer and misses go on. */
static void with_faults(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigfillset(&action.sa_mask) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
    char *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(none != MAP_FAILED);
    CHECK(munmap(none, PAGE) == 0);
    handle(SIGALRM, SA_ONSTACK);
    for (volatile long k = 0; k < wanted * 3; k++) {
        all_of_it_timed((uint64_t)k);
        if (sigsetjmp(past, 1) == 0) {
            *(volatile char *)none = 1;
            CHECK(!"a store to nowhere");
        }
    }
    CHECK(faults == wanted * 3 && astray == 0);
    printf("faults\n");
}

int main(int argc, char **argv) {
    base = (unsigned char *)__builtin_frame_address(0) + 64;
    pages = (size_t)number(argc, argv, 1, 600);
    wanted = number(argc, argv, 2, 300);
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED && pages > 0);
    quietly();
    handle(SIGALRM, 0);
    under_timers();
    with_masks();
    with_leaps();
    with_faults();
    between_threads();
    return 0;
}
