// Decoding many sequences at once. Keys and values lie in pages of BATCH_PAGE positions of one pool; a sequence names
// its pages. A row's logits are a function of the weights, of its tokens and its position alone: not of the rows beside
// it, of how its tokens were cut into calls, or of where its pages lie (NUMERICS 4, 6).
#ifndef MODEL_BATCH_H
#define MODEL_BATCH_H

#include "model/packed.h"

enum { BATCH_PAGE = KERN_PAGE };

struct batch_run { // the next tokens of one sequence
    const int32_t *tokens;
    uint32_t count, position; // they take positions [position, position + count)
    const uint32_t *pages;    // (ceil((position + count) / BATCH_PAGE)); positions below `position` are filled already.
                              // No other run of the call may write a page of this one
    uint32_t logits;          // of so many last tokens, <= count
};

struct batch;
struct batch_options {
    uint32_t pages;      // of the pool, named 0..pages-1
    uint32_t rows_max;   // tokens of one call
    uint32_t logits_max; // rows of logits of one call
};
BG_MUST_USE bg_status batch_create(struct bg_env *env, const struct packed_model *packed, const struct kern *kern,
                                   const struct batch_options *options, struct bg_error *err, struct batch **batch);
void batch_destroy(struct batch *batch);
// *logits (sum of runs' logits, vocab), in the order of the runs, valid until the next call. Allocates nothing.
// BG_INVALID: a token outside the vocabulary, a position beyond the context, too many rows; nothing was written then.
BG_MUST_USE bg_status batch_forward(struct batch *batch, const struct batch_run *runs, size_t count,
                                    struct bg_error *err, const float **logits);
// The bytes of a page: the same on every machine, so that a page can be copied, kept on disk, shipped. Keys and values
// are fp32, in class int8/1 F16.
size_t batch_page_bytes(const struct batch *batch);
size_t packed_page_bytes(const struct packed_model *packed); // the same, before there is a batch
void *batch_page(struct batch *batch, uint32_t page);
// The final norm's output of the rows whose logits the last call gave (.., dim), in their order.
const float *batch_hidden(const struct batch *batch);

#endif
