/* The loops that take the time, once for each instruction set; `kernels_choose` picks one set.
 *
 * A matrix (outputs, inputs) is kept in panels of 16 outputs, zeros behind the last. A panel holds
 * its inputs in blocks of 32, one scale a block and output:
 *   8 bits: 8 groups of (16 outputs x 4 inputs), each byte the weight + 128;
 *   4 bits: 4 groups of the same, low half byte input group 2g, high half byte 2g + 1, weight + 8;
 *   2 bits: 2 groups of the same, input groups 4g to 4g + 3 from the lowest bits to the highest,
 *           weight + 1, which is 0 to 2; of sets that say so (`has_2`);
 *   float:  (inputs x 16 outputs) without blocks or scales.
 * Rows of activations are quantised to signed bytes in blocks of 32, so that a product is a sum of
 * whole numbers, exact and the same on every processor, times two scales.
 */
#ifndef EMBER_KERNELS_H
#define EMBER_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, BLOCK = 32, MOST_TALL = 4 };

/* What `attend` needs: keys turned round, and the shares of some queries, in whole panels. */
#define ATTEND_ROOM(count, depth) \
    ((size_t)((depth) + MOST_TALL) * (size_t)(((count) + PANEL - 1) / PANEL * PANEL))

typedef enum { BITS_2, BITS_4, BITS_8, BITS_FLOAT } ember_bits;

typedef struct {
    int outputs, inputs, panels;
    int block, blocks; /* inputs that share a scale; how many times they are in a row */
    ember_bits bits;
    uint8_t *weights;
    float *scales;     /* (panels, blocks, 16) */
    const float *bias; /* (panels * 16), zeros where the layer has none */
} ember_matrix;

/* Rows of activations, quantised. */
typedef struct {
    int8_t *bytes;    /* (rows, blocks * 32) */
    float *scales;    /* (rows, blocks) */
    int32_t *offsets; /* (rows, blocks): where the sum of a block's products begins */
} ember_rows;

typedef struct {
    const char *name;
    int has_2; /* whether it multiplies matrices of two bits */
    /* x (rows, inputs of w) to `out`, in w's blocks; zeros behind the last input. */
    void (*quantise)(const float *x, int rows, const ember_matrix *w, ember_rows *out);
    /* y (rows, outputs) for the panels first..end-1; `x` holds the rows that `quantise` wrote, or
     * for a float matrix `floats` (rows, inputs). With `clamp` y is kept within 0..6. */
    void (*matmul)(const ember_matrix *w, const ember_rows *x, const float *floats, int rows,
                   int first, int end, float *y, int clamp);
    /* One 3x3 filter a channel over three rows (width, channels), NULL for one outside the
     * picture, to one row of the output; taps (9, channels); padded as TensorFlow's SAME; clamped
     * to 0..6. */
    void (*depthwise)(const float *const in[3], int width, int channels, const float *taps,
                      const float *bias, int stride, float *y);
    /* x (rows, width) normalised in place. */
    void (*norm)(float *x, int rows, int width, const float *weight, const float *bias,
                 float epsilon);
    void (*gelu)(float *x, size_t count);
    void (*softmax)(float *x, int count);
    /* x (count) += y (count) */
    void (*add)(float *x, const float *y, size_t count);
    /* Attention of one head: query (rows, ..) over keys and values (count, ..), every row `stride`
     * floats from the next; `room` has ATTEND_ROOM floats. */
    void (*attend)(const float *q, int q_stride, int rows, const float *k, const float *v,
                   int kv_stride, int count, int depth, float *out, int out_stride, float *room);
} kernel_set;

/* Returns the set of this name, or with NULL the best that this processor runs; NULL: none. */
const kernel_set *kernels_choose(const char *name);
/* Names of all sets that run here, best first, parted by spaces. */
const char *kernels_names(void);

#endif
