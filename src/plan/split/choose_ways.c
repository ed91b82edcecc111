// Whether more machines, or as many with more memory, have a plan that fits: each is tried as a whole choice, with all
// that a plan takes, partial sums of gradients among it.
#include "plan/split/choose_int.h"

#include "base/mem.h"
#include "base/str.h"

#include <string.h>

enum { SMALL = 128, EFFORT = 20000, MORE_MAX = 4, PERCENT_MAX = 1 << 20 };

struct eased { // the machines that are there with more memory, and some more like the largest
    const struct plan_choose *o;
    uint32_t percent, more;
};

static bg_status given(const struct plan_choose *o, struct bg_error *err, struct plan_profile *profile)
{
    return o->profile_of(o->arg, o->group ? o->group : 1, err, profile);
}

static uint32_t largest(const struct plan_profile *profile)
{
    uint32_t best = 0;
    for (uint32_t m = 1; m < profile->machine_count; m++)
        best = profile->machines[m].memory_bytes > profile->machines[best].memory_bytes ? m : best;
    return best;
}

static bg_status eased_profile(void *arg, uint32_t group, struct bg_error *err, struct plan_profile *profile)
{
    const struct eased *e = arg;
    bg_status status = e->o->profile_of(e->o->arg, group, err, profile);
    if (status)
        return status;
    const uint32_t like = largest(profile), count = profile->machine_count + e->more;
    profile->machines = bg_realloc_array(profile->machines, count, sizeof *profile->machines);
    for (uint32_t m = profile->machine_count; m < count; m++)
        profile->machines[m] = profile->machines[like];
    profile->machine_count = count;
    for (uint32_t m = 0; m < count; m++)
        profile->machines[m].memory_bytes *= e->percent / 100.0;
    return BG_OK;
}

static bool fits_with(const struct plan_choose *o, uint32_t percent, uint32_t more)
{
    struct eased eased = {o, percent, more};
    struct plan_choose easier = *o;
    struct plan_chosen_list found;
    struct bg_error why;
    easier.profile_of = eased_profile;
    easier.arg = &eased;
    easier.passes = NULL;
    easier.effort = EFFORT;
    easier.brief = true;
    if (plan_choose(&easier, &why, &found))
        return false;
    plan_chosen_list_fini(&found);
    return true;
}

bool choose_is_small(const struct plan_choose *o)
{
    struct plan_profile profile;
    struct bg_error why;
    if (given(o, &why, &profile))
        return false;
    bool small = profile.machine_count > 0 && profile.unit_count * profile.machine_count <= SMALL;
    for (uint32_t m = 0; m < profile.machine_count; m++)
        small &= profile.machines[m].memory_bytes > 0;
    plan_profile_fini(&profile);
    return small;
}

void choose_add_ways(const struct plan_choose *o, struct bg_error *err)
{
    const struct bg_error missing = *err;
    struct bg_error why;
    struct plan_profile profile;
    uint32_t low = 100, high = 200, more = 1;
    while (high <= PERCENT_MAX && !fits_with(o, high, 0)) {
        low = high;
        high *= 2;
    }
    if (high > PERCENT_MAX || given(o, &why, &profile))
        return; // it is not the memory
    while (high - low > 1 && high - low > high / 64) {
        const uint32_t middle = low + (high - low) / 2;
        *(fits_with(o, middle, 0) ? &high : &low) = middle;
    }
    while (more <= MORE_MAX && (o->replicas || !fits_with(o, 100, more)))
        more++;
    struct bg_str ways = {0};
    const struct plan_machine *like = &profile.machines[largest(&profile)];
    if (more <= MORE_MAX)
        bg_str_addf(&ways, "%u more machine%s like %s, or ", more, more > 1 ? "s" : "", like->name);
    (void)bg_fail(err, missing.status, "%s; %s%.2f times the memory on every machine (%.4g GB on %s) would do",
                  missing.text, bg_str_text(&ways), high / 100.0,
                  1.0005e-9 * like->memory_bytes * (high / 100.0), // rounded up
                  like->name);
    bg_str_fini(&ways);
    plan_profile_fini(&profile);
}
