// Decoding with a KV cache: feed tokens, get the logits of the last one. Same kernels and chains as training, so
// prefill in any chunks and decoding row by row give the same bits (NUMERICS 4, 6).
#ifndef MODEL_DECODE_H
#define MODEL_DECODE_H

#include "model/model.h"

struct decoder;

// context_max <= model context. chunk_max: most tokens in flight at once (memory grows with it); longer runs are cut.
BG_MUST_USE bg_status decoder_create(struct bg_env *env, const struct model *model, const struct kern *kern,
                                     const float *weights, uint32_t context_max, uint32_t chunk_max,
                                     struct bg_error *err, struct decoder **decoder);
void decoder_destroy(struct decoder *decoder);
void decoder_reset(struct decoder *decoder);              // position 0
uint32_t decoder_position(const struct decoder *decoder); // tokens fed so far
uint32_t decoder_context(const struct decoder *decoder);  // most that can be fed
// Appends `count` tokens (any number; fed in chunks); *logits (vocab) is valid until the next call. BG_FULL: context
// exceeded.
BG_MUST_USE bg_status decoder_feed(struct decoder *decoder, const int32_t *tokens, uint32_t count, struct bg_error *err,
                                   const float **logits);
// Logits of every fed row, (count, vocab), for tests and teacher forcing.
BG_MUST_USE bg_status decoder_feed_all(struct decoder *decoder, const int32_t *tokens, uint32_t count, float *logits,
                                       struct bg_error *err);

#endif
