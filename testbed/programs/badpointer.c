/* Calls that take pointers, with pointers that are wrong in every way:
 * badpointer DIRECTORY. Prints the errno of each, for comparison with a native
 * run. Left out: calls that end, replace or stop the process when they work. */
#include "common.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, ARCH_GET_FS = 0x1003 };

/* Stand-ins among the arguments, put in place at run time. */
enum { BAD = 0x7e57000, GOOD, FILE_FD, DIR_FD, FULL_PIPE, PIPE_IN, SOCKET, EPOLL, TIMER_FD, NAME };

enum {
    NULL_ALLOWED = 1, /* a null pointer means something: not tried */
    SPLIT_ALLOWED = 2, /* how far a transfer into half a buffer gets is a file system's affair */
    OPTIONAL = 4, /* ENOSYS is as good as EFAULT */
    READS = 8, /* the call reads at the pointer, so a read-only page is not wrong */
};

struct call {
    const char *name;
    int number;
    int flags;
    long arguments[6];
};

#define CALL(name, flags, ...) {#name, SYS_##name, flags, {__VA_ARGS__}}

static const struct call calls[] = {
    CALL(read, SPLIT_ALLOWED, FILE_FD, BAD, 100),
    CALL(read, SPLIT_ALLOWED, FULL_PIPE, BAD, 100),
    CALL(write, SPLIT_ALLOWED | READS, FILE_FD, BAD, 100),
    CALL(write, SPLIT_ALLOWED | READS, PIPE_IN, BAD, 100),
    CALL(pread64, SPLIT_ALLOWED, FILE_FD, BAD, 100, 0),
    CALL(pwrite64, SPLIT_ALLOWED | READS, FILE_FD, BAD, 100, 0),
    CALL(readv, 0, FILE_FD, BAD, 2),
    CALL(writev, 0, FILE_FD, BAD, 2),
    CALL(preadv, 0, FILE_FD, BAD, 2, 0),
    CALL(pwritev, 0, FILE_FD, BAD, 2, 0),
    CALL(sendfile, NULL_ALLOWED | READS, PIPE_IN, FILE_FD, BAD, 10),
    CALL(copy_file_range, NULL_ALLOWED | OPTIONAL, FILE_FD, BAD, FILE_FD, 0, 10, 0),
    CALL(open, READS, BAD, O_RDONLY),
    CALL(openat, READS, AT_FDCWD, BAD, O_RDONLY),
    CALL(creat, READS, BAD, 0600),
    CALL(stat, READS, BAD, GOOD),
    CALL(stat, 0, NAME, BAD),
    CALL(lstat, 0, NAME, BAD),
    CALL(fstat, 0, FILE_FD, BAD),
    CALL(newfstatat, READS, AT_FDCWD, BAD, GOOD, 0),
    CALL(newfstatat, 0, AT_FDCWD, NAME, BAD, 0),
    CALL(statx, 0, AT_FDCWD, NAME, 0, 0x7ff, BAD),
    CALL(access, READS, BAD, F_OK),
    CALL(faccessat, READS, AT_FDCWD, BAD, F_OK),
    CALL(statfs, READS, BAD, GOOD),
    CALL(statfs, 0, NAME, BAD),
    CALL(fstatfs, 0, FILE_FD, BAD),
    CALL(getdents64, 0, DIR_FD, BAD, 1000),
    CALL(mkdir, READS, BAD, 0700),
    CALL(rmdir, READS, BAD),
    CALL(chdir, READS, BAD),
    CALL(getcwd, 0, BAD, 1000),
    CALL(rename, READS, BAD, NAME),
    CALL(rename, READS, NAME, BAD),
    CALL(renameat2, READS, AT_FDCWD, BAD, AT_FDCWD, NAME, 0),
    CALL(link, READS, BAD, NAME),
    CALL(symlink, READS, BAD, NAME),
    CALL(unlink, READS, BAD),
    CALL(unlinkat, READS, AT_FDCWD, BAD, 0),
    CALL(readlink, READS, BAD, GOOD, 10),
    CALL(readlinkat, READS, AT_FDCWD, BAD, GOOD, 10),
    CALL(chmod, READS, BAD, 0600),
    CALL(fchmodat, READS, AT_FDCWD, BAD, 0600),
    CALL(chown, READS, BAD, -1, -1),
    CALL(utimensat, READS, AT_FDCWD, NAME, BAD, 0),
    CALL(truncate, READS, BAD, 0),
    CALL(poll, NULL_ALLOWED, BAD, 2, 0),
    CALL(ppoll, NULL_ALLOWED | READS, GOOD, 0, BAD, 0, 8),
    CALL(select, NULL_ALLOWED, 10, BAD, 0, 0, GOOD),
    CALL(select, NULL_ALLOWED | READS, 0, 0, 0, 0, BAD),
    CALL(pselect6, NULL_ALLOWED, 10, BAD, 0, 0, GOOD, 0),
    CALL(epoll_ctl, READS, EPOLL, EPOLL_CTL_ADD, FULL_PIPE, BAD),
    CALL(pipe, 0, BAD),
    CALL(pipe2, 0, BAD, O_CLOEXEC),
    CALL(socketpair, 0, AF_UNIX, SOCK_STREAM, 0, BAD),
    CALL(bind, READS, SOCKET, BAD, 16),
    CALL(connect, READS, SOCKET, BAD, 16),
    CALL(getsockname, 0, SOCKET, BAD, GOOD),
    CALL(getsockname, 0, SOCKET, GOOD, BAD),
    CALL(setsockopt, READS, SOCKET, SOL_SOCKET, SO_REUSEADDR, BAD, 4),
    CALL(getsockopt, 0, SOCKET, SOL_SOCKET, SO_TYPE, BAD, GOOD),
    CALL(sendmsg, 0, SOCKET, BAD, 0),
    CALL(recvmsg, 0, SOCKET, BAD, MSG_DONTWAIT),
    CALL(ioctl, 0, FULL_PIPE, FIONREAD, BAD),
    CALL(ioctl, 0, FILE_FD, TCGETS, BAD),
    CALL(fcntl, 0, FILE_FD, F_GETLK, BAD),
    CALL(nanosleep, READS, BAD, 0),
    CALL(clock_nanosleep, READS, CLOCK_MONOTONIC, 0, BAD, 0),
    CALL(clock_gettime, 0, CLOCK_MONOTONIC, BAD),
    CALL(clock_getres, NULL_ALLOWED, CLOCK_MONOTONIC, BAD),
    CALL(gettimeofday, NULL_ALLOWED, BAD, 0),
    CALL(time, NULL_ALLOWED, BAD),
    CALL(times, NULL_ALLOWED, BAD),
    CALL(getitimer, 0, ITIMER_REAL, BAD),
    CALL(setitimer, NULL_ALLOWED | READS, ITIMER_REAL, BAD, 0),
    CALL(timer_create, NULL_ALLOWED | READS, CLOCK_MONOTONIC, BAD, GOOD),
    CALL(timerfd_settime, READS, TIMER_FD, 0, BAD, 0),
    CALL(timerfd_gettime, 0, TIMER_FD, BAD),
    CALL(rt_sigaction, NULL_ALLOWED | READS, SIGUSR2, BAD, 0, 8),
    CALL(rt_sigaction, NULL_ALLOWED, SIGUSR2, 0, BAD, 8),
    CALL(rt_sigprocmask, NULL_ALLOWED | READS, SIG_UNBLOCK, BAD, 0, 8),
    CALL(rt_sigprocmask, NULL_ALLOWED, SIG_UNBLOCK, 0, BAD, 8),
    CALL(rt_sigpending, 0, BAD, 8),
    CALL(rt_sigtimedwait, READS, BAD, 0, GOOD, 8),
    CALL(rt_sigqueueinfo, 0, 0, SIGUSR2, BAD),
    CALL(sigaltstack, NULL_ALLOWED | READS, BAD, 0),
    CALL(sigaltstack, NULL_ALLOWED, 0, BAD),
    CALL(getrlimit, 0, RLIMIT_STACK, BAD),
    CALL(prlimit64, NULL_ALLOWED, 0, RLIMIT_STACK, 0, BAD),
    CALL(getrusage, 0, RUSAGE_SELF, BAD),
    CALL(sysinfo, 0, BAD),
    CALL(uname, 0, BAD),
    CALL(getrandom, SPLIT_ALLOWED, BAD, 100, 0),
    CALL(getcpu, NULL_ALLOWED, BAD, 0, 0),
    CALL(sched_getaffinity, 0, 0, 128, BAD),
    CALL(sched_setaffinity, READS, 0, 128, BAD),
    CALL(sched_getparam, 0, 0, BAD),
    CALL(getresuid, 0, BAD, GOOD, GOOD),
    CALL(getresgid, 0, GOOD, GOOD, BAD),
    CALL(prctl, READS, PR_SET_NAME, BAD),
    CALL(prctl, 0, PR_GET_NAME, BAD),
    CALL(arch_prctl, 0, ARCH_GET_FS, BAD),
    CALL(futex, READS, BAD, 0 /* FUTEX_WAIT */, 99, 0),
    CALL(futex, READS, BAD, 128 | 0, 99, 0),
    CALL(futex, READS | NULL_ALLOWED, GOOD, 0, 0, BAD),
    CALL(mincore, NULL_ALLOWED, GOOD, PAGE, BAD),
    CALL(execve, READS | OPTIONAL, BAD, 0, 0),
    CALL(wait4, NULL_ALLOWED, -1, BAD, 1, 0),
};

static void *good;
static int files[TIMER_FD + 1];

static struct {
    const char *name;
    uintptr_t at;
} bad[] = {
    {"null", 0},
    {"low", 0x10},
    {"hole", 0},
    {"forbidden", 0},
    {"read-only", 0},
    {"split", 0},
    {"kernel", 0xffff800000001000u},
    {"odd", 0x8000000000000000u},
    {"end", (uintptr_t)-8},
};

enum { KINDS = sizeof bad / sizeof *bad, NULL_KIND = 0, READ_ONLY_KIND = 4, SPLIT_KIND = 5 };

static void *pages(size_t size, int prot) {
    void *at = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void make_pointers(void) {
    void *hole = pages(PAGE, PROT_NONE);
    char *split = pages((size_t)2 * PAGE, PROT_READ | PROT_WRITE);
    good = pages((size_t)4 * PAGE, PROT_READ | PROT_WRITE);
    memset(split, 'a', PAGE);
    CHECK(munmap(split + PAGE, PAGE) == 0);
    bad[3].at = (uintptr_t)pages(PAGE, PROT_NONE);
    bad[READ_ONLY_KIND].at = (uintptr_t)pages(PAGE, PROT_READ);
    bad[SPLIT_KIND].at = (uintptr_t)split + PAGE - 3;
    CHECK(munmap(hole, PAGE) == 0);
    bad[2].at = (uintptr_t)hole;
}

static void make_files(const char *directory) {
    int ends[2];
    CHECK(chdir(directory) == 0 && pipe2(ends, O_NONBLOCK) == 0);
    files[FULL_PIPE - FILE_FD] = ends[0];
    files[PIPE_IN - FILE_FD] = ends[1];
    files[FILE_FD - FILE_FD] = open("bad-pointer-file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    files[DIR_FD - FILE_FD] = open(".", O_RDONLY | O_DIRECTORY);
    files[SOCKET - FILE_FD] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    files[EPOLL - FILE_FD] = epoll_create1(0);
    files[TIMER_FD - FILE_FD] = timerfd_create(CLOCK_MONOTONIC, 0);
    for (int i = 0; i <= TIMER_FD - FILE_FD; i++)
        CHECK(files[i] >= 0);
    CHECK(ftruncate(files[0], PAGE) == 0 && write(ends[1], "some text", 9) == 9);
}

/* As they were before the first call, whatever the last one wrote. */
static void restore(void) {
    memset((void *)bad[SPLIT_KIND].at, 'a', 3);
    memset(good, 0, PAGE);
    CHECK(lseek(files[0], 0, SEEK_SET) == 0);
}

static long argument(long value, uintptr_t pointer) {
    if (value == BAD)
        return (long)pointer;
    if (value == GOOD)
        return (long)good;
    if (value == NAME)
        return (long)"bad-pointer-file";
    if (value >= FILE_FD && value <= TIMER_FD)
        return files[value - FILE_FD];
    return value;
}

static int applies(const struct call *c, int kind) {
    return !(kind == NULL_KIND && c->flags & NULL_ALLOWED) &&
           !(kind == READ_ONLY_KIND && c->flags & READS) &&
           !(kind == SPLIT_KIND && c->flags & SPLIT_ALLOWED);
}

static int attempt(const struct call *c, uintptr_t pointer) {
    long a[6];
    for (int i = 0; i < 6; i++)
        a[i] = argument(c->arguments[i], pointer);
    restore();
    *(int *)good = c->number == SYS_getsockname || c->number == SYS_getsockopt ? 16 : 0;
    errno = 0;
    long result = syscall(c->number, a[0], a[1], a[2], a[3], a[4], a[5]);
    int seen = result == -1 ? errno : 0;
    return c->flags & OPTIONAL && seen == ENOSYS ? EFAULT : seen;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    make_pointers();
    make_files(argv[1]);
    int lowest = dup(0);
    close(lowest);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        printf("%-18s", calls[i].name);
        for (int kind = 0; kind < KINDS; kind++)
            if (applies(&calls[i], kind))
                printf(" %s:%d", bad[kind].name, attempt(&calls[i], bad[kind].at));
        printf("\n");
        fflush(stdout);
    }
    /* Nothing was left open, and the pipe still holds what it held. */
    char text[16];
    CHECK(dup(0) == lowest);
    CHECK(read(files[FULL_PIPE - FILE_FD], text, 16) == 9);
    return 0;
}
