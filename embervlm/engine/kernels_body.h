/* The text of one kernel set. The file that includes this one has chosen the instruction set with a
 * pragma, defined SET as the set's name, and at most one of USE_VNNI, USE_AVX2, USE_DOT, USE_NEON.
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels.h"

/* Sixteen sums of whole numbers, one an output. */
#if defined(USE_VNNI)
#include <immintrin.h>
typedef __m512i sums;
typedef __m512 floats;
#elif defined(USE_AVX2)
#include <immintrin.h>
typedef struct {
    __m256i half[2];
} sums;
typedef struct {
    __m256 half[2];
} floats;
#elif defined(USE_DOT) || defined(USE_NEON)
#include <arm_neon.h>
typedef struct {
    int32x4_t part[4];
} sums;
typedef struct {
    float32x4_t part[4];
} floats;
#else
#if defined(__ARM_FEATURE_SIMD32)
#include <arm_acle.h>
#endif
typedef struct {
    int32_t at[PANEL];
} sums;
typedef struct {
    float at[PANEL];
} floats;
#endif

/* `dot` adds 4 products for 16 outputs: `w` holds (16 x 4) weights, `x` four signed bytes. Where
 * the instruction wants unsigned weights their offset stays in, and the sums start at what takes it
 * off. A set with OWN_BLOCKS has instead `add_block`, which adds a block's products for some rows.
 */
static inline floats zero_floats(void);
static inline sums start_sums(int32_t from);

#if defined(USE_VNNI)
typedef __m512i weights;
static inline floats zero_floats(void) { return _mm512_setzero_ps(); }
static inline sums start_sums(int32_t from) { return _mm512_set1_epi32(from); }
static inline weights load_8(const uint8_t *w) { return _mm512_loadu_si512(w); }
static inline weights low_4(const uint8_t *w) {
    return _mm512_and_si512(_mm512_loadu_si512(w), _mm512_set1_epi8(15));
}
static inline weights high_4(const uint8_t *w) {
    return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(w), 4), _mm512_set1_epi8(15));
}
static inline sums dot(sums s, weights w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_dpbusd_epi32(s, w, _mm512_set1_epi32(four));
}
static inline floats finish(floats y, sums s, const float *scale, float by) {
    __m512 both = _mm512_mul_ps(_mm512_loadu_ps(scale), _mm512_set1_ps(by));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), both, y);
}
static inline floats multiply(floats y, const float *w, float x) {
    return _mm512_fmadd_ps(_mm512_loadu_ps(w), _mm512_set1_ps(x), y);
}
static inline floats load_floats(const float *x) { return _mm512_loadu_ps(x); }
static inline floats multiply_floats(floats y, floats a, floats b) {
    return _mm512_fmadd_ps(a, b, y);
}
static inline floats clamp_6(floats y) {
    return _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps(6));
}
static inline floats add_floats(floats a, floats b) { return _mm512_add_ps(a, b); }
static inline void store(float *to, floats y) { _mm512_storeu_ps(to, y); }
#define OFFSET(bits) ((bits) == BITS_8 ? 128 : 8)
#define TILE 8
#define FLOAT_TILE 8
#define TALL 4
#define WIDE 2

#elif defined(USE_AVX2)
typedef struct {
    __m256i half[2];
} weights;
/* There are sixteen registers. Left to itself, gcc forms many products before it adds the first,
 * and keeps a row's sums in registers but not a block's, which it moves in and out each time. */
#define IN_REGISTER(x) __asm__ volatile("" : "+x"(x))
#define IN_MEMORY(x) __asm__ volatile("" : "+m"(x))
static inline floats zero_floats(void) {
    return (floats){{_mm256_setzero_ps(), _mm256_setzero_ps()}};
}
static inline sums start_sums(int32_t from) {
    return (sums){{_mm256_set1_epi32(from), _mm256_set1_epi32(from)}};
}
static inline __m256i half_of(const uint8_t *w, int i) {
    return _mm256_loadu_si256((const __m256i *)(w + 32 * i));
}
static inline weights load_8(const uint8_t *w) {
    __m256i top = _mm256_set1_epi8((char)128);
    return (weights){{_mm256_xor_si256(half_of(w, 0), top), _mm256_xor_si256(half_of(w, 1), top)}};
}
static inline weights low_4(const uint8_t *w) {
    __m256i four = _mm256_set1_epi8(15);
    return (weights){
        {_mm256_and_si256(half_of(w, 0), four), _mm256_and_si256(half_of(w, 1), four)}};
}
static inline weights high_4(const uint8_t *w) {
    __m256i four = _mm256_set1_epi8(15);
    return (weights){{_mm256_and_si256(_mm256_srli_epi16(half_of(w, 0), 4), four),
                      _mm256_and_si256(_mm256_srli_epi16(half_of(w, 1), 4), four)}};
}
/* Four-bit weights are summed in pairs of 16 bits: a block is at most 16 * 15 * 127 a half. */
#define SHORT_SUMS
static inline sums start_4(int32_t from) {
    (void)from;
    return (sums){{_mm256_setzero_si256(), _mm256_setzero_si256()}};
}
static inline sums dot_4(sums s, weights w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m256i all = _mm256_set1_epi32(four);
    for (int i = 0; i < 2; i++) {
        s.half[i] = _mm256_add_epi16(s.half[i], _mm256_maddubs_epi16(w.half[i], all));
        IN_REGISTER(s.half[i]);
    }
    return s;
}
static inline sums end_4(sums s, int32_t from) {
    __m256i ones = _mm256_set1_epi16(1), start = _mm256_set1_epi32(from);
    for (int i = 0; i < 2; i++)
        s.half[i] = _mm256_add_epi32(_mm256_madd_epi16(s.half[i], ones), start);
    return s;
}
static inline sums dot(sums s, weights w, const int8_t *x) {
    int32_t four;
    memcpy(&four, x, 4);
    __m256i all = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    for (int i = 0; i < 2; i++) {
        /* |w| times x with w's sign: at most 2 * 127 * 127, which 16 bits hold. */
        __m256i pairs =
            _mm256_maddubs_epi16(_mm256_abs_epi8(w.half[i]), _mm256_sign_epi8(all, w.half[i]));
        s.half[i] = _mm256_add_epi32(s.half[i], _mm256_madd_epi16(pairs, ones));
        IN_REGISTER(s.half[i]);
    }
    return s;
}
static inline floats finish(floats y, sums s, const float *scale, float by) {
    for (int i = 0; i < 2; i++) {
        __m256 both = _mm256_mul_ps(_mm256_loadu_ps(scale + 8 * i), _mm256_set1_ps(by));
        y.half[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s.half[i]), both, y.half[i]);
    }
    return y;
}
static inline floats multiply(floats y, const float *w, float x) {
    for (int i = 0; i < 2; i++) {
        y.half[i] = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8 * i), _mm256_set1_ps(x), y.half[i]);
        IN_REGISTER(y.half[i]);
    }
    return y;
}
static inline floats load_floats(const float *x) {
    return (floats){{_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}};
}
static inline floats multiply_floats(floats y, floats a, floats b) {
    for (int i = 0; i < 2; i++) y.half[i] = _mm256_fmadd_ps(a.half[i], b.half[i], y.half[i]);
    return y;
}
static inline floats clamp_6(floats y) {
    for (int i = 0; i < 2; i++)
        y.half[i] = _mm256_min_ps(_mm256_max_ps(y.half[i], _mm256_setzero_ps()), _mm256_set1_ps(6));
    return y;
}
static inline floats add_floats(floats a, floats b) {
    return (floats){{_mm256_add_ps(a.half[0], b.half[0]), _mm256_add_ps(a.half[1], b.half[1])}};
}
static inline void store(float *to, floats y) {
    _mm256_storeu_ps(to, y.half[0]);
    _mm256_storeu_ps(to + 8, y.half[1]);
}
#define OFFSET(bits) ((bits) == BITS_8 ? 0 : 8)
#define TILE 4
#define FLOAT_TILE 6
#define TALL 2
#define WIDE 1

#elif defined(USE_DOT) || defined(USE_NEON)
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

#else
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
#endif

#ifndef IN_MEMORY
#define IN_MEMORY(x) (void)(x)
#endif
#ifndef SHORT_SUMS
static inline sums start_4(int32_t from) { return start_sums(from); }
#ifndef OWN_BLOCKS
static inline sums dot_4(sums s, weights w, const int8_t *x) { return dot(s, w, x); }
#endif
static inline sums end_4(sums s, int32_t from) {
    (void)from;
    return s;
}
#endif

/* The largest size. Sizes are compared as whole numbers: bits in the same order, which a compiler
 * may compare in any. */
static inline float largest_of(const float *x, int count) {
    int32_t largest = 0;
    for (int i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float size;
    memcpy(&size, &largest, 4);
    return size;
}

/* Rounds `count` values to bytes; returns their sum. */
static inline __attribute__((always_inline)) int32_t round_to_bytes(const float *x, int count,
                                                                    int8_t *bytes, float *scale) {
    float largest = largest_of(x, count), by = largest > 0 ? 127 / largest : 0;
    int32_t sum = 0;
    for (int i = 0; i < count; i++) {
        /* Adding and taking off 1.5 * 2^23 rounds to the nearest whole number. */
        float whole = x[i] * by + 12582912.0f;
        bytes[i] = (int8_t)(whole - 12582912.0f);
    }
    for (int i = 0; i < count; i++) sum += bytes[i];
    *scale = largest / 127;
    return sum;
}

static void quantise(const float *x, int rows, const ember_matrix *w, ember_rows *out) {
    const int block = w->block, blocks = w->blocks;
    int8_t *bytes = out->bytes;
    float *scale = out->scales;
    int32_t *offset = out->offsets;
    for (int r = 0; r < rows; r++, x += w->inputs)
        for (int b = 0; b < blocks; b++, bytes += block, scale++, offset++) {
            const float *part = x + b * block;
            int count = w->inputs - b * block < block ? w->inputs - b * block : block;
            int32_t sum = count == BLOCK ? round_to_bytes(part, BLOCK, bytes, scale)
                                         : round_to_bytes(part, count, bytes, scale);
            for (int i = count; i < block; i++) bytes[i] = 0;
            *offset = -OFFSET(w->bits) * sum;
        }
}

/* Adds the bias, keeps within 0..6 if asked, and writes the outputs that there are of a panel. */
static inline void write_out(const ember_matrix *w, int panel, floats acc, float *y, int clamp) {
    int first = panel * PANEL, count = w->outputs - first;
    acc = add_floats(acc, load_floats(w->bias + first));
    if (clamp) acc = clamp_6(acc);
    if (count >= PANEL) {
        store(y + first, acc);
    } else {
        float out[PANEL];
        store(out, acc);
        memcpy(y + first, out, (size_t)count * sizeof *out);
    }
}

/* `rows`, `wide` (panels side by side) and `bits` are constants where this is called, so that the
 * loops over them are unrolled; so is the number of groups of four inputs in a block, 0: any. */
static inline __attribute__((always_inline)) void tile(const ember_matrix *w, const ember_rows *x,
                                                       int row, int panel, float *y, int clamp,
                                                       const int rows, const int wide,
                                                       const ember_bits bits, const int fixed) {
    const int group = PANEL * 4, blocks = w->blocks, groups = fixed ? fixed : w->block / 4;
    const size_t block_bytes = (size_t)group * groups / (bits == BITS_8 ? 1 : 2);
    const size_t panel_bytes = block_bytes * blocks, next = (size_t)blocks * w->block;
    const uint8_t *at = w->weights + (size_t)panel * panel_bytes;
    const float *scale = w->scales + (size_t)panel * blocks * PANEL;
    const int8_t *bytes = x->bytes + (size_t)row * next;
    floats acc[TILE * WIDE];
    for (int i = 0; i < rows * wide; i++) acc[i] = zero_floats();
    for (int b = 0; b < blocks; b++, at += block_bytes, scale += PANEL, bytes += 4 * groups) {
        sums s[TILE * WIDE];
        if (rows > 1) IN_MEMORY(acc);
        for (int i = 0; i < rows * wide; i++) {
            int32_t from = x->offsets[(size_t)(row + i / wide) * blocks + b];
            s[i] = bits == BITS_8 ? start_sums(from) : start_4(from);
        }
#if defined(OWN_BLOCKS)
        add_block(s, at, bytes, next, bits, groups, rows);
#else
        if (bits == BITS_8) {
            for (int g = 0; g < groups; g++) {
                for (int p = 0; p < wide; p++) {
                    weights part = load_8(at + p * panel_bytes + g * group);
                    for (int r = 0; r < rows; r++)
                        s[r * wide + p] = dot(s[r * wide + p], part, bytes + r * next + 4 * g);
                }
            }
        } else {
            for (int g = 0; g < groups / 2; g++) {
                for (int p = 0; p < wide; p++) {
                    const uint8_t *both = at + p * panel_bytes + g * group;
                    weights part = low_4(both);
                    for (int r = 0; r < rows; r++)
                        s[r * wide + p] = dot_4(s[r * wide + p], part, bytes + r * next + 8 * g);
                    part = high_4(both);
                    for (int r = 0; r < rows; r++)
                        s[r * wide + p] =
                            dot_4(s[r * wide + p], part, bytes + r * next + 8 * g + 4);
                }
            }
        }
#endif
        for (int r = 0; r < rows; r++) {
            size_t i = (size_t)(row + r) * blocks + b;
            for (int p = 0; p < wide; p++) {
                sums whole = s[r * wide + p];
                if (bits == BITS_4) whole = end_4(whole, x->offsets[i]);
                acc[r * wide + p] = finish(acc[r * wide + p], whole,
                                           scale + (size_t)p * blocks * PANEL, x->scales[i]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < wide; p++)
            write_out(w, panel + p, acc[r * wide + p], y + (size_t)(row + r) * w->outputs, clamp);
}

static inline __attribute__((always_inline)) void tile_float(const ember_matrix *w, const float *x,
                                                             int row, int panel, float *y,
                                                             int clamp, const int rows) {
    const float *at = (const float *)w->weights + (size_t)panel * w->inputs * PANEL;
    floats acc[FLOAT_TILE];
    for (int r = 0; r < rows; r++) acc[r] = zero_floats();
    for (int k = 0; k < w->inputs; k++, at += PANEL)
        for (int r = 0; r < rows; r++)
            acc[r] = multiply(acc[r], at, x[(size_t)(row + r) * w->inputs + k]);
    for (int r = 0; r < rows; r++)
        write_out(w, panel, acc[r], y + (size_t)(row + r) * w->outputs, clamp);
}

/* All rows for `wide` panels: in tiles of TILE, then one by one. */
#define ALL_ROWS(tall, wide, bits, fixed)                                                 \
    do {                                                                                  \
        int row = 0;                                                                      \
        for (; row + tall <= rows; row += tall)                                           \
            tile(w, x, row, panel, y, clamp, tall, wide, bits, fixed);                    \
        if (tall > 4 && row + 4 <= rows) {                                                \
            tile(w, x, row, panel, y, clamp, 4, wide, bits, fixed);                       \
            row += 4;                                                                     \
        }                                                                                 \
        for (; row < rows; row++) tile(w, x, row, panel, y, clamp, 1, wide, bits, fixed); \
    } while (0)

static void matmul(const ember_matrix *w, const ember_rows *x, const float *floats_in, int rows,
                   int first, int end, float *y, int clamp) {
    for (int panel = first; panel < end; panel++) {
        if (w->bits == BITS_FLOAT) {
            int row = 0;
            for (; row + FLOAT_TILE <= rows; row += FLOAT_TILE)
                tile_float(w, floats_in, row, panel, y, clamp, FLOAT_TILE);
            for (; row + 2 <= rows; row += 2) tile_float(w, floats_in, row, panel, y, clamp, 2);
            for (; row < rows; row++) tile_float(w, floats_in, row, panel, y, clamp, 1);
        } else if (w->bits == BITS_4) {
            ALL_ROWS(TILE, 1, BITS_4, BLOCK / 4);
        } else if (w->block == BLOCK) {
            ALL_ROWS(TILE, 1, BITS_8, BLOCK / 4);
        } else if (panel + WIDE <= end) {
            ALL_ROWS(TILE, WIDE, BITS_8, 0);
            panel += WIDE - 1;
        } else {
            ALL_ROWS(TILE, 1, BITS_8, 0);
        }
    }
}

/* The sum of nine neighbours for 16 channels; a neighbour that is not there counts as zero. */
static inline floats nine(const float *const in[3], ptrdiff_t at, int channels, int left, int right,
                          const floats weight[9], floats sum) {
    for (int k = 0; k < 3; k++) {
        if (!in[k]) continue;
        const float *x = in[k] + at;
        if (left) sum = multiply_floats(sum, load_floats(x), weight[3 * k]);
        sum = multiply_floats(sum, load_floats(x + channels), weight[3 * k + 1]);
        if (right) sum = multiply_floats(sum, load_floats(x + 2 * channels), weight[3 * k + 2]);
    }
    return sum;
}

static void depthwise(const float *const in[3], int width, int channels, const float *taps,
                      const float *bias, int stride, float *y) {
    int out_width = (width + stride - 1) / stride;
    int pad = (out_width - 1) * stride + 3 - width, before = (pad > 0 ? pad : 0) / 2;
    int c = 0;
    for (; c + PANEL <= channels; c += PANEL) {
        floats weight[9], start = load_floats(bias + c);
        for (int t = 0; t < 9; t++) weight[t] = load_floats(taps + (size_t)t * channels + c);
        for (int j = 0; j < out_width; j++) {
            int column = j * stride - before;
            ptrdiff_t at = (ptrdiff_t)column * channels + c;
            floats sum =
                column >= 0 && column + 2 < width
                    ? nine(in, at, channels, 1, 1, weight, start)
                    : nine(in, at, channels, column >= 0, column + 2 < width, weight, start);
            store(y + (size_t)j * channels + c, clamp_6(sum));
        }
    }
    for (; c < channels; c++)
        for (int j = 0; j < out_width; j++) {
            float sum = bias[c];
            for (int t = 0; t < 9; t++) {
                int column = j * stride - before + t % 3;
                if (in[t / 3] && column >= 0 && column < width)
                    sum +=
                        in[t / 3][(size_t)column * channels + c] * taps[(size_t)t * channels + c];
            }
            y[(size_t)j * channels + c] = sum < 0 ? 0 : sum > 6 ? 6 : sum;
        }
}

/* Sums in 16 lanes, so that the compiler may use wide registers and every set adds alike. */
static float lane_sum(const float *x, int count, float centre, int squared) {
    float lane[16] = {0}, sum = 0;
    int i = 0;
    for (; i + 16 <= count; i += 16)
        for (int j = 0; j < 16; j++) {
            float value = x[i + j] - centre;
            lane[j] += squared ? value * value : value;
        }
    for (; i < count; i++) {
        float value = x[i] - centre;
        lane[0] += squared ? value * value : value;
    }
    for (int j = 0; j < 16; j++) sum += lane[j];
    return sum;
}

static void norm(float *x, int rows, int width, const float *weight, const float *bias,
                 float epsilon) {
    for (int r = 0; r < rows; r++, x += width) {
        float mean = lane_sum(x, width, 0, 0) / (float)width;
        float by = 1 / sqrtf(lane_sum(x, width, mean, 1) / (float)width + epsilon);
        for (int i = 0; i < width; i++) x[i] = (x[i] - mean) * by * weight[i] + bias[i];
    }
}

/* e^x to 2 units in the last place for -87 <= x <= 88 (Cephes' polynomial), 0 below. */
static inline float exponential(float x) {
    float clipped = x > -87.0f ? (x < 88.0f ? x : 88.0f) : -87.0f; /* not a number: -87 */
    float whole = clipped * 1.44269504f + 12582912.0f - 12582912.0f;
    float rest = clipped - whole * 0.693359375f + whole * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * rest + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * rest * rest + rest + 1.0f;
    uint32_t bits = (uint32_t)((int32_t)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return x > -87.0f ? y * power : 0.0f;
}

/* x * P(a normal number is below x); erf by Abramowitz and Stegun 7.1.26, error below 1.5e-7. */
static void gelu(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float z = fabsf(x[i]) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
        float series = 1.061405429f;
        series = series * t - 1.453152027f;
        series = series * t + 1.421413741f;
        series = series * t - 0.284496736f;
        series = series * t + 0.254829592f;
        float erf = 1.0f - series * t * exponential(-z * z);
        x[i] = 0.5f * x[i] * (1.0f + (x[i] < 0 ? -erf : erf));
    }
}

/* The highest value, by whole numbers of the same order, as in `largest_of`. */
static inline float highest_of(const float *x, int count) {
    int32_t highest = INT32_MIN;
    for (int i = 0; i < count; i++) {
        int32_t bits;
        memcpy(&bits, x + i, 4);
        bits ^= (bits >> 31) & 0x7fffffff;
        highest = bits > highest ? bits : highest;
    }
    highest ^= (highest >> 31) & 0x7fffffff;
    float value;
    memcpy(&value, &highest, 4);
    return value;
}

static void softmax(float *x, int count) {
    float largest = highest_of(x, count);
    for (int i = 0; i < count; i++) x[i] = exponential(x[i] - largest);
    float by = 1 / lane_sum(x, count, 0, 0);
    for (int i = 0; i < count; i++) x[i] *= by;
}

static void add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] += y[i];
}

/* The scores of `tall` queries over the turned keys (depth, padded): 16 keys at a time. */
static inline __attribute__((always_inline)) void score(const float *q, int q_stride,
                                                        const float *turned, int padded, int depth,
                                                        float by, float *shares, const int tall) {
    for (int s = 0; s < padded; s += PANEL) {
        floats sum[TALL];
        for (int r = 0; r < tall; r++) sum[r] = zero_floats();
        for (int d = 0; d < depth; d++)
            for (int r = 0; r < tall; r++)
                sum[r] = multiply(sum[r], turned + (size_t)d * padded + s,
                                  q[(size_t)r * q_stride + d] * by);
        for (int r = 0; r < tall; r++) store(shares + (size_t)r * padded + s, sum[r]);
    }
}

/* The values' mean, weighted by shares, of `tall` queries: 16 columns at a time. */
static inline __attribute__((always_inline)) void mix(const float *shares, int padded, int count,
                                                      const float *v, int v_stride, int depth,
                                                      float *out, int out_stride, const int tall) {
    int d = 0;
    for (; d + PANEL <= depth; d += PANEL) {
        floats sum[TALL];
        for (int r = 0; r < tall; r++) sum[r] = zero_floats();
        for (int s = 0; s < count; s++)
            for (int r = 0; r < tall; r++)
                sum[r] =
                    multiply(sum[r], v + (size_t)s * v_stride + d, shares[(size_t)r * padded + s]);
        for (int r = 0; r < tall; r++) store(out + (size_t)r * out_stride + d, sum[r]);
    }
    for (; d < depth; d++)
        for (int r = 0; r < tall; r++) {
            float sum = 0;
            for (int s = 0; s < count; s++)
                sum += shares[(size_t)r * padded + s] * v[(size_t)s * v_stride + d];
            out[(size_t)r * out_stride + d] = sum;
        }
}

/* One query: its keys are read once, so turning them would not pay. */
static void attend_one(const float *q, const float *k, const float *v, int kv_stride, int count,
                       int depth, float *out, float *shares) {
    float by = 1 / sqrtf((float)depth);
    for (int s = 0; s < count; s++) {
        const float *key = k + (size_t)s * kv_stride;
        float lane[PANEL] = {0}, sum = 0;
        int d = 0;
        for (; d + PANEL <= depth; d += PANEL)
            for (int j = 0; j < PANEL; j++) lane[j] += q[d + j] * key[d + j];
        for (; d < depth; d++) lane[0] += q[d] * key[d];
        for (int j = 0; j < PANEL; j++) sum += lane[j];
        shares[s] = sum * by;
    }
    softmax(shares, count);
    mix(shares, count, count, v, kv_stride, depth, out, 0, 1);
}

static void attend(const float *q, int q_stride, int rows, const float *k, const float *v,
                   int kv_stride, int count, int depth, float *out, int out_stride, float *room) {
    if (rows == 1) {
        attend_one(q, k, v, kv_stride, count, depth, out, room);
        return;
    }
    int padded = (count + PANEL - 1) / PANEL * PANEL;
    float *turned = room, *shares = room + (size_t)depth * padded;
    float by = 1 / sqrtf((float)depth);
    for (int d = 0; d < depth; d++) {
        for (int s = 0; s < count; s++)
            turned[(size_t)d * padded + s] = k[(size_t)s * kv_stride + d];
        for (int s = count; s < padded; s++) turned[(size_t)d * padded + s] = 0;
    }
    for (int r = 0; r < rows;) {
        const float *query = q + (size_t)r * q_stride;
        float *to = out + (size_t)r * out_stride;
        int tall = r + TALL <= rows ? TALL : 1;
        if (tall == TALL)
            score(query, q_stride, turned, padded, depth, by, shares, TALL);
        else
            score(query, q_stride, turned, padded, depth, by, shares, 1);
        for (int i = 0; i < tall; i++) softmax(shares + (size_t)i * padded, count);
        if (tall == TALL)
            mix(shares, padded, count, v, kv_stride, depth, to, out_stride, TALL);
        else
            mix(shares, padded, count, v, kv_stride, depth, to, out_stride, 1);
        r += tall;
    }
}

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
extern const kernel_set JOIN(kernels_, SET);
const kernel_set JOIN(kernels_, SET) = {
    SET_NAME, quantise, matmul, depthwise, norm, gelu, softmax, add, attend,
};
