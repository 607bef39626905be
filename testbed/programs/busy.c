/* Keeps remote memory and files in use until it is stopped, printing a line a
 * round: busy MEGABYTES [ROUNDS] [FILE]. What it reads must be what it wrote. */
#include "common.h"
#include <fcntl.h>
#include <unistd.h>

enum { PAGE = 4096 };

static int touch_file(const char *path, uint64_t round) {
    uint64_t back = 0;
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return -1;
    int good = pwrite(fd, &round, sizeof round, 0) == sizeof round && fsync(fd) == 0 &&
               pread(fd, &back, sizeof back, 0) == sizeof back;
    int seen = errno;
    close(fd);
    errno = seen;
    return good && back == round ? 0 : -1;
}

int main(int argc, char **argv) {
    size_t pages = (size_t)number(argc, argv, 1, 16) << 8;
    uint64_t rounds = (uint64_t)number(argc, argv, 2, 1000000);
    unsigned char *memory = malloc(pages * PAGE);
    CHECK(memory);
    memset(memory, 0, pages * PAGE);
    for (uint64_t round = 1; round <= rounds; round++) {
        for (size_t i = 0; i < pages; i++) {
            CHECK(memory[i * PAGE] == (unsigned char)(round - 1));
            memory[i * PAGE] = (unsigned char)round;
        }
        if (argc > 3 && touch_file(argv[3], round) != 0) {
            printf("file: %s\n", strerror(errno));
            return 5;
        }
        printf("round %llu\n", (unsigned long long)round);
        fflush(stdout);
    }
    return 0;
}
