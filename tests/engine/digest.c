/* Prints the SHA-256 of what comes in, added in parts of 1, 2, 3, ... bytes. */
#include <stdio.h>

#include "sha256.h"

int main(void) {
    static unsigned char bytes[1 << 16];
    size_t length = fread(bytes, 1, sizeof bytes, stdin), at = 0;
    char digest[65];
    sha256 hash;
    sha256_begin(&hash);
    for (size_t part = 1; at < length; at += part++) {
        if (part > length - at) part = length - at;
        sha256_add(&hash, bytes + at, part);
    }
    sha256_end(&hash, digest);
    puts(digest);
    return 0;
}
