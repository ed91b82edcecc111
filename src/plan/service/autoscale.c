// A wish for more or for fewer counts up as long as it lasts, whatever its size; a change of its direction starts anew.
#include "plan/service/autoscale.h"

#include <math.h>
#include <stdbool.h>

static bool long_enough(uint32_t decisions, double delay_s, double interval_s)
{
    return decisions * interval_s >= delay_s;
}

uint32_t plan_autoscale(const struct plan_autoscale *scale, uint64_t requests, struct plan_autoscale_state *state)
{
    const double wish = ceil((double)requests / scale->window_s / scale->rate);
    const uint32_t wanted = (uint32_t)fmax(scale->least, fmin(scale->most, wish));
    state->up = wanted > state->target ? state->up + 1 : 0;
    state->down = wanted < state->target ? state->down + 1 : 0;
    if (!state->target || (state->up && long_enough(state->up, scale->up_s, scale->interval_s)) ||
        (state->down && long_enough(state->down, scale->down_s, scale->interval_s))) {
        state->target = wanted;
        state->up = state->down = 0;
    }
    return state->target;
}
