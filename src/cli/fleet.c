// A run as the controller of many processes sees it: the same books as those of one process, the log in SQLite, an
// endpoint whose address outlives a controller, and the state machine of ctl/ between them. What dies is noticed there.
#include "cli/fleet_int.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "cli/fleet_budget.h"
#include "ctl/run.h"
#include "os/host.h"
#include "os/ipc.h"
#include "store/sqlite/sqlite.h"
#include "plan/split/sync.h"
#include "train/estimate.h"
#include "train/executor.h"
#include "train/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define END_NS 500000000u // that long processes may take to end after they have left the job

struct fleet {
    struct bg_env *env;
    struct run run;
    struct job_spread spread;
    struct fleet_children children;
    struct store *store;
    struct comm *comm;
    struct fleet_budget *budget; // NULL: none
    double step_s, worker_flops; // that a step is expected to take; of a worker, a second
    // What the controller is told of the model.
    double *costs;
    uint32_t group;              // of run.plan=auto, 0: of any other
    double *speeds;              // (seats) of the workers, relative: in their order,
    double *seat_speeds;         // and rank by rank
    struct plan_profile profile; // of run.plan=auto, no units: of any other
    uint64_t *state_bytes;
    const char **names;

    uint64_t logged;       // steps in steps.jsonl
    uint64_t last_step_ns; // when the last one was committed
    double *seconds;       // of the steps of this call at full strength
    size_t second_count;
    double *recoveries; // ms
    size_t recovery_count;
    struct store_record evaluated; // newest evaluation, exact
    bg_status failed;              // a log could not be written
    struct bg_error error;

    // How it ended.
    uint64_t steps;
    bool hashed;
    char weights_sha256[65];
    struct fleet_result result;
};

// ---- What the controller has to know ----

// Relative flops of the units. The embedding computes next to nothing, but it is there.
static double *unit_costs(const struct model *model, uint32_t length, const struct plan_stage *cut, uint32_t stages)
{
    double *costs = bg_alloc_array(model->unit_count, sizeof *costs);
    double block = layout_flops_block(model, 1, length);
    double head = layout_flops(model, 1, length) - block * model->config.layers;
    for (uint32_t u = 0; u < model->unit_count; u++)
        costs[u] = u == 0 ? block / 64 : u + 1 == model->unit_count ? head : block;
    // A cut that was asked for: costs that have it as their only best one.
    for (uint32_t s = 0; s < stages && cut; s++)
        for (uint32_t u = cut[s].unit_first; u < cut[s].unit_end; u++)
            costs[u] = 1.0 / (cut[s].unit_end - cut[s].unit_first);
    return costs;
}

// Items of the busiest worker, over its speed. 0: there are fewer items than replicas.
static double turns_of(const struct fleet *f, uint32_t items)
{
    const struct job_spread *s = &f->spread;
    uint32_t *shares = bg_alloc_array(s->seats, sizeof *shares);
    double most = 0;
    for (uint32_t r = 0, seat = 0; r < s->stages; seat += s->replicas[r++]) {
        const double turns = plan_sync_split(f->seat_speeds + seat, NULL, s->replicas[r], items, shares);
        most = turns <= 0 || (r && most <= 0) ? 0 : fmax(most, turns);
    }
    bg_free(shares);
    return most;
}

// Micro-batches an item: few items cost less each, many fill a pipeline and share out in proportion.
static uint32_t choose_group(const struct fleet *f)
{
    const struct job *job = f->run.job;
    if (job->run.group || f->group)
        return job->run.group ? job->run.group : f->group;
    uint32_t best = 1;
    double best_cost = 0;
    for (uint32_t group = 1; group <= job->train.micro_batches; group *= 2) {
        const double turns = turns_of(f, (job->train.micro_batches + group - 1) / group);
        const double bubble = (double)(f->spread.stages - 1) / f->spread.chunks;
        const double cost = (turns + bubble) * (group + ESTIMATE_OP);
        if (turns <= 0)
            break;
        if (group == 1 || cost < best_cost) {
            best = group;
            best_cost = cost;
        }
    }
    return best;
}

static struct ctl_options controller_options(struct fleet *f)
{
    const struct job *job = f->run.job;
    const struct material *m = &f->run.material;
    const struct model *model = m->model;
    f->state_bytes = bg_alloc_array(model->unit_count, sizeof *f->state_bytes);
    f->names = bg_alloc_array(model->param_count, sizeof *f->names);
    for (uint32_t p = 0; p < model->param_count; p++) {
        f->state_bytes[model->params[p].unit] += 12 * model->params[p].count;
        f->names[p] = model->params[p].name;
    }
    struct ctl_options o = {
        .steps = job->train.steps,
        .eval_every = job->train.eval_every,
        .checkpoint_every = job->train.checkpoint_every,
        .evaluates = m->corpus->valid.count >= 2,
        .clip = job->train.clip,
        .micro_batches = job->train.micro_batches,
        .targets = m->tokens_per_step,
        .param_count = model->param_count,
        .param_names = f->names,
        .units = model->unit_count,
        .costs = f->costs,
        .state_bytes = f->state_bytes,
        .replicas = f->spread.replicas,
        .stages = f->spread.stages,
        .schedule = f->spread.schedule,
        .chunks = f->spread.chunks,
        .slices = f->spread.slices,
        .range = f->spread.range,
        .group = choose_group(f),
        .split = job->run.split,
        .saving = f->spread.saving,
        .saving_count = f->spread.stages,
        .passes = f->spread.passes,
        .profile = f->profile.unit_count ? &f->profile : NULL,
        .workers = f->spread.seats,
        .shadow = f->spread.shadow,
        .respawn = job->run.respawn,
        .recovery_checkpoint = strcmp(job->run.recovery, "checkpoint") == 0,
        .join_ns = (uint64_t)job->run.join_ms * 1000000,
        .patience_ns = (uint64_t)job->run.patience_ms * 1000000,
        .stop_after = f->run.options->stop_after,
    };
    bg_sha256_to_bytes(m->signature_sha256, o.signature);
    memcpy(&o.job, o.signature, sizeof o.job);
    return o;
}

// With items of every size, or of the one that was asked for. Errors are those of the smallest.
static bg_status best_shape(struct fleet *f, struct estimate_options *estimate, struct plan_options *options,
                            struct bg_error *err, struct plan_sync_shape *shape, uint32_t *rank_of)
{
    const uint32_t asked = f->run.job->run.group;
    const uint32_t first = asked ? asked : 1, last = asked ? asked : options->micro_batches;
    uint32_t *ranks = bg_alloc_array(f->spread.seats, sizeof *ranks);
    f->group = 0;
    for (uint32_t group = first; group <= last; group *= 2) {
        struct plan_profile profile;
        struct plan_sync_shape found;
        struct bg_error why;
        options->group = estimate->group = group;
        estimate_profile(f->run.material.model, estimate, &profile);
        const bg_status failed = plan_sync_shape(&profile, options, &why, &found, ranks);
        if (failed && group == first)
            *err = why;
        if (failed || (f->group && found.step_s >= 0.99 * shape->step_s)) {
            plan_profile_fini(&profile);
            continue;
        }
        plan_profile_fini(&f->profile);
        f->profile = profile;
        f->group = group;
        *shape = found;
        memcpy(rank_of, ranks, f->spread.seats * sizeof *ranks);
    }
    bg_free(ranks);
    return f->group ? BG_OK : err->status;
}

// run.plan=auto: as many pipeline ranks as make a step shortest, by the flops and bytes of the model, on workers that
// share this machine's cores and memory.
static bg_status choose_shape(struct fleet *f, struct bg_error *err)
{
    const struct job *job = f->run.job;
    const struct material *m = &f->run.material;
    const struct trainer_observer *observer = f->run.options->observer;
    struct job_spread *s = &f->spread;
    const double memory = job->run.memory_gb > 0
                              ? 1e9 * job->run.memory_gb
                              : 0.9 * (double)f->env->ops->memory_total(f->env) / (s->seats + s->shadow);
    struct estimate_options estimate = {.kern = m->kern,
                                        .batch = job->train.micro_batch,
                                        .length = m->length,
                                        .micro_batches = job->train.micro_batches,
                                        .workers = s->seats,
                                        .threads = f->children.threads,
                                        .cores = os_cpu_count(),
                                        .memory_bytes = memory,
                                        .split = job->run.split || plan_schedule_splits(s->schedule, s->slices),
                                        .slices = s->slices,
                                        .costs = f->costs,
                                        .speeds = f->speeds};
    struct plan_options options = {.costs = f->costs,
                                   .micro_batches = job->train.micro_batches,
                                   .schedule = s->schedule,
                                   .chunks = s->chunks,
                                   .slices = s->slices,
                                   .range = s->range,
                                   .split = job->run.split,
                                   .recompute = s->saving[0] & PLAN_RECOMPUTE,
                                   .offload = s->saving[0] & PLAN_OFFLOAD};
    struct plan_sync_shape shape;
    uint32_t *rank_of = bg_alloc_array(s->seats, sizeof *rank_of);
    bg_status status = best_shape(f, &estimate, &options, err, &shape, rank_of);
    if (status && job->run.memory_gb <= 0) { // by an estimate: that is no reason to refuse a job
        estimate.memory_bytes = 0;
        status = best_shape(f, &estimate, &options, err, &shape, rank_of);
    }
    for (uint32_t r = 0, seat = 0; !status && r < shape.stages; r++)
        for (uint32_t i = 0; i < s->seats; i++)
            if (rank_of[i] == r)
                f->seat_speeds[seat++] = f->speeds[i];
    bg_free(rank_of);
    if (status) {
        bg_fail_prefix(err, "run.plan=auto");
        return status;
    }
    job_spread_shape(job, shape.replicas, shape.stages, s);
    if (observer && observer->processes) {
        struct bg_str text = {0};
        bg_str_addf(&text, "plan: %u workers, ", s->seats);
        for (uint32_t i = 0; i < s->stages; i++)
            bg_str_addf(&text, "%s%u", i ? "+" : "", s->replicas[i]);
        bg_str_addf(&text, " at %u stage%s", s->stages, s->stages > 1 ? "s" : "");
        observer->processes(observer->arg, bg_str_text(&text));
        bg_str_fini(&text);
    }
    return BG_OK;
}

// As the controller shares out, if everybody comes. NULL: evenly.
static uint32_t *initial_shares(const struct fleet *f, const struct ctl_options *o)
{
    const uint32_t items = (o->micro_batches - 1) / o->group + 1;
    uint32_t *shares = bg_alloc_array(o->workers, sizeof *shares);
    bool alike = true, good = true;
    for (uint32_t i = 0; i < o->workers; i++)
        alike &= f->seat_speeds[i] == f->seat_speeds[0];
    for (uint32_t r = 0, w = 0; r < o->stages; w += o->replicas[r++])
        good &= plan_sync_split(f->seat_speeds + w, NULL, o->replicas[r], items, shares + w) > 0;
    if (!alike && good)
        return shares;
    bg_free(shares);
    return NULL;
}

static bg_status initial_plan(const struct fleet *f, const struct ctl_options *o, struct bg_error *err, char **text)
{
    uint32_t *shares = initial_shares(f, o);
    struct plan_options options = {.costs = o->costs,
                                   .units = o->units,
                                   .micro_batches = o->micro_batches,
                                   .group = o->group,
                                   .replicas = o->replicas,
                                   .stages = o->stages,
                                   .schedule = o->schedule,
                                   .chunks = o->chunks,
                                   .slices = o->slices,
                                   .range = o->range,
                                   .split = o->split,
                                   .saving = o->saving,
                                   .followers = o->shadow,
                                   .shares = shares,
                                   .passes = o->passes};
    struct plan plan;
    bg_status status = plan_build(&options, err, &plan);
    bg_free(shares);
    if (status)
        return status;
    *text = plan_format(&plan);
    plan_fini(&plan);
    return BG_OK;
}

// ---- What is told before the first step ----

// What the processes will touch, about: state and root of the units they hold, and the work of a stage.
static bg_status add_memory(const struct fleet *f, const struct ctl_options *o, struct bg_error *err,
                            struct trainer_info *info)
{
    const struct job *job = f->run.job;
    const struct material *m = &f->run.material;
    uint64_t full = 16 * m->model->floats;
    info->memory_bytes = f->run.losses_bytes + (o->shadow ? full : 0);
    struct plan_stage cut[PLAN_STAGES_MAX];
    bg_status status = plan_cut(o->costs, o->units, o->stages, err, cut);
    for (uint32_t s = 0; s < o->stages && !status; s++) {
        struct layout layout;
        struct layout_options options = {.unit_first = cut[s].unit_first,
                                         .unit_end = cut[s].unit_end,
                                         .batch = job->train.micro_batch,
                                         .length = m->length,
                                         .micro_batches = o->micro_batches,
                                         .group = o->group};
        uint64_t state = 0;
        for (uint32_t u = cut[s].unit_first; u < cut[s].unit_end; u++)
            state += o->state_bytes[u] / 12 * 16;
        status = layout_create(m->model, m->kern, f->children.threads, &options, err, &layout);
        if (status)
            break;
        uint64_t slots = layout.slots * (m->model->floats * 4 - state / 4);
        info->memory_bytes += o->replicas[s] * (state + layout.bytes - slots);
        layout_fini(&layout);
    }
    return status;
}

// Model flops a second of all cores on one block.
static double probe(struct fleet *f, uint32_t group)
{
    const struct job *job = f->run.job;
    const struct material *m = &f->run.material;
    struct executor_options options = {.model = m->model,
                                       .kern = m->kern,
                                       .view = &m->corpus->train,
                                       .seed = job->train.seed,
                                       .optim = job_optim(job),
                                       .batch = job->train.micro_batch,
                                       .length = m->length,
                                       .micro_batches =
                                           group < job->train.micro_batches ? group : job->train.micro_batches,
                                       .memory = executor_memory_env(f->env)};
    struct tree_node item = tree_node_root(options.micro_batches);
    uint8_t *holds = bg_alloc_array(m->model->unit_count, 1);
    struct executor_seating seating = {
        .stages = {{1, 2, 1}}, .stage_count = 1, .items = &item, .item_count = 1, .slots = 1, .holds = holds};
    holds[1] = 1;
    struct executor *ex = NULL;
    struct bg_error ignored; // then there is no expectation
    double rate = 0;
    bool kept = false;
    if (!executor_create(f->env, &options, &ignored, &ex)) {
        if (!executor_seat(ex, &seating, &ignored, &kept))
            rate = executor_probe(ex);
        executor_destroy(ex);
    }
    bg_free(holds);
    return rate;
}

static bg_status tell_started(struct fleet *f, const struct ctl_options *o, uint64_t step, struct bg_error *err)
{
    struct trainer_info info = run_info(&f->run, step);
    const struct trainer_observer *observer = f->run.options->observer;
    info.group = o->group;
    info.workers = o->workers;
    info.shadow = o->shadow;
    info.threads = f->children.threads;
    bg_status status = add_memory(f, o, err, &info);
    if (status)
        return status;
    double rate = observer && observer->started ? probe(f, o->group) : 0;
    unsigned cpus = os_cpu_count(), used = o->workers * f->children.threads;
    if (used < cpus)
        rate = rate * used / cpus;
    double items = (double)o->micro_batches / o->group, bubble = (double)(o->stages - 1) / o->chunks;
    f->worker_flops = rate / o->workers;
    if (rate > 0)
        f->step_s = info.flops_per_step / rate * (1 + bubble / items);
    info.expected_seconds = f->step_s * (double)(info.steps - step);
    return run_tell_started(&f->run, &info, err);
}

// ---- Processes ----

static bg_status spawn(void *arg, uint64_t token, enum message_role role, struct bg_error *err)
{
    struct fleet *f = arg;
    const struct fleet_child *child = NULL;
    bg_status status = fleet_child_start(&f->children, token, role, err, &child);
    if (status)
        return status;
    uint64_t start = 0;
    if (os_process_start_time(child->process.pid, err, &start))
        return BG_OK; // it has ended already: poll() tells
    json_t *fields = json_pack("{s:s, s:i, s:I, s:I}", "name", child->name, "process", child->process.pid,
                               "process_start", (json_int_t)start, "token", (json_int_t)token);
    return runlog_event(&f->run.log, "spawned", fields, err);
}

static bg_status rent(void *arg, uint64_t token, struct bg_error *err)
{
    return spawn(arg, token, MESSAGE_WORKER, err);
}

static void give_back(void *arg, uint64_t token)
{
    struct fleet *f = arg;
    (void)fleet_child_end(&f->children, token); // or it has ended
}

static bg_status decided(void *arg, const struct plan_snapshot *now, struct plan_choice wish, struct bg_error *err)
{
    return fleet_budget_decided(((struct fleet *)arg)->budget, now, wish, err);
}

static bg_status reshaped(void *arg, const struct plan_fleet_question *now, struct plan_fleet_shape shape,
                          struct bg_error *err)
{
    return fleet_budget_reshaped(((struct fleet *)arg)->budget, now, shape, err);
}

static const uint32_t *market(void *arg, uint32_t *tick)
{
    struct fleet *f = arg;
    return fleet_budget_market(f->budget, &f->children, tick);
}

static void poll_children(void *arg, void (*ended)(void *to, uint64_t token, const char *why), void *to)
{
    struct fleet *f = arg;
    uint64_t token = 0;
    char why[64];
    while (fleet_child_ended(&f->children, &token, why))
        ended(to, token, why);
}

static double speed(void *arg, uint64_t token)
{
    const struct fleet *f = arg;
    for (size_t i = 0; i < f->children.count; i++)
        if (f->children.list[i].token == token && f->children.list[i].place < f->spread.seats)
            return f->speeds[f->children.list[i].place];
    return 1; // started by hand, or by another controller
}

static bool lives(void *arg, uint64_t process, uint64_t process_start)
{
    (void)arg;
    return fleet_process_lives((int)process, process_start);
}

// ---- What happens ----

static void note(struct fleet *f, bg_status status, const struct bg_error *err)
{
    if (status && !f->failed) { // the job goes on: its own log holds what this one lacks
        f->failed = status;
        f->error = *err;
        run_warn(&f->run, "%s", err->text);
    }
}

static void on_committed(void *arg, const struct message_commit *commit, uint32_t workers, uint32_t generation)
{
    struct fleet *f = arg;
    uint64_t now = env_now_ns(f->env);
    double seconds = 1e-9 * (double)(now - f->last_step_ns);
    f->last_step_ns = now;
    if (f->budget)
        fleet_budget_committed(f->budget, commit->step, seconds, workers == f->spread.seats);
    if (workers == f->spread.seats)
        f->seconds[f->second_count++ % f->run.job->train.steps] = seconds;
    if (commit->step < f->logged) // made again after everybody went back
        return;
    f->run.losses[commit->step] = commit->loss;
    f->logged = commit->step + 1;
    struct step_record record = {commit->step, commit->loss, commit->norm, commit->clip};
    struct run_step step = {.record = &record,
                            .lr = job_lr(f->run.job, commit->step),
                            .seconds = seconds,
                            .workers = workers,
                            .generation = generation};
    struct bg_error err;
    note(f, run_step(&f->run, &step, &err), &err);
}

static double number(const json_t *fields, const char *key)
{
    return json_number_value(json_object_get(fields, key));
}

static void on_recovered(struct fleet *f, const json_t *fields)
{
    f->recoveries = bg_realloc_array(f->recoveries, f->recovery_count + 1, sizeof *f->recoveries);
    f->recoveries[f->recovery_count++] = number(fields, "ms");
}

// The few things that a person at the screen wants to know.
static void tell(const struct fleet *f, const char *event, const json_t *fields)
{
    const struct trainer_observer *observer = f->run.options->observer;
    char text[700] = "";
    const char *why = json_string_value(json_object_get(fields, "why"));
    const char *waits = json_string_value(json_object_get(fields, "text"));
    if (!strcmp(event, "lost") && why)
        snprintf(text, sizeof text, "lost member %.0f: %s", number(fields, "member"), why);
    else if (!strcmp(event, "recovered"))
        snprintf(text, sizeof text, "goes on after %.1f ms (generation %.0f)", number(fields, "ms"),
                 number(fields, "generation"));
    else if (!strcmp(event, "rollback"))
        snprintf(text, sizeof text, "back from step %.0f to %.0f", number(fields, "from"), number(fields, "to"));
    else if (!strcmp(event, "waiting") && waits)
        snprintf(text, sizeof text, "%s", waits);
    if (text[0] && observer && observer->processes)
        observer->processes(observer->arg, text);
}

static void on_event(void *arg, const char *event, const char *json_fields)
{
    struct fleet *f = arg;
    struct bg_error err;
    char *text = bg_format("{%s}", json_fields);
    json_t *fields = NULL;
    bg_status status = bg_json_parse(event, text, strlen(text), &err, &fields);
    bg_free(text);
    if (status) {
        note(f, status, &err);
        return;
    }
    uint64_t step = (uint64_t)number(fields, "step");
    const char *directory = json_string_value(json_object_get(fields, "directory"));
    if (!strcmp(event, "recovered"))
        on_recovered(f, fields);
    tell(f, event, fields);
    if (!strcmp(event, "evaluated")) {
        struct evaluate_result r = {.loss = f->evaluated.x,
                                    .perplexity = number(fields, "perplexity"),
                                    .bits_per_byte = f->evaluated.y,
                                    .tokens = f->evaluated.b,
                                    .seconds = number(fields, "seconds")};
        status = run_evaluated(&f->run, step, &r, &err);
    } else if (!strcmp(event, "checkpoint") && directory) {
        status = runlog_sync(&f->run.log, &err);
        if (!status)
            status = run_checkpointed(&f->run, step, directory, number(fields, "seconds"), &err);
    } else {
        status = runlog_event(&f->run.log, event, json_incref(fields), &err);
    }
    json_decref(fields);
    note(f, status, &err);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Of sorted values; nearest rank.
static double percentile(const double *values, size_t count, double p)
{
    size_t rank = (size_t)ceil(p * (double)count);
    return count ? values[rank ? rank - 1 : 0] : 0;
}

// ---- The log ----

// The store as it is, and a look at evaluations: their exact values go into our own log.
struct watched {
    struct store base;
    struct fleet *fleet;
};

static bg_status watched_append(struct store *store, const struct store_record *record, struct bg_error *err)
{
    struct fleet *f = ((struct watched *)store)->fleet;
    if (record->kind == STORE_EVALUATION)
        f->evaluated = *record;
    return f->store->ops->append(f->store, record, err);
}

static bg_status watched_replay(struct store *store,
                                bg_status (*fn)(void *arg, const struct store_record *, struct bg_error *), void *arg,
                                struct bg_error *err)
{
    struct fleet *f = ((struct watched *)store)->fleet;
    return f->store->ops->replay(f->store, fn, arg, err);
}

// What the log knows of the curve. Steps that were made again after a rollback had the same losses.
static bg_status take_record(void *arg, const struct store_record *r, struct bg_error *err)
{
    struct fleet *f = arg;
    (void)err;
    if (r->kind == STORE_COMMIT && r->a < f->run.job->train.steps && r->a <= f->logged) {
        f->run.losses[r->a] = r->x;
        f->logged = r->a == f->logged ? r->a + 1 : f->logged;
    }
    return BG_OK;
}

static bg_status remove_log(const struct fleet *f, const char *path, struct bg_error *err)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    bg_status status = BG_OK;
    for (size_t i = 0; i < 3 && !status; i++) {
        char *file = bg_format("%s%s", path, suffixes[i]);
        status = f->env->ops->path_remove(f->env, file, err);
        bg_free(file);
    }
    return status;
}

// Opens the log and counts the steps that are known. A log that ends before the newest checkpoint is of a time before
// one process went on with the run: it has nothing to tell.
static bg_status open_log(struct fleet *f, struct bg_error *err)
{
    char *path = bg_format("%s/log.sqlite", f->run.job->run.dir);
    bg_status status = store_sqlite_open(path, err, &f->store);
    if (!status)
        status = f->store->ops->replay(f->store, take_record, f, err);
    if (!status && f->logged < f->run.written_step) {
        f->store->ops->close(f->store);
        f->store = NULL;
        f->logged = f->run.written_step;
        status = remove_log(f, path, err);
        if (!status)
            status = store_sqlite_open(path, err, &f->store);
    }
    bg_free(path);
    return status;
}

// ---- The run ----

static void on_ended(void *arg, enum ctl_end end, const struct ctl_view *view)
{
    struct fleet *f = arg;
    (void)end;
    f->steps = view->committed;
    f->hashed = view->hashed;
    bg_sha256_from_bytes(view->weights_sha256, f->weights_sha256);
    f->result = (struct fleet_result){.workers = view->workers,
                                      .generation = view->generation,
                                      .generations = view->generations,
                                      .deaths = view->deaths,
                                      .leaves_recomputed = view->leaves_recomputed,
                                      .forwards_recomputed = view->forwards_recomputed,
                                      .steps_redone = view->steps_redone,
                                      .rollbacks = view->rollbacks,
                                      .fenced = view->fenced,
                                      .recoveries = f->recovery_count};
}

static void fill_result(struct fleet *f, struct trainer_result *r, uint64_t first_step, double seconds)
{
    run_fill_result(&f->run, f->steps, r);
    struct fleet_result *out = &f->result;
    if (f->recovery_count)
        qsort(f->recoveries, f->recovery_count, sizeof *f->recoveries, ascending);
    out->recovery_p50_ms = percentile(f->recoveries, f->recovery_count, 0.5);
    out->recovery_p99_ms = percentile(f->recoveries, f->recovery_count, 0.99);
    out->recovery_max_ms = percentile(f->recoveries, f->recovery_count, 1);
    size_t count = f->second_count < f->run.job->train.steps ? f->second_count : (size_t)f->run.job->train.steps;
    if (count)
        qsort(f->seconds, count, sizeof *f->seconds, ascending);
    double step = percentile(f->seconds, count, 0.5);
    out->goodput = seconds > 0 ? step * (double)(f->steps - first_step) / seconds : 0;
}

// The weights' hash where nobody computed it: of a run that was stopped or finished before, from its checkpoint.
static bg_status find_hash(const struct fleet *f, struct trainer_result *r, struct bg_error *err)
{
    if (f->hashed) {
        memcpy(r->weights_sha256, f->weights_sha256, sizeof r->weights_sha256);
        return BG_OK;
    }
    if (!f->run.written || f->run.written_step != r->steps)
        return BG_OK;
    struct manifest manifest;
    bg_status status = manifest_load(f->env, f->run.written_path, err, &manifest);
    if (status)
        return status;
    memcpy(r->weights_sha256, manifest.weights_sha256, sizeof r->weights_sha256);
    manifest_fini(&manifest);
    return BG_OK;
}

static bg_status control(struct fleet *f, const struct ctl_options *o, struct bg_error *err)
{
    static const struct store_ops ops = {.append = watched_append, .replay = watched_replay};
    struct watched log = {{&ops}, f};
    const struct run *run = &f->run;
    struct message_evaluation *evaluations = bg_alloc_array(run->evaluation_count + 1, sizeof *evaluations);
    for (size_t i = 0; i < run->evaluation_count; i++)
        evaluations[i] = (struct message_evaluation){run->evaluations[i].step, run->evaluations[i].tokens,
                                                     run->evaluations[i].loss, run->evaluations[i].bits_per_byte};
    struct ctl_checkpoint newest = {.step = run->written_step,
                                    .losses = run->losses,
                                    .evaluations = evaluations,
                                    .evaluation_count = run->evaluation_count,
                                    .directory = run->written_path};
    struct ctl_processes processes = {.arg = f,
                                      .spawn = spawn,
                                      .speed = speed,
                                      .poll = poll_children,
                                      .lives = lives,
                                      .rent = rent,
                                      .give_back = give_back};
    struct ctl_run_options options = {.job = o,
                                      .comm = f->comm,
                                      .store = &log.base,
                                      .processes = &processes,
                                      .newest = run->written ? &newest : NULL,
                                      .arg = f,
                                      .committed = on_committed,
                                      .event = on_event,
                                      .decided = decided,
                                      .reshaped = reshaped,
                                      .market = f->budget ? market : NULL,
                                      .ended = on_ended};
    f->last_step_ns = env_now_ns(f->env);
    bg_status status = ctl_run(f->env, &options, err);
    if (f->budget)
        f->result.budget = fleet_budget_json(f->budget, f->steps);
    bg_free(evaluations);
    return status;
}

static bg_status open_comm(struct fleet *f, struct bg_error *err)
{
    char address[COMM_ADDRESS_MAX];
    bg_status status = fleet_address(f->env, f->run.job->run.dir, true, err, address);
    struct comm_shm_options options = fleet_comm_options(f->run.job);
    options.address = address;
    return status ? status : comm_shm_create(f->env, &options, err, &f->comm);
}

// What the spread was left to us to decide.
static bg_status choose_spread(struct fleet *f, struct bg_error *err)
{
    const struct job *job = f->run.job;
    const struct material *m = &f->run.material;
    f->costs = unit_costs(m->model, m->length, f->spread.cut, f->spread.stages * f->spread.chunks);
    f->speeds = bg_alloc_array(f->spread.seats, sizeof *f->speeds);
    f->seat_speeds = bg_alloc_array(f->spread.seats, sizeof *f->seat_speeds);
    bg_status status = job_speeds(job, f->spread.seats, err, f->speeds);
    if (!status)
        memcpy(f->seat_speeds, f->speeds, f->spread.seats * sizeof *f->speeds);
    return !status && job_is_auto(job) && f->spread.seats > 1 ? choose_shape(f, err) : status;
}

static void open_children(struct fleet *f)
{
    const struct job *job = f->run.job;
    struct fleet_children *c = &f->children;
    unsigned cpus = os_cpu_count(), share = cpus / f->spread.seats;
    c->threads = job->run.threads ? job->run.threads : share ? share : 1;
    c->pinned = (uint64_t)c->threads * f->spread.seats <= cpus;
    c->first = f->spread.seats;
    c->run = job->run.dir;
    if (f->run.options->resume)
        fleet_children_adopt(f->env, c, c->run);
    os_executable(c->executable, sizeof c->executable);
}

static bg_status open_run(struct fleet *f, const struct trainer_options *options, struct bg_error *err)
{
    bg_status status = run_open(&f->run, f->env, options, err);
    if (!status && options->resume)
        status = run_restore(&f->run, NULL, err);
    if (status)
        return status;
    material_close_start(&f->run.material);
    f->logged = f->steps = f->run.written_step;
    f->seconds = bg_alloc_array(f->run.job->train.steps, sizeof *f->seconds);
    return job_spread(f->env, f->run.job, f->run.material.model->unit_count, err, &f->spread);
}

static bg_status open_files(struct fleet *f, const struct ctl_options *o, struct bg_error *err)
{
    char *plan = NULL;
    bg_status status = initial_plan(f, o, err, &plan);
    if (!status)
        status = tell_started(f, o, f->run.written_step, err);
    if (!status && f->run.options->resume) // what it knows of the curve goes into the other files
        status = open_log(f, err);
    if (!status)
        status = run_open_files(&f->run, f->logged, plan, err);
    if (!status && !f->store)
        status = open_log(f, err);
    bg_free(plan);
    return status ? status : open_comm(f, err);
}

static bg_status start_budget(struct fleet *f, struct ctl_options *o, struct bg_error *err)
{
    const struct trainer_observer *observer = f->run.options->observer;
    const struct model_config *config = &f->run.material.model->config;
    const struct plan_fleet_transformer model = {.layers = config->layers,
                                                 .dim = config->dim,
                                                 .vocabulary = config->vocab,
                                                 .tokens = f->run.job->train.micro_batch * f->run.material.length,
                                                 .flops = f->worker_flops > 0 ? f->worker_flops : 1e9};
    bg_status status = fleet_budget_start(f->budget, f->step_s, &model, &f->children, err);
    if (status)
        return status;
    o->budget = fleet_budget_terms(f->budget);
    if (o->budget->fleet.policy)
        o->profile = NULL; // it chooses the shape
    char *text = fleet_budget_forecast(f->budget);
    if (observer && observer->processes)
        observer->processes(observer->arg, text);
    bg_free(text);
    return BG_OK;
}

static bg_status run_opened(struct fleet *f, const struct trainer_options *options, struct bg_error *err,
                            struct trainer_result *result)
{
    bg_status status = open_run(f, options, err);
    if (!status)
        status = run_is_finished(&f->run, f->steps, err, &result->nothing_to_do);
    if (status)
        return status;
    if (result->nothing_to_do) {
        fill_result(f, result, f->steps, 0);
        return find_hash(f, result, err);
    }
    open_children(f);
    status = choose_spread(f, err);
    if (status)
        return status;
    struct ctl_options o = controller_options(f);
    struct trainer_info info = {0};
    status = add_memory(f, &o, err, &info);
    if (!status && job_has_budget(f->run.job))
        status = fleet_budget_open(f->env, f->run.job, o.workers, err, &f->budget);
    if (!status)
        status = open_files(f, &o, err);
    if (!status && f->budget)
        status = start_budget(f, &o, err);
    if (status)
        return status;
    result->memory_bytes = info.memory_bytes;
    uint64_t first_step = f->logged;
    f->run.start_ns = env_now_ns(f->env);
    status = control(f, &o, err);
    if (!status || status == BG_STOPPED)
        fill_result(f, result, first_step, run_seconds(&f->run));
    result->steps = f->steps;
    fleet_children_end(f->env, &f->children, END_NS);
    struct bg_error second;
    bg_status found = !status || status == BG_STOPPED ? find_hash(f, result, status ? &second : err) : BG_OK;
    status = status ? status : found;
    if (!status && f->failed) {
        *err = f->error;
        status = f->failed;
    }
    return run_end(&f->run, status, result, fleet_json(&f->result), err);
}

bg_status fleet_run(struct bg_env *env, const struct trainer_options *options, struct bg_error *err,
                    struct trainer_result *out, struct fleet_result *fleet)
{
    uint32_t fp = kern_fp_enter();
    struct fleet f = {.env = env};
    struct trainer_result result = {.valid_loss = -1};
    bg_status status = run_opened(&f, options, err, &result);
    if (!status || status == BG_STOPPED) {
        *out = result;
        *fleet = f.result;
    }
    fleet_children_end(env, &f.children, 0);
    if (f.comm)
        f.comm->ops->destroy(f.comm);
    if (f.store)
        f.store->ops->close(f.store);
    fleet_budget_close(f.budget);
    bg_free(f.spread.cut);
    bg_free(f.costs);
    bg_free(f.speeds);
    bg_free(f.seat_speeds);
    plan_profile_fini(&f.profile);
    bg_free(f.state_bytes);
    bg_free(f.names);
    bg_free(f.seconds);
    bg_free(f.recoveries);
    run_close(&f.run);
    kern_fp_leave(fp);
    return status;
}

json_t *fleet_json(const struct fleet_result *r)
{
    json_t *o = json_pack(
        "{s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:{s:I, s:f, s:f, s:f}, s:f}", "workers", (int)r->workers,
        "generation", (int)r->generation, "generations", (json_int_t)r->generations, "deaths", (json_int_t)r->deaths,
        "leaves_recomputed", (json_int_t)r->leaves_recomputed, "forwards_recomputed",
        (json_int_t)r->forwards_recomputed, "steps_redone", (json_int_t)r->steps_redone, "rollbacks",
        (json_int_t)r->rollbacks, "fenced", (json_int_t)r->fenced, "recovery_ms", "count", (json_int_t)r->recoveries,
        "p50", r->recovery_p50_ms, "p99", r->recovery_p99_ms, "max", r->recovery_max_ms, "goodput", r->goodput);
    if (r->budget)
        json_object_set(o, "budget", r->budget);
    return o;
}
