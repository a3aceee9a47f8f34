/* States to words: the decoder with its cache, one token at a time.
 *
 * A token costs a look at every weight and no more: nothing is allocated on the way, and keys lie
 * turned (width, places), so that one query meets all of them without a copy. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Makes room for a request of `count` states, once for the longest so far. */
static int reserve(ember *m, int count) {
    decoder_run *run = &m->run;
    size_t D = (size_t)m->decoder_width, S = (size_t)count;
    if (count <= run->room) return 0;
    run->room = 0;
    float **of_model[] = {&run->words, &run->share, &run->pairs};
    size_t sizes[] = {S * (size_t)m->width,
                      count > m->decoder_positions ? S : (size_t)m->decoder_positions, S * 2 * D};
    int failed = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        free(*of_model[i]);
        failed |= !(*of_model[i] = plain_room(sizes[i] * sizeof(float)));
    }
    free(run->source);
    failed |= !(run->source = malloc(S * sizeof *run->source));
    for (int i = 0; i < m->decoder_layers; i++) {
        decoder_layer *l = &m->decoder[i];
        free(l->cross_keys), free(l->cross_values);
        l->cross_keys = plain_room(S * D * sizeof(float));
        l->cross_values = plain_room(S * D * sizeof(float));
        failed |= !l->cross_keys || !l->cross_values;
    }
    if (failed) return model_fail(m, "no memory for %d states.", count);
    run->room = count;
    return 0;
}

int ember_begin(ember *m, const float *states, const int32_t *source, int count) {
    decoder_run *run = &m->run;
    int D = m->decoder_width, W = m->width;
    run->states = run->step = run->word_count = 0;
    if (count < 1 || count > MOST_TOKENS + m->image_tokens)
        return model_fail(m, "%d states to write from.", count);
    for (int s = 0; s < count; s++)
        if (source[s] >= m->vocabulary)
            return model_fail(m, "token %d; there are %d.", (int)source[s], m->vocabulary);
    if (reserve(m, count)) return -1;
    int words = 0;
    for (int s = 0; s < count; s++)
        if (source[s] >= 0) run->source[words++] = source[s];
    for (int s = 0, word = 0; s < count; s++) {
        if (source[s] < 0) continue;
        for (int d = 0; d < W; d++)
            run->words[(size_t)d * (size_t)words + (size_t)word] =
                states[(size_t)s * (size_t)W + (size_t)d];
        word++;
    }
    for (int i = 0; i < m->decoder_layers; i++) {
        decoder_layer *l = &m->decoder[i];
        if (model_apply(m, &l->cross_kv, states, count, run->pairs, 0)) return -1;
        for (int s = 0; s < count; s++) {
            const float *pair = run->pairs + (size_t)s * 2 * (size_t)D;
            for (int d = 0; d < D; d++)
                l->cross_keys[(size_t)d * (size_t)count + (size_t)s] = pair[d];
            memcpy(l->cross_values + (size_t)s * (size_t)D, pair + D, (size_t)D * sizeof *pair);
        }
    }
    run->states = count, run->word_count = words;
    return 0;
}

/* sum (width) += the sum of `count` rows, each `stride` floats behind the one before, by their
 * weights; four rows a pass. */
static void add_rows(const float *weight, const float *rows, size_t stride, int count,
                     float *restrict sum, int width) {
    int r = 0;
    for (; r + 4 <= count; r += 4, rows += 4 * stride) {
        const float *a = rows, *b = a + stride, *c = b + stride, *d = c + stride;
        float wa = weight[r], wb = weight[r + 1], wc = weight[r + 2], wd = weight[r + 3];
        for (int i = 0; i < width; i++) sum[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
    }
    for (; r < count; r++, rows += stride)
        for (int i = 0; i < width; i++) sum[i] += weight[r] * rows[i];
}

/* share (count) = softmax of a query's products with the keys (depth, stride). */
static void shares(const ember *m, const float *q, const float *keys, size_t stride, int depth,
                   float *share, int count) {
    float by = 1 / sqrtf((float)depth);
    memset(share, 0, (size_t)count * sizeof *share);
    add_rows(q, keys, stride, depth, share, count);
    for (int s = 0; s < count; s++) share[s] *= by;
    m->kernels->softmax(share, count);
}

/* Attention of one query over `count` places; keys (width, stride), values (count, width). */
static void attend(const ember *m, const float *q, const float *keys, size_t stride,
                   const float *values, int count, float *out) {
    int D = m->decoder_width, depth = D / m->decoder_heads;
    memset(out, 0, (size_t)D * sizeof *out);
    for (int h = 0; h < m->decoder_heads; h++, q += depth, out += depth, values += depth) {
        shares(m, q, keys + (size_t)(h * depth) * stride, stride, depth, m->run.share, count);
        add_rows(m->run.share, values, (size_t)D, count, out, depth);
    }
}

int decoder_feed(ember *m, int32_t token) {
    decoder_run *run = &m->run;
    int D = m->decoder_width;
    size_t bytes = (size_t)D * sizeof(float), P = (size_t)m->decoder_positions;
    float *x = run->x, *y = run->y, *big = run->big, *row = run->row;
    if (!run->states) return model_fail(m, "ember_begin comes first.");
    if (run->step >= m->decoder_positions)
        return model_fail(m, "%d tokens are written; there is no room for more.", run->step);
    if (token < 0 || token >= m->vocabulary)
        return model_fail(m, "token %d; there are %d.", (int)token, m->vocabulary);
    tensor_row(m->embeddings, token, row);
    int failed = model_apply(m, &m->narrow, row, 1, x, 0);
    m->kernels->add(x, m->decoder_position.values + (size_t)run->step * (size_t)D, (size_t)D);
    for (int i = 0; i < m->decoder_layers && !failed; i++) {
        decoder_layer *l = &m->decoder[i];
        memcpy(y, x, bytes);
        model_norm(m, &l->self_norm, y, 1, 1e-5f);
        failed = model_apply(m, &l->qkv, y, 1, big, 0);
        for (int d = 0; d < D; d++) l->keys[(size_t)d * P + (size_t)run->step] = big[D + d];
        memcpy(l->values + (size_t)run->step * (size_t)D, big + 2 * D, bytes);
        attend(m, big, l->keys, P, l->values, run->step + 1, y);
        failed = failed || model_apply(m, &l->out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, bytes);
        model_norm(m, &l->cross_norm, y, 1, 1e-5f);
        failed = failed || model_apply(m, &l->cross_q, y, 1, big, 0);
        attend(m, big, l->cross_keys, (size_t)run->states, l->cross_values, run->states, y);
        failed = failed || model_apply(m, &l->cross_out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, bytes);
        model_norm(m, &l->ffn_norm, y, 1, 1e-5f);
        failed = failed || model_apply(m, &l->up, y, 1, big, 0);
        m->kernels->gelu(big, (size_t)m->decoder_hidden);
        failed = failed || model_apply(m, &l->down, big, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
    }
    run->step++;
    return failed;
}

int decoder_chances(ember *m, float *chances) {
    decoder_run *run = &m->run;
    float *x = run->x, *row = run->row, *copied = run->share, gate;
    int words = run->word_count;
    model_norm(m, &m->decoder_norm, x, 1, 1e-5f);
    if (model_apply(m, &m->widen, x, 1, row, 0) || model_apply(m, &m->gate, x, 1, &gate, 0) ||
        model_apply(m, &m->unembed, row, 1, chances, 0) ||
        model_apply(m, &m->copy_query, x, 1, row, 0))
        return -1;
    m->kernels->softmax(chances, m->vocabulary);
    float written = 1 / (1 + expf(-gate));
    for (int v = 0; v < m->vocabulary; v++) chances[v] *= written;
    if (!words) return 0;
    shares(m, row, run->words, (size_t)words, m->width, copied, words);
    for (int i = 0; i < words; i++) chances[run->source[i]] += (1 - written) * copied[i];
    return 0;
}

int ember_step(ember *m, int32_t token, float *chances) {
    return decoder_feed(m, token) || decoder_chances(m, chances) ? -1 : 0;
}
