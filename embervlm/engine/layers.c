/* One layer at a time, shared out among the threads. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

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

int model_quantise(ember *m, const ember_matrix *w, const float *x, int rows) {
    size_t bytes = (size_t)rows * (size_t)w->blocks * (size_t)w->block;
    if (bytes > m->rows_room) {
        free(m->rows.bytes), free(m->rows.scales), free(m->rows.offsets);
        m->rows.bytes = zeroed_room(bytes);
        /* A block has four bytes or more. */
        m->rows.scales = zeroed_room(bytes / 4 * sizeof *m->rows.scales);
        m->rows.offsets = zeroed_room(bytes / 4 * sizeof *m->rows.offsets);
        m->rows_room = m->rows.bytes && m->rows.scales && m->rows.offsets ? bytes : 0;
        if (!m->rows_room) return model_fail(m, "no memory for %d rows.", rows);
    }
    m->kernels->quantise(x, rows, w, &m->rows);
    return 0;
}

int model_apply(ember *m, const ember_matrix *w, const float *x, int rows, float *y, int clamp) {
    if (w->bits != BITS_FLOAT && model_quantise(m, w, x, rows)) return -1;
    matmul_job job = {m, w, x, y, rows, clamp};
    threads_run(m->threads, w->panels, matmul_part, &job);
    return 0;
}

static const ember_matrix *model_linear(const ember *m, const char *name) {
    for (int i = 0; i < m->linears; i++)
        if (!strcmp(m->linear[i].name, name)) return &m->linear[i].matrix;
    return NULL;
}

int ember_linear(ember *m, const char *name, const float *x, int rows, float *y) {
    const ember_matrix *w = model_linear(m, name);
    return w ? model_apply(m, w, x, rows, y, 0) : model_fail(m, "there is no layer %s.", name);
}

int ember_size(const ember *m, const char *name, int *outputs, int *inputs) {
    const ember_matrix *w = model_linear(m, name);
    if (!w) return -1;
    *outputs = w->outputs, *inputs = w->inputs;
    return 0;
}

void attention_part(void *given, int first, int end) {
    const attention_job *j = given;
    for (int h = first; h < end; h++)
        j->m->kernels->attend(j->q + h * j->depth, j->q_stride, j->rows, j->kv + h * j->depth,
                              j->kv + j->value_at + h * j->depth, j->kv_stride, j->count, j->depth,
                              j->out + h * j->depth, j->out_stride,
                              j->room + (size_t)h * j->room_each);
}

void model_norm(const ember *m, const norm_layer *n, float *x, int rows, float epsilon) {
    m->kernels->norm(x, rows, n->weight.width, n->weight.values, n->bias.values, epsilon);
}
