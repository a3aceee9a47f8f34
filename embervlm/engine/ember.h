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
/* The side of the square photo that ember_see takes. */
EMBER_API int ember_image_size(const ember *model);
/* How many states stand in front of the words': one for the scene, and one for each place. */
EMBER_API int ember_image_tokens(const ember *model);
/* The width of a state. */
EMBER_API int ember_width(const ember *model);
/* The bytes of a tensor as they lie in the file, or NULL. Valid until ember_close. */
EMBER_API const void *ember_tensor(const ember *model, const char *name, size_t *bytes);
/* The name of the kernel set in use: "avx512-vnni", "avx2", "neon-dot", "neon" or "portable". */
EMBER_API const char *ember_kernel_name(const ember *model);
/* The names of all sets that this build and this processor have, best first, parted by spaces. */
EMBER_API const char *ember_kernels(void);
EMBER_API const char *ember_error(const ember *model);

/* Photo (3, side, side) in -1..1 to features (image tokens - 1, image_width) and place logits
 * (environments). */
EMBER_API int ember_see(ember *model, const float *pixels, float *features, float *scene);

/* Tokens to states (image tokens + count, width). `features` and `scene` come from ember_see;
 * both NULL: no photo. `middle` (count, width), which may be NULL, gets the words in front of the
 * `last` layers. */
EMBER_API int ember_read(ember *model, const int32_t *tokens, int count, const float *features,
                         const float *scene, float *states, float *middle, int last);

/* y (rows, outputs) = x (rows, inputs) by the linear layer of this name, its bias added. */
EMBER_API int ember_linear(ember *model, const char *name, const float *x, int rows, float *y);
/* Outputs and inputs of such a layer; "text.embed" has the vocabulary and the width of its table.
 * 0 on success. */
EMBER_API int ember_size(const ember *model, const char *name, int *outputs, int *inputs);
/* The sum of these rows of the n-gram table, weighted by importance of length 1, and the bias;
 * `scores` has room for `columns`, and so many the model must have. */
EMBER_API int ember_ngrams(ember *model, const int32_t *rows, int count, float *scores,
                           int columns);

/* The decoder: begin with the states of a request and the token each was read from (-1: none),
 * then feed one token at a time; `chances` (vocabulary) gets the probabilities of the next. */
EMBER_API int ember_begin(ember *model, const float *states, const int32_t *source, int count);
EMBER_API int ember_step(ember *model, int32_t token, float *chances);

/* A section of what is written: 1 to `most` tokens, then `ending`. Which tokens it may hold is said
 * by the bits of their masks: none that has a bit of `never`, and none of `not_first` to begin
 * with. */
typedef struct {
    int32_t ending, most, never, not_first;
} ember_section;

/* Behind ember_begin: writes `prefix` and then the sections, each token the likeliest that may
 * stand there. No token comes twice running, nor four in a row again, within a section; one is cut
 * short where those behind it would have no room. `masks` (vocabulary) are bits of the caller's
 * choice. `tokens` has room for `room`; `written` gets their number, the prefix among them. */
EMBER_API int ember_write(ember *model, const int32_t *prefix, int count,
                          const ember_section *sections, int section_count, const uint8_t *masks,
                          int32_t *tokens, int room, int *written);

/* Bytes a second that one thread reads of a buffer of this size, best of several; 0: no memory. */
EMBER_API double ember_bandwidth(size_t bytes);

#endif
