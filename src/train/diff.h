// The first step and the first tensor in which two runs, checkpoints or models differ, bit by bit.
#ifndef TRAIN_DIFF_H
#define TRAIN_DIFF_H

#include "base/env.h"

#include <stdbool.h>

struct diff_result {
    bool identical; // everything that could be compared is equal, and equally long

    // Curves, where both sides are run directories or checkpoints (they carry their losses).
    bool curves; // compared
    uint64_t steps_a, steps_b;
    bool step_differs;
    uint64_t step; // first differing step
    double loss_a, loss_b;

    // Weights: of the earliest checkpoint that both hold and that differs, else of the newest of each.
    bool weights; // compared
    char source_a[512], source_b[512];
    uint64_t tensors; // compared
    bool tensor_differs;
    char tensor[128];       // first differing one, in name order
    char reason[128];       // "values", "shape", "only in A", "only in B"
    uint64_t element;       // first differing element of it
    float value_a, value_b; // there
    uint64_t elements_differ;
    double max_difference;
};

// `a`, `b`: run directories, checkpoints, Hugging Face directories or .gguf files.
BG_MUST_USE bg_status diff_compare(struct bg_env *env, const char *a, const char *b, struct bg_error *err,
                                   struct diff_result *result);
// The result in words, one line or a few; bg_free it.
char *diff_text(const struct diff_result *result, const char *a, const char *b);

#endif
