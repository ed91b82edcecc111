// The choice of a zone, and zones as text.
#include "plan/spot/zone.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/str.h"
#include "plan/spot/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has(const struct plan_snapshot *now, uint32_t zone, enum plan_rent rent)
{
    return rent == PLAN_RENT_ON_DEMAND || now->zones[zone].spot >= now->job.instances;
}

uint32_t plan_zone_choose(const struct plan_snapshot *now, enum plan_rent rent)
{
    uint32_t best = PLAN_NOWHERE;
    if (rent == PLAN_RENT_NONE)
        return PLAN_NOWHERE;
    if (rent == now->rent && now->zone < now->zone_count && has(now, now->zone, rent))
        return now->zone;
    for (uint32_t z = 0; z < now->zone_count; z++)
        if (has(now, z, rent) && (best == PLAN_NOWHERE || now->zones[z].price[rent] < now->zones[best].price[rent]))
            best = z;
    return best;
}

void plan_zone_set_prices(struct plan_snapshot *now)
{
    for (int k = PLAN_RENT_SPOT; k < PLAN_RENTS; k++) {
        const uint32_t zone = plan_zone_choose(now, (enum plan_rent)k);
        double price = zone == PLAN_NOWHERE ? INFINITY : now->zones[zone].price[k];
        for (uint32_t z = 0; z < now->zone_count && zone == PLAN_NOWHERE; z++)
            price = fmin(price, now->zones[z].price[k]);
        now->job.price[k] = price;
    }
}

// ---- As they were ----

struct plan_zone plan_zone_at(const struct plan_zone_trace *zone, uint32_t tick)
{
    struct plan_zone at = {.name = zone->name, .spot = zone->spot[tick]};
    memcpy(at.price, zone->price, sizeof at.price);
    if (zone->spot_price)
        at.price[PLAN_RENT_SPOT] = zone->spot_price[tick];
    return at;
}

void plan_zones_together(const struct plan_zone_trace *zones, uint32_t count, uint32_t ticks, uint32_t *spot)
{
    for (uint32_t t = 0; t < ticks; t++) {
        spot[t] = 0;
        for (uint32_t z = 0; z < count; z++)
            spot[t] = zones[z].spot[t] > spot[t] ? zones[z].spot[t] : spot[t];
    }
}

// ---- Text ----

static bool is_name(const char *text, size_t size)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return size && size <= PLAN_ZONE_NAME_MAX && strspn(text, plain) >= size && !strchr("._-", text[0]);
}

static bool take_price(const char *text, double *price)
{
    char *end;
    *price = strtod(text, &end);
    return end != text && !*end && *price >= 0 && *price <= 1e6;
}

bg_status plan_zone_spec_parse(const char *text, struct bg_error *err, struct plan_zone_spec *spec)
{
    const char *equals = strchr(text, '=');
    const size_t size = equals ? (size_t)(equals - text) : 0;
    struct plan_zone_spec s = {.price = {0, -1, -1}};
    struct bg_strlist fields = {0};
    bg_status status = BG_OK;
    if (!is_name(text, size))
        return bg_fail(
            err, BG_INVALID,
            "\"%.60s\": expected NAME=TRACE[,SPOT $[,ON-DEMAND $]] with a name of at most %d letters, digits, "
            "'.', '_' and '-'",
            text, PLAN_ZONE_NAME_MAX);
    memcpy(s.name, text, size);
    bg_strlist_split(&fields, equals + 1, ',');
    const char *spot = fields.count > 1 ? fields.items[1] : "", *demand = fields.count > 2 ? fields.items[2] : "";
    if (fields.count > 3 || !fields.count || !*fields.items[0])
        status = bg_fail(err, BG_INVALID,
                         "zone %s: expected a trace, then at most two prices, with commas between them", s.name);
    else if (*demand && !take_price(demand, &s.price[PLAN_RENT_ON_DEMAND]))
        status = bg_fail(err, BG_INVALID, "zone %s: on-demand price \"%.60s\": expected $ an hour, 0 to 1e6", s.name,
                         demand);
    else if (*spot && !take_price(spot, &s.price[PLAN_RENT_SPOT])) {
        s.price[PLAN_RENT_SPOT] = -1;
        if (strspn(spot, "0123456789.+-eE") == strlen(spot))
            status = bg_fail(err, BG_INVALID, "zone %s: spot price \"%.60s\": expected $ an hour, 0 to 1e6, or a file",
                             s.name, spot);
        else
            s.prices = bg_strdup(spot);
    }
    if (!status) {
        s.trace = bg_strdup(fields.items[0]);
        *spec = s;
    }
    bg_strlist_fini(&fields);
    return status;
}

void plan_zone_spec_fini(struct plan_zone_spec *spec)
{
    bg_free(spec->trace);
    bg_free(spec->prices);
    *spec = (struct plan_zone_spec){0};
}

bg_status plan_zone_prices_parse(const char *name, const void *text, size_t size, struct bg_error *err, double *gap_s,
                                 double **prices, size_t *count)
{
    json_t *root = NULL, *metadata = NULL, *data = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (!status)
        status = bg_json_object(root, name, "metadata", err, &metadata);
    if (!status)
        status = bg_json_number(metadata, name, "gap_seconds", err, gap_s);
    if (!status)
        status = bg_json_array(root, name, "data", err, &data);
    const size_t all = json_array_size(data);
    if (!status && !(*gap_s >= 1e-3 && *gap_s <= 1e9))
        status = bg_fail(err, BG_FORMAT, "%s: metadata.gap_seconds is %g: expected 0.001 to 1e9 seconds", name, *gap_s);
    if (!status && (!all || all > PLAN_TRACE_MAX))
        status = bg_fail(err, BG_FORMAT, "%s: data has %zu entries: expected 1 to %d", name, all, PLAN_TRACE_MAX);
    double *read = status ? NULL : bg_alloc_array(all, sizeof *read);
    for (size_t i = 0; i < all && !status; i++) {
        read[i] = json_number_value(json_array_get(data, i));
        if (!json_is_number(json_array_get(data, i)) || !(read[i] >= 0 && read[i] <= 1e6))
            status = bg_fail(err, BG_FORMAT, "%s: data[%zu]: expected $ an hour, 0 to 1e6", name, i);
    }
    json_decref(root);
    if (status) {
        bg_free(read);
        return status == BG_NOT_FOUND ? (err->status = BG_FORMAT) : status;
    }
    *prices = read;
    *count = all;
    return BG_OK;
}
