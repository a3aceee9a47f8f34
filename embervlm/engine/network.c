/* The network of `models/modeling.py`, written out: photo, reader, heads, n-grams, decoder. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ember.h"
#include "gguf.h"
#include "kernels.h"
#include "threads.h"

enum { MOST_LAYERS = 48, MOST_BLOCKS = 64, MOST_TOKENS = 1024, NAME = 160, MOST_EXTRA = 64 };

typedef struct {
    float *values;
    int rows, width;
} table; /* a small tensor, as floats */

typedef struct {
    table weight, bias;
} norm_layer;

typedef struct {
    ember_matrix qkv, out, up, down;
    norm_layer attention_norm, output_norm;
} encoder_layer;

typedef struct {
    ember_matrix qkv, out, cross_q, cross_kv, cross_out, up, down;
    norm_layer self_norm, cross_norm, ffn_norm;
    float *cross; /* (states, 2 width) of this request */
    float *cache; /* (positions, 2 width): keys and values so far */
} decoder_layer;

typedef struct {
    ember_matrix expand, project;
    table taps, tap_bias;
    int has_expand, stride, channels; /* channels: of the depthwise filter */
} bottleneck;

typedef struct {
    char name[NAME];
    ember_matrix matrix;
} named_matrix;

struct ember {
    gguf file;
    const kernel_set *kernels;
    ember_threads *threads;
    char error[256];

    int width, heads, layers, hidden, positions, vocabulary;
    int image_size, image_width, image_tokens, places;
    int decoder_width, decoder_heads, decoder_hidden, decoder_positions, decoder_layers;

    const gguf_tensor *embeddings;
    table position, no_photo, scene_table, importance;
    const gguf_tensor *ngram_table, *ngram_scale;
    table ngram_bias;
    norm_layer embed_norm, image_norm;
    encoder_layer layer[MOST_LAYERS];
    ember_matrix stem, view;
    bottleneck block[MOST_BLOCKS];
    int blocks;
    table decoder_position;
    norm_layer decoder_norm;
    ember_matrix narrow, widen, copy_query, gate;
    decoder_layer decoder[MOST_LAYERS];
    named_matrix linear[MOST_EXTRA]; /* heads, and the scene: by name, for ember_linear */
    int linears;

    /* Of the request whose reasoning is being written. */
    float *words;
    int32_t *source;
    int states, step;

    ember_rows rows; /* room for quantised activations */
    size_t rows_room;
};

static int fail(ember *m, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vsnprintf(m->error, sizeof m->error, format, rest);
    va_end(rest);
    return -1;
}

/* --- tensors to memory ------------------------------------------------------------------------ */

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

/* Writes one block of 32 values of a quantised row as bytes, and returns its scale. */
static float block_bytes(const gguf_tensor *t, const uint8_t *row, int block, int8_t out[BLOCK]) {
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

static int64_t row_count(const gguf_tensor *t) { return t->size[1] * t->size[2] * t->size[3]; }

/* Writes a row of a tensor as floats; a row of I8 is written without its scale. */
static void row_floats(const gguf_tensor *t, int64_t index, float *out) {
    int64_t count = t->size[0];
    const uint8_t *row = t->data + (size_t)index * (t->bytes / (size_t)row_count(t));
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
                float scale = block_bytes(t, row, b, bytes);
                for (int i = 0; i < BLOCK; i++) out[b * BLOCK + i] = (float)bytes[i] * scale;
            }
    }
}

static const gguf_tensor *need(ember *m, const char *name) {
    const gguf_tensor *t = gguf_find(&m->file, name);
    if (!t) fail(m, "the model lacks the tensor %s; export it again.", name);
    return t;
}

static void joined(char out[NAME], const char *first, const char *second) {
    snprintf(out, NAME, "%.127s%.31s", first, second);
}

/* Reads a small tensor; `width` and `rows` must be as said, unless they are 0. */
static int load_table(ember *m, const char *name, int64_t rows, int64_t width, table *out) {
    const gguf_tensor *t = need(m, name);
    if (!t) return -1;
    if (t->type != GGUF_F32 && t->type != GGUF_F16)
        return fail(m, "tensor %s is quantised where it must not be; export the model again.",
                    name);
    if ((width && t->size[0] != width) || (rows && row_count(t) != rows))
        return fail(
            m, "tensor %s has %lld x %lld values, expected %lld x %lld; export the model again.",
            name, (long long)row_count(t), (long long)t->size[0], (long long)rows,
            (long long)width);
    out->rows = (int)row_count(t), out->width = (int)t->size[0];
    out->values = malloc((size_t)out->rows * (size_t)out->width * sizeof(float));
    if (!out->values) return fail(m, "no memory for %s.", name);
    for (int r = 0; r < out->rows; r++)
        row_floats(t, r, out->values + (size_t)r * (size_t)out->width);
    return 0;
}

static int load_norm(ember *m, const char *name, int width, norm_layer *out) {
    char full[NAME];
    joined(full, name, ".weight");
    if (load_table(m, full, 1, width, &out->weight)) return -1;
    joined(full, name, ".bias");
    return load_table(m, full, 1, width, &out->bias);
}

static void *aligned(size_t bytes) {
    void *room = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (room) memset(room, 0, (bytes + 63) / 64 * 64);
    return room;
}

/* Room for floats that are all written before they are read. */
static float *room_for(size_t count) {
    return aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64);
}

/* Repacks NAME.weight (outputs, inputs) into panels; takes NAME.bias where there is one, and
 * NAME.weight.scale, one an output, where the weights are plain bytes. */
static int load_matrix(ember *m, const char *name, int outputs, int inputs, int has_bias,
                       ember_matrix *w) {
    char full[NAME];
    joined(full, name, ".weight");
    const gguf_tensor *t = need(m, full);
    if (!t) return -1;
    int64_t wide = t->size[0], tall = row_count(t);
    if (t->dims == 4) wide *= t->size[1] * t->size[2], tall = t->size[3];
    if ((outputs && tall != outputs) || (inputs && wide != inputs) || tall < 1 || wide < 1 ||
        tall > 1 << 20 || wide > 1 << 20)
        return fail(m,
                    "tensor %s has %lld x %lld values, expected %d x %d; export the model again.",
                    full, (long long)tall, (long long)wide, outputs, inputs);
    w->outputs = (int)tall, w->inputs = (int)wide;
    w->panels = (w->outputs + PANEL - 1) / PANEL, w->blocks = (w->inputs + BLOCK - 1) / BLOCK;
    w->bits = t->type == GGUF_F32 || t->type == GGUF_F16      ? BITS_FLOAT
              : t->type == GGUF_Q4_0 || t->type == GGUF_TQ2_0 ? BITS_4
                                                              : BITS_8;
    size_t padded = (size_t)w->panels * PANEL * (size_t)w->blocks * BLOCK;
    float *bias = aligned((size_t)w->panels * PANEL * sizeof *bias);
    w->bias = bias;
    w->weights = aligned(w->bits == BITS_FLOAT ? (size_t)w->panels * PANEL * (size_t)w->inputs * 4
                         : w->bits == BITS_8   ? padded
                                               : padded / 2);
    w->scales = w->bits == BITS_FLOAT
                    ? NULL
                    : aligned((size_t)w->panels * (size_t)w->blocks * PANEL * sizeof *w->scales);
    if (!bias || !w->weights || (w->bits != BITS_FLOAT && !w->scales))
        return fail(m, "no memory for %s.", full);
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
    if (w->bits == BITS_FLOAT && !whole) return fail(m, "no memory for %s.", name);
    if (w->bits == BITS_8) memset(w->weights, 128, padded);
    if (w->bits == BITS_4) memset(w->weights, 0x88, padded / 2);
    for (int o = 0; o < w->outputs; o++) {
        int panel = o / PANEL, lane = o % PANEL;
        const uint8_t *row = t->data + (size_t)o * row_bytes;
        if (w->bits == BITS_FLOAT) {
            float *to = (float *)w->weights + (size_t)panel * (size_t)w->inputs * PANEL + lane;
            int64_t part = t->size[0];
            for (int64_t r = 0; r < wide / part; r++)
                row_floats(t, (int64_t)o * (wide / part) + r, whole + r * part);
            for (int i = 0; i < w->inputs; i++) to[(size_t)i * PANEL] = whole[i];
            continue;
        }
        for (int b = 0; b < w->blocks; b++) {
            int8_t bytes[BLOCK] = {0};
            float by;
            if (t->type == GGUF_I8) {
                int count = w->inputs - b * BLOCK < BLOCK ? w->inputs - b * BLOCK : BLOCK;
                memcpy(bytes, row + (size_t)b * BLOCK, (size_t)count);
                by = scale.values[o];
            } else {
                by = block_bytes(t, row, b, bytes);
            }
            size_t at = (size_t)panel * (size_t)w->blocks + (size_t)b;
            w->scales[at * PANEL + (size_t)lane] = by;
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

static void free_matrix(ember_matrix *w) {
    free((void *)w->bias);
    free(w->weights);
    free(w->scales);
}

/* --- metadata --------------------------------------------------------------------------------- */

/* Finds "key": NUMBER in the flat JSON of the configuration. */
static int config_number(ember *m, const char *json, const char *key, int least, int most,
                         int *value) {
    char quoted[NAME];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(json, quoted);
    char *end = NULL;
    long found = at ? strtol(at + strlen(quoted), &end, 10) : 0;
    if (!at || end == at + strlen(quoted))
        return fail(m, "the model's configuration lacks %s; export it again.", key);
    if (found < least || found > most)
        return fail(m, "the model says %s is %ld, expected %d to %d; export it again.", key, found,
                    least, most);
    *value = (int)found;
    return 0;
}

static int load_config(ember *m) {
    const char *json = gguf_find_text(&m->file, "embervlm.config");
    if (!json) return fail(m, "the model has no configuration (embervlm.config); export it again.");
    return config_number(m, json, "vocabulary_size", 16, 1 << 20, &m->vocabulary) ||
                   config_number(m, json, "text_layers", 1, MOST_LAYERS, &m->layers) ||
                   config_number(m, json, "text_width", 1, 4096, &m->width) ||
                   config_number(m, json, "text_heads", 1, 256, &m->heads) ||
                   config_number(m, json, "text_hidden", 1, 1 << 16, &m->hidden) ||
                   config_number(m, json, "text_positions", 1, MOST_TOKENS, &m->positions) ||
                   config_number(m, json, "image_size", 32, 1024, &m->image_size) ||
                   config_number(m, json, "image_width", 1, 4096, &m->image_width) ||
                   config_number(m, json, "image_tokens", 2, 2, &m->image_tokens) ||
                   config_number(m, json, "decoder_layers", 1, MOST_LAYERS, &m->decoder_layers) ||
                   config_number(m, json, "decoder_width", 1, 4096, &m->decoder_width) ||
                   config_number(m, json, "decoder_heads", 1, 256, &m->decoder_heads) ||
                   config_number(m, json, "decoder_hidden", 1, 1 << 16, &m->decoder_hidden) ||
                   config_number(m, json, "decoder_positions", 1, MOST_TOKENS,
                                 &m->decoder_positions)
               ? -1
           : m->width % m->heads || m->decoder_width % m->decoder_heads
               ? fail(m,
                      "the model's widths are not whole multiples of their heads; export it again.")
               : 0;
}

/* --- opening ---------------------------------------------------------------------------------- */

static int load_encoder(ember *m) {
    char name[NAME];
    int D = m->width;
    m->embeddings = need(m, "text.embed.weight");
    if (!m->embeddings) return -1;
    if (m->embeddings->size[0] != D || row_count(m->embeddings) != m->vocabulary ||
        m->embeddings->type == GGUF_I8)
        return fail(m,
                    "text.embed.weight has another size or type than its configuration says; "
                    "export the model again.");
    if (load_table(m, "text.positions.weight", 0, D, &m->position) ||
        load_norm(m, "text.embed_norm", D, &m->embed_norm))
        return -1;
    if (m->position.rows < m->positions)
        return fail(m, "text.positions.weight has too few rows; export the model again.");
    for (int i = 0; i < m->layers; i++) {
        encoder_layer *l = &m->layer[i];
        struct {
            const char *name;
            int outputs, inputs;
            ember_matrix *to;
        } parts[] = {
            {"qkv", 3 * D, D, &l->qkv},
            {"out", D, D, &l->out},
            {"up", m->hidden, D, &l->up},
            {"down", D, m->hidden, &l->down},
        };
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            snprintf(name, sizeof name, "text.layers.%d.%s", i, parts[p].name);
            if (load_matrix(m, name, parts[p].outputs, parts[p].inputs, 1, parts[p].to)) return -1;
        }
        snprintf(name, sizeof name, "text.layers.%d.attention_norm", i);
        if (load_norm(m, name, D, &l->attention_norm)) return -1;
        snprintf(name, sizeof name, "text.layers.%d.output_norm", i);
        if (load_norm(m, name, D, &l->output_norm)) return -1;
    }
    return 0;
}

static int load_vision(ember *m) {
    char name[NAME], full[NAME];
    int channels;
    if (load_matrix(m, "vision.stem", 0, 27, 1, &m->stem)) return -1;
    channels = m->stem.outputs;
    for (m->blocks = 0; m->blocks < MOST_BLOCKS; m->blocks++) {
        bottleneck *b = &m->block[m->blocks];
        snprintf(name, sizeof name, "vision.blocks.%d.project", m->blocks);
        joined(full, name, ".weight");
        if (!gguf_find(&m->file, full)) break;
        snprintf(name, sizeof name, "vision.blocks.%d.expand", m->blocks);
        joined(full, name, ".weight");
        b->has_expand = gguf_find(&m->file, full) != NULL;
        b->channels = channels;
        /* Table 2 of the MobileNetV2 paper halves the picture in these blocks. */
        b->stride = m->blocks == 1 || m->blocks == 3 || m->blocks == 6 || m->blocks == 13 ? 2 : 1;
        if (b->has_expand) {
            if (load_matrix(m, name, 0, channels, 1, &b->expand)) return -1;
            b->channels = b->expand.outputs;
        }
        snprintf(name, sizeof name, "vision.blocks.%d.depthwise.taps", m->blocks);
        if (load_table(m, name, 9, b->channels, &b->taps)) return -1;
        snprintf(name, sizeof name, "vision.blocks.%d.depthwise.bias", m->blocks);
        if (load_table(m, name, 1, b->channels, &b->tap_bias)) return -1;
        snprintf(name, sizeof name, "vision.blocks.%d.project", m->blocks);
        if (load_matrix(m, name, 0, b->channels, 1, &b->project)) return -1;
        channels = b->project.outputs;
    }
    if (channels != m->image_width)
        return fail(m,
                    "the photo side ends in %d channels, its configuration says %d; export the "
                    "model again.",
                    channels, m->image_width);
    if (load_matrix(m, "image.view", m->width, m->image_width, 1, &m->view) ||
        load_table(m, "image.scene_table.weight", 0, m->width, &m->scene_table) ||
        load_table(m, "image.no_photo", m->image_tokens, m->width, &m->no_photo) ||
        load_norm(m, "image.norm", m->width, &m->image_norm))
        return -1;
    m->places = m->scene_table.rows;
    return 0;
}

static int load_decoder(ember *m) {
    char name[NAME];
    int D = m->decoder_width;
    if (load_matrix(m, "decoder.narrow", D, m->width, 0, &m->narrow) ||
        load_matrix(m, "decoder.widen", m->width, D, 0, &m->widen) ||
        load_matrix(m, "decoder.copy_query", m->width, D, 1, &m->copy_query) ||
        load_matrix(m, "decoder.gate", 1, D, 1, &m->gate) ||
        load_table(m, "decoder.positions.weight", m->decoder_positions, D, &m->decoder_position) ||
        load_norm(m, "decoder.norm", D, &m->decoder_norm))
        return -1;
    for (int i = 0; i < m->decoder_layers; i++) {
        decoder_layer *l = &m->decoder[i];
        struct {
            const char *name;
            int outputs, inputs;
            ember_matrix *to;
        } parts[] = {
            {"qkv", 3 * D, D, &l->qkv},
            {"out", D, D, &l->out},
            {"cross_q", D, D, &l->cross_q},
            {"cross_kv", 2 * D, m->width, &l->cross_kv},
            {"cross_out", D, D, &l->cross_out},
            {"up", m->decoder_hidden, D, &l->up},
            {"down", D, m->decoder_hidden, &l->down},
        };
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
            snprintf(name, sizeof name, "decoder.layers.%d.%s", i, parts[p].name);
            if (load_matrix(m, name, parts[p].outputs, parts[p].inputs, 1, parts[p].to)) return -1;
        }
        struct {
            const char *name;
            norm_layer *to;
        } norms[] = {
            {"self_norm", &l->self_norm},
            {"cross_norm", &l->cross_norm},
            {"ffn_norm", &l->ffn_norm},
        };
        for (size_t p = 0; p < 3; p++) {
            snprintf(name, sizeof name, "decoder.layers.%d.%s", i, norms[p].name);
            if (load_norm(m, name, D, norms[p].to)) return -1;
        }
        l->cache = malloc((size_t)m->decoder_positions * 2 * (size_t)D * sizeof *l->cache);
        if (!l->cache) return fail(m, "no memory for the decoder.");
    }
    return 0;
}

/* The layers that the caller asks for by name: every head, and the place in a photo. */
static int load_linears(ember *m) {
    static const char *const prefix[] = {"heads.", "image.scene.w"};
    for (size_t i = 0; i < m->file.tensor_count; i++) {
        const char *name = m->file.tensors[i].name;
        size_t length = strlen(name);
        if (strncmp(name, prefix[0], strlen(prefix[0])) &&
            strncmp(name, prefix[1], strlen(prefix[1])))
            continue;
        if (length < 8 || length >= NAME || strcmp(name + length - 7, ".weight")) continue;
        if (m->linears == MOST_EXTRA)
            return fail(m, "the model has more than %d heads.", MOST_EXTRA);
        named_matrix *l = &m->linear[m->linears++];
        memcpy(l->name, name, length - 7);
        l->name[length - 7] = 0;
        if (load_matrix(m, l->name, 0, 0, 1, &l->matrix)) return -1;
    }
    return 0;
}

static int load_ngrams(ember *m) {
    m->ngram_table = need(m, "ngrams.table.weight");
    m->ngram_scale = gguf_find(&m->file, "ngrams.table.weight.scale");
    if (!m->ngram_table || load_table(m, "ngrams.importance", 1, 0, &m->importance) ||
        load_table(m, "ngrams.bias", 1, m->ngram_table->size[0], &m->ngram_bias))
        return -1;
    if (row_count(m->ngram_table) != m->importance.width)
        return fail(
            m,
            "ngrams.importance and ngrams.table.weight differ in length; export the model again.");
    if (m->ngram_table->type == GGUF_I8 &&
        (!m->ngram_scale || m->ngram_scale->type != GGUF_F32 ||
         m->ngram_scale->size[0] * row_count(m->ngram_scale) != m->importance.width))
        return fail(m, "ngrams.table.weight has no scale for each row; export the model again.");
    return 0;
}

ember *ember_open(const char *path, int threads, const char *kernels, char *error, size_t size) {
    ember *m = calloc(1, sizeof *m);
    if (!m) {
        snprintf(error, size, "no memory for the engine.");
        return NULL;
    }
    m->kernels = kernels_choose(kernels);
    if (!m->kernels) {
        snprintf(error, size, "no kernels named %s here; there are: %s.", kernels, kernels_names());
        free(m);
        return NULL;
    }
    if (gguf_open(&m->file, path, "embervlm.sha256", error, size)) {
        free(m);
        return NULL;
    }
    m->threads = threads_start(threads < 1 ? 1 : threads > 64 ? 64 : threads);
    if (!m->threads) fail(m, "no memory for threads.");
    if (!m->threads || load_config(m) || load_encoder(m) || load_vision(m) || load_decoder(m) ||
        load_linears(m) || load_ngrams(m)) {
        snprintf(error, size, "%s: %s", path, m->error);
        ember_close(m);
        return NULL;
    }
    return m;
}

static void free_norm(norm_layer *n) { free(n->weight.values), free(n->bias.values); }

void ember_close(ember *m) {
    if (!m) return;
    for (int i = 0; i < MOST_LAYERS; i++) {
        encoder_layer *e = &m->layer[i];
        decoder_layer *d = &m->decoder[i];
        ember_matrix *all[] = {&e->qkv,     &e->out,      &e->up,        &e->down, &d->qkv, &d->out,
                               &d->cross_q, &d->cross_kv, &d->cross_out, &d->up,   &d->down};
        for (size_t p = 0; p < sizeof all / sizeof *all; p++) free_matrix(all[p]);
        norm_layer *norms[] = {&e->attention_norm, &e->output_norm, &d->self_norm, &d->cross_norm,
                               &d->ffn_norm};
        for (size_t p = 0; p < sizeof norms / sizeof *norms; p++) free_norm(norms[p]);
        free(d->cross), free(d->cache);
    }
    for (int i = 0; i < MOST_BLOCKS; i++) {
        free_matrix(&m->block[i].expand), free_matrix(&m->block[i].project);
        free(m->block[i].taps.values), free(m->block[i].tap_bias.values);
    }
    for (int i = 0; i < MOST_EXTRA; i++) free_matrix(&m->linear[i].matrix);
    ember_matrix *single[] = {&m->stem, &m->view, &m->narrow, &m->widen, &m->copy_query, &m->gate};
    for (size_t p = 0; p < sizeof single / sizeof *single; p++) free_matrix(single[p]);
    table *tables[] = {&m->position,   &m->no_photo,   &m->scene_table,
                       &m->importance, &m->ngram_bias, &m->decoder_position};
    for (size_t p = 0; p < sizeof tables / sizeof *tables; p++) free(tables[p]->values);
    free_norm(&m->embed_norm), free_norm(&m->image_norm), free_norm(&m->decoder_norm);
    free(m->words), free(m->source);
    free(m->rows.bytes), free(m->rows.scales), free(m->rows.sums);
    threads_stop(m->threads);
    gguf_close(&m->file);
    free(m);
}

const char *ember_text(const ember *m, const char *key) { return gguf_find_text(&m->file, key); }
const char *ember_kernel_name(const ember *m) { return m->kernels->name; }
const char *ember_kernels(void) { return kernels_names(); }
const char *ember_error(const ember *m) { return m->error; }

/* --- running ---------------------------------------------------------------------------------- */

typedef struct {
    const ember *m;
    const ember_matrix *w;
    const float *x;
    float *y;
    int rows, clamp;
} matmul_job;

static void matmul_part(void *given, int first, int end) {
    const matmul_job *job = given;
    job->m->kernels->matmul(job->w, &job->m->rows, job->x, job->rows, first, end, job->y,
                            job->clamp);
}

/* y (rows, outputs) = x (rows, inputs) times the matrix, bias added, clamped to 0..6 if asked. */
static int apply(ember *m, const ember_matrix *w, const float *x, int rows, float *y, int clamp) {
    if (w->bits != BITS_FLOAT) {
        size_t blocks = (size_t)rows * (size_t)w->blocks;
        if (blocks > m->rows_room) {
            free(m->rows.bytes), free(m->rows.scales), free(m->rows.sums);
            m->rows.bytes = aligned(blocks * BLOCK);
            m->rows.scales = aligned(blocks * sizeof *m->rows.scales);
            m->rows.sums = aligned(blocks * sizeof *m->rows.sums);
            m->rows_room = m->rows.bytes && m->rows.scales && m->rows.sums ? blocks : 0;
            if (!m->rows_room) return fail(m, "no memory for %d rows.", rows);
        }
        m->kernels->quantise(x, rows, w->inputs, w->blocks, &m->rows);
    }
    matmul_job job = {m, w, x, y, rows, clamp};
    threads_run(m->threads, w->panels, matmul_part, &job);
    return 0;
}

typedef struct {
    const ember *m;
    const bottleneck *b;
    const float *x;
    float *y;
    int height, width;
} depthwise_job;

static void depthwise_part(void *given, int first, int end) {
    const depthwise_job *job = given;
    job->m->kernels->depthwise(job->x, job->height, job->width, job->b->channels,
                               job->b->taps.values, job->b->tap_bias.values, job->b->stride, first,
                               end, job->y);
}

/* Gathers the 3 x 3 neighbours of every second pixel of (3, side, side) into rows of 27, in the
 * order of the stem's weights (channel, down, right). */
static void patches(const float *pixels, int side, int out_side, float *rows) {
    int pad = (out_side - 1) * 2 + 3 - side;
    int before = (pad > 0 ? pad : 0) / 2;
    for (int i = 0; i < out_side; i++)
        for (int j = 0; j < out_side; j++)
            for (int c = 0; c < 3; c++)
                for (int tap = 0; tap < 9; tap++) {
                    int row = i * 2 + tap / 3 - before, column = j * 2 + tap % 3 - before;
                    int inside = row >= 0 && row < side && column >= 0 && column < side;
                    *rows++ = inside
                                  ? pixels[((size_t)c * (size_t)side + (size_t)row) * (size_t)side +
                                           (size_t)column]
                                  : 0;
                }
}

int ember_see(ember *m, const float *pixels, float *features, float *scene) {
    int side = m->image_size, height = (side + 1) / 2,
        most = m->stem.outputs > 27 ? m->stem.outputs : 27;
    size_t largest = (size_t)height * (size_t)height * (size_t)most;
    for (int i = 0, h = height; i < m->blocks; i++) {
        size_t wide = (size_t)h * (size_t)h * (size_t)m->block[i].channels;
        if (wide > largest) largest = wide;
        h = (h + m->block[i].stride - 1) / m->block[i].stride;
    }
    float *x = room_for(largest), *hidden = room_for(largest), *deep = room_for(largest);
    int failed = !x || !hidden || !deep ? fail(m, "no memory for a photo.") : 0;
    if (!failed) {
        patches(pixels, side, height, hidden);
        failed = apply(m, &m->stem, hidden, height * height, x, 1);
    }
    for (int i = 0; i < m->blocks && !failed; i++) {
        const bottleneck *b = &m->block[i];
        const float *in = x;
        if (b->has_expand) {
            failed = apply(m, &b->expand, x, height * height, hidden, 1);
            in = hidden;
        }
        int out_height = (height + b->stride - 1) / b->stride;
        depthwise_job job = {m, b, in, deep, height, height};
        threads_run(m->threads, out_height, depthwise_part, &job);
        int same = b->stride == 1 &&
                   (b->has_expand ? b->expand.inputs : b->channels) == b->project.outputs;
        float *to = same ? hidden : x;
        failed = failed || apply(m, &b->project, deep, out_height * out_height, to, 0);
        if (same)
            m->kernels->add(x, hidden,
                            (size_t)out_height * (size_t)out_height * (size_t)b->project.outputs);
        height = out_height;
    }
    if (!failed) {
        int C = m->image_width;
        memset(features, 0, (size_t)C * sizeof *features);
        for (int i = 0; i < height * height; i++)
            m->kernels->add(features, x + (size_t)i * (size_t)C, (size_t)C);
        for (int c = 0; c < C; c++) features[c] /= (float)(height * height);
        failed = ember_linear(m, "image.scene", features, 1, scene);
    }
    free(x), free(hidden), free(deep);
    return failed;
}

static const ember_matrix *find_linear(const ember *m, const char *name) {
    for (int i = 0; i < m->linears; i++)
        if (!strcmp(m->linear[i].name, name)) return &m->linear[i].matrix;
    return NULL;
}

int ember_linear(ember *m, const char *name, const float *x, int rows, float *y) {
    const ember_matrix *w = find_linear(m, name);
    return w ? apply(m, w, x, rows, y, 0) : fail(m, "there is no layer %s.", name);
}

int ember_size(const ember *m, const char *name, int *outputs, int *inputs) {
    const ember_matrix *w = find_linear(m, name);
    if (!w) return -1;
    *outputs = w->outputs, *inputs = w->inputs;
    return 0;
}

typedef struct {
    const ember *m;
    const float *q, *kv;
    float *out, *room;
    int q_stride, kv_stride, rows, count, depth, out_stride;
    size_t room_each;
    int value_at; /* where the values begin behind the keys, in floats */
} attention_job;

static void attention_part(void *given, int first, int end) {
    const attention_job *j = given;
    for (int h = first; h < end; h++)
        j->m->kernels->attend(j->q + h * j->depth, j->q_stride, j->rows, j->kv + h * j->depth,
                              j->kv + j->value_at + h * j->depth, j->kv_stride, j->count, j->depth,
                              j->out + h * j->depth, j->out_stride,
                              j->room + (size_t)h * j->room_each);
}

static void run_norm(const ember *m, const norm_layer *n, float *x, int rows, float epsilon) {
    m->kernels->norm(x, rows, n->weight.width, n->weight.values, n->bias.values, epsilon);
}

int ember_read(ember *m, const int32_t *tokens, int count, const float *features,
               const float *scene, float *states) {
    int D = m->width, N = m->image_tokens, S = N + count;
    if (count < 1 || count > m->positions)
        return fail(m, "%d tokens; this model reads 1 to %d.", count, m->positions);
    for (int t = 0; t < count; t++)
        if (tokens[t] < 0 || tokens[t] >= m->vocabulary)
            return fail(m, "token %d; there are %d.", (int)tokens[t], m->vocabulary);
    float *x = states;
    if (features && scene) {
        float share[256];
        if (m->places > 256) return fail(m, "%d kinds of places; at most 256 fit.", m->places);
        memcpy(share, scene, (size_t)m->places * sizeof *share);
        m->kernels->softmax(share, m->places);
        memset(x, 0, (size_t)D * sizeof *x);
        for (int e = 0; e < m->places; e++)
            for (int d = 0; d < D; d++)
                x[d] += share[e] * m->scene_table.values[(size_t)e * (size_t)D + (size_t)d];
        if (apply(m, &m->view, features, 1, x + D, 0)) return -1;
        run_norm(m, &m->image_norm, x, 2, 1e-5f);
    } else {
        memcpy(x, m->no_photo.values, (size_t)N * (size_t)D * sizeof *x);
    }
    for (int t = 0; t < count; t++) {
        float *row = x + (size_t)(N + t) * (size_t)D;
        row_floats(m->embeddings, tokens[t], row);
        m->kernels->add(row, m->position.values + (size_t)t * (size_t)D, (size_t)D);
    }
    run_norm(m, &m->embed_norm, x + (size_t)N * (size_t)D, count, 1e-12f);
    int wide = m->hidden > 3 * D ? m->hidden : 3 * D, depth = D / m->heads;
    size_t room_each = (size_t)(depth + 1) * (size_t)S;
    float *big = aligned((size_t)S * (size_t)wide * 4), *small = aligned((size_t)S * (size_t)D * 4);
    float *room = aligned((size_t)m->heads * room_each * 4);
    int failed = !big || !small || !room ? fail(m, "no memory for %d tokens.", count) : 0;
    for (int i = 0; i < m->layers && !failed; i++) {
        const encoder_layer *l = &m->layer[i];
        failed = apply(m, &l->qkv, x, S, big, 0);
        attention_job job = {m, big, big + D, small, room,      3 * D, 3 * D,
                             S, S,   depth,   D,     room_each, D};
        threads_run(m->threads, m->heads, attention_part, &job);
        failed = failed || apply(m, &l->out, small, S, big, 0);
        m->kernels->add(x, big, (size_t)S * (size_t)D);
        run_norm(m, &l->attention_norm, x, S, 1e-12f);
        failed = failed || apply(m, &l->up, x, S, big, 0);
        m->kernels->gelu(big, (size_t)S * (size_t)m->hidden);
        failed = failed || apply(m, &l->down, big, S, small, 0);
        m->kernels->add(x, small, (size_t)S * (size_t)D);
        run_norm(m, &l->output_norm, x, S, 1e-12f);
    }
    free(big), free(small), free(room);
    return failed;
}

int ember_ngrams(ember *m, const int32_t *rows, int count, float *scores) {
    int K = m->ngram_bias.width;
    float row[1024], length = 0;
    if (K > 1024) return fail(m, "the n-gram table has %d columns; at most 1024 fit.", K);
    memset(scores, 0, (size_t)K * sizeof *scores);
    for (int i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= m->importance.width)
            return fail(m, "n-gram row %d; there are %d.", (int)rows[i], m->importance.width);
        float weight = m->importance.values[rows[i]];
        length += weight * weight;
        row_floats(m->ngram_table, rows[i], row);
        if (m->ngram_table->type == GGUF_I8) {
            float by;
            memcpy(&by, m->ngram_scale->data + 4 * (size_t)rows[i], 4);
            weight *= by;
        }
        for (int k = 0; k < K; k++) scores[k] += weight * row[k];
    }
    if (length <= 0) return 0;
    for (int k = 0; k < K; k++) scores[k] = scores[k] / sqrtf(length) + m->ngram_bias.values[k];
    return 0;
}

/* --- decoder ---------------------------------------------------------------------------------- */

int ember_begin(ember *m, const float *states, const int32_t *source, int count) {
    if (count < 1 || count > MOST_TOKENS + m->image_tokens)
        return fail(m, "%d states to write from.", count);
    size_t bytes = (size_t)count * (size_t)m->width * sizeof *m->words;
    free(m->words), free(m->source);
    m->words = malloc(bytes), m->source = malloc((size_t)count * sizeof *m->source);
    m->states = m->step = 0;
    if (!m->words || !m->source) return fail(m, "no memory for %d states.", count);
    memcpy(m->words, states, bytes);
    memcpy(m->source, source, (size_t)count * sizeof *m->source);
    for (int s = 0; s < count; s++)
        if (source[s] >= m->vocabulary)
            return fail(m, "token %d; there are %d.", (int)source[s], m->vocabulary);
    for (int i = 0; i < m->decoder_layers; i++) {
        decoder_layer *l = &m->decoder[i];
        free(l->cross);
        l->cross = malloc((size_t)count * 2 * (size_t)m->decoder_width * sizeof *l->cross);
        if (!l->cross) return fail(m, "no memory for %d states.", count);
        if (apply(m, &l->cross_kv, states, count, l->cross, 0)) return -1;
    }
    m->states = count;
    return 0;
}

typedef struct {
    ember *m;
    const float *x;
    float *chances;
} vocabulary_job;

/* Products of the embedding table's own rows with one vector: the table is read where it lies. */
static void vocabulary_part(void *given, int first, int end) {
    vocabulary_job *j = given;
    const gguf_tensor *t = j->m->embeddings;
    int D = j->m->width;
    size_t row_bytes = t->bytes / (size_t)j->m->vocabulary;
    for (int v = first; v < end; v++) {
        const uint8_t *row = t->data + (size_t)v * row_bytes;
        float sum = 0;
        if (t->type == GGUF_F32 || t->type == GGUF_F16) {
            float values[4096];
            row_floats(t, v, values);
            for (int d = 0; d < D; d++) sum += values[d] * j->x[d];
        } else {
            for (int b = 0; b < D / BLOCK; b++) {
                int8_t bytes[BLOCK];
                float scale = block_bytes(t, row, b, bytes), lane[8] = {0}, part = 0;
                for (int i = 0; i < BLOCK; i += 8)
                    for (int k = 0; k < 8; k++)
                        lane[k] += (float)bytes[i + k] * j->x[b * BLOCK + i + k];
                for (int k = 0; k < 8; k++) part += lane[k];
                sum += scale * part;
            }
        }
        j->chances[v] = sum;
    }
}

int ember_step(ember *m, int32_t token, float *chances) {
    int D = m->decoder_width, W = m->width, depth = D / m->decoder_heads;
    int wide = m->decoder_hidden > 3 * D ? m->decoder_hidden : 3 * D;
    if (!m->states) return fail(m, "ember_begin comes first.");
    if (m->step >= m->decoder_positions)
        return fail(m, "%d tokens are written; there is no room for more.", m->step);
    if (token < 0 || token >= m->vocabulary)
        return fail(m, "token %d; there are %d.", (int)token, m->vocabulary);
    int longest = m->states > m->step + 1 ? m->states : m->step + 1;
    size_t room_each = (size_t)(depth + 1) * (size_t)longest;
    float *x = aligned((size_t)D * 4), *y = aligned((size_t)D * 4),
          *big = aligned((size_t)wide * 4);
    float *row = aligned((size_t)(W > D ? W : D) * 4),
          *room = aligned((size_t)m->decoder_heads * room_each * 4);
    float *copied = aligned((size_t)m->states * 4);
    int failed =
        !x || !y || !big || !row || !room || !copied ? fail(m, "no memory for a step.") : 0;
    if (!failed) {
        row_floats(m->embeddings, token, row);
        failed = apply(m, &m->narrow, row, 1, x, 0);
        m->kernels->add(x, m->decoder_position.values + (size_t)m->step * (size_t)D, (size_t)D);
    }
    for (int i = 0; i < m->decoder_layers && !failed; i++) {
        decoder_layer *l = &m->decoder[i];
        float *kept = l->cache + (size_t)m->step * 2 * (size_t)D;
        memcpy(y, x, (size_t)D * 4);
        run_norm(m, &l->self_norm, y, 1, 1e-5f);
        failed = apply(m, &l->qkv, y, 1, big, 0);
        memcpy(kept, big + D, 2 * (size_t)D * 4);
        attention_job own = {m, big,         l->cache, y, room,      3 * D, 2 * D,
                             1, m->step + 1, depth,    D, room_each, D};
        threads_run(m->threads, m->decoder_heads, attention_part, &own);
        failed = failed || apply(m, &l->out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, (size_t)D * 4);
        run_norm(m, &l->cross_norm, y, 1, 1e-5f);
        failed = failed || apply(m, &l->cross_q, y, 1, big, 0);
        attention_job cross = {m, big,       l->cross, y, room,      D, 2 * D,
                               1, m->states, depth,    D, room_each, D};
        threads_run(m->threads, m->decoder_heads, attention_part, &cross);
        failed = failed || apply(m, &l->cross_out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, (size_t)D * 4);
        run_norm(m, &l->ffn_norm, y, 1, 1e-5f);
        failed = failed || apply(m, &l->up, y, 1, big, 0);
        m->kernels->gelu(big, (size_t)m->decoder_hidden);
        failed = failed || apply(m, &l->down, big, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
    }
    if (!failed) {
        run_norm(m, &m->decoder_norm, x, 1, 1e-5f);
        float gate;
        failed = apply(m, &m->widen, x, 1, row, 0) || apply(m, &m->gate, x, 1, &gate, 0);
        vocabulary_job job = {m, row, chances};
        threads_run(m->threads, m->vocabulary, vocabulary_part, &job);
        m->kernels->softmax(chances, m->vocabulary);
        failed = failed || apply(m, &m->copy_query, x, 1, row, 0);
        float written = 1 / (1 + expf(-gate)), by = 1 / sqrtf((float)W);
        int words = 0;
        for (int s = 0; s < m->states; s++) {
            if (m->source[s] < 0) continue;
            float sum = 0;
            for (int d = 0; d < W; d++) sum += row[d] * m->words[(size_t)s * (size_t)W + (size_t)d];
            copied[words++] = sum * by;
        }
        if (words) m->kernels->softmax(copied, words);
        for (int v = 0; v < m->vocabulary; v++) chances[v] *= written;
        for (int s = 0, w = 0; s < m->states; s++)
            if (m->source[s] >= 0) chances[m->source[s]] += (1 - written) * copied[w++];
        m->step++;
    }
    free(x), free(y), free(big), free(row), free(room), free(copied);
    return failed;
}
