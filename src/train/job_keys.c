// The keys of a job: one row each with type, place in struct job, bounds, default and meaning. Everything that knows
// keys (parsing, defaults, overrides, help, output) goes through this table; a new key is one row here and one field.
// Errors say where the value stood, what the key takes and what was found.
#include "train/job_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum key_type {
    COUNT32, // unsigned integer from min to max
    COUNT64,
    NUMBER, // double
    FLAG,   // bool
    TEXT,   // string
    WORD,   // enum: the index of the word
    CHOICE, // string, one of the words
    PATHS,  // one string or a list
    PAIR,   // two numbers, beside each other in struct job
    SPLIT,  // data.valid: a fraction or files
    BIAS,   // model.bias: three flags
    ORDER,  // run.order: ascending, descending or shuffle:SEED
};

enum bound { CLOSED, ABOVE_MIN, BELOW_MAX }; // which end of the range is left out

struct key {
    const char *name;
    enum key_type type;
    size_t offset; // in struct job
    double min, max;
    enum bound bound;
    const char *words;    // of WORD and CHOICE, separated by '|'
    const char *standard; // default as YAML; NULL: see derived
    const char *derived;  // how the default follows from other keys, for help
    const char *meaning;
};

#define AT(field)        .offset = offsetof(struct job, field)
#define RANGE(low, high) .min = (low), .max = (high)
static const double u64_max = 18446744073709551615.0;
static const char *const biases = "none|qkv|attention|all";

static const struct key keys[] = {
    {"model.family", WORD, AT(model.config.family), .words = "llama|gpt2", .standard = "llama",
     .meaning = "architecture"},
    {"model.layers", COUNT32, AT(model.config.layers), RANGE(1, 1024), .standard = "6", .meaning = "blocks"},
    {"model.dim", COUNT32, AT(model.config.dim), RANGE(1, 65536), .standard = "384", .meaning = "width"},
    {"model.heads", COUNT32, AT(model.config.heads), RANGE(1, 1024), .standard = "6", .meaning = "query heads"},
    {"model.kv_heads", COUNT32, AT(model.config.kv_heads), RANGE(1, 1024), .derived = "heads",
     .meaning = "key and value heads; heads is a multiple of it"},
    {"model.head_dim", COUNT32, AT(model.config.head_dim), RANGE(1, 65536), .derived = "dim / heads",
     .meaning = "width of one head"},
    {"model.ffn", COUNT32, AT(model.config.ffn), RANGE(1, 1048576),
     .derived = "llama: 8/3 dim, rounded up to 32; gpt2: 4 dim", .meaning = "width of the feed-forward layer"},
    {"model.context", COUNT32, AT(model.config.context), RANGE(1, 1048576), .standard = "256",
     .meaning = "tokens a sequence; with model.from its default is the model's"},
    {"model.vocab", COUNT32, AT(model.config.vocab), RANGE(1, 16777216), .derived = "the tokenizer's",
     .meaning = "rows of the embedding, at least the tokenizer's"},
    {"model.tie", FLAG, AT(model.config.tie), .standard = "true", .meaning = "the output head is the token embedding"},
    {"model.bias", BIAS, 0, .derived = "none", .meaning = "biases of the llama family (Qwen2: qkv); gpt2 has all"},
    {"model.rope_theta", NUMBER, AT(model.config.rope_theta), RANGE(1, 1e12), .standard = "10000",
     .meaning = "base of the rotary frequencies (llama)"},
    {"model.norm_eps", NUMBER, AT(model.config.norm_eps), RANGE(0, 0.5), ABOVE_MIN, .standard = "1e-05",
     .meaning = "added to variances in norms"},
    {"model.from", TEXT, AT(model.from), .derived = "none",
     .meaning =
         "start from this model (directory, run or .gguf); of the other model keys only context may stand beside it"},

    {"data.train", PATHS, AT(data.train), .derived = "required",
     .meaning = "text files, .jsonl, directories; each may be .gz or .zst"},
    {"data.valid", SPLIT, AT(data.valid), RANGE(0, 1), BELOW_MAX, .standard = "0.1",
     .meaning = "last fraction of the tokens kept for validation, or files of its own"},
    {"data.tokenizer", TEXT, AT(data.tokenizer), .derived = "bytes; with model.from the model's own",
     .meaning = "bytes, tokenizer.json, *.tiktoken, or a directory"},
    {"data.field", TEXT, AT(data.field), .standard = "text",
     .meaning = "key of the text in .jsonl lines; a.b goes inside"},
    {"data.utf8", CHOICE, AT(data.utf8), .words = "keep|error|replace", .standard = "keep",
     .meaning = "bytes that are not UTF-8: taken as they are, refused, or replaced by U+FFFD"},
    {"data.cache", TEXT, AT(data.cache), .derived = "RUN/cache", .meaning = "directory of the token cache"},

    {"train.steps", COUNT64, AT(train.steps), RANGE(1, 1e9), .standard = "500", .meaning = "optimizer steps"},
    {"train.micro_batch", COUNT32, AT(train.micro_batch), RANGE(1, 65536), .standard = "4",
     .meaning = "sequences a micro-batch"},
    {"train.micro_batches", COUNT32, AT(train.micro_batches), RANGE(1, 65536), .standard = "8",
     .meaning = "micro-batches a step"},
    {"train.lr", NUMBER, AT(train.lr), RANGE(0, 1000), .standard = "0.0003", .meaning = "highest learning rate"},
    {"train.min_lr", NUMBER, AT(train.min_lr), RANGE(0, 1000), .derived = "lr / 10",
     .meaning = "learning rate at the end of the schedule"},
    {"train.warmup", COUNT64, AT(train.warmup), RANGE(0, 1e9), .derived = "steps / 10",
     .meaning = "steps of rising learning rate"},
    {"train.schedule", WORD, AT(train.schedule), .words = "cosine|linear|constant", .standard = "cosine",
     .meaning = "how the learning rate falls after the warm-up"},
    {"train.weight_decay", NUMBER, AT(train.weight_decay), RANGE(0, 1000), .standard = "0.1",
     .meaning = "AdamW decay of matrices"},
    {"train.betas", PAIR, AT(train.beta1), RANGE(0, 1), BELOW_MAX, .standard = "[0.9, 0.95]",
     .meaning = "AdamW decay of the moments"},
    {"train.eps", NUMBER, AT(train.eps), RANGE(0, 1), ABOVE_MIN, .standard = "1e-08", .meaning = "AdamW epsilon"},
    {"train.clip", NUMBER, AT(train.clip), RANGE(0, 1e9), .standard = "1",
     .meaning = "largest norm of the gradient; 0: no clipping"},
    {"train.dropout", NUMBER, AT(train.dropout), RANGE(0, 1), BELOW_MAX, .standard = "0", .meaning = "probability"},
    {"train.seed", COUNT64, AT(train.seed), RANGE(0, u64_max), .standard = "1",
     .meaning = "of initial weights, data order and dropout"},
    {"train.eval_every", COUNT64, AT(train.eval_every), RANGE(0, 1e9), .standard = "100",
     .meaning = "steps between evaluations; 0: only at the end"},
    {"train.checkpoint_every", COUNT64, AT(train.checkpoint_every), RANGE(0, 1e9), .standard = "100",
     .meaning = "steps between checkpoints; 0: only at the end"},
    {"train.keep", COUNT32, AT(train.keep), RANGE(1, 1e6), .standard = "3", .meaning = "newest checkpoints kept"},
    {"train.eval_tokens", COUNT64, AT(train.eval_tokens), RANGE(0, 1e15), .standard = "0",
     .meaning = "validation tokens an evaluation reads; 0: all"},

    {"run.dir", TEXT, AT(run.dir), .derived = "runs/NAME of the source", .meaning = "where everything is written"},
    {"run.workers", COUNT32, AT(run.workers), RANGE(1, 65536), .standard = "1", .meaning = "processes"},
    {"run.threads", COUNT32, AT(run.threads), RANGE(0, 4096), .standard = "0",
     .meaning = "threads a worker; 0: all cores"},
    {"run.plan", TEXT, AT(run.plan), .standard = "auto", .meaning = "auto, or STAGESxREPLICAS"},
    {"run.schedule", CHOICE, AT(run.schedule), .words = "1f1b", .standard = "1f1b", .meaning = "order of a pipeline"},
    {"run.shadow", CHOICE, AT(run.shadow), .words = "auto|off", .standard = "auto", .meaning = "a second optimizer"},
    {"run.recovery", CHOICE, AT(run.recovery), .words = "live", .standard = "live", .meaning = "what a death leads to"},
    {"run.group", COUNT32, AT(run.group), RANGE(0, 65536), .standard = "0",
     .meaning = "micro-batches computed together; 0: chosen. Never changes the bits"},
    {"run.order", ORDER, AT(run.order), .standard = "ascending",
     .meaning = "in which groups are computed. Never changes the bits"},
};
enum { KEYS = sizeof keys / sizeof *keys };
_Static_assert((int)KEYS <= (int)JOB_KEYS_MAX, "room for a bit a key");

static const char *expectation(const struct key *key, char text[256]);

size_t job_key_count(void)
{
    return KEYS;
}

const char *job_key_name(size_t key)
{
    return keys[key].name;
}

const char *job_key_default(size_t key)
{
    return keys[key].standard;
}

static const char *leaf_of(const char *name)
{
    return strchr(name, '.') + 1;
}

// The key that was meant: the same leaf under another section, or the nearest name.
static const char *nearest_key(const char *section, const char *leaf)
{
    const char *names[KEYS];
    for (size_t i = 0; i < KEYS; i++) {
        names[i] = keys[i].name;
        if (strcmp(leaf_of(keys[i].name), leaf ? leaf : section) == 0)
            return keys[i].name;
    }
    char *full = leaf ? bg_format("%s.%s", section, leaf) : bg_strdup(section);
    const char *nearest = bg_nearest(full, names, KEYS);
    bg_free(full);
    return nearest;
}

static bool is_section(const char *name)
{
    for (size_t i = 0; i < KEYS; i++)
        if (strncmp(keys[i].name, name, strlen(name)) == 0 && keys[i].name[strlen(name)] == '.')
            return true;
    return false;
}

bg_status job_key_find(const char *where, const char *section, const char *leaf, struct bg_error *err, size_t *key)
{
    static const char *const sections[] = {"model", "data", "train", "run"};
    for (size_t i = 0; leaf && i < KEYS; i++) {
        size_t length = strlen(section);
        if (strncmp(keys[i].name, section, length) == 0 && keys[i].name[length] == '.' &&
            strcmp(keys[i].name + length + 1, leaf) == 0) {
            *key = i;
            return BG_OK;
        }
    }
    if (!leaf && is_section(section))
        return BG_OK;
    const char *nearest = leaf ? NULL : bg_nearest(section, sections, 4);
    if (!nearest)
        nearest = nearest_key(section, leaf);
    if (nearest)
        return bg_fail(err, BG_INVALID, "%s: unknown key %.60s%s%.60s; did you mean %s?", where, section,
                       leaf ? "." : "", leaf ? leaf : "", nearest);
    return bg_fail(err, BG_INVALID, "%s: unknown key %.60s%s%.60s; `brigade train --keys` lists them all", where,
                   section, leaf ? "." : "", leaf ? leaf : "");
}

// Which of words "a|b|c" `text` is, or -1.
static int word_index(const char *words, const char *text)
{
    struct bg_strlist list = {0};
    bg_strlist_split(&list, words, '|');
    int index = -1;
    for (size_t i = 0; i < list.count; i++)
        if (strcmp(list.items[i], text) == 0)
            index = (int)i;
    bg_strlist_fini(&list);
    return index;
}

static bool in_range(const struct key *key, double value)
{
    bool low = key->bound == ABOVE_MIN ? value > key->min : value >= key->min;
    return low && (key->bound == BELOW_MAX ? value < key->max : value <= key->max);
}

static bool parse_count(const struct key *key, const char *text, uint64_t *value)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits])
        return false;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0 && in_range(key, (double)*value);
}

static bool parse_number(const struct key *key, const char *text, double *value)
{
    if (!strpbrk(text, "0123456789") || text[strspn(text, "0123456789+-.eE")])
        return false;
    char *end = NULL;
    *value = strtod(text, &end);
    return !*end && isfinite(*value) && in_range(key, *value);
}

static bool is_order(const char *text)
{
    uint64_t seed = 0;
    const struct key any = {RANGE(0, u64_max)};
    return strcmp(text, "ascending") == 0 || strcmp(text, "descending") == 0 ||
           (strncmp(text, "shuffle:", 8) == 0 && parse_count(&any, text + 8, &seed));
}

static void replace_text(char **place, const char *text)
{
    char *copy = bg_strdup(text);
    bg_free(*place);
    *place = copy;
}

static void free_list(struct job_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        bg_free(list->items[i]);
    bg_free(list->items);
    *list = (struct job_list){0};
}

static bool set_paths(const struct job_value *value, struct job_list *list)
{
    if (value->items.count == 0 || value->nested)
        return false;
    for (size_t i = 0; i < value->items.count; i++)
        if (!value->items.items[i][0])
            return false;
    free_list(list);
    list->items = bg_alloc_array(value->items.count, sizeof *list->items);
    for (; list->count < value->items.count; list->count++)
        list->items[list->count] = bg_strdup(value->items.items[list->count]);
    return true;
}

static bool set_split(const struct key *key, const struct job_value *value, struct job *job)
{
    double fraction = 0;
    if (value->kind == JOB_SCALAR && value->plain && parse_number(key, value->items.items[0], &fraction)) {
        free_list(&job->data.valid_files);
        job->data.valid = fraction;
        return true;
    }
    // A number out of range is no file name.
    const struct key any = {RANGE(-HUGE_VAL, HUGE_VAL)};
    if (value->kind == JOB_SCALAR && value->plain && parse_number(&any, value->items.items[0], &fraction))
        return false;
    if (!set_paths(value, &job->data.valid_files))
        return false;
    job->data.valid = 0;
    return true;
}

static bool set_scalar(const struct key *key, const char *text, bool plain, void *place, struct job *job)
{
    uint64_t count = 0;
    double number = 0;
    int word = 0;
    switch (key->type) {
    case COUNT32:
        if (!plain || !parse_count(key, text, &count))
            return false;
        *(uint32_t *)place = (uint32_t)count;
        return true;
    case COUNT64:
        if (!plain || !parse_count(key, text, &count))
            return false;
        *(uint64_t *)place = count;
        return true;
    case NUMBER:
        if (!plain || !parse_number(key, text, &number))
            return false;
        *(double *)place = number;
        return true;
    case FLAG:
        if (!plain || (word = word_index("false|true", text)) < 0)
            return false;
        *(bool *)place = word == 1;
        return true;
    case WORD:
        if ((word = word_index(key->words, text)) < 0)
            return false;
        *(int *)place = word;
        return true;
    case BIAS:
        if ((word = word_index(biases, text)) < 0)
            return false;
        job->model.config.qkv_bias = word >= 1;
        job->model.config.out_bias = word >= 2;
        job->model.config.mlp_bias = word >= 3;
        return true;
    default: // strings
        if ((key->type == CHOICE && word_index(key->words, text) < 0) || (key->type == ORDER && !is_order(text)) ||
            !text[0])
            return false;
        replace_text(place, text);
        return true;
    }
}

static bool set_value(const struct key *key, const struct job_value *value, struct job *job)
{
    void *place = (char *)job + key->offset;
    if (value->kind == JOB_NOTHING && key->type == TEXT && !key->standard) { // back to the derived default
        bg_free(*(char **)place);
        *(char **)place = NULL;
        return true;
    }
    if (value->kind != JOB_SCALAR && value->kind != JOB_SEQUENCE)
        return false;
    if (key->type == PATHS)
        return set_paths(value, place);
    if (key->type == SPLIT)
        return set_split(key, value, job);
    if (key->type != PAIR)
        return value->kind == JOB_SCALAR && set_scalar(key, value->items.items[0], value->plain, place, job);
    double pair[2] = {0};
    if (value->kind != JOB_SEQUENCE || value->items.count != 2 || value->nested || !value->plain ||
        !parse_number(key, value->items.items[0], &pair[0]) || !parse_number(key, value->items.items[1], &pair[1]))
        return false;
    memcpy(place, pair, sizeof pair);
    return true;
}

bg_status job_key_set(size_t index, const char *where, const struct job_value *value, struct bg_error *err,
                      struct job *job)
{
    const struct key *key = &keys[index];
    if (set_value(key, value, job)) {
        if (strcmp(key->name, "model.vocab") == 0)
            job->model.vocab_set = true;
        return BG_OK;
    }
    char expected[256];
    expectation(key, expected);
    static const char *const kinds[] = {"nothing", "", "a list", "a mapping"};
    if (value->kind == JOB_SCALAR)
        return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found %s\"%.100s\"", where, key->name, expected,
                       value->plain ? "" : "the text ", value->items.items[0]);
    if (value->kind == JOB_SEQUENCE && !value->nested)
        return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found a list of %zu", where, key->name, expected,
                       value->items.count);
    return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found %s", where, key->name, expected,
                   value->nested ? "a list inside a list" : kinds[value->kind]);
}

static void words_text(const char *words, char text[256])
{
    size_t used = 0;
    for (const char *c = words; *c && used < 250; c++) {
        text[used++] = *c == '|' ? ',' : *c;
        if (*c == '|')
            text[used++] = ' ';
    }
    text[used] = 0;
}

static const char *expectation(const struct key *key, char text[256])
{
    const char *low = key->bound == ABOVE_MIN ? "above" : "from";
    const char *high = key->bound == BELOW_MAX ? "to below" : key->bound == ABOVE_MIN ? "up to" : "to";
    char range[128];
    snprintf(range, sizeof range, "%s %.15g %s %.15g", low, key->min, high, key->max);
    if (key->max == u64_max)
        snprintf(range, sizeof range, "from 0 to 18446744073709551615");
    text[0] = 0;
    switch (key->type) {
    case COUNT32:
    case COUNT64:
        snprintf(text, 256, "an integer %s", range);
        break;
    case NUMBER:
        snprintf(text, 256, "a number %s", range);
        break;
    case FLAG:
        snprintf(text, 256, "true or false");
        break;
    case TEXT:
        snprintf(text, 256, "a text");
        break;
    case WORD:
    case CHOICE:
        words_text(key->words, text);
        break;
    case BIAS:
        words_text(biases, text);
        break;
    case PATHS:
        snprintf(text, 256, "a path or a list of paths");
        break;
    case PAIR:
        snprintf(text, 256, "two numbers in brackets, each %s", range);
        break;
    case SPLIT:
        snprintf(text, 256, "a number %s, a file or a list of files", range);
        break;
    case ORDER:
        snprintf(text, 256, "ascending, descending or shuffle:SEED");
        break;
    }
    return text;
}

// The shortest spelling that reads back as the same double.
static void add_number(struct job_value *value, double number)
{
    char text[40];
    int digits = 1;
    if (number == floor(number) && fabs(number) < 1e15)
        snprintf(text, sizeof text, "%.0f", number);
    else
        do
            snprintf(text, sizeof text, "%.*g", digits, number);
        while (strtod(text, NULL) != number && ++digits <= 17);
    bg_strlist_add(&value->items, text);
    value->plain = true;
}

static void add_count(struct job_value *value, uint64_t count)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)count);
    bg_strlist_add(&value->items, text);
    value->plain = true;
}

static void add_word(struct job_value *value, const char *words, int index)
{
    struct bg_strlist list = {0};
    bg_strlist_split(&list, words, '|');
    BG_ASSERT(index >= 0 && (size_t)index < list.count);
    bg_strlist_add(&value->items, list.items[index]);
    bg_strlist_fini(&list);
    value->plain = true;
}

static void add_paths(struct job_value *value, const struct job_list *list)
{
    value->kind = JOB_SEQUENCE;
    for (size_t i = 0; i < list->count; i++)
        bg_strlist_add(&value->items, list->items[i]);
}

void job_key_get(size_t index, const struct job *job, struct job_value *value)
{
    const struct key *key = &keys[index];
    const void *place = (const char *)job + key->offset;
    const struct model_config *config = &job->model.config;
    *value = (struct job_value){.kind = JOB_SCALAR};
    switch (key->type) {
    case COUNT32:
        add_count(value, *(const uint32_t *)place);
        break;
    case COUNT64:
        add_count(value, *(const uint64_t *)place);
        break;
    case NUMBER:
        add_number(value, *(const double *)place);
        break;
    case FLAG:
        add_word(value, "false|true", *(const bool *)place);
        break;
    case WORD:
        add_word(value, key->words, *(const int *)place);
        break;
    case BIAS:
        add_word(value, biases, config->mlp_bias ? 3 : config->out_bias ? 2 : config->qkv_bias);
        break;
    case PATHS:
        add_paths(value, place);
        break;
    case PAIR:
        value->kind = JOB_SEQUENCE;
        add_number(value, ((const double *)place)[0]);
        add_number(value, ((const double *)place)[1]);
        break;
    case SPLIT:
        if (job->data.valid_files.count)
            add_paths(value, &job->data.valid_files);
        else
            add_number(value, job->data.valid);
        break;
    default:
        if (*(char *const *)place)
            bg_strlist_add(&value->items, *(char *const *)place);
        else
            value->kind = JOB_NOTHING;
    }
}

void job_key_free(size_t index, struct job *job)
{
    const struct key *key = &keys[index];
    void *place = (char *)job + key->offset;
    if (key->type == PATHS)
        free_list(place);
    else if (key->type == SPLIT)
        free_list(&job->data.valid_files);
    else if (key->type == TEXT || key->type == CHOICE || key->type == ORDER) {
        bg_free(*(char **)place);
        *(char **)place = NULL;
    }
}

char *job_help(void)
{
    struct bg_str text = {0};
    bg_str_add(
        &text,
        "Keys of a job file, or key=value on the command line. Relative paths start at the working directory.\n");
    for (size_t i = 0; i < KEYS; i++) {
        char expected[256];
        const struct key *key = &keys[i];
        bg_str_addf(&text, "%s  %-22s %s\n  %-22s takes %s; default: %s\n",
                    i && strncmp(key->name, keys[i - 1].name, 3) ? "\n" : "", key->name, key->meaning, "",
                    expectation(key, expected), key->standard ? key->standard : key->derived);
    }
    return bg_str_take(&text);
}
