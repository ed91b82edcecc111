// Bytes are held back while they may be the beginning of a character or of a stop string; a byte that can be neither
// goes out at once, also where it is no UTF-8.
#include "serve/text.h"

#include <string.h>

void text_init(struct text *text, const char *const *stops, uint32_t stop_count)
{
    *text = (struct text){.stops = stops, .stop_count = stop_count};
}

void text_fini(struct text *text)
{
    bg_str_fini(&text->held);
    bg_str_fini(&text->out);
}

// Bytes at the end of data that begin a character whose rest is missing.
static size_t open_character(const char *data, size_t size)
{
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        const unsigned char c = (unsigned char)data[size - back];
        if (c < 0x80)
            return 0;
        if (c >= 0xc0) {
            const size_t length = c >= 0xf8 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 1;
            return length > back ? back : 0;
        }
    }
    return 0;
}

// Longest end of data that begins a stop string.
static size_t open_stop(const struct text *t, const char *data, size_t size)
{
    size_t most = 0;
    for (uint32_t i = 0; i < t->stop_count; i++) {
        size_t length = strlen(t->stops[i]), n = length - 1 < size ? length - 1 : size;
        for (; n > most; n--)
            if (memcmp(data + size - n, t->stops[i], n) == 0)
                most = n;
    }
    return most;
}

// Where the first stop string begins (the one that begins first, wherever it ends); size: none.
static size_t find_stop(const struct text *t, const char *data, size_t size)
{
    for (size_t at = 0; at < size; at++)
        for (uint32_t i = 0; i < t->stop_count; i++) {
            size_t length = strlen(t->stops[i]);
            if (length <= size - at && memcmp(data + at, t->stops[i], length) == 0)
                return at;
        }
    return size;
}

static void give(struct text *t, size_t size)
{
    bg_str_add_bytes(&t->out, t->held.data, size);
    if (size > 0) {
        memmove(t->held.data, t->held.data + size, t->held.size - size + 1); // with its end
        t->held.size -= size;
    }
}

void text_add(struct text *text, const char *bytes, size_t size)
{
    bg_str_reset(&text->out);
    if (text->stopped)
        return;
    bg_str_add_bytes(&text->held, bytes, size);
    const char *data = bg_str_text(&text->held);
    const size_t all = text->held.size, stop = find_stop(text, data, all);
    if (stop < all) {
        bg_str_add_bytes(&text->out, data, stop);
        bg_str_reset(&text->held);
        text->stopped = true;
        return;
    }
    size_t keep = open_stop(text, data, all), character = open_character(data, all - keep);
    give(text, all - keep - character);
}

void text_end(struct text *text)
{
    bg_str_reset(&text->out);
    if (!text->stopped)
        bg_str_add_bytes(&text->out, bg_str_text(&text->held), text->held.size);
    bg_str_reset(&text->held);
}
