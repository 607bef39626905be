/* Numbers the lines of its input, through stdio: echo. */
#include "common.h"

int main(void) {
    char *line = NULL;
    size_t room = 0;
    unsigned long lines = 0;
    uint64_t sum = DIGEST_START;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) >= 0) {
        sum = digest(sum, line, (size_t)length);
        printf("%6lu\t", ++lines);
        fwrite(line, 1, (size_t)length, stdout);
    }
    fprintf(stderr, "%lu lines, %016llx\n", lines, (unsigned long long)sum);
    free(line);
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}
