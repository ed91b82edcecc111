// One request alone gives the rate of prompts and the time of a step; as many as there are slots, what each adds.
#include "cli/calibrate.h"

#include "base/mem.h"
#include "model/io.h"
#include "serve/engine.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = 24, PROMPT_MAX = 512, SLOTS_MAX = 256 };

struct subject {
    struct bg_env *env;
    struct engine *engine;
    int32_t prompt[PROMPT_MAX];
    uint32_t tokens; // told so far
};

static void on_event(void *arg, const struct serve_event *event)
{
    struct subject *s = arg;
    s->tokens += event->token_count;
}

static bg_status ask(struct subject *s, uint32_t prompt, uint32_t count, struct bg_error *err)
{
    const struct serve_request request = {.prompt = s->prompt,
                                          .prompt_count = prompt,
                                          .tokens_max = STEPS + 2,
                                          .sampling = {.top_p = 1, .repeat_penalty = 1},
                                          .ignore_eos = true};
    bg_status status = BG_OK;
    uint64_t id;
    for (uint32_t i = 0; i < count && !status; i++)
        status = engine_submit(s->engine, &request, err, &id, NULL);
    return status;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds until `count` requests have their first token, and the median of the steps after that.
static bg_status time_requests(struct subject *s, uint32_t prompt, uint32_t count, struct bg_error *err, double *first,
                               double *step)
{
    double times[STEPS];
    bg_status status = ask(s, prompt, count, err);
    if (status)
        return status;
    s->tokens = 0;
    const uint64_t begin = env_now_ns(s->env);
    while (s->tokens < count)
        engine_step(s->engine);
    *first = (double)(env_now_ns(s->env) - begin) * 1e-9;
    for (uint32_t i = 0; i < STEPS; i++) {
        const uint64_t start = env_now_ns(s->env);
        engine_step(s->engine);
        times[i] = (double)(env_now_ns(s->env) - start) * 1e-9;
    }
    qsort(times, STEPS, sizeof *times, by_value);
    *step = times[STEPS / 2];
    while (engine_step(s->engine))
        continue;
    return BG_OK;
}

static bg_status measure(struct subject *s, uint32_t context, uint32_t vocab, struct bg_error *err,
                         struct plan_service_model *service)
{
    const uint32_t half = context > 2 * STEPS + 4 ? (context - STEPS - 2) / 2 : 1;
    const uint32_t prompt = half < PROMPT_MAX ? half : PROMPT_MAX;
    double first, one, many, ignored;
    for (uint32_t i = 0; i < PROMPT_MAX; i++)
        s->prompt[i] = (int32_t)(i * 7919u % vocab);
    bg_status status = time_requests(s, prompt, 1, err, &first, &one); // warms up
    if (!status)
        status = time_requests(s, prompt, 1, err, &first, &one);
    if (!status)
        status = time_requests(s, 1, service->slots, err, &ignored, &many);
    if (status)
        return status;
    const double extra = service->slots > 1 ? fmax(0, (many - one) / (service->slots - 1)) : 0;
    service->prompt_rate = prompt / first;
    service->extra_s = extra;
    service->step_s = fmax(one - extra, 0);
    return BG_OK;
}

bg_status calibrate_service(struct bg_env *env, const char *model, struct bg_error *err,
                            struct plan_service_model *service)
{
    struct model_files files = {0};
    struct packed_model *packed = NULL;
    struct subject s = {.env = env};
    enum kern_weight type;
    if (service->slots < 1 || service->slots > SLOTS_MAX)
        return bg_fail(err, BG_INVALID, "--slots %u with --model: expected 1 to %d", service->slots, SLOTS_MAX);
    bg_status status = model_open_blocks(env, model, err, &files, &type);
    if (status)
        return status;
    if (!files.tokenizer)
        status = bg_fail(err, BG_NOT_FOUND, "%s holds no tokenizer", model);
    if (!status)
        status = packed_create(env, files.model, files.weights, files.sources, type, err, &packed);
    const struct engine_options options = {
        .slots = service->slots, .queue_max = service->slots + 1, .event = on_event, .arg = &s};
    if (!status)
        status = engine_create(env, packed, kern_select(env->isa), files.tokenizer, &options, err, &s.engine);
    if (!status)
        status = measure(&s, files.model->config.context, files.model->config.vocab, err, service);
    engine_destroy(s.engine);
    packed_destroy(packed);
    model_close(&files);
    return status;
}
