// What a planner's options have to be, and what is missing where nothing fits.
#include "base/mem.h"
#include "base/str.h"
#include "plan/split/sync_int.h"

#include <math.h>

#define GB 1e-9

static const char *kind_name(enum plan_unit_kind kind)
{
    static const char *const names[] = {"embed", "block", "head", "other"};
    return names[kind];
}

static bg_status check_cut(const struct plan_profile *profile, const struct plan_sync_options *o, struct bg_error *err)
{
    for (uint32_t s = 0, unit = 0; o->cut && s < o->stages_max; unit = o->cut[s++].unit_end)
        if (o->cut[s].unit_first != unit || o->cut[s].unit_end <= unit ||
            (s + 1 == o->stages_max && o->cut[s].unit_end != profile->unit_count))
            return bg_fail(err, BG_INVALID, "stage %u of the cut has units %u to %u: expected %u units in order", s,
                           o->cut[s].unit_first, o->cut[s].unit_end, profile->unit_count);
    return BG_OK;
}

static bg_status check_replicas(const struct plan_profile *profile, const struct plan_sync_options *o, uint32_t items,
                                struct bg_error *err)
{
    uint64_t seats = 0;
    for (uint32_t s = 0; o->replicas && s < o->stages_max; s++) {
        seats += o->replicas[s];
        if (o->replicas[s] == 0)
            return bg_fail(err, BG_INVALID, "stage %u has no replica: expected at least one", s);
        if (o->replicas[s] > items)
            return bg_fail(
                err, BG_INVALID,
                "stage %u has %u replicas, but a step has only %u items of %u micro-batches: some would have "
                "nothing to do; make it %u micro-batches (train.micro_batches), or smaller items (run.group)",
                s, o->replicas[s], items, o->group, o->replicas[s] * o->group);
    }
    if (seats > profile->machine_count)
        return bg_fail(err, BG_INVALID, "the shape seats %llu machines, there are %u: %llu more are needed",
                       (unsigned long long)seats, profile->machine_count,
                       (unsigned long long)seats - profile->machine_count);
    if (o->replicas && o->use_all && seats < profile->machine_count)
        return bg_fail(err, BG_INVALID, "the shape seats %llu machines, there are %u, and none may stay unused",
                       (unsigned long long)seats, profile->machine_count);
    return BG_OK;
}

bg_status sync_check(const struct plan_profile *profile, const struct plan_sync_options *o, struct bg_error *err)
{
    const uint32_t units = profile->unit_count, machines = profile->machine_count;
    if (units == 0 || machines == 0)
        return bg_fail(err, BG_INVALID, "a profile with %u units and %u machines: expected one of each at least", units,
                       machines);
    if (o->micro_batches == 0 || o->group == 0 || (o->group & (o->group - 1)))
        return bg_fail(err, BG_INVALID,
                       "a step of %u micro-batches in groups of %u: expected at least one, and a power of two",
                       o->micro_batches, o->group);
    const uint32_t items = (o->micro_batches - 1) / o->group + 1, most = units < machines ? units : machines;
    if (o->stages_min > most || (o->stages_max && o->stages_max < o->stages_min))
        return bg_fail(err, BG_INVALID, "%u stages or more, %u at most: %u units on %u machines make 1 to %u stages",
                       o->stages_min, o->stages_max, units, machines, most);
    if ((o->replicas || o->cut) && (o->stages_max == 0 || o->stages_max > most))
        return bg_fail(err, BG_INVALID, "a shape of %u stages: %u units on %u machines make 1 to %u stages",
                       o->stages_max, units, machines, most);
    if (o->use_all && (double)machines > (double)most * items)
        return bg_fail(err, BG_INVALID, "%u machines, but %u stages of %u items have work for %.0f: leave some out",
                       machines, most, items, (double)most * items);
    if (o->recompute == PLAN_SYNC_ON && o->offload == PLAN_SYNC_ON)
        return bg_fail(err, BG_INVALID, "stashes that are computed again and wait on disk: expected one of both");
    for (uint32_t i = 0; i < machines; i++)
        if (!(profile->machines[i].speed > 0))
            return bg_fail(err, BG_INVALID, "machine %s has speed %g: expected more than 0", profile->machines[i].name,
                           profile->machines[i].speed);
    bg_status status = check_cut(profile, o, err);
    return status ? status : check_replicas(profile, o, items, err);
}

// Least bytes of a unit that is a stage by itself.
static double alone_bytes(const struct sync_model *m, uint32_t unit, uint8_t mode)
{
    const struct sync_span span = {unit, unit + 1, SYNC_NO_HOST, mode};
    const struct sync_room room = sync_room(m, &span, 1, 0);
    return sync_bytes(&room, 1);
}

static uint8_t lightest(const struct plan_sync_options *o)
{
    uint8_t modes[3];
    return modes[sync_modes(o, modes) - 1]; // any but 0 keeps one stash
}

static const struct plan_machine *largest(const struct plan_profile *profile)
{
    const struct plan_machine *best = &profile->machines[0];
    for (uint32_t i = 0; i < profile->machine_count; i++) {
        const double memory = profile->machines[i].memory_bytes;
        if (memory <= 0)
            return &profile->machines[i];
        best = memory > best->memory_bytes ? &profile->machines[i] : best;
    }
    return best;
}

// The unit that needs most has no room by itself: no other change than those that are named here would do.
static bg_status explain_unit(const struct sync_model *m, struct bg_error *err)
{
    const struct plan_machine *machine = largest(m->profile);
    const uint8_t mode = lightest(m->options);
    uint32_t worst = 0;
    double most = 0;
    for (uint32_t u = 0; u < m->units; u++) {
        const double bytes = fmin(alone_bytes(m, u, mode), alone_bytes(m, u, 0));
        worst = bytes > most ? u : worst;
        most = fmax(bytes, most);
    }
    if (machine->memory_bytes <= 0 || most <= machine->memory_bytes)
        return BG_OK;
    const bool again = mode == 0 && alone_bytes(m, worst, PLAN_SYNC_RECOMPUTE) <= machine->memory_bytes;
    const bool smaller = m->options->group > 1;
    return bg_fail(err, BG_INVALID,
                   "unit %u (%s) needs %.4g GB, the largest machine (%s) has %.4g GB: give a machine %.4g GB at "
                   "least%s%s",
                   worst, kind_name(m->profile->units[worst].kind), GB * most, machine->name,
                   GB * machine->memory_bytes, 1.0005 * GB * most,
                   again ? ", or compute forwards again (run.recompute=true)" : "",
                   smaller ? ", or take smaller items (run.group)" : "");
}

static bool fits_with(const struct plan_profile *profile, const struct plan_sync_options *o, double factor,
                      uint32_t more)
{
    struct plan_profile changed = *profile;
    const struct plan_machine *like = largest(profile);
    changed.machine_count = profile->machine_count + more;
    changed.machines = bg_alloc_array(changed.machine_count, sizeof *changed.machines);
    for (uint32_t i = 0; i < changed.machine_count; i++) {
        changed.machines[i] = i < profile->machine_count ? profile->machines[i] : *like;
        changed.machines[i].memory_bytes *= factor;
    }
    const bool fits = sync_possible(&changed, o);
    bg_free(changed.machines);
    return fits;
}

// What would do: by what the planner counts, which has no partial sums of gradients.
static void add_ways(const struct plan_profile *profile, const struct plan_sync_options *options, struct bg_str *text)
{
    struct plan_sync_options eased = *options;
    const struct plan_machine *like = largest(profile);
    bool some = false;
    eased.recompute = PLAN_SYNC_AUTO;
    bg_str_add(text, ". Any of these would do:");
    if (options->recompute == PLAN_SYNC_OFF && sync_possible(profile, &eased)) {
        bg_str_add(text, " compute forwards again (run.recompute=true)");
        some = true;
    }
    for (uint32_t more = 1; more <= 4 && !options->replicas; more++)
        if (fits_with(profile, options, 1, more)) {
            bg_str_addf(text, "%s %u more machine%s like %s", some ? "," : "", more, more > 1 ? "s" : "", like->name);
            some = true;
            break;
        }
    double low = 1, high = 2;
    while (high < 4096 && !fits_with(profile, options, high, 0))
        high *= 2;
    for (int i = 0; i < 8 && high < 4096; i++) {
        const double middle = (low + high) / 2;
        *(fits_with(profile, options, middle, 0) ? &high : &low) = middle;
    }
    high = ceil(100 * high) / 100; // as it is told
    if (high < 4096)
        bg_str_addf(text, "%s %.2f times the memory on every machine (%.4g GB on %s)", some ? "," : "", high,
                    GB * high * like->memory_bytes, like->name);
    else if (!some)
        bg_str_add(text, " another shape, or another cut");
}

bg_status sync_explain(const struct plan_profile *profile, const struct plan_sync_options *options,
                       struct bg_error *err)
{
    struct sync_model m;
    sync_model_init(&m, profile, options);
    bg_status status = explain_unit(&m, err);
    const double needed = 4 * sync_parameters(&m, 0, m.units);
    sync_model_fini(&m);
    if (status)
        return status;
    struct bg_str ways = {0};
    double have = 0;
    if (!options->brief)
        add_ways(profile, options, &ways);
    for (uint32_t i = 0; i < profile->machine_count; i++)
        have += profile->machines[i].memory_bytes;
    status = bg_fail(err, BG_INVALID,
                     "no plan fits: weights, gradients and moments take %.4g GB, beside what each item in flight keeps "
                     "and what each process needs, and %u machines have %.4g GB%s",
                     GB * needed, profile->machine_count, GB * have, bg_str_text(&ways));
    bg_str_fini(&ways);
    return status;
}
