// The programme from the last interval back: later[s] is what shape s, standing at the end of an interval, still earns.
#include "plan/fleet/parcae.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

static uint32_t losses(uint32_t before, uint32_t after)
{
    return before > after ? before - after : 0;
}

struct plan_fleet_shape plan_parcae_choose(struct plan_liveput *liveput, const struct plan_fleet_left *left,
                                           uint32_t nodes, const uint32_t *forecast, uint32_t ahead, double *expected)
{
    const struct plan_fleet *fleet = plan_liveput_fleet(liveput);
    const uint32_t shapes = plan_liveput_shapes(liveput), most = fleet->options.nodes_max;
    const double interval_s = fleet->options.interval_s;
    double *rate = bg_alloc_array((size_t)shapes * 3, sizeof *rate), *later = rate + shapes, *earlier = later + shapes;
    for (uint32_t s = 0; s < shapes; s++)
        rate[s] = plan_fleet_rate(fleet, plan_liveput_shape(liveput, s));
    for (uint32_t k = ahead; k-- > 0;) {
        const uint32_t now = k ? forecast[k - 1] : nodes, before = now < most ? now : most;
        const uint32_t then = forecast[k] < most ? forecast[k] : most;
        const uint32_t from_count = plan_liveput_fitting(liveput, before),
                       to_count = plan_liveput_fitting(liveput, then);
        for (uint32_t from = 0; from < from_count; from++) {
            double best = -INFINITY;
            for (uint32_t to = 0; to < to_count; to++) {
                const double cost_s = plan_liveput_cost(liveput, before, losses(before, then), from, to);
                best = fmax(best, rate[to] * (interval_s - cost_s) + later[to]);
            }
            earlier[from] = best;
        }
        memcpy(later, earlier, shapes * sizeof *later);
    }
    double best = -INFINITY;
    uint32_t choice = 0;
    for (uint32_t to = 0; to < plan_liveput_fitting(liveput, nodes); to++) {
        const struct plan_fleet_move move = plan_fleet_move(fleet, left, plan_liveput_shape(liveput, to));
        const double here = rate[to] * (interval_s - move.seconds) + later[to];
        if (here > best) {
            best = here;
            choice = to;
        }
    }
    bg_free(rate);
    if (expected)
        *expected = best;
    return plan_liveput_shape(liveput, choice);
}
