// One request on its way: a copy of what was asked, its tokens so far, its pages, its text.
#include "base/assert.h"
#include "base/mem.h"
#include "serve/engine_int.h"

#include <string.h>

static void *copy(const void *from, size_t count, size_t each)
{
    void *to = bg_alloc_array(count + 1, each);
    if (count)
        memcpy(to, from, count * each);
    return to;
}

struct job *job_create(struct engine *e, const struct serve_request *request)
{
    struct job *job = bg_alloc(sizeof *job);
    job->request = *request;
    struct serve_request *r = &job->request;
    const uint32_t most = e->context + 1, want = r->tokens_max < most - r->prompt_count
                                                     ? r->prompt_count + r->tokens_max
                                                     : most; // the last token drawn need not be fed
    job->capacity = want + 1;
    job->tokens = bg_alloc_array(job->capacity + ENGINE_SPECULATE_MAX, sizeof *job->tokens);
    memcpy(job->tokens, r->prompt, r->prompt_count * sizeof *job->tokens);
    job->count = r->prompt_count;
    r->prompt = job->tokens;
    r->drawn = copy(r->drawn, r->drawn_count, sizeof *r->drawn);
    r->sampling.biases = copy(r->sampling.biases, r->sampling.bias_count, sizeof *r->sampling.biases);
    char **stops = bg_alloc_array(r->stop_count + 1u, sizeof *stops);
    for (uint32_t i = 0; i < r->stop_count; i++)
        stops[i] = bg_strdup(r->stops[i]);
    r->stops = (const char *const *)stops;
    text_init(&job->text, r->stops, r->stop_count);
    if (r->grammar) {
        grammar_retain((struct grammar *)(uintptr_t)r->grammar);
        job->grammar = grammar_begin(r->grammar);
    }
    const uint32_t pages = job->capacity / BATCH_PAGE + 2;
    job->nodes = bg_alloc_array(pages, sizeof *job->nodes);
    job->page_of = bg_alloc_array(pages, sizeof *job->page_of);
    job->slot = ENGINE_NO_SLOT;
    guesses_reset(&job->guesses);
    return job;
}

void job_destroy(struct job *job)
{
    struct serve_request *r = &job->request;
    for (uint32_t i = 0; i < r->stop_count; i++)
        bg_free((void *)(uintptr_t)r->stops[i]);
    bg_free((void *)(uintptr_t)r->stops);
    bg_free((void *)(uintptr_t)r->drawn);
    bg_free((void *)(uintptr_t)r->sampling.biases);
    text_fini(&job->text);
    grammar_state_destroy(job->grammar);
    if (r->grammar)
        grammar_release((struct grammar *)(uintptr_t)r->grammar);
    bg_free(job->nodes);
    bg_free(job->page_of);
    bg_free(job->tokens);
    bg_free(job);
}

void job_take_token(struct engine *e, struct job *job, int32_t token, struct bg_str *text)
{
    const struct serve_request *r = &job->request;
    const char *bytes;
    size_t size;
    bool end = tokenizer_ends(e->tokenizer, token);
    if (job->grammar && !grammar_accept(job->grammar, token))
        end = true; // only the end of the text is both drawn and not part of the grammar
    end = end && (!r->ignore_eos || job->grammar);
    if (end) { // where nothing can go on a grammar's text is cut off
        job->finish = job->grammar && !grammar_may_end(job->grammar) ? SERVE_LENGTH : SERVE_STOP;
    } else {
        BG_ASSERT(job->count < job->capacity);
        tokenizer_token_bytes(e->tokenizer, job->tokens[job->count - 1], token, &bytes, &size);
        job->tokens[job->count++] = token;
        text_add(&job->text, bytes, size);
        bg_str_add_bytes(text, bg_str_text(&job->text.out), job->text.out.size);
        if (job->text.stopped)
            job->finish = SERVE_STOP;
        else if (job_drawn(job) >= r->tokens_max)
            job->finish = SERVE_LENGTH;
        else if (job->count > e->context)
            job->finish = SERVE_CONTEXT;
    }
    if (job->finish != SERVE_RUNNING) {
        text_end(&job->text);
        job->freed = end ? (uint32_t)job->text.out.size : 0;
        bg_str_add_bytes(text, bg_str_text(&job->text.out), job->text.out.size);
    }
}

bool job_replay(struct engine *e, struct job *job)
{
    struct bg_str said = {0}; // by the server that drew them
    for (uint32_t i = 0; i < job->request.drawn_count && job->finish == SERVE_RUNNING; i++)
        job_take_token(e, job, job->request.drawn[i], &said);
    bg_str_fini(&said);
    return job->finish == SERVE_RUNNING;
}

void job_seat(struct engine *e, struct job *job, int slot)
{
    job->slot = slot;
    e->slots[slot] = job;
    e->running++;
    job->fed = 0;
    if (job->request.cache_prompt)
        job->fed = pages_find(e->pages, job->tokens, job->count - 1, job->nodes, job->page_of);
    job->page_count = (job->fed + BATCH_PAGE - 1) / BATCH_PAGE;
    if (job->started_ns == 0) {
        job->started_ns = env_now_ns(e->env);
        job->cached = job->fed < job->request.prompt_count ? job->fed : job->request.prompt_count;
    }
}

void job_publish(struct engine *e, struct job *job)
{
    if (!job->request.cache_prompt)
        return;
    for (uint32_t i = 0; (i + 1) * BATCH_PAGE <= job->fed; i++)
        if (job->nodes[i] == PAGES_NONE)
            job->nodes[i] = pages_keep(e->pages, i ? job->nodes[i - 1] : PAGES_NONE, job->tokens + i * BATCH_PAGE,
                                       BATCH_PAGE, &job->page_of[i]);
}

void job_unseat(struct engine *e, struct job *job)
{
    const uint32_t whole = job->fed / BATCH_PAGE, rest = job->fed % BATCH_PAGE;
    job_publish(e, job);
    for (uint32_t i = job->page_count; i-- > 0;) {
        uint32_t page = job->page_of[i];
        if (job->nodes[i] == PAGES_NONE && job->request.cache_prompt && i == whole && rest > 0)
            pages_keep(e->pages, i ? job->nodes[i - 1] : PAGES_NONE, job->tokens + i * BATCH_PAGE, rest, &page);
        else if (job->nodes[i] == PAGES_NONE)
            pages_give(e->pages, page);
        else
            pages_leave(e->pages, job->nodes[i]);
    }
    if (!job->request.embed) { // a conversation that can be kept
        struct slot_tokens *last = &e->slot_tokens[job->slot];
        last->count = job->fed;
        memcpy(last->tokens, job->tokens, job->fed * sizeof *job->tokens);
    }
    drafter_forget(e, job->slot);
    e->slots[job->slot] = NULL;
    e->running--;
    job->slot = ENGINE_NO_SLOT;
    job->page_count = job->fed = 0;
}

bool job_room(struct engine *e, struct job *job, uint32_t tokens)
{
    while (job->page_count * BATCH_PAGE < tokens) {
        uint32_t page = pages_take(e->pages);
        if (page == PAGES_NONE)
            return false;
        job->nodes[job->page_count] = PAGES_NONE;
        job->page_of[job->page_count++] = page;
    }
    return true;
}

void job_trim(struct engine *e, struct job *job)
{
    while (job->page_count > (job->count + BATCH_PAGE - 1) / BATCH_PAGE)
        pages_give(e->pages, job->page_of[--job->page_count]);
}
