// Reading zones: of each its trace and, where it has one, its file of prices.
#include "cli/zones.h"

#include "base/mem.h"
#include "cli/trace.h"

#include <string.h>

// A price for every tick of the trace.
static bg_status read_prices(struct bg_env *env, struct zones *zones, uint32_t z, struct bg_error *err)
{
    const char *path = zones->specs[z].prices;
    const size_t ticks = zones->traces[z].count;
    double gap_s = 0, *prices = NULL;
    size_t count = 0;
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = plan_zone_prices_parse(path, map.data, map.size, err, &gap_s, &prices, &count);
    env->ops->map_close(env, &map);
    if (status)
        return status;
    zones->spot_prices[z] = bg_alloc_array(ticks, sizeof *zones->spot_prices[z]);
    for (size_t t = 0; t < ticks; t++) {
        const double at = (double)t * zones->gap_s / gap_s;
        zones->spot_prices[z][t] = prices[at < (double)count ? (size_t)at : count - 1];
    }
    bg_free(prices);
    return BG_OK;
}

static bg_status read_zone(struct bg_env *env, struct zones *zones, uint32_t z, const double defaults[PLAN_RENTS],
                           double gap_s, struct bg_error *err)
{
    static const char *const kinds[PLAN_RENTS] = {"", "spot", "on-demand"};
    struct plan_zone_spec *spec = &zones->specs[z];
    struct plan_trace *trace = &zones->traces[z];
    bg_status status = trace_load(env, spec->trace, err, trace);
    if (!status && trace->kind == PLAN_TRACE_REQUESTS)
        status = bg_fail(err, BG_INVALID, "%s is a trace of requests: expected one of machines", spec->trace);
    if (!status && trace->kind == PLAN_TRACE_EVENTS)
        status = plan_trace_to_counts(trace, gap_s, err);
    if (!status && z && (trace->gap_s < zones->gap_s || trace->gap_s > zones->gap_s))
        status = bg_fail(err, BG_INVALID, "%s has ticks of %g s, and zone %s of %g s: expected the same", spec->trace,
                         trace->gap_s, zones->specs[0].name, zones->gap_s);
    for (int k = PLAN_RENT_SPOT; k < PLAN_RENTS && !status; k++) {
        if (spec->price[k] < 0)
            spec->price[k] = defaults[k];
        if (spec->price[k] < 0 && !(k == PLAN_RENT_SPOT && spec->prices))
            status = bg_fail(err, BG_INVALID, "no %s price, of its own or for all", kinds[k]);
    }
    if (status)
        return status;
    zones->gap_s = trace->gap_s;
    zones->ticks = !z || trace->count < zones->ticks ? trace->count : zones->ticks;
    return spec->prices ? read_prices(env, zones, z, err) : BG_OK;
}

bg_status zones_read(struct bg_env *env, const char *key, char *const *texts, size_t count,
                     const double defaults[PLAN_RENTS], double gap_s, struct bg_error *err, struct zones *out)
{
    struct zones *zones = bg_alloc(sizeof *zones);
    bg_status status = BG_OK;
    if (count > PLAN_ZONES_MAX)
        status = bg_fail(err, BG_INVALID, "%s: %zu zones: at most %d", key, count, PLAN_ZONES_MAX);
    for (uint32_t z = 0; z < count && !status; z++) {
        status = plan_zone_spec_parse(texts[z], err, &zones->specs[z]);
        zones->count = z + !status;
        for (uint32_t other = 0; other < z && !status; other++)
            if (strcmp(zones->specs[other].name, zones->specs[z].name) == 0)
                status = bg_fail(err, BG_INVALID, "zone %s stands there twice", zones->specs[z].name);
        if (status) {
            bg_fail_prefix(err, "%s", key);
            continue;
        }
        status = read_zone(env, zones, z, defaults, gap_s, err);
        if (status)
            bg_fail_prefix(err, "%s: zone %s", key, zones->specs[z].name);
    }
    if (status)
        zones_fini(zones);
    else
        *out = *zones;
    bg_free(zones);
    return status;
}

void zones_fini(struct zones *zones)
{
    for (uint32_t z = 0; z < zones->count; z++) {
        plan_zone_spec_fini(&zones->specs[z]);
        plan_trace_fini(&zones->traces[z]);
        bg_free(zones->spot_prices[z]);
    }
    *zones = (struct zones){0};
}

struct plan_zone zones_at(const struct zones *zones, uint32_t zone, size_t tick)
{
    const struct plan_zone_spec *spec = &zones->specs[zone];
    const struct plan_trace *trace = &zones->traces[zone];
    const size_t at = tick < trace->count ? tick : trace->count - 1;
    struct plan_zone here = {.name = spec->name, .spot = trace->counts[at]};
    memcpy(here.price, spec->price, sizeof here.price);
    if (zones->spot_prices[zone])
        here.price[PLAN_RENT_SPOT] = zones->spot_prices[zone][at];
    return here;
}

void zones_window_init(const struct zones *zones, size_t first, uint32_t ticks, struct zones_window *window)
{
    const size_t rows = zones->count;
    *window = (struct zones_window){.spot = bg_alloc_array((rows + 1) * ticks, sizeof *window->spot),
                                    .prices = bg_alloc_array(rows * ticks, sizeof *window->prices)};
    for (uint32_t z = 0; z < zones->count; z++) {
        uint32_t *spot = window->spot + (size_t)z * ticks;
        double *prices = window->prices + (size_t)z * ticks;
        struct plan_zone here = zones_at(zones, z, first);
        window->list[z] = (struct plan_zone_trace){.name = here.name, .spot = spot, .spot_price = prices};
        memcpy(window->list[z].price, here.price, sizeof here.price);
        for (uint32_t t = 0; t < ticks; t++) {
            here = zones_at(zones, z, first + t);
            spot[t] = here.spot;
            prices[t] = here.price[PLAN_RENT_SPOT];
        }
    }
    uint32_t *together = window->spot + rows * ticks;
    plan_zones_together(window->list, zones->count, ticks, together);
    window->zones = (struct plan_zones){window->list, zones->count, together};
}

void zones_window_fini(struct zones_window *window)
{
    bg_free(window->spot);
    bg_free(window->prices);
}
