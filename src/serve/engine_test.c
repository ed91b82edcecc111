// The engine: whatever runs beside a request, in whatever slots, chunks, pages, with or without caches and speculation,
// broken off and resumed, its tokens are those of a decoder and a sampler alone. Then the rules around it: limits,
// priorities, cancelling, draining, saved pages, steady state.
// labels: bits threads
#include "serve/engine_test.h"

#include <math.h>

static void neighbours_do_not_show(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 2);
    static const struct engine_options options[] = {
        {.slots = 1, .chunk = 1},
        {.slots = 2, .chunk = 7},
        {.slots = 16, .chunk = 256},
        {.slots = 5, .chunk = 16},
        {.slots = 8, .chunk = 33, .speculate = ENGINE_NGRAM},
        {.slots = 3, .chunk = 9, .speculate = ENGINE_NGRAM, .speculate_max = 15},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        start(&w, options[i]);
        run_all(&w);
        // once more, with everything cached
        for (size_t r = 0; r < REQUESTS; r++) {
            bg_str_fini(&w.asked[r].got.text);
            w.asked[r].got = (struct answer){0};
        }
        run_all(&w);
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

static void a_small_pool_costs_time_only(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    for (uint64_t pages = 9; pages < 30; pages += 4) {
        start(&w, (struct engine_options){.slots = 6,
                                          .chunk = 24,
                                          .kv_bytes = pages * page_bytes(),
                                          .host_cache_bytes = pages % 8 == 1 ? 6 * page_bytes() : 0,
                                          .speculate = (int)(pages % 3) == 0   ? ENGINE_NGRAM
                                                       : (int)(pages % 3) == 1 ? ENGINE_TREE
                                                                               : ENGINE_PLAIN,
                                          .draft = w.packed});
        run_all(&w);
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

// Speculation by a model with other weights, by the model itself, and by the model in 4 bits, which is right often but
// not always: then it pays to guess more than one token.
static void a_draft_does_not_show(void **state)
{
    (void)state;
    struct world w;
    struct packed_model *rough;
    struct bg_error err;
    uint64_t accepted[4] = {0};
    static const struct engine_options kinds[] = {
        {.slots = 4, .chunk = 20, .speculate = ENGINE_DRAFT},
        {.slots = 3, .chunk = 20, .speculate = ENGINE_TREE},
        {.slots = 5, .chunk = 7, .speculate = ENGINE_TREE, .expand = {1, 3, 1, 2, 1}},
        {.slots = 2, .chunk = 30, .speculate = ENGINE_TREE, .expand = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 7}},
    };
    world_create(&w, 1);
    assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, KERN_Q4_0, &err, &rough), BG_OK);
    for (size_t i = 0; i < 4; i++) {
        const struct packed_model *drafts[] = {w.draft, w.packed, rough};
        for (size_t d = i < 2 ? 0 : 2; d < 3; d++) {
            struct engine_options options = kinds[i];
            struct engine_stats stats;
            options.draft = drafts[d];
            start(&w, options);
            run_all(&w);
            engine_get_stats(w.engine, &stats, NULL, 0);
            assert_true(stats.speculated > 0 && stats.accepted <= stats.speculated);
            assert_int_equal(stats.pages_used, 0);
            if (d == 1 && i == 0) // a draft that is the model is right always
                assert_int_equal(stats.speculated, stats.accepted);
            if (d == 2)
                accepted[i] = stats.accepted;
            engine_destroy(w.engine);
        }
    }
    assert_true(accepted[1] > accepted[0]); // also from lanes that are not the draft's own draws
    packed_destroy(rough);
    world_destroy(&w);
}

static void an_answer_goes_on_elsewhere(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    start(&w, (struct engine_options){.slots = 4, .chunk = 32});
    bool full = false;
    for (size_t i = 0; i < REQUESTS; i++) {
        struct asked *q = &w.asked[i];
        full |= q->want.finish == SERVE_CONTEXT;
        for (uint32_t drawn = 0; drawn <= q->want.count; drawn++) { // all of them: only the end was not told
            q->request.drawn = q->want.tokens;
            q->request.drawn_count = drawn;
            bg_str_fini(&q->got.text);
            q->got = (struct answer){0};
            submit(&w, i);
            while (engine_step(w.engine))
                continue;
            assert_int_equal(q->got.count, q->want.count - drawn);
            assert_memory_equal(q->got.tokens, q->want.tokens + drawn, q->got.count * sizeof(int32_t));
            assert_int_equal(q->got.finish, q->want.finish);
            assert_memory_equal(bg_str_text(&q->got.text),
                                bg_str_text(&q->want.text) + (q->want.text.size - q->got.text.size), q->got.text.size);
        }
    }
    assert_true(full);
    engine_destroy(w.engine);
    world_destroy(&w);
}

static void prefixes_are_used_again(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    struct asked *a = &w.asked[0], *b = &w.asked[1];
    for (uint32_t i = 0; i < 21; i++)
        a->prompt[i] = b->prompt[i] = (int32_t)(97 + i);
    for (uint32_t i = 15; i < 21; i++)
        b->prompt[i] = (int32_t)(65 + i);
    a->request.prompt_count = b->request.prompt_count = 21;
    a->request.cache_prompt = b->request.cache_prompt = true;
    start(&w, (struct engine_options){.slots = 2});
    struct asked *const order[] = {a, b, a};
    static const uint32_t cached[] = {0, 15, 20}; // all that agrees; the last token is always fed
    for (size_t i = 0; i < 3; i++) {
        order[i]->got = (struct answer){0};
        submit(&w, (size_t)(order[i] - w.asked));
        while (engine_step(w.engine))
            continue;
        assert_int_equal(order[i]->got.cached, cached[i]);
        bg_str_fini(&order[i]->got.text);
    }
    void *bytes;
    size_t size;
    uint32_t count;
    struct bg_error err;
    assert_int_equal(engine_save(w.engine, a->prompt, 21, &err, &bytes, &size, &count), BG_OK);
    assert_int_equal(count, 16);
    engine_destroy(w.engine);
    start(&w, (struct engine_options){.slots = 2});
    assert_int_equal(engine_restore(w.engine, bytes, size, &err, &count), BG_OK);
    assert_int_equal(count, 16);
    submit(&w, 0);
    while (engine_step(w.engine))
        continue;
    assert_int_equal(a->got.cached, 16);
    ((char *)bytes)[size / 2] ^= 1;
    assert_int_equal(engine_restore(w.engine, bytes, size, &err, &count), BG_CORRUPT);
    assert_int_equal(engine_restore(w.engine, bytes, size - 1, &err, &count), BG_FORMAT);
    assert_int_equal(engine_restore(w.engine, bytes, 5, &err, &count), BG_FORMAT);
    engine_destroy(w.engine);
    const struct model_param *p = model_param_find(w.model, "model.layers.1.self_attn.q_proj.weight");
    assert_non_null(p);
    w.weights[p->offset + 5] += 1; // another model, by one number
    packed_destroy(w.packed);
    assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, KERN_F32, &err, &w.packed), BG_OK);
    start(&w, (struct engine_options){.slots = 2});
    ((char *)bytes)[size / 2] ^= 1; // as it was
    assert_int_equal(engine_restore(w.engine, bytes, size, &err, &count), BG_MISMATCH);
    bg_free(bytes);
    engine_destroy(w.engine);
    world_destroy(&w);
}

// Prompts outlive the engine on disk; what lies there damaged is computed again.
static void disk_does_not_show(void **state)
{
    (void)state;
    struct world w;
    struct engine_stats stats;
    struct bg_error err;
    char directory[] = "/tmp/brigade-engine-XXXXXX";
    assert_non_null(mkdtemp(directory));
    world_create(&w, 1);
    for (int turn = 0; turn < 4; turn++) {
        start(&w, (struct engine_options){.slots = 3,
                                          .chunk = 32,
                                          .kv_bytes = (turn % 2 ? 50 : 9) * page_bytes(),
                                          .host_cache_bytes = turn % 2 ? 0 : 3 * page_bytes(),
                                          .disk_cache = directory,
                                          .disk_cache_bytes = turn == 3 ? 3 * page_bytes() : 0});
        run_all(&w);
        engine_get_stats(w.engine, &stats, NULL, 0);
        assert_true(turn == 0 || turn == 3 || stats.disk_hits > 0); // which three pages stay is a matter of time
        assert_int_equal(stats.pages_used, 0);
        assert_int_equal(stats.disk_errors, 0);
        engine_destroy(w.engine);
    }
    assert_int_equal(w.env->ops->path_remove(w.env, directory, &err), BG_OK);
    world_destroy(&w);
}

static uint64_t head_offset(const struct model *m)
{
    const struct model_unit *head = &m->units[m->unit_count - 1];
    const int32_t own = head->param[MODEL_ROLE_HEAD];
    return own >= 0 ? m->params[own].offset : m->buckets[0].first; // tied: the token table
}

// Asks for the embedding of the prompt of the first request.
static void embed(struct world *w, size_t i, uint32_t count)
{
    w->asked[i].request = (struct serve_request){
        .prompt = w->asked[0].prompt, .prompt_count = count, .embed = true, .cache_prompt = i % 2 == 0};
    w->asked[i].got = (struct answer){0};
    submit(w, i);
}

static void finish_all(struct world *w)
{
    while (engine_step(w->engine))
        continue;
}

// An embedding is the hidden state whose product with the head is the row of logits: also after chunks and cached
// pages, and beside others.
static void embeddings_are_the_head_s_input(void **state)
{
    (void)state;
    struct world w;
    struct bg_error err;
    float first[32];
    int32_t *tokens;
    uint32_t count;
    uint64_t id;
    world_create(&w, 1);
    struct asked *a = &w.asked[0], *b = &w.asked[1], *c = &w.asked[2];
    for (uint32_t i = 0; i < 40; i++)
        a->prompt[i] = (int32_t)(97 + i % 23);
    a->request.prompt_count = 40;
    a->request.cache_prompt = true;
    start(&w, (struct engine_options){.slots = 2, .chunk = 7});
    assert_false(engine_slot_tokens(w.engine, 0, &tokens, &count));
    embed(&w, 1, 40);
    finish_all(&w);
    assert_true(b->got.embedded && b->got.finish == SERVE_STOP && b->got.count == 0);
    memcpy(first, b->got.embedding, sizeof first);
    submit(&w, 0);
    finish_all(&w);
    assert_int_equal(a->got.cached, 0); // nothing was left behind
    embed(&w, 2, 40);
    finish_all(&w);
    assert_int_equal(c->got.cached, 39);
    assert_memory_equal(first, c->got.embedding, sizeof first);
    struct serve_request bad = c->request;
    bad.prompt_count = 0;
    assert_int_equal(engine_submit(w.engine, &bad, &err, &id, NULL), BG_INVALID);
    bad.prompt = w.asked[3].prompt;
    bad.prompt_count = CONTEXT + 1;
    assert_int_equal(engine_submit(w.engine, &bad, &err, &id, NULL), BG_INVALID);
    assert_false(engine_slot_tokens(w.engine, 2, &tokens, &count));
    assert_true(engine_slot_tokens(w.engine, 0, &tokens, &count));
    assert_true(count >= 40);
    assert_memory_equal(tokens, a->prompt, 40 * sizeof *tokens);
    uint32_t dropped;
    assert_int_equal(engine_forget(w.engine, tokens, count, &err, &dropped), BG_OK);
    assert_int_equal(dropped, count);
    assert_int_equal(engine_forget(w.engine, tokens, count, &err, &dropped), BG_OK);
    assert_int_equal(dropped, 0);
    bg_free(tokens);
    engine_destroy(w.engine);
    struct decoder *d = NULL;
    const float *logits = NULL, *head = w.weights + head_offset(w.model);
    assert_int_equal(decoder_create(w.env, w.model, w.kern, w.weights, CONTEXT, 16, &err, &d), BG_OK);
    assert_int_equal(decoder_feed(d, a->prompt, 40, &err, &logits), BG_OK);
    for (size_t v = 0; v < config.vocab; v++) {
        double sum = 0;
        for (size_t k = 0; k < config.dim; k++)
            sum += (double)head[v * config.dim + k] * (double)first[k];
        assert_true(fabs(sum - (double)logits[v]) < 1e-4);
    }
    decoder_destroy(d);
    world_destroy(&w);
}

// Beside those who decode, along chains and trees of guesses; in little room; the whole context.
static void embeddings_beside_others(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    float whole[32], one[32];
    const struct engine_options kinds[] = {
        {.slots = 1, .chunk = 200},
        {.slots = 4, .chunk = 9},
        {.slots = 3, .chunk = 20, .speculate = ENGINE_TREE, .draft = w.draft},
        {.slots = 5, .chunk = 31, .speculate = ENGINE_NGRAM, .kv_bytes = 1}, // pages of one context
    };
    for (uint32_t i = 0; i < CONTEXT; i++)
        w.asked[0].prompt[i] = (int32_t)(97 + i * i % 23);
    for (size_t k = 0; k < 4; k++) {
        start(&w, kinds[k]);
        for (size_t i = 5; i < 10; i++)
            submit(&w, i);
        engine_step(w.engine);
        embed(&w, 1, CONTEXT);
        embed(&w, 2, CONTEXT);
        embed(&w, 3, 1);
        finish_all(&w);
        for (size_t i = 5; i < 10; i++)
            check_answer(&w.asked[i]);
        if (k == 0) {
            memcpy(whole, w.asked[1].got.embedding, sizeof whole);
            memcpy(one, w.asked[3].got.embedding, sizeof one);
            assert_memory_not_equal(whole, one, sizeof one);
        }
        for (size_t i = 1; i < 4; i++)
            assert_true(w.asked[i].got.embedded);
        assert_memory_equal(w.asked[1].got.embedding, whole, sizeof whole);
        assert_memory_equal(w.asked[2].got.embedding, whole, sizeof whole);
        assert_memory_equal(w.asked[3].got.embedding, one, sizeof one);
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

// A token whose embedding is no number: who says it is told so, and leaves nothing that others could notice.
static void what_is_no_number_is_no_answer(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    const struct engine_options kinds[] = {{.slots = 3, .chunk = 20, .kv_bytes = 1},
                                           {.slots = 4, .chunk = 9, .speculate = ENGINE_NGRAM},
                                           {.slots = 3, .speculate = ENGINE_TREE, .draft = w.draft}};
    float *table = w.weights + w.model->params[w.model->units[0].param[MODEL_ROLE_EMBED]].offset;
    for (size_t i = 0; i < config.dim; i++)
        table[200 * config.dim + i] = NAN;
    for (size_t k = 0; k < 3; k++) {
        start(&w, kinds[k]);
        struct asked *bad = &w.asked[k];
        const struct asked kept = *bad;
        for (uint32_t i = 0; i < CONTEXT; i++)
            bad->prompt[i] = i % 7 == 3 ? 200 : 97;
        bad->request.prompt_count = CONTEXT - 3;
        bad->request.cache_prompt = k == 1;
        submit(&w, k);
        finish_all(&w);
        assert_int_equal(bad->got.finish, SERVE_FAILED);
        assert_int_equal(bad->got.count, 0);
        assert_int_equal(bad->got.text.size, 0);
        bg_str_fini(&bad->got.text);
        bad->got = (struct answer){0};
        bad->request = (struct serve_request){.prompt = bad->prompt, .prompt_count = 40, .embed = true};
        submit(&w, k);
        finish_all(&w);
        assert_int_equal(bad->got.finish, SERVE_FAILED);
        assert_false(bad->got.embedded);
        bg_str_fini(&bad->got.text);
        *bad = kept;
        run_all(&w); // in the pages that it had
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

static void limits_and_ends(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    struct bg_error err;
    uint64_t id;
    double retry = 0;
    start(&w, (struct engine_options){.slots = 1, .queue_max = 3});
    struct serve_request bad = w.asked[0].request;
    bad.prompt_count = 0;
    assert_int_equal(engine_submit(w.engine, &bad, &err, &id, NULL), BG_INVALID);
    int32_t far[CONTEXT] = {0};
    bad.prompt = far;
    bad.prompt_count = CONTEXT;
    assert_int_equal(engine_submit(w.engine, &bad, &err, &id, NULL), BG_INVALID);
    assert_non_null(strstr(err.text, "96"));
    bad.prompt_count = 2;
    far[1] = 257;
    assert_int_equal(engine_submit(w.engine, &bad, &err, &id, NULL), BG_INVALID);
    for (size_t i = 0; i < 3; i++) {
        w.asked[i].request.tokens_max = 20;
        w.asked[i].request.priority = (int32_t)i;
        submit(&w, i);
    }
    assert_int_equal(engine_submit(w.engine, &w.asked[3].request, &err, &id, &retry), BG_FULL);
    assert_true(retry >= 1);
    engine_step(w.engine);
    assert_int_equal(w.asked[0].got.events + w.asked[1].got.events, 0); // the highest priority runs alone
    engine_cancel(w.engine, w.asked[1].id);
    engine_cancel(w.engine, 12345);
    engine_step(w.engine);
    assert_int_equal(w.asked[1].got.finish, SERVE_CANCELLED);
    engine_cancel(w.engine, w.asked[2].id);
    engine_step(w.engine);
    assert_int_equal(w.asked[2].got.finish, SERVE_CANCELLED);
    engine_drain(w.engine, false);
    assert_int_equal(engine_submit(w.engine, &w.asked[3].request, &err, &id, NULL), BG_STOPPED);
    w.asked[3].request.follows = true;
    submit(&w, 3);
    engine_step(w.engine);
    engine_drain(w.engine, true);
    engine_step(w.engine);
    assert_true(w.asked[0].got.finish == SERVE_HANDED || w.asked[0].got.finish == SERVE_STOP);
    struct engine_stats stats;
    engine_get_stats(w.engine, &stats, NULL, 0);
    assert_int_equal(stats.pages_used, 0);
    engine_destroy(w.engine);
    world_destroy(&w);
}

static void deadlines_end_requests(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    start(&w, (struct engine_options){.slots = 1});
    w.asked[0].request.tokens_max = 1000;
    w.asked[0].request.ignore_eos = true;
    w.asked[0].request.deadline_ms = 1;
    submit(&w, 0);
    const uint64_t begin = env_now_ns(w.env);
    while (env_now_ns(w.env) - begin < 2000000)
        continue;
    engine_step(w.engine);
    assert_int_equal(w.asked[0].got.finish, SERVE_EXPIRED);
    engine_destroy(w.engine);
    world_destroy(&w);
}

static void stops_end_text(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    struct asked *q = &w.asked[3];
    assert_true(q->want.text.size > 6);
    char stop[4] = {0};
    memcpy(stop, bg_str_text(&q->want.text) + 3, 3);
    const char *const stops[] = {"never there", stop};
    const char *first = strstr(bg_str_text(&q->want.text), stop);
    if (strlen(stop) == 3 && first) {
        q->request.stops = stops;
        q->request.stop_count = 2;
        start(&w, (struct engine_options){.slots = 1});
        submit(&w, 3);
        while (engine_step(w.engine))
            continue;
        assert_int_equal(q->got.finish, SERVE_STOP);
        assert_int_equal(q->got.text.size, (size_t)(first - bg_str_text(&q->want.text)));
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

struct client {
    struct world *w;
    size_t first;
};

static void submit_some(void *arg, struct bg_env *own)
{
    struct client *c = arg;
    (void)own;
    for (size_t i = c->first; i < REQUESTS; i += 2) {
        struct bg_error err;
        uint64_t id;
        assert_int_equal(engine_submit(c->w->engine, &c->w->asked[i].request, &err, &id, NULL), BG_OK);
        if (i % 3 == 0)
            engine_cancel(c->w->engine, id);
        struct engine_stats stats;
        engine_get_stats(c->w->engine, &stats, NULL, 0);
    }
}

static void count_ends(void *arg, const struct serve_event *event)
{
    uint32_t *ended = arg;
    *ended += event->finish != SERVE_RUNNING;
}

static void threads_may_ask(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    struct bg_error err;
    uint32_t ended = 0;
    struct bg_thread *threads[2];
    struct client clients[2] = {{&w, 0}, {&w, 1}};
    const struct engine_options options = {.slots = 3, .event = count_ends, .arg = &ended, .batch_wait_us = 500};
    assert_int_equal(engine_create(w.env, w.packed, w.kern, w.tokenizer, &options, &err, &w.engine), BG_OK);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(w.env->ops->thread_start(w.env, submit_some, &clients[i], &err, &threads[i]), BG_OK);
    while (ended < REQUESTS)
        engine_step(w.engine);
    for (size_t i = 0; i < 2; i++)
        w.env->ops->thread_join(w.env, threads[i]);
    engine_stop(w.engine);
    engine_run(w.engine);
    engine_destroy(w.engine);
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neighbours_do_not_show),

        cmocka_unit_test(a_small_pool_costs_time_only),
        cmocka_unit_test(a_draft_does_not_show),
        cmocka_unit_test(an_answer_goes_on_elsewhere),
        cmocka_unit_test(prefixes_are_used_again),
        cmocka_unit_test(limits_and_ends),
        cmocka_unit_test(deadlines_end_requests),
        cmocka_unit_test(stops_end_text),
        cmocka_unit_test(threads_may_ask),
        cmocka_unit_test(disk_does_not_show),
        cmocka_unit_test(embeddings_are_the_head_s_input),
        cmocka_unit_test(embeddings_beside_others),
        cmocka_unit_test(what_is_no_number_is_no_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
