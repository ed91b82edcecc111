// What a fleet under a budget did in each shape, interval by interval, and what the simulator makes of it in hindsight.
#ifndef CLI_FLEET_SHAPES_H
#define CLI_FLEET_SHAPES_H

#include "base/json.h"
#include "plan/fleet/fleet_ask.h"

struct fleet_shape_seen {
    struct plan_fleet_shape shape;
    double steps, seconds; // of intervals that began in this shape with everybody there
};
struct fleet_shapes {
    struct fleet_shape_seen *seen; // (count)
    uint32_t count;
    // Intervals that began with a change: by their shape, too.
    struct fleet_shape_seen *changed; // (changed_count) one an interval
    uint32_t changed_count;
    struct plan_fleet_shape *decided; // (decided_count) by tick; of a tick that was missed that of the one before
    uint32_t decided_count;
    // The interval that runs.
    bool open, change;
    struct plan_fleet_shape shape;
    uint64_t since_ns, since_step;
};
// An interval ends and another begins: what was asked, what was decided, and the steps done so far.
void fleet_shapes_decided(struct fleet_shapes *shapes, const struct plan_fleet_question *now,
                          struct plan_fleet_shape decided, uint64_t now_ns, uint64_t steps);
// The policy again, over (ticks) counts, with shapes as fast as they were and changes as long: useful steps at the
// beginning of the last tick, as if the job had no end, and how many decisions are the same. NULL: nothing was seen.
json_t *fleet_shapes_hindsight(const struct fleet_shapes *shapes, const struct plan_fleet_question *question,
                               const uint32_t *counts);
void fleet_shapes_fini(struct fleet_shapes *shapes);

#endif
