/* A request to states: the encoder over image tokens and words; and its n-grams. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Writes the embeddings of tokens and places, (count, width). */
static int read_words(ember *m, const int32_t *tokens, int count, float *words) {
    int D = m->width, E = m->table_width;
    float *narrow = words;
    if (m->embed_width && !(narrow = float_room((size_t)count * (size_t)E)))
        return model_fail(m, "no memory for %d tokens.", count);
    for (int t = 0; t < count; t++)
        tensor_row(m->embeddings, tokens[t], narrow + (size_t)t * (size_t)E);
    if (m->embed_width) {
        int failed = model_apply(m, &m->widen_table, narrow, count, words, 0);
        free(narrow);
        if (failed) return -1;
    }
    m->kernels->add(words, m->position.values, (size_t)count * (size_t)D);
    model_norm(m, &m->embed_norm, words, count, 1e-12f);
    return 0;
}

/* Writes a photo's tokens, (1 + places, width): its kind of place, then what is at each place. */
static int write_image(ember *m, const float *features, int places, const float *scene, float *x) {
    int D = m->width;
    if (!scene) {
        /* The scene's row, then the other's for every place. */
        for (int i = 0; i <= places; i++)
            memcpy(x + (size_t)i * (size_t)D, m->no_photo.values + (i ? D : 0),
                   (size_t)D * sizeof *x);
        return 0;
    }
    float share[256];
    if (m->places > 256) return model_fail(m, "%d kinds of places; at most 256 fit.", m->places);
    memcpy(share, scene, (size_t)m->places * sizeof *share);
    m->kernels->softmax(share, m->places);
    memset(x, 0, (size_t)D * sizeof *x);
    for (int e = 0; e < m->places; e++)
        for (int d = 0; d < D; d++)
            x[d] += share[e] * m->scene_table.values[(size_t)e * (size_t)D + (size_t)d];
    if (model_apply(m, &m->view, features, places, x + D, 0)) return -1;
    model_norm(m, &m->image_norm, x, 1 + places, 1e-5f);
    return 0;
}

/* Writes the two tokens of a photo as a whole: its kind of place, and the mean of its places. */
static int write_whole(ember *m, const float *features, int places, const float *scene, float *x) {
    if (!scene) return write_image(m, 0, 1, 0, x);
    float *mean = zeroed_room((size_t)m->image_width * sizeof *mean);
    if (!mean) return model_fail(m, "no memory for a photo's %d places.", places);
    for (int i = 0; i < places; i++)
        m->kernels->add(mean, features + (size_t)i * (size_t)m->image_width,
                        (size_t)m->image_width);
    for (int c = 0; c < m->image_width; c++) mean[c] /= (float)places;
    int failed = write_image(m, mean, 1, scene, x);
    free(mean);
    return failed;
}

int ember_read(ember *m, const int32_t *tokens, int count, const float *features,
               const float *scene, float *states, float *middle, int last) {
    int D = m->width, N = m->image_tokens, F = m->in_front, S = F + count;
    if (count < 1 || count > m->positions)
        return model_fail(m, "%d tokens; this model reads 1 to %d.", count, m->positions);
    for (int t = 0; t < count; t++)
        if (tokens[t] < 0 || tokens[t] >= m->vocabulary)
            return model_fail(m, "token %d; there are %d.", (int)tokens[t], m->vocabulary);
    if (middle && (last < 1 || last > m->layers))
        return model_fail(m, "the last %d layers; there are %d.", last, m->layers);
    size_t row = (size_t)D * sizeof *states;
    float *words = states + (size_t)N * (size_t)D, *x = words - (size_t)F * (size_t)D;
    if (!features) scene = 0;
    if (write_image(m, features, N - 1, scene, states)) return -1;
    if (read_words(m, tokens, count, words)) return -1;
    /* Two tokens of the whole photo stand where its last places stood, which the fusion needs. */
    float *kept = 0;
    if (F && m->fusion_layers) {
        if (!(kept = float_room((size_t)(F * D))))
            return model_fail(m, "no memory for %d tokens.", count);
        memcpy(kept, x, (size_t)F * row);
        if (write_whole(m, features, N - 1, scene, x)) return free(kept), -1;
    }
    int wide = m->hidden > 3 * D ? m->hidden : 3 * D, depth = D / m->heads;
    size_t room_each = ATTEND_ROOM(S, depth);
    float *big = zeroed_room((size_t)S * (size_t)wide * 4),
          *small = zeroed_room((size_t)S * (size_t)D * 4);
    float *room = zeroed_room((size_t)m->heads * room_each * 4);
    int failed = !big || !small || !room ? model_fail(m, "no memory for %d tokens.", count) : 0;
    for (int i = 0; i < m->layers && !failed; i++) {
        const encoder_layer *l = &m->layer[i];
        if (middle && i == m->layers - last) memcpy(middle, words, (size_t)count * row);
        failed = model_apply(m, &l->qkv, x, S, big, 0);
        attention_job job = {m, big, big + D, small, room,      3 * D, 3 * D,
                             S, S,   depth,   D,     room_each, D};
        threads_run(m->threads, m->heads, attention_part, &job);
        failed = failed || model_apply(m, &l->out, small, S, big, 0);
        m->kernels->add(x, big, (size_t)S * (size_t)D);
        model_norm(m, &l->attention_norm, x, S, 1e-12f);
        failed = failed || model_apply(m, &l->up, x, S, big, 0);
        m->kernels->gelu(big, (size_t)S * (size_t)m->hidden);
        failed = failed || model_apply(m, &l->down, big, S, small, 0);
        m->kernels->add(x, small, (size_t)S * (size_t)D);
        model_norm(m, &l->output_norm, x, S, 1e-12f);
    }
    if (kept) memcpy(x, kept, (size_t)F * row);
    free(big), free(small), free(room), free(kept);
    if (!failed && m->fusion_layers) failed = fusion_run(m, states, count);
    return failed;
}

int ember_ngrams(ember *m, const int32_t *rows, int count, float *scores, int columns) {
    int K = m->ngram_bias.width;
    float length = 0;
    if (K != columns)
        return model_fail(m, "ngrams.bias has %d values, expected %d; export the model again.", K,
                          columns);
    memset(scores, 0, (size_t)K * sizeof *scores);
    for (int i = 0; i < count; i++) {
        if (rows[i] < 0 || rows[i] >= m->importance.width)
            return model_fail(m, "n-gram row %d; there are %d.", (int)rows[i], m->importance.width);
        float weight = m->importance.values[rows[i]];
        length += weight * weight;
    }
    if (length <= 0) return 0;
    for (int k = 0; k < K; k++) {
        float sum = 0;
        for (int i = 0; i < count; i++)
            sum += m->importance.values[rows[i]] * tensor_value(m->ngram_columns, k, rows[i]);
        scores[k] = sum / sqrtf(length) + m->ngram_bias.values[k];
    }
    return 0;
}
