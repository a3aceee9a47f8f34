#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define SET avx2
#define SET_NAME "avx2"

typedef struct {
    __m256i half[2];
} sums;
typedef struct {
    __m256 half[2];
} floats;

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
static inline weights part_2(const uint8_t *w, int shift) {
    __m256i two = _mm256_set1_epi8(3);
    return (weights){{_mm256_and_si256(_mm256_srli_epi16(half_of(w, 0), shift), two),
                      _mm256_and_si256(_mm256_srli_epi16(half_of(w, 1), shift), two)}};
}
/* Narrow weights are summed in pairs of 16 bits: a block is at most 16 * 15 * 127 a half. */
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
#define OFFSET(bits) ((bits) == BITS_8 ? 0 : (bits) == BITS_4 ? 8 : 1)
#define TILE 4
#define FLOAT_TILE 6
#define TALL 2
#define WIDE 1

#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
