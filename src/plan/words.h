// A line of a decision log as its words, read one by one. None of these reads past the last word.
#ifndef PLAN_WORDS_H
#define PLAN_WORDS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct plan_words {
    char *const *word;
    size_t at, count;
};

static inline const char *plan_words_next(struct plan_words *w)
{
    return w->at < w->count ? w->word[w->at++] : "";
}

static inline bool plan_words_take(struct plan_words *w, const char *name)
{
    return strcmp(plan_words_next(w), name) == 0;
}

static inline bool plan_words_whole(struct plan_words *w, uint64_t most, uint64_t *value)
{
    const char *word = plan_words_next(w);
    char *end;
    *value = strtoull(word, &end, 10);
    return *word >= '0' && *word <= '9' && !*end && *value <= most && strlen(word) <= 20;
}

static inline bool plan_words_number(struct plan_words *w, double *value)
{
    const char *word = plan_words_next(w);
    char *end;
    *value = strtod(word, &end);
    return end != word && !*end && isfinite(*value);
}

#endif
