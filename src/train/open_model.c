// Opening what is trained and on what: tokenizer, corpus, model, first weights; and the signature they make together.
// With model.from the model and its tokenizer come from there, and context may only be shorter than the model's.
#include "train/trainer_int.h"

#include "base/hash.h"
#include "base/mem.h"
#include "train/signature.h"

#include <string.h>

static bg_status open_tokenizer(struct trainer *t, struct model_files *files, struct bg_error *err)
{
    const char *source = t->job->data.tokenizer;
    if (source || !files)
        return tokenizer_open(t->env, source ? source : "bytes", err, &t->tokenizer);
    if (!files->tokenizer)
        return bg_fail(err, BG_NOT_FOUND, "%s: holds no tokenizer; name one with data.tokenizer", files->path);
    t->tokenizer = files->tokenizer;
    files->tokenizer = NULL;
    return BG_OK;
}

static void on_tokenizing(void *arg, uint64_t done, uint64_t total)
{
    const struct trainer_observer *observer = arg;
    observer->tokenizing(observer->arg, done, total);
}

static bg_status open_corpus(struct trainer *t, struct bg_error *err)
{
    const struct job *job = t->job;
    const struct trainer_observer *observer = t->options->observer;
    bool told = observer && observer->tokenizing;
    char *cache = job->data.cache ? bg_strdup(job->data.cache) : bg_format("%s/cache", job->run.dir);
    struct corpus_options options = {.paths = (const char *const *)job->data.train.items,
                                     .path_count = job->data.train.count,
                                     .field = job->data.field,
                                     .utf8 = job->data.utf8,
                                     .valid = job->data.valid,
                                     .valid_paths = (const char *const *)job->data.valid_files.items,
                                     .valid_path_count = job->data.valid_files.count,
                                     .cache_dir = cache};
    bg_status status = corpus_open(t->env, &options, t->tokenizer, told ? on_tokenizing : NULL,
                                   (void *)(uintptr_t)observer, err, &t->corpus);
    bg_free(cache);
    return status;
}

// The tokenizer's ids must be rows of the embedding. A model's own tokenizer may leave rows unused (padded
// vocabularies); a foreign one of another size is a mistake.
static bg_status check_vocabulary(const struct trainer *t, const struct model_config *config, struct bg_error *err)
{
    uint32_t ids = tokenizer_size(t->tokenizer);
    bool foreign = t->job->model.from && t->job->data.tokenizer;
    if (ids <= config->vocab && !(foreign && ids != config->vocab))
        return BG_OK;
    if (!t->job->model.from)
        return bg_fail(err, BG_MISMATCH,
                       "model.vocab: %u is less than the tokenizer's %u ids; leave it out or raise it", config->vocab,
                       ids);
    return bg_fail(err, BG_MISMATCH, "data.tokenizer: %s has %u ids, the model in %s has a vocabulary of %u",
                   t->job->data.tokenizer ? t->job->data.tokenizer : "the model's own", ids, t->job->model.from,
                   config->vocab);
}

static bg_status resolve_config(struct trainer *t, const struct model_files *files, struct bg_error *err,
                                struct model_config *config)
{
    const struct job *job = t->job;
    *config = files ? files->model->config : job->model.config;
    t->length = job->model.config.context ? job->model.config.context : config->context;
    if (files && t->length > config->context)
        return bg_fail(err, BG_INVALID, "model.context: %u is longer than the context of %s (%u)", t->length,
                       job->model.from, config->context);
    if (!files) {
        if (!job->model.vocab_set)
            config->vocab = tokenizer_size(t->tokenizer);
        config->bos = tokenizer_bos(t->tokenizer);
        config->eos = tokenizer_eos(t->tokenizer);
    }
    return check_vocabulary(t, config, err);
}

static bg_status reserve_state(struct trainer *t, struct bg_error *err)
{
    struct bg_env *env = t->env;
    t->state_bytes = (size_t)t->model->floats * sizeof(float);
    t->losses_bytes = (size_t)t->job->train.steps * sizeof(double);
    float **sets[] = {&t->state.weights, &t->state.m, &t->state.v};
    for (size_t i = 0; i < 3; i++) {
        void *memory = NULL;
        bg_status status = env->ops->reserve(env, t->state_bytes, err, &memory);
        if (status)
            return status;
        *sets[i] = memory;
    }
    void *memory = NULL;
    bg_status status = env->ops->reserve(env, t->losses_bytes, err, &memory);
    t->losses = memory;
    t->memory_bytes = 3 * t->state_bytes + t->losses_bytes;
    return status;
}

static void sign(struct trainer *t, const struct model_files *files)
{
    char tokenizer[65];
    tokenizer_sha256(t->tokenizer, tokenizer);
    if (files)
        model_weights_sha256(files->model, files->weights, t->start_sha256);
    struct signature_parts parts = {.config = &t->model->config,
                                    .start_sha256 = files ? t->start_sha256 : NULL,
                                    .tokenizer_sha256 = tokenizer,
                                    .corpus_sha256 = t->corpus->sha256,
                                    .train_tokens = t->corpus->train.count,
                                    .length = t->length};
    t->signature = signature_text(t->job, &parts);
    bg_sha256_hex(t->signature, strlen(t->signature), t->signature_sha256);
}

static bg_status open_parts(struct trainer *t, struct model_files *files, struct bg_error *err)
{
    struct model_config config;
    bg_status status = open_tokenizer(t, files, err);
    if (!status)
        status = resolve_config(t, files, err, &config);
    if (!status)
        status = model_create(&config, err, &t->model);
    if (!status)
        status = open_corpus(t, err);
    if (status)
        return status;
    if (data_samples(&t->corpus->train, t->length) == 0)
        return bg_fail(err, BG_INVALID,
                       "data.train: %llu training tokens are fewer than one sample of %u + 1; use a smaller "
                       "model.context, a smaller data.valid or more text",
                       (unsigned long long)t->corpus->train.count, t->length);
    status = reserve_state(t, err);
    if (status)
        return status;
    if (files)
        memcpy(t->state.weights, files->weights, t->state_bytes);
    sign(t, files);
    return BG_OK;
}

bg_status trainer_open_model(struct trainer *t, struct bg_error *err)
{
    t->kern = kern_select(t->env->isa);
    t->tokens_per_step = (uint64_t)t->job->train.micro_batch * t->job->train.micro_batches;
    bg_status status = BG_OK;
    if (t->job->model.from) {
        struct model_files files;
        status = model_open(t->env, t->job->model.from, err, &files);
        if (status) {
            bg_fail_prefix(err, "model.from");
            return status;
        }
        status = open_parts(t, &files, err);
        model_close(&files);
    } else {
        status = open_parts(t, NULL, err);
    }
    t->tokens_per_step *= t->length;
    return status;
}
