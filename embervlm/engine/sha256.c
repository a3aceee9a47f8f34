/* SHA-256 (FIPS 180-4), by the processor's own instructions where it has them. */
#include "sha256.h"

#include <string.h>

#if !defined(SHA256_PORTABLE) && defined(__x86_64__)
#define USE_SHA_NI
#include <cpuid.h>
#include <immintrin.h>
#elif !defined(SHA256_PORTABLE) && defined(__aarch64__) && defined(__linux__)
#define USE_SHA2
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

static const uint32_t ROUND[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void compress(uint32_t state[8], const uint8_t *block, size_t count) {
    for (; count; count--, block += 64) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
                   (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
                   (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
        }
        memcpy(s, state, sizeof s);
        /* The eight variables change places every round: here their indices do, and once the inner
         * loop is unrolled they are constants, so that nothing moves. */
        for (int i = 0; i < 64; i += 8)
            for (int j = 0; j < 8; j++) {
                uint32_t a = s[(8 - j) % 8], b = s[(9 - j) % 8], c = s[(10 - j) % 8];
                uint32_t e = s[(12 - j) % 8], f = s[(13 - j) % 8], g = s[(14 - j) % 8];
                uint32_t one = s[(15 - j) % 8] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                               ((e & f) ^ (~e & g)) + ROUND[i + j] + w[i + j];
                uint32_t two =
                    (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
                s[(11 - j) % 8] += one;
                s[(15 - j) % 8] = one + two;
            }
        for (int i = 0; i < 8; i++) state[i] += s[i];
    }
}

/* Below, w holds the last 16 words of the message schedule, four to a register: four rounds a turn.
 * The instructions want the state as they are documented (Intel SDM, SHA256RNDS2; Arm ARM,
 * SHA256H). */
#if defined(USE_SHA_NI)
__attribute__((target("sha,ssse3,sse4.1"))) static void compress_by_instruction(
    uint32_t state[8], const uint8_t *block, size_t count) {
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
    for (; count; count--, block += 64) {
        __m128i w[4], before_abef = abef, before_cdgh = cdgh;
        for (int i = 0; i < 16; i++) {
            __m128i *now = &w[i % 4];
            if (i < 4) {
                *now = _mm_loadu_si128((const __m128i *)(block + 16 * i));
                *now = _mm_shuffle_epi8(*now, order);
            } else {
                __m128i last = w[(i + 3) % 4];
                *now = _mm_sha256msg1_epu32(*now, w[(i + 1) % 4]);
                *now = _mm_add_epi32(*now, _mm_alignr_epi8(last, w[(i + 2) % 4], 4));
                *now = _mm_sha256msg2_epu32(*now, last);
            }
            __m128i sum = _mm_add_epi32(
                *now, _mm_loadu_si128((const __m128i *)(const void *)(ROUND + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        }
        abef = _mm_add_epi32(abef, before_abef), cdgh = _mm_add_epi32(cdgh, before_cdgh);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static int has_instruction(void) {
    unsigned a, b = 0, c = 0, d, extended = 0;
    if (!__get_cpuid_count(7, 0, &a, &extended, &c, &d) || !__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    return extended >> 29 & c >> 9 & c >> 19 & 1; /* SHA, SSSE3, SSE4.1 */
}

#elif defined(USE_SHA2)
__attribute__((target("+crypto"))) static void compress_by_instruction(uint32_t state[8],
                                                                       const uint8_t *block,
                                                                       size_t count) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; count; count--, block += 64) {
        uint32x4_t w[4], before_abcd = abcd, before_efgh = efgh;
        for (int i = 0; i < 16; i++) {
            uint32x4_t *now = &w[i % 4];
            if (i < 4)
                *now = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(block + 16 * i)));
            else
                *now = vsha256su1q_u32(vsha256su0q_u32(*now, w[(i + 1) % 4]), w[(i + 2) % 4],
                                       w[(i + 3) % 4]);
            uint32x4_t sum = vaddq_u32(*now, vld1q_u32(ROUND + 4 * i)), old = abcd;
            abcd = vsha256hq_u32(abcd, efgh, sum);
            efgh = vsha256h2q_u32(efgh, old, sum);
        }
        abcd = vaddq_u32(abcd, before_abcd), efgh = vaddq_u32(efgh, before_efgh);
    }
    vst1q_u32(state, abcd), vst1q_u32(state + 4, efgh);
}

static int has_instruction(void) { return getauxval(AT_HWCAP) >> 6 & 1; /* HWCAP_SHA2 */ }

#else
#define compress_by_instruction compress
static int has_instruction(void) { return 0; }
#endif

void sha256_begin(sha256 *hash) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, start, sizeof start);
    hash->length = hash->filled = 0;
    hash->compress = has_instruction() ? compress_by_instruction : compress;
}

void sha256_add(sha256 *hash, const void *bytes, size_t count) {
    const uint8_t *next = bytes;
    hash->length += count;
    if (hash->filled) {
        size_t part = 64 - hash->filled < count ? 64 - hash->filled : count;
        memcpy(hash->block + hash->filled, next, part);
        hash->filled += part, next += part, count -= part;
        if (hash->filled < 64) return;
        hash->compress(hash->state, hash->block, 1);
        hash->filled = 0;
    }
    hash->compress(hash->state, next, count / 64);
    memcpy(hash->block, next + count / 64 * 64, count % 64);
    hash->filled = count % 64;
}

void sha256_end(sha256 *hash, char hex[65]) {
    uint8_t tail[72] = {0x80};
    uint64_t bits = hash->length * 8;
    size_t zeros = (hash->filled < 56 ? 56 : 120) - hash->filled;
    for (int i = 0; i < 8; i++) tail[zeros + i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(hash, tail, zeros + 8);
    for (int i = 0; i < 32; i++) {
        uint8_t byte = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
        hex[2 * i] = "0123456789abcdef"[byte >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[byte & 15];
    }
    hex[64] = 0;
}
