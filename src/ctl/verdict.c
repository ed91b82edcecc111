// What a step's numbers are made of: the same sums in the same order as in one process (NUMERICS 11 and 12).
#include "ctl/ctl_int.h"

#include <string.h>

double ctl_verdict_loss(const double *leaves, uint32_t count, uint64_t targets, double *scratch)
{
    memcpy(scratch, leaves, count * sizeof *scratch);
    for (size_t width = 1; width < count; width *= 2) // the canonical tree, in place
        for (size_t i = 0; i + width < count; i += 2 * width)
            scratch[i] += scratch[i + width];
    return scratch[0] / (double)targets;
}

float ctl_verdict_clip(double clip, double norm)
{
    if (!(clip > 0))
        return 1.0f;
    double c = clip / (norm + 1e-6);
    return (float)(c < 1.0 ? c : 1.0);
}
