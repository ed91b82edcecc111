// Products with packed weights, the definition: rule 4, one output after the other, on the numbers that the panel
// stands for.
#include "kern/packed_int.h"
#include "kern/rows_int.h"

#include <math.h>
#include <string.h>

static float weight_at(const struct kern_packed *w, const uint8_t *panel, size_t i, size_t lane)
{
    if (w->type == KERN_F32)
        return ((const float *)(const void *)panel)[i * KERN_PANEL + lane];
    size_t bytes = w->type == KERN_Q8_0 ? KERN_QUANT : KERN_QUANT / 2, in = i % KERN_QUANT;
    const uint8_t *block = panel + i / KERN_QUANT * KERN_PANEL * (sizeof(uint16_t) + bytes);
    const uint8_t *q = block + KERN_PANEL * sizeof(uint16_t);
    uint16_t d;
    memcpy(&d, block + lane * sizeof d, sizeof d);
    if (w->type == KERN_Q8_0)
        return (float)(int8_t)q[in * KERN_PANEL + lane] * kern_half_widen(d);
    uint8_t byte = q[in % 16 * KERN_PANEL + lane];
    return (float)((in < 16 ? byte & 15 : byte >> 4) - 8) * kern_half_widen(d);
}

size_t kern_ref_packed_scratch(const struct kern_packed_gemm *g)
{
    (void)g;
    return 0;
}

void kern_ref_packed_gemm(const struct kern_packed_gemm *g, size_t panel, void *scratch)
{
    (void)scratch;
    const struct kern_packed *w = g->w;
    if (w->type == KERN_INT8) {
        kern_ref_int8_gemm(g, panel);
        return;
    }
    const uint8_t *data = (const uint8_t *)w->data + panel * kern_panel_bytes(w->type, w->k);
    for (size_t lane = 0; lane < KERN_PANEL && panel * KERN_PANEL + lane < w->n; lane++)
        for (size_t r = 0; r < g->m; r++) {
            size_t output = panel * KERN_PANEL + lane;
            float acc = 0;
            for (size_t i = 0; i < w->k; i++)
                acc = fmaf(g->a[r * g->lda + i], weight_at(w, data, i, lane), acc);
            g->c[r * g->ldc + output] = g->bias ? acc + g->bias[output] : acc;
        }
}
