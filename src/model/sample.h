// The sampler: temperature, top-k, top-p, min-p; counted randomness keyed by (request seed, choice index, absolute
// position) (NUMERICS 18). A pure function of the logits and those.
#ifndef MODEL_SAMPLE_H
#define MODEL_SAMPLE_H

#include "kern/kern.h"

struct sample_options {
    float temperature; // 0: greedy (lowest id among equal maxima)
    uint32_t top_k;    // 0: off
    float top_p;       // 1: off
    float min_p;       // 0: off
    uint64_t seed;
    uint32_t choice;
};

struct sampler; // holds work memory for one vocabulary size
struct sampler *sampler_create(const struct kern *kern, uint32_t vocab);
void sampler_destroy(struct sampler *sampler);
int32_t sampler_draw(struct sampler *sampler, const float *logits, const struct sample_options *options,
                     uint64_t position);

#endif
