/* What the two NEON sets are made of; with USE_DOT, of the dot product. */
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

typedef struct {
    int32x4_t part[4];
} sums;
typedef struct {
    float32x4_t part[4];
} floats;

static inline floats zero_floats(void) {
    float32x4_t zero = vdupq_n_f32(0);
    return (floats){{zero, zero, zero, zero}};
}
static inline sums start_sums(int32_t from) {
    int32x4_t all = vdupq_n_s32(from);
    return (sums){{all, all, all, all}};
}
/* Eight-bit weights are summed as signed bytes, four-bit ones as 0..15. */
static inline int8x16_t eight(const uint8_t *w) {
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w), vdupq_n_u8(128)));
}
static inline int8x16_t low(const uint8_t *w) {
    return vreinterpretq_s8_u8(vandq_u8(vld1q_u8(w), vdupq_n_u8(15)));
}
static inline int8x16_t high(const uint8_t *w) {
    return vreinterpretq_s8_u8(vshrq_n_u8(vld1q_u8(w), 4));
}
/* The same four bytes in all lanes. */
static inline int8x16_t four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
#define OWN_BLOCKS
/* As with AVX2: what stays in a register, and what does not. */
#define IN_REGISTER(x) __asm__ volatile("" : "+w"(x))
#define IN_MEMORY(x) __asm__ volatile("" : "+m"(x))
#if defined(USE_DOT)
#define TILE 4
/* Adds the products of group `lane` of four. */
#define DOT_LANE(load, w, lane)                                          \
    for (int p = 0; p < 4; p++) {                                        \
        int8x16_t part = load((w) + 16 * p);                             \
        for (int r = 0; r < rows; r++) {                                 \
            sum[r][p] = vdotq_laneq_s32(sum[r][p], part, four[r], lane); \
            IN_REGISTER(sum[r][p]);                                      \
        }                                                                \
    }
static inline
    __attribute__((always_inline)) void add_block(sums *s, const uint8_t *w, const int8_t *x,
                                                  size_t next, const ember_bits bits,
                                                  const int groups, const int rows) {
    int32x4_t sum[TILE][4];
    int8x16_t four[TILE];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 4; p++) sum[r][p] = s[r].part[p];
    int g = 0;
#pragma GCC unroll 1
    for (; g + 4 <= groups; g += 4) {
        for (int r = 0; r < rows; r++) four[r] = vld1q_s8(x + r * next + 4 * g);
        if (bits == BITS_4) {
            DOT_LANE(low, w, 0)
            DOT_LANE(high, w, 1)
            DOT_LANE(low, w + 64, 2)
            DOT_LANE(high, w + 64, 3)
            w += 2 * 64;
        } else {
            DOT_LANE(eight, w, 0)
            DOT_LANE(eight, w + 64, 1)
            DOT_LANE(eight, w + 128, 2)
            DOT_LANE(eight, w + 192, 3)
            w += 4 * 64;
        }
    }
    for (; g < groups; g++, w += 64) {
        for (int r = 0; r < rows; r++) four[r] = four_of(x + r * next + 4 * g);
        DOT_LANE(eight, w, 0)
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < 4; p++) s[r].part[p] = sum[r][p];
}
#else
#define TILE 2
/* So many of a panel's four parts are summed at once that what they need stays in registers. */
#if defined(__aarch64__)
#define PARTS 4
#else
#define PARTS 2
#endif
/* Neighbours added: a's, then b's. */
static inline int16x8_t add_pairs_16(int16x8_t a, int16x8_t b) {
#if defined(__aarch64__)
    return vpaddq_s16(a, b);
#else
    return vcombine_s16(vpadd_s16(vget_low_s16(a), vget_high_s16(a)),
                        vpadd_s16(vget_low_s16(b), vget_high_s16(b)));
#endif
}
static inline int32x4_t add_pairs_32(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
    return vpaddq_s32(a, b);
#else
    return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)),
                        vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}
/* sum += the products of the first (`top` 0) or last eight bytes. */
static inline int16x8_t add_products(int16x8_t sum, int8x16_t a, int8x16_t b, const int top) {
#if defined(__aarch64__)
    if (top) return vmlal_high_s8(sum, a, b);
#endif
    return top ? vmlal_s8(sum, vget_high_s8(a), vget_high_s8(b))
               : vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b));
}
static inline int16x8_t products(int8x16_t a, int8x16_t b, const int top) {
#if defined(__aarch64__)
    if (top) return vmull_high_s8(a, b);
#endif
    return top ? vmull_s8(vget_high_s8(a), vget_high_s8(b))
               : vmull_s8(vget_low_s8(a), vget_low_s8(b));
}
/* Two products make at most 2 * 128 * 127, which 16 bits hold. */
static inline __attribute__((always_inline)) void add_block_8(sums *s, const uint8_t *w,
                                                              const int8_t *x, size_t next,
                                                              const int groups, const int rows) {
    for (int first = 0; first < 4; first += PARTS, w += 16 * PARTS) {
        int32x4_t sum[TILE][2 * PARTS];
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < 2 * PARTS; p++) sum[r][p] = vdupq_n_s32(0);
        int g = 0;
#pragma GCC unroll 1
        for (; g + 2 <= groups; g += 2) {
            int8x16_t one[TILE], two[TILE];
            for (int r = 0; r < rows; r++) {
                one[r] = four_of(x + r * next + 4 * g);
                two[r] = four_of(x + r * next + 4 * g + 4);
            }
            for (int p = 0; p < PARTS; p++) {
                int8x16_t a = eight(w + 64 * g + 16 * p), b = eight(w + 64 * g + 64 + 16 * p);
                for (int r = 0; r < rows; r++)
                    for (int top = 0; top < 2; top++) {
                        int16x8_t pair = add_products(products(a, one[r], top), b, two[r], top);
                        sum[r][2 * p + top] = vpadalq_s16(sum[r][2 * p + top], pair);
                        IN_REGISTER(sum[r][2 * p + top]);
                    }
            }
        }
        for (int r = 0; g < groups && r < rows; r++) {
            int8x16_t one = four_of(x + r * next + 4 * g);
            for (int p = 0; p < 2 * PARTS; p++)
                sum[r][p] =
                    vpadalq_s16(sum[r][p], products(eight(w + 64 * g + 16 * (p / 2)), one, p % 2));
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS; p++)
                s[r].part[first + p] =
                    vaddq_s32(s[r].part[first + p], add_pairs_32(sum[r][2 * p], sum[r][2 * p + 1]));
    }
}
/* Sums of 16 bits: a lane adds one product a group, at most 8 * 15 * 127, and two lanes fit too. */
static inline __attribute__((always_inline)) void add_block_4(sums *s, const uint8_t *w,
                                                              const int8_t *x, size_t next,
                                                              const int rows) {
    for (int first = 0; first < 4; first += PARTS, w += 16 * PARTS) {
        int16x8_t sum[TILE][2 * PARTS];
#pragma GCC unroll 4
        for (int g = 0; g < 4; g++) {
            int8x16_t one[TILE], two[TILE];
            for (int r = 0; r < rows; r++) {
                one[r] = four_of(x + r * next + 8 * g);
                two[r] = four_of(x + r * next + 8 * g + 4);
            }
            for (int p = 0; p < PARTS; p++) {
                int8x16_t a = low(w + 64 * g + 16 * p), b = high(w + 64 * g + 16 * p);
                for (int r = 0; r < rows; r++)
                    for (int top = 0; top < 2; top++) {
                        int16x8_t *to = &sum[r][2 * p + top];
                        *to = g ? add_products(*to, a, one[r], top) : products(a, one[r], top);
                        *to = add_products(*to, b, two[r], top);
                        IN_REGISTER(*to);
                    }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS; p++)
                s[r].part[first + p] = vpadalq_s16(s[r].part[first + p],
                                                   add_pairs_16(sum[r][2 * p], sum[r][2 * p + 1]));
    }
}
static inline __attribute__((always_inline)) void add_block(sums *s, const uint8_t *w,
                                                            const int8_t *x, size_t next,
                                                            const ember_bits bits, const int groups,
                                                            const int rows) {
    if (bits == BITS_4)
        add_block_4(s, w, x, next, rows);
    else
        add_block_8(s, w, x, next, groups, rows);
}
#endif
/* y + a * b, rounded once where the processor can: that is what the sets for x86 do. */
static inline float32x4_t add_product(float32x4_t y, float32x4_t a, float32x4_t b) {
#if defined(__ARM_FEATURE_FMA)
    return vfmaq_f32(y, a, b);
#else
    return vmlaq_f32(y, a, b);
#endif
}
static inline floats finish(floats y, sums s, const float *scale, float by) {
    float32x4_t all = vdupq_n_f32(by);
    for (int i = 0; i < 4; i++)
        y.part[i] = add_product(y.part[i], vcvtq_f32_s32(s.part[i]),
                                vmulq_f32(vld1q_f32(scale + 4 * i), all));
    return y;
}
static inline floats multiply(floats y, const float *w, float x) {
    float32x4_t all = vdupq_n_f32(x);
    for (int i = 0; i < 4; i++) y.part[i] = add_product(y.part[i], vld1q_f32(w + 4 * i), all);
    return y;
}
static inline floats load_floats(const float *x) {
    return (floats){{vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)}};
}
static inline floats multiply_floats(floats y, floats a, floats b) {
    for (int i = 0; i < 4; i++) y.part[i] = add_product(y.part[i], a.part[i], b.part[i]);
    return y;
}
static inline floats clamp_6(floats y) {
    for (int i = 0; i < 4; i++)
        y.part[i] = vminq_f32(vmaxq_f32(y.part[i], vdupq_n_f32(0)), vdupq_n_f32(6));
    return y;
}
static inline floats add_floats(floats a, floats b) {
    for (int i = 0; i < 4; i++) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
    return a;
}
static inline void store(float *to, floats y) {
    for (int i = 0; i < 4; i++) vst1q_f32(to + 4 * i, y.part[i]);
}
#define OFFSET(bits) ((bits) == BITS_8 ? 0 : 8)
#if defined(__aarch64__)
#define FLOAT_TILE 4
#define TALL 4
#else
#define FLOAT_TILE 2
#define TALL 2
#endif
#define WIDE 1
