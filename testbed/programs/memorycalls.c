/* Memory calls beyond map and unmap, and code that is data first: memorycalls. */
#include "common.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PAGE = 4096, FUNCTIONS = 400 };

static char *map(size_t size, int prot, int flags) {
    char *at = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Address space is not memory: far more may be reserved than there is. */
static void reserve(void) {
    size_t size = (size_t)64 << 30;
    char *at = map(size, PROT_NONE, MAP_NORESERVE);
    for (size_t i = 0; i < 16; i++) {
        char *page = at + i * ((size_t)4 << 30) + i * PAGE;
        CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
        page[5] = (char)(i + 1);
    }
    for (size_t i = 0; i < 16; i++)
        CHECK(at[i * ((size_t)4 << 30) + i * PAGE + 5] == (char)(i + 1));
    CHECK(munmap(at, size) == 0);
    puts("reserved");
}

static void advice(void) {
    int kinds[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED};
    char *at = map(20 * PAGE, PROT_READ | PROT_WRITE, MAP_POPULATE);
    memset(at, 7, 20 * PAGE);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        CHECK(madvise(at, 20 * PAGE, kinds[i]) == 0);
    for (int i = 0; i < 20 * PAGE; i += 100)
        CHECK(at[i] == 7);
    CHECK(madvise(at, 10 * PAGE, MADV_FREE) == 0);
    at[0] = 9; /* writing takes the page back, whole or emptied */
    CHECK(at[0] == 9 && (at[1] == 7 || at[1] == 0) && at[10 * PAGE] == 7);
    CHECK(madvise(at + 10 * PAGE, 5 * PAGE, MADV_DONTNEED) == 0);
    CHECK(at[10 * PAGE] == 0 && at[15 * PAGE] == 7);
    FAILS(madvise(at + 1, PAGE, MADV_DONTNEED), EINVAL);
    FAILS(madvise(at, PAGE, 9999), EINVAL);
    CHECK(munmap(at, 20 * PAGE) == 0);
    FAILS(madvise(at, PAGE, MADV_DONTNEED), ENOMEM);
    puts("advised");
}

static void locking(void) {
    unsigned char resident[4] = {0};
    char *at = map(4 * PAGE, PROT_READ | PROT_WRITE, 0);
    CHECK(mlock(at, 2 * PAGE) == 0 && munlock(at, 2 * PAGE) == 0);
    at[0] = 1;
    CHECK(mincore(at, 4 * PAGE, resident) == 0);
    CHECK(munmap(at, 4 * PAGE) == 0);
    FAILS(mlock(at, PAGE), ENOMEM);
    FAILS(mincore(at, PAGE, resident), ENOMEM);
    puts("locked");
}

static void remapping(void) {
    char *at = map(300 * PAGE, PROT_READ | PROT_WRITE, 0);
    for (int i = 0; i < 300; i++)
        at[i * PAGE] = (char)i;
    CHECK(mremap(at, 300 * PAGE, 100 * PAGE, 0) == at);
    CHECK(mmap(at + 100 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
               -1, 0) == at + 100 * PAGE);
    FAILS((intptr_t)mremap(at, 100 * PAGE, 200 * PAGE, 0), ENOMEM);
    char *moved = mremap(at, 100 * PAGE, 3000 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != at);
    for (int i = 0; i < 3000; i++)
        CHECK(moved[i * PAGE] == (i < 100 ? (char)i : 0));
    FAILS((intptr_t)mremap(moved, 0, PAGE, MREMAP_MAYMOVE), EINVAL);
    FAILS((intptr_t)mremap(moved + 1, PAGE, PAGE, MREMAP_MAYMOVE), EINVAL);
    CHECK(munmap(moved, 3000 * PAGE) == 0);
    FAILS((intptr_t)mremap(moved, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
    puts("remapped");
}

/* Without fork, shared anonymous memory is memory. */
static void sharing(void) {
    char *at = mmap(NULL, 200 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    for (int i = 0; i < 200; i++)
        at[i * PAGE + i] = (char)(i + 1);
    for (int i = 0; i < 200; i++)
        CHECK(at[i * PAGE + i] == (char)(i + 1) && at[i * PAGE + i + 1] == 0);
    CHECK(munmap(at, 200 * PAGE) == 0);
    puts("shared");
}

/* mov $value, %eax; ret */
static void assemble(unsigned char *at, uint32_t value) {
    at[0] = 0xb8;
    memcpy(at + 1, &value, sizeof value);
    at[5] = 0xc3;
}

/* A function in each page, so that code is fetched from missed lines too; one
 * crosses from each page into the next. */
static void run_made_code(void) {
    size_t size = (size_t)(FUNCTIONS + 1) * PAGE;
    unsigned char *code = (unsigned char *)map(size, PROT_READ | PROT_WRITE, 0);
    for (uint32_t round = 0; round < 3; round++) {
        CHECK(mprotect(code, size, PROT_READ | PROT_WRITE) == 0);
        for (uint32_t i = 0; i < FUNCTIONS; i++) {
            assemble(code + (size_t)i * PAGE + 64, i + round);
            assemble(code + (size_t)(i + 1) * PAGE - 3, i * 2 + round);
        }
        CHECK(mprotect(code, size, PROT_READ | PROT_EXEC) == 0);
        for (uint32_t i = 0; i < FUNCTIONS; i++) {
            uint32_t (*inside)(void) = (uint32_t(*)(void))(code + (size_t)i * PAGE + 64);
            uint32_t (*across)(void) = (uint32_t(*)(void))(code + (size_t)(i + 1) * PAGE - 3);
            CHECK(inside() == i + round && across() == i * 2 + round);
        }
    }
    CHECK(munmap(code, size) == 0);
    puts("ran what was made");
}

static void refusals(void) {
    char *at = map(PAGE, PROT_READ, 0);
    int fixed = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    FAILS((intptr_t)mmap(at + 1, PAGE, PROT_READ, fixed, -1, 0), EINVAL);
    FAILS((intptr_t)mmap(NULL, (size_t)1 << 62, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
          ENOMEM);
    FAILS((intptr_t)mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
    FAILS(munmap(at + 1, PAGE), EINVAL);
    FAILS(munmap(at, 0), EINVAL);
    FAILS(mprotect(at + 1, PAGE, PROT_READ), EINVAL);
    CHECK(mprotect(at, 0, PROT_READ) == 0 && munmap(at, PAGE) == 0);
    CHECK(munmap(at, PAGE) == 0); /* nothing there is no error */
    FAILS(mprotect(at, PAGE, PROT_READ), ENOMEM);
    puts("refused");
}

int main(void) {
    reserve();
    advice();
    locking();
    remapping();
    sharing();
    run_made_code();
    refusals();
    return 0;
}
