// Fields of messages, written and read: little-endian, no alignment assumed, every length checked against what is left
// before it is believed.
#include "wire/message_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct message_codec message_writer(const char *message, void *out, size_t capacity)
{
    BG_ASSERT(out);
    return (struct message_codec){.message = message, .out = out, .left = capacity};
}

struct message_codec message_reader(const char *message, const void *in, size_t size, struct bg_error *err)
{
    static const uint8_t nothing;
    return (struct message_codec){.message = message, .in = in ? in : &nothing, .left = in ? size : 0, .err = err};
}

void message_refuse(struct message_codec *c, const char *format, ...)
{
    if (c->failed)
        return;
    c->failed = true;
    if (c->out)
        return;
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bg_fail(c->err, BG_FORMAT, "%s: %s", c->message, text);
}

bg_status message_read_end(struct message_codec *c)
{
    if (c->left)
        message_refuse(c, "%zu bytes after its end", c->left);
    if (!c->failed)
        return BG_OK;
    bg_free(c->memory);
    return BG_FORMAT;
}

size_t message_write_end(const struct message_codec *c, size_t capacity)
{
    return c->failed ? 0 : capacity - c->left;
}

// Room for `size` more bytes.
static bool has(struct message_codec *c, const char *field, uint64_t size)
{
    if (c->left < size)
        message_refuse(c, "it ends in `%s`, which needs %llu bytes where %zu are left", field, (unsigned long long)size,
                       c->left);
    return !c->failed;
}

void message_code_raw(struct message_codec *c, const char *field, void *bytes, size_t size)
{
    if (!has(c, field, size) || size == 0)
        return;
    if (c->out) {
        memcpy(c->out, bytes, size);
        c->out += size;
    } else {
        memcpy(bytes, c->in, size);
        c->in += size;
    }
    c->left -= size;
}

static void code_integer(struct message_codec *c, const char *field, uint64_t *value, size_t size)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(*value >> (8 * i));
    message_code_raw(c, field, bytes, size);
    if (c->out || c->failed)
        return;
    *value = 0;
    for (size_t i = 0; i < size; i++)
        *value |= (uint64_t)bytes[i] << (8 * i);
}

void message_code_u8(struct message_codec *c, const char *field, uint8_t *value)
{
    uint64_t wide = *value;
    code_integer(c, field, &wide, 1);
    *value = (uint8_t)wide;
}

void message_code_u32(struct message_codec *c, const char *field, uint32_t *value)
{
    uint64_t wide = *value;
    code_integer(c, field, &wide, 4);
    *value = (uint32_t)wide;
}

void message_code_u64(struct message_codec *c, const char *field, uint64_t *value)
{
    code_integer(c, field, value, 8);
}

void message_code_f32(struct message_codec *c, const char *field, float *value)
{
    uint32_t bits;
    memcpy(&bits, value, sizeof bits);
    message_code_u32(c, field, &bits);
    memcpy(value, &bits, sizeof bits);
}

void message_code_f64(struct message_codec *c, const char *field, double *value)
{
    uint64_t bits;
    memcpy(&bits, value, sizeof bits);
    message_code_u64(c, field, &bits);
    memcpy(value, &bits, sizeof bits);
}

void message_code_bool(struct message_codec *c, const char *field, bool *value)
{
    uint8_t byte = *value;
    message_code_u8(c, field, &byte);
    if (byte > 1)
        message_refuse(c, "`%s` is %u, expected 0 or 1", field, byte);
    *value = byte == 1;
}

void message_code_below(struct message_codec *c, const char *field, uint32_t *value, uint32_t limit)
{
    message_code_u32(c, field, value);
    if (*value >= limit)
        message_refuse(c, "`%s` is %u, expected less than %u", field, *value, limit);
}

void message_code_text(struct message_codec *c, const char *field, char *text, size_t size)
{
    uint64_t length = c->out ? strnlen(text, size - 1) : 0;
    code_integer(c, field, &length, 2);
    if (length >= size)
        message_refuse(c, "`%s` is a text of %llu bytes, at most %zu", field, (unsigned long long)length, size - 1);
    if (c->failed)
        return;
    message_code_raw(c, field, text, (size_t)length);
    if (c->out || c->failed)
        return;
    text[length] = '\0';
    if (strlen(text) != length)
        message_refuse(c, "`%s` holds a NUL", field);
}

void message_memory(struct message_codec *c, const char *field, uint64_t bytes, size_t bytes_max)
{
    if (c->out || c->failed)
        return;
    if (bytes > bytes_max) {
        message_refuse(c, "`%s` does not fit in it", field);
        return;
    }
    c->memory_size = (size_t)bytes;
    c->memory = bg_alloc(c->memory_size + 1);
}

void *message_take(struct message_codec *c, size_t bytes, size_t align)
{
    size_t at = (c->memory_used + align - 1) / align * align;
    BG_ASSERT(c->memory && at + bytes <= c->memory_size);
    c->memory_used = at + bytes;
    return c->memory + at;
}

static void check_bytes(struct message_codec *c, const char *field, const uint8_t *bytes, size_t count, unsigned limit)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] >= limit) {
            message_refuse(c, "`%s` holds %u, expected less than %u", field, bytes[i], limit);
            return;
        }
}

void message_code_bytes(struct message_codec *c, const char *field, const uint8_t **bytes, size_t count, unsigned limit)
{
    if (!has(c, field, count))
        return;
    if (c->out) {
        message_code_raw(c, field, (void *)*bytes, count); // only read
        return;
    }
    uint8_t *copy = message_take(c, count, 1);
    message_code_raw(c, field, copy, count);
    check_bytes(c, field, copy, count, limit);
    *bytes = copy;
}

void message_code_doubles(struct message_codec *c, const char *field, const double **values, size_t count)
{
    if (!has(c, field, (uint64_t)count * 8))
        return;
    double *copy = c->out ? NULL : message_take(c, count * 8, 8);
    for (size_t i = 0; i < count; i++) {
        double value = c->out ? (*values)[i] : 0;
        message_code_f64(c, field, &value);
        if (copy)
            copy[i] = value;
    }
    if (copy)
        *values = copy;
}

void message_view(struct message_codec *c, const char *field, const uint8_t **bytes, uint64_t size)
{
    BG_ASSERT(c->in);
    if (!has(c, field, size))
        return;
    *bytes = c->in;
    c->in += size;
    c->left -= (size_t)size;
}
