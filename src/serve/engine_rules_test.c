// Whose turn it is: priorities, deadlines, cancelling in mid-prompt, fairness, waiting for company; what it costs:
// pages add up after every step, and decoding allocates nothing. That none of it shows in a token is in engine_test.c,
// and is checked here along the way.
#include "serve/engine_test.h"

#include "serve/engine_int.h"

static void prompt_of(struct world *w, size_t i, uint32_t count, uint32_t tokens_max)
{
    struct asked *q = &w->asked[i];
    for (uint32_t j = 0; j < count; j++)
        q->prompt[j] = (int32_t)(97 + (j * (i + 3)) % 23);
    q->request = (struct serve_request){.prompt = q->prompt,
                                        .prompt_count = count,
                                        .tokens_max = tokens_max,
                                        .sampling = {.temperature = 0.9f, .top_p = 1, .repeat_penalty = 1, .seed = i},
                                        .cache_prompt = true};
    bg_str_fini(&q->want.text);
    q->want = (struct answer){0};
    answer_alone(w, q);
    q->request.ignore_eos = false;
}

// Every page is free, cached, or with those who run, and there each is counted once.
static void check_pages(const struct engine *e)
{
    const struct pages_counts counts = pages_count(e->pages);
    uint8_t *seen = bg_alloc(e->page_total);
    uint32_t held = 0;
    assert_int_equal(counts.used + counts.cached + counts.free, e->page_total);
    for (uint32_t slot = 0; slot < e->o.slots; slot++) {
        const struct job *job = e->slots[slot];
        for (uint32_t i = 0; job && i < job->page_count; i++) {
            assert_true(job->page_of[i] < e->page_total);
            assert_true(job->nodes[i] != PAGES_NONE || !seen[job->page_of[i]]);
            held += !seen[job->page_of[i]];
            seen[job->page_of[i]] = 1;
        }
    }
    assert_int_equal(held, counts.used);
    bg_free(seen);
}

static void high_priority_makes_low_wait(void **state)
{
    (void)state;
    static const struct engine_options kinds[] = {
        {.slots = 1, .chunk = 16},                // for the slot
        {.slots = 4, .chunk = 16, .kv_bytes = 1}, // for the pages of one context
    };
    for (size_t k = 0; k < 2; k++) {
        struct world w;
        world_create(&w, 1);
        prompt_of(&w, 0, 60, 30);
        prompt_of(&w, 1, 70, 20);
        prompt_of(&w, 2, 65, 10);
        w.asked[1].request.priority = w.asked[2].request.priority = 3;
        start(&w, kinds[k]);
        submit(&w, 0);
        for (int i = 0; i < 8; i++)
            engine_step(w.engine);
        const uint32_t before = w.asked[0].got.count;
        assert_true(before > 0 && w.asked[0].got.finish == SERVE_RUNNING);
        submit(&w, 1);
        submit(&w, 2);
        while (w.asked[1].got.finish == SERVE_RUNNING) {
            engine_step(w.engine);
            check_pages(w.engine);
            assert_true(w.asked[0].got.count <= before + 1);
            assert_true(k == 1 || w.asked[2].got.count == 0); // equals wait for their turn
        }
        while (engine_step(w.engine))
            check_pages(w.engine);
        for (size_t i = 0; i < 3; i++)
            check_answer(&w.asked[i]);
        engine_destroy(w.engine);
        world_destroy(&w);
    }
}

// Where not even all pages of lower ones would do, they go on.
static void nobody_makes_way_in_vain(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    prompt_of(&w, 0, 64, 15);
    prompt_of(&w, 1, 20, 12);
    prompt_of(&w, 2, 60, 5);
    w.asked[0].request.priority = w.asked[2].request.priority = 3;
    start(&w, (struct engine_options){.slots = 2, .chunk = 90, .kv_bytes = 1}); // 8 pages
    submit(&w, 0);
    submit(&w, 1);
    engine_step(w.engine);
    submit(&w, 2); // needs five; the first has five
    for (uint32_t before; w.asked[1].got.finish == SERVE_RUNNING;) {
        before = w.asked[1].got.count;
        engine_step(w.engine);
        assert_true(w.asked[1].got.count > before || w.asked[1].got.finish != SERVE_RUNNING);
    }
    while (engine_step(w.engine))
        continue;
    for (size_t i = 0; i < 3; i++)
        check_answer(&w.asked[i]);
    engine_destroy(w.engine);
    world_destroy(&w);
}

// Beside a long prompt those who decode get a token in every step; the prompt gets its chunk.
static void a_long_prompt_starves_nobody(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    prompt_of(&w, 0, 5, 60);
    prompt_of(&w, 1, 90, 4);
    prompt_of(&w, 2, 80, 3);
    start(&w, (struct engine_options){.slots = 3, .chunk = 8});
    submit(&w, 0);
    engine_step(w.engine);
    submit(&w, 1);
    submit(&w, 2);
    uint32_t steps = 0;
    struct engine_slot slots[3];
    struct engine_stats stats;
    for (; w.asked[1].got.count == 0; steps++) {
        const uint32_t before = w.asked[0].got.count;
        engine_step(w.engine);
        engine_get_stats(w.engine, &stats, slots, 3);
        assert_true(w.asked[0].got.count == before + 1 || w.asked[0].got.finish != SERVE_RUNNING);
        assert_true(w.asked[1].got.count > 0 || slots[1].position == 8 * (steps + 1));
    }
    assert_int_equal(steps, 12); // 90 tokens by eights
    while (engine_step(w.engine))
        continue;
    for (size_t i = 0; i < 3; i++)
        check_answer(&w.asked[i]);
    engine_destroy(w.engine);
    world_destroy(&w);
}

// ---- A clock of ours ----
static struct script {
    uint64_t now;
    struct world *w;
    uint64_t at[REQUESTS]; // arrivals
    uint32_t count, next, begun;
    uint64_t first[REQUESTS]; // when the first token came
} script;
static const struct bg_env_ops *live;
static struct bg_env_ops scripted;

static uint64_t scripted_now(struct bg_env *env)
{
    (void)env;
    return script.now;
}

// Sleeps until the next arrival, or for all of `ns`.
static void scripted_wait(struct bg_env *env, struct bg_gate *gate, uint64_t ns)
{
    const uint64_t until = script.now + ns;
    if (script.next == script.count) {
        script.now = until;
        if (script.begun == script.count)
            script.w->engine->stopping = true;
    } else if (script.at[script.next] > until) {
        script.now = until;
    } else {
        script.now = script.at[script.next] > script.now ? script.at[script.next] : script.now;
        live->gate_leave(env, gate);
        submit(script.w, script.next++);
        live->gate_enter(env, gate);
    }
}

static void note_first(void *arg, const struct serve_event *event)
{
    (void)arg;
    for (uint32_t i = 0; i < script.count; i++)
        if (script.w->asked[i].id == event->request) {
            script.first[i] = script.now;
            script.begun++;
        }
}

static void use_script(struct world *w)
{
    live = w->env->ops;
    scripted = *live;
    scripted.now_ns = scripted_now;
    scripted.gate_wait = scripted_wait;
    w->env->ops = &scripted;
    script = (struct script){.now = 1000000000, .w = w};
}

static void waits_only_for_likely_company(void **state)
{
    (void)state;
    static const struct {
        uint64_t gap_us;
        uint32_t count, slots, mu_us;
        uint64_t first_us[REQUESTS];
    } cases[] = {
        // The first one knows of no company. Then four are as many as there are slots; the last three wait for one
        // more, once.
        {10, 8, 4, 100, {0, 40, 40, 40, 40, 170, 170, 170}},
        // Company keeps coming: after four times mu those who wait go all the same.
        {60, 12, 16, 100, {0, 460, 460, 460, 460, 460, 460, 460, 760, 760, 760, 760}},
        {150, 4, 4, 100, {0, 150, 300, 450}}, // no company is likely
        {10, 4, 4, 0, {0, 10, 20, 30}},       // nobody asked for it
        {0, 5, 4, 50, {0, 50, 50, 50, 50}},   // all at once: taken in one by one, as they can be heard of
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct world w;
        world_create(&w, 1);
        use_script(&w);
        script.count = cases[c].count;
        start(&w, (struct engine_options){.slots = cases[c].slots, .batch_wait_us = cases[c].mu_us});
        w.engine->o.event = note_first;
        for (uint32_t i = 0; i < script.count; i++) {
            script.at[i] = script.now + 1000 + i * cases[c].gap_us * 1000;
            w.asked[i].request.tokens_max = 1;
        }
        engine_run(w.engine);
        assert_int_equal(script.begun, script.count);
        for (uint32_t i = 0; i < script.count; i++)
            if (c < 4)
                assert_int_equal(script.first[i] - script.at[0], cases[c].first_us[i] * 1000);
        if (c == 4) // the last one's wait is that for company
            assert_true(script.first[4] - script.at[0] <= 4 * 50000);
        w.env->ops = live;
        engine_destroy(w.engine);
        world_destroy(&w);
    }
}

// In the middle of a prompt: what was asked for is not computed to its end.
static void ends_in_mid_prompt(void **state)
{
    (void)state;
    struct world w;
    struct engine_stats stats;
    world_create(&w, 1);
    use_script(&w);
    prompt_of(&w, 0, 90, 5);
    prompt_of(&w, 1, 90, 5);
    w.asked[1].prompt[0] = 65;
    w.asked[1].request.deadline_ms = 7;
    start(&w, (struct engine_options){.slots = 2, .chunk = 4});
    submit(&w, 0);
    submit(&w, 1);
    for (int i = 0; i < 3; i++)
        engine_step(w.engine);
    engine_cancel(w.engine, w.asked[0].id);
    engine_step(w.engine);
    assert_int_equal(w.asked[0].got.finish, SERVE_CANCELLED);
    script.now += 6999999;
    engine_step(w.engine);
    assert_int_equal(w.asked[1].got.finish, SERVE_RUNNING);
    script.now++;
    assert_false(engine_step(w.engine));
    assert_int_equal(w.asked[1].got.finish, SERVE_EXPIRED);
    engine_get_stats(w.engine, &stats, NULL, 0);
    assert_int_equal(stats.drawn_tokens + w.asked[0].got.count + w.asked[1].got.count, 0);
    assert_int_equal(stats.rows, 5 * 4);
    assert_int_equal(stats.pages_used, 0);
    check_pages(w.engine);
    w.asked[1].request.deadline_ms = 0; // what was computed is of use
    bg_str_fini(&w.asked[0].got.text);
    w.asked[0].got = (struct answer){0};
    submit(&w, 0);
    while (engine_step(w.engine))
        continue;
    assert_int_equal(w.asked[0].got.cached, 12);
    check_answer(&w.asked[0]);
    w.env->ops = live;
    engine_destroy(w.engine);
    world_destroy(&w);
}

// Children are what the smaller model alone, fed with all tokens before them, would guess.
static void check_guesses(struct world *w, bool same, struct draw *draw, const struct job *job)
{
    struct decoder *d;
    struct bg_error err;
    const float *logits;
    const struct guesses *g = &job->guesses;
    int32_t want[GUESS_LANES], tokens[CONTEXT];
    memcpy(tokens, job->tokens, job->count * sizeof *tokens);
    for (uint32_t at = 0; at < g->count; at++) {
        uint32_t found = 0;
        for (uint32_t up = at; up > 0; up = g->of[up].parent)
            tokens[job->count + g->of[up].depth - 1] = g->of[up].token;
        const uint32_t count = job->count + g->of[at].depth;
        assert_int_equal(decoder_create(w->env, same ? w->model : w->small, w->kern,
                                        same ? w->weights : w->small_weights, CONTEXT, 16, &err, &d),
                         BG_OK);
        assert_int_equal(decoder_feed(d, tokens, count, &err, &logits), BG_OK);
        const struct draw_call call = {logits, &job->request.sampling, tokens, job->request.prompt_count, count, NULL};
        const uint32_t wanted = draw_guesses(draw, &call, w->engine->o.expand[g->of[at].depth], want);
        decoder_destroy(d);
        for (uint32_t child = at + 1; child < g->count; child++)
            if (g->of[child].parent == at)
                assert_int_equal(g->of[child].token, want[found++]);
        assert_true(found == wanted || found == 0); // a leaf has none
        assert_true(found > 0 || at > 0 || job->request.tokens_max - job_drawn(job) == 1);
    }
}

static void check_draft(bool same)
{
    struct world w;
    struct engine_stats stats;
    world_create(&w, 1);
    struct draw *draw = draw_create(w.kern, config.vocab);
    start(&w, (struct engine_options){.slots = 2,
                                      .chunk = 32,
                                      .speculate = ENGINE_TREE,
                                      .draft = same ? w.packed : w.draft,
                                      .expand = {4, 2, 1}});
    for (size_t i = 0; i < 4; i++) {
        prompt_of(&w, i, 10 + 5 * (uint32_t)i, 40);
        w.asked[i].request.sampling.temperature = i % 2 ? 0.5f : 0;
        bg_str_fini(&w.asked[i].want.text);
        w.asked[i].want = (struct answer){0};
        answer_alone(&w, &w.asked[i]);
        submit(&w, i);
    }
    for (uint32_t step = 0; engine_step(w.engine); step++) {
        drafter_propose(w.engine);
        for (uint32_t slot = same ? 0 : step % 4; slot < 2; slot++) {
            const struct job *job = w.engine->slots[slot];
            if (job && job->count - job->fed == 1)
                check_guesses(&w, same, draw, job);
        }
    }
    for (size_t i = 0; i < 4; i++)
        check_answer(&w.asked[i]);
    engine_get_stats(w.engine, &stats, NULL, 0);
    assert_true(stats.accepted > 0);
    draw_destroy(draw);
    engine_destroy(w.engine);
    world_destroy(&w);
}

static void guesses_are_those_of_the_draft(void **state)
{
    (void)state;
    check_draft(false); // seldom right
    check_draft(true);  // right to the last leaf
}

static void ignore(void *arg, const struct serve_event *event)
{
    (void)arg;
    (void)event;
}

static void decoding_allocates_nothing(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    for (int kind = ENGINE_PLAIN; kind <= ENGINE_TREE; kind++) {
        start(&w, (struct engine_options){.slots = 4, .chunk = 16, .speculate = (unsigned)kind, .draft = w.draft});
        w.engine->o.event = ignore;
        for (size_t i = 0; i < 4; i++) {
            prompt_of(&w, i, 6, 88);
            w.asked[i].request.ignore_eos = true;
            w.asked[i].request.logprobs = i == 1;
            w.asked[i].request.top_logprobs = 5;
            w.asked[i].request.sampling.repeat_penalty = 1.1f;
            w.asked[i].request.sampling.repeat_last = 64;
            submit(&w, i);
        }
        for (int i = 0; i < 4; i++)
            engine_step(w.engine);
        const uint64_t before = bg_mem_count();
        for (int i = 0; i < 10; i++)
            assert_true(engine_step(w.engine));
        assert_int_equal(bg_mem_count() - before, 0);
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

// All of it at once: whatever comes, in whatever order, pages add up and whoever was not broken off has his answer.
static void pages_add_up(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    for (uint32_t turn = 0; turn < 8; turn++) {
        start(&w, (struct engine_options){.slots = 1 + turn % 5,
                                          .chunk = 3 + 7 * turn,
                                          .kv_bytes = (9 + 3 * turn) * page_bytes(),
                                          .host_cache_bytes = turn % 3 * 4 * page_bytes(),
                                          .speculate = turn % 4,
                                          .draft = turn < 4 ? w.packed : w.draft});
        bool sent[REQUESTS] = {false}, cancelled[REQUESTS] = {false};
        for (uint32_t left = REQUESTS, busy = 1; left > 0 || busy;) {
            const uint32_t i = below(&w, REQUESTS), what = below(&w, 40);
            if (!sent[i]) {
                w.asked[i].request.priority = (int32_t)below(&w, 3);
                submit(&w, i);
                sent[i] = true;
                left--;
            } else if (what == 0) {
                cancelled[i] = true;
                engine_cancel(w.engine, w.asked[i].id);
            }
            busy = engine_step(w.engine);
            check_pages(w.engine);
        }
        for (size_t i = 0; i < REQUESTS; i++)
            if (!cancelled[i])
                check_answer(&w.asked[i]);
        assert_int_equal(pages_count(w.engine->pages).used, 0);
        engine_destroy(w.engine);
    }
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(high_priority_makes_low_wait),  cmocka_unit_test(a_long_prompt_starves_nobody),
        cmocka_unit_test(waits_only_for_likely_company), cmocka_unit_test(ends_in_mid_prompt),
        cmocka_unit_test(decoding_allocates_nothing),    cmocka_unit_test(pages_add_up),
        cmocka_unit_test(nobody_makes_way_in_vain),      cmocka_unit_test(guesses_are_those_of_the_draft),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
