/* Greedy writing under a grammar that is a table: which tokens may stand where is decided by the
 * caller, and no weights, not even damaged ones, make the engine write anything else. */
#include <string.h>

#include "model.h"

enum { STRIDE = 64 };

/* Makes unlikely what would stutter behind `section`: its last token again, or four in a row for a
 * second time. */
static void forbid_stutter(const int32_t *section, int length, float *chances) {
    if (length) chances[section[length - 1]] = -1;
    for (int i = 0; i + 3 < length; i++)
        if (!memcmp(section + i, section + length - 3, 3 * sizeof *section))
            chances[section[i + 3]] = -1;
}

/* Returns the likeliest token that has none of these bits, the first of equals, and how likely it
 * is in `most`; -1 where none is likelier than `most` was. What is not a number is likelier than
 * nothing. */
static int32_t likeliest(const float *chances, const uint8_t *masks, int bits, int count,
                         float *most) {
    int32_t best = -1;
    for (int32_t first = 0; first < count; first += STRIDE) {
        int32_t end = first + STRIDE < count ? first + STRIDE : count;
        /* Few strides hold a new best: the others are passed over many tokens at a time. */
        int any = 0;
        for (int32_t v = first; v < end; v++) any |= chances[v] > *most;
        for (int32_t v = first; any && v < end; v++)
            if (chances[v] > *most && !(masks[v] & bits)) best = v, *most = chances[v];
    }
    return best;
}

/* Returns the next token of a section that holds `length` so far, or -1 with a sentence. */
static int32_t next_token(ember *m, const ember_section *s, const uint8_t *masks,
                          const int32_t *section, int length) {
    float *chances = m->run.chances, most = -1;
    int bits = s->never | (length ? 0 : s->not_first);
    if (decoder_chances(m, chances)) return -1;
    float ending = chances[s->ending];
    forbid_stutter(section, length, chances);
    int32_t best = likeliest(chances, masks, bits, m->vocabulary, &most);
    if (length && ending > most) return s->ending;
    for (int32_t v = 0; best < 0 && v < m->vocabulary; v++)
        if (!(masks[v] & bits)) best = v;
    if (best < 0 && length) return s->ending;
    return best >= 0 ? best : model_fail(m, "no token may begin the section.");
}

int ember_write(ember *m, const int32_t *prefix, int count, const ember_section *sections,
                int section_count, const uint8_t *masks, int32_t *tokens, int room, int *written) {
    int places = room < m->decoder_positions ? room : m->decoder_positions;
    int left = places - count, length = count, fed = 0;
    *written = 0;
    if (count < 1 || section_count < 0 || section_count > places || left < 2 * section_count)
        return model_fail(m, "%d tokens and %d sections to write; there is room for %d in all.",
                          count, section_count, places);
    memcpy(tokens, prefix, (size_t)count * sizeof *tokens);
    for (int i = 0; i < section_count; i++) {
        const ember_section *s = &sections[i];
        int begin = length, limit = left / (section_count - i) - 1;
        if (s->ending < 0 || s->ending >= m->vocabulary || s->most < 1)
            return model_fail(m, "a section of %d tokens that ends in token %d; there are %d.",
                              (int)s->most, (int)s->ending, m->vocabulary);
        if (limit > s->most) limit = s->most;
        int32_t next = s->ending;
        do {
            if (length - begin < limit) {
                while (fed < length)
                    if (decoder_feed(m, tokens[fed++])) return -1;
                next = next_token(m, s, masks, tokens + begin, length - begin);
                if (next < 0) return -1;
            } else {
                next = s->ending;
            }
            tokens[length++] = next, left--;
        } while (next != s->ending);
    }
    *written = length;
    return 0;
}
