/*
 * Times of system calls: `syscalls FILE` prints nanoseconds a call, as JSON.
 * FILE has at least 1 MiB. Each figure is the median of several batches.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 21, PAGES = 256, PAGE = 4096 };

static int file;
static char page[PAGE];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void by_libc(unsigned n)
{
    (void)n;
    (void)getppid();
}

/* The number comes in a register: nothing that could be rewritten. */
static void by_number(unsigned n)
{
    (void)n;
    (void)syscall(SYS_getppid);
}

static void seek(unsigned n)
{
    if (lseek(file, n % PAGES, SEEK_SET) != n % PAGES)
        exit(3);
}

/* Not in sequence, so that nothing read ahead helps. */
static void read_page(unsigned n)
{
    off_t at = (off_t)(n * 167 % PAGES) * PAGE;
    if (pread(file, page, PAGE, at) != PAGE)
        exit(3);
}

static void read_clock(unsigned n)
{
    struct timespec t;
    (void)n;
    clock_gettime(CLOCK_MONOTONIC, &t);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(void (*call)(unsigned), unsigned calls)
{
    double batch[BATCHES];
    for (unsigned n = 0; n < 2 * PAGES; n++)
        call(n);
    for (int b = 0; b < BATCHES; b++) {
        double begun = now();
        for (unsigned n = 0; n < calls; n++)
            call(n);
        batch[b] = (now() - begun) / calls;
    }
    qsort(batch, BATCHES, sizeof *batch, ascending);
    return batch[BATCHES / 2];
}

int main(int argc, char **argv)
{
    if (argc != 2 || (file = open(argv[1], O_RDONLY)) < 0) {
        fprintf(stderr, "usage: syscalls FILE\n");
        return 2;
    }
    printf("{\"getppid\": %.1f, ", median(by_libc, 5000));
    printf("\"getppid, not rewritten\": %.1f, ", median(by_number, 1000));
    printf("\"lseek\": %.1f, ", median(seek, 5000));
    printf("\"pread of 4 KiB\": %.1f, ", median(read_page, 2000));
    printf("\"clock_gettime\": %.1f}\n", median(read_clock, 5000));
    return 0;
}
