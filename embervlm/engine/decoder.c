/* States to words: the decoder with its cache, one token at a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

int ember_begin(ember *m, const float *states, const int32_t *source, int count) {
    if (count < 1 || count > MOST_TOKENS + m->image_tokens)
        return model_fail(m, "%d states to write from.", count);
    size_t bytes = (size_t)count * (size_t)m->width * sizeof *m->words;
    free(m->words), free(m->source);
    m->words = malloc(bytes), m->source = malloc((size_t)count * sizeof *m->source);
    m->states = m->step = 0;
    if (!m->words || !m->source) return model_fail(m, "no memory for %d states.", count);
    memcpy(m->words, states, bytes);
    memcpy(m->source, source, (size_t)count * sizeof *m->source);
    for (int s = 0; s < count; s++)
        if (source[s] >= m->vocabulary)
            return model_fail(m, "token %d; there are %d.", (int)source[s], m->vocabulary);
    for (int i = 0; i < m->decoder_layers; i++) {
        decoder_layer *l = &m->decoder[i];
        free(l->cross);
        l->cross = malloc((size_t)count * 2 * (size_t)m->decoder_width * sizeof *l->cross);
        if (!l->cross) return model_fail(m, "no memory for %d states.", count);
        if (model_apply(m, &l->cross_kv, states, count, l->cross, 0)) return -1;
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
            tensor_row(t, v, values);
            for (int d = 0; d < D; d++) sum += values[d] * j->x[d];
        } else {
            for (int b = 0; b < D / BLOCK; b++) {
                int8_t bytes[BLOCK];
                float scale = tensor_block(t, row, b, bytes), lane[8] = {0}, part = 0;
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
    if (!m->states) return model_fail(m, "ember_begin comes first.");
    if (m->step >= m->decoder_positions)
        return model_fail(m, "%d tokens are written; there is no room for more.", m->step);
    if (token < 0 || token >= m->vocabulary)
        return model_fail(m, "token %d; there are %d.", (int)token, m->vocabulary);
    int longest = m->states > m->step + 1 ? m->states : m->step + 1;
    size_t room_each = ATTEND_ROOM(longest, depth);
    float *x = zeroed_room((size_t)D * 4), *y = zeroed_room((size_t)D * 4),
          *big = zeroed_room((size_t)wide * 4);
    float *row = zeroed_room((size_t)(W > D ? W : D) * 4),
          *room = zeroed_room((size_t)m->decoder_heads * room_each * 4);
    float *copied = zeroed_room((size_t)m->states * 4);
    int failed =
        !x || !y || !big || !row || !room || !copied ? model_fail(m, "no memory for a step.") : 0;
    if (!failed) {
        tensor_row(m->embeddings, token, row);
        failed = model_apply(m, &m->narrow, row, 1, x, 0);
        m->kernels->add(x, m->decoder_position.values + (size_t)m->step * (size_t)D, (size_t)D);
    }
    for (int i = 0; i < m->decoder_layers && !failed; i++) {
        decoder_layer *l = &m->decoder[i];
        float *kept = l->cache + (size_t)m->step * 2 * (size_t)D;
        memcpy(y, x, (size_t)D * 4);
        model_norm(m, &l->self_norm, y, 1, 1e-5f);
        failed = model_apply(m, &l->qkv, y, 1, big, 0);
        memcpy(kept, big + D, 2 * (size_t)D * 4);
        attention_job own = {m, big,         l->cache, y, room,      3 * D, 2 * D,
                             1, m->step + 1, depth,    D, room_each, D};
        threads_run(m->threads, m->decoder_heads, attention_part, &own);
        failed = failed || model_apply(m, &l->out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, (size_t)D * 4);
        model_norm(m, &l->cross_norm, y, 1, 1e-5f);
        failed = failed || model_apply(m, &l->cross_q, y, 1, big, 0);
        attention_job cross = {m, big,       l->cross, y, room,      D, 2 * D,
                               1, m->states, depth,    D, room_each, D};
        threads_run(m->threads, m->decoder_heads, attention_part, &cross);
        failed = failed || model_apply(m, &l->cross_out, y, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
        memcpy(y, x, (size_t)D * 4);
        model_norm(m, &l->ffn_norm, y, 1, 1e-5f);
        failed = failed || model_apply(m, &l->up, y, 1, big, 0);
        m->kernels->gelu(big, (size_t)m->decoder_hidden);
        failed = failed || model_apply(m, &l->down, big, 1, row, 0);
        m->kernels->add(x, row, (size_t)D);
    }
    if (!failed) {
        model_norm(m, &m->decoder_norm, x, 1, 1e-5f);
        float gate;
        failed =
            model_apply(m, &m->widen, x, 1, row, 0) || model_apply(m, &m->gate, x, 1, &gate, 0);
        vocabulary_job job = {m, row, chances};
        threads_run(m->threads, m->vocabulary, vocabulary_part, &job);
        m->kernels->softmax(chances, m->vocabulary);
        failed = failed || model_apply(m, &m->copy_query, x, 1, row, 0);
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
