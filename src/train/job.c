// A job resolved: defaults, then the job file, then key=value, each later one over the earlier; then what follows from
// other keys; then the checks that span keys. Where each value came from is kept until the end, so that an error about
// two keys still names the line. The learning rate's schedule lives here too: it is a function of the job alone.
#include "train/job_int.h"

#include "base/assert.h"
#include "base/dmath.h"
#include "base/mem.h"
#include "model/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is being put together. `where` of a key: where it was set last, NULL where nobody did.
struct resolver {
    struct job job;
    char *where[JOB_KEYS_MAX];
    char *sections[8]; // those the file has opened
    size_t section_count;
};

static bg_status set_defaults(struct resolver *r, struct bg_error *err);
static bg_status take_entry(void *arg, const char *where, const char *section, const char *key,
                            const struct job_value *value, struct bg_error *err);
static bg_status take_override(struct resolver *r, const char *override, struct bg_error *err);
static bg_status derive(struct resolver *r, const struct job_source *source, struct bg_error *err);
static bg_status check(struct resolver *r, struct bg_error *err);
static char *stem_of(const char *path);

static bool ends_with(const char *text, const char *suffix)
{
    size_t size = strlen(text), length = strlen(suffix);
    return size >= length && strcmp(text + size - length, suffix) == 0;
}

bg_status job_load(struct bg_env *env, const char *source, const char *const *overrides, size_t count,
                   struct bg_error *err, struct job *job)
{
    struct job_source from = {.file = source};
    struct bg_map map = {0};
    char *stem = source ? stem_of(source) : NULL;
    from.stem = stem;
    bool file = source && (ends_with(source, ".yaml") || ends_with(source, ".yml"));
    bg_status status = BG_OK;
    if (file)
        status = env->ops->map_open(env, source, err, &map);
    else if (source && data_utf8_prefix(source, strlen(source)) != strlen(source))
        status = bg_fail(err, BG_INVALID, "%s: the path is not UTF-8; rename it", source);
    from.text = file ? (const char *)map.data : NULL;
    from.size = map.size;
    from.train = file ? NULL : source;
    if (status == BG_OK)
        status = job_resolve(&from, overrides, count, err, job);
    if (map.data)
        env->ops->map_close(env, &map);
    bg_free(stem);
    return status;
}

bg_status job_resolve(const struct job_source *source, const char *const *overrides, size_t count, struct bg_error *err,
                      struct job *job)
{
    struct resolver r = {0};
    bg_status status = set_defaults(&r, err);
    if (status == BG_OK && source->text)
        status = job_yaml_read(source->file, source->text, source->size, take_entry, &r, err);
    if (status == BG_OK && source->train) {
        r.job.data.train.items = bg_alloc(sizeof *r.job.data.train.items);
        r.job.data.train.items[r.job.data.train.count++] = bg_strdup(source->train);
    }
    for (size_t i = 0; i < count && status == BG_OK; i++)
        status = take_override(&r, overrides[i], err);
    if (status == BG_OK)
        status = derive(&r, source, err);
    if (status == BG_OK)
        status = check(&r, err);
    for (size_t i = 0; i < JOB_KEYS_MAX; i++)
        bg_free(r.where[i]);
    for (size_t i = 0; i < r.section_count; i++)
        bg_free(r.sections[i]);
    if (status == BG_OK)
        *job = r.job;
    else
        job_fini(&r.job);
    return status;
}

void job_fini(struct job *job)
{
    for (size_t i = 0; i < job_key_count(); i++)
        job_key_free(job_key_at(i), job);
    *job = (struct job){0};
}

static bg_status set_defaults(struct resolver *r, struct bg_error *err)
{
    bg_status status = BG_OK;
    for (size_t i = 0; i < job_key_count() && status == BG_OK; i++) {
        if (!job_key_at(i)->standard)
            continue;
        struct job_value value = {0};
        status = job_yaml_value(job_key_at(i)->name, job_key_at(i)->standard, err, &value);
        if (status == BG_OK)
            status = job_key_set(job_key_at(i), "default", &value, err, &r->job);
        job_value_fini(&value);
    }
    return status;
}

static bg_status open_section(struct resolver *r, const char *where, const char *section, const struct job_value *value,
                              struct bg_error *err)
{
    size_t unused = 0;
    bg_status status = job_key_find(where, section, NULL, err, &unused);
    if (status != BG_OK)
        return status;
    if (value->kind != JOB_MAPPING && value->kind != JOB_NOTHING)
        return bg_fail(err, BG_INVALID, "%s: %s: expected keys with their values (%s: {key: value}), found %s", where,
                       section, section, value->kind == JOB_SEQUENCE ? "a list" : value->items.items[0]);
    for (size_t i = 0; i < r->section_count; i++)
        if (strcmp(r->sections[i], section) == 0)
            return bg_fail(err, BG_INVALID, "%s: %s: the section stands here a second time", where, section);
    BG_ASSERT(r->section_count < sizeof r->sections / sizeof *r->sections);
    r->sections[r->section_count++] = bg_strdup(section);
    return BG_OK;
}

static bg_status take_entry(void *arg, const char *where, const char *section, const char *key,
                            const struct job_value *value, struct bg_error *err)
{
    struct resolver *r = arg;
    if (!key)
        return open_section(r, where, section, value, err);
    size_t index = 0;
    bg_status status = job_key_find(where, section, key, err, &index);
    if (status != BG_OK)
        return status;
    if (r->where[index])
        return bg_fail(err, BG_INVALID, "%s: %s: the key stands here a second time, after %s", where,
                       job_key_at(index)->name, r->where[index]);
    status = job_key_set(job_key_at(index), where, value, err, &r->job);
    if (status == BG_OK)
        r->where[index] = bg_strdup(where);
    return status;
}

static bg_status take_override(struct resolver *r, const char *override, struct bg_error *err)
{
    const char *equals = strchr(override, '='), *dot = strchr(override, '.');
    if (!equals || !dot || dot > equals)
        return bg_fail(err, BG_INVALID, "%.200s: expected section.key=value, such as train.steps=2000", override);
    if (data_utf8_prefix(override, strlen(override)) != strlen(override))
        return bg_fail(err, BG_INVALID, "%.200s: not UTF-8", override);
    char *where = strlen(override) <= 200 ? bg_strdup(override) : bg_format("%.200s...", override);
    char *section = bg_strndup(override, (size_t)(dot - override));
    char *key = bg_strndup(dot + 1, (size_t)(equals - dot - 1));
    size_t index = 0;
    struct job_value value = {0};
    bg_status status = job_key_find(where, section, key, err, &index);
    if (status == BG_OK)
        status = job_yaml_value(where, equals + 1, err, &value);
    if (status == BG_OK)
        status = job_key_set(job_key_at(index), where, &value, err, &r->job);
    job_value_fini(&value);
    bg_free(section);
    bg_free(key);
    if (status == BG_OK) {
        bg_free(r->where[index]);
        r->where[index] = where;
    } else {
        bg_free(where);
    }
    return status;
}

// Where the key stands, or NULL where it was left to its default.
static const char *given(const struct resolver *r, const char *name)
{
    size_t i = 0;
    while (strcmp(job_key_at(i)->name, name) != 0) {
        i++;
        BG_ASSERT(i < job_key_count());
    }
    return r->where[i];
}

// The last part of a path without its extensions: "data/wiki.jsonl.gz" -> "wiki".
static char *stem_of(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    char *name = bg_strndup(path + start, end - start);
    static const char *const packings[] = {".gz", ".zst"};
    for (size_t i = 0; i < 2; i++)
        if (ends_with(name, packings[i]))
            name[strlen(name) - strlen(packings[i])] = 0;
    char *dot = strrchr(name, '.');
    if (dot && dot > name)
        *dot = 0;
    if (!*name || strspn(name, "./") == strlen(name)) {
        bg_free(name);
        name = bg_strdup("run");
    }
    return name;
}

// A job that starts from a model takes its shape; only the context may be chosen.
static bg_status derive_from(struct resolver *r, struct bg_error *err)
{
    for (size_t i = 0; i < job_key_count(); i++) {
        const char *name = job_key_at(i)->name;
        if (strncmp(name, "model.", 6) == 0 && strcmp(name, "model.from") != 0 && strcmp(name, "model.context") != 0 &&
            r->where[i])
            return bg_fail(err, BG_INVALID, "%s: %s has no meaning beside model.from, whose model brings its shape",
                           r->where[i], name);
    }
    uint32_t context = given(r, "model.context") ? r->job.model.config.context : 0;
    r->job.model.config = (struct model_config){.context = context, .bos = -1, .eos = -1};
    return BG_OK;
}

static bg_status derive_shape(struct resolver *r, struct bg_error *err)
{
    struct model_config *config = &r->job.model.config;
    config->bos = config->eos = -1;
    if (!given(r, "model.kv_heads"))
        config->kv_heads = config->heads;
    if (!given(r, "model.head_dim")) {
        if (config->dim % config->heads)
            return bg_fail(err, BG_INVALID, "%s: model.dim %u is not a multiple of model.heads %u; give model.head_dim",
                           given(r, "model.dim") ? given(r, "model.dim") : given(r, "model.heads"), config->dim,
                           config->heads);
        config->head_dim = config->dim / config->heads;
    }
    if (!given(r, "model.ffn"))
        config->ffn = config->family == MODEL_GPT2 ? 4 * config->dim : (8 * config->dim / 3 + 31) / 32 * 32;
    if (config->family == MODEL_GPT2 && given(r, "model.bias") && !config->mlp_bias)
        return bg_fail(err, BG_INVALID, "%s: model.bias: the gpt2 family always has all its biases",
                       given(r, "model.bias"));
    if (config->family == MODEL_GPT2)
        config->qkv_bias = config->out_bias = config->mlp_bias = false;
    return BG_OK;
}

// A tenth as a person would write it: of 3e-4 the double nearest to 3e-5, which the quotient misses by a bit.
static double tenth(double number)
{
    char text[40];
    snprintf(text, sizeof text, "%.15g", number / 10);
    return strtod(text, NULL);
}

static bg_status derive(struct resolver *r, const struct job_source *source, struct bg_error *err)
{
    struct job *job = &r->job;
    if (job->data.train.count == 0)
        return bg_fail(err, BG_INVALID, "%s%sdata.train: nothing to train on; name text files, .jsonl or directories",
                       source->file ? source->file : "", source->file ? ": " : "");
    if (!given(r, "train.min_lr"))
        job->train.min_lr = tenth(job->train.lr);
    if (!given(r, "train.warmup"))
        job->train.warmup = job->train.steps / 10;
    if (!job->run.dir) {
        char *stem = source->stem ? bg_strdup(source->stem) : stem_of(job->data.train.items[0]);
        job->run.dir = bg_format("runs/%s", stem);
        bg_free(stem);
    }
    if (job->model.from)
        return derive_from(r, err);
    if (!job->data.tokenizer)
        job->data.tokenizer = bg_strdup("bytes");
    return derive_shape(r, err);
}

static bg_status check_train(const struct resolver *r, struct bg_error *err)
{
    const struct job *job = &r->job;
    const char *min_lr = given(r, "train.min_lr");
    if (min_lr && job->train.min_lr > job->train.lr)
        return bg_fail(err, BG_INVALID, "%s: train.min_lr %g is above train.lr %g", min_lr, job->train.min_lr,
                       job->train.lr);
    uint64_t context = job->model.config.context ? job->model.config.context : 1;
    uint64_t tokens = context * job->train.micro_batch; // of one micro-batch
    if (tokens > INT32_MAX || tokens * job->train.micro_batches > INT64_MAX / 4)
        return bg_fail(err, BG_INVALID,
                       "train.micro_batch %u: with model.context %llu one micro-batch has too many tokens",
                       job->train.micro_batch, (unsigned long long)context);
    return BG_OK;
}

// Where a text names a key, or NULL; train.micro_batches does not name train.micro_batch.
static const char *names_key(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    while (at && (at[strlen(key)] == '_' || (at[strlen(key)] >= 'a' && at[strlen(key)] <= 'z')))
        at = strstr(at + 1, key);
    return at;
}

// A fault that names keys, with where the first of them was given that was given at all.
static bg_status locate(const struct resolver *r, const struct bg_error *fault, struct bg_error *err)
{
    const char *where = NULL, *first = NULL;
    for (size_t i = 0; i < job_key_count(); i++) {
        const char *at = r->where[i] ? names_key(fault->text, job_key_at(i)->name) : NULL;
        if (!at || (first && at > first))
            continue;
        first = at;
        where = r->where[i];
    }
    return bg_fail(err, fault->status, "%s%s%s", where ? where : "", where ? ": " : "", fault->text);
}

static bg_status check_shape(const struct resolver *r, struct bg_error *err)
{
    struct model_config config = r->job.model.config;
    if (!r->job.model.vocab_set)
        config.vocab = 256; // any that is valid: the tokenizer's size is not known yet
    struct bg_error fault = {0};
    bg_status status = model_config_check(&config, &fault); // the model's own rules
    return status ? locate(r, &fault, err) : BG_OK;
}

static bg_status check(struct resolver *r, struct bg_error *err)
{
    struct job_spread spread;
    struct bg_error fault = {0};
    uint32_t units = r->job.model.from ? 0 : r->job.model.config.layers + 2;
    bg_status status = job_spread(NULL, &r->job, units, &fault, &spread);
    if (!status && job_has_budget(&r->job)) {
        const struct plan_policy *policy;
        const struct plan_fleet_policy *fleet;
        struct plan_deadline deadline;
        status = job_budget(&r->job, spread.seats ? spread.seats : 1, &fault, &policy, &fleet, &deadline);
    }
    if (status)
        return locate(r, &fault, err);
    status = check_train(r, err);
    if (status != BG_OK || r->job.model.from)
        return status;
    return check_shape(r, err);
}

char *job_to_yaml(const struct job *job)
{
    struct job_writer *writer = job_writer_create();
    char section[16] = "";
    for (size_t i = 0; i < job_key_count(); i++) {
        const char *name = job_key_at(i)->name, *leaf = strchr(name, '.') + 1;
        bool shape = strncmp(name, "model.", 6) == 0 && strcmp(name, "model.from") != 0;
        if (job->model.from && shape && (strcmp(name, "model.context") != 0 || !job->model.config.context))
            continue;
        if ((strcmp(name, "model.bias") == 0 && job->model.config.family == MODEL_GPT2) ||
            (strcmp(name, "model.vocab") == 0 && !job->model.vocab_set) ||
            (strncmp(name, "budget.", 7) == 0 && !job_has_budget(job)))
            continue;
        struct job_value value;
        job_key_get(job_key_at(i), job, &value);
        size_t length = (size_t)(leaf - 1 - name);
        BG_ASSERT(length < sizeof section);
        if (value.kind != JOB_NOTHING && (strncmp(section, name, length) != 0 || section[length])) {
            memcpy(section, name, length);
            section[length] = 0;
            job_writer_section(writer, section);
        }
        if (value.kind != JOB_NOTHING)
            job_writer_key(writer, leaf, &value);
        job_value_fini(&value);
    }
    return job_writer_finish(writer);
}

struct optim_options job_optim(const struct job *job)
{
    return (struct optim_options){.beta1 = job->train.beta1,
                                  .beta2 = job->train.beta2,
                                  .eps = job->train.eps,
                                  .weight_decay = job->train.weight_decay,
                                  .clip = job->train.clip};
}

// Warm-up rises so that step 0 already moves and step `warmup` has the full rate; then the schedule falls to min_lr,
// which step `steps` would have.
double job_lr(const struct job *job, uint64_t step)
{
    static const double pi = 3.14159265358979323846;
    double lr = job->train.lr, min_lr = job->train.min_lr;
    uint64_t warmup = job->train.warmup, steps = job->train.steps;
    if (step < warmup)
        return lr * (double)(step + 1) / (double)(warmup + 1);
    if (job->train.schedule == JOB_CONSTANT)
        return lr;
    if (step >= steps)
        return min_lr;
    double done = (double)(step - warmup) / (double)(steps - warmup);
    double weight = job->train.schedule == JOB_COSINE ? 0.5 * (1.0 + bg_dcos(pi * done)) : 1.0 - done;
    return min_lr + weight * (lr - min_lr);
}
