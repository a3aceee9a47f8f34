/* The engine: one GGUF file in, a decision's numbers out. C11, no dependency.
 *
 * A model is opened once (the file is mapped, checked, and its matrices are repacked for this
 * processor), then asked any number of times from one thread at a time. Arrays are float32, row by
 * row; a function that can fail returns 0 on success and leaves one sentence in `ember_error`.
 */
#ifndef EMBER_H
#define EMBER_H

#include <stddef.h>
#include <stdint.h>

#define EMBER_API __attribute__((visibility("default")))

typedef struct ember ember;

/* Opens a model file with 1 or more threads. NULL on failure: `error` then says what came, what was
 * expected and what to do. `kernels` names the set to use (see ember_kernels), NULL the best one.
 */
EMBER_API ember *ember_open(const char *path, int threads, const char *kernels, char *error,
                            size_t size);
EMBER_API void ember_close(ember *model);

/* The text of a metadata key, or NULL. Valid until ember_close. */
EMBER_API const char *ember_text(const ember *model, const char *key);
/* The bytes of a tensor as they lie in the file, or NULL. Valid until ember_close. */
EMBER_API const void *ember_tensor(const ember *model, const char *name, size_t *bytes);
/* The name of the kernel set in use: "avx512-vnni", "avx2", "neon-dot", "neon" or "portable". */
EMBER_API const char *ember_kernel_name(const ember *model);
/* The names of all sets that this build and this processor have, best first, parted by spaces. */
EMBER_API const char *ember_kernels(void);
EMBER_API const char *ember_error(const ember *model);

/* Photo (3, side, side) in -1..1 to features (image_width) and place logits (environments). */
EMBER_API int ember_see(ember *model, const float *pixels, float *features, float *scene);

/* Tokens to states (2 image tokens + count, width). `features` and `scene` come from ember_see;
 * both NULL: no photo. */
EMBER_API int ember_read(ember *model, const int32_t *tokens, int count, const float *features,
                         const float *scene, float *states);

/* y (rows, outputs) = x (rows, inputs) by the linear layer of this name, its bias added. */
EMBER_API int ember_linear(ember *model, const char *name, const float *x, int rows, float *y);
/* The same size on both sides of a layer; 0 on success. */
EMBER_API int ember_size(const ember *model, const char *name, int *outputs, int *inputs);
/* The sum of these rows of the n-gram table, weighted by importance of length 1, and the bias. */
EMBER_API int ember_ngrams(ember *model, const int32_t *rows, int count, float *scores);

/* The decoder: begin with the states of a request and the token each was read from (-1: none),
 * then feed one token at a time; `chances` (vocabulary) gets the probabilities of the next. */
EMBER_API int ember_begin(ember *model, const float *states, const int32_t *source, int count);
EMBER_API int ember_step(ember *model, int32_t token, float *chances);

/* Bytes a second that one thread reads of a buffer of this size, best of several; 0: no memory. */
EMBER_API double ember_bandwidth(size_t bytes);

#endif
