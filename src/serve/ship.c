// What other threads ask for between steps. Keys and values as bytes, saved for later or shipped to another server:
// only whole pages, only into the same model. Embeddings.
#include "base/hash.h"
#include "base/mem.h"
#include "serve/engine_int.h"

#include <string.h>

struct ship_header { // little-endian, as everything that runs this
    char magic[8];
    uint64_t fingerprint, page_bytes, tokens, check; // check: XXH3 of what follows
};
static const char magic[8] = "BRGKV 1";

static void leave_pages(struct engine *e, const uint32_t *nodes, const uint32_t *page_of, uint32_t pages)
{
    for (uint32_t i = pages; i-- > 0;) {
        if (nodes[i] == PAGES_NONE)
            pages_give(e->pages, page_of[i]);
        else
            pages_leave(e->pages, nodes[i]);
    }
}

static bg_status save(struct engine *e, struct command *c)
{
    const uint32_t most = c->token_count / BATCH_PAGE + 1;
    const size_t page = batch_page_bytes(e->batch);
    uint32_t *nodes = bg_alloc_array(most, sizeof *nodes), *pages = bg_alloc_array(most, sizeof *pages);
    const uint32_t found = pages_find(e->pages, c->tokens, c->token_count, nodes, pages), whole = found / BATCH_PAGE;
    const uint32_t count = whole * BATCH_PAGE;
    c->size = sizeof(struct ship_header) + count * sizeof(int32_t) + whole * page;
    uint8_t *bytes = bg_alloc(c->size), *at = bytes + sizeof(struct ship_header);
    memcpy(at, c->tokens, count * sizeof(int32_t));
    for (uint32_t i = 0; i < whole; i++)
        memcpy(at + count * sizeof(int32_t) + i * page, batch_page(e->batch, pages[i]), page);
    struct ship_header header = {.fingerprint = e->fingerprint, .page_bytes = page, .tokens = count};
    memcpy(header.magic, magic, sizeof magic);
    header.check = bg_xxh64(at, c->size - sizeof header);
    memcpy(bytes, &header, sizeof header);
    leave_pages(e, nodes, pages, (found + BATCH_PAGE - 1) / BATCH_PAGE);
    bg_free(nodes);
    bg_free(pages);
    c->made = bytes;
    c->count = count;
    return BG_OK;
}

static bg_status check(const struct engine *e, const struct command *c, struct ship_header *h, struct bg_error *err)
{
    if (c->size < sizeof *h || memcmp(c->bytes, magic, sizeof magic) != 0)
        return bg_fail(err, BG_FORMAT, "these bytes are no saved keys and values");
    memcpy(h, c->bytes, sizeof *h);
    if (h->fingerprint != e->fingerprint || h->page_bytes != batch_page_bytes(e->batch))
        return bg_fail(err, BG_MISMATCH, "saved keys and values are of another model");
    const uint64_t rest = c->size - sizeof *h;
    if (h->tokens % BATCH_PAGE || h->tokens > e->context ||
        rest != h->tokens * sizeof(int32_t) + h->tokens / BATCH_PAGE * h->page_bytes)
        return bg_fail(err, BG_FORMAT, "saved keys and values of %llu tokens do not fit their %zu bytes",
                       (unsigned long long)h->tokens, c->size);
    if (bg_xxh64((const uint8_t *)c->bytes + sizeof *h, (size_t)rest) != h->check)
        return bg_fail(err, BG_CORRUPT, "saved keys and values fail their check");
    return BG_OK;
}

static bg_status restore(struct engine *e, struct command *c)
{
    struct ship_header h;
    bg_status status = check(e, c, &h, &c->err);
    if (status)
        return status;
    const uint8_t *at = (const uint8_t *)c->bytes + sizeof h, *page_bytes = at + h.tokens * sizeof(int32_t);
    const uint32_t whole = (uint32_t)h.tokens / BATCH_PAGE;
    int32_t *tokens = bg_alloc_array(h.tokens + 1, sizeof *tokens);
    uint32_t *nodes = bg_alloc_array(whole + 1u, sizeof *nodes), done = 0;
    memcpy(tokens, at, h.tokens * sizeof *tokens);
    for (uint32_t i = 0; i < h.tokens && !status; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= e->vocab)
            status =
                bg_fail(&c->err, BG_FORMAT, "saved keys and values name token %d, outside the vocabulary", tokens[i]);
    for (; done < whole && !status; done++) {
        uint32_t page = pages_take(e->pages);
        if (page == PAGES_NONE)
            break;
        memcpy(batch_page(e->batch, page), page_bytes + done * h.page_bytes, h.page_bytes);
        nodes[done] =
            pages_keep(e->pages, done ? nodes[done - 1] : PAGES_NONE, tokens + done * BATCH_PAGE, BATCH_PAGE, &page);
    }
    for (uint32_t i = 0; i < done; i++)
        pages_leave(e->pages, nodes[i]);
    bg_free(nodes);
    bg_free(tokens);
    c->count = done * BATCH_PAGE;
    return status;
}

static void tell_slot(const struct engine *e, struct command *c)
{
    const struct slot_tokens *last = &e->slot_tokens[c->slot];
    c->count = last->count;
    if (c->count == 0)
        return;
    c->made = bg_alloc_array(c->count, sizeof *last->tokens);
    memcpy(c->made, last->tokens, c->count * sizeof *last->tokens);
}

void engine_run_command(struct engine *e, struct command *command)
{
    switch (command->kind) {
    case COMMAND_SAVE:
        command->status = save(e, command);
        break;
    case COMMAND_RESTORE:
        command->status = restore(e, command);
        break;
    case COMMAND_FORGET:
        command->count = pages_forget(e->pages, command->tokens, command->token_count);
        break;
    case COMMAND_TELL_SLOT:
        tell_slot(e, command);
        break;
    }
}

// Has the stepping thread do it; where nobody ever stepped in a loop, this thread does.
static bg_status ask(struct engine *e, struct command *c, struct bg_error *err)
{
    struct bg_env *env = e->env;
    env->ops->gate_enter(env, e->gate);
    const bool looping = e->looping, ours = !e->looped;
    if (looping) {
        c->next = e->commands;
        e->commands = c;
        env->ops->gate_ring(env, e->gate);
        while (!c->done && (c->taken || e->looping)) // what was taken will be done
            env->ops->gate_wait(env, e->gate, 1000000000);
    }
    const bool done = c->done;
    for (struct command **at = &e->commands; *at && !done; at = &(*at)->next)
        if (*at == c) { // nobody steps any more
            *at = c->next;
            break;
        }
    env->ops->gate_leave(env, e->gate);
    if (ours)
        engine_run_command(e, c);
    else if (!done)
        c->status = bg_fail(&c->err, BG_STOPPED, "the engine has stopped");
    if (c->status)
        *err = c->err;
    return c->status;
}

bg_status engine_save(struct engine *engine, const int32_t *tokens, uint32_t token_count, struct bg_error *err,
                      void **bytes, size_t *size, uint32_t *count)
{
    struct command c = {.kind = COMMAND_SAVE, .tokens = tokens, .token_count = token_count};
    bg_status status = ask(engine, &c, err);
    if (status)
        return status;
    *bytes = c.made;
    *size = c.size;
    *count = c.count;
    return BG_OK;
}

bg_status engine_restore(struct engine *engine, const void *bytes, size_t size, struct bg_error *err, uint32_t *count)
{
    struct command c = {.kind = COMMAND_RESTORE, .bytes = bytes, .size = size};
    bg_status status = ask(engine, &c, err);
    if (!status)
        *count = c.count;
    return status;
}

bg_status engine_forget(struct engine *engine, const int32_t *tokens, uint32_t token_count, struct bg_error *err,
                        uint32_t *count)
{
    struct command c = {.kind = COMMAND_FORGET, .tokens = tokens, .token_count = token_count};
    bg_status status = ask(engine, &c, err);
    if (!status)
        *count = c.count;
    return status;
}

bool engine_slot_tokens(struct engine *engine, uint32_t slot, int32_t **tokens, uint32_t *count)
{
    struct bg_error err;
    struct command c = {.kind = COMMAND_TELL_SLOT, .slot = slot};
    if (slot >= engine->o.slots || ask(engine, &c, &err) || c.count == 0)
        return false;
    *tokens = c.made;
    *count = c.count;
    return true;
}
