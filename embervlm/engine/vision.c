/* A photo to features: MobileNetV2, and the place that it shows.
 *
 * Where the picture is large, a block is run row by row, so that what is expanded to six times the
 * channels never leaves the cache; where it is small, layer by layer.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

enum { LARGE = 400 };     /* pixels */
#define LEAST_SHARE 1e-6f /* of a look that counts */

/* Padding before the first of `size` pixels, so that the last 3 taps of `out` reach the last one.
 */
static int padding(int size, int out, int stride) {
    int all = (out - 1) * stride + 3 - size;
    return all > 0 ? all / 2 : 0;
}

/* A bottleneck over a square picture. */
typedef struct {
    ember *m;
    const bottleneck *b;
    const float *x; /* (height, height, channels in) */
    float *y;       /* (out, out, channels out) */
    int height, out, add, strips;
    float *room; /* of each strip */
    size_t room_each;
    float *hidden, *deep; /* of the small way */
} block_job;

static const float *row_of(const float *x, int row, int height, size_t size) {
    return row < 0 || row >= height ? NULL : x + (size_t)row * size;
}

/* Three rows of the expanded picture, its filtered row, and that quantised. */
static size_t strip_floats(const bottleneck *b, int height, int out) {
    size_t row = (size_t)b->channels, bytes = (size_t)b->project.block * (size_t)b->project.blocks;
    size_t blocks = (size_t)b->project.blocks;
    size_t floats = 3 * row * (size_t)height + row * (size_t)out;
    return (floats + (size_t)out * (bytes / 4 + 2 * blocks) + 4 * 16) / 16 * 16;
}

static void run_strip(block_job *job, int strip) {
    const bottleneck *b = job->b;
    const ember *m = job->m;
    const ember_matrix *up = &b->expand, *down = &b->project;
    int H = job->height, O = job->out, C = b->channels, top = padding(H, O, b->stride);
    size_t in_row = (size_t)H * (size_t)(b->has_expand ? up->inputs : C);
    size_t wide_row = (size_t)H * (size_t)C, out_row = (size_t)O * (size_t)down->outputs;
    float *ring = job->room + (size_t)strip * job->room_each, *deep = ring + 3 * wide_row;
    ember_rows rows;
    rows.scales = deep + (size_t)O * (size_t)C;
    rows.offsets = (int32_t *)(rows.scales + (size_t)O * (size_t)down->blocks);
    rows.bytes = (int8_t *)(rows.offsets + (size_t)O * (size_t)down->blocks);
    int first = O * strip / job->strips, end = O * (strip + 1) / job->strips;
    int ready = first * b->stride - top; /* the next row to be expanded */
    if (ready < 0) ready = 0;
    for (int i = first; i < end; i++) {
        const float *in[3];
        int last = i * b->stride - top + 2;
        for (; b->has_expand && ready <= last && ready < H; ready++) {
            size_t at = (size_t)ready * (size_t)H;
            ember_rows part = {0};
            if (up->bits != BITS_FLOAT) {
                part.bytes = m->rows.bytes + at * (size_t)up->block * (size_t)up->blocks;
                part.scales = m->rows.scales + at * (size_t)up->blocks;
                part.offsets = m->rows.offsets + at * (size_t)up->blocks;
            }
            m->kernels->matmul(up, &part, job->x + (size_t)ready * in_row, H, 0, up->panels,
                               ring + (size_t)(ready % 3) * wide_row, 1);
        }
        for (int k = 0; k < 3; k++) {
            int row = last - 2 + k;
            in[k] = row < 0 || row >= H ? NULL
                    : b->has_expand     ? ring + (size_t)(row % 3) * wide_row
                                        : job->x + (size_t)row * in_row;
        }
        m->kernels->depthwise(in, H, C, b->taps.values, b->tap_bias.values, b->stride, deep);
        if (down->bits != BITS_FLOAT) m->kernels->quantise(deep, O, down, &rows);
        float *y = job->y + (size_t)i * out_row;
        m->kernels->matmul(down, &rows, deep, O, 0, down->panels, y, 0);
        if (job->add) m->kernels->add(y, job->x + (size_t)i * in_row, out_row);
    }
}

static void strip_part(void *given, int first, int end) {
    for (int strip = first; strip < end; strip++) run_strip(given, strip);
}

static int run_large(block_job *job) {
    ember *m = job->m;
    if (job->b->has_expand && job->b->expand.bits != BITS_FLOAT &&
        model_quantise(m, &job->b->expand, job->x, job->height * job->height))
        return -1;
    threads_run(m->threads, job->strips, strip_part, job);
    return 0;
}

static void depthwise_part(void *given, int first, int end) {
    const block_job *job = given;
    const bottleneck *b = job->b;
    int H = job->height, O = job->out, top = padding(H, O, b->stride);
    size_t size = (size_t)H * (size_t)b->channels;
    const float *x = b->has_expand ? job->hidden : job->x;
    for (int i = first; i < end; i++) {
        const float *in[3];
        for (int k = 0; k < 3; k++) in[k] = row_of(x, i * b->stride - top + k, H, size);
        job->m->kernels->depthwise(in, H, b->channels, b->taps.values, b->tap_bias.values,
                                   b->stride,
                                   job->deep + (size_t)i * (size_t)O * (size_t)b->channels);
    }
}

static int run_small(block_job *job) {
    ember *m = job->m;
    const bottleneck *b = job->b;
    int pixels = job->out * job->out;
    if (b->has_expand &&
        model_apply(m, &b->expand, job->x, job->height * job->height, job->hidden, 1))
        return -1;
    threads_run(m->threads, job->out, depthwise_part, job);
    if (model_apply(m, &b->project, job->deep, pixels, job->y, 0)) return -1;
    if (job->add) m->kernels->add(job->y, job->x, (size_t)pixels * (size_t)b->project.outputs);
    return 0;
}

/* Gathers the 3 x 3 neighbours of every second pixel of (3, side, side) into rows of 27, in the
 * order of the stem's weights (channel, down, right). */
static void patches(const float *pixels, int side, int out, float *rows) {
    int before = padding(side, out, 2);
    for (int i = 0; i < out; i++)
        for (int j = 0; j < out; j++)
            for (int c = 0; c < 3; c++)
                for (int k = 0; k < 3; k++, rows += 3) {
                    int row = i * 2 + k - before, column = j * 2 - before;
                    int at = (c * side + row) * side + column, inside = row >= 0 && row < side;
                    for (int l = 0; l < 3; l++)
                        rows[l] =
                            inside && column + l >= 0 && column + l < side ? pixels[at + l] : 0;
                }
}

/* Finds the largest of what the blocks need: a layer's floats between blocks, within a small one,
 * and a strip's room. */
static void sizes(const ember *m, int strips, size_t *between, size_t *within, size_t *room) {
    int height = (m->image_size + 1) / 2;
    size_t pixels = (size_t)height * (size_t)height;
    *between = pixels * (size_t)m->stem.outputs, *within = pixels * 27, *room = 0;
    for (int i = 0; i < m->blocks; i++) {
        const bottleneck *b = &m->block[i];
        int out = (height + b->stride - 1) / b->stride;
        size_t wide = (size_t)height * (size_t)height * (size_t)b->channels;
        size_t next = (size_t)out * (size_t)out * (size_t)b->project.outputs;
        size_t strip = strip_floats(b, height, out) * (size_t)strips;
        if (next > *between) *between = next;
        if (height * height > LARGE) {
            if (strip > *room) *room = strip;
        } else if (wide > *within) {
            *within = wide;
        }
        height = out;
    }
}

/* x (height, height, channels) to y (grid, grid, channels): the mean of the pixels that each place
 * touches, those of two neighbours in both. */
static void pool(const ember *m, const float *x, int height, float *y) {
    int C = m->image_width, G = m->grid;
    memset(y, 0, (size_t)(G * G) * (size_t)C * sizeof *y);
    for (int i = 0; i < G; i++)
        for (int j = 0; j < G; j++, y += C) {
            int top = i * height / G, bottom = ((i + 1) * height + G - 1) / G;
            int left = j * height / G, right = ((j + 1) * height + G - 1) / G;
            for (int row = top; row < bottom; row++)
                for (int column = left; column < right; column++)
                    m->kernels->add(y, x + (size_t)(row * height + column) * (size_t)C, (size_t)C);
            for (int c = 0; c < C; c++) y[c] /= (float)((bottom - top) * (right - left));
        }
}

/* Makes of a photo's features those that the looks near it have; see `models/photo_recall.py`. */
static int recall(ember *m, float *features) {
    int W = m->recall_width, R = m->near.outputs;
    float *room = float_room((size_t)(3 * W + R)), strength = 0, length = 0;
    if (!room) return model_fail(m, "no memory for %d looks.", R);
    float *look = room, *found = look + W, *row = found + W, *shares = row + W;
    if (model_apply(m, &m->look, features, 1, look, 0)) return free(room), -1;
    for (int i = 0; i < W; i++) strength += look[i] * look[i];
    strength = sqrtf(strength);
    for (int i = 0; i < W; i++) look[i] /= fmaxf(strength, 1e-12f);
    if (model_apply(m, &m->near, look, 1, shares, 0)) return free(room), -1;
    m->kernels->softmax(shares, R);
    memset(found, 0, (size_t)W * sizeof *found);
    for (int r = 0; r < R; r++) {
        if (shares[r] < LEAST_SHARE) continue;
        tensor_row(m->looks, r, row);
        for (int i = 0; i < W; i++) found[i] += shares[r] * row[i];
    }
    for (int i = 0; i < W; i++) length += found[i] * found[i];
    length = fmaxf(sqrtf(length), 1e-12f);
    for (int i = 0; i < W; i++) found[i] *= strength / length;
    int failed = model_apply(m, &m->told, found, 1, features, 0);
    free(room);
    return failed;
}

int ember_see(ember *m, const float *pixels, float *features, float *scene) {
    int height = (m->image_size + 1) / 2, strips = threads_count(m->threads);
    size_t between, within, room;
    sizes(m, strips, &between, &within, &room);
    /* One piece, so that it is given back in one piece. */
    float *all = float_room(2 * between + 2 * within + room);
    if (!all) return model_fail(m, "no memory for a photo.");
    float *x = all, *y = x + between, *hidden = y + between, *deep = hidden + within;
    patches(pixels, m->image_size, height, hidden);
    int failed = model_apply(m, &m->stem, hidden, height * height, x, 1);
    for (int i = 0; i < m->blocks && !failed; i++) {
        const bottleneck *b = &m->block[i];
        int out = (height + b->stride - 1) / b->stride;
        int same = b->stride == 1 &&
                   (b->has_expand ? b->expand.inputs : b->channels) == b->project.outputs;
        block_job job = {m,
                         b,
                         x,
                         y,
                         height,
                         out,
                         same,
                         strips,
                         deep + within,
                         strip_floats(b, height, out),
                         hidden,
                         deep};
        failed = height * height > LARGE ? run_large(&job) : run_small(&job);
        float *kept = x;
        x = y, y = kept, height = out;
    }
    if (!failed) {
        int C = m->image_width;
        float *mean = m->grid ? y : features;
        memset(mean, 0, (size_t)C * sizeof *mean);
        for (int i = 0; i < height * height; i++)
            m->kernels->add(mean, x + (size_t)i * (size_t)C, (size_t)C);
        for (int c = 0; c < C; c++) mean[c] /= (float)(height * height);
        failed =
            (m->recall_width && recall(m, mean)) || ember_linear(m, "image.scene", mean, 1, scene);
        if (m->grid) pool(m, x, height, features);
    }
    free(all);
    return failed;
}
