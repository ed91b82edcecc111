// One step: who runs, one batch through the model, what came of it. Decoding rows come first; what is left of the
// chunk goes to prompts, first come first served. Nothing decided here shows in a token.
#include "base/assert.h"
#include "base/mem.h"
#include "serve/engine_int.h"

#include <math.h>
#include <string.h>

static double seconds(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

static void count_into(uint64_t *buckets, double value)
{
    size_t i = 0;
    while (i < 23 && value > engine_bucket_s[i])
        i++;
    buckets[i]++;
}

// ---- Telling ----
static void tell(struct engine *e, struct job *job, const int32_t *tokens, uint32_t count, const struct bg_str *text,
                 const struct serve_logprob *logprobs)
{
    const uint64_t now = env_now_ns(e->env);
    const uint64_t started = job->started_ns ? job->started_ns : now, prefilled = job->prefilled_ns;
    const struct serve_event event = {.request = job->id,
                                      .user = job->request.user,
                                      .tokens = tokens,
                                      .token_count = count,
                                      .text = bg_str_text(text),
                                      .text_bytes = text->size,
                                      .logprobs = logprobs,
                                      .embedding = job->embedding,
                                      .finish = job->finish,
                                      .prompt_tokens = job->request.prompt_count,
                                      .cached_tokens = job->cached,
                                      .drawn_tokens = job_drawn(job),
                                      .queued_s = seconds(job->arrived_ns, started),
                                      .prefill_s = seconds(started, prefilled ? prefilled : now),
                                      .decode_s = prefilled ? seconds(prefilled, now) : 0};
    struct engine_stats *s = &e->stats;
    e->env->ops->gate_enter(e->env, e->gate);
    s->drawn_tokens += count;
    if (count > 0) {
        double value = seconds(job->told_ns ? job->told_ns : job->arrived_ns, now);
        count_into(job->told_ns ? s->gap : s->ttft, value);
        *(job->told_ns ? &s->gap_s : &s->ttft_s) += value;
    }
    if (job->finish != SERVE_RUNNING) {
        s->finished[job->finish]++;
        count_into(s->total, seconds(job->arrived_ns, now));
        s->total_s += seconds(job->arrived_ns, now);
    }
    e->env->ops->gate_leave(e->env, e->gate);
    job->told_ns = count > 0 ? now : job->told_ns;
    if (e->o.event)
        e->o.event(e->o.arg, &event);
}

static void finish_without_words(struct engine *e, struct job *job, enum serve_finish finish)
{
    const struct bg_str none = {0};
    job->finish = finish;
    tell(e, job, NULL, 0, &none, NULL);
}

// ---- Who waits ----
static bool goes_before(const struct job *a, const struct job *b)
{
    return a->request.priority != b->request.priority ? a->request.priority > b->request.priority : a->id < b->id;
}

static void wait_in_line(struct engine *e, struct job *job)
{
    struct job **at = &e->waiting;
    while (*at && goes_before(*at, job))
        at = &(*at)->next;
    job->next = *at;
    *at = job;
}

static void left_queue(struct engine *e, const struct job *job)
{
    e->env->ops->gate_enter(e->env, e->gate);
    e->queued--;
    e->queued_tokens -= job->request.prompt_count;
    e->env->ops->gate_leave(e->env, e->gate);
}

static enum serve_finish why_end(const struct job *job, const uint64_t *cancels, size_t count, bool hand_over,
                                 uint64_t now)
{
    for (size_t i = 0; i < count; i++)
        if (cancels[i] == job->id)
            return SERVE_CANCELLED;
    if (job->request.deadline_ms && now >= job->arrived_ns + job->request.deadline_ms * 1000000u)
        return SERVE_EXPIRED;
    return hand_over ? SERVE_HANDED : SERVE_RUNNING;
}

// Ends what is no longer wanted.
static void end_unwanted(struct engine *e, const uint64_t *cancels, size_t count, bool hand_over)
{
    const uint64_t now = env_now_ns(e->env);
    for (struct job **at = &e->waiting; *at;) {
        struct job *job = *at;
        enum serve_finish finish = why_end(job, cancels, count, hand_over, now);
        if (finish == SERVE_RUNNING) {
            at = &job->next;
            continue;
        }
        *at = job->next;
        if (job->started_ns == 0)
            left_queue(e, job);
        finish_without_words(e, job, finish);
        job_destroy(job);
    }
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        enum serve_finish finish = job ? why_end(job, cancels, count, hand_over, now) : SERVE_RUNNING;
        if (finish == SERVE_RUNNING)
            continue;
        finish_without_words(e, job, finish);
        job_unseat(e, job);
        job_destroy(job);
    }
}

// Takes in what other threads asked for.
static void take_inbox(struct engine *e)
{
    struct bg_env *env = e->env;
    env->ops->gate_enter(env, e->gate);
    struct job *inbox = e->inbox;
    struct command *commands = e->commands;
    uint64_t *cancels = e->cancels;
    const size_t cancel_count = e->cancel_count;
    const bool hand_over = e->hand_over;
    for (struct command *c = commands; c; c = c->next)
        c->taken = true;
    e->inbox = NULL;
    e->commands = NULL;
    e->cancels = NULL;
    e->cancel_count = e->cancel_capacity = 0;
    env->ops->gate_leave(env, e->gate);
    for (struct command *c = commands, *next; c; c = next) {
        next = c->next;
        engine_run_command(e, c);
        env->ops->gate_enter(env, e->gate);
        c->done = true;
        env->ops->gate_ring(env, e->gate);
        env->ops->gate_leave(env, e->gate);
    }
    for (struct job *job = inbox, *next; job; job = next) {
        next = job->next;
        wait_in_line(e, job);
    }
    end_unwanted(e, cancels, cancel_count, hand_over);
    bg_free(cancels);
}

static int free_slot(const struct engine *e)
{
    for (uint32_t i = 0; i < e->o.slots; i++)
        if (!e->slots[i])
            return (int)i;
    return ENGINE_NO_SLOT;
}

// Of those that run, the one that would come last; NULL where all come before `job` or with it in priority. *pages: all
// that such ones have.
static struct job *last_below(const struct engine *e, const struct job *job, uint32_t *pages)
{
    struct job *last = NULL;
    *pages = 0;
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *other = e->slots[i];
        if (!other || other->request.priority >= job->request.priority)
            continue;
        *pages += other->page_count;
        if (!last || goes_before(last, other))
            last = other;
    }
    return last;
}

// A slot for `job`, and pages as far as those that run will not need them. Who has a lower priority makes way where
// that helps, and waits again. ENGINE_NO_SLOT: not now.
static int slot_for(struct engine *e, const struct job *job)
{
    for (;;) {
        const int slot = free_slot(e);
        const struct pages_counts counts = pages_count(e->pages);
        const uint32_t there = counts.free + counts.cached, need = job->count / BATCH_PAGE + 2;
        uint32_t below;
        if (slot != ENGINE_NO_SLOT && (there >= need || e->running == 0))
            return slot;
        struct job *last = last_below(e, job, &below);
        if (!last || there + below < need)
            return ENGINE_NO_SLOT;
        job_unseat(e, last);
        wait_in_line(e, last);
    }
}

static void admit(struct engine *e)
{
    for (struct job *job; (job = e->waiting);) {
        const int slot = slot_for(e, job);
        if (slot == ENGINE_NO_SLOT)
            return;
        e->waiting = job->next;
        const bool first = job->started_ns == 0;
        if (first)
            left_queue(e, job);
        if (job->request.drawn_count && job->count == job->request.prompt_count && !job_replay(e, job)) {
            const struct bg_str none = {0};
            tell(e, job, NULL, 0, &none, NULL);
            job_destroy(job);
            continue;
        }
        job_seat(e, job, slot);
        if (!first)
            continue;
        e->env->ops->gate_enter(e->env, e->gate);
        e->stats.prompt_tokens += job->request.prompt_count;
        e->stats.cached_tokens += job->cached;
        count_into(e->stats.queued, seconds(job->arrived_ns, job->started_ns));
        e->stats.queued_s += seconds(job->arrived_ns, job->started_ns);
        e->env->ops->gate_leave(e->env, e->gate);
    }
}

// ---- The batch ----
// Pages for `job` up to `tokens`; others that come later give theirs up, and wait again. False: it has to wait itself.
static bool make_room(struct engine *e, struct job *job, uint32_t tokens)
{
    while (!job_room(e, job, tokens)) {
        struct job *last = job;
        for (uint32_t i = 0; i < e->o.slots; i++)
            if (e->slots[i] && goes_before(last, e->slots[i]))
                last = e->slots[i];
        job_unseat(e, last);
        wait_in_line(e, last);
        if (last == job)
            return false;
    }
    return true;
}

static struct batch_run *add_run(struct engine *e, size_t *count, struct job *job, uint32_t tokens, uint32_t logits)
{
    struct batch_run *run = &e->runs[*count];
    *run = (struct batch_run){job->tokens + job->fed, tokens, job->fed, job->page_of, logits};
    e->run_job[(*count)++] = job;
    return run;
}

static uint32_t pages_for(uint32_t tokens)
{
    return (tokens + BATCH_PAGE - 1) / BATCH_PAGE;
}

// Pages of its own from the last token on, which has position `fed`, for `count` tokens.
static bool give_lane_pages(struct engine *e, const struct job *job, uint32_t *pages, uint32_t count)
{
    const uint32_t whole = job->fed / BATCH_PAGE, end = pages_for(job->fed + count);
    memcpy(pages, job->page_of, whole * sizeof *pages);
    for (uint32_t i = whole; i < end; i++) {
        pages[i] = pages_take(e->pages);
        if (pages[i] != PAGES_NONE)
            continue;
        while (i-- > whole)
            pages_give(e->pages, pages[i]);
        return false;
    }
    if (job->fed % BATCH_PAGE)
        memcpy(batch_page(e->batch, pages[whole]), batch_page(e->batch, job->page_of[whole]),
               batch_page_bytes(e->batch));
    return true;
}

// The next token, and what is guessed after it as far as there are pages that nobody needs: a lane is a run that shares
// the whole pages. Where lanes share guesses, the first one's logits are asked for.
static void add_decoding(struct engine *e, size_t *count, struct job *job)
{
    struct guesses *g = &job->guesses;
    const uint32_t depth = g->of[guesses_leaf(g, 0)].depth;
    if (!job_room(e, job, job->count + depth))
        guesses_cut(g, 1, job->page_count * BATCH_PAGE - job->count);
    for (uint32_t lane = 0; lane < g->lanes; lane++) {
        int32_t *tokens = e->lane_tokens + *count * e->lane_rows;
        uint32_t *pages = e->lane_pages + *count * e->lane_page_max, rows = guesses_path(g, lane, tokens), shared = 0;
        tokens[0] = job->tokens[job->fed];
        if (lane > 0 && !give_lane_pages(e, job, pages, rows)) {
            guesses_cut(g, lane, ENGINE_SPECULATE_MAX);
            return;
        }
        for (uint32_t i = 1; i < g->count && lane > 0 && shared == 0; i++)
            shared = g->of[i].lane == lane ? g->of[i].depth : 0;
        struct batch_run *run = add_run(e, count, job, rows, rows - shared);
        run->tokens = tokens;
        run->pages = lane > 0 ? pages : job->page_of;
    }
}

static struct job *oldest_unfed(struct engine *e, const struct job *after, bool decoding)
{
    struct job *best = NULL;
    for (uint32_t i = 0; i < e->o.slots; i++) {
        struct job *job = e->slots[i];
        if (job && (job->count - job->fed == 1) == decoding && (!after || goes_before(after, job)) &&
            (!best || goes_before(job, best)))
            best = job;
    }
    return best;
}

// Everybody who decodes goes on, then prompts share the chunk; guesses have what is left.
static size_t form_batch(struct engine *e)
{
    size_t count = 0, left = e->o.chunk;
    const struct job *after = NULL;
    for (struct job *job; (job = oldest_unfed(e, after, true)); after = job)
        (void)make_room(e, job, job->count);
    after = NULL;
    for (struct job *job; left > 0 && (job = oldest_unfed(e, after, false)); after = job) {
        uint32_t want = job->count - job->fed, take = want < left ? want : (uint32_t)left;
        if (!make_room(e, job, job->fed + take))
            continue;
        add_run(e, &count, job, take, take == want);
        left -= take;
    }
    for (size_t i = 0; i < count;) { // who had to give pages up is not there any more
        if (e->run_job[i]->slot != ENGINE_NO_SLOT) {
            i++;
            continue;
        }
        count--;
        memmove(&e->runs[i], &e->runs[i + 1], (count - i) * sizeof *e->runs);
        memmove(&e->run_job[i], &e->run_job[i + 1], (count - i) * sizeof *e->run_job);
    }
    after = NULL;
    for (struct job *job; (job = oldest_unfed(e, after, true)); after = job)
        add_decoding(e, &count, job);
    return count;
}

// ---- What came of it ----
static int32_t draw_next(struct engine *e, struct job *job, const float *logits, struct serve_logprob *logprobs)
{
    if (job->grammar)
        grammar_mask(job->grammar, e->mask);
    const struct draw_call call = {logits,     &job->request.sampling,       job->tokens, job->request.prompt_count,
                                   job->count, job->grammar ? e->mask : NULL};
    return draw_token(e->draw, &call, job->request.top_logprobs, job->request.logprobs ? logprobs : NULL);
}

// The pages of the lane that holds `guess` become the sequence's, those of the other lanes nobody's.
static void keep_lane(struct engine *e, struct job *job, const struct batch_run *runs, uint32_t guess)
{
    const struct guesses *g = &job->guesses;
    const uint32_t kept = g->of[guess].lane, whole = runs->position / BATCH_PAGE;
    for (uint32_t lane = 1; lane < g->lanes; lane++)
        for (uint32_t i = whole; i < pages_for(runs->position + runs[lane].count); i++)
            if (lane != kept)
                pages_give(e->pages, runs[lane].pages[i]);
    if (kept == 0)
        return;
    while (job->page_count > whole)
        pages_give(e->pages, job->page_of[--job->page_count]);
    for (; job->page_count < pages_for(runs->position + runs[kept].count); job->page_count++) {
        job->page_of[job->page_count] = runs[kept].pages[job->page_count];
        job->nodes[job->page_count] = PAGES_NONE;
    }
}

// Draws after the last token, and goes on as long as what is drawn was guessed. Returns the last guess that was right.
static uint32_t draw_along(struct engine *e, struct job *job, const struct batch_run *runs, const float *logits,
                           struct bg_str *text)
{
    const struct guesses *g = &job->guesses;
    const float *lane_logits[GUESS_LANES];
    uint32_t lane_first[GUESS_LANES]; // depth of the first row of logits
    for (uint32_t lane = 0; lane < g->lanes; lane++) {
        lane_logits[lane] = logits;
        lane_first[lane] = g->of[guesses_leaf(g, lane)].depth + 1 - runs[lane].logits;
        logits += (size_t)runs[lane].logits * e->vocab;
    }
    for (uint32_t at = 0;;) {
        const struct guess *guess = &g->of[at];
        const float *row = lane_logits[guess->lane] + (guess->depth - lane_first[guess->lane]) * (size_t)e->vocab;
        const int32_t token =
            draw_next(e, job, row, e->logprobs + (size_t)guess->depth * (1 + job->request.top_logprobs));
        if (!isfinite(row[token])) { // weights that are damaged or too large: nothing drawn from them is an answer
            job->finish = SERVE_FAILED;
            return at;
        }
        job_take_token(e, job, token, text);
        const uint32_t child = job->finish == SERVE_RUNNING ? guesses_child(g, at, token) : 0;
        if (child == 0)
            return at;
        job->fed = job->count;
        at = child;
    }
}

// Text that the end set free goes out apart from the tokens of the same step: who goes on after these tokens elsewhere
// is told it again.
static void tell_drawn(struct engine *e, struct job *job, uint32_t first)
{
    const struct serve_logprob *logprobs = job->request.logprobs ? e->logprobs : NULL;
    const uint32_t count = job->count - first;
    if (count == 0 || job->freed == 0) {
        tell(e, job, job->tokens + first, count, &e->text, logprobs);
        return;
    }
    const size_t theirs = e->text.size - job->freed;
    const struct bg_str text = {e->text.data, theirs, theirs}, freed = {e->text.data + theirs, job->freed, job->freed};
    const enum serve_finish finish = job->finish;
    job->finish = SERVE_RUNNING;
    tell(e, job, job->tokens + first, count, &text, logprobs);
    job->finish = finish;
    tell(e, job, NULL, 0, &freed, NULL);
}

// What a sequence drew in this step; runs: one for each lane.
static void take_rows(struct engine *e, struct job *job, const struct batch_run *runs, const float *logits)
{
    const uint32_t first = job->count;
    bg_str_reset(&e->text);
    if (job->prefilled_ns == 0)
        job->prefilled_ns = env_now_ns(e->env);
    job->fed = job->count;
    const uint32_t right = draw_along(e, job, runs, logits, &e->text);
    keep_lane(e, job, runs, right);
    drafter_learn(e, job, first, right);
    e->env->ops->gate_enter(e->env, e->gate);
    e->stats.speculated += job->guesses.count - 1;
    e->stats.accepted += job->guesses.of[right].depth;
    e->env->ops->gate_leave(e->env, e->gate);
    tell_drawn(e, job, first);
    if (job->finish == SERVE_RUNNING) {
        job_trim(e, job);
        job_publish(e, job);
        return;
    }
    job_unseat(e, job);
    job_destroy(job);
}

static void take_embedding(struct engine *e, struct job *job, const float *hidden)
{
    const uint32_t dim = e->packed->model->config.dim;
    uint32_t good = 0;
    while (good < dim && isfinite(hidden[good]))
        good++;
    job->fed = job->count;
    job->embedding = good == dim ? hidden : NULL;
    finish_without_words(e, job, good == dim ? SERVE_STOP : SERVE_FAILED);
    job_unseat(e, job);
    job_destroy(job);
}

static void take_results(struct engine *e, size_t count, const float *logits)
{
    const float *hidden = batch_hidden(e->batch);
    for (size_t i = 0, lanes; i < count; i += lanes) {
        struct job *job = e->run_job[i];
        const struct batch_run *runs = &e->runs[i];
        lanes = 1;
        if (runs->logits == 0) {
            job->fed += runs->count;
            job_publish(e, job);
            continue;
        }
        size_t rows = 0;
        lanes = job->guesses.lanes;
        for (size_t lane = 0; lane < lanes; lane++)
            rows += runs[lane].logits;
        if (job->request.embed)
            take_embedding(e, job, hidden);
        else
            take_rows(e, job, runs, logits);
        logits += rows * e->vocab;
        hidden += rows * e->packed->model->config.dim;
    }
}

static void note_step(struct engine *e, size_t count, size_t rows)
{
    const struct pages_counts pages = pages_count(e->pages);
    const struct outside_counts outside = outside_count(e->outside);
    e->env->ops->gate_enter(e->env, e->gate);
    struct engine_stats *s = &e->stats;
    s->steps += count > 0;
    s->rows += rows;
    s->running = e->running;
    s->pages = e->page_total;
    s->pages_used = pages.used;
    s->pages_cached = pages.cached;
    s->outside_bytes = outside.memory_bytes;
    s->outside_hits = outside.memory_hits;
    s->disk_bytes = outside.disk_bytes;
    s->disk_hits = outside.disk_hits;
    s->disk_errors = outside.disk_errors;
    s->last_step_ns = env_now_ns(e->env);
    for (uint32_t i = 0; i < e->o.slots; i++) {
        const struct job *job = e->slots[i];
        e->slot_stats[i] = job ? (struct engine_slot){job->id, job->request.prompt_count, job_drawn(job), job->fed}
                               : (struct engine_slot){0};
    }
    e->env->ops->gate_leave(e->env, e->gate);
}

static void compute(struct engine *e)
{
    size_t rows = 0;
    const float *logits = NULL;
    struct bg_error err;
    atomic_store(&e->doing, "guessing tokens");
    drafter_propose(e);
    atomic_store(&e->doing, "forming a batch");
    const size_t count = form_batch(e);
    for (size_t i = 0; i < count; i++)
        rows += e->runs[i].count;
    if (count > 0) {
        atomic_store(&e->doing, "computing a batch");
        env_point(e->env, "serve-batch");
        bg_status status = batch_forward(e->batch, e->runs, count, &err, &logits);
        BG_ASSERT(!status); // all that it checks was checked at submission
        atomic_store(&e->doing, "drawing and telling tokens");
        take_results(e, count, logits);
    }
    note_step(e, count, rows);
}

bool engine_step(struct engine *engine)
{
    struct engine *e = engine;
    outside_turn(e->outside);
    atomic_store(&e->doing, "taking requests in");
    take_inbox(e);
    atomic_store(&e->doing, "giving out slots");
    admit(e);
    const bool busy = e->running > 0;
    if (busy)
        compute(e);
    else
        note_step(e, 0, 0);
    atomic_store(&e->doing, "waiting for work");
    atomic_fetch_add(&e->turns, 1);
    return busy;
}
