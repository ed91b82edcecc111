// Drawing a token: bias, penalties and mask on the logits, then the sampler. A pure function of the logits, the tokens
// before and the request (NUMERICS 18).
#ifndef SERVE_DRAW_H
#define SERVE_DRAW_H

#include "kern/kern.h"
#include "serve/request.h"

struct draw; // work memory for one vocabulary; one thread
struct draw *draw_create(const struct kern *kern, uint32_t vocab);
void draw_destroy(struct draw *draw);

struct draw_call {
    const float *logits;
    const struct serve_sampling *sampling;
    const int32_t *tokens; // (prompt + drawn): all before this one
    uint32_t prompt_count, count;
    const uint64_t *mask; // tokens that may come; NULL: all
};
// The position of the draw is `count`. logprobs: NULL, or 1 + top places: log probability of the token drawn by the
// model alone (before bias, penalties, temperature), then the `top` most likely, lowest id first among equals.
int32_t draw_token(struct draw *draw, const struct draw_call *call, uint32_t top, struct serve_logprob *logprobs);
// What draw_token() draws, then the likeliest others that may come: guesses for the draw at this position by a model
// with other logits. Returns how many there are, at most `most`.
uint32_t draw_guesses(struct draw *draw, const struct draw_call *call, uint32_t most, int32_t *tokens);

#endif
