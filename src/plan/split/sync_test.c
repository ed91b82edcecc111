// The synchronous planner against exhaustive search over all cuts, machines, shares and modes of small cases, priced a
// second time from the formula of sync.h as slowly as one likes; against best-first search over rewrites; its errors;
// and large cases in time.
#include "plan/split/sync.h"

#include "base/mem.h"
#include "base/philox.h"
#include "plan/cost/timeline.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define UNITS    8
#define MACHINES 6

// ---- A second opinion ----
struct judge {
    const struct plan_profile *p;
    const struct plan_sync_options *o;
    uint32_t items;
    // One plan.
    uint32_t stages, end[UNITS], place[MACHINES], share[MACHINES]; // place: stage + 1, 0: unused
    uint8_t mode[UNITS];
    double best;
    uint64_t priced;
};

static double speed_of(const struct judge *j, uint32_t machine)
{
    const struct plan_machine *at = &j->p->machines[machine];
    double threads = 0;
    for (uint32_t i = 0; i < j->p->machine_count; i++)
        if (j->place[i] && j->p->machines[i].host == at->host)
            threads += j->p->machines[i].threads;
    if (at->cores <= 0 || threads <= at->cores)
        return at->speed;
    const double sharing = j->p->sharing > 0 ? j->p->sharing : 1;
    const double several = threads - at->cores < at->cores ? threads - at->cores : at->cores; // cores with two or more
    return at->speed * (at->cores - several + several * sharing) / threads;
}

// Are all machines of these stages on one host, and more than one?
static const struct plan_link *link_of(const struct judge *j, uint32_t a, uint32_t b)
{
    uint32_t host = UINT32_MAX, count = 0;
    bool one = true;
    for (uint32_t i = 0; i < j->p->machine_count; i++)
        if (j->place[i] == a + 1 || j->place[i] == b + 1) {
            one &= count == 0 || j->p->machines[i].host == host;
            host = j->p->machines[i].host;
            count++;
        }
    return one ? &j->p->inner : &j->p->outer;
}

static double carry(const struct plan_link *link, double bytes)
{
    return link->bytes_s > 0 ? bytes / link->bytes_s : 0;
}

static bool one_host(const struct plan_profile *p)
{
    for (uint32_t i = 1; i < p->machine_count; i++)
        if (p->machines[i].host != p->machines[0].host)
            return false;
    return true;
}

static double memory_of(const struct judge *j, uint32_t s, uint32_t machine)
{
    const uint32_t first = s ? j->end[s - 1] : 0;
    const double full = j->o->group < j->o->micro_batches ? j->o->group : j->o->micro_batches;
    double parameters = 0, stash = 0;
    uint32_t replicas = 0, onward = 0;
    for (uint32_t u = first; u < j->end[s]; u++) {
        parameters += j->p->units[u].parameter_bytes;
        stash += j->p->units[u].stash_bytes;
    }
    if (j->stages == 1 && j->p->unit_count > 1)
        parameters -= j->p->tie_bytes;
    for (uint32_t i = 0; i < j->p->machine_count; i++) {
        replicas += j->place[i] == s + 1;
        onward += j->place[i] > s;
    }
    uint32_t flights = j->share[machine], most = (onward - 1) / replicas + 1;
    if (!j->o->gpipe && flights > most)
        flights = most;
    const double input = s ? j->p->units[first - 1].cut_bytes : 0;
    const double output = s + 1 < j->stages ? j->p->units[j->end[s] - 1].cut_bytes : 0;
    const bool again = j->mode[s] & (PLAN_SYNC_RECOMPUTE | PLAN_SYNC_OFFLOAD); // one stash in memory
    return parameters * 4 + full * (output + flights * (input + (again ? 0 : stash)) + (again ? stash : 0));
}

static double price(const struct judge *j)
{
    const struct plan_profile *p = j->p;
    const double g = (double)j->o->micro_batches / j->items;
    double fill = 0, wait = 0, shown = 0, hidden = 0;
    for (uint32_t s = 0; s < j->stages; s++) {
        double forward = 0, backward = 0, parameters = 0, gradient = 0, slowest = INFINITY, turn = 0, disk = 0;
        const uint32_t first = s ? j->end[s - 1] : 0;
        const bool last = s + 1 == j->stages, tied = last && s > 0 && p->tie_bytes > 0;
        const bool one_table = j->stages == 1 && p->unit_count > 1; // in the sizes of two units
        uint32_t replicas = 0;
        for (uint32_t u = first; u < j->end[s]; u++) {
            forward += p->units[u].forward_s;
            backward += p->units[u].input_s + p->units[u].weight_s;
            parameters += p->units[u].parameter_bytes;
            disk += j->mode[s] & PLAN_SYNC_OFFLOAD ? p->units[u].stash_bytes * p->disk_byte_s : 0;
            gradient += p->units[u].gradient_bytes > 0 ? p->units[u].gradient_bytes : p->units[u].parameter_bytes;
        }
        if (j->mode[s] & PLAN_SYNC_RECOMPUTE)
            backward += forward;
        for (uint32_t i = 0; i < p->machine_count; i++) {
            if (j->place[i] != s + 1)
                continue;
            const double v = speed_of(j, i);
            if (p->machines[i].memory_bytes > 0 && memory_of(j, s, i) > p->machines[i].memory_bytes)
                return INFINITY;
            replicas++;
            slowest = v < slowest ? v : slowest;
            turn = j->share[i] / v > turn ? j->share[i] / v : turn;
        }
        const double messages = (s > 0) + !last;
        double bytes = 0; // that pass a boundary one way
        if (s > 0)
            bytes += g * p->units[first - 1].cut_bytes;
        if (!last)
            bytes += g * p->units[j->end[s] - 1].cut_bytes;
        const double handling = messages * p->message_s + bytes * p->message_byte_s;
        const double work = g * (forward + backward + disk + disk) + 2 * p->op_s + 2 * handling;
        const double back = (g * (backward + disk) + p->op_s + handling) / slowest;
        const struct plan_link *down = last ? NULL : link_of(j, s, s + 1), *within = link_of(j, s, s);
        const double stream = last ? 0 : carry(down, g * p->units[j->end[s] - 1].cut_bytes);
        const double wire = last ? 0 : 2 * down->latency_s + 2 * stream;
        double tail = p->step_byte_s * (parameters - (one_table ? p->tie_bytes : 0)) / slowest;
        if (replicas > 1) {
            const double part = gradient * (replicas - 1) / replicas;
            tail += 2 * carry(within, part) + 2 * (replicas - 1) * within->latency_s +
                    part * (p->reduce_byte_s + 4 * p->message_byte_s) / slowest;
        }
        if (tied) {
            const struct plan_link *far = one_host(p) ? &p->inner : &p->outer;
            tail += far->latency_s + carry(far, p->tie_bytes);
        }
        fill += work / slowest + wire;
        wait = fmax(wait, fmax(work * turn - work / slowest, (ceil((double)j->items / replicas) - 1) * stream));
        shown = fmax(shown, tail - hidden);
        hidden += back + wire / 2;
    }
    return fill + wait + shown + p->commit_s;
}

static void all_shares(struct judge *j, uint32_t stage, uint32_t machine, uint32_t left)
{
    if (stage == j->stages) {
        j->priced++;
        j->best = fmin(j->best, price(j));
        return;
    }
    uint32_t after = 0;
    while (machine < j->p->machine_count && j->place[machine] != stage + 1)
        machine++;
    for (uint32_t i = machine + 1; i < j->p->machine_count; i++)
        after += j->place[i] == stage + 1;
    for (uint32_t share = after ? 1 : left; share + after <= left && share > 0; share++) {
        j->share[machine] = share;
        if (after)
            all_shares(j, stage, machine + 1, left - share);
        else
            all_shares(j, stage + 1, 0, j->items);
    }
}

static void all_modes(struct judge *j, uint32_t stage)
{
    if (stage == j->stages) {
        all_shares(j, 0, 0, j->items);
        return;
    }
    for (uint8_t mode = 0; mode < 3; mode++) { // one or the other
        const enum plan_sync_choose again = j->o->recompute, apart = j->o->offload;
        if ((mode & PLAN_SYNC_RECOMPUTE ? again == PLAN_SYNC_OFF : again == PLAN_SYNC_ON) ||
            (mode & PLAN_SYNC_OFFLOAD ? apart == PLAN_SYNC_OFF : apart == PLAN_SYNC_ON))
            continue;
        j->mode[stage] = mode;
        all_modes(j, stage + 1);
    }
}

static void all_places(struct judge *j, uint32_t machine)
{
    if (machine < j->p->machine_count) {
        for (j->place[machine] = j->o->use_all; j->place[machine] <= j->stages; j->place[machine]++)
            all_places(j, machine + 1);
        return;
    }
    for (uint32_t s = 0; s < j->stages; s++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < j->p->machine_count; i++)
            count += j->place[i] == s + 1;
        if (count == 0 || count > j->items || (j->o->replicas && count != j->o->replicas[s]))
            return;
    }
    all_modes(j, 0);
}

static void all_cuts(struct judge *j, uint32_t stage)
{
    const uint32_t first = stage ? j->end[stage - 1] : 0;
    if (stage + 1 == j->stages) {
        j->end[stage] = j->p->unit_count;
        for (uint32_t s = 0; j->o->cut && s < j->stages; s++)
            if (j->o->cut[s].unit_end != j->end[s])
                return;
        all_places(j, 0);
        return;
    }
    for (uint32_t end = first + 1; end + (j->stages - stage - 1) <= j->p->unit_count; end++) {
        j->end[stage] = end;
        all_cuts(j, stage + 1);
    }
}

static double exhaust(const struct plan_profile *p, const struct plan_sync_options *o, uint64_t *priced)
{
    struct judge j = {.p = p, .o = o, .best = INFINITY};
    const bool shape = o->cut || o->replicas;
    j.items = (o->micro_batches + o->group - 1) / o->group;
    for (j.stages = 1; j.stages <= p->unit_count && j.stages <= p->machine_count; j.stages++)
        if (j.stages >= (shape ? o->stages_max : o->stages_min) && (!o->stages_max || j.stages <= o->stages_max))
            all_cuts(&j, 0);
    *priced += j.priced;
    return j.best;
}

// A choice's own fields, as the judge prices them.
static double price_choice(const struct plan_profile *p, const struct plan_sync_options *o,
                           const struct plan_sync_choice *c)
{
    struct judge j = {.p = p, .o = o, .items = (o->micro_batches + o->group - 1) / o->group, .stages = c->stage_count};
    for (uint32_t s = 0; s < c->stage_count; s++) {
        j.end[s] = c->stages[s].unit_end;
        j.mode[s] = c->stages[s].mode;
        for (uint32_t i = c->stages[s].seat_first; i < c->stages[s].seat_end; i++) {
            assert_int_equal(j.place[c->seats[i].machine], 0);
            j.place[c->seats[i].machine] = s + 1;
            j.share[c->seats[i].machine] = c->seats[i].share;
        }
    }
    return price(&j);
}

// ---- Random cases ----
struct dice {
    struct bg_philox_key key;
    uint32_t count;
};

static double roll(struct dice *d)
{
    return bg_uniform(bg_philox((struct bg_philox_counter){{d->count++, 0, 0, 0}}, d->key).c[0]);
}

static uint32_t pick(struct dice *d, uint32_t count)
{
    return (uint32_t)(roll(d) * count);
}

struct example {
    struct plan_profile p;
    struct plan_sync_options o;
    struct plan_unit units[UNITS];
    struct plan_machine machines[MACHINES];
    struct plan_stage cut[UNITS];
    uint32_t replicas[UNITS];
};

static void make_machines(struct dice *d, struct example *c)
{
    static const double speeds[] = {1, 1, 2, 0.5, 1.3};
    const bool shared = pick(d, 4) == 0, tight = pick(d, 2) == 0, alike = pick(d, 3) == 0;
    double total = 0;
    for (uint32_t u = 0; u < c->p.unit_count; u++)
        total += 4 * c->units[u].parameter_bytes + c->units[u].stash_bytes;
    for (uint32_t i = 0; i < c->p.machine_count; i++) {
        struct plan_machine *machine = &c->machines[i];
        *machine = (struct plan_machine){.speed = alike ? 1 : speeds[pick(d, 5)], .host = pick(d, 2), .threads = 1};
        (void)snprintf(machine->name, sizeof machine->name, "m%u", i);
        if (shared) {
            machine->cores = 1 + machine->host;
            machine->threads = alike ? 1 : 1 + pick(d, 2);
        }
        if (tight)
            machine->memory_bytes = total * (alike ? 0.6 : 0.25 + roll(d));
    }
}

static void make_example(struct dice *d, struct example *c)
{
    *c = (struct example){0};
    c->p.machine_count = 1 + pick(d, 8);
    c->p.machine_count = c->p.machine_count > 5 ? 4 : c->p.machine_count; // mostly 4
    c->p.unit_count = 1 + pick(d, 8);
    c->p.unit_count = c->p.unit_count > 6 ? 6 : c->p.unit_count;
    c->p.units = c->units;
    c->p.machines = c->machines;
    for (uint32_t u = 0; u < c->p.unit_count; u++)
        c->units[u] = (struct plan_unit){.forward_s = roll(d),
                                         .input_s = roll(d),
                                         .weight_s = roll(d),
                                         .parameter_bytes = 10 * roll(d),
                                         .gradient_bytes = pick(d, 4) ? 0 : roll(d),
                                         .stash_bytes = 10 * roll(d),
                                         .cut_bytes = 2 * roll(d)};
    c->p.inner = (struct plan_link){0.01 * roll(d), pick(d, 3) ? 10 + 100 * roll(d) : 0};
    c->p.outer = (struct plan_link){0.1 * roll(d), 1 + 20 * roll(d)};
    c->p.op_s = 0.02 * roll(d);
    c->p.message_s = 0.05 * roll(d);
    c->p.message_byte_s = 0.01 * roll(d);
    c->p.commit_s = 0.1;
    c->p.sharing = pick(d, 2) ? 0 : 0.5 + roll(d) / 2;
    c->p.step_byte_s = 0.01 * roll(d);
    c->p.reduce_byte_s = 0.01 * roll(d);
    c->p.tie_bytes = pick(d, 3) ? 0 : 5 * roll(d);
    for (uint32_t u = 0; c->p.unit_count > 1 && u < c->p.unit_count; u += c->p.unit_count - 1)
        c->units[u].parameter_bytes += c->p.tie_bytes;
    make_machines(d, c);
    c->o = (struct plan_sync_options){.micro_batches = 1 + pick(d, 7),
                                      .group = 1u << pick(d, 2),
                                      .gpipe = pick(d, 4) == 0,
                                      .use_all = pick(d, 4) == 0};
    if (pick(d, 3) == 0)
        c->o.recompute = 1 + pick(d, 2);
    c->p.disk_byte_s = 0.05 * roll(d);
    if (pick(d, 3) == 0)
        c->o.offload = c->o.recompute == PLAN_SYNC_ON ? PLAN_SYNC_AUTO : 1 + pick(d, 2);
    const uint32_t most = c->p.unit_count < c->p.machine_count ? c->p.unit_count : c->p.machine_count;
    if (pick(d, 6) == 0) {
        c->o.stages_min = 1 + pick(d, most);
        c->o.stages_max = c->o.stages_min + pick(d, 2);
    } else if (pick(d, 8) == 0) {
        c->o.stages_max = 1 + pick(d, most);
        for (uint32_t s = 0, unit = 0; s < c->o.stages_max; unit = c->cut[s++].unit_end)
            c->cut[s] =
                (struct plan_stage){unit, s + 1 == c->o.stages_max
                                              ? c->p.unit_count
                                              : unit + 1 + pick(d, c->p.unit_count - unit - (c->o.stages_max - s) + 1)};
        c->o.cut = c->cut;
    } else if (pick(d, 8) == 0) {
        c->o.stages_max = 1 + pick(d, most);
        c->o.replicas = c->replicas;
        for (uint32_t s = 0; s < c->o.stages_max; s++)
            c->replicas[s] = 1 + (c->p.machine_count > c->o.stages_max ? pick(d, 2) : 0);
    }
}

static void equals_exhaustive_search(void **state)
{
    (void)state;
    struct dice d = {bg_philox_key(1, BG_STREAM_DATA), 0};
    uint64_t priced = 0;
    uint32_t impossible = 0, coarse_worse = 0, better = 0;
    for (uint32_t n = 0; n < 500; n++) {
        struct example c;
        struct plan_sync sync = {0}, coarse = {0};
        struct bg_error err;
        make_example(&d, &c);
        const double best = exhaust(&c.p, &c.o, &priced);
        const bg_status status = plan_sync_solve(&c.p, &c.o, &err, &sync);
        if (!isfinite(best)) {
            impossible++;
            assert_int_equal(status, BG_INVALID);
            continue;
        }
        if (status)
            print_message("case %u: %s\n", n, err.text);
        assert_int_equal(status, BG_OK);
        assert_true(sync.exact);
        if (fabs(sync.choices[0].step_s - best) > 1e-9 * best)
            print_message("case %u: %.17g, exhaustive %.17g\n", n, sync.choices[0].step_s, best);
        assert_true(fabs(sync.choices[0].step_s - best) <= 1e-9 * best);
        for (uint32_t i = 0; i < sync.count; i++) {
            const double again = price_choice(&c.p, &c.o, &sync.choices[i]);
            assert_true(fabs(sync.choices[i].step_s - again) <= 1e-9 * again);
            assert_true(i == 0 || sync.choices[i].step_s >= sync.choices[i - 1].step_s);
        }
        // Rewrites find nothing better, and mend a plan that is not the best.
        struct plan_sync_choice probed = plan_sync_choice_copy(&sync.choices[0]);
        assert_false(plan_sync_probe(&c.p, &c.o, 400, 1.5, &probed));
        plan_sync_choice_fini(&probed);
        if (sync.count > 1) {
            probed = plan_sync_choice_copy(&sync.choices[sync.count - 1]);
            better += plan_sync_probe(&c.p, &c.o, 400, 1.5, &probed);
            assert_true(probed.step_s >= best * (1 - 1e-9));
            plan_sync_choice_fini(&probed);
        }
        // What is not exact says so.
        c.o.effort = 1;
        if (!plan_sync_solve(&c.p, &c.o, &err, &coarse)) {
            assert_true(coarse.choices[0].step_s >= best * (1 - 1e-9));
            coarse_worse += coarse.choices[0].step_s > best * (1 + 1e-9);
            plan_sync_fini(&coarse);
        }
        plan_sync_fini(&sync);
    }
    print_message("%llu plans priced, %u cases without any, the beam worse in %u, probes mended %u\n",
                  (unsigned long long)priced, impossible, coarse_worse, better);
    assert_true(impossible > 20 && impossible < 150 && better > 100);
}

// ---- By hand ----
static struct plan_profile even(struct plan_unit *units, uint32_t unit_count, struct plan_machine *machines,
                                uint32_t machine_count)
{
    for (uint32_t u = 0; u < unit_count; u++)
        units[u] = (struct plan_unit){.kind = u ? PLAN_UNIT_BLOCK : PLAN_UNIT_EMBED,
                                      .forward_s = 1,
                                      .input_s = 1,
                                      .weight_s = 1,
                                      .parameter_bytes = 1e9,
                                      .stash_bytes = 1e8,
                                      .cut_bytes = 1e6};
    for (uint32_t i = 0; i < machine_count; i++) {
        machines[i] = (struct plan_machine){.speed = 1, .host = i, .threads = 1};
        (void)snprintf(machines[i].name, sizeof machines[i].name, "m%u", i);
    }
    return (struct plan_profile){.units = units,
                                 .unit_count = unit_count,
                                 .machines = machines,
                                 .machine_count = machine_count,
                                 .inner = {1e-6, 1e10},
                                 .outer = {1e-4, 1e9}};
}

static void splits_by_speed(void **state)
{
    (void)state;
    uint32_t shares[3];
    const double speeds[] = {2, 1, 1};
    assert_true(plan_sync_split(speeds, NULL, 3, 8, shares) == 2);
    assert_int_equal(shares[0], 4);
    assert_int_equal(shares[1], 2);
    const uint32_t caps[] = {3, 8, 8};
    assert_true(plan_sync_split(speeds, caps, 3, 8, shares) == 3);
    assert_int_equal(shares[0], 3);
    const uint32_t little[] = {1, 1, 1}, nothing[] = {0, 8, 8};
    assert_true(plan_sync_split(speeds, little, 3, 4, shares) == 0);
    assert_true(plan_sync_split(speeds, nothing, 3, 4, shares) == 0);
    assert_true(plan_sync_split(speeds, NULL, 3, 2, shares) == 0);
    assert_true(plan_sync_split(speeds, NULL, 0, 2, shares) == 0);
    const double far[] = {1000, 1e-3, 1e-3};
    assert_true(plan_sync_split(far, NULL, 3, 3, shares) == 1000);
    assert_int_equal(shares[0], 1);
}

static void chooses_as_one_would(void **state)
{
    (void)state;
    struct plan_unit units[4];
    struct plan_machine machines[4];
    struct plan_profile p = even(units, 4, machines, 4);
    struct plan_sync_options o = {.micro_batches = 8, .group = 1};
    struct plan_sync sync;
    struct bg_error err;
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK); // replicas: no bubble
    assert_int_equal(sync.choices[0].stage_count, 1);
    assert_int_equal(sync.choices[0].seat_count, 4);
    assert_true(sync.exact && sync.count >= 3);
    plan_sync_fini(&sync);
    for (uint32_t i = 0; i < 4; i++) // 16 GB of state: a machine holds a quarter
        machines[i].memory_bytes = 5e9;
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_int_equal(sync.choices[0].stage_count, 4);
    plan_sync_fini(&sync);
    for (uint32_t i = 0; i < 4; i++) { // one core for all: nothing beats one worker
        machines[i].memory_bytes = 0;
        machines[i].host = 0;
        machines[i].cores = 1;
    }
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_int_equal(sync.choices[0].seat_count, 1);
    plan_sync_fini(&sync);
    o.use_all = true;
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_int_equal(sync.choices[0].seat_count, 4);
    assert_true(sync.choices[0].step_s > 4 * 3 * 8);
    plan_sync_fini(&sync);
}

static void refuses(const struct plan_profile *p, const struct plan_sync_options *o, const char *text)
{
    struct plan_sync sync;
    struct bg_error err;
    assert_int_equal(plan_sync_solve(p, o, &err, &sync), BG_INVALID);
    if (!strstr(err.text, text))
        print_message("%s\n", err.text);
    assert_non_null(strstr(err.text, text));
}

static void says_what_is_missing(void **state)
{
    (void)state;
    struct plan_unit units[4];
    struct plan_machine machines[4];
    struct plan_profile p = even(units, 4, machines, 4);
    struct plan_sync_options o = {.micro_batches = 8, .group = 1};
    for (uint32_t i = 0; i < 4; i++)
        machines[i].memory_bytes = 3e9 + i;
    refuses(&p, &o, "unit 1 (block) needs 4.102"); // the embedding: 4.1
    refuses(&p, &o, "the largest machine (m3) has 3 GB: give a machine 4.1");
    for (uint32_t i = 0; i < 4; i++)
        machines[i].memory_bytes = i < 2 ? 5e9 : 3e9;
    refuses(&p, &o, "2 more machines like m0, 1.");
    units[2].stash_bytes = 2e9;
    for (uint32_t i = 0; i < 4; i++)
        machines[i].memory_bytes = 5e9;
    refuses(&p, &o, "unit 2 (block) needs 6.0");
    units[2].stash_bytes = 4e8;
    for (uint32_t i = 0; i < 4; i++)
        machines[i].memory_bytes = 4.5e9;
    refuses(&p, &o, "run.recompute=true");
    for (uint32_t i = 0; i < 4; i++)
        machines[i].memory_bytes = 0;
    const uint32_t replicas[] = {3, 1}, many[] = {3, 2}, hole[] = {2, 0};
    o = (struct plan_sync_options){.micro_batches = 4, .group = 2, .stages_max = 2, .replicas = replicas};
    refuses(&p, &o, "make it 6 micro-batches");
    o.group = 1;
    o.replicas = many;
    refuses(&p, &o, "1 more are needed");
    o.replicas = hole;
    refuses(&p, &o, "stage 1 has no replica");
    o = (struct plan_sync_options){.micro_batches = 4, .group = 3};
    refuses(&p, &o, "a power of two");
    o = (struct plan_sync_options){.micro_batches = 0, .group = 1};
    refuses(&p, &o, "at least one");
    o = (struct plan_sync_options){.micro_batches = 4, .group = 1, .stages_min = 5};
    refuses(&p, &o, "make 1 to 4 stages");
    p.machine_count = 0;
    refuses(&p, &o, "0 machines");
}

static void shapes_and_cuts_are_kept(void **state)
{
    (void)state;
    struct plan_unit units[6];
    struct plan_machine machines[5];
    struct plan_profile p = even(units, 6, machines, 5);
    machines[3].speed = 2;
    const uint32_t replicas[] = {1, 2, 2};
    const struct plan_stage cut[] = {{0, 1}, {1, 5}, {5, 6}};
    struct plan_sync_options o = {.micro_batches = 6, .group = 1, .stages_max = 3, .replicas = replicas, .cut = cut};
    struct plan_sync sync;
    struct bg_error err;
    for (uint32_t coarse = 0; coarse < 2; coarse++) {
        o.effort = coarse;
        assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
        assert_int_equal(sync.exact, !coarse);
        for (uint32_t i = 0; i < sync.count; i++) {
            assert_int_equal(sync.choices[i].stage_count, 3);
            for (uint32_t s = 0; s < 3; s++) {
                const struct plan_sync_stage *stage = &sync.choices[i].stages[s];
                assert_int_equal(stage->unit_end, cut[s].unit_end);
                assert_int_equal(stage->seat_end - stage->seat_first, replicas[s]);
            }
        }
        const struct plan_sync_stage *middle = &sync.choices[0].stages[1]; // which bounds the step
        assert_int_equal(sync.choices[0].seats[middle->seat_first].machine, 3);
        assert_int_equal(sync.choices[0].seats[middle->seat_first].share, 4);
        plan_sync_fini(&sync);
    }
}

// Far more than can be searched exactly: in time, and not worse than what is simple.
static void large_cases_are_quick(void **state)
{
    (void)state;
    enum { N = 32, U = 48 };
    struct plan_unit units[U];
    struct plan_machine machines[N];
    struct plan_profile p = even(units, U, machines, N);
    struct plan_sync_options o = {.micro_batches = 64, .group = 1, .recompute = PLAN_SYNC_AUTO};
    struct plan_sync sync;
    struct bg_error err;
    double speed = 0;
    for (uint32_t i = 0; i < N; i++) {
        machines[i].host = i / 4;
        machines[i].speed = 0.5 + (i * 13 % N) / 20.0;
        speed += machines[i].speed;
    }
    const clock_t start = clock();
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    print_message("%u units on %u machines: %.2f s; %u stages, step %.0f s, all work at full speed %.0f s\n", U, N,
                  seconds, sync.choices[0].stage_count, sync.choices[0].step_s, 64 * 3 * U / speed);
    assert_true(seconds < 20); // of a slow machine under a sanitizer
    assert_true(sync.count >= 3);
    assert_true(sync.choices[0].step_s < 1.6 * 64 * 3 * U / speed);
    for (uint32_t i = 0; i < sync.count; i++) {
        struct plan_sync_choice again = plan_sync_choice_copy(&sync.choices[i]);
        assert_int_equal(plan_sync_cost(&p, &o, &err, &again), BG_OK);
        assert_true(again.step_s == sync.choices[i].step_s);
        plan_sync_choice_fini(&again);
    }
    plan_sync_fini(&sync);
}

// As the timeline has it: the seats of a choice, built and walked.
static double simulate(const struct plan_profile *p, const struct plan_sync_options *o,
                       const struct plan_sync_choice *c)
{
    struct plan_machine machines[MACHINES];
    uint32_t replicas[UNITS] = {0}, shares[MACHINES];
    struct plan_profile seated = *p;
    seated.machines = machines;
    seated.machine_count = c->seat_count;
    for (uint32_t i = 0; i < c->seat_count; i++) {
        machines[i] = p->machines[c->seats[i].machine];
        shares[i] = c->seats[i].share;
    }
    for (uint32_t s = 0; s < c->stage_count; s++)
        replicas[s] = c->stages[s].seat_end - c->stages[s].seat_first;
    double costs[UNITS];
    for (uint32_t u = 0; u < p->unit_count; u++)
        costs[u] = p->units[u].forward_s + p->units[u].input_s + p->units[u].weight_s;
    const struct plan_options options = {.costs = costs,
                                         .units = p->unit_count,
                                         .micro_batches = o->micro_batches,
                                         .group = o->group,
                                         .replicas = replicas,
                                         .stages = c->stage_count,
                                         .schedule = o->gpipe ? PLAN_GPIPE : PLAN_1F1B,
                                         .chunks = 1,
                                         .slices = 1,
                                         .recompute = o->recompute == PLAN_SYNC_ON,
                                         .shares = shares};
    struct plan plan;
    struct plan_timeline timeline;
    struct bg_error err;
    if (plan_build(&options, &err, &plan) || plan_timeline(&plan, &seated, &err, &timeline))
        fail_msg("%s", err.text);
    const double step_s = timeline.step_s;
    plan_timeline_fini(&timeline);
    plan_fini(&plan);
    return step_s;
}

// The next numbers of 1 to `machines`, of those that add up to it. False: there are no more.
static bool next_spread(uint32_t *replicas, uint32_t ranks, uint32_t machines)
{
    for (uint32_t sum = 0; sum != machines;) {
        uint32_t r = 0;
        for (; r < ranks && replicas[r] == machines; r++)
            replicas[r] = 1;
        if (r == ranks)
            return false;
        replicas[r]++;
        sum = 0;
        for (uint32_t i = 0; i < ranks; i++)
            sum += replicas[i];
    }
    return true;
}

// For each spread of the machines over ranks the cut of plan_cut and the planner's seats; of those the shortest
// simulated step.
static void shapes_for_all_workers(void **state)
{
    (void)state;
    struct dice d = {bg_philox_key(2, BG_STREAM_DATA), 0};
    uint32_t found = 0, deep = 0;
    for (uint32_t n = 0; n < 200; n++) {
        struct example c;
        struct bg_error err;
        make_example(&d, &c);
        c.o = (struct plan_sync_options){.micro_batches = c.o.micro_batches,
                                         .group = c.o.group,
                                         .recompute = n % 3 ? PLAN_SYNC_OFF : PLAN_SYNC_ON,
                                         .gpipe = c.o.gpipe,
                                         .use_all = true};
        double costs[UNITS], best = INFINITY;
        for (uint32_t u = 0; u < c.p.unit_count; u++)
            costs[u] = c.units[u].forward_s + c.units[u].input_s + c.units[u].weight_s;
        for (uint32_t s = 1; s <= c.p.unit_count && s <= c.p.machine_count; s++) {
            struct plan_sync_options fixed = c.o;
            uint32_t replicas[MACHINES] = {0};
            for (uint32_t r = 1; r < s; r++)
                replicas[r] = 1;
            fixed.cut = c.cut;
            fixed.stages_max = s;
            fixed.replicas = replicas;
            assert_int_equal(plan_cut(costs, c.p.unit_count, s, &err, c.cut), BG_OK);
            while (next_spread(replicas, s, c.p.machine_count)) {
                struct plan_sync sync;
                if (plan_sync_solve(&c.p, &fixed, &err, &sync))
                    continue;
                best = fmin(best, simulate(&c.p, &c.o, &sync.choices[0]));
                plan_sync_fini(&sync);
            }
        }
        const struct plan_options job = {.micro_batches = c.o.micro_batches,
                                         .group = c.o.group,
                                         .schedule = c.o.gpipe ? PLAN_GPIPE : PLAN_1F1B,
                                         .chunks = 1,
                                         .slices = 1,
                                         .recompute = c.o.recompute == PLAN_SYNC_ON};
        struct plan_sync_shape shape;
        uint32_t rank_of[MACHINES], seats[UNITS] = {0};
        const bg_status status = plan_sync_shape(&c.p, &job, &err, &shape, rank_of);
        assert_int_equal(status, isfinite(best) ? BG_OK : BG_INVALID);
        if (status) { // told is what the deepest pipeline of any numbers lacks
            struct plan_sync_options any = c.o;
            struct bg_error told;
            struct plan_sync none;
            any.cut = c.cut;
            any.stages_max = c.p.unit_count < c.p.machine_count ? c.p.unit_count : c.p.machine_count;
            assert_int_equal(plan_sync_solve(&c.p, &any, &told, &none), BG_INVALID);
            assert_string_equal(err.text, told.text);
            continue;
        }
        found++;
        deep += shape.stages > 1;
        assert_true(shape.step_s >= best * (1 - 1e-9) && shape.step_s <= best / 0.98);
        for (uint32_t i = 0; i < c.p.machine_count; i++)
            seats[rank_of[i]]++;
        for (uint32_t s = 0; s < shape.stages; s++)
            assert_int_equal(seats[s], shape.replicas[s]);
    }
    print_message("%u shapes, %u of several stages\n", found, deep);
    assert_true(found > 80 && deep > 20);
}

static void odd_inputs(void **state)
{
    (void)state;
    enum { N = 300 };
    static struct plan_unit units[N];
    static struct plan_machine machines[N];
    struct plan_profile p = even(units, 3, machines, 3);
    struct plan_sync_options o = {.micro_batches = 65536, .group = 1};
    struct plan_sync sync;
    struct plan_sync_shape shape;
    struct bg_error err;
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_true(sync.choices[0].step_s >= 65536 * 3 && sync.choices[0].step_s < 65536 * 3.001);
    plan_sync_fini(&sync);
    o = (struct plan_sync_options){.micro_batches = 3, .group = 1u << 31}; // one item, not full
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_int_equal(sync.choices[0].seat_count, 1);
    plan_sync_fini(&sync);
    struct plan_options job = {.micro_batches = 3, .group = 1, .schedule = PLAN_INTERLEAVED, .chunks = 4};
    assert_int_equal(plan_sync_shape(&p, &job, &err, &shape, NULL), BG_INVALID); // 4 stages of 3 units
    job.chunks = 0;
    assert_int_equal(plan_sync_shape(&p, &job, &err, &shape, NULL), BG_INVALID);
    memset(units, 0, sizeof units); // nothing costs anything
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_true(sync.choices[0].step_s >= 0 && sync.choices[0].step_s < 1);
    plan_sync_fini(&sync);
    p = even(units, N, machines, N); // 300 workers on four cores, and on a host with different threads
    for (uint32_t i = 0; i < N; i++) {
        machines[i].host = 0;
        machines[i].cores = 4;
        machines[i].threads = 1 + i % 3 / 2.0;
        machines[i].speed = 1 + i % 7;
    }
    o = (struct plan_sync_options){.micro_batches = 16, .group = 1};
    assert_int_equal(plan_sync_solve(&p, &o, &err, &sync), BG_OK);
    assert_false(sync.exact);
    assert_true(sync.choices[0].step_s < 16.0 * 3 * N / 7);
    plan_sync_fini(&sync);
}

static void cost_refuses_what_is_no_plan(void **state)
{
    (void)state;
    struct plan_unit units[2];
    struct plan_machine machines[2];
    struct plan_profile p = even(units, 2, machines, 2);
    const struct plan_sync_options o = {.micro_batches = 4, .group = 1};
    struct plan_sync_stage stages[2] = {{.unit_end = 1, .seat_end = 1},
                                        {.unit_first = 1, .unit_end = 2, .seat_first = 1, .seat_end = 2}};
    struct plan_sync_seat seats[2] = {{.machine = 0, .share = 4}, {.machine = 1, .share = 4}};
    struct plan_sync_choice c = {.stages = stages, .stage_count = 2, .seats = seats, .seat_count = 2};
    struct bg_error err;
    assert_int_equal(plan_sync_cost(&p, &o, &err, &c), BG_OK);
    assert_true(c.step_s > 2 * 3 + 3 * 3);
    seats[1].share = 3;
    assert_int_equal(plan_sync_cost(&p, &o, &err, &c), BG_INVALID);
    seats[1] = (struct plan_sync_seat){.machine = 2, .share = 4};
    assert_int_equal(plan_sync_cost(&p, &o, &err, &c), BG_INVALID);
    seats[1].machine = 1;
    stages[1].unit_first = 0;
    assert_int_equal(plan_sync_cost(&p, &o, &err, &c), BG_INVALID);
    stages[1].unit_first = 1;
    machines[1].memory_bytes = 4e9;
    assert_int_equal(plan_sync_cost(&p, &o, &err, &c), BG_INVALID);
    assert_non_null(strstr(err.text, "on machine m1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_exhaustive_search),     cmocka_unit_test(splits_by_speed),
        cmocka_unit_test(chooses_as_one_would),         cmocka_unit_test(says_what_is_missing),
        cmocka_unit_test(shapes_and_cuts_are_kept),     cmocka_unit_test(large_cases_are_quick),
        cmocka_unit_test(shapes_for_all_workers),       cmocka_unit_test(odd_inputs),
        cmocka_unit_test(cost_refuses_what_is_no_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
