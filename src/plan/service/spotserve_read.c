// The profile of a model as JSON, and the one that SpotServe's authors published with their program.
#include "plan/service/spotserve.h"

#include "base/json.h"

#include <math.h>
#include <string.h>

const struct plan_spotserve_profile plan_spotserve_published = {.layers = 32,
                                                                .padded_layers = 36,
                                                                .hidden = 4096,
                                                                .machines_min = 4,
                                                                .width_max = 16,
                                                                .factor = 1.1,
                                                                .stage_prompt_ms = 5.3,
                                                                .stage_token_ms = 0.07,
                                                                .embed_ms = {0.298, 0.372, 0.461, 0.719},
                                                                .prompt_ms = {{44.087, 97.182, 191.815, 404.76},
                                                                              {26.411, 50.779, 105.607, 218.979},
                                                                              {19.567, 31.043, 61.566, 124.341},
                                                                              {17.733, 26.569, 44.562, 85.833},
                                                                              {14.31, 24.214, 35.517, 69.537}},
                                                                .token_ms = {{3.224, 3.31, 3.632, 4.435},
                                                                             {1.841, 1.701, 1.898, 2.26},
                                                                             {1.056, 0.932, 1.021, 1.314},
                                                                             {1.278, 1.05, 1.309, 1.442},
                                                                             {1.437, 1.568, 1.695, 1.867}}};

uint32_t plan_spotserve_batch_max(const struct plan_spotserve_profile *profile)
{
    uint32_t log = 0;
    while (log + 1 < PLAN_SPOTSERVE_LOG_MAX && profile->prompt_ms[0][log + 1] > 0)
        log++;
    return 1U << log;
}

// A list of times, the first of a batch of one; `count` of them, or as many as there are where that is 0.
static bg_status take_times(const json_t *list, const char *name, const char *key, size_t count, double least,
                            struct bg_error *err, double out[PLAN_SPOTSERVE_LOG_MAX])
{
    const size_t all = json_array_size(list);
    if (!json_is_array(list) || !all || all > PLAN_SPOTSERVE_LOG_MAX || (count && all != count))
        return bg_fail(err, BG_FORMAT, "%s: %s: expected a list of %zu to %zu times in ms, by batches of 1, 2, 4, ...",
                       name, key, count ? count : 1, count ? count : (size_t)PLAN_SPOTSERVE_LOG_MAX);
    for (size_t i = 0; i < all; i++) {
        out[i] = json_number_value(json_array_get(list, i));
        if (!json_is_number(json_array_get(list, i)) || !(out[i] >= least && out[i] <= 1e9))
            return bg_fail(err, BG_FORMAT, "%s: %s[%zu]: expected a time in ms of %g to 1e9", name, key, i, least);
    }
    return BG_OK;
}

static bg_status take_table(const json_t *root, const char *name, const char *key, size_t rows, size_t columns,
                            struct bg_error *err, double out[PLAN_SPOTSERVE_LOG_MAX][PLAN_SPOTSERVE_LOG_MAX])
{
    json_t *list = NULL;
    bg_status status = bg_json_array(root, name, key, err, &list);
    if (!status && json_array_size(list) != rows)
        status = bg_fail(err, BG_FORMAT, "%s: %s: expected %zu rows, for widths of 1, 2, 4, ... up to width_max", name,
                         key, rows);
    for (size_t i = 0; i < rows && !status; i++)
        status = take_times(json_array_get(list, i), name, key, columns, 1e-9, err, out[i]);
    return status;
}

static bg_status take_numbers(const json_t *root, const char *name, struct bg_error *err,
                              struct plan_spotserve_profile *p)
{
    const struct {
        const char *key;
        uint32_t *value;
        int64_t max;
    } wholes[] = {{"layers", &p->layers, 65536},
                  {"padded_layers", &p->padded_layers, 65536},
                  {"hidden", &p->hidden, 1 << 20},
                  {"machines_min", &p->machines_min, PLAN_SPOTSERVE_MACHINES},
                  {"width_max", &p->width_max, 1 << (PLAN_SPOTSERVE_LOG_MAX - 1)}};
    const struct {
        const char *key;
        double *value;
    } times[] = {
        {"factor", &p->factor}, {"stage_prompt_ms", &p->stage_prompt_ms}, {"stage_token_ms", &p->stage_token_ms}};
    bg_status status = BG_OK;
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes && !status; i++) {
        int64_t value = 0;
        status = bg_json_integer(root, name, wholes[i].key, 1, wholes[i].max, err, &value);
        *wholes[i].value = (uint32_t)value;
    }
    for (size_t i = 0; i < sizeof times / sizeof *times && !status; i++) {
        status = bg_json_number(root, name, times[i].key, err, times[i].value);
        if (!status && !(*times[i].value >= (i ? 0 : 1e-9) && *times[i].value <= 1e9))
            status = bg_fail(err, BG_FORMAT, "%s: %s: expected a number %s 0, at most 1e9", name, times[i].key,
                             i ? "of at least" : "above");
    }
    if (!status && p->width_max & (p->width_max - 1))
        status = bg_fail(err, BG_FORMAT, "%s: width_max: expected a power of two, found %u", name, p->width_max);
    if (!status && p->padded_layers < p->layers)
        status = bg_fail(err, BG_FORMAT, "%s: padded_layers: expected at least the %u layers, found %u", name,
                         p->layers, p->padded_layers);
    return status;
}

bg_status plan_spotserve_read(const char *name, const void *text, size_t size, struct bg_error *err,
                              struct plan_spotserve_profile *profile)
{
    struct plan_spotserve_profile p = {0};
    json_t *root = NULL, *embed = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (!status)
        status = take_numbers(root, name, err, &p);
    if (!status)
        status = bg_json_array(root, name, "embed_ms", err, &embed);
    if (!status)
        status = take_times(embed, name, "embed_ms", 0, 0, err, p.embed_ms);
    const size_t rows = status ? 0 : (size_t)__builtin_ctz(p.width_max) + 1, columns = json_array_size(embed);
    if (!status)
        status = take_table(root, name, "prompt_ms", rows, columns, err, p.prompt_ms);
    if (!status)
        status = take_table(root, name, "token_ms", rows, columns, err, p.token_ms);
    json_decref(root);
    if (!status)
        *profile = p;
    return status == BG_NOT_FOUND ? (err->status = BG_FORMAT) : status;
}
