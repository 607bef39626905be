/* Grows the main stack and those of threads: stack [MEGABYTES] [THREADS]. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>

enum { FRAME = 1000, MAX_THREADS = 16 };

static long deepest;

/* Not a tail call: the frame is checked after the inner call returns. */
static __attribute__((noinline)) uint64_t descend(long levels, uint64_t so_far) {
    volatile unsigned char frame[FRAME];
    frame[0] = (unsigned char)levels;
    frame[FRAME - 1] = (unsigned char)~levels;
    uint64_t below = levels > 0 ? descend(levels - 1, so_far * 31 + (uint64_t)levels) : so_far;
    CHECK(frame[0] == (unsigned char)levels && frame[FRAME - 1] == (unsigned char)~levels);
    return below + frame[0];
}

/* One frame that skips far past the page that was touched last. */
static __attribute__((noinline)) uint64_t leap(size_t size) {
    volatile unsigned char frame[size];
    frame[0] = 1;
    return frame[0];
}

static void *thread_body(void *argument) {
    uint64_t *result = argument;
    *result = descend(deepest, *result);
    return NULL;
}

/* musl's threads have 128 KiB unless they ask for more. */
static void run_with_stacks(int n, uint64_t *results) {
    pthread_t ids[MAX_THREADS];
    pthread_attr_t attributes;
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, 8 << 20) == 0);
    for (int i = 0; i < n; i++)
        CHECK(pthread_create(&ids[i], &attributes, thread_body, &results[i]) == 0);
    for (int i = 0; i < n; i++)
        CHECK(pthread_join(ids[i], NULL) == 0);
}

static sigjmp_buf recovery;

static void jump(int signal) {
    (void)signal;
    siglongjmp(recovery, 1);
}

static __attribute__((noinline)) long overflow(volatile long level, long end) {
    volatile unsigned char frame[FRAME];
    frame[level % FRAME] = 1;
    return level == end ? 0 : overflow(level + 1, end) + frame[level % FRAME];
}

/* The end of the stack is a SIGSEGV that a handler on another stack sees. */
static void overflowing(void) {
    static unsigned char other[64 << 10];
    stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    struct sigaction action = {.sa_handler = jump, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&stack, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
    if (sigsetjmp(recovery, 1) == 0)
        CHECK(overflow(1, 1L << 40) == -1);
    puts("overflow noticed");
}

int main(int argc, char **argv) {
    long megabytes = number(argc, argv, 1, 6);
    int threads = (int)number(argc, argv, 2, 2);
    uint64_t results[MAX_THREADS] = {0};
    struct rlimit limit;
    CHECK(threads <= MAX_THREADS && getrlimit(RLIMIT_STACK, &limit) == 0);
    deepest = (megabytes << 20) / (FRAME + 100);
    printf("main: %016llx\n", (unsigned long long)descend(deepest, 1));
    printf("leap: %llu\n", (unsigned long long)leap(3 << 20));
    for (int i = 0; i < threads; i++)
        results[i] = (uint64_t)i;
    run_with_stacks(threads, results);
    for (int i = 0; i < threads; i++)
        printf("thread %d: %016llx\n", i, (unsigned long long)results[i]);
    overflowing();
    return 0;
}
