/* SHA-256 (FIPS 180-4). */
#ifndef EMBER_SHA256_H
#define EMBER_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
    size_t filled;
    void (*compress)(uint32_t state[8], const uint8_t *blocks, size_t count);
} sha256;

void sha256_begin(sha256 *hash);
void sha256_add(sha256 *hash, const void *bytes, size_t count);
/* Writes the digest as 64 lower-case hexadecimal digits and a zero byte. */
void sha256_end(sha256 *hash, char hex[65]);

#endif
