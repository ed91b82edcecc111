// One description of a message serves both directions: a codec either writes the fields into a buffer or reads them
// from one, in the same order, so that what is written is what is read. The first fault sticks: the fields after it
// are left alone, and the end reports it.
#ifndef WIRE_MESSAGE_INT_H
#define WIRE_MESSAGE_INT_H

#include "wire/message.h"

#include <string.h>

struct message_codec {
    const char *message; // its name, for errors
    uint8_t *out;        // writing: next byte, else NULL
    const uint8_t *in;   // reading: next byte, else NULL
    size_t left;
    bool failed;
    struct bg_error *err; // of reading; writing only fails for want of room

    // Reading what varies in length: one allocation, cut in order (what needs alignment first).
    uint8_t *memory;
    size_t memory_used, memory_size;
};

struct message_codec message_writer(const char *message, void *out, size_t capacity);
struct message_codec message_reader(const char *message, const void *in, size_t size, struct bg_error *err);
bg_status message_read_end(struct message_codec *c);                      // refuses bytes left over
size_t message_write_end(const struct message_codec *c, size_t capacity); // bytes written, 0: did not fit
void message_refuse(struct message_codec *c, const char *format, ...) BG_PRINTF(2, 3);

void message_code_u8(struct message_codec *c, const char *field, uint8_t *value);
void message_code_u32(struct message_codec *c, const char *field, uint32_t *value);
void message_code_u64(struct message_codec *c, const char *field, uint64_t *value);
void message_code_f32(struct message_codec *c, const char *field, float *value);
void message_code_f64(struct message_codec *c, const char *field, double *value);
void message_code_bool(struct message_codec *c, const char *field, bool *value);
void message_code_below(struct message_codec *c, const char *field, uint32_t *value, uint32_t limit);
void message_code_raw(struct message_codec *c, const char *field, void *bytes, size_t size);
void message_code_text(struct message_codec *c, const char *field, char *text, size_t size); // NUL-terminated

// Reading: reserves memory for the arrays that follow, at most what a payload of this size can name.
void message_memory(struct message_codec *c, const char *field, uint64_t bytes, size_t bytes_max);
void *message_take(struct message_codec *c, size_t bytes, size_t align);
// An array of bytes: written from *bytes, read into the memory (message_memory), and each below `limit`.
void message_code_bytes(struct message_codec *c, const char *field, const uint8_t **bytes, size_t count,
                        unsigned limit);
void message_code_doubles(struct message_codec *c, const char *field, const double **values, size_t count);
// The same in place: reading leaves *bytes in the payload.
void message_view(struct message_codec *c, const char *field, const uint8_t **bytes, uint64_t size);

// Parts of several messages.
void message_code_commit(struct message_codec *c, struct message_commit *m);
void message_code_evaluation(struct message_codec *c, struct message_evaluation *m);

// Encoder and decoder from one description code_x(codec, struct message_x *); `own` runs after reading, as the place to
// keep c.memory.
#define MESSAGE_CODEC(name, NAME, own)                                                                                 \
    size_t message_##name##_encode(const struct message_##name *m, void *out, size_t capacity)                         \
    {                                                                                                                  \
        struct message_codec c = message_writer(NAME, out, capacity);                                                  \
        struct message_##name copy = *m;                                                                               \
        code_##name(&c, &copy);                                                                                        \
        return message_write_end(&c, capacity);                                                                        \
    }                                                                                                                  \
    bg_status message_##name##_decode(const void *in, size_t size, struct bg_error *err, struct message_##name *m)     \
    {                                                                                                                  \
        struct message_codec c = message_reader(NAME, in, size, err);                                                  \
        struct message_##name read;                                                                                    \
        memset(&read, 0, sizeof read);                                                                                 \
        code_##name(&c, &read);                                                                                        \
        bg_status status = message_read_end(&c);                                                                       \
        own;                                                                                                           \
        if (!status)                                                                                                   \
            *m = read;                                                                                                 \
        return status;                                                                                                 \
    }

#endif
