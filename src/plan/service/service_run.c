// A service policy over requests and zones as they were. At every decision: replicas that zones have no room for any
// more are taken away, the youngest first; those that started are ready; the autoscaler sets the target, the policy
// says what to rent. In between the line moves on.
#include "plan/service/service_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_MAX 5e7

struct run {
    const struct plan_service_job *job;
    struct plan_autoscale scale; // the job's, over whole intervals
    struct plan_service_result *result;
    struct plan_service_snapshot now;
    struct plan_autoscale_state state;
    struct service_queue queue;
    uint64_t *came; // (window) requests between the last decisions, a ring
    uint32_t window, decisions;
};

bg_status plan_service_check(const struct plan_service_job *job, struct bg_error *err)
{
    const struct {
        const char *name;
        double value;
        bool positive;
    } numbers[] = {{"rate of a replica", job->scale.rate, true},
                   {"window of the autoscaler", job->scale.window_s, true},
                   {"time between decisions", job->scale.interval_s, true},
                   {"delay to scale up", job->scale.up_s, false},
                   {"delay to scale down", job->scale.down_s, false},
                   {"rate of prompt tokens", job->model.prompt_rate, true},
                   {"step of a replica", job->model.step_s, true},
                   {"step's time for each request", job->model.extra_s, false},
                   {"start of a replica", job->model.start_s, false},
                   {"on-demand price", job->on_demand_price, false},
                   {"time-out", job->timeout_s, true},
                   {"speed of the requests", job->speed, true},
                   {"time in all", job->seconds, true},
                   {"first time of the zones", job->zones_from_s, false}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= 0 && numbers[i].value <= 1e12) || (numbers[i].positive && numbers[i].value <= 0))
            return bg_fail(err, BG_INVALID, "the %s is %g: expected a number %s 0, at most 1e12", numbers[i].name,
                           numbers[i].value, numbers[i].positive ? "above" : "of at least");
    if (!job->zone_count || job->zone_count > PLAN_SERVICE_ZONES_MAX)
        return bg_fail(err, BG_INVALID, "%u zones: expected 1 to %d", job->zone_count, PLAN_SERVICE_ZONES_MAX);
    if (!job->model.slots || job->model.slots > 65536)
        return bg_fail(err, BG_INVALID, "%u requests at a time: expected 1 to 65536", job->model.slots);
    const uint32_t most = PLAN_SERVICE_REPLICAS_MAX / 4;
    if (!job->scale.most || job->scale.least > job->scale.most || job->scale.most > most || job->extra > most)
        return bg_fail(err, BG_INVALID, "%u to %u replicas and %u to spare: expected the least first, 1 to %u at most",
                       job->scale.least, job->scale.most, job->extra, most);
    if (job->seconds / job->scale.interval_s > 1e7 || job->scale.window_s / job->scale.interval_s > 1e6)
        return bg_fail(err, BG_INVALID, "%g s are more than 10 million decisions, one every %g s", job->seconds,
                       job->scale.interval_s);
    if (job->requests->kind != PLAN_TRACE_REQUESTS || job->requests->count < 2)
        return bg_fail(err, BG_INVALID, "the trace of requests: expected two or more, found %zu", job->requests->count);
    const struct plan_trace_request *r = job->requests->requests;
    if (r[job->requests->count - 1].at_ns <= r[0].at_ns)
        return bg_fail(err, BG_INVALID, "all %zu requests come at the same time", job->requests->count);
    const double span_s = (double)(r[job->requests->count - 1].at_ns - r[0].at_ns) / 1e9 / job->speed;
    const double all = job->seconds / span_s * (double)job->requests->count;
    if (!(all <= REQUESTS_MAX))
        return bg_fail(err, BG_INVALID, "%g s of these requests are %.3g of them: at most %.0e are simulated",
                       job->seconds, all, REQUESTS_MAX);
    for (uint32_t z = 0; z < job->zone_count; z++)
        if (job->zones[z].kind != PLAN_TRACE_COUNTS || !job->zones[z].count)
            return bg_fail(err, BG_INVALID, "zone %u: expected a trace of counts", z + 1);
    return BG_OK;
}

// Spot replicas that a zone has room for; behind the end of its trace it begins again.
static uint64_t room_of(const struct plan_service_job *job, uint32_t zone, double now_s)
{
    const struct plan_trace *trace = &job->zones[zone];
    const double tick = floor((job->zones_from_s + now_s) / trace->gap_s);
    return (uint64_t)trace->counts[(size_t)fmod(tick, (double)trace->count)] * job->zone_size;
}

static void count_replicas(struct run *r)
{
    struct plan_service_snapshot *now = &r->now;
    for (uint32_t z = 0; z < now->zone_count; z++)
        now->zones[z].starting = now->zones[z].ready = 0;
    now->on_demand_starting = now->on_demand_ready = 0;
    for (uint32_t i = 0; i < r->queue.replica_count; i++) {
        const struct service_replica *replica = &r->queue.replicas[i];
        if (replica->zone == now->zone_count)
            ++*(replica->ready ? &now->on_demand_ready : &now->on_demand_starting);
        else
            ++*(replica->ready ? &now->zones[replica->zone].ready : &now->zones[replica->zone].starting);
    }
}

static uint32_t held(const struct run *r, uint32_t zone)
{
    return zone == r->now.zone_count ? r->now.on_demand_starting + r->now.on_demand_ready
                                     : r->now.zones[zone].starting + r->now.zones[zone].ready;
}

// The youngest of a zone; one that starts before one that serves, if asked for.
static void drop_one(struct run *r, uint32_t zone, bool starting_first)
{
    uint32_t which = UINT32_MAX;
    for (uint32_t i = 0; i < r->queue.replica_count; i++)
        if (r->queue.replicas[i].zone == zone &&
            (which == UINT32_MAX || !starting_first || !r->queue.replicas[i].ready || r->queue.replicas[which].ready))
            which = i;
    service_queue_drop(&r->queue, which);
    count_replicas(r);
}

static void zones_take_back(struct run *r, double now_s)
{
    for (uint32_t z = 0; z < r->now.zone_count; z++) {
        const uint64_t room = room_of(r->job, z, now_s);
        while (held(r, z) > room) {
            drop_one(r, z, false);
            plan_service_zone_lost(&r->now, z);
            r->result->preemptions++;
        }
    }
}

static void get_ready(struct run *r, double now_s)
{
    for (uint32_t i = 0; i < r->queue.replica_count; i++) {
        struct service_replica *replica = &r->queue.replicas[i];
        if (replica->ready || replica->ready_at_s > now_s)
            continue;
        service_queue_ready(&r->queue, i, now_s);
        if (replica->zone < r->now.zone_count)
            plan_service_zone_ready(&r->now, replica->zone);
    }
    count_replicas(r);
}

static void rent(struct run *r, const struct plan_service_decision *decision, double now_s)
{
    const double ready_at_s = now_s + r->job->model.start_s;
    const uint32_t on_demand = r->now.zone_count;
    for (uint32_t z = 0; z < r->now.zone_count; z++) {
        for (uint32_t k = 0; k < decision->stop[z] && held(r, z); k++)
            drop_one(r, z, true);
        for (uint32_t k = 0; k < decision->launch[z]; k++) {
            if (held(r, z) >= room_of(r->job, z, now_s) || r->queue.replica_count == PLAN_SERVICE_REPLICAS_MAX) {
                plan_service_zone_lost(&r->now, z);
                r->result->failed_launches++;
                break;
            }
            service_queue_add(&r->queue, z, ready_at_s);
            r->result->spot_launches++;
            count_replicas(r);
        }
    }
    while (held(r, on_demand) > decision->on_demand)
        drop_one(r, on_demand, true);
    while (held(r, on_demand) < decision->on_demand && r->queue.replica_count < PLAN_SERVICE_REPLICAS_MAX) {
        service_queue_add(&r->queue, on_demand, ready_at_s);
        r->result->on_demand_launches++;
        count_replicas(r);
    }
}

static uint64_t lately(const struct run *r)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < r->window; i++)
        sum += r->came[i];
    return sum;
}

static void account(struct run *r, double span_s)
{
    struct plan_service_result *result = r->result;
    const struct plan_service_snapshot *now = &r->now;
    struct plan_service_moment *moment = &result->moments[result->moment_count++];
    *moment = (struct plan_service_moment){now->target, 0, now->on_demand_ready};
    for (uint32_t z = 0; z < now->zone_count; z++) {
        moment->spot += now->zones[z].ready;
        result->spot_cost += held(r, z) * now->zones[z].price * span_s / 3600;
    }
    result->on_demand_cost += held(r, now->zone_count) * r->job->on_demand_price * span_s / 3600;
    result->availability += moment->spot + moment->on_demand >= now->target ? span_s : 0;
    result->some += moment->spot + moment->on_demand ? span_s : 0;
    result->target_mean += now->target * span_s;
    result->spot_mean += moment->spot * span_s;
    result->on_demand_mean += moment->on_demand * span_s;
}

static void decide(struct run *r, const struct plan_service_policy *policy, double now_s, struct bg_str *log)
{
    struct plan_service_decision decision = {0};
    zones_take_back(r, now_s);
    get_ready(r, now_s);
    if (r->decisions >= r->window || !r->decisions) // at the start, what the first window brings is known
        r->now.target = plan_autoscale(&r->scale, lately(r), &r->state);
    policy->decide(&r->now, &decision);
    if (log) {
        char *line = plan_service_decision_format(policy, &r->now, &decision);
        bg_str_addf(log, "%s\n", line);
        bg_free(line);
    }
    rent(r, &decision, now_s);
    get_ready(r, now_s); // what takes no time to start
}

// ---- Figures ----

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void percentiles(float *values, uint64_t count, double out[3])
{
    static const double share[3] = {0.5, 0.9, 0.99};
    if (count)
        qsort(values, count, sizeof *values, by_value);
    for (int i = 0; i < 3; i++)
        out[i] = count ? (double)values[(uint64_t)fmax(0, ceil(share[i] * (double)count) - 1)] : 0;
}

static void settle(struct run *r)
{
    struct plan_service_result *result = r->result;
    const struct service_queue *q = &r->queue;
    result->requests = q->all;
    result->served = q->served;
    result->restarted = q->restarted;
    result->failed = q->all - q->served; // those still waiting or running at the end did not get an answer either
    percentiles(q->latency_s, q->served, result->latency_s);
    percentiles(q->first_token_s, q->served, result->first_token_s);
    double *const means[] = {&result->availability, &result->some, &result->target_mean, &result->spot_mean,
                             &result->on_demand_mean};
    for (size_t i = 0; i < sizeof means / sizeof *means; i++)
        *means[i] /= result->seconds;
}

void plan_service_run(const struct plan_service_job *job, const struct plan_service_policy *policy, struct bg_str *log,
                      struct plan_service_result *result)
{
    const double interval_s = job->scale.interval_s;
    const uint32_t steps = (uint32_t)ceil(job->seconds / interval_s);
    *result = (struct plan_service_result){.seconds = job->seconds};
    result->moments = bg_alloc_array(steps, sizeof *result->moments);
    struct run r = {.job = job, .scale = job->scale, .result = result};
    r.now = (struct plan_service_snapshot){.base = job->base, .extra = job->extra, .zone_count = job->zone_count};
    for (uint32_t z = 0; z < job->zone_count; z++)
        r.now.zones[z].price = job->price[z];
    r.window = (uint32_t)fmax(1, rint(job->scale.window_s / interval_s));
    r.came = bg_alloc_array(r.window, sizeof *r.came);
    service_queue_init(&r.queue, job);
    r.scale.window_s = r.window * interval_s;
    r.came[0] = service_queue_count(&r.queue, r.scale.window_s); // stands for the time before
    for (uint32_t i = 0; i < steps; i++) {
        const double from_s = i * interval_s, to_s = fmin(job->seconds, from_s + interval_s);
        decide(&r, policy, from_s, log);
        account(&r, to_s - from_s);
        r.came[i % r.window] = service_queue_run(&r.queue, from_s, to_s);
        r.decisions++;
    }
    settle(&r);
    service_queue_fini(&r.queue);
    bg_free(r.came);
}

void plan_service_result_fini(struct plan_service_result *result)
{
    bg_free(result->moments);
}
