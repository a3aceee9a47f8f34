/* What lies in the file, as the kernels want it in memory: tables of floats, matrices in panels. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half >> 15) << 31, exponent = half >> 10 & 31,
             fraction = half & 1023, bits;
    float value;
    if (exponent == 31) {
        bits = sign | 0x7f800000u | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        value = (float)fraction * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    memcpy(&value, &bits, 4);
    return value;
}

static uint16_t half_at(const uint8_t *bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

float tensor_block(const gguf_tensor *t, const uint8_t *row, int block, int8_t out[BLOCK]) {
    if (t->type == GGUF_Q8_0) {
        const uint8_t *at = row + (size_t)block * 34;
        memcpy(out, at + 2, BLOCK);
        return half_to_float(half_at(at));
    }
    if (t->type == GGUF_Q4_0) {
        const uint8_t *at = row + (size_t)block * 18;
        for (int i = 0; i < 16; i++) {
            out[i] = (int8_t)((at[2 + i] & 15) - 8);
            out[i + 16] = (int8_t)((at[2 + i] >> 4) - 8);
        }
        return half_to_float(half_at(at));
    }
    /* TQ2_0: 256 values in 64 bytes, two bits each, then one scale. Byte 32 h + j holds in its bits
     * 2 l and 2 l + 1 the value 128 h + 32 l + j. */
    const uint8_t *at = row + (size_t)(block / 8) * 66;
    int h = block % 8 / 4, l = block % 4;
    for (int j = 0; j < BLOCK; j++) out[j] = (int8_t)((at[32 * h + j] >> (2 * l) & 3) - 1);
    return half_to_float(half_at(at + 64));
}

int64_t tensor_rows(const gguf_tensor *t) { return t->size[1] * t->size[2] * t->size[3]; }

void tensor_row(const gguf_tensor *t, int64_t index, float *out) {
    int64_t count = t->size[0];
    const uint8_t *row = t->data + (size_t)index * (t->bytes / (size_t)tensor_rows(t));
    switch (t->type) {
        case GGUF_F32:
            memcpy(out, row, (size_t)count * 4);
            return;
        case GGUF_F16:
            for (int64_t i = 0; i < count; i++) out[i] = half_to_float(half_at(row + 2 * i));
            return;
        case GGUF_I8:
            for (int64_t i = 0; i < count; i++) out[i] = (float)(int8_t)row[i];
            return;
        default:
            for (int b = 0; b < count / BLOCK; b++) {
                int8_t bytes[BLOCK];
                float scale = tensor_block(t, row, b, bytes);
                for (int i = 0; i < BLOCK; i++) out[b * BLOCK + i] = (float)bytes[i] * scale;
            }
    }
}

float tensor_value(const gguf_tensor *t, int64_t index, int64_t at) {
    const uint8_t *row = t->data + (size_t)index * (t->bytes / (size_t)tensor_rows(t));
    float value;
    switch (t->type) {
        case GGUF_F32:
            memcpy(&value, row + 4 * at, 4);
            return value;
        case GGUF_F16:
            return half_to_float(half_at(row + 2 * at));
        case GGUF_Q8_0:
            row += at / BLOCK * 34;
            return half_to_float(half_at(row)) * (float)(int8_t)row[2 + at % BLOCK];
        default: /* Q4_0 */
            row += at / BLOCK * 18;
            int i = (int)(at % BLOCK), both = row[2 + i % 16];
            return half_to_float(half_at(row)) * (float)((i < 16 ? both & 15 : both >> 4) - 8);
    }
}

const gguf_tensor *model_tensor(ember *m, const char *name) {
    const gguf_tensor *t = gguf_find(&m->file, name);
    if (!t) model_fail(m, "the model lacks the tensor %s; export it again.", name);
    return t;
}

static void joined(char out[NAME], const char *first, const char *second) {
    snprintf(out, NAME, "%.127s%.31s", first, second);
}

int load_table(ember *m, const char *name, int64_t rows, int64_t width, table *out) {
    const gguf_tensor *t = model_tensor(m, name);
    if (!t) return -1;
    if (t->type != GGUF_F32 && t->type != GGUF_F16 && t->type != GGUF_Q8_0 && t->type != GGUF_I8)
        return model_fail(m,
                          "tensor %s has type %d, which no table may have; export the model again.",
                          name, (int)t->type);
    if ((width && t->size[0] != width) || (rows && tensor_rows(t) != rows))
        return model_fail(
            m, "tensor %s has %lld x %lld values, expected %lld x %lld; export the model again.",
            name, (long long)tensor_rows(t), (long long)t->size[0], (long long)rows,
            (long long)width);
    out->rows = (int)tensor_rows(t), out->width = (int)t->size[0];
    out->values = malloc((size_t)out->rows * (size_t)out->width * sizeof(float));
    if (!out->values) return model_fail(m, "no memory for %s.", name);
    for (int r = 0; r < out->rows; r++)
        tensor_row(t, r, out->values + (size_t)r * (size_t)out->width);
    if (t->type != GGUF_I8) return 0;
    char full[NAME];
    table scale;
    joined(full, name, ".scale");
    const gguf_tensor *by = model_tensor(m, full);
    if (!by) return -1;
    if (by->type == GGUF_I8)
        return model_fail(m, "tensor %s has plain bytes for scales; export the model again.", full);
    if (load_table(m, full, 1, out->width, &scale)) return -1;
    for (int r = 0; r < out->rows; r++)
        for (int i = 0; i < out->width; i++)
            out->values[(size_t)r * (size_t)out->width + (size_t)i] *= scale.values[i];
    free(scale.values);
    return 0;
}

int load_norm(ember *m, const char *name, int width, norm_layer *out) {
    char full[NAME];
    joined(full, name, ".weight");
    if (load_table(m, full, 1, width, &out->weight)) return -1;
    joined(full, name, ".bias");
    return load_table(m, full, 1, width, &out->bias);
}

void *zeroed_room(size_t bytes) {
    void *room = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (room) memset(room, 0, (bytes + 63) / 64 * 64);
    return room;
}

float *float_room(size_t count) {
    return aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
}

int load_matrix(ember *m, const char *name, int outputs, int inputs, int has_bias,
                ember_matrix *w) {
    char full[NAME];
    joined(full, name, ".weight");
    const gguf_tensor *t = model_tensor(m, full);
    if (!t) return -1;
    int64_t wide = t->size[0], tall = tensor_rows(t);
    if (t->dims == 4) wide *= t->size[1] * t->size[2], tall = t->size[3];
    if ((outputs && tall != outputs) || (inputs && wide != inputs) || tall < 1 || wide < 1 ||
        tall > 1 << 20 || wide > 1 << 20)
        return model_fail(
            m, "tensor %s has %lld x %lld values, expected %d x %d; export the model again.", full,
            (long long)tall, (long long)wide, outputs, inputs);
    if (t->type == GGUF_I16)
        return model_fail(m, "tensor %s has 16-bit numbers; export the model again.", full);
    w->outputs = (int)tall, w->inputs = (int)wide;
    w->panels = (w->outputs + PANEL - 1) / PANEL;
    w->block = t->type == GGUF_I8 ? (w->inputs + 3) / 4 * 4 : BLOCK;
    w->blocks = (w->inputs + w->block - 1) / w->block;
    w->bits = t->type == GGUF_F32 || t->type == GGUF_F16      ? BITS_FLOAT
              : t->type == GGUF_Q4_0 || t->type == GGUF_TQ2_0 ? BITS_4
                                                              : BITS_8;
    size_t padded = (size_t)w->panels * PANEL * (size_t)w->blocks * (size_t)w->block;
    float *bias = zeroed_room((size_t)w->panels * PANEL * sizeof *bias);
    w->bias = bias;
    w->weights =
        zeroed_room(w->bits == BITS_FLOAT ? (size_t)w->panels * PANEL * (size_t)w->inputs * 4
                    : w->bits == BITS_8   ? padded
                                          : padded / 2);
    w->scales =
        w->bits == BITS_FLOAT
            ? NULL
            : zeroed_room((size_t)w->panels * (size_t)w->blocks * PANEL * sizeof *w->scales);
    if (!bias || !w->weights || (w->bits != BITS_FLOAT && !w->scales))
        return model_fail(m, "no memory for %s.", full);
    if (has_bias) {
        table values;
        joined(full, name, ".bias");
        if (load_table(m, full, 1, w->outputs, &values)) return -1;
        memcpy(bias, values.values, (size_t)w->outputs * sizeof *bias);
        free(values.values);
    }
    table scale = {0};
    if (t->type == GGUF_I8) {
        joined(full, name, ".weight.scale");
        if (load_table(m, full, 1, w->outputs, &scale)) return -1;
    }
    size_t row_bytes = t->bytes / (size_t)tall;
    float *whole = w->bits == BITS_FLOAT ? malloc((size_t)wide * sizeof *whole) : NULL;
    if (w->bits == BITS_FLOAT && !whole) return model_fail(m, "no memory for %s.", name);
    if (w->bits == BITS_8) memset(w->weights, 128, padded);
    if (w->bits == BITS_4) memset(w->weights, 0x88, padded / 2);
    for (int o = 0; o < w->outputs; o++) {
        int panel = o / PANEL, lane = o % PANEL;
        const uint8_t *row = t->data + (size_t)o * row_bytes;
        if (w->bits == BITS_FLOAT) {
            float *to = (float *)w->weights + (size_t)panel * (size_t)w->inputs * PANEL + lane;
            int64_t part = t->size[0];
            for (int64_t r = 0; r < wide / part; r++)
                tensor_row(t, (int64_t)o * (wide / part) + r, whole + r * part);
            for (int i = 0; i < w->inputs; i++) to[(size_t)i * PANEL] = whole[i];
            continue;
        }
        if (t->type == GGUF_I8) {
            uint8_t *to = w->weights + (size_t)panel * PANEL * (size_t)w->block + 4 * lane;
            w->scales[o] = scale.values[o];
            for (int i = 0; i < w->inputs; i++) to[i / 4 * 4 * PANEL + i % 4] = row[i] ^ 128;
            continue;
        }
        for (int b = 0; b < w->blocks; b++) {
            int8_t bytes[BLOCK];
            size_t at = (size_t)panel * (size_t)w->blocks + (size_t)b;
            w->scales[at * PANEL + (size_t)lane] = tensor_block(t, row, b, bytes);
            uint8_t *to = w->weights + at * PANEL * BLOCK / (w->bits == BITS_8 ? 1 : 2);
            int groups = w->bits == BITS_8 ? 8 : 4;
            for (int g = 0; g < groups; g++) {
                uint8_t *four = to + g * PANEL * 4 + lane * 4;
                for (int k = 0; k < 4; k++)
                    four[k] = (uint8_t)(w->bits == BITS_8 ? bytes[4 * g + k] + 128
                                                          : (bytes[8 * g + k] + 8) |
                                                                (bytes[8 * g + 4 + k] + 8) << 4);
            }
        }
    }
    free(whole);
    free(scale.values);
    gguf_release(&m->file, t);
    return 0;
}

void free_matrix(ember_matrix *w) {
    free((void *)w->bias);
    free(w->weights);
    free(w->scales);
}
