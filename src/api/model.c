// Models, text, sampling and evaluation through the installed API.
#include "api/api_int.h"

#include "base/mem.h"
#include "model/data.h"
#include "train/evaluate.h"

#include <stdio.h>
#include <string.h>

enum bg_status bg_model_open(bg_context *context, const char *path, bg_model **model)
{
    struct api_frame frame = api_enter(context);
    struct bg_model *m = bg_alloc(sizeof *m);
    m->context = context;
    bg_status status = model_open(context->env, path, &context->err, &m->files);
    if (status)
        bg_free(m);
    else
        *model = m;
    return api_leave(frame, status);
}

void bg_model_close(bg_model *model)
{
    if (!model)
        return;
    model_close(&model->files);
    bg_free(model);
}

void bg_model_get_info(const bg_model *model, struct bg_model_info *info)
{
    const struct model_config *c = &model->files.model->config;
    *info = (struct bg_model_info){.layers = c->layers,
                                   .dim = c->dim,
                                   .heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .ffn = c->ffn,
                                   .context = c->context,
                                   .vocab = c->vocab,
                                   .parameters = model->files.model->elements};
    snprintf(info->family, sizeof info->family, "%s", model_family_name(c->family));
}

enum bg_status bg_model_save(bg_model *model, const char *format, const char *path)
{
    static const char *const names[] = {"safetensors", "gguf", "llama2c"}; // in the order of enum model_format
    struct bg_error *err = &model->context->err;
    const struct model_files *files = &model->files;
    for (int i = 0; i < 3; i++) {
        if (strcmp(format, names[i]) != 0)
            continue;
        struct api_frame frame = api_enter(model->context);
        enum model_format to = (enum model_format)i;
        return api_leave(frame, model_save(files->env, files->model, files->weights, files->tokenizer, to, path, err));
    }
    return bg_fail(err, BG_INVALID, "bg_model_save: format '%s'; expected safetensors, gguf or llama2c", format);
}

static bg_status need_tokenizer(bg_model *model)
{
    if (model->files.tokenizer)
        return BG_OK;
    return bg_fail(&model->context->err, BG_NOT_FOUND, "%s holds no tokenizer", model->files.path);
}

enum bg_status bg_encode(bg_model *model, const char *text, size_t size, int32_t **ids, size_t *count)
{
    struct token_list list = {0};
    bg_status status = need_tokenizer(model);
    if (!status)
        status = tokenizer_encode(model->files.tokenizer, text, size, true, &model->context->err, &list);
    if (status) {
        token_list_fini(&list);
        return status;
    }
    *ids = list.ids;
    *count = list.count;
    return BG_OK;
}

void bg_ids_free(int32_t *ids)
{
    bg_free(ids);
}

enum bg_status bg_decode(bg_model *model, int32_t previous, int32_t id, const char **bytes, size_t *size)
{
    bg_status status = need_tokenizer(model);
    if (status)
        return status;
    if (id < 0 || (uint32_t)id >= tokenizer_size(model->files.tokenizer))
        return bg_fail(&model->context->err, BG_INVALID, "bg_decode: id %d; the vocabulary ends at %u", (int)id,
                       tokenizer_size(model->files.tokenizer) - 1);
    tokenizer_token_bytes(model->files.tokenizer, previous, id, bytes, size);
    return BG_OK;
}

enum bg_status bg_session_create(bg_model *model, uint32_t context, bg_session **session)
{
    struct bg_env *env = model->files.env;
    struct bg_session *s = bg_alloc(sizeof *s);
    uint32_t length = context ? context : model->files.model->config.context;
    s->model = model;
    bg_status status = decoder_create(env, model->files.model, kern_select(env->isa), model->files.weights, length,
                                      length < 256 ? length : 256, &model->context->err, &s->decoder);
    if (status)
        bg_free(s);
    else
        *session = s;
    return status;
}

void bg_session_destroy(bg_session *session)
{
    if (!session)
        return;
    decoder_destroy(session->decoder);
    bg_free(session);
}

uint32_t bg_session_position(const bg_session *session)
{
    return decoder_position(session->decoder);
}

enum bg_status bg_session_feed(bg_session *session, const int32_t *ids, size_t count, const float **logits)
{
    struct bg_error *err = &session->model->context->err;
    uint32_t vocab = session->model->files.model->config.vocab;
    if (!count || count > UINT32_MAX)
        return bg_fail(err, BG_INVALID, "bg_session_feed: %zu ids; expected at least one", count);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return bg_fail(err, BG_INVALID, "bg_session_feed: id %d at %zu; the vocabulary ends at %u", (int)ids[i], i,
                           vocab - 1);
    struct api_frame frame = api_enter(session->model->context);
    return api_leave(frame, decoder_feed(session->decoder, ids, (uint32_t)count, err, logits));
}

enum bg_status bg_eval(bg_model *model, const char *const *paths, size_t count, const char *cache_dir,
                       struct bg_eval_result *result)
{
    struct bg_env *env = model->files.env;
    struct bg_error *err = &model->context->err;
    bg_status status = need_tokenizer(model);
    if (status)
        return status;
    struct api_frame frame = api_enter(model->context);
    struct corpus_options options = {.paths = paths, .path_count = count, .cache_dir = cache_dir};
    struct corpus *corpus;
    status = corpus_open(env, &options, model->files.tokenizer, NULL, NULL, err, &corpus);
    if (status)
        return api_leave(frame, status);
    struct evaluate_options how = {.bytes = corpus->train_bytes};
    struct evaluate_result out = {0};
    status = evaluate_run(env, model->files.model, kern_select(env->isa), model->files.weights, &corpus->train, &how,
                          err, &out);
    corpus_close(env, corpus);
    if (!status)
        *result = (struct bg_eval_result){out.loss, out.perplexity, out.bits_per_byte, out.tokens};
    return api_leave(frame, status);
}

struct api_text {
    bg_text_fn fn;
    void *arg;
};

static bool give_text(void *arg, const char *bytes, size_t size)
{
    struct api_text *text = arg;
    return !text->fn || text->fn(text->arg, bytes, size) == 0;
}

static bg_status generate(bg_model *model, const char *prompt, const struct bg_sample_options *options,
                          struct api_text *text, struct generate_result *result)
{
    struct bg_env *env = model->files.env;
    struct bg_error *err = &model->context->err;
    struct token_list ids = {0};
    bg_session *session = NULL;
    bg_status status = generate_prompt(model->files.tokenizer, prompt, strlen(prompt), true, err, &ids);
    if (!status)
        status = bg_session_create(model, 0, &session);
    if (!status) {
        struct sampler *sampler = sampler_create(kern_select(env->isa), model->files.model->config.vocab);
        struct generate_options how = {
            .sample = {options->temperature, options->top_k, options->top_p, options->min_p, options->seed, 0},
            .tokens = options->tokens ? options->tokens : UINT32_MAX,
            .piece = give_text,
            .arg = text};
        status = generate_run(env, session->decoder, sampler, model->files.tokenizer, ids.ids, (uint32_t)ids.count,
                              &how, err, result);
        sampler_destroy(sampler);
    }
    bg_session_destroy(session);
    token_list_fini(&ids);
    return status;
}

enum bg_status bg_generate(bg_model *model, const char *prompt, const struct bg_sample_options *options,
                           bg_text_fn text, void *arg, uint32_t *generated)
{
    bg_status status = need_tokenizer(model);
    if (status)
        return status;
    if (!options || options->size != sizeof *options)
        return bg_fail(&model->context->err, BG_INVALID,
                       "bg_generate: options->size is not set; begin with BG_SAMPLE_OPTIONS_INIT");
    struct api_frame frame = api_enter(model->context);
    struct api_text sink = {text, arg};
    struct generate_result result = {0};
    status = generate(model, prompt, options, &sink, &result);
    if (!status && generated)
        *generated = result.tokens;
    return api_leave(frame, status);
}
