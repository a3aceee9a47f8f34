#define _DEFAULT_SOURCE
#include "gguf.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sha256.h"

enum {
    KIND_U8,
    KIND_I8,
    KIND_U16,
    KIND_I16,
    KIND_U32,
    KIND_I32,
    KIND_F32,
    KIND_BOOL,
    KIND_STRING,
    KIND_ARRAY,
    KIND_U64,
    KIND_I64,
    KIND_F64,
    KIND_COUNT
};
static const size_t KIND_BYTES[KIND_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum { MAX_TENSORS = 4096, MAX_VALUES = 256, MAX_NAME = 128, ALIGNMENT = 32, HASH_SLICE = 1 << 20 };

typedef struct {
    gguf *file;
    size_t at;
    char *error;
    size_t error_size;
    const char *path;
} reader;

static int fail(reader *in, const char *format, ...) {
    int used = snprintf(in->error, in->error_size, "%.200s: ", in->path);
    if (used >= 0 && (size_t)used < in->error_size) {
        va_list rest;
        va_start(rest, format);
        vsnprintf(in->error + used, in->error_size - (size_t)used, format, rest);
        va_end(rest);
    }
    return -1;
}

static int cut_short(reader *in) {
    return fail(in, "is cut short at byte %zu; get the file again.", in->at);
}

static int take(reader *in, void *to, size_t count) {
    if (count > in->file->length - in->at) return cut_short(in);
    memcpy(to, in->file->map + in->at, count);
    in->at += count;
    return 0;
}

/* Numbers are little-endian in the file whatever the processor. */
static int take_number(reader *in, int count, uint64_t *value) {
    uint8_t bytes[8] = {0};
    if (take(in, bytes, (size_t)count)) return -1;
    *value = 0;
    for (int i = 0; i < count; i++) *value |= (uint64_t)bytes[i] << (8 * i);
    return 0;
}

static int skip(reader *in, uint64_t count) {
    if (count > in->file->length - in->at) return cut_short(in);
    in->at += (size_t)count;
    return 0;
}

static int take_string(reader *in, size_t most, char **text) {
    uint64_t length;
    if (take_number(in, 8, &length)) return -1;
    if (length > in->file->length - in->at) return cut_short(in);
    if (length > most)
        return fail(in,
                    "a name of %llu bytes at byte %zu, expected at most %zu; get the file again.",
                    (unsigned long long)length, in->at, most);
    if (!(*text = malloc((size_t)length + 1))) return fail(in, "no memory for its metadata.");
    memcpy(*text, in->file->map + in->at, (size_t)length);
    (*text)[length] = 0;
    in->at += (size_t)length;
    return 0;
}

static int skip_string(reader *in) {
    uint64_t length;
    return take_number(in, 8, &length) || skip(in, length) ? -1 : 0;
}

static int skip_value(reader *in, uint64_t kind) {
    uint64_t element, count;
    if (kind == KIND_STRING) return skip_string(in);
    if (kind < KIND_COUNT && kind != KIND_ARRAY) return skip(in, KIND_BYTES[kind]);
    if (kind != KIND_ARRAY)
        return fail(in, "metadata of unknown kind %llu; get the file again.",
                    (unsigned long long)kind);
    if (take_number(in, 4, &element) || take_number(in, 8, &count)) return -1;
    if (element == KIND_STRING) {
        while (count--)
            if (skip_string(in)) return -1;
        return 0;
    }
    if (element >= KIND_COUNT || element == KIND_ARRAY)
        return fail(in, "an array of unknown kind %llu; get the file again.",
                    (unsigned long long)element);
    if (count > in->file->length) return cut_short(in);
    return skip(in, count * KIND_BYTES[element]);
}

static int read_metadata(reader *in, uint64_t count, const char *hash_key, size_t *hash_at) {
    gguf *file = in->file;
    for (uint64_t i = 0; i < count; i++) {
        char *key = NULL;
        uint64_t kind;
        if (take_string(in, MAX_NAME, &key)) return -1;
        if (take_number(in, 4, &kind)) {
            free(key);
            return -1;
        }
        if ((kind != KIND_STRING && kind != KIND_U32) || file->value_count == MAX_VALUES) {
            free(key);
            if (skip_value(in, kind)) return -1;
            continue;
        }
        gguf_value *value = &file->values[file->value_count++];
        value->key = key;
        if (kind == KIND_U32) {
            uint64_t number;
            if (take_number(in, 4, &number)) return -1;
            value->number = (uint32_t)number;
            continue;
        }
        if (take_string(in, file->length, &value->text)) return -1;
        if (!strcmp(key, hash_key)) {
            if (strlen(value->text) != 64)
                return fail(in, "its digest has %zu digits, expected 64; get the file again.",
                            strlen(value->text));
            *hash_at = in->at - 64;
        }
    }
    return 0;
}

/* Bytes of a row of `count` values, 0 where the type is unknown or the row is not whole blocks. */
static uint64_t row_bytes(uint32_t type, uint64_t count) {
    switch (type) {
        case GGUF_F32:
            return count * 4;
        case GGUF_F16:
            return count * 2;
        case GGUF_I8:
            return count;
        case GGUF_I16:
            return count * 2;
        case GGUF_Q4_0:
            return count % 32 ? 0 : count / 32 * 18;
        case GGUF_Q8_0:
            return count % 32 ? 0 : count / 32 * 34;
        case GGUF_TQ2_0:
            return count % 256 ? 0 : count / 256 * 66;
        default:
            return 0;
    }
}

static int read_tensor(reader *in, gguf_tensor *tensor, uint64_t *offset) {
    uint64_t dims, type, rows = 1;
    if (take_string(in, MAX_NAME, &tensor->name) || take_number(in, 4, &dims)) return -1;
    if (dims < 1 || dims > GGUF_MAX_DIMS)
        return fail(in, "tensor %s has %llu axes, expected 1 to %d.", tensor->name,
                    (unsigned long long)dims, GGUF_MAX_DIMS);
    tensor->dims = (int)dims;
    for (int i = 0; i < GGUF_MAX_DIMS; i++) {
        uint64_t size = 1;
        if (i < tensor->dims && take_number(in, 8, &size)) return -1;
        if (size < 1 || size > 1u << 28)
            return fail(in, "tensor %s has an axis of %llu, expected 1 to 2^28.", tensor->name,
                        (unsigned long long)size);
        tensor->size[i] = (int64_t)size;
        if (i) rows *= size; /* at most 2^84 in theory; bounded next */
        if (rows > 1u << 28) return fail(in, "tensor %s is too large.", tensor->name);
    }
    if (take_number(in, 4, &type) || take_number(in, 8, offset)) return -1;
    uint64_t row = row_bytes((uint32_t)type, (uint64_t)tensor->size[0]);
    if (!row)
        return fail(in, "tensor %s has type %llu over rows of %lld; this engine cannot read that.",
                    tensor->name, (unsigned long long)type, (long long)tensor->size[0]);
    if (rows > in->file->length / row)
        return fail(in, "tensor %s is larger than the file; get it again.", tensor->name);
    tensor->type = (uint32_t)type;
    tensor->bytes = (size_t)(row * rows);
    return 0;
}

static int read_tensors(reader *in, uint64_t count) {
    gguf *file = in->file;
    uint64_t *offsets = calloc(count ? count : 1, sizeof *offsets);
    if (!offsets) return fail(in, "no memory for its tensor table.");
    int failed = 0;
    for (uint64_t i = 0; i < count && !failed; i++) {
        file->tensor_count++;
        failed = read_tensor(in, &file->tensors[i], &offsets[i]);
    }
    size_t begin = (in->at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    for (uint64_t i = 0; i < count && !failed; i++) {
        gguf_tensor *tensor = &file->tensors[i];
        if (offsets[i] % ALIGNMENT || begin > file->length || offsets[i] > file->length - begin ||
            tensor->bytes > file->length - begin - offsets[i])
            failed = fail(
                in, "tensor %s lies outside the file or off its alignment; get the file again.",
                tensor->name);
        else
            tensor->data = file->map + begin + offsets[i];
    }
    free(offsets);
    return failed;
}

/* Hashes bytes begin..end-1 of the map. The pages behind are given back on the way, or the whole
 * file would stand in memory at once. */
static void hash_part(sha256 *hash, const gguf *file, size_t begin, size_t end) {
    while (begin < end) {
        size_t count = end - begin < HASH_SLICE ? end - begin : HASH_SLICE;
        sha256_add(hash, file->map + begin, count);
        gguf_release(file);
        begin += count;
    }
}

static int check_hash(reader *in, const char *hash_key, size_t hash_at) {
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    const char *expected = gguf_find_text(in->file, hash_key);
    char found[65];
    sha256 hash;
    if (!expected)
        return fail(in, "names no digest (%s); write it with 'embervlm export gguf'.", hash_key);
    sha256_begin(&hash);
    hash_part(&hash, in->file, 0, hash_at);
    sha256_add(&hash, zeros, 64);
    hash_part(&hash, in->file, hash_at + 64, in->file->length);
    sha256_end(&hash, found);
    if (strcmp(found, expected)) return fail(in, "is damaged (its SHA-256 differs); get it again.");
    return 0;
}

static int read_all(reader *in, const char *hash_key) {
    uint8_t magic[4];
    uint64_t version, tensors, values;
    size_t hash_at = 0;
    gguf *file = in->file;
    if (take(in, magic, 4) || memcmp(magic, "GGUF", 4))
        return fail(in, "is not a GGUF file; give one that 'embervlm export gguf' wrote.");
    if (take_number(in, 4, &version)) return -1;
    if (version != 3)
        return fail(in, "has GGUF version %llu, expected 3; export it again.",
                    (unsigned long long)version);
    if (take_number(in, 8, &tensors) || take_number(in, 8, &values)) return -1;
    if (tensors > MAX_TENSORS || values > file->length)
        return fail(in, "claims %llu tensors, expected at most %d; get the file again.",
                    (unsigned long long)tensors, MAX_TENSORS);
    file->tensors = calloc(tensors ? tensors : 1, sizeof *file->tensors);
    file->values = calloc(MAX_VALUES, sizeof *file->values);
    if (!file->tensors || !file->values) return fail(in, "no memory for its tables.");
    if (read_metadata(in, values, hash_key, &hash_at) || read_tensors(in, tensors)) return -1;
    return check_hash(in, hash_key, hash_at);
}

int gguf_open(gguf *file, const char *path, const char *hash_key, char *error, size_t size) {
    memset(file, 0, sizeof *file);
    reader in = {file, 0, error, size, path};
    /* Without O_NONBLOCK a pipe would keep us waiting for ever. */
    int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat about;
    if (handle < 0 || fstat(handle, &about) || !S_ISREG(about.st_mode)) {
        if (handle >= 0) close(handle);
        return fail(&in, "cannot be opened; check the path.");
    }
    if (about.st_size < 24) {
        close(handle);
        return fail(&in, "has %lld bytes and is no model; get the file again.",
                    (long long)about.st_size);
    }
    file->length = (size_t)about.st_size;
    void *map = mmap(NULL, file->length, PROT_READ, MAP_PRIVATE, handle, 0);
    close(handle);
    if (map == MAP_FAILED)
        return fail(&in, "cannot be mapped (%zu bytes); free some memory.", file->length);
    file->map = map;
    if (read_all(&in, hash_key)) {
        gguf_close(file);
        return -1;
    }
    return 0;
}

void gguf_close(gguf *file) {
    for (size_t i = 0; i < file->tensor_count; i++) free(file->tensors[i].name);
    for (size_t i = 0; i < file->value_count; i++)
        free(file->values[i].key), free(file->values[i].text);
    free(file->tensors);
    free(file->values);
    if (file->map) munmap((void *)file->map, file->length);
    memset(file, 0, sizeof *file);
}

static const gguf_value *find_value(const gguf *file, const char *key) {
    for (size_t i = 0; i < file->value_count; i++)
        if (!strcmp(file->values[i].key, key)) return &file->values[i];
    return NULL;
}

const char *gguf_find_text(const gguf *file, const char *key) {
    const gguf_value *value = find_value(file, key);
    return value ? value->text : NULL;
}

const uint32_t *gguf_find_number(const gguf *file, const char *key) {
    const gguf_value *value = find_value(file, key);
    return value && !value->text ? &value->number : NULL;
}

const gguf_tensor *gguf_find(const gguf *file, const char *name) {
    for (size_t i = 0; i < file->tensor_count; i++)
        if (!strcmp(file->tensors[i].name, name)) return &file->tensors[i];
    return NULL;
}

void gguf_release(const gguf *file) { madvise((void *)file->map, file->length, MADV_DONTNEED); }
