// Nothing here knows of batches or slots: one row of logits in, one token out.
#include "serve/draw.h"

#include "base/dmath.h"
#include "base/mem.h"
#include "model/sample.h"

#include <math.h>
#include <string.h>

struct draw {
    const struct kern *kern;
    uint32_t vocab;
    struct sampler *sampler;
    float *logits;    // as changed for the draw
    uint32_t *counts; // (vocab): of drawn tokens; zero between calls
    uint8_t *seen;    // (vocab): looked back on; zero between calls
};

struct draw *draw_create(const struct kern *kern, uint32_t vocab)
{
    struct draw *d = bg_alloc(sizeof *d);
    *d = (struct draw){.kern = kern, .vocab = vocab, .sampler = sampler_create(kern, vocab)};
    d->logits = bg_alloc_array(vocab, sizeof *d->logits);
    d->counts = bg_alloc_array(vocab, sizeof *d->counts);
    d->seen = bg_alloc_array(vocab, 1);
    return d;
}

void draw_destroy(struct draw *draw)
{
    if (!draw)
        return;
    sampler_destroy(draw->sampler);
    bg_free(draw->logits);
    bg_free(draw->counts);
    bg_free(draw->seen);
    bg_free(draw);
}

// presence and frequency: OpenAI's, over drawn tokens. repeat: llama.cpp's, over the last tokens, each once.
static void penalise(struct draw *d, const struct draw_call *c)
{
    const struct serve_sampling *s = c->sampling;
    if (s->presence_penalty != 0 || s->frequency_penalty != 0) {
        for (uint32_t i = c->prompt_count; i < c->count; i++)
            d->counts[c->tokens[i]]++;
        for (uint32_t i = c->prompt_count; i < c->count; i++) {
            const int32_t id = c->tokens[i];
            if (d->counts[id] == 0)
                continue;
            d->logits[id] -= s->presence_penalty;
            d->logits[id] -= (float)d->counts[id] * s->frequency_penalty;
            d->counts[id] = 0;
        }
    }
    if (s->repeat_penalty == 1.0f || s->repeat_last == 0)
        return;
    const uint32_t first = c->count > s->repeat_last ? c->count - s->repeat_last : 0;
    for (uint32_t i = first; i < c->count; i++) {
        const int32_t id = c->tokens[i];
        if (!d->seen[id])
            d->logits[id] = d->logits[id] > 0 ? d->logits[id] / s->repeat_penalty : d->logits[id] * s->repeat_penalty;
        d->seen[id] = 1;
    }
    for (uint32_t i = first; i < c->count; i++)
        d->seen[c->tokens[i]] = 0;
}

static void list_logprobs(struct draw *d, const float *logits, int32_t token, uint32_t top, struct serve_logprob *out)
{
    for (uint32_t i = 0; i < d->vocab; i++)
        d->logits[i] = isnan(logits[i]) ? -INFINITY : logits[i]; // never drawn either
    d->kern->softmax(d->logits, d->vocab);
    out[0] = (struct serve_logprob){token, d->logits[token]};
    for (uint32_t k = 1; k <= top; k++) {
        int32_t best = -1;
        for (uint32_t i = 0; i < d->vocab; i++)
            if (!d->seen[i] && (best < 0 || d->logits[i] > d->logits[best]))
                best = (int32_t)i;
        out[k] = (struct serve_logprob){best, best < 0 ? 0 : d->logits[best]};
        if (best >= 0)
            d->seen[best] = 1;
    }
    for (uint32_t k = 0; k <= top; k++) {
        if (k > 0 && out[k].id >= 0)
            d->seen[out[k].id] = 0;
        out[k].logprob = out[k].logprob > 0 ? (float)bg_dlog((double)out[k].logprob) : -9999.0f; // as OpenAI has it
    }
}

int32_t draw_token(struct draw *draw, const struct draw_call *call, uint32_t top, struct serve_logprob *logprobs)
{
    const struct serve_sampling *s = call->sampling;
    memcpy(draw->logits, call->logits, draw->vocab * sizeof *call->logits);
    for (uint32_t i = 0; i < s->bias_count; i++)
        draw->logits[s->biases[i].id] += s->biases[i].bias;
    penalise(draw, call);
    for (uint32_t i = 0; call->mask && i < draw->vocab; i++)
        if (!(call->mask[i / 64] >> i % 64 & 1))
            draw->logits[i] = -INFINITY;
    const struct sample_options options = {.temperature = s->temperature,
                                           .top_k = s->top_k,
                                           .top_p = s->top_p,
                                           .min_p = s->min_p,
                                           .seed = s->seed,
                                           .choice = s->choice};
    int32_t token = sampler_draw(draw->sampler, draw->logits, &options, call->count);
    if (call->mask && !(call->mask[token / 64] >> token % 64 & 1)) { // all that may come are at -infinity: the first
        for (token = 0; !(call->mask[token / 64] >> token % 64 & 1);)
            token++;
    }
    if (logprobs)
        list_logprobs(draw, call->logits, token, top, logprobs);
    return token;
}

uint32_t draw_guesses(struct draw *draw, const struct draw_call *call, uint32_t most, int32_t *tokens)
{
    uint32_t count = 1;
    tokens[0] = draw_token(draw, call, 0, NULL);
    for (float *l = draw->logits; count < most; count++) { // as changed for the draw
        int32_t best = -1;
        l[tokens[count - 1]] = -INFINITY;
        for (uint32_t i = 0; i < draw->vocab; i++)
            if (l[i] > (best < 0 ? -INFINITY : l[best]))
                best = (int32_t)i;
        if (best < 0)
            break;
        tokens[count] = best;
    }
    return count;
}
