// What the tests of grammars share: a tokenizer whose ids are bytes, and numbers drawn at random.
#ifndef BG_SERVE_GRAMMAR_TEST_H
#define BG_SERVE_GRAMMAR_TEST_H

#include "model/step_test.h"
#include "serve/grammar_int.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

struct world {
    struct bg_env *env;
    struct tokenizer *bytes;
    uint64_t random;
};

static uint32_t below(struct world *w, uint32_t n)
{
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->random >> 33) % n;
}

static void world_create(struct world *w, uint64_t seed)
{
    struct bg_error err;
    *w = (struct world){.env = test_env(1), .random = seed};
    assert_int_equal(tokenizer_open(w->env, "bytes", &err, &w->bytes), BG_OK);
}

static void world_destroy(struct world *w)
{
    tokenizer_destroy(w->bytes);
    os_env_destroy(w->env);
}

#endif
