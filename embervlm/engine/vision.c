/* A photo to features: MobileNetV2, and the place that it shows. */
#include <stdlib.h>
#include <string.h>

#include "model.h"

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
    float *x = float_room(largest), *hidden = float_room(largest), *deep = float_room(largest);
    int failed = !x || !hidden || !deep ? model_fail(m, "no memory for a photo.") : 0;
    if (!failed) {
        patches(pixels, side, height, hidden);
        failed = model_apply(m, &m->stem, hidden, height * height, x, 1);
    }
    for (int i = 0; i < m->blocks && !failed; i++) {
        const bottleneck *b = &m->block[i];
        const float *in = x;
        if (b->has_expand) {
            failed = model_apply(m, &b->expand, x, height * height, hidden, 1);
            in = hidden;
        }
        int out_height = (height + b->stride - 1) / b->stride;
        depthwise_job job = {m, b, in, deep, height, height};
        threads_run(m->threads, out_height, depthwise_part, &job);
        int same = b->stride == 1 &&
                   (b->has_expand ? b->expand.inputs : b->channels) == b->project.outputs;
        float *to = same ? hidden : x;
        failed = failed || model_apply(m, &b->project, deep, out_height * out_height, to, 0);
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
