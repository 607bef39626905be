/* One file, seen through a shared mapping and through calls: samefile DIRECTORY.
 * What one side writes the other reads, also where the file grows meanwhile. */
#include "common.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, PRESSURE = 8 << 20 };

static sigjmp_buf back;

static void jump(int sig) {
    siglongjmp(back, sig);
}

/* The byte at `at`, or minus the signal that reading it raises. */
static int look(const volatile unsigned char *at) {
    int sig = sigsetjmp(back, 1);
    return sig ? -sig : *at;
}

static int read_byte(int fd, off_t at) {
    unsigned char byte;
    CHECK(pread(fd, &byte, 1, at) == 1);
    return byte;
}

static void write_byte(int fd, off_t at, unsigned char byte) {
    CHECK(pwrite(fd, &byte, 1, at) == 1);
}

/* So much else that the mapped pages leave the cache. */
static void press(unsigned char *memory) {
    for (size_t i = 0; i < PRESSURE; i += PAGE)
        memory[i]++;
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && chdir(argv[1]) == 0);
    CHECK(signal(SIGBUS, jump) != SIG_ERR);
    int fd = open("same", O_RDWR | O_CREAT | O_EXCL, 0644);
    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    unsigned char *map =
        mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *other = malloc(PRESSURE);
    CHECK(map != MAP_FAILED && other != NULL);

    map[7] = 1;
    printf("stored %d, read %d\n", map[7], read_byte(fd, 7));
    write_byte(fd, 7, 2);
    printf("written 2, mapped %d\n", look(map + 7));
    map[8] = 3;
    write_byte(fd, 9, 4);
    printf("side by side %d %d\n", look(map + 8), read_byte(fd, 9));
    CHECK(fsync(fd) == 0);

    printf("beyond the end %d\n", look(map + PAGE));
    write_byte(fd, 3 * PAGE + 5, 5);
    printf("grown %d %d %d\n", look(map + PAGE), look(map + 3 * PAGE + 5), look(map + 4 * PAGE));
    map[2 * PAGE] = 6;
    press(other);
    printf("after a while %d %d\n", read_byte(fd, 2 * PAGE), look(map + 2 * PAGE));

    for (int page = 0; page < PAGES; page++)
        write_byte(fd, (off_t)page * PAGE + 11, (unsigned char)page);
    for (int page = 0; page < PAGES; page++)
        map[page * PAGE + 12] = (unsigned char)(page + 1);
    CHECK(close(fd) == 0);
    fd = open("same", O_RDWR);
    CHECK(fd >= 0);
    int wrong = 0;
    for (int page = 0; page < PAGES; page++)
        wrong += look(map + page * PAGE + 11) != page ||
                 read_byte(fd, (off_t)page * PAGE + 12) != page + 1;
    printf("%d of %d pages differ\n", wrong, PAGES);

    CHECK(ftruncate(fd, 2 * PAGE) == 0);
    printf("cut %d %d\n", look(map + PAGE + 11), look(map + 2 * PAGE + 11));
    CHECK(munmap(map, PAGES * PAGE) == 0 && close(fd) == 0);
    free(other);
    return 0;
}
