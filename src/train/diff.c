// Comparing runs bit by bit: first the curves, step by step, then the weights, tensor by tensor in name order. Two runs
// are compared at the earliest step whose checkpoint both hold, so that the first difference is found and not its echo.
#include "train/diff.h"

#include "base/mem.h"
#include "base/str.h"
#include "model/io.h"
#include "train/checkpoint.h"
#include "train/steplog.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct side {
    const char *path;
    bool has_curve;
    double *losses;
    uint64_t steps;
    uint64_t *checkpoints; // of a run
    size_t count;
};

static bg_status exists(struct bg_env *env, const char *directory, const char *name, struct bg_error *err, bool *there)
{
    char *path = bg_format("%s/%s", directory, name);
    struct bg_file_info info = {0};
    bg_status status = env->ops->path_info(env, path, err, &info);
    *there = info.exists;
    bg_free(path);
    return status;
}

static bg_status open_curve_of_run(struct bg_env *env, struct side *side, struct bg_error *err)
{
    struct steplog log;
    bg_status status = steplog_read(env, side->path, false, err, &log);
    if (status)
        return status;
    side->losses = log.losses;
    side->steps = log.steps;
    log.losses = NULL;
    steplog_fini(&log);
    side->has_curve = true;
    return checkpoint_list(env, side->path, err, &side->checkpoints, &side->count);
}

static bg_status open_side(struct bg_env *env, const char *path, struct bg_error *err, struct side *side)
{
    *side = (struct side){.path = path};
    struct bg_file_info info = {0};
    bool manifest = false, run = false;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && !info.exists)
        status = bg_fail(err, BG_NOT_FOUND, "%s: no such file or directory", path);
    if (status || !info.is_directory)
        return status;
    status = exists(env, path, "manifest.json", err, &manifest);
    if (!status)
        status = exists(env, path, "steps.jsonl", err, &run);
    if (status || (!manifest && !run))
        return status;
    if (run)
        return open_curve_of_run(env, side, err);
    struct manifest m;
    status = manifest_load(env, path, err, &m);
    if (status)
        return status;
    status = checkpoint_losses(env, path, &m, err, &side->losses);
    side->steps = m.step;
    side->has_curve = !status;
    manifest_fini(&m);
    return status;
}

static void close_side(struct side *side)
{
    bg_free(side->losses);
    bg_free(side->checkpoints);
}

static void compare_curves(const struct side *a, const struct side *b, struct diff_result *r)
{
    r->curves = a->has_curve && b->has_curve;
    if (!r->curves)
        return;
    r->steps_a = a->steps;
    r->steps_b = b->steps;
    for (uint64_t s = 0; s < a->steps && s < b->steps && !r->step_differs; s++) {
        if (memcmp(&a->losses[s], &b->losses[s], 8) == 0)
            continue;
        r->step_differs = true;
        r->step = s;
        r->loss_a = a->losses[s];
        r->loss_b = b->losses[s];
    }
}

static void tell_tensor(struct diff_result *r, const char *name, const char *reason)
{
    r->tensor_differs = true;
    snprintf(r->tensor, sizeof r->tensor, "%s", name);
    snprintf(r->reason, sizeof r->reason, "%s", reason);
}

static void compare_values(struct diff_result *r, const struct model_param *param, const float *a, const float *b)
{
    for (uint64_t i = 0; i < param->count; i++) {
        if (memcmp(&a[i], &b[i], 4) == 0)
            continue;
        if (r->elements_differ++ == 0) {
            tell_tensor(r, param->name, "values");
            r->element = i;
            r->value_a = a[i];
            r->value_b = b[i];
        }
        double difference = fabs((double)a[i] - (double)b[i]);
        r->max_difference = difference > r->max_difference ? difference : r->max_difference;
    }
}

// Both lists are in name order: a merge finds what only one side has.
static void compare_models(const struct model_files *a, const struct model_files *b, struct diff_result *r)
{
    const struct model *ma = a->model, *mb = b->model;
    uint32_t i = 0, j = 0;
    r->tensors = 0;
    while ((i < ma->param_count || j < mb->param_count) && !r->tensor_differs) {
        const struct model_param *pa = i < ma->param_count ? &ma->params[i] : NULL;
        const struct model_param *pb = j < mb->param_count ? &mb->params[j] : NULL;
        int order = !pa ? 1 : !pb ? -1 : strcmp(pa->name, pb->name);
        if (order < 0)
            tell_tensor(r, pa->name, "only in A");
        else if (order > 0)
            tell_tensor(r, pb->name, "only in B");
        else if (pa->rank != pb->rank || pa->shape[0] != pb->shape[0] || pa->count != pb->count)
            tell_tensor(r, pa->name, "shape");
        else
            compare_values(r, pa, a->weights + pa->offset, b->weights + pb->offset);
        i += order <= 0;
        j += order >= 0;
        r->tensors++;
    }
}

static bg_status compare_weights(struct bg_env *env, const char *a, const char *b, struct bg_error *err,
                                 struct diff_result *r)
{
    struct model_files fa, fb;
    bg_status status = model_open(env, a, err, &fa);
    if (status)
        return status;
    status = model_open(env, b, err, &fb);
    if (!status) {
        r->weights = true;
        snprintf(r->source_a, sizeof r->source_a, "%s", fa.path);
        snprintf(r->source_b, sizeof r->source_b, "%s", fb.path);
        compare_models(&fa, &fb, r);
        model_close(&fb);
    }
    model_close(&fa);
    return status;
}

// Checkpoints of the same step on both sides, ascending, until one differs.
static bg_status compare_common(struct bg_env *env, const struct side *a, const struct side *b, struct bg_error *err,
                                struct diff_result *r)
{
    bg_status status = BG_OK;
    for (size_t i = 0, j = 0; i < a->count && j < b->count && !status && !r->tensor_differs;) {
        uint64_t step = a->checkpoints[i], other = b->checkpoints[j];
        if (step == other) {
            char *path_a = checkpoint_path(a->path, step), *path_b = checkpoint_path(b->path, step);
            status = compare_weights(env, path_a, path_b, err, r);
            bg_free(path_a);
            bg_free(path_b);
        }
        i += step <= other;
        j += other <= step;
    }
    return status;
}

bg_status diff_compare(struct bg_env *env, const char *path_a, const char *path_b, struct bg_error *err,
                       struct diff_result *result)
{
    struct diff_result r = {0};
    struct side a = {0}, b = {0};
    bg_status status = open_side(env, path_a, err, &a);
    if (!status)
        status = open_side(env, path_b, err, &b);
    if (!status) {
        compare_curves(&a, &b, &r);
        status = compare_common(env, &a, &b, err, &r);
    }
    if (!status && !r.weights) {
        // No step in common: the newest of each, or what the paths name. Runs without checkpoints have their curves
        // alone.
        struct bg_error why;
        bg_status opened = compare_weights(env, path_a, path_b, &why, &r);
        if (opened && !r.curves)
            status = bg_fail(err, opened, "%s", why.text);
    }
    if (!status && !r.curves && !r.weights)
        status = bg_fail(err, BG_NOT_FOUND, "%s and %s have neither steps nor weights to compare", path_a, path_b);
    close_side(&a);
    close_side(&b);
    if (status)
        return status;
    r.identical = !r.step_differs && !r.tensor_differs && r.steps_a == r.steps_b;
    *result = r;
    return BG_OK;
}

char *diff_text(const struct diff_result *r, const char *a, const char *b)
{
    struct bg_str s = {0};
    bg_str_addf(&s, "A %s\nB %s\n", a, b);
    unsigned long long common = r->steps_a < r->steps_b ? r->steps_a : r->steps_b;
    if (r->curves && r->step_differs)
        bg_str_addf(&s, "curves: first differing step %llu: loss %.17g in A, %.17g in B\n", (unsigned long long)r->step,
                    r->loss_a, r->loss_b);
    else if (r->curves)
        bg_str_addf(&s, "curves: %llu steps compared, all equal\n", common);
    if (r->curves && r->steps_a != r->steps_b)
        bg_str_addf(&s, "curves: A has %llu steps, B has %llu\n", (unsigned long long)r->steps_a,
                    (unsigned long long)r->steps_b);
    if (r->weights)
        bg_str_addf(&s, "weights: %s against %s\n", r->source_a, r->source_b);
    if (r->weights && !r->tensor_differs)
        bg_str_addf(&s, "weights: %llu tensors compared, all equal\n", (unsigned long long)r->tensors);
    else if (r->weights && strcmp(r->reason, "values") != 0)
        bg_str_addf(&s, "weights: first differing tensor %s: %s\n", r->tensor, r->reason);
    else if (r->weights)
        bg_str_addf(
            &s,
            "weights: first differing tensor %s: element %llu is %.9g in A, %.9g in B; %llu elements differ, by at "
            "most %.3g\n",
            r->tensor, (unsigned long long)r->element, (double)r->value_a, (double)r->value_b,
            (unsigned long long)r->elements_differ, r->max_difference);
    else
        bg_str_add(&s, "weights: none on one side or both\n");
    bg_str_addf(&s, "identical: %s\n", r->identical ? "yes" : "no");
    return bg_str_take(&s);
}
