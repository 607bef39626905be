/* Says "ready" and waits for SIGINT, SIGTERM, SIGUSR1 or SIGHUP, whose number
 * it prints before it ends with status 7: patience [wait|default|spin].
 * With `default` nothing is handled; `spin` waits without a system call. */
#include "common.h"
#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t seen;

static void note(int signal) {
    seen = signal;
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "wait";
    int handled[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};
    struct sigaction action = {.sa_handler = note};
    sigset_t block, old;
    sigemptyset(&block);
    for (size_t i = 0; strcmp(how, "default") != 0 && i < 4; i++) {
        CHECK(sigaction(handled[i], &action, NULL) == 0);
        sigaddset(&block, handled[i]);
    }
    if (strcmp(how, "spin") != 0)
        CHECK(sigprocmask(SIG_BLOCK, &block, &old) == 0);
    puts("ready");
    fflush(stdout);
    while (!seen)
        if (strcmp(how, "spin") != 0)
            sigsuspend(&old);
    printf("signal %d\n", (int)seen);
    return 7;
}
