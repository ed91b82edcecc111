// What happens to a frame is a function of the seed, the process and the frame's number.
#include "cli/tamper.h"

#include "base/hash.h"
#include "base/str.h"

#include <stdlib.h>
#include <string.h>

static bool parse_probability(const char *text, double *value)
{
    char *end = NULL;
    *value = strtod(text, &end);
    return end != text && !*end && *value >= 0 && *value <= 1;
}

static bool parse_milliseconds(const char *text, uint64_t *ns)
{
    char *end = NULL;
    double ms = strtod(text, &end);
    bool good = end != text && !strcmp(end, "ms") && ms >= 0 && ms <= 60000;
    *ns = good ? (uint64_t)(ms * 1e6) : 0;
    return good;
}

// "drop:1e-3", "delay:1e-2:5ms"
static bool parse_item(const char *text, struct tamper *t)
{
    struct bg_strlist parts = {0};
    bg_strlist_split(&parts, text, ':');
    double probability = 0;
    bool good = parts.count >= 2 && parse_probability(parts.items[1], &probability);
    if (good && parts.count == 2 && !strcmp(parts.items[0], "drop"))
        t->drop = probability;
    else if (good && parts.count == 2 && !strcmp(parts.items[0], "corrupt"))
        t->corrupt = probability;
    else if (good && parts.count == 3 && !strcmp(parts.items[0], "delay") &&
             parse_milliseconds(parts.items[2], &t->delay_ns))
        t->delay = probability;
    else
        good = false;
    bg_strlist_fini(&parts);
    return good;
}

bg_status tamper_parse(const char *text, uint64_t process, struct bg_error *err, struct tamper *tamper)
{
    struct tamper t = {.process = process};
    char *end = NULL;
    t.seed = strtoull(text, &end, 10);
    bool good = end != text && *end == ':';
    struct bg_strlist items = {0};
    if (good)
        bg_strlist_split(&items, end + 1, ',');
    for (size_t i = 0; i < items.count && good; i++)
        good = parse_item(items.items[i], &t);
    bg_strlist_fini(&items);
    if (!good)
        return bg_fail(
            err, BG_INVALID,
            "frames to tamper with, \"%.100s\": expected SEED:drop:P,corrupt:P,delay:P:Nms (any of the three)", text);
    *tamper = t;
    return BG_OK;
}

bool tamper_frame(void *arg, uint32_t peer, struct wire_frame *frame, uint64_t *delay_ns)
{
    struct tamper *t = arg;
    if (frame->kind < WIRE_ACTIVATION)
        return true;
    const uint64_t key[] = {t->seed, t->process, t->frames++, peer};
    uint64_t bits = bg_xxh64(key, sizeof key);
    double draw = (double)(bits >> 11) * 0x1p-53;
    if (draw < t->drop)
        return false;
    draw -= t->drop;
    if (draw < t->corrupt)
        frame->check ^= UINT64_C(1) << (bits & 63);
    else if (draw - t->corrupt < t->delay)
        *delay_ns = t->delay_ns;
    return true;
}
