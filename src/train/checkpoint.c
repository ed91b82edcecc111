// Writing and reading checkpoints. A checkpoint is built in .step-N.tmp.X (X drawn: a writer that was taken for dead
// may still be at it), every file synced, its manifest last, and only then renamed to step-N: a name step-N is always a
// whole checkpoint. Removal goes the other way: first renamed, then removed, so that who still writes there finds
// nothing. Names with a leading dot are leftovers and are cleaned when a run starts and after every checkpoint.
#include "train/checkpoint.h"

#include "base/mem.h"
#include "base/str.h"
#include "tensor/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const required[] = {"config.json", "model.safetensors", "tokenizer.json", "optimizer.safetensors",
                                       "losses.f64"};
enum { REQUIRED = sizeof required / sizeof *required };

char *checkpoint_path(const char *run_directory, uint64_t step)
{
    return bg_format("%s/checkpoints/step-%llu", run_directory, (unsigned long long)step);
}

static char *hidden_path(const char *run_directory, uint64_t step, const char *suffix)
{
    return bg_format("%s/checkpoints/.step-%llu.%s", run_directory, (unsigned long long)step, suffix);
}

uint64_t checkpoint_bytes(const struct model *model, uint64_t steps)
{
    return model->elements * 12 + steps * 8 + 65536;
}

static void add_moments(struct safetensors_item *items, const struct model *model, const char *prefix, float *base)
{
    for (uint32_t p = 0; p < model->param_count; p++) {
        const struct model_param *param = &model->params[p];
        items[p] = (struct safetensors_item){.name = bg_format("%s.%s", prefix, param->name),
                                             .dtype = TENSOR_F32,
                                             .rank = param->rank,
                                             .shape = {param->shape[0], param->shape[1]},
                                             .data = base + param->offset};
    }
}

static bg_status write_optimizer(struct bg_env *env, const char *directory, const struct checkpoint_source *source,
                                 struct bg_error *err)
{
    uint32_t count = source->model->param_count;
    struct safetensors_item *items = bg_alloc_array(2 * (size_t)count, sizeof *items);
    add_moments(items, source->model, "m", source->state.m);
    add_moments(items + count, source->model, "v", source->state.v);
    char *path = bg_format("%s/optimizer.safetensors", directory);
    bg_status status = safetensors_write(env, path, items, 2 * (size_t)count, NULL, 0, err);
    bg_free(path);
    for (uint32_t i = 0; i < 2 * count; i++)
        bg_free((void *)(uintptr_t)items[i].name);
    bg_free(items);
    return status;
}

static bg_status list_name(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    bg_strlist_add(arg, name);
    return BG_OK;
}

static bg_status write_files(struct bg_env *env, const char *directory, const struct checkpoint_source *source,
                             struct bg_error *err)
{
    bg_status status = env->ops->make_directories(env, directory, err);
    if (!status)
        status =
            model_save(env, source->model, source->state.weights, source->tokenizer, MODEL_SAFETENSORS, directory, err);
    if (!status)
        status = write_optimizer(env, directory, source, err);
    if (status)
        return status;
    char *path = bg_format("%s/losses.f64", directory);
    status = env_write_file(env, path, source->losses, (size_t)source->manifest->step * 8, err);
    bg_free(path);
    if (status)
        return status;

    struct manifest manifest = *source->manifest; // its lists stay the caller's
    struct bg_strlist names = {0};
    status = env->ops->list_directory(env, directory, list_name, &names, err);
    manifest.file_count = 0;
    for (size_t i = 0; i < names.count && !status; i++)
        status = manifest_add_file(env, &manifest, directory, names.items[i], err);
    bg_strlist_fini(&names);
    if (status)
        return status;
    curve_sha256(source->losses, manifest.step, manifest.curve_sha256);
    model_weights_sha256(source->model, source->state.weights, manifest.weights_sha256);
    status = manifest_save(env, &manifest, directory, err);
    return status ? status : env->ops->path_sync(env, directory, err);
}

// First out of sight, then gone: a kill between leaves a leftover, never half a checkpoint.
static bg_status remove_checkpoint(struct bg_env *env, const char *run_directory, uint64_t step, struct bg_error *err)
{
    char *path = checkpoint_path(run_directory, step);
    char *old = hidden_path(run_directory, step, "old");
    bg_status status = env->ops->path_remove(env, old, err);
    if (!status)
        status = env->ops->path_rename(env, path, old, err);
    if (!status)
        status = env->ops->path_remove(env, old, err);
    bg_free(path);
    bg_free(old);
    return status;
}

static bg_status keep_newest(struct bg_env *env, const char *run_directory, uint64_t newest, uint32_t keep,
                             struct bg_error *err)
{
    uint64_t *steps = NULL;
    size_t count = 0;
    bg_status status = checkpoint_list(env, run_directory, err, &steps, &count);
    if (status)
        return status;
    size_t held = 0;
    for (size_t i = count; i > 0 && !status; i--) {
        if (steps[i - 1] <= newest && held++ >= (keep ? keep : 1))
            status = remove_checkpoint(env, run_directory, steps[i - 1], err);
    }
    bg_free(steps);
    return status;
}

// Puts a finished directory in its place. One with that name can only be a damaged or an abandoned one.
static bg_status put_in_place(struct bg_env *env, const char *run_directory, uint64_t step, const char *temporary,
                              struct bg_error *err)
{
    char *path = checkpoint_path(run_directory, step);
    char *parent = bg_format("%s/checkpoints", run_directory);
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && info.exists)
        status = remove_checkpoint(env, run_directory, step, err);
    if (!status)
        status = env->ops->path_rename(env, temporary, path, err);
    if (!status)
        status = env->ops->path_sync(env, parent, err);
    bg_free(parent);
    bg_free(path);
    return status;
}

bg_status checkpoint_write(struct bg_env *env, const char *run_directory, const struct checkpoint_source *source,
                           uint32_t keep, struct bg_error *err, char **directory)
{
    uint64_t step = source->manifest->step, number = 0;
    bg_status status = env->ops->entropy(env, &number, sizeof number, err);
    if (status)
        return status;
    char suffix[32];
    snprintf(suffix, sizeof suffix, "tmp.%016llx", (unsigned long long)number);
    char *temporary = hidden_path(run_directory, step, suffix);
    status = write_files(env, temporary, source, err);
    if (!status)
        status = put_in_place(env, run_directory, step, temporary, err);
    if (status) {
        struct bg_error ignored; // the first failure is the one to tell
        (void)env->ops->path_remove(env, temporary, &ignored);
        bg_free(temporary);
        bg_fail_prefix(err, "the checkpoint of step %llu was not written (earlier ones are intact)",
                       (unsigned long long)step);
        return status;
    }
    bg_free(temporary);
    status = keep_newest(env, run_directory, step, keep, err);
    if (!status)
        status = checkpoint_clean(env, run_directory, err);
    if (!status)
        *directory = checkpoint_path(run_directory, step);
    return status;
}

// "step-N" with N in plain decimal.
static bool parse_name(const char *name, uint64_t *step)
{
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9' || strlen(name) > 24)
        return false;
    char *end = NULL;
    *step = strtoull(name + 5, &end, 10);
    return *end == '\0' && (name[5] != '0' || name[6] == '\0');
}

struct list {
    uint64_t *steps;
    size_t count;
};

static bg_status list_step(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    struct list *list = arg;
    uint64_t step = 0;
    if (parse_name(name, &step)) {
        list->steps = bg_realloc_array(list->steps, list->count + 1, sizeof *list->steps);
        list->steps[list->count++] = step;
    }
    return BG_OK;
}

static int by_step(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

bg_status checkpoint_list(struct bg_env *env, const char *run_directory, struct bg_error *err, uint64_t **steps,
                          size_t *count)
{
    char *path = bg_format("%s/checkpoints", run_directory);
    struct list list = {0};
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && info.exists)
        status = env->ops->list_directory(env, path, list_step, &list, err);
    bg_free(path);
    if (status) {
        bg_free(list.steps);
        return status;
    }
    if (list.count)
        qsort(list.steps, list.count, sizeof *list.steps, by_step);
    *steps = list.steps;
    *count = list.count;
    return BG_OK;
}

static bool lists(const struct manifest *m, const char *name)
{
    for (size_t i = 0; i < m->file_count; i++) {
        if (strcmp(m->files[i].name, name) == 0)
            return true;
    }
    return false;
}

bg_status checkpoint_verify(struct bg_env *env, const char *directory, struct bg_error *err, struct manifest *manifest)
{
    struct manifest m;
    bg_status status = manifest_load(env, directory, err, &m);
    if (status)
        return status;
    for (size_t i = 0; i < REQUIRED && !status; i++) {
        if (!lists(&m, required[i]))
            status = bg_fail(err, BG_CORRUPT, "%s/manifest.json: does not list %s", directory, required[i]);
    }
    if (!status)
        status = manifest_check_files(env, &m, directory, err);
    if (status)
        manifest_fini(&m);
    else
        *manifest = m;
    return status;
}

static bg_status load_tensor(const struct safetensors *file, const char *path, const char *name,
                             const struct model_param *param, float *base, struct bg_error *err)
{
    const struct tensor_view *view = safetensors_find(file, name);
    if (!view)
        return bg_fail(err, BG_MISMATCH, "%s: tensor %s is missing", path, name);
    if (view->rank != param->rank || view->shape[0] != param->shape[0] ||
        (param->rank == 2 && view->shape[1] != param->shape[1]))
        return bg_fail(err, BG_MISMATCH, "%s: tensor %s has another shape than the job's model", path, name);
    return tensor_view_to_f32(view, err, base + param->offset);
}

struct tensors { // sets of parameters in one file
    const char *file;
    size_t count;
    const char *prefixes[2]; // of a tensor's name in the file
    float *bases[2];
};

static bg_status load_tensors(struct bg_env *env, const char *directory, const struct tensors *sets,
                              const struct model *model, const uint8_t *units, struct bg_error *err)
{
    char *path = bg_format("%s/%s", directory, sets->file);
    struct safetensors *file = NULL;
    bg_status status = safetensors_open(env, path, err, &file);
    for (uint32_t p = 0; p < model->param_count && !status; p++) {
        for (size_t i = 0; i < sets->count && model_holds_param(model, units, p) && !status; i++) {
            char *tensor = bg_format("%s%s", sets->prefixes[i], model->params[p].name);
            status = load_tensor(file, path, tensor, &model->params[p], sets->bases[i], err);
            bg_free(tensor);
        }
    }
    if (file)
        safetensors_close(file);
    bg_free(path);
    return status;
}

bg_status checkpoint_losses(struct bg_env *env, const char *directory, const struct manifest *manifest,
                            struct bg_error *err, double **losses)
{
    char *path = bg_format("%s/losses.f64", directory);
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (!status) {
        char hex[65];
        double *copy = NULL;
        if (map.size / 8 == manifest->step && map.size % 8 == 0) {
            copy = bg_alloc_array((size_t)manifest->step, 8);
            memcpy(copy, map.data, map.size);
            curve_sha256(copy, manifest->step, hex);
        }
        if (!copy || strcmp(hex, manifest->curve_sha256) != 0) {
            bg_free(copy);
            status = bg_fail(err, BG_CORRUPT, "%s: not the curve of the %llu steps that the manifest tells of", path,
                             (unsigned long long)manifest->step);
        } else {
            *losses = copy;
        }
        env->ops->map_close(env, &map);
    }
    bg_free(path);
    return status;
}

bg_status checkpoint_load(struct bg_env *env, const char *directory, const struct model *model, const uint8_t *units,
                          const struct optim_state *state, struct bg_error *err)
{
    const struct tensors weights = {"model.safetensors", 1, {""}, {state->weights}};
    const struct tensors moments = {"optimizer.safetensors", 2, {"m.", "v."}, {state->m, state->v}};
    bg_status status = load_tensors(env, directory, &weights, model, units, err);
    return status ? status : load_tensors(env, directory, &moments, model, units, err);
}

static bg_status list_leftover(void *arg, const char *name, struct bg_error *err)
{
    (void)err;
    if (strncmp(name, ".step-", 6) == 0)
        bg_strlist_add(arg, name);
    return BG_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t size = strlen(text), length = strlen(end);
    return size >= length && strcmp(text + size - length, end) == 0;
}

bg_status checkpoint_clean(struct bg_env *env, const char *run_directory, struct bg_error *err)
{
    char *path = bg_format("%s/checkpoints", run_directory);
    struct bg_strlist leftovers = {0};
    struct bg_file_info info;
    bg_status status = env->ops->path_info(env, path, err, &info);
    if (!status && info.exists)
        status = env->ops->list_directory(env, path, list_leftover, &leftovers, err);
    for (size_t i = 0; i < leftovers.count && !status; i++) {
        char *leftover = bg_format("%s/%s", path, leftovers.items[i]), *old = bg_format("%s.old", leftover);
        bool written = !ends_with(leftover, ".old");
        if (written)
            status = env->ops->path_rename(env, leftover, old, err);
        if (status == BG_NOT_FOUND) // its writer lived, and finished it just now
            status = BG_OK;
        else if (!status)
            status = env->ops->path_remove(env, written ? old : leftover, err);
        bg_free(leftover);
        bg_free(old);
    }
    bg_strlist_fini(&leftovers);
    bg_free(path);
    return status;
}

bg_status checkpoint_set_aside(struct bg_env *env, const char *run_directory, uint64_t step, struct bg_error *err)
{
    char *path = checkpoint_path(run_directory, step);
    char *aside = bg_format("%s/checkpoints/damaged-step-%llu", run_directory, (unsigned long long)step);
    bg_status status = env->ops->path_remove(env, aside, err);
    if (!status)
        status = env->ops->path_rename(env, path, aside, err);
    bg_free(path);
    bg_free(aside);
    return status;
}
