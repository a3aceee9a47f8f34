/* How fast one thread reads memory: what the decoder, which reads its weights once a token, is held
 * against. */
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ember.h"

enum { LANES = 64, ROUNDS = 15 };

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + 1e-9 * (double)at.tv_nsec;
}

/* Sums whole numbers in many lanes, so that adding does not hold the reading up. */
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t sum_of(const uint64_t *words, size_t count) {
    uint64_t lane[LANES] = {0}, sum = 0;
    for (size_t i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += words[i + (size_t)j];
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

double ember_bandwidth(size_t bytes) {
    size_t count = bytes / sizeof(uint64_t), passes = 1 + (size_t)(1 << 26) / (bytes + 1);
    uint64_t *words = aligned_alloc(64, (bytes + 63) / 64 * 64);
    double best = 0;
    volatile uint64_t kept = 0;
    if (!words || count < LANES) {
        free(words);
        return 0;
    }
    memset(words, 1, bytes / 64 * 64);
    for (int round = 0; round < ROUNDS; round++) {
        double begun = now();
        for (size_t pass = 0; pass < passes; pass++) {
            kept = kept + sum_of(words, count);
            words[pass % count] = kept; /* so that no pass is the one before */
        }
        double rate = (double)passes * (double)bytes / (now() - begun);
        best = rate > best ? rate : best;
    }
    free(words);
    return best;
}
