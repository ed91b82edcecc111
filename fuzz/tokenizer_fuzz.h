// What every tokenizer that was accepted must do, whatever file it came from: encode any bytes or say why not, give ids
// below its size, give the text back where nothing in it changes text, and survive being saved and read again.
#ifndef FUZZ_TOKENIZER_FUZZ_H
#define FUZZ_TOKENIZER_FUZZ_H

#include "base/mem.h"
#include "model/tokenizer_int.h"

#include <string.h>

static bool fuzz_keeps_text(const struct tokenizer *tk)
{
    bool keeps = tk->byte_level && tk->normal_count == 0 && tk->added_count == 0;
    for (size_t i = 0; keeps && i < tk->split_count; i++)
        keeps = tk->splits[i].behavior != SPLIT_REMOVED && tk->splits[i].prepend == PREPEND_NEVER &&
                tk->splits[i].kind != SPLIT_METASPACE;
    for (int b = 0; keeps && b < 256; b++)
        keeps = tk->byte_ids[b] >= 0;
    return keeps;
}

static void fuzz_encode(const struct tokenizer *tk, const char *text, size_t size)
{
    struct bg_error err;
    struct token_list list = {0};
    struct bg_str back = {0};
    if (tokenizer_encode(tk, text, size, true, &err, &list) == BG_OK) {
        for (size_t i = 0; i < list.count; i++) {
            const char *bytes;
            size_t length;
            if (list.ids[i] < 0 || (uint32_t)list.ids[i] >= tokenizer_size(tk))
                __builtin_trap();
            tokenizer_token_bytes(tk, i ? list.ids[i - 1] : -1, list.ids[i], &bytes, &length);
            bg_str_add_bytes(&back, bytes, length);
        }
        if (fuzz_keeps_text(tk) && (back.size != size || (size > 0 && memcmp(back.data, text, size) != 0)))
            __builtin_trap();
    }
    bg_str_fini(&back);
    token_list_fini(&list);
}

// Takes `tk`. The end of the input serves as text.
static void fuzz_tokenizer(struct tokenizer *tk, const uint8_t *data, size_t size)
{
    static const char words[] = "Hello, y'all 123 \n\t  \xe2\x96\x81x \xf0\x9f\xa6\x99 \xff\xc3 <s> A\xcc\x81";
    size_t tail = size < 512 ? size : 512, json_size;
    fuzz_encode(tk, words, sizeof words - 1);
    fuzz_encode(tk, (const char *)data + size - tail, tail);
    char *json = tokenizer_json_text(tk, &json_size), before[65], after[65];
    struct bg_error err;
    struct tokenizer *again;
    if (tokenizer_parse_json(json, json_size, "saved", &err, &again) != BG_OK)
        __builtin_trap();
    tokenizer_sha256(tk, before);
    tokenizer_sha256(again, after);
    if (strcmp(before, after) != 0)
        __builtin_trap();
    fuzz_encode(again, words, sizeof words - 1);
    bg_free(json);
    tokenizer_destroy(again);
    tokenizer_destroy(tk);
}

#endif
