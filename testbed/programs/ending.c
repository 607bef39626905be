/* Ends in a chosen way: ending HOW [NUMBER]. */
#include "common.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

static void flushed(void) {
    puts("atexit ran");
}

/* What write(2) took is in the file, however the program ends. */
static void leave_trace(void) {
    int fd = open("trace", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    for (int i = 0; i < 500; i++)
        CHECK(dprintf(fd, "line %d\n", i) > 0);
}

static void *end_all(void *argument) {
    exit((int)(intptr_t)argument);
}

static void *outlive(void *argument) {
    (void)argument;
    puts("the last thread ends the process");
    return NULL;
}

static void from_thread(long status) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, end_all, (void *)(intptr_t)status) == 0);
    for (;;)
        pause();
}

static void main_thread_first(void) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, outlive, NULL) == 0);
    pthread_exit(NULL);
}

static void write_to(volatile char *at) {
    *at = 1;
}

static void write_read_only(void) {
    char *at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    write_to(at);
}

static void run_data(void) {
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    memset(at, 0xc3, 4096); /* ret */
    ((void (*)(void))at)();
}

static int divide(volatile int by) {
    return 1000 / by;
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "return";
    long n = number(argc, argv, 2, 0);
    printf("ending by %s %ld\n", how, n);
    fflush(stdout);
    atexit(flushed);
    leave_trace();
    if (strcmp(how, "return") == 0)
        return (int)n;
    if (strcmp(how, "_exit") == 0)
        _exit((int)n);
    if (strcmp(how, "thread") == 0)
        from_thread(n);
    if (strcmp(how, "main-first") == 0)
        main_thread_first();
    if (strcmp(how, "signal") == 0)
        raise((int)n);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "null") == 0)
        write_to(NULL);
    if (strcmp(how, "kernel-address") == 0)
        write_to((char *)0xffff800000000000);
    if (strcmp(how, "read-only") == 0)
        write_read_only();
    if (strcmp(how, "no-exec") == 0)
        run_data();
    if (strcmp(how, "divide") == 0)
        return divide(0);
    if (strcmp(how, "illegal") == 0)
        __asm__ volatile("ud2");
    return 99; /* a signal that does not kill, or an unknown word */
}
