// The watchdog calls out when steps end no more, and then only: not while an engine is idle, not while it works.
// labels: threads
#include "serve/watchdog.h"

#include "base/mem.h"
#include "model/step_test.h"

#include <stdatomic.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static atomic_bool hang, called, goes_on;
static struct bg_gate *gate;
static char what[64];

static void on_dead(void *arg, const char *doing, double seconds)
{
    (void)arg;
    assert_true(seconds >= 0.1);
    snprintf(what, sizeof what, "%s", doing);
    atomic_store(&called, true);
}

// Where a batch would be computed, the engine waits until the test lets it go on.
static void stay(struct bg_env *env, const char *name)
{
    if (strcmp(name, "serve-batch") != 0 || !atomic_load(&hang))
        return;
    env->ops->gate_enter(env, gate);
    while (!atomic_load(&called))
        env->ops->gate_wait(env, gate, 1000000);
    env->ops->gate_leave(env, gate);
    atomic_store(&goes_on, true);
}

static void run_engine(void *arg, struct bg_env *own)
{
    (void)own;
    engine_run(arg);
}

static void a_dead_engine_is_noticed(void **state)
{
    (void)state;
    static const struct model_config config = {.family = MODEL_LLAMA,
                                               .layers = 1,
                                               .dim = 16,
                                               .heads = 2,
                                               .kv_heads = 1,
                                               .head_dim = 8,
                                               .ffn = 16,
                                               .context = 64,
                                               .vocab = 257,
                                               .rope_theta = 10000.0,
                                               .norm_eps = 1e-5,
                                               .bos = -1,
                                               .eos = -1};
    struct bg_env *env = test_env(1);
    struct bg_env_ops ops = *env->ops;
    struct bg_error err;
    struct model *model = test_model(config);
    float *weights = test_weights(model, env, 0.1f);
    struct packed_model *packed;
    struct tokenizer *tokenizer;
    struct engine *engine;
    struct watchdog *watchdog;
    struct bg_thread *thread;
    uint64_t id;
    const int32_t prompt[] = {97, 98, 99};
    const struct serve_request request = {
        .prompt = prompt, .prompt_count = 3, .tokens_max = 20, .ignore_eos = true, .sampling = {.top_p = 1}};
    ops.point = stay;
    env->ops = &ops;
    assert_int_equal(env->ops->gate_create(env, &err, &gate), BG_OK);
    assert_int_equal(packed_create(env, model, weights, NULL, KERN_F32, &err, &packed), BG_OK);
    assert_int_equal(tokenizer_open(env, "bytes", &err, &tokenizer), BG_OK);
    const struct engine_options options = {.slots = 1};
    const struct watchdog_options limit = {.limit_s = 0.5, .dead = on_dead}; // five idle turns
    assert_int_equal(engine_create(env, packed, kern_select(env->isa), tokenizer, &options, &err, &engine), BG_OK);
    assert_int_equal(env->ops->thread_start(env, run_engine, engine, &err, &thread), BG_OK);
    assert_int_equal(watchdog_start(env, engine, &limit, &err, &watchdog), BG_OK);
    assert_int_equal(engine_submit(engine, &request, &err, &id, NULL), BG_OK);
    const uint64_t begin = env_now_ns(env), turns = engine_pulse(engine).turns;
    env->ops->gate_enter(env, gate);
    while (env_now_ns(env) - begin < 900000000)
        env->ops->gate_wait(env, gate, 50000000);
    env->ops->gate_leave(env, gate);
    assert_false(atomic_load(&called));
    assert_true(engine_pulse(engine).turns > turns);
    atomic_store(&hang, true);
    assert_int_equal(engine_submit(engine, &request, &err, &id, NULL), BG_OK);
    env->ops->gate_enter(env, gate);
    while (!atomic_load(&goes_on))
        env->ops->gate_wait(env, gate, 10000000);
    env->ops->gate_leave(env, gate);
    assert_string_equal(what, "computing a batch");
    watchdog_stop(watchdog);
    engine_stop(engine);
    env->ops->thread_join(env, thread);
    engine_destroy(engine);
    tokenizer_destroy(tokenizer);
    packed_destroy(packed);
    free(weights);
    model_destroy(model);
    env->ops->gate_destroy(env, gate);
    os_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_engine_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
