/* Opens mutated model files and runs those that open; made to be built with sanitizers.
 *
 *     fuzz MODEL.gguf COUNT SEED
 *
 * Half of the files get the digest that fits them, as an attacker would write it, so that the
 * checks behind the digest are met too. Prints how many were refused and how many ran; a fault
 * ends the program through the sanitizer. */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ember.h"
#include "sha256.h"

enum { COLUMNS = 32 + 10 }; /* of n-grams: sets and places */

static uint64_t state;
static volatile uint8_t merged; /* so that the tensor is read */

static uint64_t next_random(void) { /* xorshift64* */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 2685821657736338717ull;
}

static size_t below(size_t bound) { return (size_t)(next_random() % bound); }

static size_t mutate(uint8_t *bytes, size_t length, size_t head) {
    static const uint64_t extremes[] = {0,
                                        1,
                                        2,
                                        31,
                                        33,
                                        255,
                                        1u << 16,
                                        1u << 28,
                                        0x7fffffff,
                                        0xffffffff,
                                        1ull << 32,
                                        1ull << 61,
                                        0x7fffffffffffffffull,
                                        ~0ull};
    for (size_t n = 1 + below(4); n; n--) {
        size_t part = below(4) ? head : length, at = 4 + below(part - 12);
        switch (below(4)) {
            case 0:
                bytes[at] ^= (uint8_t)(1u << below(8));
                break;
            case 1:
                bytes[at] = (uint8_t)next_random();
                break;
            case 2:
                memcpy(bytes + at, &extremes[below(sizeof extremes / sizeof *extremes)], 8);
                break;
            default:
                memmove(bytes + at, bytes + below(part - 12), 8);
        }
    }
    return below(10) ? length : 24 + below(length - 24);
}

static void rehash(uint8_t *bytes, size_t length) {
    static const char key[] = "embervlm.sha256";
    char digest[65];
    for (size_t at = 0; at + sizeof key + 76 < length; at++) {
        if (memcmp(bytes + at, key, sizeof key - 1)) continue;
        uint8_t *digits = bytes + at + sizeof key - 1 + 12;
        memset(digits, '0', 64);
        sha256 hash;
        sha256_begin(&hash);
        sha256_add(&hash, bytes, length);
        sha256_end(&hash, digest);
        memcpy(digits, digest, 64);
        return;
    }
}

/* Step by step, then under a grammar; `room` has space for a vocabulary. */
static void write_words(ember *model, const float *states, const int32_t *source, int count_states,
                        float *room) {
    static uint8_t masks[1 << 20];
    int32_t prefix[] = {1, 5, 9}, written[8];
    const ember_section sections[] = {{2, 20, 1, 2}, {7, 1, 1, 0}};
    int outputs, inputs, count;
    if (ember_size(model, "text.embed", &outputs, &inputs)) return;
    if (outputs > 1 << 20) return;
    for (int i = 0; i < 3; i++) ember_step(model, prefix[i], room);
    for (int i = 0; i < outputs; i++) masks[i] = (uint8_t)(i % 4);
    if (ember_begin(model, states, source, count_states) ||
        ember_write(model, prefix, 3, sections, 2, masks, written, 8, &count))
        return;
    /* Whatever the weights: both endings, in this order, and nothing that may not stand there. */
    int at = 3;
    for (int s = 0; s < 2; s++) {
        int begin = at;
        while (written[at] != sections[s].ending && !(masks[written[at]] & sections[s].never)) at++;
        if (written[at] != sections[s].ending || at == begin) abort();
        at++;
    }
    if (at != count) abort();
}

/* The layers that are asked for by name. */
static void apply_layers(ember *model, float *room) {
    static const char *const names[] = {"heads.primary",    "heads.value",         "memory.query",
                                        "memory.up",        "reasoning.query",     "reasoning.read",
                                        "reasoning.forget", "reasoning.candidate", "reasoning.out"};
    int outputs, inputs;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!ember_size(model, names[i], &outputs, &inputs) && outputs <= 1 << 20 &&
            inputs <= 1 << 20)
            ember_linear(model, names[i], room, 1, room + (1 << 20));
}

/* Calls everything; sizes come from the configuration of the file. */
static void run(ember *model, float *pixels, float *room) {
    int32_t tokens[] = {1, 5, 9, 2, 7}, rows[] = {0, 3, 17}, source[512];
    int outputs, inputs, images = ember_image_tokens(model), width = ember_width(model);
    if (images < 2 || images > 257 || width < 1 || width > 4096) abort();
    for (int i = 0; i < images; i++) source[i] = -1;
    memcpy(source + images, tokens, sizeof tokens);
    if (!ember_size(model, "image.scene", &outputs, &inputs) && outputs <= 4096 && inputs <= 4096) {
        float *features = room, *scene = room + (1 << 20), *states = scene + 4096;
        if (!ember_read(model, tokens, 5, NULL, NULL, states, NULL, 0) &&
            !ember_see(model, pixels, features, scene) &&
            !ember_read(model, tokens, 5, features, scene, states, pixels, 1) &&
            !ember_begin(model, states, source, images + 5))
            write_words(model, states, source, images + 5, room + (3 << 20));
    }
    apply_layers(model, room);
    ember_ngrams(model, rows, 3, room, COLUMNS);
    size_t bytes;
    const uint8_t *merges = ember_tensor(model, "tokenizer.merges", &bytes);
    if (merges && bytes) merged = merges[0] ^ merges[bytes - 1];
}

int main(int count, char **arguments) {
    if (count != 4) return fprintf(stderr, "usage: fuzz MODEL.gguf COUNT SEED\n"), 2;
    FILE *file = fopen(arguments[1], "rb");
    if (!file) return perror(arguments[1]), 2;
    fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    rewind(file);
    uint8_t *sound = malloc(length), *changed = malloc(length);
    float *pixels = calloc(3 * 1024 * 1024, sizeof *pixels), *room = calloc(1 << 22, sizeof *room);
    if (!sound || !changed || !pixels || !room || fread(sound, 1, length, file) != length) return 2;
    fclose(file);
    state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    char path[] = "/tmp/ember-fuzz-XXXXXX", error[512];
    int handle = mkstemp(path), ran = 0, refused = 0, silent = 0;
    size_t head = length < 60000 ? length : 60000;
    for (long i = 0; i < atol(arguments[2]); i++) {
        memcpy(changed, sound, length);
        size_t now = mutate(changed, length, head);
        if (i % 2) rehash(changed, now);
        if (ftruncate(handle, 0) || pwrite(handle, changed, now, 0) != (ssize_t)now) return 2;
        error[0] = 0;
        ember *model =
            ember_open(path, 1 + (int)(i % 2), i % 3 ? NULL : "portable", error, sizeof error);
        if (model) {
            run(model, pixels, room);
            ember_close(model);
            ran++;
        } else {
            refused++;
            silent += !error[0];
        }
    }
    close(handle);
    unlink(path);
    free(sound), free(changed), free(pixels), free(room);
    printf("%d refused, %d ran, %d without a sentence\n", refused, ran, silent);
    return silent != 0;
}
