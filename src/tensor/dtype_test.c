// Element types: every F16 and BF16 pattern against arithmetic in double, and the block formats by packing known
// quants, scales and minima the way the formats say and expecting the values they stand for.
#include "tensor/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct bg_error err;
static uint32_t random_state = 99;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

static void convert(enum tensor_dtype dtype, uint64_t count, const void *data, float *out)
{
    struct tensor_view view = {.name = "w", .dtype = dtype, .rank = 1, .shape = {count}, .data = data};
    assert_true(tensor_dtype_bytes(dtype, 1, view.shape, &view.bytes));
    assert_int_equal(tensor_view_to_f32(&view, &err, out), BG_OK);
}

static void half_floats_are_exact(void **state)
{
    (void)state;
    for (uint32_t pattern = 0; pattern < 65536; pattern++) {
        uint16_t half = (uint16_t)pattern;
        float narrow, brain;
        convert(TENSOR_F16, 1, &half, &narrow);
        convert(TENSOR_BF16, 1, &half, &brain);
        double sign = pattern >> 15 ? -1 : 1;
        int e = pattern >> 10 & 31, m = pattern & 1023;
        double expected = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        assert_true(isnan(expected) ? isnan(narrow) : (double)narrow == sign * expected);
        assert_true(!!signbit(narrow) == (sign < 0));
        e = pattern >> 7 & 255;
        m = pattern & 127;
        expected = e == 255 ? (m ? NAN : INFINITY) : e ? ldexp(128 + m, e - 134) : ldexp(m, -133);
        assert_true(isnan(expected) ? isnan(brain) : (double)brain == sign * expected);
        assert_true(!!signbit(brain) == (sign < 0));
    }
}

static void doubles_are_rounded_once(void **state)
{
    (void)state;
    const double values[] = {1.0, 0.1, -1e-50, 3.4028234e38, INFINITY, 1.0 + 0x1p-24, 1.0 + 0x1.8p-23};
    float out[7];
    convert(TENSOR_F64, 7, values, out);
    for (int i = 0; i < 7; i++)
        assert_true(out[i] == (float)values[i]);
    const double huge = 1e39;
    struct tensor_view view = {
        .name = "big", .dtype = TENSOR_F64, .rank = 0, .data = (const uint8_t *)&huge, .bytes = 8};
    assert_int_equal(tensor_view_to_f32(&view, &err, out), BG_UNSUPPORTED);
    assert_non_null(strstr(err.text, "big"));
}

static void shapes_that_overflow_are_refused(void **state)
{
    (void)state;
    uint64_t bytes;
    assert_true(tensor_dtype_bytes(TENSOR_F32, 0, NULL, &bytes) && bytes == 4);
    assert_true(tensor_dtype_bytes(TENSOR_F32, 2, (uint64_t[]){0, 7}, &bytes) && bytes == 0);
    assert_false(tensor_dtype_bytes(TENSOR_F32, 2, (uint64_t[]){1ull << 32, 1ull << 32}, &bytes));
    assert_false(tensor_dtype_bytes(TENSOR_F32, 1, (uint64_t[]){1ull << 62}, &bytes));
    assert_false(tensor_dtype_bytes(TENSOR_F32, 3, (uint64_t[]){0, 1ull << 63, 2}, &bytes));
    assert_true(tensor_dtype_bytes(TENSOR_Q4_0, 2, (uint64_t[]){3, 64}, &bytes) && bytes == 3 * 2 * 18);
    assert_false(tensor_dtype_bytes(TENSOR_Q4_0, 2, (uint64_t[]){32, 3}, &bytes)); // rows are not whole blocks
    assert_false(tensor_dtype_bytes(TENSOR_Q6_K, 1, (uint64_t[]){128}, &bytes));
}

// Scales in F16: 2^-3 is 0x3000, -2^-5 is 0xa800.
static const uint16_t half_scale = 0x3000, half_minimum = 0xa800;
static const float scale = 0.125f, minimum = -0.03125f;

// 32 elements: low 16 in the low nibbles; bit i of a word is element i's fifth.
static void small_blocks(void **state)
{
    (void)state;
    static const struct {
        enum tensor_dtype dtype;
        int bits;
        bool has_minimum;
    } kinds[] = {{TENSOR_Q4_0, 4, false}, {TENSOR_Q4_1, 4, true}, {TENSOR_Q5_0, 5, false}, {TENSOR_Q5_1, 5, true}};
    for (size_t k = 0; k < 4; k++) {
        uint8_t block[24] = {0};
        size_t at = 2;
        memcpy(block, &half_scale, 2);
        if (kinds[k].has_minimum) {
            memcpy(block + 2, &half_minimum, 2);
            at = 4;
        }
        uint32_t fifth = 0;
        size_t nibbles = at + (kinds[k].bits == 5 ? 4 : 0);
        int q[32];
        for (int i = 0; i < 32; i++) {
            q[i] = (int)random_below(1u << kinds[k].bits);
            block[nibbles + (size_t)(i % 16)] |= (uint8_t)((q[i] & 15) << (i < 16 ? 0 : 4));
            fifth |= (uint32_t)(q[i] >> 4) << i;
        }
        if (kinds[k].bits == 5)
            memcpy(block + at, &fifth, 4);
        float out[32];
        convert(kinds[k].dtype, 32, block, out);
        for (int i = 0; i < 32; i++) {
            float zero = kinds[k].has_minimum ? 0 : (float)(1 << (kinds[k].bits - 1));
            float expected = ((float)q[i] - zero) * scale + (kinds[k].has_minimum ? minimum : 0);
            assert_true(out[i] == expected);
        }
    }
    uint8_t block[34];
    memcpy(block, &half_scale, 2);
    for (int i = 0; i < 32; i++)
        block[2 + i] = (uint8_t)(i * 8);
    float out[32];
    convert(TENSOR_Q8_0, 32, block, out);
    for (int i = 0; i < 32; i++)
        assert_true(out[i] == scale * (float)(i < 16 ? i * 8 : i * 8 - 256));
}

// 256 elements in 8 groups; scales and minima of 6 bits in 12 bytes.
static void pack_scales(const int *s, const int *m, uint8_t packed[12])
{
    memset(packed, 0, 12);
    for (int g = 0; g < 4; g++) {
        packed[g] = (uint8_t)(s[g] | (s[g + 4] >> 4) << 6);
        packed[g + 4] = (uint8_t)(m[g] | (m[g + 4] >> 4) << 6);
        packed[g + 8] = (uint8_t)((s[g + 4] & 15) | (m[g + 4] & 15) << 4);
    }
}

static void k_blocks(void **state)
{
    (void)state;
    for (int bits = 4; bits <= 5; bits++) {
        uint8_t block[176] = {0};
        int s[8], m[8], q[256];
        for (int g = 0; g < 8; g++) {
            s[g] = (int)random_below(64);
            m[g] = (int)random_below(64);
        }
        memcpy(block, &half_scale, 2);
        memcpy(block + 2, &half_minimum, 2);
        pack_scales(s, m, block + 4);
        uint8_t *high = block + 16, *low = bits == 5 ? block + 48 : block + 16;
        for (int i = 0; i < 256; i++) {
            int group = i / 32, column = i % 32;
            q[i] = (int)random_below(1u << bits);
            low[group / 2 * 32 + column] |= (uint8_t)((q[i] & 15) << (group % 2 * 4));
            if (bits == 5)
                high[column] |= (uint8_t)((q[i] >> 4) << group);
        }
        float out[256];
        convert(bits == 5 ? TENSOR_Q5_K : TENSOR_Q4_K, 256, block, out);
        for (int i = 0; i < 256; i++)
            assert_true(out[i] == scale * (float)s[i / 32] * (float)q[i] - minimum * (float)m[i / 32]);
    }
    uint8_t block[210] = {0};
    int q[256];
    memcpy(block + 208, &half_scale, 2);
    for (int i = 0; i < 16; i++)
        block[192 + i] = (uint8_t)(i * 16);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i % 128 / 32, column = i % 32;
        q[i] = (int)random_below(64);
        block[half * 64 + quarter % 2 * 32 + column] |= (uint8_t)((q[i] & 15) << (quarter / 2 * 4));
        block[128 + half * 32 + column] |= (uint8_t)((q[i] >> 4) << (2 * quarter));
    }
    float out[256];
    convert(TENSOR_Q6_K, 256, block, out);
    for (int i = 0; i < 256; i++)
        assert_true(out[i] == scale * (float)(int8_t)block[192 + i / 16] * (float)(q[i] - 32));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_floats_are_exact),
        cmocka_unit_test(doubles_are_rounded_once),
        cmocka_unit_test(shapes_that_overflow_are_refused),
        cmocka_unit_test(small_blocks),
        cmocka_unit_test(k_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
