// The choices of a request share a grammar, and none of them shows in another: where an ambiguous one takes so long
// that answers are cut off, they are cut where they are alone, whatever the slots, neighbours with the same grammar,
// priorities, guesses, pages, and also where they go on elsewhere.
#include "serve/engine_test.h"

#include "serve/grammar_int.h"

enum { CHOICES = 6, DRAWN_MAX = 40 };

static const char *const grammars[] = {
    // Each byte may belong to many parts: sets grow, and what may come next is counted.
    "root ::= (x | y){1,4096}\nx ::= [a-z ]{1,40}\ny ::= [a-z ]{1,30} [^a-c]\n",
    "root ::= \"<\" root \">\" | [a-z ] root [a-z] | [^<>] root | [^<>]\n",
    "root ::= ([a-m] | [k-z] \"0\"? | [^a-z] [^0-9]?)*\n",
};

// A new one for each run: what others walked before is part of what must not show.
static struct grammar *grammar_of(const struct world *w, size_t i)
{
    static const struct {
        uint64_t mask, text;
    } limits[] = {{20000, 6000}, {1500, 900}, {1 << 20, 300}};
    struct bg_error err;
    struct grammar *g;
    assert_int_equal(grammar_compile_gbnf(grammars[i], strlen(grammars[i]), w->tokenizer, &err, &g), BG_OK);
    grammar_limit(g, limits[i].mask, limits[i].text, i == 0 ? 0 : 1 << 16);
    return g;
}

static void begin(struct world *w, struct engine_options options)
{
    options.draft = w->draft;
    start(w, options);
}

static void finish(struct world *w)
{
    while (engine_step(w->engine))
        continue;
    engine_destroy(w->engine);
}

// Each choice alone, with a grammar of its own.
static void answer_each_alone(struct world *w, size_t grammar)
{
    for (size_t i = 0; i < CHOICES; i++) {
        struct asked *q = &w->asked[i];
        struct grammar *g = grammar_of(w, grammar);
        q->request.grammar = g;
        q->request.tokens_max = DRAWN_MAX;
        q->request.prompt_count = 3; // the same for all
        memcpy(q->prompt, w->asked[0].prompt, 3 * sizeof *q->prompt);
        q->request.sampling = (struct serve_sampling){
            .temperature = 1.5f, .top_p = 1, .repeat_penalty = 1, .seed = 5, .choice = (uint32_t)i};
        begin(w, (struct engine_options){.slots = 1, .chunk = 16});
        submit(w, i);
        finish(w);
        bg_str_fini(&q->want.text);
        q->want = q->got;
        q->got = (struct answer){0};
        grammar_release(g);
    }
}

// All choices of one request, from the last or the first, each some steps after the one before.
static void answer_together(struct world *w, size_t grammar, struct engine_options options, uint32_t apart)
{
    struct grammar *g = grammar_of(w, grammar);
    begin(w, options);
    for (size_t n = 0; n < CHOICES; n++) {
        const size_t i = apart % 2 ? CHOICES - 1 - n : n;
        w->asked[i].request.grammar = g;
        w->asked[i].request.priority = (int32_t)(apart * n % 3);
        submit(w, i);
        for (uint32_t step = 0; step < apart * n; step++)
            engine_step(w->engine);
    }
    finish(w);
    for (size_t i = 0; i < CHOICES; i++)
        check_answer(&w->asked[i]);
    grammar_release(g);
}

static void choices_do_not_show_in_each_other(void **state)
{
    (void)state;
    struct world w;
    uint32_t cut = 0;
    world_create(&w, 1);
    const struct engine_options options[] = {
        {.slots = 1, .chunk = 16},
        {.slots = 2, .chunk = 2},
        {.slots = 8, .chunk = 16},
        {.slots = 3, .chunk = 16, .kv_bytes = 9 * page_bytes()},
        {.slots = 4, .chunk = 16, .speculate = ENGINE_NGRAM},
        {.slots = 4, .chunk = 16, .speculate = ENGINE_DRAFT},
        {.slots = 3, .chunk = 16, .speculate = ENGINE_TREE},
    };
    for (size_t k = 0; k < sizeof grammars / sizeof *grammars; k++) {
        answer_each_alone(&w, k);
        for (size_t i = 0; i < CHOICES; i++)
            cut += w.asked[i].want.finish == SERVE_LENGTH && w.asked[i].want.count < DRAWN_MAX;
        for (size_t o = 0; o < sizeof options / sizeof *options; o++)
            for (uint32_t apart = 0; apart < 3; apart++)
                answer_together(&w, k, options[o], apart);
    }
    assert_true(cut > 0); // or this would show nothing
    world_destroy(&w);
}

static void a_resumed_answer_is_cut_at_the_same_place(void **state)
{
    (void)state;
    struct world w;
    world_create(&w, 1);
    for (size_t k = 0; k < sizeof grammars / sizeof *grammars; k++) {
        answer_each_alone(&w, k);
        for (size_t i = 0; i < CHOICES; i++) {
            struct asked *q = &w.asked[i];
            for (uint32_t drawn = 1; drawn <= q->want.count; drawn += 4) {
                struct grammar *g = grammar_of(&w, k);
                q->request.grammar = g;
                q->request.drawn = q->want.tokens;
                q->request.drawn_count = drawn;
                begin(&w, (struct engine_options){.slots = 2, .chunk = 16, .speculate = ENGINE_TREE});
                submit(&w, i);
                finish(&w);
                assert_int_equal(q->got.count, q->want.count - drawn);
                assert_memory_equal(q->got.tokens, q->want.tokens + drawn, q->got.count * sizeof(int32_t));
                assert_int_equal(q->got.finish, q->want.finish);
                grammar_release(g);
            }
            q->request.drawn = NULL;
            q->request.drawn_count = 0;
        }
    }
    world_destroy(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choices_do_not_show_in_each_other),
        cmocka_unit_test(a_resumed_answer_is_cut_at_the_same_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
