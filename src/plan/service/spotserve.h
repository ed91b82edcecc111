// Serving a model over machines that may be taken away, as in SpotServe (Miao et al., "SpotServe: Serving Generative
// Large Language Models on Preemptible Instances", ASPLOS'24): which parallelism for how many machines (section 3.2),
// who takes which place so that as little as possible moves (3.3), in what order it moves (3.4), and how far a batch
// still gets before machines go (4.1). The numbers of the optimizer are those of the authors' program.
#ifndef PLAN_SPOTSERVE_H
#define PLAN_SPOTSERVE_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define PLAN_SPOTSERVE_LOG_MAX  8   // widths and batches of at most 2^7
#define PLAN_SPOTSERVE_MACHINES 256 // at most
#define PLAN_SPOTSERVE_NOBODY   UINT32_MAX

struct plan_spotserve_profile {
    uint32_t layers, padded_layers; // stages must divide the padded ones
    uint32_t hidden;
    uint32_t machines_min;                                            // below that the model does not fit
    uint32_t width_max;                                               // of tensor parallelism, a power of two
    double factor;                                                    // on every latency
    double stage_prompt_ms, stage_token_ms;                           // between two stages
    double embed_ms[PLAN_SPOTSERVE_LOG_MAX];                          // [log2 batch]
    double prompt_ms[PLAN_SPOTSERVE_LOG_MAX][PLAN_SPOTSERVE_LOG_MAX]; // [log2 width][log2 batch] a layer
    double token_ms[PLAN_SPOTSERVE_LOG_MAX][PLAN_SPOTSERVE_LOG_MAX];
};

extern const struct plan_spotserve_profile plan_spotserve_published; // OPT of 6.7 billion weights on T4
// JSON: an object with the fields of the record, embed_ms a list by batch, prompt_ms and token_ms lists of such by
// width. `name` stands in errors.
BG_MUST_USE bg_status plan_spotserve_read(const char *name, const void *text, size_t size, struct bg_error *err,
                                          struct plan_spotserve_profile *profile);
uint32_t plan_spotserve_batch_max(const struct plan_spotserve_profile *profile); // that it has times for

struct plan_spotserve_config { // all 0: the model does not fit
    uint32_t replicas, width, stages, batch;
    uint32_t prompt_parts, token_parts; // micro-batches of a batch's prompts, and of its tokens
    double prompt_ms, token_ms;         // all prompts of a batch; a token
    double latency_ms, rate;            // of a batch; requests a second of all replicas
    uint32_t replicas_needed;           // so many would do for the rate asked for (all, where none would)
};

// Of all configurations that reach `rate`, the one of least latency; where none does, that of the highest rate. Of
// equal ones the narrowest, then the smallest batch, the fewest parts, the fewest stages. batch_max: a power of two.
BG_MUST_USE bg_status plan_spotserve_solve(const struct plan_spotserve_profile *profile, uint32_t machines,
                                           uint32_t batch_max, double rate, uint32_t tokens, struct bg_error *err,
                                           struct plan_spotserve_config *config);

// Tokens that a batch still gets in slot_s seconds, its prompts included; at most `tokens`.
uint32_t plan_spotserve_steps(const struct plan_spotserve_config *config, double slot_s, uint32_t tokens);

// ---- Places ----

struct plan_spotserve_place {
    uint32_t replica, stage, rank; // replica PLAN_SPOTSERVE_NOBODY: a machine without a place
};
struct plan_spotserve_shape {
    uint32_t replicas, stages, width; // width: a power of two
    uint32_t layers, hidden;          // of the model; stages divide the layers
};
// cache: tokens kept in a replica's cache, over its batch.
// Elements of parameters and cache that a machine in place `old` of shape `from` has for place `new` of shape `to`.
double plan_spotserve_reusable(const struct plan_spotserve_shape *from, struct plan_spotserve_place old,
                               const struct plan_spotserve_shape *to, struct plan_spotserve_place new, double cache);

// places: (machines) of shape `from`; machine_of: (replicas * stages * width), by (replica, stage, rank) of shape `to`.
// Returns the elements that stay where they are: the most that can. BG_INVALID where there are too few machines.
BG_MUST_USE bg_status plan_spotserve_map(const struct plan_spotserve_shape *from,
                                         const struct plan_spotserve_place *places, uint32_t machines,
                                         const struct plan_spotserve_shape *to, double cache, struct bg_error *err,
                                         uint32_t *machine_of, double *stays);

struct plan_spotserve_transfer {
    uint32_t layer, from, to; // machines; from PLAN_SPOTSERVE_NOBODY: nobody has it, it comes from storage
    uint32_t slices;          // of 2^7 slices of a layer
};
struct plan_spotserve_moves {
    struct plan_spotserve_transfer *transfers; // (count) in the order in which they go
    uint32_t count;
    uint32_t late;        // layers that had to wait for memory
    uint32_t slices_peak; // the most that a machine held at any time
};
// What moves so that every machine has the parameters of its new place: layer by layer from the front, so that the
// first stages can begin; owners take turns as senders. slices_max: what a machine has room for, 0: no limit. A layer
// for which somebody has no room waits until another one's old parameters are given up; where all wait, the first goes.
void plan_spotserve_migrate(const struct plan_spotserve_shape *from, const struct plan_spotserve_place *places,
                            uint32_t machines, const struct plan_spotserve_shape *to, const uint32_t *machine_of,
                            uint32_t slices_max, struct plan_spotserve_moves *moves);
void plan_spotserve_moves_fini(struct plan_spotserve_moves *moves);

#endif
