// Rates of shapes from the intervals that began in them; what is missing in the others is what a change takes.
#include "cli/fleet_shapes.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

static bool same(struct plan_fleet_shape a, struct plan_fleet_shape b)
{
    return a.replicas == b.replicas && a.stages == b.stages && a.longer == b.longer;
}

static bool is_whole(const struct plan_fleet_left *left)
{
    uint64_t live = 0;
    for (uint32_t s = 0; s < PLAN_FLEET_NODES_MAX; s++)
        live += left->live[0][s] + (uint64_t)left->live[1][s];
    return live == plan_fleet_nodes(left->shape);
}

static void add(struct fleet_shape_seen **list, uint32_t *count, const struct fleet_shape_seen *seen)
{
    if (!(*count & (*count + 1))) // room grows at 0, 1, 3, 7, ...
        *list = bg_realloc_array(*list, 2 * (size_t)*count + 1, sizeof **list);
    (*list)[(*count)++] = *seen;
}

static void close_interval(struct fleet_shapes *s, uint64_t now_ns, uint64_t steps)
{
    const struct fleet_shape_seen seen = {s->shape, (double)(steps - s->since_step),
                                          1e-9 * (double)(now_ns - s->since_ns)};
    if (!s->shape.replicas)
        return;
    if (s->change) {
        add(&s->changed, &s->changed_count, &seen);
        return;
    }
    for (uint32_t i = 0; i < s->count; i++)
        if (same(s->seen[i].shape, seen.shape)) {
            s->seen[i].steps += seen.steps;
            s->seen[i].seconds += seen.seconds;
            return;
        }
    add(&s->seen, &s->count, &seen);
}

void fleet_shapes_decided(struct fleet_shapes *s, const struct plan_fleet_question *now,
                          struct plan_fleet_shape decided, uint64_t now_ns, uint64_t steps)
{
    if (s->open)
        close_interval(s, now_ns, steps);
    s->decided = bg_realloc_array(s->decided, now->count, sizeof *s->decided);
    for (; s->decided_count < now->count; s->decided_count++)
        s->decided[s->decided_count] = s->shape;
    s->decided[now->count - 1] = decided;
    s->change = !same(now->left.shape, decided) || !is_whole(&now->left);
    s->open = true;
    s->shape = decided;
    s->since_ns = now_ns;
    s->since_step = steps;
}

static double rate_of(const struct fleet_shapes *s, struct plan_fleet_shape shape)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (same(s->seen[i].shape, shape) && s->seen[i].seconds > 0)
            return s->seen[i].steps / s->seen[i].seconds;
    return 0;
}

// The mean over intervals of a shape whose rate is known.
static double change_of(const struct fleet_shapes *s)
{
    double sum = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < s->changed_count; i++) {
        const double rate = rate_of(s, s->changed[i].shape);
        if (rate <= 0)
            continue;
        sum += fmax(0, s->changed[i].seconds - s->changed[i].steps / rate);
        count++;
    }
    return count ? sum / count : 0;
}

json_t *fleet_shapes_hindsight(const struct fleet_shapes *s, const struct plan_fleet_question *q,
                               const uint32_t *counts)
{
    struct bg_error ignored; // it was built before, when it was asked
    struct plan_fleet *fleet = NULL;
    if (!s->count || s->decided_count < 2 || plan_fleet_of(q, &ignored, &fleet))
        return NULL;
    const double samples = q->options.samples * q->options.micro_batches; // of a step
    struct plan_fleet_seen *seen = bg_alloc_array(s->count, sizeof *seen);
    for (uint32_t i = 0; i < s->count; i++)
        seen[i] = (struct plan_fleet_seen){s->seen[i].shape, samples * rate_of(s, s->seen[i].shape)};
    const struct plan_fleet_truth truth = {seen, s->count, change_of(s)};
    const struct plan_fleet_run_options options = {.seed = q->seed, .truth = &truth};
    struct plan_fleet_result result;
    plan_fleet_run_counts(fleet, q->policy, counts, s->decided_count, &options, &result);
    double steps = 0;
    uint32_t alike = 0;
    for (uint32_t t = 0; t < s->decided_count; t++) {
        alike += same(result.intervals[t].shape, s->decided[t]);
        steps += t + 1 < s->decided_count ? result.intervals[t].samples / samples : 0;
    }
    json_t *o = json_pack("{s:I, s:f, s:I, s:I, s:I, s:f}", "tick", (json_int_t)s->decided_count - 1, "steps", steps,
                          "live_steps", (json_int_t)s->since_step, "decisions", (json_int_t)s->decided_count,
                          "same_decisions", (json_int_t)alike, "change_s", truth.change_s);
    plan_fleet_result_fini(&result);
    plan_fleet_destroy(fleet);
    bg_free(seen);
    return o;
}

void fleet_shapes_fini(struct fleet_shapes *s)
{
    bg_free(s->seen);
    bg_free(s->changed);
    bg_free(s->decided);
}
