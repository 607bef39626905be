/* Makes, lists, renames, links and removes: directories DIRECTORY (empty). */
#include "common.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MANY = 500 };

static void touch(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0640);
    CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && close(fd) == 0);
}

static struct stat look(const char *path) {
    struct stat info;
    CHECK(lstat(path, &info) == 0);
    return info;
}

/* Names in a directory, and a sum over them that does not depend on order. */
static long list(const char *path, uint64_t *sum) {
    DIR *d = opendir(path);
    struct dirent *e;
    long names = 0;
    CHECK(d);
    *sum = 0;
    while (errno = 0, (e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) {
            CHECK(e->d_type == DT_DIR || e->d_type == DT_UNKNOWN);
            continue;
        }
        *sum += digest(DIGEST_START, e->d_name, strlen(e->d_name));
        names++;
    }
    CHECK(errno == 0 && closedir(d) == 0);
    return names;
}

static void many_files(void) {
    char name[64];
    uint64_t sum;
    CHECK(mkdir("many", 0755) == 0);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/a-file-with-a-longish-name-%d", i);
        touch(name, name);
    }
    CHECK(list("many", &sum) == MANY);
    printf("%d names, sum %016llx\n", MANY, (unsigned long long)sum);
    for (int i = 0; i < MANY; i += 2) {
        snprintf(name, sizeof name, "many/a-file-with-a-longish-name-%d", i);
        CHECK(unlink(name) == 0);
    }
    FAILS(rmdir("many"), ENOTEMPTY);
    CHECK(list("many", &sum) == MANY / 2);
    printf("%d names, sum %016llx\n", MANY / 2, (unsigned long long)sum);
}

static void renames(void) {
    touch("one", "1");
    touch("two", "2");
    CHECK(rename("one", "two") == 0 && look("two").st_size == 1);
    FAILS(access("one", F_OK), ENOENT);
    CHECK(mkdir("below", 0700) == 0 && rename("two", "below/two") == 0);
    CHECK(rename("below", "under") == 0 && access("under/two", R_OK | W_OK) == 0);
    FAILS(rename("under", "under/itself"), EINVAL);
    FAILS(rename("absent", "present"), ENOENT);
    FAILS(mkdir("under", 0700), EEXIST);
    FAILS(rmdir("under/two"), ENOTDIR);
    FAILS(unlink("absent"), ENOENT);
}

static void links(void) {
    char target[PATH_MAX];
    touch("original", "original");
    CHECK(link("original", "hard") == 0 && look("original").st_nlink == 2);
    CHECK(look("original").st_ino == look("hard").st_ino);
    CHECK(symlink("original", "soft") == 0 && S_ISLNK(look("soft").st_mode));
    ssize_t length = readlink("soft", target, sizeof target);
    CHECK(length == 8 && memcmp(target, "original", 8) == 0);
    CHECK(readlink("soft", target, 3) == 3);
    FAILS(readlink("original", target, sizeof target), EINVAL);
    CHECK(symlink("loop", "loop") == 0);
    FAILS(open("loop", O_RDONLY), ELOOP);
    FAILS(open("soft", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK(symlink("nowhere", "dangling") == 0);
    FAILS(open("dangling", O_RDONLY), ENOENT);
    CHECK(unlink("hard") == 0 && look("original").st_nlink == 1);
}

static void attributes(void) {
    struct stat info;
    struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    touch("attributes", "x");
    CHECK(chmod("attributes", 0604) == 0 && (look("attributes").st_mode & 07777) == 0604);
    CHECK(utimensat(AT_FDCWD, "attributes", times, 0) == 0);
    info = look("attributes");
    CHECK(info.st_atim.tv_sec == 1000000000 && info.st_mtim.tv_nsec == 987654321);
    umask(027);
    CHECK(mkdir("masked", 0777) == 0 && (look("masked").st_mode & 07777) == 0750);
    struct statvfs file_system;
    CHECK(statvfs(".", &file_system) == 0 && file_system.f_bsize > 0);
    CHECK(file_system.f_namemax == 255);
}

/* A file that lost its name lives as long as it is open. */
static void open_unlinked(void) {
    char text[8] = "";
    struct stat info;
    int fd = open("ghost", O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0 && write(fd, "boo", 3) == 3 && unlink("ghost") == 0);
    FAILS(access("ghost", F_OK), ENOENT);
    CHECK(write(fd, "hoo", 3) == 3 && pread(fd, text, 8, 0) == 6);
    CHECK(memcmp(text, "boohoo", 6) == 0 && fstat(fd, &info) == 0);
    CHECK(info.st_nlink == 0 && info.st_size == 6 && close(fd) == 0);
}

static void walking(void) {
    char path[PATH_MAX];
    CHECK(mkdir("deep", 0755) == 0 && chdir("deep") == 0 && getcwd(path, sizeof path));
    CHECK(strcmp(strrchr(path, '/'), "/deep") == 0);
    touch("here", "here");
    int fd = open("..", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0 && faccessat(fd, "deep/here", F_OK, 0) == 0);
    CHECK(mkdirat(fd, "at", 0755) == 0 && unlinkat(fd, "at", AT_REMOVEDIR) == 0);
    CHECK(openat(fd, "absent", O_RDONLY) == -1 && errno == ENOENT);
    CHECK(fchdir(fd) == 0 && close(fd) == 0 && access("deep/../deep/./here", F_OK) == 0);
    FAILS(chdir("deep/here"), ENOTDIR);
    FAILS((intptr_t)getcwd(path, 2) - 1, ERANGE);
}

static void long_names(void) {
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    touch(name, "");
    CHECK(unlink(name) == 0);
    name[255] = 'n';
    name[256] = 0;
    FAILS(open(name, O_WRONLY | O_CREAT, 0600), ENAMETOOLONG);
    FAILS(open("", O_RDONLY), ENOENT);
}

int main(int argc, char **argv) {
    CHECK(argc == 2 && chdir(argv[1]) == 0);
    umask(022);
    many_files();
    renames();
    links();
    open_unlinked();
    walking();
    long_names();
    attributes();
    uint64_t sum;
    printf("%ld names left", list(".", &sum));
    printf(", sum %016llx\n", (unsigned long long)sum);
    return 0;
}
