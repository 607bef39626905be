/* hostcosts: its clock, and the CPUs that it runs on. */
#ifndef HOSTCPUS_H
#define HOSTCPUS_H

#include "common.h"
#include <sched.h>
#include <time.h>

/* Why there is no second one, if so. */
static char no_second_cpu[120];
static cpu_set_t allowed[8];
static int cpus[2] = {-1, -1}, one_core;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void pin(int cpu) {
    static _Thread_local cpu_set_t set[8];
    CPU_ZERO_S(sizeof set, set);
    CPU_SET_S(cpu, sizeof set, set);
    CHECK(sched_setaffinity(0, sizeof set, set) == 0);
}

/* Whether two CPUs are threads of one core, as far as the kernel says so. */
static int siblings(int cpu, int other) {
    char path[100];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *list = fopen(path, "re");
    int found = 0, first, last;
    while (list && !found && fscanf(list, "%d", &first) == 1) {
        if (fscanf(list, "-%d", &last) != 1)
            last = first;
        found = first <= other && other <= last;
        (void)!fscanf(list, ",");
    }
    if (list)
        fclose(list);
    return found;
}

/* The first CPU, and the next one that is of another core, or else any. */
static void choose_cpus(void) {
    CHECK(sched_getaffinity(0, sizeof allowed, allowed) == 0);
    for (int cpu = 0; cpu < (int)sizeof allowed * 8; cpu++) {
        if (!CPU_ISSET_S(cpu, sizeof allowed, allowed))
            continue;
        if (cpus[0] < 0)
            cpus[0] = cpu;
        else if (cpus[1] < 0 || one_core) {
            int same = siblings(cpus[0], cpu);
            if (cpus[1] < 0 || !same)
                cpus[1] = cpu, one_core = same;
        }
    }
    if (cpus[1] < 0)
        strcpy(no_second_cpu, "needs two CPUs, and this process may use one");
    pin(cpus[0]);
}

#endif
