/* hostcosts: memory whose faults come as signals and are answered as the
 * processor component answers them. */
#ifndef HOSTFAULTS_H
#define HOSTFAULTS_H

#include "common.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* Pages lie in CALLS groups of at most GROUP, GROUP_STRIDE bytes apart. */
enum { PAGE = 4096, CALLS = 64, GROUP = 16, GROUP_STRIDE = 1 << 20 };

static unsigned char *region;
static unsigned char source[GROUP * PAGE] __attribute__((aligned(4096)));
static int uffd = -1;
/* Why it can't be had, if so. */
static char no_uffd[120], no_protection[120];

static void ask_uffd(unsigned long request, void *argument) {
    CHECK(ioctl(uffd, request, argument) == 0);
}

static void copy_in(unsigned char *to, unsigned pages, uint64_t mode) {
    struct uffdio_copy c = {.dst = (uintptr_t)to, .src = (uintptr_t)source,
                            .len = (uint64_t)pages * PAGE,
                            .mode = mode | UFFDIO_COPY_MODE_DONTWAKE};
    ask_uffd(UFFDIO_COPY, &c);
}

static void protect(unsigned char *at, unsigned pages, int on) {
    struct uffdio_writeprotect w = {
        .range = {(uintptr_t)at, (uint64_t)pages * PAGE},
        .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
    ask_uffd(UFFDIO_WRITEPROTECT, &w);
}

/* What the handler does about a fault. PASS goes on behind the instruction, which
 * is one of the two of `touch`, both of two bytes. */
static volatile enum { PASS, FILL_CLEAN, FILL_DIRTY, LIFT } answer;

static void faulted(int signal, siginfo_t *info, void *context) {
    (void)signal;
    unsigned char *page = (unsigned char *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    CHECK(page >= region && page < region + CALLS * GROUP_STRIDE);
    if (answer == PASS)
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    else if (answer == LIFT)
        protect(page, 1, 0);
    else
        copy_in(page, 1, answer == FILL_CLEAN && !*no_protection ? UFFDIO_COPY_MODE_WP : 0);
}

static void touch(unsigned char *at, int store) {
    if (store)
        __asm__ volatile(".byte 0x88, 0x07" : : "D"(at), "a"(1) : "memory"); /* mov %al,(%rdi) */
    else
        __asm__ volatile(".byte 0x8a, 0x07" : : "D"(at) : "rax", "memory"); /* mov (%rdi),%al */
}

static int open_uffd(uint64_t features) {
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) == 0)
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

static void take_faults_over(void) {
    static unsigned char stack[64 << 10];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_sigaction = faulted, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigfillset(&action.sa_mask);
    CHECK(sigaltstack(&alternate, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    uint64_t protection = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    if ((uffd = open_uffd(UFFD_FEATURE_SIGBUS | protection)) < 0) {
        snprintf(no_protection, sizeof no_protection,
                 "userfaultfd with write protection: %s (testbed doctor)", strerror(errno));
        protection = 0;
        uffd = open_uffd(UFFD_FEATURE_SIGBUS);
    }
    if (uffd < 0) {
        snprintf(no_uffd, sizeof no_uffd, "userfaultfd: %s (testbed doctor)", strerror(errno));
        return;
    }
    struct uffdio_register r = {
        .range = {(uintptr_t)region, CALLS * (uint64_t)GROUP_STRIDE},
        .mode = UFFDIO_REGISTER_MODE_MISSING | (protection ? UFFDIO_REGISTER_MODE_WP : 0)};
    ask_uffd(UFFDIO_REGISTER, &r);
}

static unsigned char *map(size_t bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    CHECK(at != MAP_FAILED);
    madvise(at, bytes, MADV_NOHUGEPAGE); /* EINVAL where there are none */
    return at;
}

#endif
