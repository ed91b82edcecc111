// Speculation: tokens proposed for a sequence, fed with it in one batch, and kept as long as the plain draw at their
// position is what was proposed (NUMERICS 18), so that it shows in speed alone. By look-up of the last tokens in what
// is there already (prompt and answer), or by a smaller model with the same sampler: the same counters make it draw
// alike. A token tree (SpecInfer, ASPLOS'24, section 4) adds what the smaller model thinks likely besides.
#include "base/mem.h"
#include "serve/engine_int.h"

#include <string.h>

enum { NGRAM = 2, TAIL = 2 }; // TAIL: pages that hold ENGINE_SPECULATE_MAX positions, wherever they begin

// ---- The tree ----
void guesses_reset(struct guesses *g)
{
    g->count = g->lanes = 1;
    g->of[0] = (struct guess){0};
}

static void add_guess(struct guesses *g, uint32_t parent, bool first, int32_t token)
{
    g->of[g->count++] = (struct guess){token, (uint8_t)parent, (uint8_t)(g->of[parent].depth + 1),
                                       first ? g->of[parent].lane : (uint8_t)g->lanes};
    g->lanes += !first;
}

uint32_t guesses_leaf(const struct guesses *g, uint32_t lane)
{
    uint32_t leaf = g->count - 1;
    while (g->of[leaf].lane != lane)
        leaf--;
    return leaf;
}

uint32_t guesses_child(const struct guesses *g, uint32_t parent, int32_t token)
{
    for (uint32_t i = parent + 1; i < g->count; i++)
        if (g->of[i].parent == parent && g->of[i].token == token)
            return i;
    return 0;
}

// What is dropped is without children that stay: these are deeper, or in a lane of a higher number.
void guesses_cut(struct guesses *g, uint32_t lanes, uint32_t depth)
{
    uint8_t moved[GUESS_MAX] = {0};
    uint32_t count = 1;
    for (uint32_t i = 1; i < g->count; i++) {
        if (g->of[i].lane >= lanes || g->of[i].depth > depth)
            continue;
        moved[i] = (uint8_t)count;
        g->of[count] = g->of[i];
        g->of[count].parent = moved[g->of[i].parent];
        count++;
    }
    g->count = count;
    g->lanes = lanes;
}

uint32_t guesses_path(const struct guesses *g, uint32_t lane, int32_t *tokens)
{
    uint32_t at = guesses_leaf(g, lane);
    const uint32_t count = g->of[at].depth + 1u;
    for (; at > 0; at = g->of[at].parent)
        tokens[g->of[at].depth] = g->of[at].token;
    return count;
}

// How many tokens may be proposed: the one drawn after them must fit as well.
static uint32_t most_for(const struct engine *e, const struct job *job)
{
    const uint32_t left = job->request.tokens_max - job_drawn(job), room = e->context - job->count;
    uint32_t most = e->o.speculate_max < left - 1 ? e->o.speculate_max : left - 1;
    return most < room ? most : room;
}

static bool decodes(const struct job *job)
{
    return job && !job->request.embed && job->count - job->fed == 1;
}

// ---- Look-up ----
static void look_up(const struct engine *e, struct job *job)
{
    const uint32_t most = most_for(e, job), last = job->count - NGRAM;
    for (uint32_t at = job->count > NGRAM ? last : 0; at-- > 0 && most > 0;) {
        if (memcmp(job->tokens + at, job->tokens + last, NGRAM * sizeof *job->tokens) != 0)
            continue;
        for (uint32_t i = 0; i < most && at + NGRAM + i < job->count; i++)
            add_guess(&job->guesses, i, true, job->tokens[at + NGRAM + i]);
        return;
    }
}

// ---- A smaller model ----
// Each slot has pages of its own for the whole context, and for every further lane pages for what follows the last
// whole page of the tokens that are certain.
struct drafter {
    struct batch *batch;
    struct draw *draw;
    uint32_t *pages, pages_each; // (slots, lanes, pages_each)
    uint32_t *spare;             // (slots, lanes, TAIL)
    uint32_t *fed;               // (slots)
    struct batch_run *runs;      // (slots x lanes)
    struct draft_for {
        struct job *job; // NULL: nothing is drawn from this run
        uint32_t guess;
    } * who;
};

bg_status drafter_create(struct engine *e, struct bg_error *err)
{
    if (e->o.speculate != ENGINE_DRAFT && e->o.speculate != ENGINE_TREE)
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
    const uint32_t lanes = e->o.slots * e->lanes, rows = e->lanes > e->lane_rows ? e->lanes : e->lane_rows;
    const struct batch_options options = {e->o.slots * d->pages_each + lanes * TAIL, e->o.slots * rows + e->o.chunk,
                                          lanes};
    d->draw = draw_create(e->kern, e->vocab);
    d->pages = bg_alloc_array((size_t)lanes * d->pages_each, sizeof *d->pages);
    d->spare = bg_alloc_array((size_t)lanes * TAIL, sizeof *d->spare);
    for (uint32_t slot = 0, next = 0; slot < e->o.slots; slot++) {
        for (uint32_t i = 0; i < d->pages_each; i++)
            d->pages[slot * e->lanes * d->pages_each + i] = next++;
        for (uint32_t i = 0; i < e->lanes * TAIL; i++)
            d->spare[slot * e->lanes * TAIL + i] = next++;
    }
    d->fed = bg_alloc_array(e->o.slots, sizeof *d->fed);
    d->runs = bg_alloc_array(lanes, sizeof *d->runs);
    d->who = bg_alloc_array(lanes, sizeof *d->who);
    return batch_create(e->env, e->o.draft, e->kern, &options, err, &d->batch);
}

void drafter_destroy(struct drafter *drafter)
{
    if (!drafter)
        return;
    batch_destroy(drafter->batch);
    draw_destroy(drafter->draw);
    bg_free(drafter->pages);
    bg_free(drafter->spare);
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

static uint32_t *lane_table(const struct engine *e, int slot, uint32_t lane)
{
    return e->drafter->pages + ((size_t)slot * e->lanes + lane) * e->drafter->pages_each;
}

static uint32_t *lane_spare(const struct engine *e, int slot, uint32_t lane)
{
    return e->drafter->spare + ((size_t)slot * e->lanes + lane) * TAIL;
}

// A lane that goes on where `from` is: it shares the whole pages before `count`, and has copies of what follows up to
// `filled`.
static void begin_lane(const struct engine *e, int slot, uint32_t lane, uint32_t from, uint32_t count, uint32_t filled)
{
    const uint32_t first = count / BATCH_PAGE;
    uint32_t *own = lane_table(e, slot, lane);
    const uint32_t *theirs = lane_table(e, slot, from);
    memcpy(own, theirs, first * sizeof *own);
    for (uint32_t i = 0; i < TAIL && first + i < e->drafter->pages_each; i++) {
        own[first + i] = lane_spare(e, slot, lane)[i];
        if ((first + i) * BATCH_PAGE < filled)
            memcpy(batch_page(e->drafter->batch, own[first + i]), batch_page(e->drafter->batch, theirs[first + i]),
                   batch_page_bytes(e->drafter->batch));
    }
}

void drafter_learn(struct engine *e, const struct job *job, uint32_t count, uint32_t guess)
{
    struct drafter *d = e->drafter;
    if (!d || job->guesses.count == 1)
        return;
    const struct guess *g = &job->guesses.of[guess];
    const uint32_t deepest = job->guesses.of[guesses_leaf(&job->guesses, g->lane)].depth, first = count / BATCH_PAGE;
    uint32_t *own = lane_table(e, job->slot, 0), *spare = lane_spare(e, job->slot, g->lane);
    for (uint32_t i = 0; g->lane > 0 && i < TAIL && first + i < d->pages_each; i++) {
        const uint32_t page = own[first + i];
        own[first + i] = spare[i];
        spare[i] = page;
    }
    d->fed[job->slot] = count + (g->depth < deepest ? g->depth : deepest - 1); // a leaf is not fed
}

// The tokens before the children of a guess, where a draw looks for them.
static uint32_t tokens_up_to(struct job *job, uint32_t guess)
{
    const struct guesses *g = &job->guesses;
    for (uint32_t at = guess; at > 0; at = g->of[at].parent)
        job->tokens[job->count + g->of[at].depth - 1] = g->of[at].token;
    return job->count + g->of[guess].depth;
}

static void expand(struct engine *e, struct job *job, uint32_t guess, const float *logits)
{
    int32_t tokens[GUESS_LANES];
    struct guesses *g = &job->guesses;
    const uint32_t depth = g->of[guess].depth, count = tokens_up_to(job, guess), before = job->count;
    struct grammar_state *grammar = job->grammar ? grammar_state_copy(job->grammar) : NULL;
    bool open = true;
    for (uint32_t i = before; i < count && grammar && open; i++)
        open = grammar_accept(grammar, job->tokens[i]);
    if (grammar && open)
        grammar_mask(grammar, e->mask);
    const struct draw_call call = {logits, &job->request.sampling,  job->tokens, job->request.prompt_count,
                                   count,  grammar ? e->mask : NULL};
    const uint32_t found = open ? draw_guesses(e->drafter->draw, &call, e->o.expand[depth], tokens) : 0;
    grammar_state_destroy(grammar);
    for (uint32_t i = 0; i < found; i++) {
        if (i > 0)
            begin_lane(e, job->slot, g->lanes, g->of[guess].lane, before, count);
        add_guess(g, guess, i == 0, tokens[i]);
    }
}

// One batch of the smaller model; what it thinks comes next becomes guesses.
static void draft(struct engine *e, size_t count)
{
    struct drafter *d = e->drafter;
    const float *logits;
    struct bg_error err;
    if (count == 0 || batch_forward(d->batch, d->runs, count, &err, &logits))
        return;
    for (size_t i = 0; i < count; i++) {
        if (d->runs[i].logits == 0)
            continue;
        expand(e, d->who[i].job, d->who[i].guess, logits);
        logits += e->vocab;
    }
}

static void add_draft(struct drafter *d, size_t *count, struct batch_run run, struct job *job, uint32_t guess)
{
    d->runs[*count] = run;
    d->who[(*count)++] = (struct draft_for){job, guess};
}

// All tokens that are certain. Who has few that are new goes first; the others share a chunk.
static void draft_certain(struct engine *e)
{
    struct drafter *d = e->drafter;
    size_t count = 0;
    uint32_t left = e->o.chunk;
    for (int few = 1; few >= 0; few--)
        for (uint32_t i = 0; i < e->o.slots; i++) {
            struct job *job = e->slots[i];
            if (!job || job->request.embed || (d->fed[i] < job->count && job->count - d->fed[i] <= e->lane_rows) != few)
                continue;
            const uint32_t new = job->count - d->fed[i], take = few || new < left ? new : left;
            const bool draws = take == new &&decodes(job) && most_for(e, job) > 0;
            if (take == 0 || (few && !draws))
                continue;
            left -= few ? 0 : take;
            add_draft(d, &count,
                      (struct batch_run){job->tokens + d->fed[i], take, d->fed[i], lane_table(e, (int)i, 0), draws},
                      job, 0);
            d->fed[i] += take;
        }
    draft(e, count);
}

// The guesses of one depth. Each is one row in its lane.
static bool draft_depth(struct engine *e, uint32_t depth)
{
    struct drafter *d = e->drafter;
    size_t count = 0;
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        for (uint32_t at = 1; job && depth < most_for(e, job) && at < job->guesses.count; at++) {
            const struct guess *g = &job->guesses.of[at];
            if (g->depth == depth)
                add_draft(d, &count,
                          (struct batch_run){&g->token, 1, job->count + depth - 1, lane_table(e, (int)i, g->lane), 1},
                          job, at);
        }
    }
    draft(e, count);
    return count > 0;
}

void drafter_propose(struct engine *e)
{
    if (e->o.speculate == ENGINE_PLAIN)
        return;
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        if (!job)
            continue;
        guesses_reset(&job->guesses);
        if (e->o.speculate == ENGINE_NGRAM && decodes(job))
            look_up(e, job);
        if (e->drafter && e->drafter->fed[i] >= job->count) // what it was fed beyond was not drawn
            e->drafter->fed[i] = job->count - 1;
    }
    if (!e->drafter)
        return;
    draft_certain(e);
    for (uint32_t depth = 1; depth < e->o.speculate_max && draft_depth(e, depth); depth++)
        continue;
}
