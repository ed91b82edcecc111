// An answer is the same on every instruction set and number of threads, with weights of every type; and that of a
// decoder alone with the numbers that quantised weights stand for.
// labels: bits
#include "serve/engine_test.h"

// The model in another type of weights; who answers alone has the numbers that these stand for.
static void quantise(struct world *w, enum kern_weight type)
{
    struct bg_error err;
    packed_destroy(w->packed);
    assert_int_equal(packed_create(w->env, w->model, w->weights, NULL, type, &err, &w->packed), BG_OK);
    for (uint32_t i = 0; i < w->model->param_count && type != KERN_F32; i++) {
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
    for (enum kern_weight type = KERN_F32; type <= KERN_Q4_0; type++)
        for (unsigned threads = 1; threads <= 3; threads++) {
            struct world w;
            const struct kern *tables[3];
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machines_do_not_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
