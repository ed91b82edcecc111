// The signature's text. Doubles are printed so that they read back the same; keys are those of the job file where one
// exists. The number of steps is part of it only where the schedule depends on it, so a job with a constant rate may
// be prolonged.
#include "train/signature.h"

#include "base/mem.h"
#include "base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_text(struct bg_str *s, const char *key, const char *value)
{
    bg_str_addf(s, "%s %s\n", key, value);
}

static void add_count(struct bg_str *s, const char *key, uint64_t value)
{
    bg_str_addf(s, "%s %llu\n", key, (unsigned long long)value);
}

// The shortest decimal that reads back as the same double.
static void add_double(struct bg_str *s, double value)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    bg_str_add(s, text);
}

static void add_number(struct bg_str *s, const char *key, double value)
{
    bg_str_addf(s, "%s ", key);
    add_double(s, value);
    bg_str_add(s, "\n");
}

static void add_model(struct bg_str *s, const struct model_config *c)
{
    add_text(s, "model.family", model_family_name(c->family));
    add_count(s, "model.layers", c->layers);
    add_count(s, "model.dim", c->dim);
    add_count(s, "model.heads", c->heads);
    add_count(s, "model.kv_heads", c->kv_heads);
    add_count(s, "model.head_dim", c->head_dim);
    add_count(s, "model.ffn", c->ffn);
    add_count(s, "model.context", c->context);
    add_count(s, "model.vocab", c->vocab);
    add_text(s, "model.tie", c->tie ? "true" : "false");
    add_text(s, "model.qkv_bias", c->qkv_bias ? "true" : "false");
    add_text(s, "model.out_bias", c->out_bias ? "true" : "false");
    add_text(s, "model.mlp_bias", c->mlp_bias ? "true" : "false");
    if (c->family == MODEL_LLAMA)
        add_number(s, "model.rope_theta", c->rope_theta);
    add_number(s, "model.norm_eps", c->norm_eps);
}

static void add_train(struct bg_str *s, const struct job *job)
{
    static const char *const schedules[] = {
        [JOB_COSINE] = "cosine", [JOB_LINEAR] = "linear", [JOB_CONSTANT] = "constant"};
    add_text(s, "train.schedule", schedules[job->train.schedule]);
    if (job->train.schedule != JOB_CONSTANT) {
        add_count(s, "train.steps", job->train.steps);
        add_number(s, "train.min_lr", job->train.min_lr);
    }
    add_count(s, "train.micro_batch", job->train.micro_batch);
    add_count(s, "train.micro_batches", job->train.micro_batches);
    add_number(s, "train.lr", job->train.lr);
    add_count(s, "train.warmup", job->train.warmup);
    add_number(s, "train.weight_decay", job->train.weight_decay);
    bg_str_add(s, "train.betas [");
    add_double(s, job->train.beta1);
    bg_str_add(s, ", ");
    add_double(s, job->train.beta2);
    bg_str_add(s, "]\n");
    add_number(s, "train.eps", job->train.eps);
    add_number(s, "train.clip", job->train.clip);
    add_number(s, "train.dropout", job->train.dropout);
    add_count(s, "train.seed", job->train.seed);
}

char *signature_text(const struct job *job, const struct signature_parts *parts)
{
    struct bg_str s = {0};
    add_text(&s, "class", TRAIN_CLASS);
    add_model(&s, parts->config);
    add_text(&s, "model.start", parts->start_sha256 ? parts->start_sha256 : "drawn");
    add_text(&s, "data.tokenizer", parts->tokenizer_sha256);
    add_text(&s, "data.tokens_sha256", parts->corpus_sha256);
    add_count(&s, "data.train_tokens", parts->train_tokens);
    add_count(&s, "data.length", parts->length);
    add_train(&s, job);
    return bg_str_take(&s);
}

// The value of `key` in a signature's text, and its length; NULL: absent.
static const char *find(const char *text, const char *key, size_t key_size, size_t *size)
{
    for (const char *line = text; *line;) {
        size_t length = strcspn(line, "\n");
        if (length > key_size && memcmp(line, key, key_size) == 0 && line[key_size] == ' ') {
            *size = length - key_size - 1;
            return line + key_size + 1;
        }
        line += length + (line[length] == '\n');
    }
    return NULL;
}

// Adds the keys of `a` whose values in `b` differ; with `absent_only`, those that `b` lacks.
static void compare(struct bg_str *out, const char *a, const char *b, bool absent_only)
{
    for (const char *line = a; *line;) {
        size_t length = strcspn(line, "\n"), key = strcspn(line, " \n"), size = 0;
        const char *value = key < length ? line + key + 1 : line + length;
        size_t value_size = (size_t)(line + length - value);
        const char *other = find(b, line, key, &size);
        const char *comma = out->size ? ", " : "";
        if (!other && absent_only)
            bg_str_addf(out, "%s%.*s (none) -> %.*s", comma, (int)key, line, (int)value_size, value);
        else if (!other)
            bg_str_addf(out, "%s%.*s %.*s -> (none)", comma, (int)key, line, (int)value_size, value);
        else if (!absent_only && (size != value_size || memcmp(other, value, size) != 0))
            bg_str_addf(out, "%s%.*s %.*s -> %.*s", comma, (int)key, line, (int)value_size, value, (int)size, other);
        line += length + (line[length] == '\n');
    }
}

char *signature_difference(const char *was, const char *is)
{
    struct bg_str out = {0};
    compare(&out, was, is, false);
    compare(&out, is, was, true);
    if (out.size)
        return bg_str_take(&out);
    bg_str_fini(&out);
    return NULL;
}
