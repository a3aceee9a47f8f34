/* For any processor; on ARMv6 with its multiplications of pairs. */
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define SET portable
#define SET_NAME "portable"

#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#endif
typedef struct {
    int32_t at[PANEL];
} sums;
typedef struct {
    float at[PANEL];
} floats;

static inline floats zero_floats(void) { return (floats){{0}}; }
static inline sums start_sums(int32_t from) {
    sums s;
    for (int i = 0; i < PANEL; i++) s.at[i] = from;
    return s;
}
#if defined(__ARM_FEATURE_SIMD32)
/* ARMv6 multiplies two pairs of 16 bits and adds both: bytes 0 and 2 of a group, then 1 and 3. */
#define OWN_BLOCKS
#define IN_REGISTER(x) __asm__ volatile("" : "+r"(x))
#define OFFSET(bits) ((bits) == BITS_8 ? 128 : 8)
#define TILE 2
/* Adds two groups of inputs, `x` four pairs a row; four-bit groups share their bytes. */
static inline __attribute__((always_inline)) void add_block(sums *s, const uint8_t *w,
                                                            const int8_t *x, size_t next,
                                                            const ember_bits bits, const int groups,
                                                            const int rows) {
    const uint32_t bytes = 0x00ff00ff, halves = 0x000f000f;
    for (int g = 0; g < groups; g += 2, w += bits == BITS_8 ? 128 : 64) {
        int16x2_t pair[TILE][4];
        int both = g + 1 < groups;
        for (int r = 0; r < rows; r++) {
            uint32_t four[2] = {0, 0};
            memcpy(four, x + r * next + 4 * g, 4);
            if (both) memcpy(four + 1, x + r * next + 4 * g + 4, 4);
            for (int i = 0; i < 4; i++) {
                pair[r][i] = __sxtb16(four[i / 2] >> 8 * (i % 2));
                IN_REGISTER(pair[r][i]);
            }
        }
#pragma GCC unroll 16
        for (int o = 0; o < PANEL; o++) {
            uint32_t four, next_four;
            memcpy(&four, w + 4 * o, 4);
            IN_REGISTER(four);
            uint32_t part[4];
            if (bits == BITS_8) {
                next_four = 0;
                if (both) memcpy(&next_four, w + 64 + 4 * o, 4);
                part[0] = four & bytes, part[1] = four >> 8 & bytes;
                part[2] = next_four & bytes, part[3] = next_four >> 8 & bytes;
            } else {
                part[0] = four & halves, part[1] = four >> 8 & halves;
                part[2] = four >> 4 & halves, part[3] = four >> 12 & halves;
            }
            for (int r = 0; r < rows; r++) {
                int32_t sum = s[r].at[o];
                for (int i = 0; i < 4; i++) sum = __smlad((int16x2_t)part[i], pair[r][i], sum);
                IN_REGISTER(sum);
                s[r].at[o] = sum;
            }
        }
    }
}
#else
typedef struct {
    int8_t at[PANEL * 4];
} weights;
#define OFFSET(bits) 0
#define TILE 1
static inline weights load_8(const uint8_t *w) {
    weights out;
    for (int i = 0; i < PANEL * 4; i++) out.at[i] = (int8_t)(w[i] ^ 128);
    return out;
}
static inline weights low_4(const uint8_t *w) {
    weights out;
    for (int i = 0; i < PANEL * 4; i++) out.at[i] = (int8_t)((w[i] & 15) - 8);
    return out;
}
static inline weights high_4(const uint8_t *w) {
    weights out;
    for (int i = 0; i < PANEL * 4; i++) out.at[i] = (int8_t)((w[i] >> 4) - 8);
    return out;
}
static inline weights part_2(const uint8_t *w, int shift) {
    weights out;
    for (int i = 0; i < PANEL * 4; i++) out.at[i] = (int8_t)((w[i] >> shift & 3) - 1);
    return out;
}
static inline sums dot(sums s, weights w, const int8_t *x) {
    for (int i = 0; i < PANEL; i++)
        s.at[i] += w.at[4 * i] * x[0] + w.at[4 * i + 1] * x[1] + w.at[4 * i + 2] * x[2] +
                   w.at[4 * i + 3] * x[3];
    return s;
}
#endif
static inline floats finish(floats y, sums s, const float *scale, float by) {
    for (int i = 0; i < PANEL; i++) y.at[i] += (float)s.at[i] * (scale[i] * by);
    return y;
}
static inline floats multiply(floats y, const float *w, float x) {
    for (int i = 0; i < PANEL; i++) y.at[i] += w[i] * x;
    return y;
}
static inline floats load_floats(const float *x) {
    floats y;
    for (int i = 0; i < PANEL; i++) y.at[i] = x[i];
    return y;
}
static inline floats multiply_floats(floats y, floats a, floats b) {
    for (int i = 0; i < PANEL; i++) y.at[i] += a.at[i] * b.at[i];
    return y;
}
static inline floats clamp_6(floats y) {
    for (int i = 0; i < PANEL; i++) y.at[i] = y.at[i] < 0 ? 0 : y.at[i] > 6 ? 6 : y.at[i];
    return y;
}
static inline floats add_floats(floats a, floats b) {
    for (int i = 0; i < PANEL; i++) a.at[i] += b.at[i];
    return a;
}
static inline void store(float *to, floats y) { memcpy(to, y.at, sizeof y.at); }
#define FLOAT_TILE 2
#define TALL 1
#define WIDE 1

#include "kernels_body.h"
