// The steps around the model in tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor. Each is a table of
// type names and the function that reads one; an unknown type is an error that names it.
#include "model/tokenizer_int.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

typedef bg_status (*step_fn)(struct tokenizer *tk, const json_t *step, struct bg_error *err);
struct step_type {
    const char *name;
    step_fn read; // NULL: nothing to do
};

// Reads `json`: null, one step, or a Sequence of steps in `list`.
static bg_status read_steps(struct tokenizer *tk, const json_t *json, const char *key, const char *list,
                            const struct step_type *types, struct bg_error *err)
{
    if (!json || json_is_null(json))
        return BG_OK;
    const char *name = json_string_value(json_object_get(json, "type"));
    if (!name)
        return bg_fail(err, BG_FORMAT, "%s: %s must be null or an object with a type", tk->name, key);
    if (strcmp(name, "Sequence") == 0) {
        const json_t *steps = json_object_get(json, list);
        if (!json_is_array(steps) || json_array_size(steps) > SPLIT_STEPS_MAX)
            return bg_fail(err, BG_FORMAT, "%s: %s.%s must be an array of at most %d steps", tk->name, key, list,
                           SPLIT_STEPS_MAX);
        for (size_t i = 0; i < json_array_size(steps); i++) {
            const json_t *step = json_array_get(steps, i);
            const char *inner = json_string_value(json_object_get(step, "type"));
            if (inner && strcmp(inner, "Sequence") == 0)
                return bg_fail(err, BG_UNSUPPORTED, "%s: %s has a Sequence inside a Sequence", tk->name, key);
            bg_status status = read_steps(tk, step, key, list, types, err);
            if (status != BG_OK)
                return status;
        }
        return BG_OK;
    }
    for (; types->name; types++)
        if (strcmp(types->name, name) == 0)
            return types->read ? types->read(tk, json, err) : BG_OK;
    return bg_fail(err, BG_UNSUPPORTED, "%s: %s of type %.60s is not supported", tk->name, key, name);
}

// {"String": "..."} or {"Regex": "..."}
static bg_status read_pattern(const struct tokenizer *tk, const json_t *step, const char *where, struct bg_error *err,
                              const char **pattern, bool *regex)
{
    const json_t *object = json_object_get(step, "pattern");
    const json_t *text = json_object_get(object, "Regex");
    *regex = text != NULL;
    if (!text)
        text = json_object_get(object, "String");
    if (!json_is_string(text) || strlen(json_string_value(text)) != json_string_length(text))
        return bg_fail(err, BG_FORMAT, "%s: %s.pattern must be {\"Regex\": \"...\"} or {\"String\": \"...\"}", tk->name,
                       where);
    *pattern = json_string_value(text);
    return BG_OK;
}

// ---- normalizer

static bg_status normal_nfc(struct tokenizer *tk, const json_t *step, struct bg_error *err)
{
    (void)err;
    bool compose = strcmp(json_string_value(json_object_get(step, "type")), "NFC") == 0;
    tokenizer_add_normal(tk, compose ? NORMAL_NFC : NORMAL_NFD, "", "");
    return BG_OK;
}

static bg_status normal_prepend(struct tokenizer *tk, const json_t *step, struct bg_error *err)
{
    const char *text;
    bg_status status = bg_json_string(step, tk->name, "prepend", err, &text);
    if (status == BG_OK)
        tokenizer_add_normal(tk, NORMAL_PREPEND, "", text);
    return status;
}

static bg_status normal_replace(struct tokenizer *tk, const json_t *step, struct bg_error *err)
{
    const char *from, *to;
    bool regex;
    bg_status status = read_pattern(tk, step, "normalizer Replace", err, &from, &regex);
    if (status == BG_OK)
        status = bg_json_string(step, tk->name, "content", err, &to);
    if (status != BG_OK)
        return status;
    if (regex || from[0] == '\0')
        return bg_fail(err, BG_UNSUPPORTED,
                       "%s: normalizer Replace with the pattern '%.200s': only a String is supported", tk->name, from);
    tokenizer_add_normal(tk, NORMAL_REPLACE, from, to);
    return BG_OK;
}

bg_status tokenizer_read_normalizer(struct tokenizer *tk, const void *json, struct bg_error *err)
{
    static const struct step_type types[] = {{"NFC", normal_nfc},
                                             {"NFD", normal_nfc},
                                             {"Prepend", normal_prepend},
                                             {"Replace", normal_replace},
                                             {NULL, NULL}};
    return read_steps(tk, json, "normalizer", "normalizers", types, err);
}

// ---- pre_tokenizer

static bg_status read_behavior(const struct tokenizer *tk, const json_t *step, const char *fallback,
                               struct bg_error *err, enum split_behavior *behavior)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = fallback;
    if (bg_json_has(step, "behavior") || !fallback) {
        bg_status status = bg_json_string(step, tk->name, "behavior", err, &name);
        if (status != BG_OK)
            return status;
    }
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *behavior = (enum split_behavior)i;
            return BG_OK;
        }
    }
    return bg_fail(err, BG_UNSUPPORTED, "%s: pre_tokenizer behavior '%.60s' is not supported", tk->name, name);
}

static bg_status split_split(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    const char *pattern;
    bool regex, invert = false;
    enum split_behavior behavior;
    bg_status status = read_pattern(tk, json, "pre_tokenizer Split", err, &pattern, &regex);
    if (status == BG_OK)
        status = read_behavior(tk, json, NULL, err, &behavior);
    if (status == BG_OK && bg_json_has(json, "invert"))
        status = bg_json_boolean(json, tk->name, "invert", err, &invert);
    if (status != BG_OK)
        return status;
    struct split_step *step = tokenizer_add_split(tk, regex ? SPLIT_REGEX : SPLIT_STRING, pattern);
    step->behavior = behavior;
    step->invert = invert;
    return BG_OK;
}

static bg_status split_digits(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    bool individual = false;
    bg_status status = BG_OK;
    if (bg_json_has(json, "individual_digits"))
        status = bg_json_boolean(json, tk->name, "individual_digits", err, &individual);
    if (status == BG_OK)
        (void)tokenizer_add_split(tk, SPLIT_REGEX, individual ? "\\p{N}" : "\\p{N}+");
    return status;
}

static bg_status split_byte_level(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    bool prefix = true, use_regex = true;
    bg_status status = BG_OK;
    if (bg_json_has(json, "add_prefix_space"))
        status = bg_json_boolean(json, tk->name, "add_prefix_space", err, &prefix);
    if (status == BG_OK && bg_json_has(json, "use_regex"))
        status = bg_json_boolean(json, tk->name, "use_regex", err, &use_regex);
    if (status != BG_OK)
        return status;
    tokenizer_set_byte_level(tk, use_regex);
    tk->splits[tk->split_count - 1].prepend = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    return BG_OK;
}

static bg_status read_prepend(const struct tokenizer *tk, const json_t *json, struct bg_error *err,
                              enum split_prepend *prepend)
{
    const json_t *scheme = json_object_get(json, "prepend_scheme");
    const json_t *old = json_object_get(json, "add_prefix_space");
    const char *name = json_is_string(scheme) ? json_string_value(scheme) : json_is_false(old) ? "never" : "always";
    *prepend = strcmp(name, "never") == 0 ? PREPEND_NEVER : strcmp(name, "first") == 0 ? PREPEND_FIRST : PREPEND_ALWAYS;
    if (*prepend == PREPEND_ALWAYS && strcmp(name, "always") != 0)
        return bg_fail(err, BG_FORMAT, "%s: prepend_scheme '%.40s' must be always, first or never", tk->name, name);
    return BG_OK;
}

static bg_status split_metaspace(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    const char *mark = "\xe2\x96\x81";
    enum split_prepend prepend;
    bool split = true;
    bg_status status = read_prepend(tk, json, err, &prepend);
    if (status == BG_OK && bg_json_has(json, "replacement"))
        status = bg_json_string(json, tk->name, "replacement", err, &mark);
    if (status == BG_OK && bg_json_has(json, "split"))
        status = bg_json_boolean(json, tk->name, "split", err, &split);
    if (status != BG_OK)
        return status;
    struct split_step *step = tokenizer_add_split(tk, SPLIT_METASPACE, mark);
    step->prepend = prepend;
    step->split = split;
    return BG_OK;
}

static bg_status split_whitespace(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    (void)err;
    bool blanks_only = strcmp(json_string_value(json_object_get(json, "type")), "WhitespaceSplit") == 0;
    struct split_step *step = tokenizer_add_split(tk, SPLIT_REGEX, blanks_only ? "\\s" : "\\w+|[^\\w\\s]+");
    step->behavior = SPLIT_REMOVED;
    step->invert = !blanks_only;
    return BG_OK;
}

static bg_status split_punctuation(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    enum split_behavior behavior;
    bg_status status = read_behavior(tk, json, "Isolated", err, &behavior);
    if (status == BG_OK)
        tokenizer_add_split(tk, SPLIT_REGEX, "[\\p{P}$+<=>^`|~]")->behavior = behavior;
    return status;
}

bg_status tokenizer_read_pre_tokenizer(struct tokenizer *tk, const void *json, struct bg_error *err)
{
    static const struct step_type types[] = {{"Split", split_split},
                                             {"Digits", split_digits},
                                             {"ByteLevel", split_byte_level},
                                             {"Metaspace", split_metaspace},
                                             {"Whitespace", split_whitespace},
                                             {"WhitespaceSplit", split_whitespace},
                                             {"Punctuation", split_punctuation},
                                             {NULL, NULL}};
    bg_status status = read_steps(tk, json, "pre_tokenizer", "pretokenizers", types, err);
    for (size_t i = 0; status == BG_OK && i + 1 < tk->split_count; i++)
        if (tk->splits[i].kind == SPLIT_BYTE_LEVEL)
            return bg_fail(err, BG_UNSUPPORTED, "%s: pre_tokenizer: ByteLevel must be the last step", tk->name);
    return status;
}

// ---- decoder

static bg_status decode_replace(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    const char *from, *to;
    bool regex;
    bg_status status = read_pattern(tk, json, "decoder Replace", err, &from, &regex);
    if (status == BG_OK)
        status = bg_json_string(json, tk->name, "content", err, &to);
    if (status != BG_OK)
        return status;
    if (regex || strcmp(from, "\xe2\x96\x81") != 0 || strcmp(to, " ") != 0)
        return bg_fail(err, BG_UNSUPPORTED,
                       "%s: decoder Replace '%.80s' by '%.80s': only U+2581 by a blank is supported", tk->name, from,
                       to);
    tk->decode_blank = true;
    return BG_OK;
}

static bg_status decode_strip(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    const char *content;
    int64_t start, stop;
    bg_status status = bg_json_string(json, tk->name, "content", err, &content);
    if (status == BG_OK)
        status = bg_json_integer(json, tk->name, "start", 0, 16, err, &start);
    if (status == BG_OK)
        status = bg_json_integer(json, tk->name, "stop", 0, 16, err, &stop);
    if (status != BG_OK)
        return status;
    if (strcmp(content, " ") != 0 || stop != 0 || start > 1)
        return bg_fail(err, BG_UNSUPPORTED, "%s: decoder Strip: only one blank at the start is supported", tk->name);
    tk->decode_strip = start > 0;
    return BG_OK;
}

static bg_status decode_metaspace(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    enum split_prepend prepend;
    bg_status status = read_prepend(tk, json, err, &prepend);
    tk->decode_blank = true;
    tk->decode_strip = prepend != PREPEND_NEVER;
    return status;
}

static bg_status decode_byte_level(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    (void)json;
    if (tk->byte_level)
        return BG_OK;
    return bg_fail(err, BG_UNSUPPORTED, "%s: decoder ByteLevel goes with a pre_tokenizer ByteLevel only", tk->name);
}

bg_status tokenizer_read_decoder(struct tokenizer *tk, const void *json, struct bg_error *err)
{
    static const struct step_type types[] = {{"ByteLevel", decode_byte_level},
                                             {"Replace", decode_replace},
                                             {"ByteFallback", NULL},
                                             {"Fuse", NULL},
                                             {"Strip", decode_strip},
                                             {"Metaspace", decode_metaspace},
                                             {NULL, NULL}};
    return read_steps(tk, json, "decoder", "decoders", types, err);
}

// ---- post_processor: only whether a text starts with a special token

static bg_status post_template(struct tokenizer *tk, const json_t *json, struct bg_error *err)
{
    const json_t *first = json_array_get(json_object_get(json, "single"), 0);
    const json_t *special = json_object_get(first, "SpecialToken");
    if (!special)
        return BG_OK;
    const char *token;
    bg_status status = bg_json_string(special, tk->name, "id", err, &token);
    if (status != BG_OK)
        return status;
    tk->bos = tokenizer_find(tk, token);
    if (tk->bos < 0)
        return bg_fail(err, BG_FORMAT, "%s: post_processor starts with '%.80s', which is not in the vocabulary",
                       tk->name, token);
    tk->adds_bos = true;
    return BG_OK;
}

bg_status tokenizer_read_post_processor(struct tokenizer *tk, const void *json, struct bg_error *err)
{
    static const struct step_type types[] = {{"TemplateProcessing", post_template}, {"ByteLevel", NULL}, {NULL, NULL}};
    return read_steps(tk, json, "post_processor", "processors", types, err);
}
