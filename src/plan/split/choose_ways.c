// Whether more machines, or as many with more memory, have a plan that fits: each is tried as a whole choice, with all
// that a plan takes, partial sums of gradients among it.
#include "plan/split/choose_int.h"

#include "base/mem.h"
#include "base/str.h"

#include <string.h>

enum { SMALL = 128, MORE_MAX = 4, PERCENT_MAX = 1 << 20 };

struct eased { // the machines that are there with more memory, all of them or the largest alone, and some more like it
    const struct plan_choose *o;
    uint32_t percent, more;
    bool alone;
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
        if (!e->alone || m == like)
            profile->machines[m].memory_bytes *= e->percent / 100.0;
    return BG_OK;
}

static bool fits_with(struct eased eased)
{
    const struct plan_choose *o = eased.o;
    struct plan_choose easier = *o;
    struct plan_chosen_list found;
    struct bg_error why;
    easier.profile_of = eased_profile;
    easier.arg = &eased;
    easier.passes = NULL;
    easier.effort = CHOOSE_LIGHTLY;
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

// The least memory that has a plan, in parts of a hundred of what is there, nearly; 0: it is not the memory.
static uint32_t least_percent(const struct plan_choose *o, bool alone)
{
    uint32_t low = 100, high = 200;
    while (high <= PERCENT_MAX && !fits_with((struct eased){o, high, 0, alone})) {
        low = high;
        high *= 2;
    }
    while (high <= PERCENT_MAX && high - low > 1 && high - low > high / 64) {
        const uint32_t middle = low + (high - low) / 2;
        *(fits_with((struct eased){o, middle, 0, alone}) ? &high : &low) = middle;
    }
    return high <= PERCENT_MAX ? high : 0;
}

static double gigabytes(double bytes, uint32_t percent)
{
    return 1.0005e-9 * bytes * (percent / 100.0); // rounded up
}

void choose_add_ways(const struct plan_choose *o, struct bg_error *err)
{
    const struct bg_error missing = *err;
    struct bg_error why;
    struct plan_profile profile;
    const uint32_t every = least_percent(o, false);
    uint32_t more = 1;
    if (every == 0 || given(o, &why, &profile))
        return;
    while (more <= MORE_MAX && (o->replicas || !fits_with((struct eased){o, 100, more, false})))
        more++;
    struct bg_str ways = {0};
    const struct plan_machine *like = &profile.machines[largest(&profile)];
    const uint32_t alone = profile.machine_count > 1 ? least_percent(o, true) : 0;
    if (more <= MORE_MAX)
        bg_str_addf(&ways, "%u more machine%s like %s, or ", more, more > 1 ? "s" : "", like->name);
    if (alone)
        bg_str_addf(&ways, "%.4g GB on %s alone, or ", gigabytes(like->memory_bytes, alone), like->name);
    (void)bg_fail(err, missing.status, "%s; %s%.2f times the memory on every machine (%.4g GB on %s) would do",
                  missing.text, bg_str_text(&ways), every / 100.0, gigabytes(like->memory_bytes, every), like->name);
    bg_str_fini(&ways);
    plan_profile_fini(&profile);
}
