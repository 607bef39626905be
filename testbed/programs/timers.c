/* Clocks, sleeps and timers, judged by order and count, never by speed: timers. */
#include "common.h"
#include <poll.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MS = 1000000 };

static volatile sig_atomic_t calls, value;

static void count(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    value = info->si_value.sival_int;
    calls++;
}

static void handle(int signal) {
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(signal, &action, NULL) == 0);
    calls = 0;
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0 && t.tv_nsec >= 0 && t.tv_nsec < 1000 * MS);
    return (int64_t)t.tv_sec * 1000 * MS + t.tv_nsec;
}

static void clocks(void) {
    clockid_t all[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID,
                       CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                       CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME};
    struct timespec resolution;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CHECK(clock_getres(all[i], &resolution) == 0 && resolution.tv_sec == 0);
        CHECK(now(all[i]) > 0);
    }
    int64_t before = now(CLOCK_MONOTONIC);
    for (int i = 0; i < 10000; i++) {
        int64_t after = now(CLOCK_MONOTONIC);
        CHECK(after >= before);
        before = after;
    }
    struct timeval of_day;
    CHECK(gettimeofday(&of_day, NULL) == 0);
    CHECK(llabs(now(CLOCK_REALTIME) / (1000 * MS) - of_day.tv_sec) <= 2);
    CHECK(labs(time(NULL) - of_day.tv_sec) <= 2);
    FAILS(clock_gettime(77, &resolution), EINVAL);
    puts("clocks");
}

static void sleeps(void) {
    struct timespec wait = {0, 30 * MS}, bad = {0, 1000 * MS};
    int64_t before = now(CLOCK_MONOTONIC);
    CHECK(nanosleep(&wait, NULL) == 0 && now(CLOCK_MONOTONIC) - before >= 30 * MS);
    FAILS(nanosleep(&bad, NULL), EINVAL);
    CHECK(usleep(10000) == 0 && now(CLOCK_MONOTONIC) - before >= 40 * MS);
    int64_t until = now(CLOCK_MONOTONIC) + 25 * MS;
    struct timespec absolute = {until / (1000 * MS), until % (1000 * MS)};
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute, NULL) == 0);
    CHECK(now(CLOCK_MONOTONIC) >= until);
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute, NULL) == 0);
    puts("sleeps");
}

static void interval_timer(void) {
    handle(SIGALRM);
    struct itimerval every = {{0, 5000}, {0, 5000}}, off = {{0, 0}, {0, 0}}, old;
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    while (calls < 5)
        pause();
    CHECK(setitimer(ITIMER_REAL, &off, &old) == 0 && old.it_interval.tv_usec == 5000);
    int seen = calls;
    usleep(20000);
    CHECK(calls <= seen + 1); /* one may have been on its way */
    /* A sleep cut short tells what is left of it. */
    struct itimerval once = {{0, 0}, {0, 10000}};
    struct timespec wait = {100, 0}, left = {0, 0};
    calls = 0;
    CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
    FAILS(nanosleep(&wait, &left), EINTR);
    CHECK(calls == 1 && left.tv_sec <= 100 && left.tv_sec > 0);
    CHECK(alarm(100) == 0 && alarm(0) > 0);
    puts("interval timer");
}

static void cpu_timer(void) {
    handle(SIGVTALRM);
    struct itimerval once = {{0, 0}, {0, 10000}};
    CHECK(setitimer(ITIMER_VIRTUAL, &once, NULL) == 0);
    for (volatile long spin = 0; calls == 0; spin++)
        ;
    puts("CPU timer");
}

static void posix_timer(void) {
    handle(SIGRTMIN + 2);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL,
                             .sigev_signo = SIGRTMIN + 2,
                             .sigev_value = {.sival_int = 4711}};
    struct itimerspec every = {{0, 5 * MS}, {0, 5 * MS}}, off = {{0, 0}, {0, 0}}, left;
    timer_t timer;
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &every, NULL) == 0);
    while (calls < 3)
        pause();
    CHECK(value == 4711 && timer_getoverrun(timer) >= 0 && timer_gettime(timer, &left) == 0);
    CHECK(left.it_interval.tv_nsec == 5 * MS);
    CHECK(timer_settime(timer, 0, &off, NULL) == 0 && timer_delete(timer) == 0);
    puts("POSIX timer");
}

static void descriptor_timer(void) {
    uint64_t fired = 0;
    struct itimerspec every = {{0, 2 * MS}, {0, 2 * MS}};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    CHECK(fd >= 0 && read(fd, &fired, 8) == -1 && errno == EAGAIN);
    CHECK(timerfd_settime(fd, 0, &every, NULL) == 0);
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    CHECK(poll(&wait, 1, 10000) == 1 && wait.revents == POLLIN);
    CHECK(read(fd, &fired, 8) == 8 && fired >= 1);
    FAILS(read(fd, &fired, 4), EINVAL);
    CHECK(close(fd) == 0);
    puts("descriptor timer");
}

static void timed_waits(void) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never = PTHREAD_COND_INITIALIZER;
    int64_t until = now(CLOCK_REALTIME) + 20 * MS;
    struct timespec deadline = {until / (1000 * MS), until % (1000 * MS)};
    CHECK(pthread_mutex_lock(&lock) == 0);
    CHECK(pthread_cond_timedwait(&never, &lock, &deadline) == ETIMEDOUT);
    CHECK(now(CLOCK_REALTIME) >= until && pthread_mutex_unlock(&lock) == 0);
    struct pollfd none;
    int64_t before = now(CLOCK_MONOTONIC);
    CHECK(poll(&none, 0, 15) == 0 && now(CLOCK_MONOTONIC) - before >= 15 * MS);
    puts("timed waits");
}

int main(void) {
    clocks();
    sleeps();
    interval_timer();
    cpu_timer();
    posix_timer();
    descriptor_timer();
    timed_waits();
    return 0;
}
