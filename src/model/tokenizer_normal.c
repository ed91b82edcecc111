// Normalizers of tokenizer.json, run over the text before it is split: Prepend, Replace (of literal text), NFC and NFD,
// one after the other. Invalid UTF-8 passes through NFC and NFD unchanged. Replacements can grow a text from step to
// step: what grows beyond reason is refused, so that no file can make a short text fill the memory.
#define _GNU_SOURCE // memmem
#include "model/tokenizer_int.h"

#include <string.h>

#define GROWTH_MAX 4096 // times the size of the text

static void replace(const struct normal_step *step, const char *text, size_t size, size_t limit, struct bg_str *out)
{
    for (size_t done = 0; done < size && out->size <= limit;) {
        const char *found = memmem(text + done, size - done, step->from, step->from_size);
        size_t plain = found ? (size_t)(found - text) - done : size - done;
        bg_str_add_bytes(out, text + done, plain);
        if (found)
            bg_str_add_bytes(out, step->to, step->to_size);
        done += plain + (found ? step->from_size : 0);
    }
}

static void normalize_valid(const char *text, size_t size, bool compose, struct bg_str *out)
{
    for (size_t start = 0, at = 0; at < size;) {
        size_t length = utf8_length(text + at, size - at);
        at += length;
        if (length > 0 && at < size)
            continue;
        unicode_normalize(text + start, at - start, compose, out);
        if (length == 0)
            bg_str_add_bytes(out, text + at++, 1);
        start = at;
    }
}

static void run_step(const struct normal_step *step, const char *text, size_t size, size_t limit, struct bg_str *out)
{
    switch (step->kind) {
    case NORMAL_PREPEND:
        if (size > 0)
            bg_str_add_bytes(out, step->to, step->to_size);
        bg_str_add_bytes(out, text, size);
        break;
    case NORMAL_REPLACE:
        replace(step, text, size, limit, out);
        break;
    case NORMAL_NFC:
    case NORMAL_NFD:
        normalize_valid(text, size, step->kind == NORMAL_NFC, out);
        break;
    }
}

bool normal_run(const struct normal_step *steps, size_t count, const char *text, size_t size, struct bg_str *out)
{
    struct bg_str turn[2] = {{0}, {0}};
    size_t limit = GROWTH_MAX * size + GROWTH_MAX;
    for (size_t i = 0; i < count && size <= limit; i++) {
        bg_str_reset(&turn[i % 2]);
        run_step(&steps[i], text, size, limit, &turn[i % 2]);
        text = bg_str_text(&turn[i % 2]);
        size = turn[i % 2].size;
    }
    if (size <= limit)
        bg_str_add_bytes(out, text, size);
    bg_str_fini(&turn[0]);
    bg_str_fini(&turn[1]);
    return size <= limit;
}
