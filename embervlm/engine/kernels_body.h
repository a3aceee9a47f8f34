/* The text of one kernel set, written once. The file that includes it has chosen the instruction
 * set with a pragma, and defines:
 *
 *   SET, SET_NAME   the set's name, as part of an identifier and as a text
 *   sums, floats, weights   sixteen whole sums, one an output; sixteen floats; (16 x 4) weights
 *   zero_floats, load_floats, multiply, multiply_floats, add_floats, clamp_6, store   on floats
 *   start_sums, finish      before and behind the products of a block
 *   load_8, low_4, high_4   weights of 8 and of 4 bits
 *   part_2          weights of 2 bits: the group from bit `shift` on; only without OWN_BLOCKS
 *   dot             adds 4 products for 16 outputs: `w` holds (16 x 4) weights, `x` four signed
 *                   bytes. Where the instruction wants unsigned weights their offset stays in, and
 *                   the sums start at what takes it off
 *   OFFSET(bits)    that offset, 0 where weights are signed
 *   TILE, FLOAT_TILE, WIDE, TALL   rows and panels at a time: what fits into the registers
 *
 * and may define:
 *
 *   SHORT_SUMS      start_4, dot_4 and end_4 of its own, for four-bit weights
 *   OWN_BLOCKS      `add_block`, which adds a block's products for some rows, instead of `dot`
 *   IN_MEMORY(x)    keeps x out of the registers
 */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels.h"

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
    const size_t block_bytes = (size_t)group * groups /
                               (bits == BITS_8   ? 1
                                : bits == BITS_4 ? 2
                                                 : 4);
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
        } else if (bits == BITS_2) {
#pragma GCC unroll 8 /* so that shifts are constants */
            for (int g = 0; g < groups; g++) {
                weights part = part_2(at + g / 4 * group, g % 4 * 2);
                for (int r = 0; r < rows; r++) s[r] = dot_4(s[r], part, bytes + r * next + 4 * g);
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
                if (bits != BITS_8) whole = end_4(whole, x->offsets[i]);
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
#if !defined(OWN_BLOCKS)
        } else if (w->bits == BITS_2) {
            ALL_ROWS(TILE, 1, BITS_2, BLOCK / 4);
#endif
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

#if defined(OWN_BLOCKS)
enum { HAS_2 = 0 };
#else
enum { HAS_2 = 1 };
#endif
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
extern const kernel_set JOIN(kernels_, SET);
const kernel_set JOIN(kernels_, SET) = {
    SET_NAME, HAS_2, quantise, matmul, depthwise, norm, gelu, softmax, add, attend,
};
