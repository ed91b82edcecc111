// budget.zones: mappings, or the short forms of plan_zone_spec_parse, which is what a job keeps.
#include "train/job_int.h"

#include "base/mem.h"
#include "plan/spot/zone.h"

#include <string.h>

enum { ZONE_KEYS = 4 };
static const char *const zone_keys[ZONE_KEYS] = {"name", "trace", "spot_price", "on_demand_price"};

static bg_status take_field(const char *key, const char *item, const char *fields[ZONE_KEYS], struct bg_error *err)
{
    const char *name = fields[0] ? fields[0] : "?";
    size_t k = 0;
    while (k < ZONE_KEYS && strcmp(zone_keys[k], key) != 0)
        k++;
    if (k == ZONE_KEYS) {
        const char *nearest = bg_nearest(key, zone_keys, ZONE_KEYS);
        return bg_fail(err, BG_INVALID, "zone %s: unknown key %.60s; %s%s", name, key,
                       nearest ? "did you mean " : "there are name, trace, spot_price and on_demand_price",
                       nearest ? nearest : "");
    }
    if (fields[k])
        return bg_fail(err, BG_INVALID, "zone %s: %s stands there twice", name, key);
    if (!*item || strpbrk(item, k ? "," : ",="))
        return bg_fail(err, BG_INVALID, "zone %s: %s: expected a value without a comma, found \"%.60s\"", name, key,
                       item);
    fields[k] = item;
    return BG_OK;
}

// The mapping that begins at *at, where its "" stands; leaves the next one's.
static bg_status read_mapping(const struct job_value *value, size_t *at, struct bg_error *err, struct bg_strlist *texts)
{
    const char *fields[ZONE_KEYS] = {NULL};
    for (++*at; *at < value->keys.count && *value->keys.items[*at]; ++*at) {
        const bg_status status = take_field(value->keys.items[*at], value->items.items[*at], fields, err);
        if (status)
            return status;
    }
    if (!fields[0] || !fields[1])
        return bg_fail(err, BG_INVALID, "zone %s: %s is missing", fields[0] ? fields[0] : "?",
                       fields[0] ? "trace" : "name");
    char *text = bg_format("%s=%s%s%s%s%s", fields[0], fields[1], fields[2] || fields[3] ? "," : "",
                           fields[2] ? fields[2] : "", fields[3] ? "," : "", fields[3] ? fields[3] : "");
    bg_strlist_add(texts, text);
    bg_free(text);
    return BG_OK;
}

static bg_status check(const struct bg_strlist *texts, struct bg_error *err)
{
    char names[PLAN_ZONES_MAX][PLAN_ZONE_NAME_MAX + 1];
    if (!texts->count || texts->count > PLAN_ZONES_MAX)
        return bg_fail(err, BG_INVALID, "%zu zones: expected 1 to %d", texts->count, PLAN_ZONES_MAX);
    for (size_t i = 0; i < texts->count; i++) {
        struct plan_zone_spec spec;
        const bg_status status = plan_zone_spec_parse(texts->items[i], err, &spec);
        if (status)
            return status;
        memcpy(names[i], spec.name, sizeof names[i]);
        plan_zone_spec_fini(&spec);
        for (size_t other = 0; other < i; other++)
            if (strcmp(names[other], names[i]) == 0)
                return bg_fail(err, BG_INVALID, "zone %s stands there twice", names[i]);
    }
    return BG_OK;
}

bg_status job_zones_read(const struct job_value *value, struct bg_error *err, struct bg_strlist *texts)
{
    bg_status status = BG_OK;
    for (size_t i = 0; i < value->items.count && !value->keys.count; i++)
        bg_strlist_add(texts, value->items.items[i]);
    for (size_t at = 0; at < value->keys.count && !status;)
        status = read_mapping(value, &at, err, texts);
    return status ? status : check(texts, err);
}
