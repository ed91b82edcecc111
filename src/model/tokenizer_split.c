// Cutting text into words before the merges: regular expressions (PCRE2), literal strings, Metaspace and ByteLevel, as
// a sequence of steps in which each step cuts the pieces of the one before.
//
// Text is cut in valid UTF-8; an invalid byte is a word of its own. A pattern that came with a file is not trusted: it
// runs in the interpreter, anchored at one position after another, and every backtracking step counts against a budget
// that grows with the text, so that no pattern can hang or exhaust the stack. Our own patterns run as JIT code.
#define _GNU_SOURCE           // memmem
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer_int.h"

#include "base/mem.h"

#include <pcre2.h>
#include <string.h>

const char split_pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char split_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char split_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                   " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char split_pattern_o200k[] = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}"
                                   "\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
                                   "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}"
                                   "\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
                                   "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

#define FIRST_LIMIT   64
#define FIRST_WINDOW  1024
#define BUDGET_BASE   (UINT64_C(1) << 24)
#define BUDGET_A_BYTE 96
#define HEAP_KIB      65536

// ---- running the steps

static bg_status run_from(struct splitter *sp, size_t step, const char *text, size_t size, struct bg_error *err);

// Joins the parts of one step as its behaviour says and passes them to the next step.
struct joiner {
    struct splitter *splitter;
    size_t step;
    const char *pending;
    size_t pending_size;
    bool held, last_match;
};

static bg_status joiner_flush(struct joiner *j, struct bg_error *err)
{
    if (!j->held || j->pending_size == 0)
        return BG_OK;
    j->held = false;
    return run_from(j->splitter, j->step + 1, j->pending, j->pending_size, err);
}

static bg_status joiner_part(struct joiner *j, const char *text, size_t size, bool match, struct bg_error *err)
{
    const struct split_step *step = &j->splitter->steps[j->step];
    match ^= step->invert;
    if (match && step->behavior == SPLIT_REMOVED)
        return BG_OK;
    bool join = false;
    switch (step->behavior) {
    case SPLIT_WITH_PREVIOUS:
        join = j->held && match && !j->last_match;
        break;
    case SPLIT_WITH_NEXT:
        join = j->held && j->last_match && !match;
        break;
    case SPLIT_CONTIGUOUS:
        join = j->held && match == j->last_match;
        break;
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED:
        break;
    }
    j->last_match = match;
    if (join) {
        j->pending_size += size;
        return BG_OK;
    }
    bg_status status = joiner_flush(j, err);
    j->pending = text;
    j->pending_size = size;
    j->held = true;
    return status;
}

static bg_status limits_make(struct splitter *sp, const struct split_step *step, struct bg_error *err)
{
    if (!sp->match)
        sp->match = pcre2_match_data_create(1, NULL);
    if (!sp->limits && (sp->limits = pcre2_match_context_create(NULL)) != NULL)
        (void)pcre2_set_heap_limit(sp->limits, HEAP_KIB);
    if (!sp->match || !sp->limits)
        return bg_fail(err, BG_NO_MEMORY, "%s: no memory to match the pattern '%.200s'", sp->name, step->pattern);
    return BG_OK;
}

// Tries the pattern at exactly `at`. The limit doubles until the match fits, and so does the window of text that it
// sees, until it no longer touches the end (a partial match): what is charged stays within a small factor of what was
// spent.
static int match_untrusted(struct splitter *sp, const struct split_step *step, const char *text, size_t size, size_t at)
{
    size_t window = FIRST_WINDOW;
    for (uint32_t limit = FIRST_LIMIT;;) {
        bool whole = size - at <= window;
        size_t end = whole ? size : at + window;
        while (!whole && ((uint8_t)text[end] & 0xc0) == 0x80)
            end--;
        sp->work += limit + (end - at > FIRST_WINDOW ? end - at : 0);
        if (sp->work > sp->budget || limit > UINT32_MAX / 4)
            return PCRE2_ERROR_MATCHLIMIT;
        (void)pcre2_set_match_limit(sp->limits, limit);
        uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_ANCHORED | PCRE2_NO_JIT | (whole ? 0 : PCRE2_PARTIAL_HARD);
        int rc = pcre2_match(step->code, (PCRE2_SPTR)text, end, at, options, sp->match, sp->limits);
        if (rc == PCRE2_ERROR_PARTIAL)
            window *= 2;
        else if (rc == PCRE2_ERROR_MATCHLIMIT)
            limit *= 2;
        else
            return rc;
    }
}

// The first match at or after `at`: 1 and its bounds, 0 for none, or a negative PCRE2 error.
static int match_next(struct splitter *sp, const struct split_step *step, const char *text, size_t size, size_t at,
                      size_t bounds[2])
{
    int rc = PCRE2_ERROR_NOMATCH;
    if (step->trusted) {
        rc = pcre2_match(step->code, (PCRE2_SPTR)text, size, at, PCRE2_NO_UTF_CHECK, sp->match, NULL);
    } else {
        for (; rc == PCRE2_ERROR_NOMATCH && at <= size; at += at < size ? utf8_length(text + at, size - at) : 1)
            rc = match_untrusted(sp, step, text, size, at);
    }
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0)
        return rc;
    const PCRE2_SIZE *vector = pcre2_get_ovector_pointer(sp->match);
    bounds[0] = vector[0];
    bounds[1] = vector[1] < vector[0] ? vector[0] : vector[1]; // \K in a lookahead can turn them round
    return 1;
}

static bg_status match_failed(const struct splitter *sp, const struct split_step *step, int rc, struct bg_error *err)
{
    char why[128];
    if (pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why) < 0)
        why[0] = '\0';
    return bg_fail(err, BG_UNSUPPORTED,
                   "%s: the pattern '%.200s' takes too much work on this text (%s): use a pattern that backtracks less",
                   sp->name, step->pattern, why);
}

static bg_status run_regex(struct splitter *sp, size_t index, const char *text, size_t size, struct bg_error *err)
{
    const struct split_step *step = &sp->steps[index];
    bg_status status = limits_make(sp, step, err);
    struct joiner joiner = {.splitter = sp, .step = index};
    size_t done = 0, at = 0, bounds[2];
    while (status == BG_OK && at <= size) {
        int found = match_next(sp, step, text, size, at, bounds);
        if (found < 0)
            return match_failed(sp, step, found, err);
        if (found == 0 || bounds[0] < done)
            break;
        if (bounds[0] > done)
            status = joiner_part(&joiner, text + done, bounds[0] - done, false, err);
        if (status == BG_OK)
            status = joiner_part(&joiner, text + bounds[0], bounds[1] - bounds[0], true, err);
        done = at = bounds[1];
        if (bounds[1] == bounds[0]) // an empty match: look on behind the next character
            at += at < size ? utf8_length(text + at, size - at) : 1;
    }
    if (status == BG_OK && done < size)
        status = joiner_part(&joiner, text + done, size - done, false, err);
    return status == BG_OK ? joiner_flush(&joiner, err) : status;
}

static bg_status run_string(struct splitter *sp, size_t index, const char *text, size_t size, struct bg_error *err)
{
    const struct split_step *step = &sp->steps[index];
    struct joiner joiner = {.splitter = sp, .step = index};
    bg_status status = BG_OK;
    size_t done = 0;
    while (status == BG_OK && done < size) {
        const char *found = memmem(text + done, size - done, step->pattern, step->pattern_size);
        size_t start = found ? (size_t)(found - text) : size;
        if (start > done)
            status = joiner_part(&joiner, text + done, start - done, false, err);
        if (status == BG_OK && found)
            status = joiner_part(&joiner, found, step->pattern_size, true, err);
        done = found ? start + step->pattern_size : size;
    }
    return status == BG_OK ? joiner_flush(&joiner, err) : status;
}

// Blanks become the replacement character, perhaps one more in front, and every replacement starts a word.
static bg_status run_metaspace(struct splitter *sp, size_t index, const char *text, size_t size, struct bg_error *err)
{
    const struct split_step *step = &sp->steps[index];
    struct bg_str *out = &sp->scratch[index];
    bg_str_reset(out);
    bool marked = size > 0 && (text[0] == ' ' ||
                               (size >= step->pattern_size && memcmp(text, step->pattern, step->pattern_size) == 0));
    bool prepend = step->prepend == PREPEND_ALWAYS || (step->prepend == PREPEND_FIRST && sp->first);
    if (prepend && !marked)
        bg_str_add_bytes(out, step->pattern, step->pattern_size);
    for (size_t i = 0; i < size;) {
        const char *blank = memchr(text + i, ' ', size - i);
        size_t plain = blank ? (size_t)(blank - text) - i : size - i;
        bg_str_add_bytes(out, text + i, plain);
        if (blank)
            bg_str_add_bytes(out, step->pattern, step->pattern_size);
        i += plain + 1;
    }
    if (!step->split)
        return run_from(sp, index + 1, out->data, out->size, err);
    return run_string(sp, index, out->data, out->size, err);
}

static bg_status run_byte_level(struct splitter *sp, size_t index, const char *text, size_t size, struct bg_error *err)
{
    const struct split_step *step = &sp->steps[index];
    if (step->prepend != PREPEND_NEVER && text[0] != ' ') {
        struct bg_str *out = &sp->scratch[index];
        bg_str_reset(out);
        bg_str_add_bytes(out, " ", 1);
        bg_str_add_bytes(out, text, size);
        text = out->data;
        size = out->size;
    }
    return step->use_regex ? run_regex(sp, index, text, size, err) : run_from(sp, index + 1, text, size, err);
}

static bg_status run_from(struct splitter *sp, size_t step, const char *text, size_t size, struct bg_error *err)
{
    if (size == 0)
        return BG_OK;
    if (step == sp->count)
        return sp->fn(sp->arg, text, size, err);
    switch (sp->steps[step].kind) {
    case SPLIT_REGEX:
        return run_regex(sp, step, text, size, err);
    case SPLIT_STRING:
        return run_string(sp, step, text, size, err);
    case SPLIT_METASPACE:
        return run_metaspace(sp, step, text, size, err);
    case SPLIT_BYTE_LEVEL:
        return run_byte_level(sp, step, text, size, err);
    }
    return BG_OK;
}

bg_status split_run(struct splitter *sp, const char *text, size_t size, struct bg_error *err)
{
    sp->work = 0;
    sp->budget = BUDGET_BASE + (uint64_t)size * BUDGET_A_BYTE;
    bg_status status = BG_OK;
    for (size_t start = 0, at = 0; status == BG_OK && at < size;) {
        size_t length = utf8_length(text + at, size - at);
        at += length;
        if (length > 0 && at < size)
            continue;
        if (at > start)
            status = run_from(sp, 0, text + start, at - start, err);
        if (status == BG_OK && length == 0)
            status = sp->fn(sp->arg, text + at++, 1, err);
        start = at;
        sp->first = false;
    }
    return status;
}

void splitter_fini(struct splitter *sp)
{
    pcre2_match_data_free(sp->match);
    pcre2_match_context_free(sp->limits);
    for (size_t i = 0; i < SPLIT_STEPS_MAX; i++)
        bg_str_fini(&sp->scratch[i]);
}

// ---- compiling

// The files are written for Oniguruma. Where PCRE2 reads the same text otherwise it is spelled out, and what cannot be
// spelled out is refused: a wrong split would go unnoticed.
static const char *translate_escape(const char *at, size_t size, bool in_class, struct bg_str *out)
{
    static const char space[] = "\\p{Z}\\t-\\r\\x{85}", word[] = "\\p{L}\\p{M}\\p{Nd}\\p{Pc}";
    char c = at[0];
    if (memchr("hHKCyYRX", c, 8))
        return "an escape that is read in more than one way";
    bool negated = c == 'S' || c == 'W';
    if (c == 'W' && in_class)
        return "\\W inside brackets";
    if (c == 'u' && size >= 5) {
        bg_str_addf(out, "\\x{%.4s}", at + 1);
    } else if (memchr("sSwW", c, 4) && !(in_class && negated)) {
        bg_str_add(out, in_class ? "" : negated ? "[^" : "[");
        bg_str_add(out, c == 's' || c == 'S' ? space : word);
        bg_str_add(out, in_class ? "" : "]");
    } else {
        bg_str_addf(out, "\\%c", c);
    }
    return NULL;
}

// (?m) lets the dot match line ends in Oniguruma, and moves ^ and $ in PCRE2.
static bool sets_m(const char *at, size_t size)
{
    size_t i = 0;
    while (i < size && memchr("imsx-", at[i], 5))
        i++;
    return i < size && (at[i] == ')' || at[i] == ':') && memchr(at, 'm', i) != NULL;
}

static const char *translate(const char *pattern, size_t size, struct bg_str *out)
{
    bool in_class = false;
    for (size_t i = 0; i < size; i++) {
        char c = pattern[i], next = i + 1 < size ? pattern[i + 1] : '\0';
        if (c == '\\' && i + 1 < size) {
            const char *why = translate_escape(pattern + i + 1, size - i - 1, in_class, out);
            if (why)
                return why;
            i += next == 'u' && size - i >= 6 ? 5 : 1;
            continue;
        }
        if (!in_class && c == '(' && next == '?' && sets_m(pattern + i + 2, size - i - 2))
            return "the option (?m)";
        if (in_class && c == '&' && next == '&')
            return "an intersection of character classes (&&)";
        if (in_class && c == '[' && next != ':')
            return "a character class inside another";
        bg_str_add_bytes(out, &c, 1);
        if (!in_class && c == '[') {
            in_class = true;
            if (next == '^')
                bg_str_add_bytes(out, &pattern[++i], 1);
            if (i + 1 < size && pattern[i + 1] == ']')
                bg_str_add_bytes(out, &pattern[++i], 1);
        } else if (in_class && c == '[') { // [:name:]
            const char *end = memmem(pattern + i, size - i, ":]", 2);
            if (!end)
                return "a character class inside another";
            bg_str_add_bytes(out, pattern + i + 1, (size_t)(end - pattern) + 1 - i);
            i = (size_t)(end - pattern) + 1;
        } else if (in_class && c == ']') {
            in_class = false;
        }
    }
    return NULL;
}

static bool is_trusted(const char *pattern)
{
    static const char *const ours[] = {
        split_pattern_gpt2, split_pattern_llama3, split_pattern_qwen2, split_pattern_o200k, "\\p{N}", "\\p{N}+"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(pattern, ours[i]) == 0)
            return true;
    return false;
}

bg_status split_step_init(struct split_step *step, const char *where, struct bg_error *err)
{
    if (step->code)
        return BG_OK;
    if ((step->kind == SPLIT_STRING || step->kind == SPLIT_METASPACE) && step->pattern_size == 0)
        return bg_fail(err, BG_FORMAT, "%s: the pattern is empty", where);
    if (step->kind == SPLIT_METASPACE &&
        (utf8_length(step->pattern, step->pattern_size) != step->pattern_size || step->pattern[0] == ' '))
        return bg_fail(err, BG_FORMAT, "%s: Metaspace's replacement must be one character", where);
    if (step->kind == SPLIT_METASPACE)
        step->behavior = SPLIT_WITH_NEXT;
    if (step->kind == SPLIT_STRING || step->kind == SPLIT_METASPACE ||
        (step->kind == SPLIT_BYTE_LEVEL && !step->use_regex))
        return BG_OK;
    if (step->kind == SPLIT_BYTE_LEVEL && !step->pattern) {
        step->pattern = bg_strdup(split_pattern_gpt2);
        step->pattern_size = strlen(step->pattern);
    }
    struct bg_str text = {0};
    const char *why = translate(step->pattern, step->pattern_size, &text);
    if (why) {
        bg_str_fini(&text);
        return bg_fail(err, BG_UNSUPPORTED, "%s: the pattern '%.300s' uses %s, which is not supported", where,
                       step->pattern, why);
    }
    int code;
    PCRE2_SIZE offset;
    step->code = pcre2_compile((PCRE2_SPTR)bg_str_text(&text), text.size,
                               PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    bg_str_fini(&text);
    if (!step->code) {
        char reason[160];
        if (pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason) < 0)
            reason[0] = '\0';
        return bg_fail(err, BG_UNSUPPORTED, "%s: the pattern '%.300s' does not compile: %s", where, step->pattern,
                       reason);
    }
    step->trusted = is_trusted(step->pattern);
    if (step->trusted)
        (void)pcre2_jit_compile(step->code, PCRE2_JIT_COMPLETE); // without JIT the interpreter does it
    return BG_OK;
}

void split_step_fini(struct split_step *step)
{
    bg_free(step->pattern);
    pcre2_code_free(step->code);
}
