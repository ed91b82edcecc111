// An answer is the same on every instruction set and number of threads, with weights of every type; and that of a
// decoder alone with the numbers that quantised weights stand for, or of one row a call in class int8/1.
// labels: bits
#include "serve/engine_test.h"

// The model in another type of weights; who answers alone has the numbers that these stand for.
static void quantise(struct world *w, enum kern_weight type)
{
    struct bg_error err;
    packed_destroy(w->packed);
    assert_int_equal(packed_create(w->env, w->model, w->weights, NULL, type, &err, &w->packed), BG_OK);
    for (uint32_t i = 0; i < w->model->param_count && (type == KERN_Q8_0 || type == KERN_Q4_0); i++) {
        const struct model_param *p = &w->model->params[i];
        if (p->rank < 2 || p->unit == 0 || p->shape[1] % KERN_QUANT)
            continue;
        const size_t blocks = (size_t)p->count / KERN_QUANT;
        void *bytes = bg_alloc_array(blocks, kern_block_bytes(type));
        kern_quantise_blocks(bytes, type, w->weights + p->offset, blocks);
        kern_widen_blocks(w->weights + p->offset, type, bytes, blocks);
        bg_free(bytes);
    }
    for (size_t i = 0; i < REQUESTS; i++) {
        bg_str_fini(&w->asked[i].want.text);
        w->asked[i].want = (struct answer){0};
        answer_alone(w, &w->asked[i]);
    }
}

static void machines_do_not_show(void **state)
{
    (void)state;
    static const struct engine_options options[] = {
        {.slots = 7, .chunk = 19},
        {.slots = 3, .chunk = 64, .speculate = ENGINE_NGRAM},
        {.slots = 4, .chunk = 11, .speculate = ENGINE_TREE},
    };
    for (enum kern_weight type = KERN_F32; type <= KERN_INT8; type++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct world w;
            const struct kern *tables[KERN_TABLES];
            world_create(&w, threads);
            quantise(&w, type);
            const size_t count = kern_tables(w.env->isa, tables);
            for (size_t i = threads == 1 ? 0 : count - 1; i < count; i++) { // all of them once, the fastest always
                struct engine_options o = options[(i + threads + (size_t)type) % 3];
                o.draft = w.draft;
                w.kern = tables[i];
                start(&w, o);
                run_all(&w);
                engine_destroy(w.engine);
            }
            world_destroy(&w);
        }
}

static void other_requests(struct world *w, uint64_t random)
{
    for (size_t i = 0; i < REQUESTS; i++) {
        bg_str_fini(&w->asked[i].want.text);
        bg_str_fini(&w->asked[i].got.text);
        w->asked[i] = (struct asked){0};
    }
    w->random = random;
    make_requests(w);
}

// Two hundred prompts and more, fourteen at a time: in every number of slots from 2 to 16, every chunk from one token
// to the context, every kind of speculation, on every instruction set, by one thread and two, after the pages of the
// longest prompt were saved by an engine that ran otherwise. Each in `ways` ways, chunks `step` apart.
static void check_together(enum kern_weight type, uint32_t ways, uint32_t step)
{
    static const unsigned kinds[] = {ENGINE_PLAIN, ENGINE_NGRAM, ENGINE_DRAFT, ENGINE_TREE};
    struct world worlds[2];
    const struct kern *tables[KERN_TABLES];
    uint32_t chunk = 1, restored = 0;
    for (unsigned i = 0; i < 2; i++) {
        world_create(&worlds[i], 1 + i);
        quantise(&worlds[i], type);
    }
    const size_t count = kern_tables(worlds[0].env->isa, tables);
    for (uint32_t slots = 2; slots <= 16; slots++) {
        struct world *w = &worlds[slots % 2];
        void *bytes = NULL;
        size_t size = 0;
        w->kern = tables[count - 1];
        other_requests(w, slots);
        for (uint32_t k = 0; k < ways; k++) {
            struct bg_error err;
            const struct asked *longest = &w->asked[3];
            uint32_t tokens = 0;
            w->kern = tables[k ? count - 1 : slots % count]; // the reference takes its time
            start(w, (struct engine_options){
                         .slots = slots, .chunk = chunk, .speculate = kinds[(slots + k) % 4], .draft = w->draft});
            if (bytes)
                assert_int_equal(engine_restore(w->engine, bytes, size, &err, &tokens), BG_OK);
            chunk = (chunk + step - 1) % CONTEXT + 1;
            restored += tokens;
            bg_free(bytes);
            bytes = NULL;
            run_all(w);
            if (longest->request.prompt_count >= BATCH_PAGE)
                assert_int_equal(engine_save(w->engine, longest->prompt, longest->request.prompt_count, &err, &bytes,
                                             &size, &tokens),
                                 BG_OK);
            engine_destroy(w->engine);
        }
        bg_free(bytes);
    }
    assert_true(restored > 0);
    for (unsigned i = 0; i < 2; i++)
        world_destroy(&worlds[i]);
}

static void nothing_shows_together(void **state)
{
    (void)state;
    check_together(KERN_F32, 7, 1);
    check_together(KERN_INT8, 2, 5);
}

// Pages made with one type of weights are none of another's, also where the numbers of the weights are the same: Q8_0
// and INT8. Keys and values of the latter are F16: as much memory holds twice as many.
static void types_share_no_pages(void **state)
{
    (void)state;
    struct world w;
    struct bg_error err;
    uint64_t prints[KERN_INT8 + 1];
    void *bytes = NULL;
    size_t size, longest = 0;
    uint32_t tokens;
    world_create(&w, 1);
    for (size_t i = 1; i < REQUESTS; i++)
        if (w.asked[i].request.cache_prompt && w.asked[i].request.prompt_count > w.asked[longest].request.prompt_count)
            longest = i;
    for (enum kern_weight type = KERN_F32; type <= KERN_INT8; type++) {
        packed_destroy(w.packed);
        assert_int_equal(packed_create(w.env, w.model, w.weights, NULL, type, &err, &w.packed), BG_OK);
        start(&w, (struct engine_options){.slots = 2, .kv_bytes = 20 * page_bytes()});
        prints[type] = engine_fingerprint(w.engine);
        for (enum kern_weight other = KERN_F32; other < type; other++)
            assert_true(prints[other] != prints[type]);
        if (bytes)
            assert_int_equal(engine_restore(w.engine, bytes, size, &err, &tokens), BG_MISMATCH);
        bg_free(bytes);
        submit(&w, longest);
        while (engine_step(w.engine))
            continue;
        struct engine_stats stats;
        engine_get_stats(w.engine, &stats, NULL, 0);
        assert_int_equal(stats.pages, type == KERN_INT8 ? 40 : 20);
        assert_int_equal(engine_save(w.engine, w.asked[longest].prompt, w.asked[longest].request.prompt_count, &err,
                                     &bytes, &size, &tokens),
                         BG_OK);
        assert_true(tokens >= BATCH_PAGE);
        assert_int_equal(engine_restore(w.engine, bytes, size, &err, &tokens), BG_OK);
        engine_destroy(w.engine);
    }
    bg_free(bytes);
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machines_do_not_show),
        cmocka_unit_test(nothing_shows_together),
        cmocka_unit_test(types_share_no_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
