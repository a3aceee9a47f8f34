/* What the engine's own files share: an open model, its layers, and how they are read and run.
 *
 * tensors.c reads what lies in the file into memory, model.c opens and closes, layers.c runs one
 * layer; vision.c (photo), reader.c (words), fusion.c (both) and decoder.c (reasoning) are
 * `models/modeling.py` written out.
 */
#ifndef EMBER_MODEL_H
#define EMBER_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "ember.h"
#include "gguf.h"
#include "kernels.h"
#include "threads.h"

enum {
    MOST_LAYERS = 48,
    MOST_FUSIONS = 8,
    MOST_BLOCKS = 64,
    MOST_TOKENS = 1024,
    MOST_GRID = 16,
    NAME = 160,
    MOST_EXTRA = 96
};

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
    ember_matrix query, keys_values, out;
    float gate; /* how much is added of what is read */
} cross_read;

typedef struct {
    norm_layer text_norm, image_norm;
    cross_read text_reads, image_reads;
} fusion_layer;

typedef struct {
    ember_matrix qkv, out, cross_q, cross_kv, cross_out, up, down;
    norm_layer self_norm, cross_norm, ffn_norm;
    float *cross_keys, *cross_values; /* (width, states), (states, width): of this request */
    float *keys, *values;             /* (width, positions), (positions, width): so far */
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

/* What the decoder holds of the request whose reasoning is being written. */
typedef struct {
    int states, step;         /* 0 states: none is begun */
    int word_count, room;     /* room: for how many states */
    float *words;             /* (width, word_count): the states that were read from a token */
    int32_t *source;          /* (word_count): that token */
    float *share, *pairs;     /* of attention; of keys and values before they are parted */
    float *x, *y, *big, *row; /* one place, as it goes through a layer */
    float *chances;           /* (vocabulary) */
} decoder_run;

struct ember {
    gguf file;
    const kernel_set *kernels;
    ember_threads *threads;
    char error[256];

    int width, heads, layers, hidden, positions, vocabulary;
    int embed_width, table_width; /* 0 where the table of tokens is as wide as the reader */
    int image_size, image_width, image_tokens, places;
    int grid; /* places along a side of a photo; 0: one token stands for all of it */
    int fusion_layers, fusion_width, fusion_heads; /* 0 layers: image tokens are read as words */
    int in_front; /* image tokens that the reader sees before the words */
    int memory_slots, memory_width, reasoning_width; /* 0 where there is none */
    int plan_width, plan_layers, plan_readers;
    int recall_width; /* 0: a photo is read as the eye sees it */
    int decoder_width, decoder_heads, decoder_hidden, decoder_positions, decoder_layers;

    const gguf_tensor *embeddings; /* read in the file, row by row */
    table position, no_photo, scene_table, importance;
    const gguf_tensor *ngram_columns;
    table ngram_bias;
    norm_layer embed_norm, image_norm;
    encoder_layer layer[MOST_LAYERS];
    fusion_layer fusion[MOST_FUSIONS];
    ember_matrix stem, view, widen_table;
    ember_matrix look, near, told; /* into the space of looks, to its rows, and back */
    const gguf_tensor *looks;      /* those rows once more, read in the file */
    bottleneck block[MOST_BLOCKS];
    int blocks;
    table decoder_position;
    norm_layer decoder_norm;
    ember_matrix narrow, widen, copy_query, gate;
    decoder_layer decoder[MOST_LAYERS];
    ember_matrix unembed; /* the embeddings once more, as a matrix: logits of all tokens */
    decoder_run run;
    /* By name, for ember_linear: heads, the scene, and what acts on one vector. */
    named_matrix linear[MOST_EXTRA];
    int linears;

    ember_rows rows; /* room for quantised activations */
    size_t rows_room;
};

/* Keeps the sentence for `ember_error` and returns -1. */
int model_fail(ember *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* --- tensors.c -------------------------------------------------------------------------------- */

int64_t tensor_rows(const gguf_tensor *t);
/* Writes one block of 32 values of a quantised row as bytes, and returns its scale. */
float tensor_block(const gguf_tensor *t, const uint8_t *row, int block, int8_t out[BLOCK]);
/* Writes a row of a tensor as floats; a row of I8 is written without its scale. */
void tensor_row(const gguf_tensor *t, int64_t index, float *out);

/* Returns the value at `at` of a row; of F32, F16, Q8_0 and Q4_0 only. */
float tensor_value(const gguf_tensor *t, int64_t index, int64_t at);

/* Returns the tensor of this name; NULL with a sentence where there is none. */
const gguf_tensor *model_tensor(ember *m, const char *name);
/* Reads a small tensor; `width` and `rows` must be as said, unless they are 0. Plain bytes are
 * multiplied by NAME.scale, one a column. */
int load_table(ember *m, const char *name, int64_t rows, int64_t width, table *out);
int load_norm(ember *m, const char *name, int width, norm_layer *out);
/* Repacks NAME.weight (outputs, inputs) into panels; takes NAME.bias where there is one, and
 * NAME.weight.scale, one an output, where the weights are plain bytes. A ternary matrix whose sizes
 * are said may lie in rows of 256, one behind the other. */
int load_matrix(ember *m, const char *name, int outputs, int inputs, int has_bias, ember_matrix *w);
void free_matrix(ember_matrix *w);
void free_norm(norm_layer *n);

/* Room that the kernels read fast, NULL where there is none; what it holds is unknown, or zeros. */
void *plain_room(size_t bytes);
float *float_room(size_t count);
void *zeroed_room(size_t bytes);

/* --- layers.c --------------------------------------------------------------------------------- */

/* Rounds x (rows, inputs of w) to the bytes that w is multiplied with, in `m->rows`. */
int model_quantise(ember *m, const ember_matrix *w, const float *x, int rows);
/* y (rows, outputs) = x (rows, inputs) times the matrix, bias added, clamped to 0..6 if asked. */
int model_apply(ember *m, const ember_matrix *w, const float *x, int rows, float *y, int clamp);
void model_norm(const ember *m, const norm_layer *n, float *x, int rows, float epsilon);

typedef struct {
    const ember *m;
    const float *q, *kv;
    float *out, *room;
    int q_stride, kv_stride, rows, count, depth, out_stride;
    size_t room_each;
    int value_at; /* where the values begin behind the keys, in floats */
} attention_job;

/* Runs heads first..end-1 of an `attention_job`. */
void attention_part(void *job, int first, int end);

/* --- fusion.c --------------------------------------------------------------------------------- */

int load_fusion(ember *m);
void free_fusion(ember *m);
/* states: image tokens, then `count` words; both are changed by what they find in the other. */
int fusion_run(ember *m, float *states, int count);

/* --- decoder.c -------------------------------------------------------------------------------- */

/* The two halves of `ember_step`: take a token in; say how likely each is to come next. */
int decoder_feed(ember *m, int32_t token);
int decoder_chances(ember *m, float *chances);

#endif
