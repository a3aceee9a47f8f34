/* Words and the places of a photo read each other, as `models/fusion.py` says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

static int load_reads(ember *m, const char *name, cross_read *r) {
    char full[NAME];
    int D = m->width, W = m->fusion_width;
    table gate = {0};
    snprintf(full, sizeof full, "%s.query", name);
    if (load_matrix(m, full, W, D, 1, &r->query)) return -1;
    snprintf(full, sizeof full, "%s.keys_values", name);
    if (load_matrix(m, full, 2 * W, D, 1, &r->keys_values)) return -1;
    snprintf(full, sizeof full, "%s.out", name);
    if (load_matrix(m, full, D, W, 1, &r->out)) return -1;
    snprintf(full, sizeof full, "%s.gate", name);
    if (load_table(m, full, 1, 1, &gate)) return -1;
    r->gate = tanhf(gate.values[0]);
    free(gate.values);
    return 0;
}

int load_fusion(ember *m) {
    char name[64];
    for (int i = 0; i < m->fusion_layers; i++) {
        fusion_layer *l = &m->fusion[i];
        snprintf(name, sizeof name, "fusion.layers.%d.text_norm", i);
        if (load_norm(m, name, m->width, &l->text_norm)) return -1;
        snprintf(name, sizeof name, "fusion.layers.%d.image_norm", i);
        if (load_norm(m, name, m->width, &l->image_norm)) return -1;
        snprintf(name, sizeof name, "fusion.layers.%d.text_reads", i);
        if (load_reads(m, name, &l->text_reads)) return -1;
        snprintf(name, sizeof name, "fusion.layers.%d.image_reads", i);
        if (load_reads(m, name, &l->image_reads)) return -1;
    }
    return 0;
}

void free_fusion(ember *m) {
    for (int i = 0; i < MOST_FUSIONS; i++) {
        fusion_layer *l = &m->fusion[i];
        cross_read *reads[] = {&l->text_reads, &l->image_reads};
        for (int r = 0; r < 2; r++)
            free_matrix(&reads[r]->query), free_matrix(&reads[r]->keys_values),
                free_matrix(&reads[r]->out);
        free_norm(&l->text_norm), free_norm(&l->image_norm);
    }
}

/* Where a layer works: floats of the sizes that `fusion_run` gives them. */
typedef struct {
    float *normed, *query, *pairs, *found, *room;
} space;

/* to (rows, width) += what `rows` normed states find in `count` others. */
static int add_read(ember *m, const cross_read *r, const float *x, int rows, const float *from,
                    int count, const space *s, float *to) {
    int W = m->fusion_width, depth = W / m->fusion_heads;
    if (model_apply(m, &r->query, x, rows, s->query, 0) ||
        model_apply(m, &r->keys_values, from, count, s->pairs, 0))
        return -1;
    attention_job job = {.m = m,
                         .q = s->query,
                         .kv = s->pairs,
                         .out = s->found,
                         .room = s->room,
                         .q_stride = W,
                         .kv_stride = 2 * W,
                         .rows = rows,
                         .count = count,
                         .depth = depth,
                         .out_stride = W,
                         .room_each = ATTEND_ROOM(count, depth),
                         .value_at = W};
    threads_run(m->threads, m->fusion_heads, attention_part, &job);
    /* What is added lies where the keys did. */
    if (model_apply(m, &r->out, s->found, rows, s->pairs, 0)) return -1;
    size_t size = (size_t)rows * (size_t)m->width;
    for (size_t i = 0; i < size; i++) to[i] += r->gate * s->pairs[i];
    return 0;
}

int fusion_run(ember *m, float *states, int count) {
    int N = m->image_tokens, D = m->width, W = m->fusion_width;
    size_t S = (size_t)(N + count), image = (size_t)N * (size_t)D;
    int most = N > count ? N : count, wide = D > 2 * W ? D : 2 * W;
    size_t sizes[] = {S * (size_t)D, S * (size_t)W, S * (size_t)wide, S * (size_t)W,
                      (size_t)m->fusion_heads * ATTEND_ROOM(most, W / m->fusion_heads)};
    size_t all = 0;
    for (int i = 0; i < 5; i++) all += sizes[i];
    float *begin = zeroed_room(all * sizeof *begin);
    if (!begin) return model_fail(m, "no memory for %d tokens.", count);
    space s = {.normed = begin};
    s.query = s.normed + sizes[0], s.pairs = s.query + sizes[1];
    s.found = s.pairs + sizes[2], s.room = s.found + sizes[3];
    int failed = 0;
    for (int i = 0; i < m->fusion_layers && !failed; i++) {
        const fusion_layer *l = &m->fusion[i];
        memcpy(s.normed, states, S * (size_t)D * sizeof *states);
        model_norm(m, &l->image_norm, s.normed, N, 1e-5f);
        model_norm(m, &l->text_norm, s.normed + image, count, 1e-5f);
        failed =
            add_read(m, &l->text_reads, s.normed + image, count, s.normed, N, &s, states + image) ||
            add_read(m, &l->image_reads, s.normed, N, s.normed + image, count, &s, states);
    }
    free(begin);
    return failed ? -1 : 0;
}
