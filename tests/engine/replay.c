/* Answers prepared requests without Python, for processors that are only emulated here.
 *
 *     replay MODEL.gguf IN OUT [KERNELS]
 *
 * IN: int32 count, pixels a photo; then for each request int32 tokens, n-gram rows, photo (0 or 1),
 * followed by the tokens, the rows and the pixels. OUT: for each request the floats of
 * the heads below, then of the place in the photo (zeros without one), then of the n-grams. All in
 * the byte order of the machine. Prints the kernel set and the most memory used, in kB. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ember.h"

static const char *const heads[] = {"subset_features", "primary", "environment",
                                    "actions",         "flags",   "team"};
enum { WIDTH = 4096, MOST = 1024, COLUMNS = 42, PLACES = 10 };

static void *must(void *room) {
    if (!room) exit((fprintf(stderr, "no memory\n"), 2));
    return room;
}

static void take(void *to, size_t size, size_t count, FILE *in) {
    if (fread(to, size, count, in) != count) exit((fprintf(stderr, "the input is cut short\n"), 2));
}

/* Most memory used so far, in kB, 0 where the system does not tell. */
static long peak_memory(void) {
    char line[128];
    long peak = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, "VmHWM:", 6)) peak = strtol(line + 6, NULL, 10);
    if (status) fclose(status);
    return peak;
}

int main(int count, char **arguments) {
    if (count < 4) return fprintf(stderr, "usage: replay MODEL.gguf IN OUT [KERNELS]\n"), 2;
    char error[512];
    ember *model =
        ember_open(arguments[1], 1, count > 4 ? arguments[4] : NULL, error, sizeof error);
    if (!model) return fprintf(stderr, "%s\n", error), 2;
    FILE *in = must(fopen(arguments[2], "rb")), *out = must(fopen(arguments[3], "wb"));
    int32_t requests, pixel_count, about[3], numbers[2][MOST];
    int outputs, width;
    take(&requests, 4, 1, in), take(&pixel_count, 4, 1, in);
    if (ember_size(model, "heads.primary", &outputs, &width) || width > WIDTH) return 2;
    float *pixels = must(malloc((size_t)pixel_count * 4)),
          *states = must(malloc((size_t)(MOST + 2) * WIDTH * 4));
    for (int r = 0; r < requests; r++) {
        float features[WIDTH], scene[PLACES] = {0}, pooled[WIDTH] = {0}, said[256];
        take(about, 4, 3, in);
        if (about[0] > MOST || about[1] > MOST) return 2;
        take(numbers[0], 4, (size_t)about[0], in), take(numbers[1], 4, (size_t)about[1], in);
        if (about[2]) {
            take(pixels, 4, (size_t)pixel_count, in);
            if (ember_see(model, pixels, features, scene))
                return fprintf(stderr, "%s\n", ember_error(model)), 2;
        }
        const float *image = about[2] ? features : NULL, *place = about[2] ? scene : NULL;
        if (ember_read(model, numbers[0], about[0], image, place, states, NULL, 0))
            return fprintf(stderr, "%s\n", ember_error(model)), 2;
        for (int t = 2; t < about[0] + 2; t++)
            for (int d = 0; d < width; d++)
                pooled[d] += states[(size_t)t * (size_t)width + (size_t)d] / (float)about[0];
        for (size_t h = 0; h < sizeof heads / sizeof *heads; h++) {
            char name[64];
            snprintf(name, sizeof name, "heads.%s", heads[h]);
            if (ember_size(model, name, &outputs, &width) || outputs > 256 ||
                ember_linear(model, name, pooled, 1, said))
                return 2;
            fwrite(said, 4, (size_t)outputs, out);
        }
        fwrite(scene, 4, PLACES, out);
        memset(said, 0, sizeof said);
        if (ember_ngrams(model, numbers[1], about[1], said, COLUMNS)) return 2;
        fwrite(said, 4, COLUMNS, out);
    }
    printf("%s %ld\n", ember_kernel_name(model), peak_memory());
    free(pixels), free(states);
    ember_close(model);
    return fclose(out) || fclose(in) ? 2 : 0;
}
