// Values of keys: from YAML into struct job with type and bounds checked, and back. Errors say where the value stood,
// what the key takes and what was found.
#include "train/job_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const biases = "none|qkv|attention|all"; // each has what the one before has

static bool set_value(const struct job_key *key, const struct job_value *value, struct job *job);
static bg_status explain_zones(const struct job_key *key, const char *where, const struct job_value *value,
                               struct bg_error *err);

bg_status job_key_set(const struct job_key *key, const char *where, const struct job_value *value, struct bg_error *err,
                      struct job *job)
{
    if (set_value(key, value, job)) {
        if (strcmp(key->name, "model.vocab") == 0)
            job->model.vocab_set = true;
        return BG_OK;
    }
    if (key->type == JOB_ZONES && value->kind != JOB_MAPPING && !value->nested)
        return explain_zones(key, where, value, err);
    char expected[256];
    job_key_takes(key, expected);
    static const char *const kinds[] = {"nothing", "", "a list", "a mapping"};
    if (value->kind == JOB_SCALAR)
        return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found %s\"%.100s\"", where, key->name, expected,
                       value->plain ? "" : "the text ", value->items.items[0]);
    if (value->kind == JOB_SEQUENCE && !value->nested && !value->keys.count)
        return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found a list of %zu", where, key->name, expected,
                       value->items.count);
    return bg_fail(err, BG_INVALID, "%s: %s: expected %s, found %s", where, key->name, expected,
                   value->nested       ? "a list inside a list"
                   : value->keys.count ? "a list of mappings"
                                       : kinds[value->kind]);
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

static bool in_range(const struct job_key *key, double value)
{
    bool low = key->bound == JOB_ABOVE_MIN ? value > key->min : value >= key->min;
    return low && (key->bound == JOB_BELOW_MAX ? value < key->max : value <= key->max);
}

static bool parse_count(const struct job_key *key, const char *text, uint64_t *value)
{
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits])
        return false;
    errno = 0;
    *value = strtoull(text, NULL, 10);
    return errno == 0 && in_range(key, (double)*value);
}

static bool parse_number(const struct job_key *key, const char *text, double *value)
{
    if (!strpbrk(text, "0123456789") || text[strspn(text, "0123456789+-.eE")])
        return false;
    char *end = NULL;
    *value = strtod(text, &end);
    return !*end && isfinite(*value) && in_range(key, *value);
}

static bool parse_time(const struct job_key *key, const char *text, double *seconds)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
    char *end = NULL;
    const double value = strtod(text, &end);
    if (!strpbrk(text, "0123456789") || text[strspn(text, "0123456789+-.eE")] != *end)
        return false;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0) {
            *seconds = value * units[i].seconds;
            return isfinite(value) && in_range(key, *seconds);
        }
    return false;
}

static bool is_order(const char *text)
{
    uint64_t seed = 0;
    const struct job_key any = {.min = 0, .max = JOB_U64_MAX};
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

// The fault, where one is wanted, is said by job_zones_read.
static bool set_zones(const struct job_value *value, struct job_list *list)
{
    struct job_value texts = {.kind = JOB_SEQUENCE};
    struct bg_error ignored;
    const bool set = job_zones_read(value, &ignored, &texts.items) == BG_OK && set_paths(&texts, list);
    bg_strlist_fini(&texts.items);
    return set;
}

static bg_status explain_zones(const struct job_key *key, const char *where, const struct job_value *value,
                               struct bg_error *err)
{
    struct bg_strlist texts = {0};
    struct bg_error fault = {0};
    const bg_status status = job_zones_read(value, &fault, &texts);
    bg_strlist_fini(&texts);
    return bg_fail(err, status ? status : BG_INVALID, "%s: %s: %s", where, key->name, fault.text);
}

static bool set_split(const struct job_key *key, const struct job_value *value, struct job *job)
{
    double fraction = 0;
    if (value->kind == JOB_SCALAR && value->plain && parse_number(key, value->items.items[0], &fraction)) {
        free_list(&job->data.valid_files);
        job->data.valid = fraction;
        return true;
    }
    // A number out of range is no file name.
    const struct job_key any = {.min = -HUGE_VAL, .max = HUGE_VAL};
    if (value->kind == JOB_SCALAR && value->plain && parse_number(&any, value->items.items[0], &fraction))
        return false;
    if (!set_paths(value, &job->data.valid_files))
        return false;
    job->data.valid = 0;
    return true;
}

static bool set_scalar(const struct job_key *key, const char *text, bool plain, void *place, struct job *job)
{
    uint64_t count = 0;
    double number = 0;
    int word = 0;
    switch (key->type) {
    case JOB_COUNT32:
        if (!plain || !parse_count(key, text, &count))
            return false;
        *(uint32_t *)place = (uint32_t)count;
        return true;
    case JOB_COUNT64:
        if (!plain || !parse_count(key, text, &count))
            return false;
        *(uint64_t *)place = count;
        return true;
    case JOB_NUMBER:
        if (!plain || !parse_number(key, text, &number))
            return false;
        *(double *)place = number;
        return true;
    case JOB_TIME:
        if (!plain || !parse_time(key, text, &number))
            return false;
        *(double *)place = number;
        return true;
    case JOB_FLAG:
        if (!plain || (word = word_index("false|true", text)) < 0)
            return false;
        *(bool *)place = word == 1;
        return true;
    case JOB_WORD:
        if ((word = word_index(key->words, text)) < 0)
            return false;
        *(int *)place = word;
        return true;
    case JOB_BIAS:
        if ((word = word_index(biases, text)) < 0)
            return false;
        job->model.config.qkv_bias = word >= 1;
        job->model.config.out_bias = word >= 2;
        job->model.config.mlp_bias = word >= 3;
        return true;
    default: // strings
        if ((key->type == JOB_CHOICE && word_index(key->words, text) < 0) ||
            (key->type == JOB_ORDER && !is_order(text)) || !text[0])
            return false;
        replace_text(place, text);
        return true;
    }
}

static bool set_value(const struct job_key *key, const struct job_value *value, struct job *job)
{
    void *place = (char *)job + key->offset;
    if (value->kind == JOB_NOTHING && key->type == JOB_TEXT && !key->standard) { // back to the derived default
        bg_free(*(char **)place);
        *(char **)place = NULL;
        return true;
    }
    if (value->kind != JOB_SCALAR && value->kind != JOB_SEQUENCE)
        return false;
    if (key->type == JOB_ZONES)
        return !value->nested && set_zones(value, place);
    if (value->keys.count)
        return false;
    if (key->type == JOB_PATHS)
        return set_paths(value, place);
    if (key->type == JOB_SPLIT)
        return set_split(key, value, job);
    if (key->type != JOB_PAIR)
        return value->kind == JOB_SCALAR && set_scalar(key, value->items.items[0], value->plain, place, job);
    double pair[2] = {0};
    if (value->kind != JOB_SEQUENCE || value->items.count != 2 || value->nested || !value->plain ||
        !parse_number(key, value->items.items[0], &pair[0]) || !parse_number(key, value->items.items[1], &pair[1]))
        return false;
    memcpy(place, pair, sizeof pair);
    return true;
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

const char *job_key_takes(const struct job_key *key, char text[256])
{
    const char *low = key->bound == JOB_ABOVE_MIN ? "above" : "from";
    const char *high = key->bound == JOB_BELOW_MAX ? "to below" : key->bound == JOB_ABOVE_MIN ? "up to" : "to";
    char range[128];
    snprintf(range, sizeof range, "%s %.15g %s %.15g", low, key->min, high, key->max);
    if (key->max == JOB_U64_MAX)
        snprintf(range, sizeof range, "from 0 to 18446744073709551615");
    text[0] = 0;
    switch (key->type) {
    case JOB_COUNT32:
    case JOB_COUNT64:
        snprintf(text, 256, "an integer %s", range);
        break;
    case JOB_NUMBER:
        snprintf(text, 256, "a number %s", range);
        break;
    case JOB_TIME:
        snprintf(text, 256, "a time such as 90s, 20m, 48h or 3d");
        break;
    case JOB_FLAG:
        snprintf(text, 256, "true or false");
        break;
    case JOB_TEXT:
        snprintf(text, 256, "a text");
        break;
    case JOB_WORD:
    case JOB_CHOICE:
        words_text(key->words, text);
        break;
    case JOB_BIAS:
        words_text(biases, text);
        break;
    case JOB_PATHS:
        snprintf(text, 256, "a path or a list of paths");
        break;
    case JOB_PAIR:
        snprintf(text, 256, "two numbers in brackets, each %s", range);
        break;
    case JOB_SPLIT:
        snprintf(text, 256, "a number %s, a file or a list of files", range);
        break;
    case JOB_ORDER:
        snprintf(text, 256, "ascending, descending or shuffle:SEED");
        break;
    case JOB_ZONES:
        snprintf(text, 256,
                 "a list of {name, trace, spot_price: $ or a file of prices, on_demand_price: $}, or of "
                 "\"NAME=TRACE[,$[,$]]\"");
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

void job_key_get(const struct job_key *key, const struct job *job, struct job_value *value)
{
    const void *place = (const char *)job + key->offset;
    const struct model_config *config = &job->model.config;
    *value = (struct job_value){.kind = JOB_SCALAR};
    switch (key->type) {
    case JOB_COUNT32:
        add_count(value, *(const uint32_t *)place);
        break;
    case JOB_COUNT64:
        add_count(value, *(const uint64_t *)place);
        break;
    case JOB_TIME:
        if (!key->standard && *(const double *)place <= 0) { // not given
            value->kind = JOB_NOTHING;
            break;
        }
        add_number(value, *(const double *)place);
        break;
    case JOB_NUMBER:
        add_number(value, *(const double *)place);
        break;
    case JOB_FLAG:
        add_word(value, "false|true", *(const bool *)place);
        break;
    case JOB_WORD:
        add_word(value, key->words, *(const int *)place);
        break;
    case JOB_BIAS:
        add_word(value, biases, config->mlp_bias ? 3 : config->out_bias ? 2 : config->qkv_bias);
        break;
    case JOB_PATHS:
        add_paths(value, place);
        break;
    case JOB_ZONES:
        add_paths(value, place);
        if (!value->items.count)
            value->kind = JOB_NOTHING;
        break;
    case JOB_PAIR:
        value->kind = JOB_SEQUENCE;
        add_number(value, ((const double *)place)[0]);
        add_number(value, ((const double *)place)[1]);
        break;
    case JOB_SPLIT:
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

void job_key_free(const struct job_key *key, struct job *job)
{
    void *place = (char *)job + key->offset;
    if (key->type == JOB_PATHS || key->type == JOB_ZONES)
        free_list(place);
    else if (key->type == JOB_SPLIT)
        free_list(&job->data.valid_files);
    else if (key->type == JOB_TEXT || key->type == JOB_CHOICE || key->type == JOB_ORDER) {
        bg_free(*(char **)place);
        *(char **)place = NULL;
    }
}
