// Speculation: tokens proposed for a sequence, fed with it in one batch, and kept as long as the plain draw at their
// position is what was proposed (NUMERICS 18), so that it shows in speed alone. By look-up of the last tokens in what
// is there already (prompt and answer), or by a smaller model with the same sampler: the same counters make it draw
// alike.
#include "base/mem.h"
#include "serve/engine_int.h"

#include <string.h>

enum { NGRAM = 2 };

struct drafter { // a smaller model; each slot has pages of its own
    struct batch *batch;
    struct draw *draw;
    uint32_t *pages, pages_each; // (slots, pages_each)
    uint32_t *fed;               // (slots)
    struct batch_run *runs;
    uint32_t *who;
    int32_t *guess; // (slots, ENGINE_SPECULATE_MAX)
};

bg_status drafter_create(struct engine *e, struct bg_error *err)
{
    if (e->o.speculate != ENGINE_DRAFT)
        return BG_OK;
    const struct model_config *c = e->o.draft ? &e->o.draft->model->config : NULL;
    if (!c || c->vocab != e->vocab || c->context < e->context)
        return bg_fail(err, BG_MISMATCH,
                       "the draft model needs the vocabulary of the model (%u) and at least its context (%u): it has "
                       "%u and %u",
                       e->vocab, e->context, c ? c->vocab : 0, c ? c->context : 0);
    struct drafter *d = bg_alloc(sizeof *d);
    e->drafter = d;
    d->pages_each = e->context / BATCH_PAGE + 2;
    const struct batch_options options = {d->pages_each * e->o.slots, e->o.slots * e->o.chunk, e->o.slots};
    d->draw = draw_create(e->kern, e->vocab);
    d->pages = bg_alloc_array((size_t)e->o.slots * d->pages_each, sizeof *d->pages);
    for (uint32_t i = 0; i < e->o.slots * d->pages_each; i++)
        d->pages[i] = i;
    d->fed = bg_alloc_array(e->o.slots, sizeof *d->fed);
    d->runs = bg_alloc_array(e->o.slots, sizeof *d->runs);
    d->who = bg_alloc_array(e->o.slots, sizeof *d->who);
    return batch_create(e->env, e->o.draft, e->kern, &options, err, &d->batch);
}

void drafter_destroy(struct drafter *drafter)
{
    if (!drafter)
        return;
    batch_destroy(drafter->batch);
    draw_destroy(drafter->draw);
    bg_free(drafter->pages);
    bg_free(drafter->fed);
    bg_free(drafter->runs);
    bg_free(drafter->who);
    bg_free(drafter);
}

void drafter_forget(struct engine *e, int slot)
{
    if (e->drafter)
        e->drafter->fed[slot] = 0;
}

// How many tokens may be proposed: the one drawn after them must fit as well.
static uint32_t most_for(const struct engine *e, const struct job *job)
{
    const uint32_t left = job->request.tokens_max - job_drawn(job), room = e->context - job->count;
    uint32_t most = e->o.speculate_max < left - 1 ? e->o.speculate_max : left - 1;
    return most < room ? most : room;
}

static void look_up(const struct engine *e, struct job *job)
{
    const uint32_t most = most_for(e, job), last = job->count - NGRAM;
    for (uint32_t at = job->count > NGRAM ? last : 0; at-- > 0 && most > 0;) {
        if (memcmp(job->tokens + at, job->tokens + last, NGRAM * sizeof *job->tokens) != 0)
            continue;
        const uint32_t next = at + NGRAM, there = job->count - next;
        job->proposed_count = there < most ? there : most;
        memcpy(job->proposed, job->tokens + next, job->proposed_count * sizeof *job->proposed);
        return;
    }
}

// One more token of every sequence that wants one, all in one batch. False: nobody does.
static bool draft_round(struct engine *e, uint32_t round)
{
    struct drafter *d = e->drafter;
    size_t count = 0;
    const float *logits;
    struct bg_error err;
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        if (!job || job->count - job->fed != 1 || job->proposed_count != round || round >= most_for(e, job))
            continue;
        memcpy(job->tokens + job->count, job->proposed, round * sizeof *job->tokens);
        const uint32_t all = job->count + round;
        while (all - d->fed[i] > e->o.chunk) { // a prompt the draft has not seen: as much as fits in a turn
            const struct batch_run run = {job->tokens + d->fed[i], e->o.chunk, d->fed[i],
                                          d->pages + (size_t)i * d->pages_each, 0};
            if (batch_forward(d->batch, &run, 1, &err, &logits))
                return false;
            d->fed[i] += e->o.chunk;
        }
        d->runs[count] = (struct batch_run){job->tokens + d->fed[i], all - d->fed[i], d->fed[i],
                                            d->pages + (size_t)i * d->pages_each, 1};
        d->who[count++] = i;
    }
    if (count == 0 || batch_forward(d->batch, d->runs, count, &err, &logits))
        return false;
    for (size_t k = 0; k < count; k++, logits += e->vocab) {
        struct job *job = e->slots[d->who[k]];
        const uint32_t all = job->count + round;
        const struct draw_call call = {logits, &job->request.sampling, job->tokens, job->request.prompt_count, all,
                                       NULL};
        job->proposed[job->proposed_count++] = draw_token(d->draw, &call, 0, NULL);
        d->fed[d->who[k]] = all;
    }
    return true;
}

void drafter_propose(struct engine *e)
{
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        if (!job)
            continue;
        job->proposed_count = 0;
        if (e->o.speculate == ENGINE_NGRAM && job->count - job->fed == 1)
            look_up(e, job);
        if (e->drafter && e->drafter->fed[i] >= job->count) // what it was fed beyond was not drawn
            e->drafter->fed[i] = job->count - 1;
    }
    for (uint32_t round = 0; e->drafter && round < e->o.speculate_max && draft_round(e, round); round++)
        continue;
}
