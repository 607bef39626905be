/* Counts the words of a file.
 *
 *     wordcount FILE [THREADS] [TOP]
 *
 * The file is mapped, cut into THREADS pieces (default 1) at word boundaries,
 * and each thread counts its piece in a hash table of its own; the tables are
 * merged and the TOP (default 10) most frequent words are printed. A word is a
 * run of letters, or of bytes above 127, without regard to case.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_THREADS = 64, FIRST_CAPACITY = 1 << 12, LONGEST_WORD = 1 << 16 };

/* A word is where it was first seen in the mapping; it is never copied. */
struct entry {
    const unsigned char *word;
    uint32_t length;
    uint32_t hash;
    uint64_t count; /* 0: the slot is free */
};

struct table {
    struct entry *slots;
    size_t capacity; /* a power of two */
    size_t used;
    uint64_t words;
};

struct piece {
    const unsigned char *from;
    const unsigned char *to;
    struct table table;
};

/* Lower-case form of the bytes that make words, 0 for all others. */
static unsigned char fold[256];

static void die(const char *what) {
    fprintf(stderr, "wordcount: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fill_fold(void) {
    for (int c = 0; c < 256; c++) {
        if (c >= 'A' && c <= 'Z')
            fold[c] = (unsigned char)(c - 'A' + 'a');
        else if ((c >= 'a' && c <= 'z') || c > 127)
            fold[c] = (unsigned char)c;
    }
}

static void table_open(struct table *t, size_t capacity) {
    t->slots = calloc(capacity, sizeof *t->slots);
    if (!t->slots)
        die("hash table");
    t->capacity = capacity;
    t->used = 0;
}

static int same_word(const struct entry *e, const unsigned char *word, uint32_t length) {
    if (e->length != length)
        return 0;
    for (uint32_t i = 0; i < length; i++)
        if (fold[e->word[i]] != fold[word[i]])
            return 0;
    return 1;
}

static struct entry *find(struct table *t, const unsigned char *word, uint32_t length,
                          uint32_t hash) {
    size_t i = hash & (t->capacity - 1);
    while (t->slots[i].count &&
           !(t->slots[i].hash == hash && same_word(&t->slots[i], word, length)))
        i = (i + 1) & (t->capacity - 1);
    return &t->slots[i];
}

static void add(struct table *t, const struct entry *seen);

static void grow(struct table *t) {
    struct table bigger = {.words = t->words};
    table_open(&bigger, t->capacity * 2);
    for (size_t i = 0; i < t->capacity; i++)
        if (t->slots[i].count)
            add(&bigger, &t->slots[i]);
    free(t->slots);
    *t = bigger;
}

static void add(struct table *t, const struct entry *seen) {
    struct entry *slot = find(t, seen->word, seen->length, seen->hash);
    if (slot->count) {
        slot->count += seen->count;
        return;
    }
    *slot = *seen;
    if (++t->used * 2 > t->capacity)
        grow(t);
}

static void *count_piece(void *argument) {
    struct piece *p = argument;
    table_open(&p->table, FIRST_CAPACITY);
    const unsigned char *at = p->from;
    while (at < p->to) {
        if (!fold[*at]) {
            at++;
            continue;
        }
        struct entry seen = {.word = at, .hash = 2166136261u, .count = 1};
        while (at < p->to && fold[*at] && at - seen.word < LONGEST_WORD)
            seen.hash = (seen.hash ^ fold[*at++]) * 16777619u;
        seen.length = (uint32_t)(at - seen.word);
        seen.hash ^= seen.hash >> 15;
        p->table.words++;
        add(&p->table, &seen);
    }
    return NULL;
}

/* Moves a cut forward to the end of the word that it would split. */
static const unsigned char *word_end(const unsigned char *at, const unsigned char *end) {
    while (at < end && fold[*at])
        at++;
    return at;
}

static void cut(struct piece *pieces, int n, const unsigned char *text, size_t size) {
    const unsigned char *end = text + size;
    const unsigned char *from = text;
    for (int i = 0; i < n; i++) {
        const unsigned char *to = i == n - 1 ? end : text + size / (size_t)n * (size_t)(i + 1);
        if (to < from)
            to = from;
        pieces[i].from = from;
        pieces[i].to = from = word_end(to, end);
    }
}

static int compare_words(const struct entry *a, const struct entry *b) {
    uint32_t shorter = a->length < b->length ? a->length : b->length;
    for (uint32_t i = 0; i < shorter; i++) {
        int difference = fold[a->word[i]] - fold[b->word[i]];
        if (difference)
            return difference;
    }
    return (a->length > b->length) - (a->length < b->length);
}

static int most_frequent_first(const void *left, const void *right) {
    const struct entry *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return compare_words(a, b);
}

static void print_top(struct table *t, size_t top) {
    size_t n = 0;
    for (size_t i = 0; i < t->capacity; i++)
        if (t->slots[i].count)
            t->slots[n++] = t->slots[i];
    qsort(t->slots, n, sizeof *t->slots, most_frequent_first);
    printf("%llu words, %zu different\n", (unsigned long long)t->words, n);
    for (size_t i = 0; i < n && i < top; i++) {
        printf("%10llu ", (unsigned long long)t->slots[i].count);
        for (uint32_t k = 0; k < t->slots[i].length; k++)
            putchar(fold[t->slots[i].word[k]]);
        putchar('\n');
    }
}

static const unsigned char *map_file(const char *path, size_t *size) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0)
        die(path);
    *size = (size_t)info.st_size;
    if (*size == 0)
        return (const unsigned char *)"";
    void *text = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (text == MAP_FAILED)
        die(path);
    close(fd);
    return text;
}

static void count_all(struct piece *pieces, int threads) {
    pthread_t ids[MAX_THREADS];
    for (int i = 1; i < threads; i++)
        if ((errno = pthread_create(&ids[i], NULL, count_piece, &pieces[i])) != 0)
            die("thread");
    count_piece(&pieces[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(ids[i], NULL);
}

static void merge(struct piece *pieces, int threads) {
    struct table *all = &pieces[0].table;
    for (int i = 1; i < threads; i++) {
        struct table *t = &pieces[i].table;
        for (size_t k = 0; k < t->capacity; k++)
            if (t->slots[k].count)
                add(all, &t->slots[k]);
        all->words += t->words;
        free(t->slots);
    }
}

int main(int argc, char **argv) {
    int threads = argc > 2 ? atoi(argv[2]) : 1;
    int top = argc > 3 ? atoi(argv[3]) : 10;
    if (argc < 2 || argc > 4 || threads < 1 || threads > MAX_THREADS || top < 0) {
        fprintf(stderr, "usage: wordcount FILE [THREADS, 1 to %d] [TOP]\n", MAX_THREADS);
        return 2;
    }
    static struct piece pieces[MAX_THREADS];
    size_t size;
    fill_fold();
    const unsigned char *text = map_file(argv[1], &size);
    cut(pieces, threads, text, size);
    count_all(pieces, threads);
    merge(pieces, threads);
    print_top(&pieces[0].table, (size_t)top);
    return 0;
}
