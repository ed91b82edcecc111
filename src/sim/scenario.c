// What a seed stands for: a job, a shape, a schedule, a pace. The faults come from fault.c.
#include "sim/world.h"

#include "plan/pass/pass.h"
#include "plan/schedule/schedule.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t replicas[SIM_RANKS_MAX], ranks;
} shapes[] = {
    {"1x1", {1}, 1},    {"1x2", {2}, 1},       {"2x1", {1, 1}, 2},       {"2x2", {2, 2}, 2},
    {"1+2", {1, 2}, 2}, {"3x1", {1, 1, 1}, 3}, {"4x1", {1, 1, 1, 1}, 4}, {"1x4", {4}, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const uint32_t model_units[SIM_MODELS] = {4, 6, 4, 5, 5, 8, 5, 4}; // of the models in job.c: layers + 2

void sim_scenario_reshape(struct sim_random *random, struct sim_scenario *s)
{
    uint32_t shape = sim_random_below(random, SHAPES);
    if (shapes[shape].ranks * s->chunks > model_units[s->job % SIM_MODELS])
        return;
    s->ranks = shapes[shape].ranks;
    memcpy(s->replicas, shapes[shape].replicas, sizeof s->replicas);
}

void sim_scenario_make(uint64_t seed, struct sim_scenario *s, char *text, size_t size)
{
    struct sim_random random = sim_random_make(seed, 4);
    struct sim_random *r = &random;
    uint32_t shape = sim_random_below(r, SHAPES);
    uint32_t model = sim_random_below(r, SIM_MODELS - 2);
    model = sim_random_chance(r, 40) ? SIM_MODELS - 1 : sim_random_chance(r, 100) ? SIM_SLICED : model;
    *s = (struct sim_scenario){.job = model + SIM_MODELS * sim_random_below(r, 3), .ranks = shapes[shape].ranks};
    memcpy(s->replicas, shapes[shape].replicas, sizeof s->replicas);
    s->schedule = (enum plan_schedule)sim_random_below(r, PLAN_SCHEDULES);
    s->chunks = plan_schedule_chunks(s->schedule, 2);
    if (s->ranks * s->chunks > model_units[s->job % SIM_MODELS]) {
        s->schedule = PLAN_1F1B;
        s->chunks = 1;
    }
    s->slices = model == SIM_SLICED ? sim_random_between(r, 1, 3) : 1;
    s->group = sim_random_chance(r, 300) ? 2 : 1;
    s->split = sim_random_chance(r, 400);
    s->recompute = sim_random_chance(r, 200);
    s->shadow = sim_random_chance(r, 500);
    s->respawn = sim_random_chance(r, 700);
    s->baseline = sim_random_chance(r, 60);
    s->steps = sim_random_between(r, 4, SIM_STEPS_MAX);
    s->eval_every = sim_random_chance(r, 700) ? 2 : 0;
    s->checkpoint_every = sim_random_chance(r, 800) ? 2 : 0;
    static const uint64_t paces[] = {2000, 20000, 200000};
    s->latency_ns = paces[sim_random_below(r, 3)];
    s->turn_ns = paces[sim_random_below(r, 3)];
    s->rents = sim_random_chance(r, 300);
    s->shadow |= s->rents && sim_random_chance(r, 800);
    s->fault_count = sim_random_chance(r, 100) ? 0 : sim_random_between(r, 1, SIM_FAULTS_MAX);
    s->range = sim_random_below(r, 4);
    s->offload = !s->recompute && sim_random_chance(r, 200);
    for (uint32_t rank = 0; rank < s->ranks; rank++) // of all, or of every other one
        if (s->steps % 2 == 0 || rank % 2 == 1)
            s->saving[rank] = s->recompute ? PLAN_RECOMPUTE : s->offload ? PLAN_OFFLOAD : 0;
    s->passes.held = sim_random_chance(r, 250);
    s->passes.owner = sim_random_chance(r, 300) ? sim_random_between(r, 1, 3) : 0;
    s->passes.chunks = sim_random_chance(r, 300) ? sim_random_between(r, 1, 4) : 0;
    s->fleet = s->rents && sim_random_chance(r, 500) ? sim_random_between(r, 2, 5) : 0;
    s->market_ns = (s->turn_ns + s->latency_ns) * (sim_random_chance(r, 500) ? 20 : 200);
    char passes[64], fleet[32] = "";
    if (s->fleet)
        snprintf(fleet, sizeof fleet, " up to %u in any shape", s->fleet);
    plan_passes_text(&s->passes, passes);
    snprintf(text, size,
             "job %u, shape %s, %s in %u slices%s%s, passes %s, group %u, %llu steps, evaluation every %llu, "
             "checkpoint every %llu, shadow %s, "
             "respawn %s%s%s%s, %u faults",
             s->job, shapes[shape].name, plan_schedule_kind(s->schedule)->name, s->slices, s->split ? ", split" : "",
             s->recompute ? ", recompute" : "", passes, s->group, (unsigned long long)s->steps,
             (unsigned long long)s->eval_every, (unsigned long long)s->checkpoint_every, s->shadow ? "on" : "off",
             s->respawn ? "on" : "off", s->baseline ? ", back to the checkpoint on any death" : "",
             s->rents ? ", rents" : "", fleet, s->fault_count);
}

void sim_scenario_matrix(uint32_t variant, struct sim_scenario *s, char *text, size_t size)
{
    const bool sliced = variant == 6, rents = variant >= SIM_MATRIX_RENTS;
    const bool pipeline = variant >= 4;               // every stage once, and the shadow
    *s = (struct sim_scenario){.job = 3 + SIM_MODELS, // 4 micro-batches
                               .replicas = {2, 2},
                               .ranks = 2,
                               .schedule = PLAN_1F1B,
                               .chunks = 1,
                               .group = 1,
                               .shadow = pipeline || variant & 1,
                               .respawn = pipeline ? variant & 1 : variant & 2,
                               .steps = 4,
                               .eval_every = 2,
                               .checkpoint_every = 2,
                               .latency_ns = 20000,
                               .turn_ns = 20000};
    if (pipeline) {
        s->ranks = sliced ? 2 : 4;
        for (uint32_t r = 0; r < s->ranks; r++)
            s->replicas[r] = 1;
    }
    if (rents) {
        s->rents = s->respawn = true;
        s->ranks = variant == SIM_MATRIX_RENTS ? 2 : 1;
        s->replicas[0] = variant == SIM_MATRIX_RENTS ? 1 : 2;
    }
    if (sliced) {
        s->job = SIM_SLICED + SIM_MODELS;
        s->schedule = PLAN_SEQ1F1B;
        s->slices = 3;
        s->steps = 3;
    }
    const char *shape = sliced ? "2x1 in 3 slices" : !rents ? pipeline ? "4x1" : "2x2" : s->ranks == 2 ? "2x1" : "1x2";
    snprintf(text, size, "kill matrix, shape %s, shadow %s, respawn %s%s", shape, s->shadow ? "on" : "off",
             s->respawn ? "on" : "off", rents ? ", rents" : "");
}
