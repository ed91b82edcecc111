// Frame headers: fixed bytes, every field travels, every damaged byte is refused with its reason.
#include "wire/frame.h"

#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <cmocka.h>

static struct wire_frame sample(void)
{
    return (struct wire_frame){.kind = WIRE_PART,
                               .generation = 4,
                               .job = 0x1122334455667788,
                               .step = 12,
                               .from = 2,
                               .a = 3,
                               .c = 1u << 26,
                               .bytes = 262144,
                               .check = 0xfeedfacecafebeef,
                               .extra = 99};
}

static bool same(const struct wire_frame *x, const struct wire_frame *y)
{
    return x->kind == y->kind && x->flags == y->flags && x->generation == y->generation && x->job == y->job &&
           x->step == y->step && x->from == y->from && x->a == y->a && x->b == y->b && x->c == y->c &&
           x->bytes == y->bytes && x->check == y->check && x->extra == y->extra;
}

static void travels(void **state)
{
    (void)state;
    struct wire_frame frame = sample(), back = {0};
    uint8_t bytes[WIRE_FRAME_BYTES];
    struct bg_error err = {0};
    wire_frame_encode(&frame, bytes);
    assert_int_equal(wire_frame_decode(bytes, &err, &back), BG_OK);
    assert_true(same(&frame, &back));
    static const uint8_t start[] = {'B', 'R', 'G', '1', WIRE_PART, 0, 0, 0, 4, 0, 0, 0, 0x88, 0x77, 0x66, 0x55};
    assert_memory_equal(bytes, start, sizeof start);
    for (uint16_t kind = 1; kind < WIRE_KIND_COUNT; kind++) {
        frame.kind = kind;
        frame.bytes = wire_kind_bytes_max(kind);
        wire_frame_encode(&frame, bytes);
        assert_int_equal(wire_frame_decode(bytes, &err, &back), BG_OK);
        assert_true(same(&frame, &back));
    }
}

static void every_flipped_bit_is_refused(void **state)
{
    (void)state;
    struct wire_frame frame = sample(), back = {0};
    uint8_t bytes[WIRE_FRAME_BYTES];
    wire_frame_encode(&frame, bytes);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        struct bg_error err = {0};
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(wire_frame_decode(bytes, &err, &back), BG_OK);
        assert_string_not_equal(err.text, "");
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

// The header's check agrees and yet the frame is none of ours.
static void refused(size_t at, uint8_t value, bg_status wanted, const char *why)
{
    struct wire_frame frame = sample(), back = {0};
    uint8_t bytes[WIRE_FRAME_BYTES];
    struct bg_error err = {0};
    wire_frame_encode(&frame, bytes);
    bytes[at] = value;
    uint64_t check = bg_xxh64(bytes, 72);
    for (unsigned i = 0; i < 8; i++)
        bytes[72 + i] = (uint8_t)(check >> 8 * i);
    assert_int_equal(wire_frame_decode(bytes, &err, &back), wanted);
    if (!strstr(err.text, why))
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    assert_int_equal(back.kind, 0);
}

static void refusals_say_what(void **state)
{
    (void)state;
    refused(0, 'b', BG_FORMAT, "expected \"BRG1\"");
    refused(4, 0, BG_UNSUPPORTED, "kind 0");
    refused(5, 1, BG_UNSUPPORTED, "expected 1 to");
    refused(6, 1, BG_UNSUPPORTED, "PART frame with flags");
    refused(71, 1, BG_UNSUPPORTED, "expected none");
    refused(51, 1, BG_FORMAT, "at most 2147483648");
}

static void describes(void **state)
{
    (void)state;
    struct wire_frame frame = sample();
    char text[160];
    wire_frame_describe(&frame, text, sizeof text);
    assert_string_equal(text, "PART bucket 3 piece 0 node 1.0 of step 12, generation 4, from member 2");
    frame = (struct wire_frame){.kind = WIRE_HELLO, .from = UINT32_MAX};
    wire_frame_describe(&frame, text, sizeof text);
    assert_string_equal(text, "HELLO of step 0, generation 0, from nobody yet");
    frame = (struct wire_frame){.kind = WIRE_STATE, .a = 1, .b = 2, .c = 2, .step = 7, .generation = 1};
    wire_frame_describe(&frame, text, sizeof text);
    assert_string_equal(text, "STATE bucket 1 piece 2 v of step 7, generation 1, from member 0");
    frame.kind = 900;
    wire_frame_describe(&frame, text, 8);
    assert_string_equal(text, "? of st");
    assert_int_equal(wire_check(NULL, 0), wire_check("", 0));
    assert_int_equal(wire_check("abc", 3), 0x78af5f94892f3950); // XXH3_64bits("abc"), published
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(travels),
        cmocka_unit_test(every_flipped_bit_is_refused),
        cmocka_unit_test(refusals_say_what),
        cmocka_unit_test(describes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
