#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,prefer-vector-width=512")
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels.h"

#define SET avx512
#define SET_NAME "avx512-vnni"

typedef __m512i sums;
typedef __m512 floats;

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
static inline weights part_2(const uint8_t *w, int shift) {
    __m512i all = _mm512_srli_epi16(_mm512_loadu_si512(w), (unsigned)shift);
    return _mm512_and_si512(all, _mm512_set1_epi8(3));
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
#define OFFSET(bits) ((bits) == BITS_8 ? 128 : (bits) == BITS_4 ? 8 : 1)
#define TILE 8
#define FLOAT_TILE 8
#define TALL 4
#define WIDE 2

#include "kernels_body.h"
#else
typedef int nothing_here;
#endif
