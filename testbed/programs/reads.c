/* Large reads of FILE into memory of all kinds: reads FILE [THREADS]. Pages that
 * are absent, here, stored to, shared, or gone; buffers that begin and end
 * anywhere; a file that is changed between reads; and threads that store to pages
 * which others read into, each its own bytes. */
#include "common.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_THREADS = 16, EDGE = 1000, FILL = 0x5a };

static int fd;
static size_t size;
static unsigned char *expected;

static unsigned char *map(size_t len, int prot, int flags) {
    void *at = mmap(NULL, len, prot, flags | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

static unsigned char *private_memory(size_t len) {
    return map(len, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

/* What `get` bytes at `offset` of the file, read to `at`, must look like. */
static void compare(const unsigned char *at, size_t offset, size_t get) {
    CHECK(memcmp(at, expected + offset, get) == 0);
}

/* New memory, and the same again when it is full of other bytes. */
static void into(unsigned char *at, size_t offset, size_t len) {
    size_t left = offset < size ? size - offset : 0;
    size_t get = len < left ? len : left;
    for (int round = 0; round < 2; round++) {
        CHECK(pread(fd, at, len, (off_t)offset) == (ssize_t)get);
        compare(at, offset, get);
        printf("%zu bytes at %zu: %016llx\n", get, offset,
               (unsigned long long)digest(DIGEST_START, at, get));
        memset(at, FILL, get);
    }
}

static void alignments(void) {
    static const size_t starts[] = {0, 1, EDGE, PAGE - 1, PAGE, 5 * PAGE + 17};
    for (size_t n = 0; n < sizeof starts / sizeof *starts; n++) {
        size_t len = size / 2 + starts[n];
        unsigned char *at = private_memory(len + 6 * PAGE);
        into(at + starts[n], starts[sizeof starts / sizeof *starts - 1 - n], len);
        munmap(at, len + 6 * PAGE);
    }
    unsigned char *at = private_memory(size + PAGE);
    into(at, size - 3 * EDGE, size);
    into(at, size, size);
    into(at, 2 * size, size);
    munmap(at, size + PAGE);
}

/* Every third page is here already, and has neighbours that stay. */
static void among_others(void) {
    size_t len = (size + 2 * PAGE) / PAGE * PAGE;
    unsigned char *at = private_memory(len);
    for (size_t p = 0; p < len; p += 3 * PAGE)
        memset(at + p, FILL, PAGE);
    CHECK(pread(fd, at + EDGE, size, 0) == (ssize_t)size);
    compare(at + EDGE, 0, size);
    for (size_t n = 0; n < EDGE; n++)
        CHECK(at[n] == FILL);
    for (size_t n = EDGE + size; n < len; n++)
        CHECK(at[n] == (n / PAGE % 3 == 0 ? FILL : 0));
    munmap(at, len);
}

static void scattered(void) {
    struct iovec parts[5];
    unsigned char *at[5];
    size_t lens[5] = {200000, 10, 300001, 70000, size}, offset = 0;
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    for (int n = 0; n < 5; n++) {
        at[n] = private_memory(lens[n] + PAGE);
        parts[n].iov_base = at[n] + n * 7;
        parts[n].iov_len = lens[n];
    }
    CHECK(readv(fd, parts, 5) == (ssize_t)size);
    CHECK(lseek(fd, 0, SEEK_CUR) == (off_t)size);
    for (int n = 0; n < 5; n++) {
        size_t left = size - offset, get = lens[n] < left ? lens[n] : left;
        compare(at[n] + n * 7, offset, get);
        offset += get;
        munmap(at[n], lens[n] + PAGE);
    }
}

static void where_it_cannot_go(void) {
    size_t half = size / 2 / PAGE * PAGE;
    unsigned char *at = private_memory(size + PAGE);
    CHECK(mprotect(at + half, PAGE, PROT_READ) == 0);
    CHECK(pread(fd, at, size, 0) == (ssize_t)half);
    compare(at, 0, half);
    CHECK(pread(fd, at + 100, size, 0) == (ssize_t)(half - 100));
    FAILS(pread(fd, at + half, size, 0), EFAULT);
    CHECK(munmap(at + half, PAGE) == 0);
    CHECK(pread(fd, at, size, 0) == (ssize_t)half);
    FAILS(pread(fd, at + half, size, 0), EFAULT);
    CHECK(mprotect(at, half, PROT_NONE) == 0);
    FAILS(pread(fd, at, size, 0), EFAULT);
    CHECK(mprotect(at, half, PROT_READ) == 0);
    compare(at, 0, half);
    munmap(at, size + PAGE);
    unsigned char *shared = map(size, PROT_READ | PROT_WRITE, MAP_SHARED);
    into(shared, 0, size);
    munmap(shared, size);
    unsigned char *loose = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    into(loose, 0, size);
    munmap(loose, size);
    /* A private mapping of the file itself: its pages become the process's. */
    unsigned char *own = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(own != MAP_FAILED);
    CHECK(pread(fd, own, size - EDGE, EDGE) == (ssize_t)(size - EDGE));
    compare(own, EDGE, size - EDGE);
    munmap(own, size);
}

/* What is written, cut off and grown is read at once. */
static void while_it_changes(const char *name) {
    unsigned char *at = private_memory(2 * size);
    int file = open("changing", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK(file >= 0 && write(file, expected, size) == (ssize_t)size);
    /* Opened again, it is known to be large. */
    CHECK(close(file) == 0 && (file = open("changing", O_RDWR)) >= 0);
    uint64_t seed = 1;
    size_t now = size;
    for (int round = 0; round < 12; round++) {
        CHECK(pread(file, at, 2 * size, 0) == (ssize_t)now);
        printf("%s changed: %zu bytes, %016llx\n", name, now,
               (unsigned long long)digest(DIGEST_START, at, now));
        size_t where = next_random(&seed) % now;
        if (round % 3 == 0) {
            CHECK(ftruncate(file, (off_t)where) == 0);
            now = where;
        } else if (round % 3 == 1) {
            CHECK(ftruncate(file, (off_t)size) == 0);
            now = size;
        } else {
            size_t len = next_random(&seed) % (size / 2);
            CHECK(pwrite(file, expected, len, (off_t)where) == (ssize_t)len);
            now = where + len > now ? where + len : now;
        }
        CHECK(pread(file, at, 2 * size, 0) == (ssize_t)now);
    }
    CHECK(close(file) == 0);
    munmap(at, 2 * size);
}

struct worker {
    long id, of;
    unsigned char *memory;
};

/* Pages are shared: each thread's bytes begin and end inside some. */
static void *share(void *argument) {
    struct worker *w = argument;
    size_t part = size / (size_t)w->of, first = part * (size_t)w->id;
    unsigned char *mine = w->memory + first;
    for (int round = 0; round < 6; round++) {
        CHECK(pread(fd, mine, part, (off_t)first) == (ssize_t)part);
        compare(mine, first, part);
        for (size_t n = 0; n < part; n += 1 + (size_t)round * 511)
            mine[n] ^= (unsigned char)(w->id + 1);
        for (size_t n = 0; n < part; n += 1 + (size_t)round * 511)
            CHECK(mine[n] == (unsigned char)(expected[first + n] ^ (w->id + 1)));
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc > 1);
    int threads = (int)number(argc, argv, 2, 2);
    CHECK(threads > 0 && threads <= MAX_THREADS);
    fd = open(argv[1], O_RDONLY);
    struct stat info;
    CHECK(fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 600000);
    size = (size_t)info.st_size;
    expected = private_memory(size);
    /* By small reads, which go another way. */
    for (size_t done = 0; done < size;) {
        ssize_t got = read(fd, expected + done, 30000);
        CHECK(got > 0);
        done += (size_t)got;
    }
    alignments();
    among_others();
    scattered();
    where_it_cannot_go();
    while_it_changes(argv[1]);
    struct worker workers[MAX_THREADS];
    unsigned char *memory = private_memory(size);
    for (int n = 0; n < threads; n++)
        workers[n] = (struct worker){n, threads, memory};
    run_threads(threads, share, workers, sizeof *workers);
    printf("in parts: %016llx\n", (unsigned long long)digest(DIGEST_START, memory, size));
    return 0;
}
