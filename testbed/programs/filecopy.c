/* Copies a file in several ways and checks each copy: filecopy FILE DIRECTORY. */
#include "common.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHUNK = 50021, MAX_PATH = 4096 }; /* a prime: nothing stays aligned */

static const char *directory;
static unsigned char buffer[CHUNK];

static const char *in_directory(const char *name) {
    static char path[MAX_PATH];
    CHECK(snprintf(path, sizeof path, "%s/%s", directory, name) < MAX_PATH);
    return path;
}

static int create(const char *name, int flags) {
    int fd = open(in_directory(name), O_RDWR | O_CREAT | O_TRUNC | flags, 0644);
    CHECK(fd >= 0);
    return fd;
}

static off_t size_of(int fd) {
    struct stat info;
    CHECK(fstat(fd, &info) == 0);
    return info.st_size;
}

static uint64_t digest_all(int fd) {
    uint64_t sum = DIGEST_START;
    ssize_t n;
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    /* Whole multiples of the digest's word, so that chunking does not show. */
    while ((n = read(fd, buffer, 40000)) > 0)
        sum = digest(sum, buffer, (size_t)n);
    CHECK(n == 0);
    return sum;
}

static void report(const char *how, int copy, uint64_t expected) {
    uint64_t sum = digest_all(copy);
    CHECK(sum == expected);
    printf("%s: %lld bytes, %016llx\n", how, (long long)size_of(copy), (unsigned long long)sum);
    CHECK(close(copy) == 0);
}

static void copy_read_write(int from, uint64_t expected) {
    int to = create("read-write", 0);
    ssize_t n;
    CHECK(lseek(from, 0, SEEK_SET) == 0);
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        CHECK(write(to, buffer, (size_t)n) == n);
    report("read, write", to, expected);
}

/* In one call each way, from and to memory larger than a small cache. */
static void copy_at_once(int from, uint64_t expected) {
    int to = create("at-once", 0);
    size_t size = (size_t)size_of(from);
    unsigned char *whole = malloc(size);
    CHECK(whole && lseek(from, 0, SEEK_SET) == 0);
    CHECK(read(from, whole, size) == (ssize_t)size && write(to, whole, size) == (ssize_t)size);
    memset(whole, 0, size);
    CHECK(pread(to, whole, size, 0) == (ssize_t)size);
    CHECK(digest(DIGEST_START, whole, size) == expected);
    free(whole);
    report("at once", to, expected);
}

/* From the end backwards, so that the file first has a hole. */
static void copy_positional(int from, uint64_t expected) {
    int to = create("positional", 0);
    off_t size = size_of(from);
    for (off_t end = size; end > 0;) {
        off_t at = end > CHUNK ? end - CHUNK : 0;
        CHECK(pread(from, buffer, (size_t)(end - at), at) == end - at);
        CHECK(pwrite(to, buffer, (size_t)(end - at), at) == end - at);
        CHECK(size_of(to) == size);
        end = at;
    }
    CHECK(pread(from, buffer, 10, size) == 0 && pread(from, buffer, 10, size + CHUNK) == 0);
    report("pread, pwrite", to, expected);
}

static void copy_vectors(int from, uint64_t expected) {
    int to = create("vectors", 0);
    struct iovec parts[3] = {{buffer, 1}, {buffer + 1, 4095}, {buffer + 4096, CHUNK - 4096}};
    ssize_t n;
    CHECK(lseek(from, 0, SEEK_SET) == 0);
    while ((n = readv(from, parts, 3)) > 0) {
        struct iovec whole[2] = {{buffer, (size_t)n / 2}, {buffer + n / 2, (size_t)(n - n / 2)}};
        CHECK(writev(to, whole, 2) == n);
    }
    CHECK(n == 0);
    report("readv, writev", to, expected);
}

static void copy_append(int from, uint64_t expected) {
    int to = create("append", O_APPEND), second = open(in_directory("append"), O_WRONLY | O_APPEND);
    ssize_t n;
    CHECK(second >= 0 && lseek(from, 0, SEEK_SET) == 0);
    for (int turn = 0; (n = read(from, buffer, sizeof buffer)) > 0; turn++) {
        int fd = turn % 2 ? second : to;
        CHECK(lseek(fd, 0, SEEK_SET) == 0); /* of no effect on an append */
        CHECK(write(fd, buffer, (size_t)n) == n);
        CHECK(lseek(fd, 0, SEEK_CUR) == size_of(fd));
    }
    CHECK(close(second) == 0);
    report("append", to, expected);
}

static void copy_stdio(int from, uint64_t expected) {
    FILE *in = fdopen(dup(from), "r");
    FILE *out = fopen(in_directory("stdio"), "w");
    int c;
    CHECK(in && out && fseek(in, 0, SEEK_SET) == 0);
    while ((c = getc(in)) != EOF)
        putc(c, out);
    CHECK(fclose(in) == 0 && fclose(out) == 0);
    int to = open(in_directory("stdio"), O_RDONLY);
    CHECK(to >= 0);
    report("stdio", to, expected);
}

static void truncation(void) {
    int fd = create("truncated", 0);
    memset(buffer, 'q', 10000);
    CHECK(write(fd, buffer, 10000) == 10000);
    CHECK(ftruncate(fd, 5000) == 0 && size_of(fd) == 5000);
    CHECK(lseek(fd, 0, SEEK_CUR) == 10000 && read(fd, buffer, 10) == 0);
    CHECK(ftruncate(fd, 12000) == 0 && size_of(fd) == 12000);
    CHECK(pread(fd, buffer, 12000, 0) == 12000);
    for (int i = 0; i < 12000; i++)
        CHECK(buffer[i] == (i < 5000 ? 'q' : 0));
    CHECK(truncate(in_directory("truncated"), 6000) == 0 && size_of(fd) == 6000);
    FAILS(ftruncate(fd, -1), EINVAL);
    close(fd);
}

static void seeking(void) {
    int fd = create("seeking", 0);
    CHECK(lseek(fd, 100000, SEEK_SET) == 100000 && write(fd, "end", 3) == 3);
    CHECK(lseek(fd, -3, SEEK_END) == 100000 && read(fd, buffer, 10) == 3);
    CHECK(memcmp(buffer, "end", 3) == 0 && lseek(fd, -50001, SEEK_CUR) == 50002);
    CHECK(read(fd, buffer, 100) == 100 && buffer[0] == 0 && buffer[99] == 0);
    FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
    FAILS(lseek(fd, 0, 99), EINVAL);
    /* A descriptor and its duplicate share one offset, two opens do not. */
    int twin = dup(fd), other = open(in_directory("seeking"), O_RDONLY);
    CHECK(twin >= 0 && other >= 0 && lseek(twin, 7, SEEK_SET) == 7);
    CHECK(lseek(fd, 0, SEEK_CUR) == 7 && lseek(other, 0, SEEK_CUR) == 0);
    FAILS(write(other, "x", 1), EBADF);
    CHECK(close(fd) == 0 && lseek(twin, 0, SEEK_CUR) == 7);
    FAILS(lseek(fd, 0, SEEK_CUR), EBADF);
    CHECK(fsync(twin) == 0 && fdatasync(twin) == 0 && close(twin) == 0 && close(other) == 0);
}

static void opening(void) {
    int lowest = create("opening", 0);
    close(lowest);
    FAILS(open(in_directory("opening"), O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
    FAILS(open(in_directory("absent"), O_RDONLY), ENOENT);
    FAILS(open(in_directory("opening/below"), O_RDONLY), ENOTDIR);
    FAILS(open(in_directory("opening"), O_RDONLY | O_DIRECTORY), ENOTDIR);
    FAILS(open(directory, O_RDWR), EISDIR);
    int fd = open(directory, O_RDONLY);
    FAILS(read(fd, buffer, 10), EISDIR);
    CHECK(fd == lowest); /* the lowest free number */
    CHECK(fcntl(fd, F_GETFD) == 0 && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(fd, F_DUPFD, 77) == 77 && close(77) == 0);
    CHECK(dup2(fd, 88) == 88 && fcntl(88, F_GETFD) == 0 && close(88) == 0);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY && close(fd) == 0);
    FAILS(close(fd), EBADF);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    directory = argv[2];
    int from = open(argv[1], O_RDONLY);
    CHECK(from >= 0);
    uint64_t expected = digest_all(from);
    copy_read_write(from, expected);
    copy_at_once(from, expected);
    copy_positional(from, expected);
    copy_vectors(from, expected);
    copy_append(from, expected);
    copy_stdio(from, expected);
    truncation();
    seeking();
    opening();
    puts("truncation, seeking and opening as promised");
    return 0;
}
