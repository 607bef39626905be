/* System calls from sites that are rewritten while they are used: results,
 * registers, flags, vector registers, the red zone, signals, threads. */
#include "common.h"
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, OFTEN = 100, THREADS = 6 };

extern char __executable_start, etext;

/* 128 sites, a byte further each within two cache lines; site n is at
 * sites + 256 n + n. */
asm(".text\n.p2align 12\nsites:\n"
    ".set n, 0\n.rept 128\n"
    ".fill n, 1, 0x90\nmov $39, %eax\nsyscall\nret\n.skip 256 - 8 - n, 0x90\n"
    ".set n, n + 1\n.endr\n");
extern char sites[];

/* The same at the end of a page: bytes -4 to 2 of the next one. */
asm(".text\n.p2align 12\nmargin:\n.skip 4092, 0x90\n"
    "across:\nmov $39, %eax\nsyscall\nret\n.p2align 4\n");
extern long across(void);

/* Branches that go to the `syscall` itself. */
asm(".text\n.p2align 4\nmiddle:\ntest %edi, %edi\nmov %edi, %eax\njnz 1f\n"
    "mov $39, %eax\n1: syscall\nret\n");
extern long middle(int number);

/* What a thread's registers are to hold across a call. */
struct state {
    unsigned long r[12]; /* rbx rbp r12 r13 r14 r15 rdi rsi rdx r10 r8 r9 */
    unsigned long result, flags;
    unsigned char red_zone[128];
    unsigned char xmm[16][16];
    unsigned mxcsr;
};

/* state_N(in, out): loads everything from `in`, calls N, stores to `out`. */
#define STATE(name, number)                                                   \
    asm(".text\n.p2align 4\n" name ":\n"                                      \
        "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"  \
        "push %rsi\n"                                                         \
        "mov %rdi, %rax\n"                                                    \
        "mov $0, %ecx\n"                                                      \
        "1: mov 112(%rax,%rcx), %rdx\nmov %rdx, -128(%rsp,%rcx)\n"            \
        "add $8, %rcx\ncmp $120, %rcx\njne 1b\n"                              \
        "ldmxcsr 496(%rax)\n"                                                 \
        "movups 240(%rax), %xmm0\nmovups 256(%rax), %xmm1\n"                  \
        "movups 272(%rax), %xmm2\nmovups 288(%rax), %xmm3\n"                  \
        "movups 304(%rax), %xmm4\nmovups 320(%rax), %xmm5\n"                  \
        "movups 336(%rax), %xmm6\nmovups 352(%rax), %xmm7\n"                  \
        "movups 368(%rax), %xmm8\nmovups 384(%rax), %xmm9\n"                  \
        "movups 400(%rax), %xmm10\nmovups 416(%rax), %xmm11\n"                \
        "movups 432(%rax), %xmm12\nmovups 448(%rax), %xmm13\n"                \
        "movups 464(%rax), %xmm14\nmovups 480(%rax), %xmm15\n"                \
        "mov (%rax), %rbx\nmov 8(%rax), %rbp\nmov 16(%rax), %r12\n"           \
        "mov 24(%rax), %r13\nmov 32(%rax), %r14\nmov 40(%rax), %r15\n"        \
        "mov 48(%rax), %rdi\nmov 56(%rax), %rsi\nmov 64(%rax), %rdx\n"        \
        "mov 72(%rax), %r10\nmov 80(%rax), %r8\nmov 88(%rax), %r9\n"          \
        "pushq 104(%rax)\npopfq\n"                                            \
        "mov -136(%rsp), %rcx\n"                                              \
        "mov $" #number ", %eax\nsyscall\n"                                   \
        "mov (%rsp), %rcx\n" /* out; flags are as they were */                \
        "mov %rbx, (%rcx)\nmov %rbp, 8(%rcx)\nmov %r12, 16(%rcx)\n"           \
        "mov %r13, 24(%rcx)\nmov %r14, 32(%rcx)\nmov %r15, 40(%rcx)\n"        \
        "mov %rdi, 48(%rcx)\nmov %rsi, 56(%rcx)\nmov %rdx, 64(%rcx)\n"        \
        "mov %r10, 72(%rcx)\nmov %r8, 80(%rcx)\nmov %r9, 88(%rcx)\n"          \
        "mov %rax, 96(%rcx)\n"                                                \
        "mov $0, %edx\n"                                                      \
        "1: mov -128(%rsp,%rdx), %rax\nmov %rax, 112(%rcx,%rdx)\n"            \
        "lea 8(%rdx), %rdx\nlea -120(%rdx), %r8\nxchg %r8, %rcx\n"            \
        "jrcxz 2f\nxchg %r8, %rcx\njmp 1b\n2: xchg %r8, %rcx\n"               \
        "pushfq\npopq 104(%rcx)\ncld\n"                                       \
        "stmxcsr 496(%rcx)\n"                                                 \
        "movups %xmm0, 240(%rcx)\nmovups %xmm1, 256(%rcx)\n"                  \
        "movups %xmm2, 272(%rcx)\nmovups %xmm3, 288(%rcx)\n"                  \
        "movups %xmm4, 304(%rcx)\nmovups %xmm5, 320(%rcx)\n"                  \
        "movups %xmm6, 336(%rcx)\nmovups %xmm7, 352(%rcx)\n"                  \
        "movups %xmm8, 368(%rcx)\nmovups %xmm9, 384(%rcx)\n"                  \
        "movups %xmm10, 400(%rcx)\nmovups %xmm11, 416(%rcx)\n"                \
        "movups %xmm12, 432(%rcx)\nmovups %xmm13, 448(%rcx)\n"                \
        "movups %xmm14, 464(%rcx)\nmovups %xmm15, 480(%rcx)\n"                \
        "movl $0x1f80, -8(%rsp)\nldmxcsr -8(%rsp)\n"                          \
        "pop %rsi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\n" \
        "ret\n")
STATE("state_getpid", 39);
STATE("state_lseek", 8);
STATE("state_pread", 17);
extern void state_getpid(const struct state *, struct state *);
extern void state_lseek(const struct state *, struct state *);
extern void state_pread(const struct state *, struct state *);

static int file;
static char *pages;

static void alignments(void) {
    long pid = syscall(SYS_getpid);
    for (int round = 0; round < OFTEN; round++) {
        for (int n = 0; n < 128; n++)
            CHECK(((long (*)(void))(sites + 256 * n + n))() == pid);
        CHECK(across() == pid);
    }
    printf("alignments\n");
}

static void into_the_middle(void) {
    long pid = syscall(SYS_getpid), uid = syscall(SYS_getuid);
    for (int round = 0; round < OFTEN; round++) {
        CHECK(middle(0) == pid);
        CHECK(middle(SYS_getuid) == uid);
        CHECK(middle(10000) == -ENOSYS);
    }
    printf("middle\n");
}

static struct state filled(unsigned seed) {
    struct state s;
    unsigned char *bytes = (unsigned char *)&s;
    for (size_t n = 0; n < sizeof s; n++)
        bytes[n] = (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
    return s;
}

static void compare(const struct state *a, const struct state *b) {
    CHECK(memcmp(a->r, b->r, sizeof a->r) == 0);
    /* Carry, parity, adjust, zero, sign, direction, overflow. */
    CHECK((a->flags & 0xcd5) == (b->flags & 0xcd5));
    CHECK(memcmp(a->red_zone, b->red_zone, 120) == 0);
    CHECK(memcmp(a->xmm, b->xmm, sizeof a->xmm) == 0);
    CHECK((a->mxcsr & 0xffc0) == (b->mxcsr & 0xffc0));
}

static void keep(unsigned n) {
    static const unsigned flags[] = {0x202, 0x203, 0x246, 0x286, 0xa02, 0x606, 0xed7};
    static const unsigned rounding[] = {0x1f80, 0x3f80, 0x5f80, 0x7f80, 0xffc0};
    struct state in = filled(n), out;
    in.flags = flags[n % 7];
    in.mxcsr = rounding[n % 5];
    memset(&out, 0, sizeof out);
    state_getpid(&in, &out);
    compare(&in, &out);
    CHECK((long)out.result == syscall(SYS_getpid));
    unsigned long at = n % 1000;
    in.r[6] = (unsigned long)file, in.r[7] = at, in.r[8] = SEEK_SET;
    state_lseek(&in, &out);
    compare(&in, &out);
    CHECK(out.result == at);
    /* Answered, but for the first; then one that never is. */
    char bytes[PAGE];
    in.r[7] = (unsigned long)bytes, in.r[8] = PAGE, in.r[9] = n % PAGES * PAGE;
    state_pread(&in, &out);
    compare(&in, &out);
    CHECK(out.result == PAGE && memcmp(bytes, pages + n % PAGES * PAGE, PAGE) == 0);
    in.r[6] = 1000;
    state_pread(&in, &out);
    compare(&in, &out);
    CHECK((long)out.result == -EBADF);
}

static void registers(void) {
    for (unsigned n = 0; n < 3 * OFTEN; n++)
        keep(n);
    printf("registers\n");
}

__attribute__((target("avx"), noinline)) static void keep_wide(void) {
    unsigned char in[32], out[32];
    for (int n = 0; n < 32; n++)
        in[n] = (unsigned char)(n * 7 + 1);
    for (int n = 0; n < OFTEN; n++) {
        long result = SYS_lseek;
        asm volatile("vmovdqu %[in], %%ymm3\nvmovdqu %[in], %%ymm15\n"
                     "mov $8, %%eax\nsyscall\n"
                     "vmovdqu %%ymm3, %[out]\nvptest %%ymm15, %%ymm15\nvzeroupper\n"
                     : "=a"(result), [out] "=m"(out)
                     : [in] "m"(in), "D"((long)file), "S"(5l), "d"((long)SEEK_SET)
                     : "rcx", "r11", "xmm3", "xmm15", "memory", "cc");
        CHECK(result == 5 && memcmp(in, out, 32) == 0);
    }
}

__attribute__((target("avx512f"), noinline)) static void keep_widest(void) {
    unsigned char in[64], out[64];
    for (int n = 0; n < 64; n++)
        in[n] = (unsigned char)(n * 5 + 3);
    for (int n = 0; n < OFTEN; n++) {
        long result;
        unsigned mask;
        asm volatile("vmovdqu64 %[in], %%zmm29\nmov $0xbeef, %%eax\nkmovw %%eax, %%k5\n"
                     "mov $8, %%eax\nsyscall\n"
                     "vmovdqu64 %%zmm29, %[out]\nkmovw %%k5, %[mask]\nvzeroupper\n"
                     : "=&a"(result), [out] "=m"(out), [mask] "=r"(mask)
                     : [in] "m"(in), "D"((long)file), "S"(6l), "d"((long)SEEK_SET)
                     : "rcx", "r11", "xmm29", "k5", "memory");
        CHECK(result == 6 && memcmp(in, out, 64) == 0 && mask == 0xbeef);
    }
}

static void vectors(void) {
    if (__builtin_cpu_supports("avx"))
        keep_wide();
    if (__builtin_cpu_supports("avx512f"))
        keep_widest();
    printf("vectors\n");
}

static volatile unsigned ticks, astray;
static sigjmp_buf away;
static volatile sig_atomic_t leap;

/* Wherever it came, the program is at an instruction of its own, on its own
 * stack; calls from here leave the interrupted one alone. */
static void tick(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    ucontext_t *c = context;
    unsigned long rip = (unsigned long)c->uc_mcontext.gregs[REG_RIP];
    unsigned long rsp = (unsigned long)c->uc_mcontext.gregs[REG_RSP];
    unsigned long here = (unsigned long)__builtin_frame_address(0);
    if (rip < (unsigned long)&__executable_start || rip >= (unsigned long)&etext)
        astray++;
    if (rsp < here || rsp > here + (1 << 20))
        astray++;
    ticks++;
    if (getpid() != syscall(SYS_getpid) || lseek(1000, 0, SEEK_SET) != -1)
        astray++;
    if (leap)
        siglongjmp(away, 1);
}

static void every(long microseconds) {
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void under_signals(void) {
    struct sigaction action = {.sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    size_t room = 32 << 20;
    char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    every(300);
    long pid = syscall(SYS_getpid);
    unsigned n = 0;
    while (ticks < 1500) {
        keep(n++);
        for (int k = 0; k < 200; k++) {
            CHECK(getpid() == pid);
            CHECK(lseek(file, k, SEEK_SET) == k);
        }
        /* Misses, stores and loads, in between. */
        size_t at = (size_t)n * 7919 % (room / PAGE) * PAGE;
        memory[at] = (char)(n | 1);
        CHECK(memory[at] == (char)(n | 1));
    }
    CHECK(astray == 0);
    /* Handlers that never return. */
    if (sigsetjmp(away, 1) == 0)
        leap = 1;
    for (volatile int k = 0; k < 200; k++)
        if (sigsetjmp(away, 1) == 0)
            for (;;)
                CHECK(getpid() == pid && lseek(file, 3, SEEK_SET) == 3);
    every(0);
    leap = 0;
    CHECK(astray == 0);
    sigset_t now;
    CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && !sigismember(&now, SIGALRM));
    printf("signals\n");
}

/* A site of its own that all threads begin to use at once. */
asm(".text\n.p2align 4\n.skip 3, 0x90\nshared_lseek:\nmov $8, %eax\nsyscall\nret\n");
extern long shared_lseek(long fd, long offset, long whence);

static void *hammer(void *name) {
    int own = open(name, O_RDONLY);
    CHECK(own >= 0);
    for (long k = 0; k < 20000; k++)
        CHECK(shared_lseek(own, k, SEEK_SET) == k);
    CHECK(close(own) == 0);
    return NULL;
}

static void from_threads(char *name) {
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++)
        CHECK(pthread_create(&threads[n], NULL, hammer, name) == 0);
    for (int n = 0; n < THREADS; n++)
        CHECK(pthread_join(threads[n], NULL) == 0);
    printf("threads\n");
}

/* What is written is read, whatever reads before that have left behind. */
static void reads(char *name) {
    int own = open(name, O_RDWR);
    CHECK(own >= 0);
    char bytes[PAGE], other[PAGE], *volatile nowhere = NULL;
    for (unsigned n = 0; n < 4 * OFTEN; n++) {
        off_t at = (off_t)(n * 37 % PAGES) * PAGE;
        CHECK(pread(own, bytes, PAGE, at) == PAGE);
        CHECK(memcmp(bytes, pages + at, PAGE) == 0);
        if (n % 10 == 9) {
            memset(bytes, (int)n, PAGE);
            memcpy(pages + at, bytes, PAGE);
            CHECK(pwrite(own, bytes, PAGE, at) == PAGE);
            CHECK(pread(own, other, PAGE, at) == PAGE && memcmp(other, bytes, PAGE) == 0);
        }
    }
    CHECK(pread(own, bytes, PAGE, (PAGES - 1) * PAGE + 100) == PAGE - 100);
    CHECK(pread(own, bytes, PAGE, PAGES * PAGE) == 0);
    CHECK(pread(own, nowhere, PAGE, 0) == -1 && errno == EFAULT);
    CHECK(pread(own, bytes, PAGE, -1) == -1 && errno == EINVAL);
    /* Cut, and grown again. */
    CHECK(ftruncate(own, PAGE + 10) == 0);
    CHECK(pread(own, bytes, PAGE, PAGE) == 10 && pread(own, bytes, PAGE, 5 * PAGE) == 0);
    CHECK(ftruncate(own, PAGES * PAGE) == 0);
    CHECK(pread(own, bytes, PAGE, 5 * PAGE) == PAGE && bytes[0] == 0 && bytes[PAGE - 1] == 0);
    CHECK(pwrite(own, "x", 1, 5 * PAGE) == 1 && pread(own, bytes, 2, 5 * PAGE) == 2);
    CHECK(bytes[0] == 'x' && bytes[1] == 0);
    CHECK(pwrite(own, pages, PAGES * PAGE, 0) == PAGES * PAGE);
    CHECK(close(own) == 0);
    printf("reads\n");
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    pages = malloc(PAGES * PAGE);
    CHECK(pages);
    for (int n = 0; n < PAGES * PAGE; n++)
        pages[n] = (char)(n * 31 + n / 4096);
    file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(file >= 0 && write(file, pages, PAGES * PAGE) == PAGES * PAGE);
    alignments();
    into_the_middle();
    registers();
    vectors();
    from_threads(argv[1]);
    reads(argv[1]);
    under_signals();
    return 0;
}
