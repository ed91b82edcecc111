// With model.from the model and its tokenizer come from there, and context may only be shorter than the model's.
#include "train/material.h"

#include "base/hash.h"
#include "base/mem.h"
#include "train/signature.h"

#include <string.h>

static bg_status open_tokenizer(struct material *m, struct model_files *files, struct bg_error *err)
{
    const char *source = m->job->data.tokenizer;
    if (source || !files)
        return tokenizer_open(m->env, source ? source : "bytes", err, &m->tokenizer);
    if (!files->tokenizer)
        return bg_fail(err, BG_NOT_FOUND, "%s: holds no tokenizer; name one with data.tokenizer", files->path);
    m->tokenizer = files->tokenizer;
    files->tokenizer = NULL;
    return BG_OK;
}

static bg_status open_corpus(struct material *m, corpus_progress_fn progress, void *arg, struct bg_error *err)
{
    const struct job *job = m->job;
    char *cache = job->data.cache ? bg_strdup(job->data.cache) : bg_format("%s/cache", job->run.dir);
    struct corpus_options options = {.paths = (const char *const *)job->data.train.items,
                                     .path_count = job->data.train.count,
                                     .field = job->data.field,
                                     .utf8 = job->data.utf8,
                                     .valid = job->data.valid,
                                     .valid_paths = (const char *const *)job->data.valid_files.items,
                                     .valid_path_count = job->data.valid_files.count,
                                     .cache_dir = cache};
    bg_status status = corpus_open(m->env, &options, m->tokenizer, progress, arg, err, &m->corpus);
    bg_free(cache);
    return status;
}

// The tokenizer's ids must be rows of the embedding. A model's own tokenizer may leave rows unused (padded
// vocabularies); a foreign one of another size is a mistake.
static bg_status check_vocabulary(const struct material *m, const struct model_config *config, struct bg_error *err)
{
    uint32_t ids = tokenizer_size(m->tokenizer);
    bool foreign = m->job->model.from && m->job->data.tokenizer;
    if (ids <= config->vocab && !(foreign && ids != config->vocab))
        return BG_OK;
    if (!m->job->model.from)
        return bg_fail(err, BG_MISMATCH,
                       "model.vocab: %u is less than the tokenizer's %u ids; leave it out or raise it", config->vocab,
                       ids);
    return bg_fail(err, BG_MISMATCH, "data.tokenizer: %s has %u ids, the model in %s has a vocabulary of %u",
                   m->job->data.tokenizer ? m->job->data.tokenizer : "the model's own", ids, m->job->model.from,
                   config->vocab);
}

static bg_status resolve_config(struct material *m, const struct model_files *files, struct bg_error *err,
                                struct model_config *config)
{
    const struct job *job = m->job;
    *config = files ? files->model->config : job->model.config;
    m->length = job->model.config.context ? job->model.config.context : config->context;
    if (files && m->length > config->context)
        return bg_fail(err, BG_INVALID, "model.context: %u is longer than the context of %s (%u)", m->length,
                       job->model.from, config->context);
    bg_status status = job_check_slices(job, m->length, err);
    if (status)
        return status;
    if (!files) {
        if (!job->model.vocab_set)
            config->vocab = tokenizer_size(m->tokenizer);
        config->bos = tokenizer_bos(m->tokenizer);
        config->eos = tokenizer_eos(m->tokenizer);
    }
    return check_vocabulary(m, config, err);
}

static void sign(struct material *m)
{
    char tokenizer[65], start[65];
    tokenizer_sha256(m->tokenizer, tokenizer);
    if (m->start)
        model_weights_sha256(m->start->model, m->start->weights, start);
    struct signature_parts parts = {.config = &m->model->config,
                                    .start_sha256 = m->start ? start : NULL,
                                    .tokenizer_sha256 = tokenizer,
                                    .corpus_sha256 = m->corpus->sha256,
                                    .train_tokens = m->corpus->train.count,
                                    .length = m->length};
    m->signature = signature_text(m->job, &parts);
    bg_sha256_hex(m->signature, strlen(m->signature), m->signature_sha256);
}

static bg_status open_start(struct material *m, struct bg_error *err)
{
    struct model_files files;
    bg_status status = model_open(m->env, m->job->model.from, err, &files);
    if (status) {
        bg_fail_prefix(err, "model.from");
        return status;
    }
    m->start = bg_alloc(sizeof *m->start);
    *m->start = files;
    return BG_OK;
}

bg_status material_open(struct material *m, struct bg_env *env, const struct job *job, corpus_progress_fn progress,
                        void *progress_arg, struct bg_error *err)
{
    *m = (struct material){.env = env, .job = job, .kern = kern_select(env->isa)};
    struct model_config config;
    bg_status status = job->model.from ? open_start(m, err) : BG_OK;
    if (!status)
        status = open_tokenizer(m, m->start, err);
    if (!status)
        status = resolve_config(m, m->start, err, &config);
    if (!status)
        status = model_create(&config, err, &m->model);
    if (!status)
        status = open_corpus(m, progress, progress_arg, err);
    if (status)
        return status;
    m->tokens_per_step = (uint64_t)job->train.micro_batch * job->train.micro_batches * m->length;
    if (data_samples(&m->corpus->train, m->length) == 0)
        return bg_fail(err, BG_INVALID,
                       "data.train: %llu training tokens are fewer than one sample of %u + 1; use a smaller "
                       "model.context, a smaller data.valid or more text",
                       (unsigned long long)m->corpus->train.count, m->length);
    sign(m);
    return BG_OK;
}

void material_close_start(struct material *m)
{
    if (m->start)
        model_close(m->start);
    bg_free(m->start);
    m->start = NULL;
}

void material_close(struct material *m)
{
    material_close_start(m);
    if (m->model)
        model_destroy(m->model);
    if (m->corpus)
        corpus_close(m->env, m->corpus);
    if (m->tokenizer)
        tokenizer_destroy(m->tokenizer);
    bg_free(m->signature);
    *m = (struct material){0};
}

bg_status material_first_weights(struct material *m, const uint8_t *units, float *weights, struct bg_error *err)
{
    if (!m->job->model.from) {
        model_init_units(m->model, m->env, m->job->train.seed, units, weights);
        return BG_OK;
    }
    bg_status status = m->start ? BG_OK : open_start(m, err);
    for (uint32_t p = 0; p < m->model->param_count && !status; p++) {
        const struct model_param *param = &m->model->params[p];
        if (model_holds_param(m->model, units, p))
            memcpy(weights + param->offset, m->start->weights + param->offset, param->count * sizeof *weights);
    }
    material_close_start(m);
    return status;
}

bg_status material_evaluate(const struct material *m, const float *weights, const struct evaluate_memory *memory,
                            struct bg_error *err, struct evaluate_result *result)
{
    struct evaluate_options options = {
        .tokens_max = m->job->train.eval_tokens, .length = m->length, .bytes = m->corpus->valid_bytes};
    return evaluate_in(m->env, m->model, m->kern, weights, &m->corpus->valid, &options, memory, err, result);
}

bg_status material_checkpoint(const struct material *m, const struct optim_state *state,
                              const struct material_progress *progress, struct bg_error *err, char **directory)
{
    const struct job *job = m->job;
    struct manifest manifest = {
        .step = progress->step,
        .sample_position = progress->step * job->train.micro_batches * job->train.micro_batch,
        .tokens = progress->step * m->tokens_per_step,
        .seconds = progress->seconds,
        .signature = m->signature,
        .evaluations = (struct evaluation_point *)(uintptr_t)progress->evaluations, // only read
        .evaluation_count = progress->evaluation_count,
    };
    memcpy(manifest.signature_sha256, m->signature_sha256, sizeof manifest.signature_sha256);
    struct checkpoint_source source = {m->model, m->tokenizer, *state, progress->losses, &manifest};
    return checkpoint_write(m->env, job->run.dir, &source, job->train.keep, err, directory);
}
