// Reads the lengths of samples, one or two numbers a line.
#include "base/mem.h"
#include "plan/schedule/dynapipe.h"

#include <string.h>

// A number of the line, which moves on; false: none, or none that may be.
static bool next_length(const char **at, const char *end, uint32_t *value)
{
    uint32_t sum = 0;
    const char *begin = *at;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at) {
        sum = sum * 10 + (uint32_t)(**at - '0');
        if (sum > PLAN_DYNAPIPE_LENGTH_MAX)
            return false;
    }
    *value = sum;
    return *at > begin;
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\r'))
        at++;
    return at;
}

static bool read_sample(const char *at, const char *end, struct plan_sample *sample)
{
    uint32_t first, second;
    if (!next_length(&at, end, &first))
        return false;
    const char *rest = skip_blanks(at, end);
    *sample = (struct plan_sample){0, first};
    if (rest == end)
        return true;
    if (rest == at || !next_length(&rest, end, &second))
        return false;
    *sample = (struct plan_sample){first, second};
    return skip_blanks(rest, end) == end;
}

bg_status plan_samples_parse(const char *text, size_t size, struct bg_error *err, struct plan_sample **samples,
                             uint32_t *count)
{
    const char *end = text + size;
    struct plan_sample *made = NULL;
    uint32_t n = 0, capacity = 0;
    for (uint32_t number = 1; text < end; number++) {
        const char *newline = memchr(text, '\n', (size_t)(end - text)), *stop = newline ? newline : end;
        const char *at = skip_blanks(text, stop);
        struct plan_sample sample;
        text = newline ? newline + 1 : end;
        if (at == stop || *at == '#')
            continue;
        if (!read_sample(at, stop, &sample) || n == PLAN_DYNAPIPE_SAMPLES_MAX) {
            bg_free(made);
            return bg_fail(err, BG_FORMAT,
                           "line %u: expected LENGTH or \"ENCODER DECODER\", numbers up to %d, at most %d lines",
                           number, PLAN_DYNAPIPE_LENGTH_MAX, PLAN_DYNAPIPE_SAMPLES_MAX);
        }
        if (n == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            made = bg_realloc_array(made, capacity, sizeof *made);
        }
        made[n++] = sample;
    }
    if (!n)
        return bg_fail(err, BG_FORMAT, "no samples: expected a length a line");
    *samples = made;
    *count = n;
    return BG_OK;
}
