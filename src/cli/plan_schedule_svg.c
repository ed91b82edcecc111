// The picture of a schedule without a model: its lists and their times, as plan/cost/picture.h wants them.
#include "cli/plan_schedule_svg.h"

#include "base/mem.h"
#include "plan/cost/picture.h"

#include <string.h>

static void spans_of(const struct plan_pipe *pipe, const struct plan_list *lists, const struct plan_schedule_time *time,
                     struct plan_timeline *t)
{
    size_t ops = 0;
    for (uint32_t w = 0; w < pipe->workers; w++)
        ops += lists[w].count;
    t->spans = bg_alloc_array(ops, sizeof *t->spans);
    for (uint32_t w = 0; w < pipe->workers; w++) {
        t->workers[w].busy_s = time->busy[w];
        t->workers[w].first_s = time->first[w];
        t->workers[w].last_s = time->last[w];
        for (uint32_t i = 0; i < lists[w].count; i++) {
            const double start = time->starts[w][i];
            t->spans[t->span_count++] = (struct plan_span){w, i, start, start + plan_op_time(pipe, &lists[w].ops[i])};
        }
    }
}

bg_status cli_plan_schedule_svg(struct bg_env *env, const char *path, const char *name, const struct plan_pipe *pipe,
                                struct plan_list *lists, const struct plan_schedule_time *time, struct bg_error *err)
{
    struct plan plan = {.workers = pipe->workers,
                        .slices = pipe->slices,
                        .stage_count = pipe->stages,
                        .item_count = pipe->items,
                        .seat_count = pipe->stages,
                        .lists = lists};
    struct plan_timeline t = {.worker_count = pipe->workers, .step_s = time->makespan, .bubble_s = time->bubble};
    plan.seats = bg_alloc_array(pipe->stages, sizeof *plan.seats);
    t.workers = bg_alloc_array(pipe->workers, sizeof *t.workers);
    for (uint32_t s = 0; s < pipe->stages; s++) // which of its worker's stages it is
        plan.seats[s] = (struct plan_seat){pipe->at[(size_t)s * pipe->items], s, 0};
    spans_of(pipe, lists, time, &t);
    const struct plan_picture picture = {.plan = &plan, .timeline = &t, .title = name, .turns = true};
    char *svg = plan_picture_step(&picture);
    bg_status status = env_write_file(env, path, svg, strlen(svg), err);
    bg_free(svg);
    bg_free(plan.seats);
    bg_free(t.workers);
    bg_free(t.spans);
    return status;
}
