/* Prints what the kernel hands to a program: environment [ARGUMENTS]. What
 * differs between any two runs (addresses, random bytes) is checked only. */
#include "common.h"
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void arguments(int argc, char **argv) {
    printf("%d arguments\n", argc);
    for (int i = 1; i < argc; i++)
        printf("argument %d: [%s]\n", i, argv[i]);
    CHECK(argv[argc] == NULL);
}

static void variables(void) {
    uint64_t sum = 0;
    int count = 0;
    for (char **e = environ; *e; e++, count++)
        sum += digest(DIGEST_START, *e, strlen(*e));
    printf("%d variables, sum %016llx\n", count, (unsigned long long)sum);
    CHECK(setenv("NEW_VARIABLE", "1", 1) == 0 && getenv("NEW_VARIABLE"));
}

static void auxiliary_vector(void) {
    CHECK(getauxval(AT_PAGESZ) == 4096 && sysconf(_SC_PAGESIZE) == 4096);
    CHECK(getauxval(AT_PHENT) == sizeof(Elf64_Phdr) && getauxval(AT_PHNUM) > 0);
    CHECK(getauxval(AT_CLKTCK) == 100 && getauxval(AT_SECURE) == 0);
    CHECK(getauxval(AT_UID) == getuid() && getauxval(AT_EGID) == getegid());
    const Elf64_Phdr *headers = (const Elf64_Phdr *)getauxval(AT_PHDR);
    int loads = 0;
    for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
        loads += headers[i].p_type == PT_LOAD;
    CHECK(loads > 0 && getauxval(AT_ENTRY) != 0);
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    int bits = 0;
    for (int i = 0; i < 16; i++)
        bits |= random[i];
    CHECK(bits != 0);
    CHECK(strcmp((const char *)getauxval(AT_PLATFORM), "x86_64") == 0);
    printf("executable ends in %s\n", strrchr((const char *)getauxval(AT_EXECFN), '/'));
    printf("hardware %lx\n", getauxval(AT_HWCAP));
}

static void vdso(void) {
    const unsigned char *image = (const unsigned char *)getauxval(AT_SYSINFO_EHDR);
    CHECK(image == NULL || memcmp(image, ELFMAG, SELFMAG) == 0);
    struct timespec before, after;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &before) == 0);
    for (int i = 0; i < 100000; i++)
        CHECK(clock_gettime(CLOCK_MONOTONIC, &after) == 0);
    CHECK(after.tv_sec > before.tv_sec ||
          (after.tv_sec == before.tv_sec && after.tv_nsec >= before.tv_nsec));
    puts("clock");
}

static void identity(void) {
    struct utsname name;
    char path[4096];
    CHECK(uname(&name) == 0 && strcmp(name.sysname, "Linux") == 0);
    CHECK(strcmp(name.machine, "x86_64") == 0 && getpid() > 0 && getppid() >= 0);
    CHECK(getuid() == geteuid() && getpgrp() > 0);
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    CHECK(length > 0);
    path[length] = 0;
    printf("/proc/self/exe ends in %s\n", strrchr(path, '/'));
    CHECK(getcwd(path, sizeof path) && path[0] == '/');
    printf("working directory %s\n", path);
}

static void machine(void) {
    struct sysinfo info;
    struct rlimit limit;
    CHECK(sysinfo(&info) == 0 && info.totalram > 0 && info.procs > 0);
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 64);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    CHECK(online >= 1 && sysconf(_SC_NPROCESSORS_CONF) >= online);
    printf("%ld processors\n", online);
}

/* The first bytes of a file that the kernel makes up, or -1. */
static ssize_t slurp(const char *path, char *text, size_t room) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    size_t length = 0;
    ssize_t n;
    while (length < room - 1 && (n = read(fd, text + length, room - 1 - length)) > 0)
        length += (size_t)n;
    text[length] = 0;
    close(fd);
    return (ssize_t)length;
}

static void pseudo_files(void) {
    static char text[1 << 16];
    CHECK(slurp("/proc/self/maps", text, sizeof text) > 0);
    CHECK(strstr(text, "[stack]") && strstr(text, "/environment"));
    CHECK(slurp("/proc/self/cmdline", text, sizeof text) > 0 && strstr(text, "environment"));
    CHECK(slurp("/proc/self/status", text, sizeof text) > 0 && strstr(text, "\nVmRSS:"));
    CHECK(slurp("/proc/self/stat", text, sizeof text) > 0 && atoi(text) == getpid());
    CHECK(slurp("/proc/cpuinfo", text, sizeof text) > 0 && strstr(text, "processor\t: 0"));
    CHECK(slurp("/proc/meminfo", text, sizeof text) > 0 && strncmp(text, "MemTotal:", 9) == 0);
    CHECK(slurp("/proc/sys/vm/overcommit_memory", text, sizeof text) == 2);
    CHECK(slurp("/sys/devices/system/cpu/online", text, sizeof text) > 0 && text[0] == '0');
    CHECK(slurp("/dev/null", text, sizeof text) == 0);
    CHECK(slurp("/dev/zero", text, 5000) == 4999 && text[4000] == 0);
    CHECK(slurp("/dev/urandom", text, 5000) == 4999);
    int full = open("/dev/full", O_WRONLY);
    FAILS(write(full, "x", 1), ENOSPC);
    CHECK(close(full) == 0);
    struct stat info;
    CHECK(stat("/dev/null", &info) == 0 && S_ISCHR(info.st_mode));
    puts("pseudo-files");
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    variables();
    auxiliary_vector();
    vdso();
    identity();
    machine();
    pseudo_files();
    return 0;
}
