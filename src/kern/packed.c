// Packing: a linear layer's weights laid out once for products with few rows, quantised or not. Plain C, the same bytes
// on every ISA; run once when a model is loaded.
#include "kern/packed_int.h"

#include <math.h>
#include <string.h>

size_t kern_packed_panels(size_t n)
{
    return (n + KERN_PANEL - 1) / KERN_PANEL;
}

size_t kern_panel_bytes(enum kern_weight type, size_t k)
{
    if (type == KERN_F32)
        return k * KERN_PANEL * sizeof(float);
    return k / KERN_QUANT * KERN_PANEL * kern_block_bytes(type);
}

size_t kern_packed_bytes(enum kern_weight type, size_t n, size_t k)
{
    return kern_packed_panels(n) * kern_panel_bytes(type, k);
}

// ---- F16 ----
float kern_half_widen(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u, bits;
    if (exponent == 0) { // zero, subnormal: mantissa * 2^-24 is exact
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    } else {
        bits = sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
    }
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

uint16_t kern_half_round(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    float magnitude = fabsf(x);
    if (!(magnitude < 65520.0f)) // infinity, NaN
        return (uint16_t)(sign | 0x7c00u | (magnitude == magnitude ? 0u : 512u));
    if (magnitude < 0x1p-14f) // a multiple of 2^-24
        return (uint16_t)(sign | (uint16_t)rintf(magnitude * 0x1p24f));
    memcpy(&bits, &magnitude, sizeof bits);
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (uint16_t)((bits - (112u << 23)) >> 13));
}

// ---- One block of 32 numbers ----
struct quant { // of one output
    uint16_t d;
    uint8_t q[KERN_QUANT]; // Q8_0, INT8: the bits of int8_t; Q4_0: 0..15
};

static struct quant quantise(enum kern_weight type, const float x[KERN_QUANT])
{
    float most = 0, largest = 0; // largest magnitude, and the number that has it
    for (size_t i = 0; i < KERN_QUANT; i++)
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            largest = x[i];
        }
    float d = type == KERN_Q4_0 ? largest / -8.0f : most / 127.0f, inverse = d != 0 ? 1.0f / d : 0.0f;
    struct quant block = {.d = kern_half_round(d)};
    for (size_t i = 0; i < KERN_QUANT; i++) {
        if (type == KERN_Q4_0) {
            float q = x[i] * inverse + 8.5f;
            block.q[i] = (uint8_t)(q >= 15 ? 15 : q > 0 ? (int)q : 0);
        } else {
            float q = roundf(x[i] * inverse);
            block.q[i] = (uint8_t)(int8_t)(fabsf(q) <= 127 ? q : 0); // not of infinities
        }
    }
    return block;
}

static size_t quant_bytes(enum kern_weight type)
{
    return type == KERN_Q4_0 ? KERN_QUANT / 2 : KERN_QUANT;
}

size_t kern_block_bytes(enum kern_weight type)
{
    return sizeof(uint16_t) + quant_bytes(type);
}

static struct quant read_block(enum kern_weight type, const uint8_t *bytes)
{
    struct quant block;
    block.d = (uint16_t)(bytes[0] | bytes[1] << 8);
    bytes += 2;
    for (size_t i = 0; i < KERN_QUANT; i++)
        block.q[i] = type != KERN_Q4_0 ? bytes[i] : (uint8_t)(i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4);
    return block;
}

void kern_widen_blocks(float *out, enum kern_weight type, const void *blocks, size_t count)
{
    const uint8_t *at = blocks;
    for (size_t b = 0; b < count; b++, at += kern_block_bytes(type)) {
        struct quant block = read_block(type, at);
        float d = kern_half_widen(block.d);
        for (size_t i = 0; i < KERN_QUANT; i++)
            out[b * KERN_QUANT + i] = (float)(type == KERN_Q4_0 ? block.q[i] - 8 : (int8_t)block.q[i]) * d;
    }
}

void kern_quantise_blocks(void *blocks, enum kern_weight type, const float *x, size_t count)
{
    uint8_t *at = blocks;
    for (size_t b = 0; b < count; b++, x += KERN_QUANT) {
        struct quant block = quantise(type, x);
        *at++ = (uint8_t)block.d;
        *at++ = (uint8_t)(block.d >> 8);
        for (size_t i = 0; i < quant_bytes(type); i++)
            *at++ = (uint8_t)(type == KERN_Q4_0 ? block.q[i] | block.q[i + 16] << 4 : block.q[i]);
    }
}

// Puts the block of inputs 32 b .. of output `lane` into its panel.
static void place(uint8_t *panel, enum kern_weight type, size_t b, size_t lane, const struct quant *block)
{
    uint8_t *at = panel + b * KERN_PANEL * kern_block_bytes(type), *q = at + KERN_PANEL * sizeof(uint16_t);
    memcpy(at + lane * sizeof block->d, &block->d, sizeof block->d);
    for (size_t i = 0; i < quant_bytes(type); i++)
        if (type == KERN_INT8)
            q[(i / 4 * KERN_PANEL + lane) * 4 + i % 4] = block->q[i] ^ 0x80;
        else
            q[i * KERN_PANEL + lane] = (uint8_t)(type == KERN_Q4_0 ? block->q[i] | block->q[i + 16] << 4 : block->q[i]);
}

void kern_pack(void *data, enum kern_weight type, size_t n, size_t k, const float *weights, size_t ld, bool conv,
               size_t first, size_t end)
{
    for (size_t p = first; p < end; p++) {
        uint8_t *panel = (uint8_t *)data + p * kern_panel_bytes(type, k);
        size_t lanes = n - p * KERN_PANEL < KERN_PANEL ? n - p * KERN_PANEL : KERN_PANEL;
        memset(panel, 0, kern_panel_bytes(type, k));
        for (size_t lane = 0; lane < lanes; lane++) {
            size_t output = p * KERN_PANEL + lane, step = conv ? ld : 1;
            const float *w = conv ? weights + output : weights + output * ld;
            if (type == KERN_F32)
                for (size_t i = 0; i < k; i++)
                    ((float *)(void *)panel)[i * KERN_PANEL + lane] = w[i * step];
            for (size_t b = 0; type != KERN_F32 && b < k / KERN_QUANT; b++) {
                float x[KERN_QUANT];
                for (size_t i = 0; i < KERN_QUANT; i++)
                    x[i] = w[(b * KERN_QUANT + i) * step];
                struct quant block = quantise(type, x);
                place(panel, type, b, lane, &block);
            }
        }
    }
}

void kern_pack_blocks(void *data, enum kern_weight type, size_t n, size_t k, const void *blocks, size_t first,
                      size_t end)
{
    const size_t row = k / KERN_QUANT * kern_block_bytes(type);
    for (size_t p = first; p < end; p++) {
        uint8_t *panel = (uint8_t *)data + p * kern_panel_bytes(type, k);
        memset(panel, 0, kern_panel_bytes(type, k));
        for (size_t lane = 0; lane < KERN_PANEL && p * KERN_PANEL + lane < n; lane++) {
            const uint8_t *from = (const uint8_t *)blocks + (p * KERN_PANEL + lane) * row;
            for (size_t b = 0; b < k / KERN_QUANT; b++) {
                struct quant block = read_block(type, from + b * kern_block_bytes(type));
                place(panel, type, b, lane, &block);
            }
        }
    }
}
