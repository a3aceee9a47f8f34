#include "kernels.h"

#include <string.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

extern const kernel_set kernels_portable;
#if defined(__x86_64__)
extern const kernel_set kernels_avx2, kernels_avx512;
#endif
#if defined(__ARM_NEON)
extern const kernel_set kernels_neon;
#endif
#if defined(__aarch64__)
extern const kernel_set kernels_neon_dot;
#endif

enum { MOST_SETS = 3 };

/* Fills in the sets that this processor runs, best first, and returns their number. */
static int available(const kernel_set *sets[MOST_SETS]) {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni"))
        sets[count++] = &kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        sets[count++] = &kernels_avx2;
#endif
#if defined(__aarch64__) && defined(__linux__)
    if (getauxval(AT_HWCAP) & (1UL << 20)) sets[count++] = &kernels_neon_dot; /* HWCAP_ASIMDDP */
#endif
#if defined(__ARM_NEON)
    sets[count++] = &kernels_neon;
#endif
    sets[count++] = &kernels_portable;
    return count;
}

const kernel_set *kernels_choose(const char *name) {
    const kernel_set *sets[MOST_SETS];
    int count = available(sets);
    for (int i = 0; i < count; i++)
        if (!name || !strcmp(name, sets[i]->name)) return sets[i];
    return NULL;
}

const char *kernels_names(void) {
    static char names[64];
    const kernel_set *sets[MOST_SETS];
    int count = available(sets);
    char *end = names;
    for (int i = 0; i < count; i++) {
        if (i) *end++ = ' ';
        size_t length = strlen(sets[i]->name);
        memcpy(end, sets[i]->name, length);
        end += length;
    }
    *end = 0;
    return names;
}
