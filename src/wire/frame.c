// The frame header as bytes. Little-endian on every machine, one valid encoding for each frame: what decodes encodes to
// the same bytes. Pure: no state, no effects.
#include "wire/frame.h"

#include "base/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { CHECK_AT = WIRE_FRAME_BYTES - 8 };
static const uint8_t magic[4] = {'B', 'R', 'G', '1'};

static const struct {
    const char *name;
    uint64_t bytes_max;
} kinds[] = {[WIRE_NONE] = {"?", 0},
#define WIRE_KIND_ROW(name, bytes) [WIRE_##name] = {#name, (bytes)},
             WIRE_KINDS(WIRE_KIND_ROW)
#undef WIRE_KIND_ROW
};

const char *wire_kind_name(uint16_t kind)
{
    return kind < WIRE_KIND_COUNT ? kinds[kind].name : "?";
}

uint64_t wire_kind_bytes_max(uint16_t kind)
{
    return kind < WIRE_KIND_COUNT ? kinds[kind].bytes_max : 0;
}

uint64_t wire_check(const void *payload, size_t bytes)
{
    return bg_xxh64(bytes ? payload : "", bytes);
}

static uint8_t *put(uint8_t *at, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

static uint64_t get(const uint8_t **at, unsigned bytes)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t) * (*at)++ << 8 * i;
    return value;
}

void wire_frame_encode(const struct wire_frame *frame, uint8_t out[WIRE_FRAME_BYTES])
{
    memcpy(out, magic, sizeof magic);
    uint8_t *at = out + sizeof magic;
    at = put(at, frame->kind, 2);
    at = put(at, frame->flags, 2);
    at = put(at, frame->generation, 4);
    at = put(at, frame->job, 8);
    at = put(at, frame->step, 8);
    at = put(at, frame->from, 4);
    at = put(at, frame->a, 4);
    at = put(at, frame->b, 4);
    at = put(at, frame->c, 4);
    at = put(at, frame->bytes, 8);
    at = put(at, frame->check, 8);
    at = put(at, frame->extra, 8);
    at = put(at, 0, 4);
    put(at, bg_xxh64(out, CHECK_AT), 8);
}

bg_status wire_frame_decode(const uint8_t in[WIRE_FRAME_BYTES], struct bg_error *err, struct wire_frame *frame)
{
    if (memcmp(in, magic, sizeof magic) != 0)
        return bg_fail(err, BG_FORMAT, "frame starts with %02x%02x%02x%02x, expected \"BRG1\"", in[0], in[1], in[2],
                       in[3]);
    const uint8_t *at = in + CHECK_AT;
    uint64_t told = get(&at, 8), found = bg_xxh64(in, CHECK_AT);
    if (told != found)
        return bg_fail(err, BG_CORRUPT, "frame header says check %016" PRIx64 ", its bytes give %016" PRIx64, told,
                       found);
    struct wire_frame f = {0};
    at = in + sizeof magic;
    f.kind = (uint16_t)get(&at, 2);
    f.flags = (uint16_t)get(&at, 2);
    f.generation = (uint32_t)get(&at, 4);
    f.job = get(&at, 8);
    f.step = get(&at, 8);
    f.from = (uint32_t)get(&at, 4);
    f.a = (uint32_t)get(&at, 4);
    f.b = (uint32_t)get(&at, 4);
    f.c = (uint32_t)get(&at, 4);
    f.bytes = get(&at, 8);
    f.check = get(&at, 8);
    f.extra = get(&at, 8);
    uint32_t zero = (uint32_t)get(&at, 4);
    if (f.kind == WIRE_NONE || f.kind >= WIRE_KIND_COUNT)
        return bg_fail(err, BG_UNSUPPORTED, "frame of kind %u, expected 1 to %u", f.kind, WIRE_KIND_COUNT - 1);
    if (f.flags || zero)
        return bg_fail(err, BG_UNSUPPORTED, "%s frame with flags %x %x, expected none", kinds[f.kind].name, f.flags,
                       zero);
    if (f.bytes > kinds[f.kind].bytes_max)
        return bg_fail(err, BG_FORMAT, "%s frame with a payload of %" PRIu64 " bytes, at most %" PRIu64,
                       kinds[f.kind].name, f.bytes, kinds[f.kind].bytes_max);
    *frame = f;
    return BG_OK;
}

// What a, b, c mean to a reader of a log.
static void describe_value(const struct wire_frame *f, char *text, size_t size)
{
    switch (f->kind) {
    case WIRE_ACTIVATION:
    case WIRE_GRADIENT:
        snprintf(text, size, " stage %" PRIu32 " item %" PRIu32, f->a, f->b);
        break;
    case WIRE_PART:
        snprintf(text, size, " bucket %" PRIu32 " piece %" PRIu32 " node %" PRIu32 ".%" PRIu32, f->a, f->b, f->c >> 26,
                 f->c & ((1u << 26) - 1));
        break;
    case WIRE_ROOT:
        snprintf(text, size, " bucket %" PRIu32 " piece %" PRIu32, f->a, f->b);
        break;
    case WIRE_STATE:
        snprintf(text, size, " bucket %" PRIu32 " piece %" PRIu32 " %s", f->a, f->b,
                 f->c == 0   ? "weights"
                 : f->c == 1 ? "m"
                 : f->c == 2 ? "v"
                             : "?");
        break;
    default:
        text[0] = 0;
    }
}

void wire_frame_describe(const struct wire_frame *frame, char *text, size_t size)
{
    char value[80], from[24];
    describe_value(frame, value, sizeof value);
    if (frame->from == UINT32_MAX)
        snprintf(from, sizeof from, "nobody yet");
    else
        snprintf(from, sizeof from, "member %" PRIu32, frame->from);
    snprintf(text, size, "%s%s of step %" PRIu64 ", generation %" PRIu32 ", from %s", wire_kind_name(frame->kind),
             value, frame->step, frame->generation, from);
}
