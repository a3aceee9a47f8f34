/* Reads GGUF version 3 (github.com/ggml-org/ggml, docs/gguf.md): metadata and tensor table of a
 * mapped file. Every number that comes from the file is checked before it is used. */
#ifndef EMBER_GGUF_H
#define EMBER_GGUF_H

#include <stddef.h>
#include <stdint.h>

enum {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q8_0 = 8,
    GGUF_I8 = 24,
    GGUF_I16 = 25,
    GGUF_TQ2_0 = 35
};
enum { GGUF_MAX_DIMS = 4 };

typedef struct {
    char *name;                  /* ends in a zero byte */
    uint32_t type;               /* one of the types above */
    int dims;                    /* 1 to GGUF_MAX_DIMS */
    int64_t size[GGUF_MAX_DIMS]; /* the fastest first, as in the file; 1 where there is no axis */
    const uint8_t *data;         /* within the mapped file */
    size_t bytes;
} gguf_tensor;

typedef struct {
    char *key, *text; /* end in a zero byte; a number has no text */
    uint32_t number;
} gguf_value;

typedef struct {
    const uint8_t *map;
    size_t length;
    gguf_tensor *tensors;
    size_t tensor_count;
    gguf_value *values; /* the metadata that are strings or U32; others are read over */
    size_t value_count;
} gguf;

/* Maps and reads a file, and holds its SHA-256 against the one it names under `hash_key`: that of
 * the whole file with the 64 digits of the digest itself replaced by "0". Returns 0, or -1 with a
 * sentence in `error` and nothing left open. */
int gguf_open(gguf *file, const char *path, const char *hash_key, char *error, size_t size);
void gguf_close(gguf *file);

/* The text, or the number, of a key; NULL where there is none. */
const char *gguf_find_text(const gguf *file, const char *key);
const uint32_t *gguf_find_number(const gguf *file, const char *key);
const gguf_tensor *gguf_find(const gguf *file, const char *name);
/* Lets go of the map's pages, so that what has been read no longer counts as this process's memory;
 * what is read again is mapped again. All of them at once: a system may map 2 MB for one byte. */
void gguf_release(const gguf *file);

#endif
