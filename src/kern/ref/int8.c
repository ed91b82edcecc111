// Class int8/1, the definition: inputs quantised by blocks of 32, and products of their integers with those of the
// weights, whose sum is exact; one output after the other.
#include "kern/packed_int.h"
#include "kern/rows_int.h"

#include <math.h>
#include <string.h>

static struct kern_quantised quantise(const float x[KERN_QUANT])
{
    struct kern_quantised block = {0};
    float most = 0;
    for (size_t i = 0; i < KERN_QUANT; i++) {
        if (!isfinite(x[i])) {
            block.d = NAN;
            return block;
        }
        most = fmaxf(most, fabsf(x[i]));
    }
    if (most < 0x1p-100f)
        return block;
    block.d = most / 127.0f;
    const float inverse = 1.0f / block.d;
    int sum = 0;
    for (size_t i = 0; i < KERN_QUANT; i++) {
        block.q[i] = (int8_t)rintf(x[i] * inverse);
        sum += block.q[i];
    }
    block.offset = -128 * sum;
    return block;
}

void kern_ref_quantise(struct kern_quantised *out, const float *x, size_t n)
{
    for (size_t b = 0; b < n / KERN_QUANT; b++)
        out[b] = quantise(x + b * KERN_QUANT);
}

static float block_product(float acc, const uint8_t *block, size_t lane, const struct kern_quantised *in)
{
    const uint8_t *q = block + KERN_PANEL * sizeof(uint16_t);
    uint16_t d;
    memcpy(&d, block + lane * sizeof d, sizeof d);
    int sum = 0;
    for (size_t i = 0; i < KERN_QUANT; i++)
        sum += (q[(i / 4 * KERN_PANEL + lane) * 4 + i % 4] - 128) * in->q[i];
    return fmaf((float)sum, kern_half_widen(d) * in->d, acc);
}

void kern_ref_int8_gemm(const struct kern_packed_gemm *g, size_t panel)
{
    const struct kern_packed *w = g->w;
    const size_t blocks = w->k / KERN_QUANT, bytes = kern_panel_bytes(KERN_INT8, KERN_QUANT);
    const uint8_t *data = (const uint8_t *)w->data + panel * blocks * bytes;
    for (size_t lane = 0; lane < KERN_PANEL && panel * KERN_PANEL + lane < w->n; lane++)
        for (size_t r = 0; r < g->m; r++) {
            const size_t output = panel * KERN_PANEL + lane;
            float acc = 0;
            for (size_t b = 0; b < blocks; b++)
                acc = block_product(acc, data + b * bytes, lane, &g->quantised[r * blocks + b]);
            g->c[r * g->ldc + output] = g->bias ? acc + g->bias[output] : acc;
        }
}
