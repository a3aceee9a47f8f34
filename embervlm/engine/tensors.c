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

/* Multiplies the whole numbers of a table by the scales of its columns. */
static int scale_columns(ember *m, const char *name, table *out) {
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
    if (t->type == GGUF_I8 && scale_columns(m, name, out)) {
        free(out->values);
        out->values = NULL;
        return -1;
    }
    return 0;
}

int load_norm(ember *m, const char *name, int width, norm_layer *out) {
    char full[NAME];
    joined(full, name, ".weight");
    if (load_table(m, full, 1, width, &out->weight)) return -1;
    joined(full, name, ".bias");
    return load_table(m, full, 1, width, &out->bias);
}

void *plain_room(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

float *float_room(size_t count) { return plain_room(count * sizeof(float)); }

void *zeroed_room(size_t bytes) {
    void *room = plain_room(bytes);
    if (room) memset(room, 0, bytes);
    return room;
}

/* Four bytes as one number: what is done to it is done to each of them. */
static uint32_t four_at(const uint8_t *bytes) {
    uint32_t four;
    memcpy(&four, bytes, 4);
    return four;
}

/* Writes one block of a row into its lane of a panel, as kernels.h describes: groups of four bytes,
 * PANEL * 4 apart. */
static void pack_block(uint32_t type, const uint8_t *at, int block, int bits, uint8_t *lane) {
    const uint32_t low = 0x0f0f0f0f, high = 0xf0f0f0f0, top = 0x80808080;
    uint32_t group[8];
    int groups = 4;
    if (type == GGUF_Q4_0) {
        /* Byte i holds value i low and value i + 16 high, each + 8, as the panel wants them. */
        for (int g = 0; g < 2; g++) {
            uint32_t first = four_at(at + 2 + 8 * g), second = four_at(at + 6 + 8 * g);
            group[g] = (first & low) | (second & low) << 4;
            group[g + 2] = (first >> 4 & low) | (second & high);
        }
    } else if (type == GGUF_TQ2_0 && bits == BITS_2) {
        const uint8_t *part = at + 32 * (block % 8 / 4);
        int shift = 2 * (block % 4);
        groups = 2;
        for (int g = 0; g < 2; g++) {
            group[g] = 0;
            for (int i = 0; i < 4; i++)
                group[g] |= (four_at(part + 16 * g + 4 * i) >> shift & 0x03030303) << 2 * i;
        }
    } else if (type == GGUF_TQ2_0) {
        const uint8_t *part = at + 32 * (block % 8 / 4);
        int shift = 2 * (block % 4);
        for (int g = 0; g < 4; g++) {
            uint32_t first = (four_at(part + 8 * g) >> shift & 0x03030303) + 0x07070707;
            uint32_t second = (four_at(part + 8 * g + 4) >> shift & 0x03030303) + 0x07070707;
            group[g] = first | second << 4;
        }
    } else {
        groups = 8;
        for (int g = 0; g < 8; g++) group[g] = four_at(at + 2 + 4 * g) ^ top;
    }
    for (int g = 0; g < groups; g++) memcpy(lane + (size_t)g * PANEL * 4, &group[g], 4);
}

/* Fills the panels of a matrix of plain bytes, one scale a row. */
static void pack_bytes(const gguf_tensor *t, const float *scale, ember_matrix *w) {
    size_t panel_bytes = (size_t)PANEL * (size_t)w->block;
    memset(w->weights, 128, (size_t)w->panels * panel_bytes);
    memset(w->scales, 0, (size_t)w->panels * PANEL * sizeof *w->scales);
    for (int o = 0; o < w->outputs; o++) {
        const uint8_t *at = t->data + (size_t)o * (size_t)w->inputs;
        uint8_t *lane = w->weights + (size_t)(o / PANEL) * panel_bytes + 4 * (o % PANEL);
        for (int i = 0; i < w->inputs; i++) lane[i / 4 * 4 * PANEL + i % 4] = at[i] ^ 128;
        w->scales[o] = scale[o];
    }
}

static size_t packed_bytes(ember_bits bits, size_t values) {
    return bits == BITS_FLOAT ? values * sizeof(float)
           : bits == BITS_8   ? values
           : bits == BITS_4   ? values / 2
                              : values / 4;
}

/* Fills the panels of a matrix in blocks of 32. Of a ternary one 256 weights share a scale, counted
 * from the first row's first to the last row's last: they may begin in one row and end in the next.
 */
static void pack_rows(const gguf_tensor *t, ember_matrix *w) {
    size_t row_bytes = t->bytes / (size_t)w->outputs;
    size_t block_bytes = packed_bytes(w->bits, (size_t)PANEL * BLOCK);
    for (int panel = 0; panel < w->panels; panel++) {
        int lanes = w->outputs - panel * PANEL < PANEL ? w->outputs - panel * PANEL : PANEL;
        for (int b = 0; b < w->blocks; b++) {
            size_t i = (size_t)panel * (size_t)w->blocks + (size_t)b;
            uint8_t *to = w->weights + i * block_bytes;
            float *scales = w->scales + i * PANEL;
            if (lanes < PANEL) {
                memset(to, w->bits == BITS_8 ? 128 : w->bits == BITS_4 ? 0x88 : 0x55, block_bytes);
                memset(scales, 0, PANEL * sizeof *scales);
            }
            for (int lane = 0; lane < lanes; lane++) {
                size_t row = (size_t)(panel * PANEL + lane);
                const uint8_t *at = t->data + row * row_bytes, *by;
                int part = 0;
                if (t->type == GGUF_TQ2_0) {
                    size_t block = row * (size_t)w->blocks + (size_t)b;
                    at = t->data + block / 8 * 66, by = at + 64, part = (int)(block % 8);
                } else {
                    at += (size_t)b * (t->type == GGUF_Q8_0 ? 34 : 18), by = at;
                }
                pack_block(t->type, at, part, w->bits, to + 4 * lane);
                scales[lane] = half_to_float(half_at(by));
            }
        }
    }
}

/* The same for a matrix of floats, through one row at a time. */
static int pack_floats(ember *m, const gguf_tensor *t, ember_matrix *w) {
    int64_t part = t->size[0], parts = w->inputs / part;
    float *whole = malloc((size_t)w->inputs * sizeof *whole);
    if (!whole) return model_fail(m, "no memory for %s.", t->name);
    memset(w->weights, 0, (size_t)w->panels * PANEL * (size_t)w->inputs * sizeof *whole);
    for (int o = 0; o < w->outputs; o++) {
        float *to = (float *)w->weights + (size_t)(o / PANEL * PANEL) * (size_t)w->inputs;
        for (int64_t r = 0; r < parts; r++) tensor_row(t, o * parts + r, whole + r * part);
        for (int i = 0; i < w->inputs; i++) to[(size_t)i * PANEL + o % PANEL] = whole[i];
    }
    free(whole);
    return 0;
}

int load_matrix(ember *m, const char *name, int outputs, int inputs, int has_bias,
                ember_matrix *w) {
    char full[NAME];
    joined(full, name, ".weight");
    const gguf_tensor *t = model_tensor(m, full);
    if (!t) return -1;
    int64_t wide = t->size[0], tall = tensor_rows(t);
    if (t->dims == 4) wide *= t->size[1] * t->size[2], tall = t->size[3];
    int64_t count = (int64_t)outputs * inputs;
    int is_folded = t->type == GGUF_TQ2_0 && t->dims <= 2 && count && inputs % BLOCK == 0 &&
                    wide == 256 && tall * wide == count;
    if (is_folded) wide = inputs, tall = outputs;
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
              : t->type == GGUF_TQ2_0 && m->kernels->has_2    ? BITS_2
              : t->type == GGUF_Q4_0 || t->type == GGUF_TQ2_0 ? BITS_4
                                                              : BITS_8;
    size_t tall_padded = (size_t)w->panels * PANEL;
    size_t values = tall_padded * (size_t)w->blocks * (size_t)w->block;
    float *bias = zeroed_room(tall_padded * sizeof *bias);
    w->bias = bias;
    w->weights = plain_room(
        packed_bytes(w->bits, w->bits == BITS_FLOAT ? tall_padded * (size_t)w->inputs : values));
    w->scales = w->bits == BITS_FLOAT
                    ? NULL
                    : plain_room(tall_padded * (size_t)w->blocks * sizeof *w->scales);
    if (!bias || !w->weights || (w->bits != BITS_FLOAT && !w->scales))
        return model_fail(m, "no memory for %s.", full);
    if (has_bias) {
        table taken;
        joined(full, name, ".bias");
        if (load_table(m, full, 1, w->outputs, &taken)) return -1;
        memcpy(bias, taken.values, (size_t)w->outputs * sizeof *bias);
        free(taken.values);
    }
    if (w->bits == BITS_FLOAT) {
        if (pack_floats(m, t, w)) return -1;
    } else if (t->type == GGUF_I8) {
        table scale = {0};
        joined(full, name, ".weight.scale");
        if (load_table(m, full, 1, w->outputs, &scale)) return -1;
        pack_bytes(t, scale.values, w);
        free(scale.values);
    } else {
        pack_rows(t, w);
    }
    gguf_release(&m->file);
    return 0;
}

void free_norm(norm_layer *n) { free(n->weight.values), free(n->bias.values); }

void free_matrix(ember_matrix *w) {
    free((void *)w->bias);
    free(w->weights);
    free(w->scales);
}
