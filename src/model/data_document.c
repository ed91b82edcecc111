// Documents out of a stream of bytes: a text file is one, every line of a .jsonl file is one. Long documents are handed
// on in pieces of at most 4 MiB. Where a piece ends is part of the job's bits (the tokens depend on it), so it follows
// from the text alone: near the end of a line, where the split patterns of byte-level BPE cut anyway.
// Here the UTF-8 policy is applied: keep the bytes, refuse them, or replace each maximal ill-formed part by U+FFFD.
#include "model/data_int.h"

#include "base/mem.h"

#include <jansson.h>
#include <string.h>

static bg_status take_line(struct data_splitter *splitter, const char *line, size_t size, struct bg_error *err);
static bg_status hand_on(struct data_splitter *splitter, const char *text, size_t size, struct bg_error *err);

// Text: hands on whole pieces of the buffer while more than one is there.
static bg_status feed_text(struct data_splitter *splitter, const uint8_t *bytes, size_t size, struct bg_error *err);

// Lines: those inside `bytes` are parsed where they lie; only one that spans two calls goes through the buffer.
static bg_status feed_lines(struct data_splitter *splitter, const char *bytes, size_t size, struct bg_error *err)
{
    while (size > 0) {
        const char *end = memchr(bytes, '\n', size);
        size_t part = end ? (size_t)(end - bytes) : size;
        if (part > DATA_LINE_MAX - splitter->buffer.size)
            return bg_fail(err, BG_UNSUPPORTED, "%s:%llu: the line is longer than %d MiB", splitter->path,
                           (unsigned long long)splitter->line + 1, DATA_LINE_MAX >> 20);
        const char *line = bytes;
        if (!end || splitter->buffer.size > 0) {
            bg_str_add_bytes(&splitter->buffer, bytes, part);
            line = splitter->buffer.data;
        }
        if (!end)
            return BG_OK;
        bg_status status = take_line(splitter, line, splitter->buffer.size ? splitter->buffer.size : part, err);
        if (status != BG_OK)
            return status;
        bg_str_reset(&splitter->buffer);
        bytes = end + 1;
        size -= part + 1;
    }
    return BG_OK;
}

bg_status data_splitter_feed(struct data_splitter *splitter, const uint8_t *bytes, size_t size, struct bg_error *err)
{
    if (splitter->jsonl)
        return feed_lines(splitter, (const char *)bytes, size, err);
    return feed_text(splitter, bytes, size, err);
}

bg_status data_splitter_end(struct data_splitter *splitter, struct bg_error *err)
{
    if (splitter->buffer.size == 0)
        return BG_OK;
    const char *rest = splitter->buffer.data;
    size_t size = splitter->buffer.size;
    return splitter->jsonl ? take_line(splitter, rest, size, err) : hand_on(splitter, rest, size, err);
}

void data_splitter_fini(struct data_splitter *splitter)
{
    bg_str_fini(&splitter->buffer);
    bg_str_fini(&splitter->clean);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// How much of text[0, size), size > DATA_PIECE_MAX, makes the next piece: the last place in its second half that is
// after a line feed alone between two visible bytes, or before the line end of a line ending in a letter or digit.
static size_t piece_size(const char *text)
{
    for (size_t cut = DATA_PIECE_MAX; cut > DATA_PIECE_MAX / 2; cut--) {
        char here = text[cut], before = text[cut - 1];
        if (before == '\n' && !is_space(here) && !is_space(text[cut - 2]))
            return cut;
        if ((here == '\n' || here == '\r') && is_alnum(before))
            return cut;
    }
    size_t cut = DATA_PIECE_MAX; // no line ends: at least never inside a UTF-8 sequence
    while (cut > DATA_PIECE_MAX - 3 && ((uint8_t)text[cut] & 0xC0) == 0x80)
        cut--;
    return cut;
}

static bg_status feed_text(struct data_splitter *splitter, const uint8_t *bytes, size_t size, struct bg_error *err)
{
    struct bg_str *buffer = &splitter->buffer;
    bg_str_add_bytes(buffer, bytes, size);
    size_t at = 0;
    bg_status status = BG_OK;
    while (status == BG_OK && buffer->size - at > DATA_PIECE_MAX) {
        size_t piece = piece_size(buffer->data + at);
        status = hand_on(splitter, buffer->data + at, piece, err);
        at += piece;
    }
    if (at > 0) {
        memmove(buffer->data, buffer->data + at, buffer->size - at);
        buffer->size -= at;
    }
    return status;
}

// Length of the UTF-8 sequence at p (Unicode, table 3-7: no overlong forms, no surrogates, nothing beyond U+10FFFF);
// or 0, and *bad is the length of its maximal ill-formed part.
static size_t sequence(const uint8_t *p, size_t size, size_t *bad)
{
    uint8_t lead = p[0], low = 0x80, high = 0xBF;
    if (lead < 0x80)
        return 1;
    size_t length = lead >= 0xC2 && lead <= 0xDF ? 2 : (lead & 0xF0) == 0xE0 ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
    *bad = 1;
    if (length == 0)
        return 0;
    if (lead == 0xE0)
        low = 0xA0;
    else if (lead == 0xED)
        high = 0x9F;
    else if (lead == 0xF0)
        low = 0x90;
    else if (lead == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < length; i++) {
        *bad = i;
        if (i >= size || p[i] < low || p[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t data_utf8_prefix(const void *bytes, size_t size)
{
    const uint8_t *p = bytes;
    size_t at = 0, bad = 0;
    while (at < size) {
        size_t length = sequence(p + at, size - at, &bad);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

static void replace_ill_formed(struct bg_str *to, const char *text, size_t size)
{
    bg_str_reset(to);
    for (size_t at = 0; at < size;) {
        size_t good = data_utf8_prefix(text + at, size - at);
        bg_str_add_bytes(to, text + at, good);
        at += good;
        if (at == size)
            break;
        size_t bad = 1;
        (void)sequence((const uint8_t *)text + at, size - at, &bad);
        bg_str_add(to, "\xEF\xBF\xBD");
        at += bad;
    }
}

static uint64_t count_lines(const char *text, size_t size)
{
    uint64_t lines = 0;
    for (const char *end; size && (end = memchr(text, '\n', size)); text = end + 1) {
        lines++;
        size -= (size_t)(end - text) + 1;
    }
    return lines;
}

static bg_status hand_on(struct data_splitter *splitter, const char *text, size_t size, struct bg_error *err)
{
    bool keep = strcmp(splitter->utf8, "keep") == 0;
    size_t good = keep ? size : data_utf8_prefix(text, size);
    if (good < size && strcmp(splitter->utf8, "error") == 0)
        return bg_fail(err, BG_FORMAT,
                       "%s:%llu: byte %llu (0x%02x) is not UTF-8; data.utf8: keep or replace would take it",
                       splitter->path, (unsigned long long)(splitter->line + count_lines(text, good) + 1),
                       (unsigned long long)splitter->offset + good, (uint8_t)text[good]);
    if (!splitter->jsonl) {
        splitter->line += keep ? 0 : count_lines(text, size);
        splitter->offset += size;
    }
    if (good < size) {
        replace_ill_formed(&splitter->clean, text, size);
        text = splitter->clean.data;
        size = splitter->clean.size;
    }
    bool first = !splitter->started;
    splitter->started = true;
    return splitter->fn(splitter->arg, text, size, first, err);
}

static bg_status hand_on_pieces(struct data_splitter *splitter, const char *text, size_t size, struct bg_error *err)
{
    splitter->started = false;
    bg_status status = BG_OK;
    while (status == BG_OK && size > 0) {
        size_t piece = size > DATA_PIECE_MAX ? piece_size(text) : size;
        status = hand_on(splitter, text, piece, err);
        text += piece;
        size -= piece;
    }
    return status;
}

// The value of "a.b": the key as it stands, or else a, then b inside it.
static const json_t *find_field(const json_t *object, const char *field)
{
    for (;;) {
        const json_t *whole = json_object_get(object, field);
        const char *dot = strchr(field, '.');
        if (whole || !dot)
            return whole;
        char *head = bg_strndup(field, (size_t)(dot - field));
        object = json_object_get(object, head);
        bg_free(head);
        field = dot + 1;
    }
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

static bg_status fail_field(const struct data_splitter *splitter, const json_t *line, const json_t *value,
                            struct bg_error *err)
{
    unsigned long long number = splitter->line;
    if (!json_is_object(line))
        return bg_fail(err, BG_FORMAT, "%s:%llu: expected an object with the text in \"%s\", found %s", splitter->path,
                       number, splitter->field, type_name(line));
    if (value)
        return bg_fail(err, BG_FORMAT, "%s:%llu: \"%s\" should be a string, found %s", splitter->path, number,
                       splitter->field, type_name(value));
    struct bg_str keys = {0};
    void *at = json_object_iter((json_t *)(uintptr_t)line);
    for (; at && keys.size < 200; at = json_object_iter_next((json_t *)(uintptr_t)line, at))
        bg_str_addf(&keys, "%s\"%.40s\"", keys.size ? ", " : "", json_object_iter_key(at));
    bg_status status = bg_fail(err, BG_FORMAT, "%s:%llu: no field \"%s\"; data.field names another. The line has: %s",
                               splitter->path, number, splitter->field, keys.size ? keys.data : "nothing");
    bg_str_fini(&keys);
    return status;
}

static bool is_blank(const char *line, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (!is_space(line[i]))
            return false;
    return true;
}

static bg_status take_line(struct data_splitter *splitter, const char *line, size_t size, struct bg_error *err)
{
    splitter->line++;
    if (is_blank(line, size))
        return BG_OK;
    size_t good = data_utf8_prefix(line, size);
    if (good < size) {
        if (strcmp(splitter->utf8, "replace") != 0)
            return bg_fail(err, BG_FORMAT,
                           "%s:%llu: byte %zu of the line (0x%02x) is not UTF-8, which JSON is; "
                           "data.utf8: replace would take it",
                           splitter->path, (unsigned long long)splitter->line, good, (uint8_t)line[good]);
        replace_ill_formed(&splitter->clean, line, size);
        line = splitter->clean.data;
        size = splitter->clean.size;
    }
    json_error_t at;
    json_t *root = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &at);
    if (!root)
        return bg_fail(err, BG_FORMAT, "%s:%llu: not valid JSON (column %d): %s", splitter->path,
                       (unsigned long long)splitter->line, at.column, at.text);
    const json_t *value = json_is_object(root) ? find_field(root, splitter->field) : NULL;
    bg_status status = json_is_string(value)
                           ? hand_on_pieces(splitter, json_string_value(value), json_string_length(value), err)
                           : fail_field(splitter, root, value, err);
    json_decref(root);
    return status;
}
