// What is trained in a simulation: tiny real models on made-up tokens, and what one process alone computes of them,
// step by step: the reference that every simulated run is held to. Jobs are made once and serve every seed.
#ifndef SIM_JOB_H
#define SIM_JOB_H

#include "train/step.h"

enum { SIM_STEPS_MAX = 6, SIM_TOKENS = 400 };

struct sim_job {
    struct model *model;
    const struct kern *kern;
    uint32_t batch, length, micro_batches;
    uint64_t seed;
    double dropout;
    struct optim_options optim;
    uint8_t signature[32];
    uint64_t id; // first 8 bytes of the signature
    uint16_t tokens[SIM_TOKENS];
    struct token_view view;
    // The reference. Version v: after v steps.
    struct step_record records[SIM_STEPS_MAX];
    uint64_t *hashes; // (SIM_STEPS_MAX + 1, params) of a parameter's weights and moments
    uint64_t weights[SIM_STEPS_MAX + 1];
};

double sim_job_lr(uint64_t step);
uint64_t sim_job_param_hash(const struct sim_job *job, uint32_t param, const struct optim_state *state);
uint64_t sim_job_weights_hash(const struct sim_job *job, const float *weights); // all parameters
// A made-up measure of the weights, to be found again in evaluations.
double sim_job_evaluate(uint64_t weights_hash);

enum { SIM_MODELS = 8, SIM_JOBS = 24, SIM_SLICED = 6 }; // SIM_SLICED: the model of three slices
// Job `index` of SIM_JOBS: models x micro-batches 3, 4, 5 (index / SIM_MODELS).
BG_MUST_USE bg_status sim_job_create(unsigned isa, uint32_t index, struct bg_error *err, struct sim_job **job);
void sim_job_destroy(struct sim_job *job);

#endif
