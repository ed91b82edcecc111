// The tree of pages against a model of it: what is found is what was kept, the longest agreeing prefix; every page is
// free, held or cached, and none is in two hands; whatever is dropped, kept outside, and found again.
#include "serve/pages.h"

#include "base/mem.h"
#include "model/step_test.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

enum { SEQUENCES = 12, LENGTH = 70, DEEPEST = LENGTH / BATCH_PAGE + 1, TURNS = 4000 };

struct sequence { // one who uses pages
    int32_t tokens[LENGTH];
    uint32_t count, page_count; // 0: nobody
    uint32_t nodes[DEEPEST], page_of[DEEPEST];
};

struct world {
    struct bg_env *env;
    struct model *model;
    float *weights;
    struct packed_model *packed;
    struct batch *batch;
    uint64_t random;
};

static uint32_t below(struct world *w, uint32_t n)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static void world_create(struct world *w, uint32_t pages)
{
    static const struct model_config config = {.family = MODEL_LLAMA,
                                               .layers = 1,
                                               .dim = 16,
                                               .heads = 2,
                                               .kv_heads = 1,
                                               .head_dim = 8,
                                               .ffn = 16,
                                               .context = 128,
                                               .vocab = 64,
                                               .rope_theta = 10000.0,
                                               .norm_eps = 1e-5,
                                               .bos = -1,
                                               .eos = -1};
    struct bg_error err;
    const struct batch_options options = {pages, 16, 1};
    *w = (struct world){.env = test_env(1), .random = 5};
    w->model = test_model(config);
    w->weights = test_weights(w->model, w->env, 0.1f);
    assert_int_equal(packed_create(w->env, w->model, w->weights, NULL, KERN_F32, &err, &w->packed), BG_OK);
    assert_int_equal(batch_create(w->env, w->packed, kern_select(w->env->isa), &options, &err, &w->batch), BG_OK);
}

static void world_destroy(struct world *w)
{
    batch_destroy(w->batch);
    packed_destroy(w->packed);
    free(w->weights);
    model_destroy(w->model);
    os_env_destroy(w->env);
}

// A page "holds" a prefix when its first numbers say how many tokens and a hash of them.
static uint64_t hash_of(const int32_t *tokens, uint32_t count)
{
    uint64_t hash = count;
    for (uint32_t i = 0; i < count; i++)
        hash = (hash ^ (uint64_t)tokens[i]) * 0x9e3779b97f4a7c15u + 1;
    return hash;
}

static void fill(struct world *w, uint32_t page, const int32_t *tokens, uint32_t count)
{
    uint64_t *words = batch_page(w->batch, page);
    words[0] = count;
    words[1] = hash_of(tokens, count);
}

// Page i of tokens holds at least those up to `count`. A page that was copied half holds more; its hash is of those.
static void check_page(struct world *w, uint32_t page, const int32_t *tokens, uint32_t count, bool whole)
{
    const uint64_t *words = batch_page(w->batch, page);
    assert_true(words[0] >= count);
    if (whole)
        assert_int_equal(words[1], hash_of(tokens, count));
}

static void check_counts(const struct pages *p, const struct sequence *all, uint32_t total)
{
    const struct pages_counts counts = pages_count(p);
    uint8_t held[64] = {0};
    uint32_t distinct = 0;
    assert_int_equal(counts.used + counts.cached + counts.free, total);
    for (size_t s = 0; s < SEQUENCES; s++)
        for (uint32_t i = 0; i < all[s].page_count; i++) {
            const uint32_t page = all[s].page_of[i];
            assert_true(page < total);
            if (all[s].nodes[i] == PAGES_NONE) // for one alone
                assert_int_equal(held[page], 0);
            assert_int_not_equal(held[page], 2);
            distinct += held[page] == 0;
            held[page] = all[s].nodes[i] == PAGES_NONE ? 2 : 1;
        }
    assert_int_equal(counts.used, distinct);
}

static void begin(struct world *w, struct pages *p, struct sequence *s)
{
    s->count = 1 + below(w, LENGTH - 1);
    for (uint32_t i = 0; i < s->count; i++) // much is shared
        s->tokens[i] = below(w, 12) ? (int32_t)(i / 20) : (int32_t)below(w, 2);
    const uint32_t found = pages_find(p, s->tokens, s->count - 1, s->nodes, s->page_of);
    assert_true(found < s->count);
    s->page_count = (found + BATCH_PAGE - 1) / BATCH_PAGE;
    for (uint32_t i = 0; i < s->page_count; i++) {
        const uint32_t end = (i + 1) * BATCH_PAGE < found ? (i + 1) * BATCH_PAGE : found;
        check_page(w, s->page_of[i], s->tokens, end, end == (i + 1) * BATCH_PAGE);
        assert_int_equal(s->nodes[i] == PAGES_NONE, end < (i + 1) * BATCH_PAGE);
    }
    while (s->page_count * BATCH_PAGE < s->count) { // the rest is computed
        const uint32_t page = pages_take(p);
        if (page == PAGES_NONE) {
            s->count = s->page_count * BATCH_PAGE;
            break;
        }
        s->nodes[s->page_count] = PAGES_NONE;
        s->page_of[s->page_count++] = page;
    }
    for (uint32_t i = 0; i < s->page_count; i++)
        if (s->nodes[i] == PAGES_NONE)
            fill(w, s->page_of[i], s->tokens, (i + 1) * BATCH_PAGE < s->count ? (i + 1) * BATCH_PAGE : s->count);
}

static void end(struct world *w, struct pages *p, struct sequence *s)
{
    const uint32_t whole = s->count / BATCH_PAGE, rest = s->count % BATCH_PAGE;
    const bool keeps = below(w, 4) > 0;
    for (uint32_t i = 0; i < whole && keeps; i++)
        if (s->nodes[i] == PAGES_NONE) {
            s->nodes[i] =
                pages_keep(p, i ? s->nodes[i - 1] : PAGES_NONE, s->tokens + i * BATCH_PAGE, BATCH_PAGE, &s->page_of[i]);
            check_page(w, s->page_of[i], s->tokens, (i + 1) * BATCH_PAGE, true);
        }
    for (uint32_t i = s->page_count; i-- > 0;) {
        if (s->nodes[i] != PAGES_NONE)
            pages_leave(p, s->nodes[i]);
        else if (keeps && i == whole && rest)
            pages_keep(p, i ? s->nodes[i - 1] : PAGES_NONE, s->tokens + i * BATCH_PAGE, rest, &s->page_of[i]);
        else
            pages_give(p, s->page_of[i]);
    }
    s->count = s->page_count = 0;
}

static void found_is_what_was_kept(void **state)
{
    (void)state;
    char directory[] = "/tmp/brigade-pages-XXXXXX";
    assert_non_null(mkdtemp(directory));
    for (int kind = 0; kind < 4; kind++) { // nothing outside; memory; memory and disk; disk
        const uint32_t total = kind % 2 ? 40 : 14;
        struct world w;
        struct bg_error err;
        struct sequence all[SEQUENCES] = {0};
        world_create(&w, total);
        const size_t each = batch_page_bytes(w.batch);
        const struct outside_options options = {each, 7, kind == 1 || kind == 2 ? 5 * each : 0,
                                                kind >= 2 ? directory : NULL, 12 * each};
        struct outside *outside;
        assert_int_equal(outside_create(w.env, &options, &err, &outside), BG_OK);
        struct pages *p = pages_create(w.batch, total, outside);
        for (int turn = 0; turn < TURNS / (kind >= 2 ? 8 : 1); turn++) {
            struct sequence *s = &all[below(&w, SEQUENCES)];
            outside_turn(outside);
            if (s->page_count)
                end(&w, p, s);
            else if (below(&w, 30) == 0)
                (void)pages_forget(p, all[0].tokens, below(&w, LENGTH));
            else
                begin(&w, p, s);
            check_counts(p, all, total);
        }
        for (size_t s = 0; s < SEQUENCES; s++)
            if (all[s].page_count)
                end(&w, p, &all[s]);
        assert_int_equal(pages_count(p).used, 0);
        const struct outside_counts counts = outside_count(outside);
        assert_int_equal(counts.memory_hits > 0, kind == 1 || kind == 2);
        assert_int_equal(counts.disk_hits > 0, kind >= 2);
        pages_destroy(p);
        outside_destroy(outside);
        if (kind == 3)
            assert_int_equal(w.env->ops->path_remove(w.env, directory, &err), BG_OK);
        world_destroy(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_is_what_was_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
