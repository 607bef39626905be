/* Takes memory until there is no more: hog [LIMIT IN MEGABYTES]. Being told so
 * (malloc's NULL) is the proper end; what was taken before must still be whole. */
#include "common.h"

enum { BLOCK = 1 << 20, MAX_BLOCKS = 1 << 16 };

static unsigned char *blocks[MAX_BLOCKS];

int main(int argc, char **argv) {
    long limit = number(argc, argv, 1, MAX_BLOCKS);
    long taken = 0;
    while (taken < limit && taken < MAX_BLOCKS && (blocks[taken] = malloc(BLOCK)) != NULL) {
        for (size_t i = 0; i < BLOCK; i += 1024)
            blocks[taken][i] = (unsigned char)(taken + 1);
        taken++;
    }
    int refused = taken < limit && taken < MAX_BLOCKS;
    CHECK(!refused || errno == ENOMEM);
    for (long k = 0; k < taken; k++)
        for (size_t i = 0; i < BLOCK; i += 1024)
            CHECK(blocks[k][i] == (unsigned char)(k + 1));
    free(blocks[0]); /* what is given back can be used again */
    CHECK(taken == 0 || malloc(BLOCK / 2) != NULL);
    puts(refused ? "refused" : "never refused");
    fprintf(stderr, "%ld MiB\n", taken);
    return 0;
}
