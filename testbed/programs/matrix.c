/* Multiplies two matrices of doubles that hold small whole numbers, so that
 * the result is exact: matrix [N] [THREADS]. The second is walked by columns
 * on purpose: each step is another page once N * 8 reaches the page size. */
#include "common.h"

struct band {
    int from, to;
};

static int n;
static double *a, *b, *product;

static void *multiply(void *argument) {
    const struct band *band = argument;
    for (int i = band->from; i < band->to; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++)
                sum += a[(size_t)i * (size_t)n + (size_t)k] * b[(size_t)k * (size_t)n + (size_t)j];
            product[(size_t)i * (size_t)n + (size_t)j] = sum;
        }
    return NULL;
}

/* Freivalds: A(Bx) = Cx for a random x unless C is wrong somewhere. */
static void verify(void) {
    uint64_t seed = 7;
    double *x = calloc((size_t)n * 2, sizeof *x), *bx = x + n;
    CHECK(x);
    for (int i = 0; i < n; i++)
        x[i] = (double)(next_random(&seed) % 100);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            bx[i] += b[(size_t)i * (size_t)n + (size_t)k] * x[k];
    for (int i = 0; i < n; i++) {
        double left = 0, right = 0;
        for (int k = 0; k < n; k++) {
            left += a[(size_t)i * (size_t)n + (size_t)k] * bx[k];
            right += product[(size_t)i * (size_t)n + (size_t)k] * x[k];
        }
        CHECK(left == right);
    }
    free(x);
}

int main(int argc, char **argv) {
    n = (int)number(argc, argv, 1, 300);
    int threads = (int)number(argc, argv, 2, 2);
    CHECK(n > 0 && threads > 0);
    size_t cells = (size_t)n * (size_t)n;
    a = malloc(cells * sizeof *a);
    b = malloc(cells * sizeof *b);
    product = malloc(cells * sizeof *product);
    struct band *bands = calloc((size_t)threads, sizeof *bands);
    CHECK(a && b && product && bands);
    uint64_t seed = 3;
    for (size_t i = 0; i < cells; i++) {
        a[i] = (double)(next_random(&seed) % 1000);
        b[i] = (double)(next_random(&seed) % 1000);
    }
    for (int i = 0; i < threads; i++)
        bands[i] = (struct band){n * i / threads, n * (i + 1) / threads};
    run_threads(threads, multiply, bands, sizeof *bands);
    verify();
    printf("%d x %d, digest %016llx\n", n, n,
           (unsigned long long)digest(DIGEST_START, product, cells * sizeof *product));
    return 0;
}
