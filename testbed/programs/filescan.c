/* Maps files in the three ways a program can: filescan FILE DIRECTORY.
 * FILE is read shared and changed privately; a file made in DIRECTORY is
 * changed through a shared map, synchronised, and read back. */
#include "common.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, SHARED_PAGES = 200, TAIL = 1234 };

static size_t page_round(size_t size) {
    return (size + PAGE - 1) & ~(size_t)(PAGE - 1);
}

static uint64_t digest_file(int fd) {
    static unsigned char buffer[64 << 10];
    uint64_t sum = DIGEST_START;
    off_t at = 0;
    ssize_t n;
    while ((n = pread(fd, buffer, sizeof buffer, at)) > 0) {
        sum = digest(sum, buffer, (size_t)n);
        at += n;
    }
    CHECK(n == 0);
    return sum;
}

static void *map(int fd, size_t size, int prot, int flags) {
    void *at = mmap(NULL, size, prot, flags, fd, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static void expect_zero_tail(const unsigned char *at, size_t size) {
    for (size_t i = size; i < page_round(size); i++)
        CHECK(at[i] == 0);
}

static void read_shared(int fd, size_t size) {
    const unsigned char *at = map(fd, size, PROT_READ, MAP_SHARED);
    uint64_t forward = 0, backward = 0;
    for (size_t i = 0; i < size; i += PAGE)
        forward += at[i] * (i + 1);
    for (size_t i = page_round(size); i > 0; i -= PAGE)
        backward += at[i - PAGE] * (i - PAGE + 1);
    CHECK(forward == backward);
    expect_zero_tail(at, size);
    printf("shared read: %016llx\n", (unsigned long long)digest(DIGEST_START, at, size));
    CHECK(munmap((void *)at, size) == 0);
}

/* Changes every third page of a private map; the file must not notice. */
static void write_private(int fd, size_t size) {
    uint64_t before = digest_file(fd);
    unsigned char *at = map(fd, size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (size_t i = 0; i < size; i += (size_t)3 * PAGE)
        at[i] = (unsigned char)(at[i] + 1);
    unsigned char *again = map(fd, size, PROT_READ, MAP_PRIVATE);
    for (size_t i = 0; i < size; i += PAGE) {
        unsigned char changed = i / PAGE % 3 == 0;
        CHECK(at[i] == (unsigned char)(again[i] + changed));
    }
    expect_zero_tail(at, size);
    printf("private write: %016llx\n", (unsigned long long)digest(DIGEST_START, at, size));
    CHECK(munmap(at, size) == 0 && munmap(again, size) == 0);
    CHECK(digest_file(fd) == before);
}

/* word_count of Phoenix maps one byte more than there is and writes a 0 there. */
static void write_past_end(int fd, size_t size) {
    char *at = map(fd, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    at[size - 1] = 'x';
    if (size % PAGE != 0)
        at[size] = 0;
    CHECK(at[size - 1] == 'x');
    CHECK(munmap(at, size + 1) == 0);
}

static void write_shared(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/shared", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    size_t size = (size_t)SHARED_PAGES * PAGE + TAIL;
    CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    uint64_t *at = map(fd, size, PROT_READ | PROT_WRITE, MAP_SHARED);
    uint64_t seed = 5;
    for (size_t i = 0; i < size / sizeof *at; i++)
        at[i] = next_random(&seed);
    uint64_t written = digest(DIGEST_START, at, size);
    CHECK(msync(at, page_round(size), MS_SYNC) == 0);
    int other = open(path, O_RDONLY);
    CHECK(other >= 0 && digest_file(other) == written);
    at[PAGE] = 42; /* part of the file again after a second sync */
    CHECK(msync(at, page_round(size), MS_SYNC) == 0);
    uint64_t word = 0;
    CHECK(pread(other, &word, sizeof word, PAGE * (off_t)sizeof *at) == sizeof word && word == 42);
    uint64_t last = digest(DIGEST_START, at, size);
    CHECK(munmap(at, size) == 0 && close(other) == 0 && close(fd) == 0);
    CHECK((other = open(path, O_RDONLY)) >= 0 && digest_file(other) == last);
    printf("shared write: %016llx\n", (unsigned long long)last);
    close(other);
}

/* What munmap and close alone leave must reach the file at the latest when
 * the program has ended: the harness compares the files. */
static void write_without_sync(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/unsynced", directory);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 8 * PAGE) == 0);
    char *at = map(fd, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    CHECK(close(fd) == 0);
    for (int i = 0; i < 8; i++)
        memset(at + i * PAGE, 'a' + i, PAGE);
    CHECK(munmap(at, 4 * PAGE) == 0); /* the rest is left to exit */
}

static sigjmp_buf recovery;

static void jump(int signal) {
    siglongjmp(recovery, signal);
}

/* Pages of a mapping that lie wholly beyond the file are a SIGBUS (mmap(2)). */
static void read_beyond(int fd, size_t size) {
    struct sigaction action = {.sa_handler = jump}, old;
    CHECK(sigaction(SIGBUS, &action, &old) == 0);
    volatile char *at = map(fd, page_round(size) + PAGE, PROT_READ, MAP_PRIVATE);
    int signal = sigsetjmp(recovery, 1);
    if (signal == 0) {
        (void)at[page_round(size)];
        CHECK(!"a page beyond the file was there");
    }
    CHECK(signal == SIGBUS && sigaction(SIGBUS, &old, NULL) == 0);
    CHECK(munmap((void *)at, page_round(size) + PAGE) == 0);
}

static void refusals(int fd) {
    FAILS((intptr_t)mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EACCES);
    FAILS((intptr_t)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1), EINVAL);
    FAILS((intptr_t)mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0), EINVAL);
    FAILS((intptr_t)mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    int fd = open(argv[1], O_RDONLY);
    struct stat info;
    CHECK(fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 0);
    size_t size = (size_t)info.st_size;
    read_shared(fd, size);
    write_private(fd, size);
    write_past_end(fd, size);
    read_beyond(fd, size);
    refusals(fd);
    write_shared(argv[2]);
    write_without_sync(argv[2]);
    return 0;
}
