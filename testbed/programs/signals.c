/* Signals a program sends itself, and what its handlers see: signals. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { PAGE = 4096, MANY = 2000 };

static volatile sig_atomic_t calls, order[8], last_signal;
static volatile siginfo_t last_info;
static sigjmp_buf recovery;

static void count(int signal) {
    last_signal = signal;
    calls++;
}

static void inform(int signal, siginfo_t *info, void *context) {
    (void)context;
    last_info = *info;
    count(signal);
}

static void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    CHECK(sigaction(signal, &action, NULL) == 0);
    calls = 0;
}

static void handle_info(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    CHECK(sigaction(signal, &action, NULL) == 0);
    calls = 0;
}

static sigset_t only(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    return set;
}

static void sending(void) {
    struct sigaction seen;
    handle(SIGUSR1, count, 0);
    CHECK(sigaction(SIGUSR1, NULL, &seen) == 0 && seen.sa_handler == count);
    CHECK(raise(SIGUSR1) == 0 && calls == 1);
    CHECK(kill(getpid(), SIGUSR1) == 0 && calls == 2);
    CHECK(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1) == 0 && calls == 3);
    CHECK(kill(getpid(), 0) == 0 && calls == 3);
    FAILS(kill(getpid(), 65), EINVAL);
    struct sigaction action = {.sa_handler = count};
    FAILS(sigaction(SIGKILL, &action, NULL), EINVAL);
    handle_info(SIGUSR2, inform, 0);
    union sigval value = {.sival_int = 12345};
    CHECK(sigqueue(getpid(), SIGUSR2, value) == 0 && calls == 1);
    CHECK(last_info.si_value.sival_int == 12345 && last_info.si_code == SI_QUEUE);
    CHECK(last_info.si_pid == getpid());
    puts("sending");
}

static void masking(void) {
    sigset_t block = only(SIGUSR1), old, pending;
    handle(SIGUSR1, count, 0);
    CHECK(sigprocmask(SIG_BLOCK, &block, &old) == 0 && !sigismember(&old, SIGUSR1));
    raise(SIGUSR1);
    raise(SIGUSR1);
    CHECK(calls == 0 && sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
    CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0 && calls == 1); /* not queued twice */
    CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGUSR1));
    /* sigsuspend lets it in and puts the mask back. */
    CHECK(sigprocmask(SIG_BLOCK, &block, NULL) == 0);
    raise(SIGUSR1);
    FAILS(sigsuspend(&old), EINTR);
    CHECK(calls == 2 && sigprocmask(SIG_SETMASK, &old, &pending) == 0);
    CHECK(sigismember(&pending, SIGUSR1));
    puts("masking");
}

static void take_order(int signal, siginfo_t *info, void *context) {
    (void)context;
    order[calls++] = signal * 100 + info->si_value.sival_int;
}

/* Real-time signals queue, with their values. */
static void queueing(void) {
    int low = SIGRTMIN;
    sigset_t block = only(low), old;
    handle_info(low, take_order, 0);
    CHECK(sigprocmask(SIG_BLOCK, &block, &old) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(sigqueue(getpid(), low, (union sigval){.sival_int = i}) == 0);
    siginfo_t info;
    struct timespec none = {0, 0};
    CHECK(sigtimedwait(&block, &info, &none) == low && info.si_value.sival_int == 0);
    CHECK(calls == 0 && sigprocmask(SIG_SETMASK, &old, NULL) == 0 && calls == 2);
    CHECK(order[0] == low * 100 + 1 && order[1] == low * 100 + 2);
    FAILS(sigtimedwait(&block, &info, &none), EAGAIN);
    puts("queueing");
}

static void nest(int signal) {
    int first = calls == 0;
    order[calls++] = signal;
    if (first) {
        raise(SIGUSR2); /* comes at once */
        raise(SIGUSR1); /* waits for our return */
        order[calls++] = 0;
    }
}

static void nesting(void) {
    handle(SIGUSR2, nest, 0);
    handle(SIGUSR1, nest, 0);
    raise(SIGUSR1);
    CHECK(calls == 4 && order[0] == SIGUSR1 && order[1] == SIGUSR2 && order[2] == 0 && order[3] == SIGUSR1);
    handle(SIGUSR1, count, (int)SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction seen;
    CHECK(sigaction(SIGUSR1, NULL, &seen) == 0 && seen.sa_handler == SIG_DFL && calls == 1);
    handle(SIGUSR1, SIG_IGN, 0);
    CHECK(raise(SIGUSR1) == 0 && calls == 0);
    puts("nesting");
}

static char *alternate;
static volatile int on_alternate;

static void where(int signal) {
    char here;
    stack_t now;
    CHECK(sigaltstack(NULL, &now) == 0);
    on_alternate = &here >= alternate && &here < alternate + 16 * PAGE;
    CHECK(!on_alternate || now.ss_flags & SS_ONSTACK);
    count(signal);
}

static void stacks(void) {
    alternate = malloc(16 * PAGE);
    stack_t stack = {.ss_sp = alternate, .ss_size = 16 * PAGE}, old, tiny = stack;
    tiny.ss_size = 100;
    CHECK(alternate && sigaltstack(&stack, &old) == 0);
    FAILS(sigaltstack(&tiny, NULL), ENOMEM);
    handle(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(calls == 1 && on_alternate == 1);
    handle(SIGUSR1, where, 0);
    raise(SIGUSR1);
    CHECK(calls == 1 && on_alternate == 0);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, NULL) == 0);
    puts("stacks");
}

static void jump_out(int signal, siginfo_t *info, void *context) {
    inform(signal, info, context);
    siglongjmp(recovery, 1);
}

static void expect_fault(volatile char *at, int writing, int code) {
    calls = 0;
    if (sigsetjmp(recovery, 1) == 0) {
        if (writing)
            *at = 1;
        else
            (void)*at;
        CHECK(!"the access went through");
    }
    CHECK(calls == 1 && last_signal == SIGSEGV && last_info.si_code == code);
    CHECK(last_info.si_addr == at);
}

static void faults_left(void) {
    handle_info(SIGSEGV, jump_out, 0);
    volatile char *hole = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(hole != MAP_FAILED);
    for (int i = 0; i < MANY; i++)
        expect_fault(hole + i, 1, SEGV_ACCERR);
    CHECK(mprotect((void *)hole, PAGE, PROT_NONE) == 0);
    expect_fault(hole + 5, 0, SEGV_ACCERR);
    CHECK(munmap((void *)hole, PAGE) == 0);
    expect_fault(hole + 9, 0, SEGV_MAPERR);
    expect_fault((volatile char *)16, 1, SEGV_MAPERR);
    puts("faults left by a jump");
}

static void unprotect(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1);
    CHECK(mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE) == 0);
    calls++;
}

/* The way garbage collectors see writes: each first write to a page faults. */
static void faults_repaired(void) {
    enum { PAGES = 300 };
    char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    for (int i = 0; i < PAGES; i++)
        at[i * PAGE + 1] = (char)i;
    handle_info(SIGSEGV, unprotect, 0);
    for (int round = 0; round < 3; round++) {
        CHECK(mprotect(at, PAGES * PAGE, PROT_READ) == 0);
        calls = 0;
        for (int i = 0; i < PAGES; i++)
            at[i * PAGE] = (char)round;
        CHECK(calls == PAGES);
    }
    for (int i = 0; i < PAGES; i++)
        CHECK(at[i * PAGE] == 2 && at[i * PAGE + 1] == (char)i);
    CHECK(munmap(at, PAGES * PAGE) == 0);
    puts("faults repaired by mprotect");
}

static void skip_instruction(int signal, siginfo_t *info, void *context) {
    inform(signal, info, NULL);
    ucontext_t *c = context;
    c->uc_mcontext.gregs[REG_RIP] += 2;
    c->uc_mcontext.gregs[REG_RBX] = 77;
}

static void registers_changed(void) {
    handle_info(SIGILL, skip_instruction, 0);
    uint64_t rbx = 1;
    __asm__ volatile("ud2" : "+b"(rbx));
    CHECK(calls == 1 && rbx == 77);
    puts("registers changed by a handler");
}

static void spoil_registers(int signal) {
    double zero[2] = {0, 0};
    __asm__ volatile("movupd %0, %%xmm1\n movupd %0, %%xmm15\n fninit\n fldpi\n" ::"m"(zero)
                     : "xmm1", "xmm15");
    count(signal);
}

/* Raises SIGUSR1 with every register that a handler could lose in use. */
static void registers_kept(void) {
    handle(SIGUSR1, spoil_registers, 0);
    double in[2] = {1.5, -2.5}, out1[2], out15[2];
    long double x87 = 3.25L, kept;
    uint64_t r12 = 12, r13 = 13, r14 = 14, r15 = 15, rbx = 3;
    long pid = getpid(), tid = syscall(SYS_gettid), number = SYS_tgkill;
    register uint64_t r8 __asm__("r8") = 8, r9 __asm__("r9") = 9, r10 __asm__("r10") = 10;
    __asm__ volatile("movupd %[in], %%xmm1\n movupd %[in], %%xmm15\n fldt %[x87]\n"
                     "mov $12, %%r12\n mov $13, %%r13\n mov $14, %%r14\n mov $15, %%r15\n"
                     "mov $3, %%rbx\n"
                     "syscall\n"
                     "fstpt %[kept]\n movupd %%xmm1, %[out1]\n movupd %%xmm15, %[out15]\n"
                     "mov %%r12, %[r12]\n mov %%r13, %[r13]\n mov %%r14, %[r14]\n"
                     "mov %%r15, %[r15]\n mov %%rbx, %[rbx]\n"
                     : "+a"(number), "+r"(r8), "+r"(r9), "+r"(r10), [kept] "=m"(kept),
                       [out1] "=m"(out1), [out15] "=m"(out15), [r12] "=m"(r12), [r13] "=m"(r13),
                       [r14] "=m"(r14), [r15] "=m"(r15), [rbx] "=m"(rbx)
                     : "D"(pid), "S"(tid), "d"(SIGUSR1), [in] "m"(in), [x87] "m"(x87)
                     : "rcx", "r11", "r12", "r13", "r14", "r15", "rbx", "xmm1", "xmm15", "memory");
    CHECK(calls == 1 && number == 0 && kept == x87);
    CHECK(memcmp(in, out1, sizeof in) == 0 && memcmp(in, out15, sizeof in) == 0);
    CHECK(r12 == 12 && r13 == 13 && r14 == 14 && r15 == 15 && rbx == 3);
    CHECK(r8 == 8 && r9 == 9 && r10 == 10);
    puts("registers kept across a handler");
}

static volatile unsigned control_seen;

static void note_control(int signal) {
    unsigned control;
    __asm__ volatile("stmxcsr %0" : "=m"(control));
    control_seen = control;
    count(signal);
}

/* A handler starts with the FPU as a program does, whatever was interrupted. */
static void rounding_kept(void) {
    unsigned usual, towards_zero, after;
    handle(SIGUSR1, note_control, 0);
    __asm__ volatile("stmxcsr %0" : "=m"(usual));
    towards_zero = usual | 0x6000;
    __asm__ volatile("ldmxcsr %0" ::"m"(towards_zero));
    raise(SIGUSR1);
    __asm__ volatile("stmxcsr %0" : "=m"(after));
    __asm__ volatile("ldmxcsr %0" ::"m"(usual));
    CHECK(calls == 1 && (after & 0x6000) == 0x6000 && (control_seen & 0x6000) == 0);
    puts("rounding kept across a handler");
}

static int ends[2];

static void *poke_then_feed(void *argument) {
    pthread_t reader = *(pthread_t *)argument;
    struct timespec pause = {0, 20000000};
    /* Until the reader has seen one: it may not be in read() yet. */
    for (int before = calls; calls == before; nanosleep(&pause, NULL)) {
        nanosleep(&pause, NULL);
        CHECK(pthread_kill(reader, SIGUSR1) == 0);
    }
    CHECK(write(ends[1], "r", 1) == 1);
    return NULL;
}

static ssize_t interrupted_read(int flags, int *read_errno) {
    char byte;
    pthread_t self = pthread_self(), helper;
    handle(SIGUSR1, count, flags);
    CHECK(pipe(ends) == 0 && pthread_create(&helper, NULL, poke_then_feed, &self) == 0);
    ssize_t n = read(ends[0], &byte, 1);
    *read_errno = errno;
    CHECK(pthread_join(helper, NULL) == 0 && calls >= 1);
    close(ends[0]);
    close(ends[1]);
    return n;
}

static void interruption(void) {
    int seen;
    sigset_t block = only(SIGUSR1), old;
    CHECK(interrupted_read(SA_RESTART, &seen) == 1);
    CHECK(interrupted_read(0, &seen) == -1 && seen == EINTR);
    CHECK(pthread_sigmask(SIG_BLOCK, &block, &old) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    int signal = 0;
    CHECK(sigwait(&block, &signal) == 0 && signal == SIGUSR1);
    CHECK(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    puts("interruption and restart");
}

static volatile long spins;

static void *spin(void *argument) {
    volatile int *stop = argument;
    while (!*stop)
        spins++;
    return NULL;
}

/* A thread that makes no system call is interrupted all the same. */
static void busy_thread(void) {
    volatile int stop = 0;
    pthread_t id;
    handle(SIGUSR1, count, 0);
    CHECK(pthread_create(&id, NULL, spin, (void *)&stop) == 0);
    while (spins == 0)
        sched_yield();
    for (int i = 0; i < 50; i++) {
        int before = calls;
        CHECK(pthread_kill(id, SIGUSR1) == 0);
        while (calls == before)
            sched_yield();
    }
    stop = 1;
    CHECK(pthread_join(id, NULL) == 0 && calls == 50);
    puts("a busy thread");
}

int main(void) {
    sending();
    masking();
    queueing();
    nesting();
    stacks();
    faults_left();
    faults_repaired();
    registers_changed();
    registers_kept();
    rounding_kept();
    interruption();
    busy_thread();
    return 0;
}
