// The engine from outside: making it, asking it, running it, what it counts.
#include "base/hash.h"
#include "base/mem.h"
#include "serve/engine_int.h"

#include <math.h>
#include <string.h>

const double engine_bucket_s[24] = {0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02,
                                    0.03,   0.05,  0.075, 0.1,   0.2,   0.3,    0.5,  0.75,
                                    1,      2,     3,     5,     10,    30,     60,   INFINITY};

const char *serve_finish_name(enum serve_finish finish)
{
    static const char *const names[] = {"running",   "stop",    "length",      "context",
                                        "cancelled", "expired", "handed-over", "failed"};
    return names[finish];
}

// ---- Making it ----
// Every way to speculate is a tree: a chain has one child everywhere. Levels that would make too many lanes have one.
static void set_tree(struct engine *e)
{
    static const uint8_t usual[ENGINE_SPECULATE_MAX] = {2, 2, 1, 1};
    struct engine_options *o = &e->o;
    if (o->speculate != ENGINE_TREE)
        memset(o->expand, 0, sizeof o->expand);
    else if (o->expand[0] == 0)
        memcpy(o->expand, usual, sizeof usual);
    for (uint32_t i = 0; o->speculate != ENGINE_TREE && i < o->speculate_max; i++)
        o->expand[i] = 1;
    e->lanes = e->lane_rows = 1;
    for (uint32_t i = 0; i < ENGINE_SPECULATE_MAX && o->expand[i]; i++) {
        if (e->lanes * o->expand[i] > GUESS_LANES)
            o->expand[i] = 1;
        e->lanes *= o->expand[i];
        e->lane_rows++;
    }
    o->speculate_max = e->lane_rows - 1;
}

static void set_defaults(struct engine *e)
{
    struct engine_options *o = &e->o;
    const struct model_config *c = &e->packed->model->config;
    const uint64_t page = packed_page_bytes(e->packed);
    o->slots = o->slots ? o->slots : 16;
    o->chunk = o->chunk ? o->chunk : 256;
    o->queue_max = o->queue_max ? o->queue_max : 256;
    o->batch_wait_us = o->batch_wait_us > 0 ? fmin(o->batch_wait_us, 1e6) : 0;
    o->disk_cache_bytes = o->disk_cache_bytes ? o->disk_cache_bytes : (uint64_t)1 << 30;
    e->context = o->context && o->context < c->context ? o->context : c->context;
    o->queue_tokens_max = o->queue_tokens_max ? o->queue_tokens_max : 64 * (uint64_t)e->context;
    o->speculate_max = o->speculate_max ? o->speculate_max : 4;
    if (o->speculate_max > ENGINE_SPECULATE_MAX)
        o->speculate_max = ENGINE_SPECULATE_MAX;
    if (o->speculate == ENGINE_PLAIN)
        o->speculate_max = 0;
    set_tree(e);
    uint64_t one = (uint64_t)(e->context + ENGINE_SPECULATE_MAX) / BATCH_PAGE + 2, all = one * o->slots;
    if (o->kv_bytes)
        all = o->kv_bytes / page;
    else if (all * page > e->env->ops->memory_total(e->env) / 2)
        all = e->env->ops->memory_total(e->env) / 2 / page;
    all = all > one ? all : one; // one request of the whole context always fits
    e->page_total = all < UINT32_MAX / 2 ? (uint32_t)all : UINT32_MAX / 2;
    e->vocab = c->vocab;
    e->rows_max = o->slots * e->lanes * e->lane_rows + o->chunk;
}

struct fingerprint {
    const struct packed_model *packed;
    uint64_t *sums; // of each layer, then of the head
};

static uint64_t sum_of(const struct packed_linear *l)
{
    return l->w.data ? bg_xxh64(l->w.data, kern_packed_bytes(l->w.type, l->w.n, l->w.k)) : 0;
}

static void sum_layer(void *arg, size_t index, unsigned lane)
{
    const struct fingerprint *f = arg;
    (void)lane;
    if (index == f->packed->model->config.layers) {
        f->sums[index] = sum_of(&f->packed->head);
        return;
    }
    const struct packed_block *b = &f->packed->blocks[index];
    const uint64_t sums[] = {sum_of(&b->q),    sum_of(&b->k),  sum_of(&b->v),   sum_of(&b->o),
                             sum_of(&b->gate), sum_of(&b->up), sum_of(&b->down)};
    f->sums[index] = bg_xxh64(sums, sizeof sums);
}

// Of every number that keys and values are made of: pages outlive the process, and a model may differ from another in
// one layer only.
static uint64_t fingerprint_of(struct bg_env *env, const struct packed_model *packed)
{
    const struct model *model = packed->model;
    const size_t layers = model->config.layers, count = layers + 1 + model->param_count + 2;
    uint64_t *sums = bg_alloc_array(count, sizeof *sums);
    struct fingerprint f = {packed, sums};
    env_parallel_for(env, layers + 1, sum_layer, &f);
    for (uint32_t i = 0; i < model->param_count; i++) {
        const struct model_param *p = &model->params[i];
        if (p->rank == 1 || p->unit == 0) // norms, biases, tables: not packed
            sums[layers + 1 + i] = bg_xxh64(packed->weights + p->offset, p->count * sizeof(float));
    }
    sums[count - 2] = (uint64_t)packed->type;
    sums[count - 1] = bg_xxh64(&model->config, sizeof model->config);
    const uint64_t sum = bg_xxh64(sums, count * sizeof *sums);
    bg_free(sums);
    return sum;
}

bg_status engine_create(struct bg_env *env, const struct packed_model *packed, const struct kern *kern,
                        const struct tokenizer *tokenizer, const struct engine_options *options, struct bg_error *err,
                        struct engine **engine)
{
    if (tokenizer_size(tokenizer) > packed->model->config.vocab)
        return bg_fail(err, BG_MISMATCH, "the tokenizer has %u tokens, the model only %u", tokenizer_size(tokenizer),
                       packed->model->config.vocab);
    struct engine *e = bg_alloc(sizeof *e);
    *e = (struct engine){.env = env, .packed = packed, .kern = kern, .tokenizer = tokenizer, .o = *options};
    atomic_init(&e->doing, "waiting for work");
    set_defaults(e);
    e->fingerprint = fingerprint_of(env, packed);
    e->slots = bg_alloc_array(e->o.slots, sizeof *e->slots);
    e->slot_stats = bg_alloc_array(e->o.slots, sizeof *e->slot_stats);
    e->slot_tokens = bg_alloc_array(e->o.slots, sizeof *e->slot_tokens);
    for (uint32_t i = 0; i < e->o.slots; i++)
        e->slot_tokens[i].tokens = bg_alloc_array(e->context + 1u, sizeof(int32_t));
    const size_t runs = (size_t)e->o.slots * e->lanes;
    e->runs = bg_alloc_array(runs, sizeof *e->runs);
    e->run_job = bg_alloc_array(runs, sizeof *e->run_job);
    e->lane_tokens = bg_alloc_array(runs * e->lane_rows, sizeof *e->lane_tokens);
    e->lane_page_max = (e->context + ENGINE_SPECULATE_MAX) / BATCH_PAGE + 2;
    e->lane_pages = bg_alloc_array(runs * e->lane_page_max, sizeof *e->lane_pages);
    e->logprobs = bg_alloc_array((1u + ENGINE_SPECULATE_MAX) * 21u, sizeof *e->logprobs);
    e->mask = bg_alloc_array(e->vocab / 64 + 1, sizeof *e->mask);
    e->draw = draw_create(kern, e->vocab);
    const struct batch_options batch = {e->page_total, e->rows_max, e->o.slots * e->lanes * e->lane_rows};
    bg_status status = batch_create(env, packed, kern, &batch, err, &e->batch);
    if (!status)
        status = env->ops->gate_create(env, err, &e->gate);
    if (!status)
        status = drafter_create(e, err);
    if (!status) {
        const struct outside_options outside = {batch_page_bytes(e->batch), e->fingerprint, e->o.host_cache_bytes,
                                                e->o.disk_cache, e->o.disk_cache_bytes};
        status = outside_create(env, &outside, err, &e->outside);
    }
    if (!status)
        e->pages = pages_create(e->batch, e->page_total, e->outside);
    if (status)
        engine_destroy(e);
    else
        *engine = e;
    return status;
}

uint64_t engine_fingerprint(const struct engine *engine)
{
    return engine->fingerprint;
}

void engine_destroy(struct engine *engine)
{
    struct engine *e = engine;
    if (!e)
        return;
    for (uint32_t i = 0; i < e->o.slots; i++)
        if (e->slots[i])
            job_destroy(e->slots[i]);
    struct job *const lists[] = {e->waiting, e->inbox};
    for (size_t l = 0; l < 2; l++)
        for (struct job *job = lists[l], *next; job; job = next) {
            next = job->next;
            job_destroy(job);
        }
    drafter_destroy(e->drafter);
    pages_destroy(e->pages);
    outside_destroy(e->outside);
    batch_destroy(e->batch);
    draw_destroy(e->draw);
    if (e->gate)
        e->env->ops->gate_destroy(e->env, e->gate);
    bg_free(e->cancels);
    bg_free(e->mask);
    bg_free(e->logprobs);
    bg_str_fini(&e->text);
    bg_free(e->runs);
    bg_free(e->run_job);
    bg_free(e->lane_tokens);
    bg_free(e->lane_pages);
    bg_free(e->slot_stats);
    for (uint32_t i = 0; i < e->o.slots; i++)
        bg_free(e->slot_tokens[i].tokens);
    bg_free(e->slot_tokens);
    bg_free(e->slots);
    bg_free(e);
}

// ---- Asking it ----
static bg_status check_ids(const struct engine *e, const char *what, const int32_t *ids, uint32_t count,
                           struct bg_error *err)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->vocab)
            return bg_fail(err, BG_INVALID, "%s: token id %d is outside the model's vocabulary of %u", what, ids[i],
                           e->vocab);
    return BG_OK;
}

static bg_status check(const struct engine *e, const struct serve_request *r, struct bg_error *err)
{
    bg_status status = check_ids(e, "prompt", r->prompt, r->prompt_count, err);
    if (!status)
        status = check_ids(e, "drawn tokens", r->drawn, r->drawn_count, err);
    for (uint32_t i = 0; i < r->sampling.bias_count && !status; i++)
        status = check_ids(e, "logit_bias", &r->sampling.biases[i].id, 1, err);
    for (uint32_t i = 0; i < r->stop_count && !status; i++)
        if (!*r->stops[i])
            status = bg_fail(err, BG_INVALID, "stop: an empty string stops nothing");
    if (status)
        return status;
    if (r->prompt_count == 0)
        return bg_fail(err, BG_INVALID, "the prompt has no tokens");
    if (r->prompt_count >= e->context + r->embed)
        return bg_fail(err, BG_INVALID,
                       "the request exceeds the available context size: the prompt has %u tokens, the context %u",
                       r->prompt_count, e->context);
    const uint32_t room = e->context + 1 - r->prompt_count; // the last token drawn need not be fed
    const uint32_t most = r->tokens_max < room ? r->tokens_max : room;
    if (r->drawn_count > most)
        return bg_fail(err, BG_INVALID, "%u tokens were drawn already, at most %u may come after this prompt",
                       r->drawn_count, most);
    if ((r->tokens_max == 0) != r->embed || r->top_logprobs > 20)
        return bg_fail(err, BG_INVALID, "%u tokens were asked for with %u logprobs: expected 1 or more, at most 20",
                       r->tokens_max, r->top_logprobs);
    return BG_OK;
}

bg_status engine_submit(struct engine *engine, const struct serve_request *request, struct bg_error *err, uint64_t *id,
                        double *retry_s)
{
    struct engine *e = engine;
    struct bg_env *env = e->env;
    bg_status status = check(e, request, err);
    if (status)
        return status;
    struct job *job = job_create(e, request);
    env->ops->gate_enter(env, e->gate);
    const uint64_t now = env_now_ns(env);
    if (e->draining && !request->follows)
        status = bg_fail(err, BG_STOPPED, "this server is being drained");
    else if (!request->follows &&
             (e->queued >= e->o.queue_max || e->queued_tokens + request->prompt_count > e->o.queue_tokens_max))
        status = bg_fail(err, BG_FULL, "%u requests with %llu prompt tokens are waiting: ask again later", e->queued,
                         (unsigned long long)e->queued_tokens);
    if (retry_s) { // by what a request has taken on average
        const uint64_t done = e->stats.finished[SERVE_STOP] + e->stats.finished[SERVE_LENGTH];
        const double each = done ? e->stats.total_s / (double)done : 1;
        *retry_s = fmin(60, fmax(1, each * e->queued / e->o.slots));
    }
    if (!status) {
        job->id = ++e->next_id;
        job->arrived_ns = now;
        job->next = e->inbox;
        e->inbox = job;
        e->queued++;
        e->queued_tokens += request->prompt_count;
        e->stats.submitted++;
        if (e->last_arrival_ns) {
            const double gap = (double)(now - e->last_arrival_ns) + 1;
            e->gap_ns = e->gap_ns > 0 ? 0.8 * e->gap_ns + 0.2 * gap : gap;
        }
        e->last_arrival_ns = now;
        *id = job->id;
        env->ops->gate_ring(env, e->gate);
    }
    env->ops->gate_leave(env, e->gate);
    if (status)
        job_destroy(job);
    return status;
}

void engine_cancel(struct engine *engine, uint64_t id)
{
    struct engine *e = engine;
    e->env->ops->gate_enter(e->env, e->gate);
    if (e->cancel_count == e->cancel_capacity) {
        e->cancel_capacity = e->cancel_capacity * 2 + 16;
        e->cancels = bg_realloc_array(e->cancels, e->cancel_capacity, sizeof *e->cancels);
    }
    e->cancels[e->cancel_count++] = id;
    e->env->ops->gate_ring(e->env, e->gate);
    e->env->ops->gate_leave(e->env, e->gate);
}

void engine_drain(struct engine *engine, bool hand_over)
{
    struct engine *e = engine;
    e->env->ops->gate_enter(e->env, e->gate);
    e->draining = e->stats.draining = true;
    e->hand_over |= hand_over;
    e->env->ops->gate_ring(e->env, e->gate);
    e->env->ops->gate_leave(e->env, e->gate);
}

// ---- Running it ----
// Adaptive batching: a first request waits for companions as long as the next arrival is likely within mu, each time
// again, but no longer than four mu in all.
static void wait_for_company(struct engine *e)
{
    struct bg_env *env = e->env;
    const uint64_t mu = (uint64_t)(e->o.batch_wait_us * 1000), end = env_now_ns(env) + 4 * mu;
    env->ops->gate_enter(env, e->gate);
    for (uint64_t now = env_now_ns(env); e->gap_ns > 0 && e->gap_ns < (double)mu && e->queued < e->o.slots;
         now = env_now_ns(env)) {
        const uint64_t alone = e->last_arrival_ns + mu, until = alone < end ? alone : end;
        if (now >= until || e->stopping || e->draining)
            break;
        env->ops->gate_wait(env, e->gate, until - now);
    }
    env->ops->gate_leave(env, e->gate);
}

void engine_run(struct engine *engine)
{
    struct engine *e = engine;
    struct bg_env *env = e->env;
    env->ops->gate_enter(env, e->gate);
    e->looping = e->looped = true;
    env->ops->gate_leave(env, e->gate);
    for (bool stop = false; !stop;) {
        const bool busy = engine_step(e);
        bool woken = false;
        env->ops->gate_enter(env, e->gate);
        if (!busy && !e->inbox && !e->commands && !e->cancel_count && !e->stopping) {
            env->ops->gate_wait(env, e->gate, 100000000);
            woken = e->inbox != NULL;
        }
        stop = e->stopping || env->ops->stop_signal(env) != 0;
        env->ops->gate_leave(env, e->gate);
        if (woken)
            wait_for_company(e);
    }
    env->ops->gate_enter(env, e->gate);
    e->looping = false;
    env->ops->gate_leave(env, e->gate);
}

void engine_stop(struct engine *engine)
{
    struct engine *e = engine;
    e->env->ops->gate_enter(e->env, e->gate);
    e->stopping = true;
    e->env->ops->gate_ring(e->env, e->gate);
    e->env->ops->gate_leave(e->env, e->gate);
}

struct engine_pulse engine_pulse(struct engine *engine)
{
    return (struct engine_pulse){atomic_load(&engine->turns), atomic_load(&engine->doing)};
}

void engine_get_stats(struct engine *engine, struct engine_stats *stats, struct engine_slot *slots, uint32_t slot_count)
{
    struct engine *e = engine;
    e->env->ops->gate_enter(e->env, e->gate);
    *stats = e->stats;
    stats->waiting = e->queued;
    stats->slots = e->o.slots;
    stats->waiting_tokens = e->queued_tokens;
    for (uint32_t i = 0; i < slot_count; i++)
        slots[i] = i < e->o.slots ? e->slot_stats[i] : (struct engine_slot){0};
    e->env->ops->gate_leave(e->env, e->gate);
}
