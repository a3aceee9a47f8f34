/* Holds every kernel set that runs here against plain sums: all shapes of rows, outputs and blocks,
 * weights and activations at random and at their ends. Exit status 1: a product was wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

enum { RANDOM, LOWEST, HIGHEST, KINDS };

typedef struct {
    ember_bits bits;
    int block; /* 0: one block a row */
    int outputs, inputs, rows, kind;
} shape;

static void *room(size_t bytes) {
    void *all = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!all) exit(2);
    memset(all, 0, bytes);
    return all;
}

static int weight_of(shape s) {
    int lowest = s.bits == BITS_2 ? -1 : s.bits == BITS_4 ? -8 : -128;
    int highest = s.bits == BITS_2 ? 1 : s.bits == BITS_4 ? 7 : 127;
    return s.kind == LOWEST    ? lowest
           : s.kind == HIGHEST ? highest
                               : lowest + rand() % (highest - lowest + 1);
}

/* Puts a weight where kernels.h says that it lies. */
static void put(ember_matrix *w, int output, int input, int value) {
    int b = input / w->block, j = input % w->block, group = j / 4;
    int share = w->bits == BITS_8 ? 1 : w->bits == BITS_4 ? 2 : 4; /* groups in a byte */
    size_t block_bytes = (size_t)w->block * PANEL / share;
    uint8_t *at = w->weights + ((size_t)(output / PANEL) * w->blocks + b) * block_bytes +
                  (size_t)(group / share) * 4 * PANEL + 4 * (output % PANEL) + j % 4;
    int bits = 8 / share, shift = group % share * bits, mask = ((1 << bits) - 1) << shift;
    int offset = w->bits == BITS_2 ? 1 : 1 << (bits - 1);
    *at = (uint8_t)((*at & ~mask) | (value + offset) << shift);
}

static int wrong(const kernel_set *kernels, shape s) {
    ember_matrix w = {.outputs = s.outputs, .inputs = s.inputs, .bits = s.bits};
    w.panels = (s.outputs + PANEL - 1) / PANEL;
    w.block = s.block ? s.block : (s.inputs + 3) / 4 * 4;
    w.blocks = (s.inputs + w.block - 1) / w.block;
    size_t width = (size_t)w.blocks * w.block, tall = (size_t)w.panels * PANEL;
    int *plain = room((size_t)s.outputs * s.inputs * sizeof *plain);
    float *x = room((size_t)s.rows * s.inputs * sizeof *x);
    float *y = room((size_t)s.rows * s.outputs * sizeof *y), *bias = room(tall * sizeof *bias);
    w.weights = room(tall * width);
    memset(w.weights, s.bits == BITS_2 ? 0x55 : s.bits == BITS_4 ? 0x88 : 128, tall * width);
    w.scales = room(tall * w.blocks * sizeof *w.scales), w.bias = bias;
    for (size_t i = 0; i < tall * w.blocks; i++) w.scales[i] = 1;
    for (int o = 0; o < s.outputs; o++)
        for (int i = 0; i < s.inputs; i++)
            put(&w, o, i, plain[(size_t)o * s.inputs + i] = weight_of(s));
    /* Every block holds a value of size 127, so that its scale is 1 and the products are whole. */
    for (int r = 0; r < s.rows; r++)
        for (int i = 0; i < s.inputs; i++) {
            int end = s.kind == LOWEST || r % 2 ? -127 : 127;
            int any = i % w.block ? rand() % 255 - 127 : -127;
            x[(size_t)r * s.inputs + i] = (float)(s.kind == RANDOM ? any : end);
        }
    size_t blocks = (size_t)s.rows * w.blocks;
    ember_rows rows = {room((size_t)s.rows * width), room(blocks * sizeof(float)),
                       room(blocks * sizeof(int32_t))};
    kernels->quantise(x, s.rows, &w, &rows);
    kernels->matmul(&w, &rows, x, s.rows, 0, w.panels, y, 0);
    int found = 0;
    for (int r = 0; r < s.rows; r++)
        for (int o = 0; o < s.outputs; o++) {
            double sum = 0;
            for (int i = 0; i < s.inputs; i++)
                sum += plain[(size_t)o * s.inputs + i] * (double)x[(size_t)r * s.inputs + i];
            found |= fabs(sum - y[(size_t)r * s.outputs + o]) > 1e-6 * fabs(sum);
        }
    if (found)
        printf("%s: wrong with %d bits, %d rows of %d by %d\n", kernels->name,
               s.bits == BITS_2   ? 2
               : s.bits == BITS_4 ? 4
                                  : 8,
               s.rows, s.inputs, s.outputs);
    free(plain), free(x), free(y), free(bias), free(w.weights), free(w.scales);
    free(rows.bytes), free(rows.scales), free(rows.offsets);
    return found;
}

int main(void) {
    static const int whole[] = {32, 64, 50, 96}, any[] = {1, 5, 8, 17, 27, 28, 100, 960};
    char names[64];
    int bad = 0;
    strcpy(names, kernels_names());
    for (char *name = strtok(names, " "); name; name = strtok(NULL, " ")) {
        const kernel_set *kernels = kernels_choose(name);
        for (int kind = 0; kind < KINDS; kind++)
            for (int rows = 1; rows < 10; rows++)
                for (int outputs = 1; outputs < 40; outputs += 13) {
                    for (int i = 0; i < 4; i++) {
                        if (kernels->has_2)
                            bad |= wrong(kernels,
                                         (shape){BITS_2, BLOCK, outputs, whole[i], rows, kind});
                        bad |=
                            wrong(kernels, (shape){BITS_4, BLOCK, outputs, whole[i], rows, kind});
                        bad |=
                            wrong(kernels, (shape){BITS_8, BLOCK, outputs, whole[i], rows, kind});
                    }
                    for (int i = 0; i < 8; i++)
                        bad |= wrong(kernels, (shape){BITS_8, 0, outputs, any[i], rows, kind});
                }
        printf("%s\n", name);
    }
    return bad;
}
