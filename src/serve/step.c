// One step: who runs, one batch through the model, what came of it. Decoding rows come first; what is left of the
// chunk goes to prompts, first come first served. Nothing decided here shows in a token.
#include "base/assert.h"
#include "base/mem.h"
#include "serve/engine_int.h"

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

static void admit(struct engine *e)
{
    for (int slot = free_slot(e); e->waiting && slot != ENGINE_NO_SLOT; slot = free_slot(e)) {
        struct job *job = e->waiting;
        const struct pages_counts counts = pages_count(e->pages);
        if (e->running > 0 && (counts.free + counts.cached) * BATCH_PAGE < job->count + BATCH_PAGE)
            return; // those that run will need what is left
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

static void add_run(struct engine *e, size_t *count, size_t *rows, struct job *job, uint32_t tokens, uint32_t logits)
{
    e->runs[*count] = (struct batch_run){job->tokens + job->fed, tokens, job->fed, job->page_of, logits};
    e->run_job[(*count)++] = job;
    *rows += tokens;
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

static size_t form_batch(struct engine *e)
{
    size_t count = 0, rows = 0;
    const struct job *after = NULL;
    for (struct job *job; (job = oldest_unfed(e, after, true)); after = job) {
        memcpy(job->tokens + job->count, job->proposed, job->proposed_count * sizeof *job->tokens);
        if (make_room(e, job, job->count + job->proposed_count))
            add_run(e, &count, &rows, job, 1 + job->proposed_count, 1 + job->proposed_count);
    }
    size_t left = e->o.chunk;
    after = NULL;
    for (struct job *job; left > 0 && (job = oldest_unfed(e, after, false)); after = job) {
        uint32_t want = job->count - job->fed, take = want < left ? want : (uint32_t)left;
        if (!make_room(e, job, job->fed + take))
            continue;
        add_run(e, &count, &rows, job, take, take == want);
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

// Draws after each row, as long as what was fed next is what is drawn.
static void take_rows(struct engine *e, struct job *job, const float *logits)
{
    const uint32_t first = job->count, proposed = job->proposed_count, stride = 1 + job->request.top_logprobs;
    struct bg_str text = {0};
    uint32_t accepted = 0;
    if (job->prefilled_ns == 0)
        job->prefilled_ns = env_now_ns(e->env);
    job->fed = job->count;
    for (uint32_t row = 0; row <= proposed; row++) {
        struct serve_logprob *logprobs = e->logprobs + (size_t)row * stride;
        const int32_t token = draw_next(e, job, logits + (size_t)row * e->vocab, logprobs);
        job_take_token(e, job, token, &text);
        if (row == proposed || job->finish != SERVE_RUNNING || token != job->proposed[row])
            break;
        job->fed = job->count;
        accepted++;
    }
    job->proposed_count = 0;
    e->env->ops->gate_enter(e->env, e->gate);
    e->stats.speculated += proposed;
    e->stats.accepted += accepted;
    e->env->ops->gate_leave(e->env, e->gate);
    tell(e, job, job->tokens + first, job->count - first, &text, job->request.logprobs ? e->logprobs : NULL);
    bg_str_fini(&text);
    if (job->finish == SERVE_RUNNING) {
        job_publish(e, job);
        return;
    }
    job_unseat(e, job);
    job_destroy(job);
}

static void take_results(struct engine *e, size_t count, const float *logits)
{
    for (size_t i = 0; i < count; i++) {
        struct job *job = e->run_job[i];
        const struct batch_run *run = &e->runs[i];
        if (run->logits == 0) {
            job->fed += run->count;
            job_publish(e, job);
        } else {
            take_rows(e, job, logits);
            logits += (size_t)run->logits * e->vocab;
        }
    }
}

static void note_step(struct engine *e, size_t count, size_t rows)
{
    const struct pages_counts pages = pages_count(e->pages);
    e->env->ops->gate_enter(e->env, e->gate);
    struct engine_stats *s = &e->stats;
    s->steps += count > 0;
    s->rows += rows;
    s->running = e->running;
    s->pages = e->page_total;
    s->pages_used = pages.used;
    s->pages_cached = pages.cached;
    s->last_step_ns = env_now_ns(e->env);
    for (uint32_t i = 0; i < e->o.slots; i++) {
        const struct job *job = e->slots[i];
        e->slot_stats[i] = job ? (struct engine_slot){job->id, job->request.prompt_count, job_drawn(job), job->fed}
                               : (struct engine_slot){0};
    }
    e->env->ops->gate_leave(e->env, e->gate);
}

bool engine_step(struct engine *engine)
{
    struct engine *e = engine;
    take_inbox(e);
    admit(e);
    if (e->running == 0) {
        note_step(e, 0, 0);
        return false;
    }
    drafter_propose(e);
    const size_t count = form_batch(e);
    size_t rows = 0;
    const float *logits = NULL;
    struct bg_error err;
    for (size_t i = 0; i < count; i++)
        rows += e->runs[i].count;
    if (count > 0) {
        bg_status status = batch_forward(e->batch, e->runs, count, &err, &logits);
        BG_ASSERT(!status); // all that it checks was checked at submission
        take_results(e, count, logits);
    }
    note_step(e, count, rows);
    return true;
}
