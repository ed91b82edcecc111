// The scalar peak of one lane: multiply-add chains, for figures of merit. Its result means nothing.
#include "kern/rows_int.h"

uint64_t kern_ref_fma_burst(float sink[16], uint64_t rounds)
{
    float sum[8];
    for (int i = 0; i < 8; i++)
        sum[i] = (float)i;
    for (uint64_t r = 0; r < rounds; r++)
        for (int i = 0; i < 8; i++)
            sum[i] = sum[i] * 0.999f + 0.001f;
    for (int i = 0; i < 16; i++)
        sink[i] = sum[i % 8];
    return rounds * 8 * 2;
}
