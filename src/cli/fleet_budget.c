// The mock of a market, the log of decisions, the bill, and the simulator's word on all of it. Ticks are told by the
// wall clock from RUN/budget.start on, so a controller that starts again finds itself at the right one.
#include "cli/fleet_budget.h"

#include "base/mem.h"
#include "cli/cli.h"
#include "cli/fleet_shapes.h"
#include "cli/trace.h"
#include "cli/zones.h"
#include "plan/spot/deadline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TICKS_MAX = 10000000 };
static const double LINK_BYTES_S = 1e9; // between two processes, about

struct fleet_budget {
    struct bg_env *env;
    const struct job *job;
    struct ctl_budget terms;
    struct plan_trace trace; // counts; none without entries
    int64_t start_ms;
    struct bg_file *log;
    uint32_t ticks_seen;
    uint32_t *spot; // (ticks_seen); with zones the most that one of them had
    uint32_t spot_room;
    struct zones zones;                               // instead of the trace
    struct plan_zone_trace zone_list[PLAN_ZONES_MAX]; // (ticks_seen) of each, and known_zones for the controller
    struct plan_zones known_zones;
    bool taking; // of a fleet: machines that were taken away have not ended yet

    // The bill: of decisions so far.
    bool decided;
    uint32_t decided_tick;
    enum plan_rent rent;
    uint32_t zone;
    uint32_t ticks[PLAN_RENTS];
    struct plan_zone_bill of_zones[PLAN_ZONES_MAX];

    struct plan_fleet_shape shape; // of a fleet: the last one,
    uint32_t changes;              // and how often it was another, in this call
    struct fleet_shapes shapes;
    uint64_t steps; // committed

    // As measured, in seconds of this clock.
    uint64_t rented_ns; // no step has come from what was rented then; 0: one has
    double start_sum, step_sum;
    uint32_t start_count;
    uint64_t step_count;
};

static uint32_t there(const struct fleet_budget *b, uint32_t tick)
{
    if (!b->trace.count)
        return b->terms.job.instances;
    const size_t at = (size_t)b->job->budget.trace_start + tick;
    return b->trace.counts[at < b->trace.count ? at : b->trace.count - 1];
}

static struct plan_zone zone_there(const struct fleet_budget *b, uint32_t zone, uint32_t tick)
{
    return zones_at(&b->zones, zone, (size_t)b->job->budget.trace_start + tick);
}

static void make_room(struct fleet_budget *b, uint32_t tick)
{
    if (tick < b->spot_room)
        return;
    b->spot_room = 2 * tick + 64;
    b->spot = bg_realloc_array(b->spot, b->spot_room, sizeof *b->spot);
    b->known_zones = (struct plan_zones){b->zone_list, b->zones.count, b->spot};
    for (uint32_t z = 0; z < b->zones.count; z++) {
        struct plan_zone_trace *zone = &b->zone_list[z];
        zone->spot = bg_realloc_array((uint32_t *)zone->spot, b->spot_room, sizeof *zone->spot);
        zone->spot_price = bg_realloc_array((double *)zone->spot_price, b->spot_room, sizeof *zone->spot_price);
    }
}

static uint32_t see_zones(struct fleet_budget *b, uint32_t tick, uint32_t *gone)
{
    uint32_t most = 0;
    for (uint32_t z = 0; z < b->zones.count; z++) {
        const struct plan_zone here = zone_there(b, z, tick);
        b->zone_list[z].name = here.name;
        memcpy(b->zone_list[z].price, here.price, sizeof here.price);
        ((uint32_t *)b->zone_list[z].spot)[tick] = here.spot;
        ((double *)b->zone_list[z].spot_price)[tick] = here.price[PLAN_RENT_SPOT];
        most = here.spot > most ? here.spot : most;
        *gone |= here.spot < b->terms.job.instances ? 1u << z : 0;
    }
    return most;
}

// Sees all ticks up to this one. Bit z: in one of the new ones there is no spot gang in zone z; bit 0 without zones.
static uint32_t look(struct fleet_budget *b, uint32_t tick)
{
    uint32_t gone = 0;
    make_room(b, tick);
    for (; b->ticks_seen <= tick; b->ticks_seen++) {
        if (b->zones.count) {
            b->spot[b->ticks_seen] = see_zones(b, b->ticks_seen, &gone);
            continue;
        }
        b->spot[b->ticks_seen] = there(b, b->ticks_seen);
        gone |= b->spot[b->ticks_seen] < b->terms.job.instances;
    }
    return gone;
}

// ---- Opening ----

static bg_status read_zones(struct fleet_budget *b, struct bg_error *err)
{
    const struct job *job = b->job;
    const double spot = job->budget.spot_price, demand = job->budget.on_demand_price;
    const double defaults[PLAN_RENTS] = {0, spot > 0 ? spot : -1, demand > 0 ? demand : -1}; // 0 is: not given
    bg_status status = zones_read(b->env, "budget.zones", job->budget.zones.items, job->budget.zones.count, defaults,
                                  b->terms.job.gap_s, err, &b->zones);
    if (status)
        return status;
    b->terms.job.gap_s = b->zones.gap_s;
    b->terms.zones = &b->known_zones;
    if (job->budget.trace_start >= b->zones.ticks)
        status =
            bg_fail(err, BG_INVALID, "budget.trace_start: %u, but the shortest trace of budget.zones has %zu ticks",
                    job->budget.trace_start, b->zones.ticks);
    return status;
}

static bg_status read_trace(struct fleet_budget *b, struct bg_error *err)
{
    if (b->job->budget.zones.count)
        return read_zones(b, err);
    const char *path = b->job->budget.trace;
    bg_status status = path ? trace_load(b->env, path, err, &b->trace) : BG_OK;
    if (!path || status)
        return status ? bg_fail_prefix(err, "budget.trace") : BG_OK;
    if (b->trace.kind == PLAN_TRACE_REQUESTS)
        return bg_fail(err, BG_INVALID, "budget.trace: %s is a trace of requests: expected one of machines", path);
    if (b->trace.kind == PLAN_TRACE_EVENTS)
        status = plan_trace_to_counts(&b->trace, b->terms.job.gap_s, err);
    b->terms.job.gap_s = b->trace.gap_s;
    if (!status && b->job->budget.trace_start >= b->trace.count)
        status = bg_fail(err, BG_INVALID, "budget.trace_start: %u, but %s has %zu ticks", b->job->budget.trace_start,
                         path, b->trace.count);
    return status;
}

// Ticks from the newest decision until `end` in which what it decided was there: spot until it was taken away.
static uint32_t ticks_there(const struct fleet_budget *b, uint32_t end, const uint32_t *spot)
{
    uint32_t t = b->decided_tick + 1;
    while (t < end && (b->rent != PLAN_RENT_SPOT ||
                       (b->zones.count ? zone_there(b, b->zone, t).spot : spot[t]) >= b->terms.job.instances))
        t++;
    return t - b->decided_tick;
}

// The first ticks from the newest decision on, in the zone in which they were rented.
static void pay_zone(const struct fleet_budget *b, uint32_t ticks, struct plan_zone_bill *of_zones)
{
    if (!b->zones.count || b->rent == PLAN_RENT_NONE)
        return;
    of_zones[b->zone].ticks[b->rent] += ticks;
    for (uint32_t t = 0; t < ticks; t++)
        of_zones[b->zone].cost += zone_there(b, b->zone, b->decided_tick + t).price[b->rent] * b->terms.job.instances *
                                  b->terms.job.gap_s / 3600;
}

// The bill is a function of the log: a decision is paid for until the next one, or until spot was taken away. Where
// what it decided is there and yet not held, nobody was there to hold it: its own tick is paid for.
static void note(struct fleet_budget *b, const struct plan_snapshot *now, struct plan_choice decided)
{
    if (!b->decided) {
        b->ticks[PLAN_RENT_NONE] += now->tick + 1; // as in the simulator, the first instant counts as one
    } else if (now->tick > b->decided_tick) {
        const uint32_t passed = now->tick - b->decided_tick, there_until = ticks_there(b, now->tick + 1, now->spot);
        const uint32_t paid = there_until <= passed ? there_until : now->rent == b->rent ? passed : 1;
        b->ticks[b->rent] += paid;
        b->ticks[PLAN_RENT_NONE] += passed - paid;
        pay_zone(b, paid, b->of_zones);
    }
    b->decided = true;
    b->decided_tick = now->tick;
    b->rent = decided.rent;
    b->zone = decided.zone < b->zones.count ? decided.zone : 0;
}

// Of a fleet policy's line counts which tick it is of.
static void note_shape(struct fleet_budget *b, const char *line)
{
    const char *counts = strstr(line, " machines ");
    uint32_t ticks = 0;
    for (const char *at = counts ? counts + strlen(" machines") : ""; *at; at++)
        ticks += *at == ' ';
    b->decided = true;
    b->decided_tick = ticks ? ticks - 1 : 0;
    b->rent = PLAN_RENT_SPOT;
}

// Whether the zones of a line are those of the job.
static bool same_zones(const struct fleet_budget *b, const struct plan_snapshot *now)
{
    bool same = now->zone_count == b->zones.count;
    for (uint32_t z = 0; z < now->zone_count && same; z++)
        same = strcmp(now->zones[z].name, b->zones.specs[z].name) == 0;
    return same;
}

// A line of the log, which ends at a '\0'.
static bg_status take_line(struct fleet_budget *b, const char *line, struct bg_error *err)
{
    const struct plan_policy *policy;
    struct plan_snapshot now;
    struct plan_choice decided;
    void *memory = NULL;
    if (plan_fleet_decision_is(line)) {
        note_shape(b, line);
        return BG_OK;
    }
    bg_status status = plan_decision_parse(line, err, &policy, &now, &decided, &memory);
    if (status)
        return status;
    if (!same_zones(b, &now)) {
        status = bg_fail(err, BG_MISMATCH, "decided on other zones than those of budget.zones");
    } else {
        note(b, &now, decided);
        if (b->job->budget.work <= 0)
            b->terms.job.work_s = now.job.work_s; // as it was measured then
    }
    bg_free(memory);
    return status;
}

// What an earlier controller decided. A line that it did not finish never was.
static bg_status read_log(struct fleet_budget *b, const char *path, struct bg_error *err)
{
    struct bg_file_info info;
    struct bg_map map;
    bg_status status = b->env->ops->path_info(b->env, path, err, &info);
    if (status || !info.exists)
        return status;
    status = b->env->ops->map_open(b->env, path, err, &map);
    if (status)
        return status;
    const char *text = (const char *)map.data, *end = NULL;
    size_t at = 0;
    for (size_t line = 1; !status && (end = memchr(text + at, '\n', map.size - at)); line++) {
        char *one = bg_strndup(text + at, (size_t)(end - text) - at);
        status = take_line(b, one, err);
        if (status)
            bg_fail_prefix(err, "%s:%zu", path, line);
        bg_free(one);
        at = (size_t)(end - text) + 1;
    }
    b->env->ops->map_close(b->env, &map);
    return status || at == info.size ? status : b->env->ops->path_truncate(b->env, path, at, err);
}

static bg_status find_start(struct fleet_budget *b, const char *path, struct bg_error *err)
{
    struct bg_file_info info;
    struct bg_map map;
    char text[32] = "";
    bg_status status = b->env->ops->path_info(b->env, path, err, &info);
    if (!status && !info.exists) {
        b->start_ms = b->env->ops->wall_ms(b->env);
        const int size = snprintf(text, sizeof text, "%lld\n", (long long)b->start_ms);
        return env_write_file(b->env, path, text, (size_t)size, err);
    }
    if (!status)
        status = b->env->ops->map_open(b->env, path, err, &map);
    if (status)
        return status;
    memcpy(text, map.data, map.size < sizeof text ? map.size : sizeof text - 1);
    b->env->ops->map_close(b->env, &map);
    char *end;
    b->start_ms = strtoll(text, &end, 10);
    if (end == text || *end != '\n' || b->start_ms <= 0)
        return bg_fail(err, BG_CORRUPT, "%s: expected the milliseconds since 1970 at which the job began", path);
    return BG_OK;
}

static bg_status open_log(struct fleet_budget *b, struct bg_error *err)
{
    char *log = bg_format("%s/decisions.log", b->job->run.dir), *start = bg_format("%s/budget.start", b->job->run.dir);
    bg_status status = read_log(b, log, err);
    if (!status)
        status = find_start(b, start, err);
    if (!status)
        status = b->env->ops->file_open(b->env, log, BG_FILE_APPEND, err, &b->log);
    bg_free(log);
    bg_free(start);
    return status;
}

static bool holds(const struct fleet_children *children, enum plan_rent rent, uint32_t zone)
{
    for (size_t i = 0; i < children->count; i++)
        if (children->list[i].token && ctl_token_rent(children->list[i].token) == rent &&
            ctl_token_zone(children->list[i].token) == zone)
            return true;
    return false;
}

bg_status fleet_budget_open(struct bg_env *env, const struct job *job, uint32_t machines, struct bg_error *err,
                            struct fleet_budget **out)
{
    struct fleet_budget *b = bg_alloc(sizeof *b);
    *b = (struct fleet_budget){.env = env, .job = job};
    bg_status status = job_budget(job, machines, err, &b->terms.policy, &b->terms.fleet.policy, &b->terms.job);
    if (!status)
        status = read_trace(b, err);
    if (!status && b->terms.policy && b->terms.job.work_s > 0) // the trace may have brought another gap
        status = plan_deadline_check(&b->terms.job, err) ? bg_fail_prefix(err, "budget.deadline") : BG_OK;
    if (status)
        fleet_budget_close(b);
    else
        *out = b;
    return status;
}

// What a fleet policy goes by: the job's shape, the rate that was probed, and this host in place of a network.
static void set_question(struct fleet_budget *b, const struct plan_fleet_transformer *model)
{
    struct plan_fleet_question *q = &b->terms.fleet;
    const struct job *job = b->job;
    q->model = *model;
    q->model.link_bytes_s = LINK_BYTES_S;
    q->model.memory_bytes = 1e9 * job->run.memory_gb;
    q->options = plan_fleet_defaults;
    q->options.nodes_max = b->terms.job.instances;
    q->options.micro_batches = job->train.micro_batches;
    q->options.samples = job->train.micro_batch;
    q->options.interval_s = b->terms.job.gap_s / job->budget.time_scale;
    q->options.rendezvous_s = b->terms.job.overhead_s / job->budget.time_scale;
    q->options.group_add_s = q->options.group_drop_s = 0; // part of it
    q->seed = job->train.seed;
}

bg_status fleet_budget_start(struct fleet_budget *b, double step_s, const struct plan_fleet_transformer *model,
                             const struct fleet_children *children, struct bg_error *err)
{
    struct plan_deadline *terms = &b->terms.job;
    set_question(b, model);
    if (terms->work_s <= 0)
        terms->work_s = fmax(step_s, 1e-6) * (double)b->job->train.steps * b->job->budget.time_scale;
    bg_status status = open_log(b, err);
    if (!status)
        status = b->terms.policy && plan_deadline_check(terms, err) ? bg_fail_prefix(err, "budget.deadline") : BG_OK;
    if (!status && b->decided)
        (void)look(b, b->decided_tick); // that one is decided
    b->terms.rent = b->rent != PLAN_RENT_NONE && holds(children, b->rent, b->zone) ? b->rent : PLAN_RENT_NONE;
    b->terms.zone = b->terms.rent == PLAN_RENT_NONE ? 0 : b->zone;
    b->terms.tick = b->decided_tick;
    return status;
}

void fleet_budget_close(struct fleet_budget *b)
{
    struct bg_error ignored; // every line was written as it came
    if (!b)
        return;
    if (b->log && b->env->ops->file_close(b->env, b->log, &ignored))
        b->log = NULL;
    plan_trace_fini(&b->trace);
    fleet_shapes_fini(&b->shapes);
    for (uint32_t z = 0; z < b->zones.count; z++) {
        bg_free((uint32_t *)b->zone_list[z].spot);
        bg_free((double *)b->zone_list[z].spot_price);
    }
    zones_fini(&b->zones);
    bg_free(b->spot);
    bg_free(b);
}

// ---- What happens ----

const struct ctl_budget *fleet_budget_terms(const struct fleet_budget *b)
{
    return &b->terms;
}

static double elapsed_s(const struct fleet_budget *b) // of the job's time
{
    return 1e-3 * (double)(b->env->ops->wall_ms(b->env) - b->start_ms) * b->job->budget.time_scale;
}

const uint32_t *fleet_budget_market(struct fleet_budget *b, struct fleet_children *children, uint32_t *tick)
{
    const double at = elapsed_s(b) / b->terms.job.gap_s;
    const uint32_t now = at < 0 ? 0 : at > TICKS_MAX ? TICKS_MAX : (uint32_t)at;
    if (now < b->ticks_seen && !b->taking)
        return NULL;
    const uint32_t gone = look(b, now);
    if (b->terms.fleet.policy) // asked when those that were taken away are known to be gone
        b->taking = fleet_children_keep(children, PLAN_RENT_SPOT, 0, b->spot[now]) > 0;
    for (uint32_t z = 0; z < PLAN_ZONES_MAX && !b->terms.fleet.policy; z++)
        if (gone & 1u << z)
            (void)fleet_children_keep(children, PLAN_RENT_SPOT, z, 0);
    *tick = now;
    return b->taking ? NULL : b->spot;
}

bg_status fleet_budget_decided(struct fleet_budget *b, const struct plan_snapshot *now, struct plan_choice decided,
                               struct bg_error *err)
{
    char *line = plan_decision_format(b->terms.policy, now, decided), *all = bg_format("%s\n", line);
    bg_status status = b->env->ops->file_write(b->env, b->log, all, strlen(all), err);
    bg_free(line);
    bg_free(all);
    if (decided.rent != now->rent)
        b->rented_ns = decided.rent == PLAN_RENT_NONE ? 0 : env_now_ns(b->env);
    if (!status)
        note(b, now, decided);
    return status;
}

bg_status fleet_budget_reshaped(struct fleet_budget *b, const struct plan_fleet_question *now,
                                struct plan_fleet_shape decided, struct bg_error *err)
{
    char *line = plan_fleet_decision_format(now, decided), *all = bg_format("%s\n", line);
    const bg_status status = b->env->ops->file_write(b->env, b->log, all, strlen(all), err);
    const struct plan_fleet_shape before = b->shape;
    b->changes += b->decided && (before.replicas != decided.replicas || before.stages != decided.stages);
    b->shape = decided;
    note_shape(b, line);
    fleet_shapes_decided(&b->shapes, now, decided, env_now_ns(b->env), b->steps);
    bg_free(line);
    bg_free(all);
    return status;
}

void fleet_budget_committed(struct fleet_budget *b, uint64_t step, double seconds, bool full)
{
    b->steps = step + 1;
    if (b->rented_ns) {
        b->start_sum += 1e-9 * (double)(env_now_ns(b->env) - b->rented_ns);
        b->start_count++;
        b->rented_ns = 0;
    } else if (full && step > 0) {
        b->step_sum += seconds;
        b->step_count++;
    }
}

// ---- What is said ----

// The simulator's run of the same policy on the same trace.
static void simulate(const struct fleet_budget *b, const struct plan_deadline *job, struct plan_bill *bill,
                     struct plan_zone_bill *of_zones)
{
    const uint32_t ticks = plan_deadline_ticks(job);
    if (b->zones.count) {
        struct zones_window window;
        zones_window_init(&b->zones, b->job->budget.trace_start, ticks, &window);
        plan_deadline_run_zones(job, b->terms.policy, &window.zones, NULL, NULL, bill, of_zones);
        zones_window_fini(&window);
        return;
    }
    uint32_t *spot = bg_alloc_array(ticks, sizeof *spot);
    for (uint32_t t = 0; t < ticks; t++)
        spot[t] = there(b, t);
    plan_deadline_run(job, b->terms.policy, spot, NULL, NULL, bill);
    bg_free(spot);
}

static void add_time(struct bg_str *text, double seconds)
{
    char time[32];
    cli_duration(time, sizeof time, seconds);
    bg_str_add(text, time);
}

char *fleet_budget_forecast(const struct fleet_budget *b)
{
    struct plan_bill bill;
    struct bg_str text = {0};
    if (b->terms.fleet.policy)
        return bg_format("budget     %s: up to %u spot machines, a shape for them every %g s",
                         b->terms.fleet.policy->name, b->terms.job.instances, b->terms.job.gap_s);
    simulate(b, &b->terms.job, &bill, NULL);
    bg_str_addf(&text, "budget     %s: ", b->terms.policy->name);
    add_time(&text, b->terms.job.work_s);
    bg_str_add(&text, " of work, ");
    add_time(&text, b->terms.job.deadline_s);
    bg_str_addf(&text, " until the deadline; %s ",
                b->zones.count   ? "the zones make it"
                : b->trace.count ? "the trace makes it"
                                 : "where spot stays");
    bg_str_addf(&text, "$%.4f, ", bill.cost);
    if (bill.met) {
        bg_str_add(&text, "done after ");
        add_time(&text, bill.finish_s);
    } else {
        bg_str_add(&text, "not in time");
    }
    return bg_str_take(&text);
}

static json_t *ticks_json(const uint32_t ticks[PLAN_RENTS])
{
    return json_pack("{s:I, s:I, s:I}", "idle", (json_int_t)ticks[PLAN_RENT_NONE], "spot",
                     (json_int_t)ticks[PLAN_RENT_SPOT], "on_demand", (json_int_t)ticks[PLAN_RENT_ON_DEMAND]);
}

static double cost_of(const struct plan_deadline *job, const uint32_t ticks[PLAN_RENTS])
{
    double cost = 0;
    for (int k = 0; k < PLAN_RENTS; k++)
        cost += ticks[k] * job->price[k] * job->instances * job->gap_s / 3600;
    return cost;
}

static json_t *zones_json(const struct fleet_budget *b, const struct plan_zone_bill *of_zones)
{
    json_t *o = json_object();
    for (uint32_t z = 0; z < b->zones.count; z++)
        json_object_set_new(o, b->zones.specs[z].name,
                            json_pack("{s:f, s:I, s:I}", "cost", of_zones[z].cost, "spot",
                                      (json_int_t)of_zones[z].ticks[PLAN_RENT_SPOT], "on_demand",
                                      (json_int_t)of_zones[z].ticks[PLAN_RENT_ON_DEMAND]));
    return o;
}

// With what was measured in place of what was assumed.
static json_t *hindsight(const struct fleet_budget *b)
{
    struct plan_deadline job = b->terms.job;
    struct plan_bill bill;
    struct plan_zone_bill of_zones[PLAN_ZONES_MAX];
    if (!b->step_count)
        return NULL;
    const double step_s = b->step_sum / (double)b->step_count;
    job.work_s = step_s * (double)b->job->train.steps * b->job->budget.time_scale;
    if (b->start_count) // the first step of a start is work
        job.overhead_s = fmax(b->start_sum / b->start_count - step_s, 0) * b->job->budget.time_scale;
    simulate(b, &job, &bill, of_zones);
    json_t *o = json_pack("{s:f, s:f, s:f, s:o, s:f, s:b}", "work_s", job.work_s, "overhead_s", job.overhead_s, "cost",
                          bill.cost, "ticks", ticks_json(bill.ticks), "finish_s", bill.finish_s, "met", bill.met);
    if (b->zones.count)
        json_object_set_new(o, "zones", zones_json(b, of_zones));
    return o;
}

// All machines that are there are paid for, those that wait as well.
static json_t *fleet_result(const struct fleet_budget *b)
{
    const struct plan_deadline *job = &b->terms.job;
    double machine_ticks = 0;
    for (uint32_t t = 0; t < b->ticks_seen; t++)
        machine_ticks += b->spot[t] < job->instances ? b->spot[t] : job->instances;
    json_t *o =
        json_pack("{s:s, s:f, s:I, s:f, s:f, s:I, s:f, s:b}", "policy", b->terms.fleet.policy->name, "gap_s",
                  job->gap_s, "ticks", (json_int_t)b->ticks_seen, "machine_ticks", machine_ticks, "cost",
                  machine_ticks * job->price[PLAN_RENT_SPOT] * job->gap_s / 3600, "changes", (json_int_t)b->changes,
                  "finish_s", elapsed_s(b), "met", job->deadline_s <= 0 || elapsed_s(b) <= job->deadline_s);
    json_t *simulated = fleet_shapes_hindsight(&b->shapes, &b->terms.fleet, b->spot);
    if (simulated)
        json_object_set_new(o, "simulated", simulated);
    return o;
}

json_t *fleet_budget_json(struct fleet_budget *b, uint64_t steps)
{
    if (b->terms.fleet.policy)
        return fleet_result(b);
    const struct plan_deadline *job = &b->terms.job;
    const bool done = steps == b->job->train.steps;
    const double at_s = elapsed_s(b);
    double cost = 0;
    uint32_t ticks[PLAN_RENTS];
    struct plan_zone_bill of_zones[PLAN_ZONES_MAX];
    memcpy(ticks, b->ticks, sizeof ticks);
    memcpy(of_zones, b->of_zones, sizeof of_zones);
    if (b->decided) { // the tick that runs is paid for as a whole
        const uint32_t paid = ticks_there(b, b->ticks_seen, b->spot);
        ticks[b->rent] += paid;
        ticks[PLAN_RENT_NONE] += b->ticks_seen - b->decided_tick - paid;
        pay_zone(b, paid, of_zones);
    }
    for (uint32_t z = 0; z < b->zones.count; z++)
        cost += of_zones[z].cost;
    if (!b->zones.count)
        cost = cost_of(job, ticks);
    json_t *o = json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:o, s:f, s:b}", "policy", b->terms.policy->name, "gap_s",
                          job->gap_s, "work_s", job->work_s, "deadline_s", job->deadline_s, "overhead_s",
                          job->overhead_s, "cost", cost, "ticks", ticks_json(ticks), done ? "finish_s" : "stopped_s",
                          at_s, "met", done && at_s <= job->deadline_s);
    if (b->zones.count)
        json_object_set_new(o, "zones", zones_json(b, of_zones));
    json_t *simulated = hindsight(b);
    if (simulated)
        json_object_set_new(o, "simulated", simulated);
    return o;
}
