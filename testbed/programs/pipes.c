/* Pipes, socket pairs, poll, select and epoll inside one process: pipes. */
#include "common.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { TRANSFER = 3 << 20, CHUNK = 70001 };

static void *feed(void *argument) {
    int fd = *(int *)argument;
    static unsigned char buffer[CHUNK];
    uint64_t seed = 1;
    for (size_t sent = 0; sent < TRANSFER;) {
        size_t size = TRANSFER - sent < CHUNK ? TRANSFER - sent : CHUNK;
        for (size_t i = 0; i < size; i++)
            buffer[i] = (unsigned char)next_random(&seed);
        for (size_t done = 0; done < size;) {
            ssize_t n = write(fd, buffer + done, size - done);
            CHECK(n > 0);
            done += (size_t)n;
        }
        sent += size;
    }
    CHECK(close(fd) == 0);
    return NULL;
}

/* A thread writes more than a pipe holds, this one reads until the end. */
static void transfer(const char *name, int from, int to) {
    static unsigned char buffer[30011];
    pthread_t id;
    uint64_t seed = 1;
    size_t received = 0;
    ssize_t n;
    CHECK(pthread_create(&id, NULL, feed, &to) == 0);
    while ((n = read(from, buffer, sizeof buffer)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            CHECK(buffer[i] == (unsigned char)next_random(&seed));
        received += (size_t)n;
    }
    CHECK(n == 0 && pthread_join(id, NULL) == 0 && close(from) == 0);
    printf("%s: %zu bytes\n", name, received);
}

static void broken(void) {
    int ends[2];
    CHECK(pipe(ends) == 0 && close(ends[0]) == 0);
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    FAILS(write(ends[1], "x", 1), EPIPE);
    struct pollfd wait = {.fd = ends[1], .events = POLLOUT};
    CHECK(poll(&wait, 1, 0) == 1 && wait.revents & POLLERR);
    FAILS(lseek(ends[1], 0, SEEK_SET), ESPIPE);
    CHECK(close(ends[1]) == 0);
}

static void not_blocking(void) {
    int ends[2], ready;
    char byte;
    CHECK(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
    FAILS(read(ends[0], &byte, 1), EAGAIN);
    size_t filled = 0;
    while (write(ends[1], "0123456789abcdef", 16) == 16)
        filled += 16;
    CHECK(errno == EAGAIN && ioctl(ends[0], FIONREAD, &ready) == 0 && (size_t)ready == filled);
    CHECK(fcntl(ends[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
    struct pollfd waits[2] = {{.fd = ends[0], .events = POLLIN}, {.fd = ends[1], .events = POLLOUT}};
    CHECK(poll(waits, 2, -1) == 1 && waits[0].revents == POLLIN && waits[1].revents == 0);
    printf("a pipe holds %zu\n", filled);
    close(ends[0]);
    close(ends[1]);
}

static void selecting(void) {
    int ends[2];
    fd_set set;
    struct timeval none = {0, 0};
    CHECK(pipe(ends) == 0);
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    CHECK(select(ends[0] + 1, &set, NULL, NULL, &none) == 0 && !FD_ISSET(ends[0], &set));
    CHECK(write(ends[1], "x", 1) == 1);
    FD_SET(ends[0], &set);
    CHECK(select(ends[0] + 1, &set, NULL, NULL, NULL) == 1 && FD_ISSET(ends[0], &set));
    struct pollfd wrong = {.fd = 999, .events = POLLIN};
    CHECK(poll(&wrong, 1, 0) == 1 && wrong.revents == POLLNVAL);
    close(ends[0]);
    close(ends[1]);
    puts("select");
}

static void *signal_event(void *argument) {
    uint64_t one = 1;
    usleep(10000);
    CHECK(write(*(int *)argument, &one, sizeof one) == sizeof one);
    return NULL;
}

static void events(void) {
    pthread_t id;
    uint64_t value;
    int epoll = epoll_create1(EPOLL_CLOEXEC), event = eventfd(0, EFD_NONBLOCK);
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 0x1234567812345678}, seen;
    CHECK(epoll >= 0 && event >= 0);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) == 0);
    FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted), EEXIST);
    CHECK(epoll_wait(epoll, &seen, 1, 0) == 0);
    CHECK(pthread_create(&id, NULL, signal_event, &event) == 0);
    CHECK(epoll_wait(epoll, &seen, 1, -1) == 1 && seen.data.u64 == wanted.data.u64);
    CHECK(read(event, &value, sizeof value) == sizeof value && value == 1);
    CHECK(pthread_join(id, NULL) == 0 && close(event) == 0 && close(epoll) == 0);
    puts("epoll and eventfd");
}

static void vectors(void) {
    int ends[2];
    char a[3], b[5];
    struct iovec out[2] = {{"abc", 3}, {"defgh", 5}}, in[2] = {{a, 3}, {b, 5}};
    CHECK(pipe(ends) == 0 && writev(ends[1], out, 2) == 8 && readv(ends[0], in, 2) == 8);
    CHECK(memcmp(a, "abc", 3) == 0 && memcmp(b, "defgh", 5) == 0);
    close(ends[0]);
    close(ends[1]);
}

int main(void) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    transfer("pipe", ends[0], ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    transfer("socket pair", ends[0], ends[1]);
    broken();
    not_blocking();
    selecting();
    events();
    vectors();
    return 0;
}
