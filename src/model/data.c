// A corpus: the token caches of the training list and, where validation has files of its own, of that list too; the
// split; and what the job's signature takes from it. The hash covers exactly what can change a weight: the training
// tokens, their width and how many of them train.
#include "model/data_int.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

struct caches {
    struct data_cache train, valid; // valid: only with files of its own
};

static bg_status open_list(struct bg_env *env, const struct corpus_options *options, bool valid,
                           const struct tokenizer *tokenizer, corpus_progress_fn progress, void *arg,
                           struct bg_error *err, struct data_cache *cache);
static void split(struct corpus *corpus, const struct data_cache *cache, double valid,
                  const struct tokenizer *tokenizer);

static bg_status check_options(const struct corpus_options *options, struct bg_error *err)
{
    const char *utf8 = options->utf8;
    if (strcmp(utf8, "keep") != 0 && strcmp(utf8, "error") != 0 && strcmp(utf8, "replace") != 0)
        return bg_fail(err, BG_INVALID, "data.utf8: expected keep, error or replace, found \"%s\"", utf8);
    if (!(options->valid >= 0 && options->valid < 1))
        return bg_fail(err, BG_INVALID, "data.valid: expected a fraction from 0 to below 1, found %g", options->valid);
    if (options->path_count == 0)
        return bg_fail(err, BG_INVALID, "data.train: no file or directory is listed");
    return BG_OK;
}

bg_status corpus_open(struct bg_env *env, const struct corpus_options *given, const struct tokenizer *tokenizer,
                      corpus_progress_fn progress, void *arg, struct bg_error *err, struct corpus **out)
{
    struct corpus_options options = *given;
    options.field = given->field ? given->field : "text";
    options.utf8 = given->utf8 ? given->utf8 : "keep";
    bg_status status = check_options(&options, err);
    if (status != BG_OK)
        return status;
    struct caches *caches = bg_alloc(sizeof *caches);
    struct corpus *corpus = bg_alloc(sizeof *corpus);
    corpus->impl = caches;
    status = open_list(env, &options, false, tokenizer, progress, arg, err, &caches->train);
    if (status == BG_OK && options.valid_path_count)
        status = open_list(env, &options, true, tokenizer, progress, arg, err, &caches->valid);
    if (status != BG_OK) {
        corpus_close(env, corpus);
        return status;
    }
    split(corpus, &caches->train, options.valid_path_count ? 0 : options.valid, tokenizer);
    if (options.valid_path_count) {
        corpus->valid = caches->valid.tokens;
        corpus->valid_bytes = caches->valid.text_bytes;
    }
    corpus->documents = caches->train.documents;
    const char *first = caches->train.note, *second = caches->valid.note;
    if (first || second)
        corpus->note = bg_format("%s%s%s", first ? first : "", first && second ? "; " : "", second ? second : "");
    char *text = bg_format("brigade corpus 1\n%u\n%llu\n%s\n", corpus->train.width,
                           (unsigned long long)corpus->train.count, caches->train.sha256);
    bg_sha256_hex(text, strlen(text), corpus->sha256);
    bg_free(text);
    *out = corpus;
    return BG_OK;
}

void corpus_close(struct bg_env *env, struct corpus *corpus)
{
    if (!corpus)
        return;
    struct caches *caches = corpus->impl;
    data_cache_close(env, &caches->train);
    data_cache_close(env, &caches->valid);
    bg_free(caches);
    bg_free(corpus->note);
    bg_free(corpus);
}

static bg_status open_list(struct bg_env *env, const struct corpus_options *options, bool valid,
                           const struct tokenizer *tokenizer, corpus_progress_fn progress, void *arg,
                           struct bg_error *err, struct data_cache *cache)
{
    struct data_files files;
    bg_status status = data_files_list(env, valid ? options->valid_paths : options->paths,
                                       valid ? options->valid_path_count : options->path_count, err, &files);
    if (status == BG_OK) {
        status = data_cache_get(env, options, &files, tokenizer, progress, arg, err, cache);
        data_files_fini(&files);
    }
    if (status != BG_OK)
        (void)bg_fail_prefix(err, valid ? "data.valid" : "data.train");
    return status;
}

// Bytes of text behind a run of tokens: the sum of what each stands for.
static uint64_t text_bytes(const struct token_view *view, const struct tokenizer *tokenizer)
{
    uint32_t ids = tokenizer_size(tokenizer);
    size_t *bytes = bg_alloc_array(ids, sizeof *bytes);
    for (uint32_t id = 0; id < ids; id++) {
        const char *unused = NULL;
        if ((int32_t)id != tokenizer_eos(tokenizer))
            tokenizer_token_bytes(tokenizer, -1, (int32_t)id, &unused, &bytes[id]);
    }
    uint64_t sum = 0;
    for (uint64_t i = 0; i < view->count; i++)
        sum += bytes[token_at(view, i)];
    bg_free(bytes);
    return sum;
}

static void split(struct corpus *corpus, const struct data_cache *cache, double valid,
                  const struct tokenizer *tokenizer)
{
    struct token_view all = cache->tokens;
    uint64_t train = (uint64_t)((1.0 - valid) * (double)all.count);
    BG_ASSERT(train <= all.count);
    corpus->train = (struct token_view){all.data, train, all.width};
    corpus->valid = (struct token_view){(const uint8_t *)all.data + train * all.width, all.count - train, all.width};
    corpus->valid_bytes = text_bytes(&corpus->valid, tokenizer);
    if (corpus->valid_bytes > cache->text_bytes)
        corpus->valid_bytes = cache->text_bytes;
    corpus->train_bytes = cache->text_bytes - corpus->valid_bytes;
}
