// A planned job as a table and as JSON.
#include "cli/plan_job.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

#define BYTES_SHOWN_MAX 1.8e19 // as many as 64 bits count

struct sums { // of the whole job
    double tokens_step, tokens_second, job_s;
    double dollars_step, dollars_million, dollars_job;
    double idle; // part of the time of all workers with a seat
};

static struct sums sums_of(const struct plan_job *p)
{
    const struct plan_timeline *t = &p->list.items[0].timeline;
    struct sums s = {.dollars_step = t->dollars};
    s.idle = plan_chosen_idle(&p->list.items[0]);
    s.tokens_step = (double)p->job.train.micro_batch * p->job.train.micro_batches * p->length;
    s.tokens_second = t->step_s > 0 ? s.tokens_step / t->step_s : 0;
    s.job_s = t->step_s * (double)p->job.train.steps;
    s.dollars_million = s.dollars_step / s.tokens_step * 1e6;
    s.dollars_job = s.dollars_step * (double)p->job.train.steps;
    return s;
}

void plan_job_title(const struct plan_job *p, char text[160])
{
    const struct plan_chosen *best = &p->list.items[0];
    char shape[64];
    plan_chosen_shape(best, shape);
    snprintf(text, 160, "%s %s, %u item%s of %u micro-batch%s", p->job.run.schedule, shape, best->plan.item_count,
             best->plan.item_count == 1 ? "" : "s", best->group, best->group == 1 ? "" : "es");
}

static uint32_t share_of(const struct plan *plan, const struct plan_seat *seat)
{
    uint32_t share = 0;
    for (uint32_t i = 0; i < plan->item_count; i++)
        if (plan->route[(size_t)seat->stage * plan->item_count + i] == seat->worker)
            share += plan->items[i].end - plan->items[i].first;
    return share;
}

static bool stage_has(const struct plan_job *p, uint32_t stage, enum plan_sync_mode mode)
{
    const struct plan_sync_choice *choice = &p->list.items[0].choice;
    const uint32_t rank = plan_schedule_rank(p->spread.schedule, choice->stage_count, stage);
    return (choice->stages[rank].mode & mode) != 0;
}

// ---- Table ----

static void seconds_text(double seconds, char text[32])
{
    if (seconds >= 1e6)
        snprintf(text, 32, "%.4g s", seconds);
    else if (seconds >= 1)
        snprintf(text, 32, "%.3f s", seconds);
    else if (seconds >= 1e-3)
        snprintf(text, 32, "%.2f ms", seconds * 1e3);
    else
        snprintf(text, 32, "%.1f us", seconds * 1e6);
}

static void memory_text(const struct plan_worker_time *time, const struct plan_machine *machine, char text[48])
{
    char part[16], whole[16];
    cli_bytes(part, sizeof part, (uint64_t)fmin(time->peak_bytes, BYTES_SHOWN_MAX));
    cli_bytes(whole, sizeof whole, (uint64_t)machine->memory_bytes);
    snprintf(text, 48, machine->memory_bytes > 0 ? "%s of %s" : "%s", part, whole);
}

static void print_seats(const struct plan_job *p)
{
    const struct plan_chosen *best = &p->list.items[0];
    const struct plan *plan = &best->plan;
    int wide = 7;
    for (uint32_t i = 0; i < best->profile.machine_count; i++)
        wide = (int)strlen(best->profile.machines[i].name) > wide ? (int)strlen(best->profile.machines[i].name) : wide;
    printf("%-5s  %-9s  %-6s  %-*s  %9s  %18s  %10s  %6s\n", "stage", "units", "worker", wide, "machine", "share",
           "memory", "time", "idle %");
    for (uint32_t i = 0; i < plan->seat_count; i++) {
        const struct plan_seat *seat = &plan->seats[i];
        const struct plan_worker_time *time = &best->timeline.workers[seat->worker];
        const struct plan_machine *machine = &best->profile.machines[seat->worker];
        const struct plan_stage *stage = &plan->stages[seat->stage];
        char units[32], share[32], memory[48], busy[32];
        snprintf(units, sizeof units, "%u..%u", stage->unit_first, stage->unit_end - 1);
        snprintf(share, sizeof share, "%u of %u", share_of(plan, seat), plan->micro_batches);
        memory_text(time, machine, memory);
        seconds_text(time->busy_s, busy);
        printf("%-5u  %-9s  %-6u  %-*s  %9s  %18s  %10s  %6.1f%s\n", seat->stage, units, seat->worker, wide,
               machine->name, share, memory, busy, 100 * (1 - time->busy_s / best->timeline.step_s),
               stage_has(p, seat->stage, PLAN_SYNC_RECOMPUTE) ? "  forwards run twice"
               : stage_has(p, seat->stage, PLAN_SYNC_OFFLOAD) ? "  stashes wait on disk"
                                                              : "");
    }
    for (uint32_t i = 0; i < plan->follow_count; i++) {
        char memory[48];
        memory_text(&best->timeline.workers[plan->follows[i].worker], &best->profile.machines[plan->follows[i].worker],
                    memory);
        printf("%-5s  %-9s  %-6u  %-*s  %9s  %18s\n", "-", "all", plan->follows[i].worker, wide, "shadow", "follows",
               memory);
    }
}

static void print_next(const struct plan_job *p)
{
    for (uint32_t i = 1; i < p->list.count && i <= 2; i++) {
        const struct plan_chosen *next = &p->list.items[i];
        char shape[64], step[32];
        plan_chosen_shape(next, shape);
        seconds_text(next->timeline.step_s, step);
        printf("%s %s in items of %u: %s, %.1f %% more\n", i == 1 ? "next     " : "         ", shape, next->group, step,
               100 * (next->timeline.step_s / p->list.items[0].timeline.step_s - 1));
    }
}

void plan_job_table(const struct plan_job *p)
{
    const struct plan_chosen *best = &p->list.items[0];
    const struct sums s = sums_of(p);
    char title[160], step[32], time[32], tokens[32], *keys = plan_job_keys(p, p->out);
    plan_job_title(p, title);
    seconds_text(best->timeline.step_s, step);
    cli_duration(time, sizeof time, s.job_s);
    cli_count(tokens, sizeof tokens, s.tokens_second);
    printf("plan      %s\n\n", title);
    print_seats(p);
    printf("\nstep      %s predicted, %.1f %% of all workers' time idle\n", step, 100 * s.idle);
    printf("rate      %s tokens/s\n", tokens);
    printf("job       %llu steps, %s\n", (unsigned long long)p->job.train.steps, time);
    if (p->priced)
        printf("money     $%.4g a step, $%.4g a million tokens, $%.2f the job\n", s.dollars_step, s.dollars_million,
               s.dollars_job);
    if (best->timeline.joules > 0)
        printf("energy    %.4g J a step, %.4g kWh the job\n", best->timeline.joules,
               best->timeline.joules * (double)p->job.train.steps / 3.6e6);
    print_next(p);
    printf("run it    brigade train JOB %s\n", keys);
    if (p->explain)
        printf("\n%s", p->explanation);
    bg_free(keys);
}

// ---- JSON ----

static json_t *seat_json(const struct plan_chosen *best, const struct plan_seat *seat)
{
    const struct plan_worker_time *time = &best->timeline.workers[seat->worker];
    const struct plan_machine *machine = &best->profile.machines[seat->worker];
    return json_pack("{s:i, s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "worker", (int)seat->worker, "machine",
                     machine->name, "share", (int)share_of(&best->plan, seat), "memory_bytes", time->peak_bytes,
                     "memory_limit_bytes", machine->memory_bytes, "busy_s", time->busy_s, "idle",
                     1 - time->busy_s / best->timeline.step_s, "sent_bytes", time->sent_bytes, "received_bytes",
                     time->received_bytes, "dollars", time->dollars, "joules", time->joules);
}

static json_t *stages_json(const struct plan_job *p)
{
    const struct plan_chosen *best = &p->list.items[0];
    const struct plan *plan = &best->plan;
    json_t *stages = json_array();
    for (uint32_t s = 0; s < plan->stage_count; s++) {
        json_t *machines = json_array();
        double seconds = 0, bytes = 0;
        for (uint32_t u = plan->stages[s].unit_first; u < plan->stages[s].unit_end; u++) {
            const struct plan_unit *unit = &best->profile.units[u];
            seconds += unit->forward_s + unit->input_s + unit->weight_s;
            bytes += unit->parameter_bytes;
        }
        for (uint32_t i = 0; i < plan->seat_count; i++)
            if (plan->seats[i].stage == s)
                json_array_append_new(machines, seat_json(best, &plan->seats[i]));
        json_array_append_new(
            stages, json_pack("{s:i, s:i, s:f, s:f, s:b, s:b, s:o}", "unit_first", (int)plan->stages[s].unit_first,
                              "unit_end", (int)plan->stages[s].unit_end, "micro_batch_s", seconds, "parameter_bytes",
                              bytes, "recompute", stage_has(p, s, PLAN_SYNC_RECOMPUTE), "offload",
                              stage_has(p, s, PLAN_SYNC_OFFLOAD), "machines", machines));
    }
    return stages;
}

static json_t *other_json(const struct plan_chosen *c)
{
    char shape[64];
    plan_chosen_shape(c, shape);
    return json_pack("{s:s, s:i, s:f, s:f}", "shape", shape, "group", (int)c->group, "step_s", c->timeline.step_s,
                     "formula_s", c->choice.step_s);
}

static json_t *next_json(const struct plan_job *p)
{
    json_t *next = json_array();
    for (uint32_t i = 1; i < p->list.count; i++)
        json_array_append_new(next, other_json(&p->list.items[i]));
    return next;
}

static json_t *passes_json(const struct plan_chosen *c)
{
    static const char *const names[PLAN_PASSES] = {"wait-free", "one-owner", "chunks"};
    char text[64];
    json_t *gains = json_object();
    plan_passes_text(&c->passes, text);
    for (int i = 0; i < PLAN_PASSES; i++)
        json_object_set_new(gains, names[i],
                            json_pack("{s:b, s:f, s:f}", "applied", c->gains[i].applied, "before_s",
                                      c->gains[i].before_s, "after_s", c->gains[i].after_s));
    return json_pack("{s:s, s:o, s:{s:i, s:f, s:f, s:f}}", "applied", text, "gains", gains, "factors", "units",
                     (int)c->factors.units, "gradient_bytes", c->factors.full, "factor_bytes", c->factors.factors,
                     "weight_s", c->factors.weight_s);
}

static json_t *lines_json(const char *text)
{
    struct bg_strlist lines = {0};
    json_t *array = json_array();
    bg_strlist_split(&lines, text, '\n');
    for (size_t i = 0; i < lines.count; i++)
        if (lines.items[i][0])
            json_array_append_new(array, json_string(lines.items[i]));
    bg_strlist_fini(&lines);
    return array;
}

void plan_job_json(const struct plan_job *p)
{
    const struct plan_chosen *best = &p->list.items[0];
    const struct plan_timeline *t = &best->timeline;
    const struct sums s = sums_of(p);
    char shape[64], *keys = plan_job_keys(p, p->out);
    plan_chosen_shape(best, shape);
    json_t *object =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f}", "schedule", p->job.run.schedule, "shape",
                  shape, "group", (int)best->group, "items", (int)best->plan.item_count, "workers",
                  (int)best->plan.workers, "step_s", t->step_s, "formula_s", best->choice.step_s, "bubble_s",
                  t->bubble_s, "idle", s.idle, "tokens_per_second", s.tokens_second, "job_s", s.job_s);
    json_object_set_new(object, "shadow", json_boolean(best->plan.follow_count > 0));
    json_object_set_new(object, "exact", json_boolean(p->list.exact));
    json_object_set_new(object, "stages", stages_json(p));
    if (p->priced)
        json_object_set_new(object, "money",
                            json_pack("{s:f, s:f, s:f}", "dollars_step", s.dollars_step, "dollars_million_tokens",
                                      s.dollars_million, "dollars_job", s.dollars_job));
    json_object_set_new(object, "joules_step", json_real(t->joules));
    json_object_set_new(object, "passes", passes_json(best));
    json_object_set_new(object, "next", next_json(p));
    if (p->freely.count)
        json_object_set_new(object, "freely", other_json(&p->freely.items[0]));
    json_object_set_new(object, "explain", lines_json(p->explanation));
    json_object_set_new(object, "keys", json_string(keys));
    bg_free(keys);
    cli_print_json(object);
}
