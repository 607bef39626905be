/* setjmp, longjmp and contexts: jumps. */
#include "common.h"
#include <setjmp.h>
#include <signal.h>
#ifdef __GLIBC__
#include <ucontext.h>
#endif

static jmp_buf place;

static void __attribute__((noreturn)) jump_from_depth(int levels, int value) {
    if (levels == 0)
        longjmp(place, value);
    jump_from_depth(levels - 1, value);
}

static void plain_jumps(void) {
    volatile int landed = 0;
    for (volatile int i = 0; i < 1000; i++) {
        int value = setjmp(place);
        if (value == 0)
            jump_from_depth(i % 50, i + 1);
        landed += value;
    }
    CHECK(setjmp(place) == 0 || landed > 0);
    printf("landed %d\n", landed);
}

static void masks(void) {
    sigjmp_buf with_mask;
    sigset_t block, now;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    if (sigsetjmp(with_mask, 1) == 0) {
        CHECK(sigprocmask(SIG_BLOCK, &block, NULL) == 0);
        siglongjmp(with_mask, 1);
    }
    CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && !sigismember(&now, SIGUSR1));
    puts("the mask came back");
}

#ifdef __GLIBC__
static ucontext_t home, away;
static int visits;

static void visit(int step) {
    for (int i = 0; i < 100; i++) {
        visits += step;
        CHECK(swapcontext(&away, &home) == 0);
    }
}

static void contexts(void) {
    static char stack[128 << 10];
    CHECK(getcontext(&away) == 0);
    away.uc_stack.ss_sp = stack;
    away.uc_stack.ss_size = sizeof stack;
    away.uc_link = &home;
    makecontext(&away, (void (*)(void))visit, 1, 3);
    for (int i = 0; i < 100; i++)
        CHECK(swapcontext(&home, &away) == 0);
    CHECK(visits == 300);
}
#else
static void contexts(void) {}
#endif

int main(void) {
    plain_jumps();
    masks();
    contexts();
    puts("contexts swapped");
    return 0;
}
