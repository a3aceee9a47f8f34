/* Opens a model: its configuration, then every layer by name; and closes it. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { FIRST_FORMAT = 2, FORMAT = 4 }; /* of the file, as `export/gguf.py` counts */

int model_fail(ember *m, const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    vsnprintf(m->error, sizeof m->error, format, rest);
    va_end(rest);
    return -1;
}

/* Returns what stands behind "key": in the flat JSON of the configuration, NULL: no such key. */
static const char *config_find(const char *json, const char *key) {
    char quoted[NAME];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(json, quoted);
    return at ? at + strlen(quoted) : NULL;
}

/* Reads "key": NUMBER. */
static int config_number(ember *m, const char *json, const char *key, int least, int most,
                         int *value) {
    const char *at = config_find(json, key);
    char *end = NULL;
    long found = at ? strtol(at, &end, 10) : 0;
    if (!at || end == at)
        return model_fail(m, "the model's configuration lacks %s; export it again.", key);
    if (found < least || found > most)
        return model_fail(m, "the model says %s is %ld, expected %d to %d; export it again.", key,
                          found, least, most);
    *value = (int)found;
    return 0;
}

/* The same of a key that may be missing, for 0. */
static int config_optional(ember *m, const char *json, const char *key, int most, int *value) {
    *value = 0;
    return config_find(json, key) ? config_number(m, json, key, 0, most, value) : 0;
}

/* What `models/configuration.py` can switch on; files of format 2 have none of it. */
static int load_switches(ember *m, const char *json) {
    const char *fusion = config_find(json, "fusion");
    if (config_optional(m, json, "embed_width", 4096, &m->embed_width) ||
        config_optional(m, json, "image_grid", MOST_GRID, &m->grid) ||
        config_optional(m, json, "memory_slots", 1 << 16, &m->memory_slots) ||
        config_optional(m, json, "reasoning_width", 4096, &m->reasoning_width) ||
        config_optional(m, json, "recall_width", 4096, &m->recall_width) ||
        config_optional(m, json, "plan_width", 4096, &m->plan_width))
        return -1;
    if (m->plan_width && (config_number(m, json, "plan_layers", 1, 4, &m->plan_layers) ||
                          config_optional(m, json, "plan_readers", 4, &m->plan_readers)))
        return -1;
    if (m->memory_slots && config_number(m, json, "memory_width", 1, 4096, &m->memory_width))
        return -1;
    m->table_width = m->embed_width ? m->embed_width : m->width;
    m->image_tokens = 1 + (m->grid ? m->grid * m->grid : 1);
    while (fusion && *fusion == ' ') fusion++;
    m->in_front = m->image_tokens;
    if (!fusion || !strncmp(fusion, "\"prefix\"", 8)) return 0;
    int both = !strncmp(fusion, "\"both\"", 6);
    if (!both && strncmp(fusion, "\"fiber\"", 7))
        return model_fail(m,
                          "the model's fusion is none of prefix, fiber and both; export it again.");
    m->in_front = both ? 2 : 0;
    if (config_number(m, json, "fusion_layers", 1, MOST_FUSIONS, &m->fusion_layers) ||
        config_number(m, json, "fusion_width", 1, 4096, &m->fusion_width) ||
        config_number(m, json, "fusion_heads", 1, 256, &m->fusion_heads))
        return -1;
    return m->fusion_width % m->fusion_heads
               ? model_fail(m, "the model's fusion_width is no multiple of its fusion_heads.")
               : 0;
}

static int load_config(ember *m) {
    const uint32_t *format = gguf_find_number(&m->file, "embervlm.format");
    int tokens;
    if (!format || *format < FIRST_FORMAT || *format > FORMAT)
        return model_fail(m,
                          "the model has format %lld, this engine reads %d to %d; export it "
                          "again.",
                          format ? (long long)*format : 0, FIRST_FORMAT, FORMAT);
    const char *json = gguf_find_text(&m->file, "embervlm.config");
    if (!json)
        return model_fail(m, "the model has no configuration (embervlm.config); export it again.");
    return config_number(m, json, "vocabulary_size", 16, 1 << 20, &m->vocabulary) ||
                   config_number(m, json, "text_layers", 1, MOST_LAYERS, &m->layers) ||
                   config_number(m, json, "text_width", 1, 4096, &m->width) ||
                   config_number(m, json, "text_heads", 1, 256, &m->heads) ||
                   config_number(m, json, "text_hidden", 1, 1 << 16, &m->hidden) ||
                   config_number(m, json, "text_positions", 1, MOST_TOKENS, &m->positions) ||
                   config_number(m, json, "image_size", 32, 1024, &m->image_size) ||
                   config_number(m, json, "image_width", 1, 4096, &m->image_width) ||
                   load_switches(m, json) ||
                   config_number(m, json, "image_tokens", m->image_tokens, m->image_tokens,
                                 &tokens) ||
                   config_number(m, json, "decoder_layers", 1, MOST_LAYERS, &m->decoder_layers) ||
                   config_number(m, json, "decoder_width", 1, 4096, &m->decoder_width) ||
                   config_number(m, json, "decoder_heads", 1, 256, &m->decoder_heads) ||
                   config_number(m, json, "decoder_hidden", 1, 1 << 16, &m->decoder_hidden) ||
                   config_number(m, json, "decoder_positions", 1, MOST_TOKENS,
                                 &m->decoder_positions)
               ? -1
           : m->width % m->heads || m->decoder_width % m->decoder_heads
               ? model_fail(
                     m,
                     "the model's widths are not whole multiples of their heads; export it again.")
               : 0;
}

static int load_encoder(ember *m) {
    char name[NAME];
    int D = m->width, E = m->table_width;
    m->embeddings = model_tensor(m, "text.embed.weight");
    if (!m->embeddings) return -1;
    if (m->embeddings->size[0] != E || tensor_rows(m->embeddings) != m->vocabulary ||
        m->embeddings->type == GGUF_I8 || m->embeddings->type == GGUF_I16)
        return model_fail(m,
                          "text.embed.weight has another size or type than its configuration says; "
                          "export the model again.");
    if (load_matrix(m, "text.embed", m->vocabulary, E, 0, &m->unembed) ||
        (m->embed_width && load_matrix(m, "text.widen", D, E, 0, &m->widen_table)) ||
        load_table(m, "text.positions.weight", 0, D, &m->position) ||
        load_norm(m, "text.embed_norm", D, &m->embed_norm))
        return -1;
    if (m->position.rows < m->positions)
        return model_fail(m, "text.positions.weight has too few rows; export the model again.");
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

static int load_recall(ember *m) {
    int C = m->image_width, W = m->recall_width;
    m->looks = model_tensor(m, "recall.rows.weight");
    if (!m->looks) return -1;
    if (m->grid || m->looks->type == GGUF_I8)
        return model_fail(m,
                          "a table of looks needs floats or blocks, and a photo without a grid; "
                          "export the model again.");
    return load_matrix(m, "recall.key", W, C, 1, &m->look) ||
                   load_matrix(m, "recall.rows", 0, W, 0, &m->near) ||
                   load_matrix(m, "recall.value", C, W, 1, &m->told)
               ? -1
               : 0;
}

static int load_vision(ember *m) {
    char name[NAME], full[NAME];
    int channels;
    if (load_matrix(m, "vision.stem", 0, 27, 1, &m->stem)) return -1;
    channels = m->stem.outputs;
    for (m->blocks = 0; m->blocks < MOST_BLOCKS; m->blocks++) {
        bottleneck *b = &m->block[m->blocks];
        snprintf(name, sizeof name, "vision.blocks.%d.project", m->blocks);
        snprintf(full, sizeof full, "%.127s.weight", name);
        if (!gguf_find(&m->file, full)) break;
        snprintf(name, sizeof name, "vision.blocks.%d.expand", m->blocks);
        snprintf(full, sizeof full, "%.127s.weight", name);
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
        return model_fail(
            m,
            "the photo side ends in %d channels, its configuration says %d; export the "
            "model again.",
            channels, m->image_width);
    if (load_matrix(m, "image.view", m->width, m->image_width, 1, &m->view) ||
        load_table(m, "image.scene_table.weight", 0, m->width, &m->scene_table) ||
        load_table(m, "image.no_photo", 2, m->width, &m->no_photo) ||
        load_norm(m, "image.norm", m->width, &m->image_norm))
        return -1;
    m->places = m->scene_table.rows;
    return m->recall_width ? load_recall(m) : 0;
}

static int load_decoder(ember *m) {
    char name[NAME];
    int D = m->decoder_width, E = m->table_width;
    if (load_matrix(m, "decoder.narrow", D, E, 0, &m->narrow) ||
        load_matrix(m, "decoder.widen", E, D, 0, &m->widen) ||
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
        size_t cached = (size_t)m->decoder_positions * (size_t)D;
        l->keys = float_room(cached), l->values = float_room(cached);
        if (!l->keys || !l->values) return model_fail(m, "no memory for the decoder.");
    }
    decoder_run *run = &m->run;
    int wide = m->decoder_hidden > 3 * D ? m->decoder_hidden : 3 * D;
    int row = m->width > D ? m->width : D;
    run->x = float_room((size_t)D), run->y = float_room((size_t)D);
    run->big = float_room((size_t)wide);
    run->row = float_room((size_t)(E > row ? E : row));
    run->chances = float_room((size_t)m->vocabulary);
    if (!run->x || !run->y || !run->big || !run->row || !run->chances)
        return model_fail(m, "no memory for the decoder.");
    return 0;
}

static int load_linear(ember *m, const char *name, int outputs, int inputs) {
    if (m->linears == MOST_EXTRA)
        return model_fail(m, "the model has more than %d heads.", MOST_EXTRA);
    named_matrix *l = &m->linear[m->linears++];
    snprintf(l->name, sizeof l->name, "%s", name);
    return load_matrix(m, name, outputs, inputs, 1, &l->matrix);
}

/* The layers of memory and of steps of thought, which the caller puts together. */
static int load_thoughts(ember *m) {
    int D = m->width, M = m->memory_width, R = m->reasoning_width;
    if (m->memory_slots &&
        (load_linear(m, "memory.query", M, D) || load_linear(m, "memory.up", D, M)))
        return -1;
    return R && (load_linear(m, "reasoning.query", D, R) ||
                 load_linear(m, "reasoning.read", R, D) ||
                 load_linear(m, "reasoning.forget", R, 2 * R) ||
                 load_linear(m, "reasoning.candidate", R, 2 * R) ||
                 load_linear(m, "reasoning.out", D, R))
               ? -1
               : 0;
}

/* The layers that split a job into steps, which the caller puts together. */
static int load_plan(ember *m) {
    int W = m->plan_width;
    if (!W) return 0;
    const struct {
        const char *name;
        int outputs, inputs;
    } once[] = {{"narrow", W, m->width}, {"words", W, 0},       {"told", W, 0},
                {"pointer_query", W, W}, {"pointer_key", W, W}, {"found", W, 2 * W},
                {"answers", 0, W},       {"mark", W, W},        {"gathered", W, W},
                {"pair", 0, W},          {"waits", 1, 0}},
      each[] = {{"qkv", 3 * W, W}, {"out", W, W},    {"query", W, W},   {"key_value", 2 * W, W},
                {"read", W, W},    {"up", 2 * W, W}, {"down", W, 2 * W}},
      narrow[] = {{"qkv", 3 * W, W}, {"out", W, W}, {"up", 2 * W, W}, {"down", W, 2 * W}},
      reader[] = {{"qkv", 3 * m->width, m->width},
                  {"out", m->width, m->width},
                  {"up", m->hidden, m->width},
                  {"down", m->width, m->hidden}};
    char name[NAME];
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
        snprintf(name, sizeof name, "plan.%s", once[i].name);
        if (load_linear(m, name, once[i].outputs, once[i].inputs)) return -1;
    }
    /* The last one reads all steps: "plan.order". */
    for (int l = 0; l <= m->plan_layers; l++)
        for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
            if (l < m->plan_layers)
                snprintf(name, sizeof name, "plan.layers.%d.%s", l, each[i].name);
            else
                snprintf(name, sizeof name, "plan.order.%s", each[i].name);
            if (load_linear(m, name, each[i].outputs, each[i].inputs)) return -1;
        }
    static const char *const over_words[] = {"reader", "marked.0", "marked.1"};
    for (size_t l = 0; l < sizeof over_words / sizeof *over_words; l++)
        for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++) {
            snprintf(name, sizeof name, "plan.%s.%s", over_words[l], narrow[i].name);
            if (load_linear(m, name, narrow[i].outputs, narrow[i].inputs)) return -1;
        }
    if (m->plan_readers > m->layers)
        return model_fail(m, "%d layers for plans; the reader has %d.", m->plan_readers, m->layers);
    for (int l = 0; l < m->plan_readers; l++)
        for (size_t i = 0; i < sizeof reader / sizeof *reader; i++) {
            snprintf(name, sizeof name, "plan.readers.%d.%s", l, reader[i].name);
            if (load_linear(m, name, reader[i].outputs, reader[i].inputs)) return -1;
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
        char layer[NAME];
        memcpy(layer, name, length - 7);
        layer[length - 7] = 0;
        int head = *name == 'h';
        if (load_linear(m, layer, head ? 0 : m->places, head ? m->width : m->image_width))
            return -1;
    }
    return 0;
}

static int load_ngrams(ember *m) {
    const gguf_tensor *t = m->ngram_columns = model_tensor(m, "ngrams.columns");
    if (!t || load_table(m, "ngrams.importance", 1, 0, &m->importance) ||
        load_table(m, "ngrams.bias", 1, tensor_rows(t), &m->ngram_bias))
        return -1;
    if (t->size[0] != m->importance.width)
        return model_fail(
            m, "ngrams.importance and ngrams.columns differ in length; export the model again.");
    if (t->type != GGUF_F32 && t->type != GGUF_F16 && t->type != GGUF_Q8_0 && t->type != GGUF_Q4_0)
        return model_fail(m, "ngrams.columns has type %d; export the model again.", (int)t->type);
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
    if (!m->threads) model_fail(m, "no memory for threads.");
    if (!m->threads || load_config(m) || load_encoder(m) || load_fusion(m) || load_vision(m) ||
        load_decoder(m) || load_linears(m) || load_thoughts(m) || load_plan(m) || load_ngrams(m)) {
        snprintf(error, size, "%.200s: %s", path, m->error);
        ember_close(m);
        return NULL;
    }
    gguf_release(&m->file);
    return m;
}

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
        free(d->cross_keys), free(d->cross_values), free(d->keys), free(d->values);
    }
    for (int i = 0; i < MOST_BLOCKS; i++) {
        free_matrix(&m->block[i].expand), free_matrix(&m->block[i].project);
        free(m->block[i].taps.values), free(m->block[i].tap_bias.values);
    }
    for (int i = 0; i < MOST_EXTRA; i++) free_matrix(&m->linear[i].matrix);
    free_fusion(m);
    ember_matrix *single[] = {&m->stem,       &m->view, &m->narrow,  &m->widen,
                              &m->copy_query, &m->gate, &m->unembed, &m->widen_table,
                              &m->look,       &m->near, &m->told};
    for (size_t p = 0; p < sizeof single / sizeof *single; p++) free_matrix(single[p]);
    table *tables[] = {&m->position,   &m->no_photo,   &m->scene_table,
                       &m->importance, &m->ngram_bias, &m->decoder_position};
    for (size_t p = 0; p < sizeof tables / sizeof *tables; p++) free(tables[p]->values);
    free_norm(&m->embed_norm), free_norm(&m->image_norm), free_norm(&m->decoder_norm);
    decoder_run *run = &m->run;
    free(run->words), free(run->source), free(run->share), free(run->pairs);
    free(run->x), free(run->y), free(run->big), free(run->row), free(run->chances);
    free(m->rows.bytes), free(m->rows.scales), free(m->rows.offsets);
    threads_stop(m->threads);
    gguf_close(&m->file);
    free(m);
}

const char *ember_text(const ember *m, const char *key) { return gguf_find_text(&m->file, key); }
int ember_image_size(const ember *m) { return m->image_size; }
int ember_image_tokens(const ember *m) { return m->image_tokens; }
int ember_width(const ember *m) { return m->width; }

const void *ember_tensor(const ember *m, const char *name, size_t *bytes) {
    const gguf_tensor *t = gguf_find(&m->file, name);
    if (!t) return NULL;
    *bytes = t->bytes;
    return t->data;
}

const char *ember_kernel_name(const ember *m) { return m->kernels->name; }
const char *ember_kernels(void) { return kernels_names(); }
const char *ember_error(const ember *m) { return m->error; }
