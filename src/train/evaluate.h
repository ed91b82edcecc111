// Evaluation (NUMERICS 17): fixed windows of a token view in order, no dropout, the same units and kernels as training.
// How many windows are computed at once never shows in the bits.
#ifndef TRAIN_EVALUATE_H
#define TRAIN_EVALUATE_H

#include "model/data.h"
#include "model/model.h"

struct evaluate_options {
    uint64_t tokens_max; // 0: every complete window of the view
    uint32_t length;     // tokens a window; 0: the model's context
    uint64_t bytes;      // of text behind the view, for bits per byte; 0: unknown
};

struct evaluate_result {
    double loss;          // mean natural log loss a token
    double perplexity;    // exp(loss)
    double bits_per_byte; // 0 where `bytes` is unknown
    uint64_t tokens, windows;
    uint32_t length; // of a window; shorter than asked for where the view holds less than one window
    double seconds;
};

// Evaluates with memory of its own. BG_STOPPED: a stop signal came. A view of fewer than two tokens is refused.
BG_MUST_USE bg_status evaluate_run(struct bg_env *env, const struct model *model, const struct kern *kern,
                                   const float *weights, const struct token_view *view,
                                   const struct evaluate_options *options, struct bg_error *err,
                                   struct evaluate_result *result);

// The same in memory that the caller holds: lane_scratch as in struct model_run (sized for training or for
// evaluate_bytes), `memory` of evaluate_bytes(.., sequences) for some sequences >= 1.
struct evaluate_memory {
    void *const *lane_scratch;
    void *memory;       // 64-byte aligned
    uint32_t sequences; // windows at once
};
size_t evaluate_bytes(const struct model *model, uint32_t length, uint32_t sequences);
BG_MUST_USE bg_status evaluate_in(struct bg_env *env, const struct model *model, const struct kern *kern,
                                  const float *weights, const struct token_view *view,
                                  const struct evaluate_options *options, const struct evaluate_memory *memory,
                                  struct bg_error *err, struct evaluate_result *result);

#endif
