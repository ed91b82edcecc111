// A choice in sentences: where the step goes, what bounds it, what memory had to say, and what the next plans lose.
#include "plan/split/choose.h"

#include "base/mem.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NEXT = 2 };

static void time_text(double seconds, char text[32])
{
    const double size = fabs(seconds);
    if (size >= 0.9995)
        snprintf(text, 32, "%.3g s", seconds);
    else if (size >= 0.9995e-3)
        snprintf(text, 32, "%.3g ms", seconds * 1e3);
    else
        snprintf(text, 32, "%.3g us", seconds * 1e6);
}

// Appends a time between two texts.
static void say(struct bg_str *text, const char *before, double seconds, const char *after)
{
    char time[32];
    time_text(seconds, time);
    bg_str_addf(text, "%s%s%s", before, time, after);
}

static const char *plural(uint32_t count)
{
    return count == 1 ? "" : "s";
}

static void explain_step(const struct plan_chosen *c, struct bg_str *text)
{
    const struct plan_sync_choice *choice = &c->choice;
    const struct plan_timeline *t = &c->timeline;
    const uint32_t slowest = plan_chosen_slowest(c);
    char shape[64];
    uint32_t s = 0;
    for (uint32_t i = 1; i < choice->stage_count; i++)
        if (choice->stages[i].busy_s > choice->stages[s].busy_s)
            s = i;
    plan_chosen_shape(c, shape);
    bg_str_addf(text, "Plan %s in %u item%s of %u micro-batch%s: ", shape, c->plan.item_count,
                plural(c->plan.item_count), c->group, c->group == 1 ? "" : "es");
    say(text, "", t->step_s, " a step as simulated, op by op");
    say(text, "; the planner's formula says ", choice->step_s, ".\n");
    say(text, "By the formula ", choice->fill_s, " of it is one item through all stages and back (the pipeline fills)");
    say(text, ", ", choice->wait_s, " the other items at the slowest stage");
    say(text, ", ", choice->exposed_s, " gradient traffic and optimizer that no backward hides");
    say(text, ", ", fmax(0, choice->step_s - choice->fill_s - choice->wait_s - choice->exposed_s),
        " votes and commit.\n");
    const struct plan_sync_stage *stage = &choice->stages[s];
    bg_str_addf(text, "The slowest stage is %u (units %u..%u on %u machine%s)", s, stage->unit_first,
                stage->unit_end - 1, stage->seat_end - stage->seat_first, plural(stage->seat_end - stage->seat_first));
    say(text, ": an item takes it ", stage->item_s, "");
    say(text, ", a step ", stage->busy_s, ".\n");
    bg_str_addf(text, "Worker %u (%s) computes longest", slowest, c->profile.machines[slowest].name);
    say(text, ": ", t->workers[slowest].busy_s, "");
    bg_str_addf(text, ", %.0f %% of the step; of the time of all workers %.0f %% is idle.\n",
                100 * t->workers[slowest].busy_s / t->step_s, 100 * plan_chosen_idle(c));
}

static bg_status explain_bound(const struct plan_chosen *c, struct bg_error *err, struct bg_str *text)
{
    static const char *const names[PLAN_GAINS] = {
        [PLAN_GAIN_STAGE] = "the machines of the longest stage",
        [PLAN_GAIN_COMPUTE] = "all machines",
        [PLAN_GAIN_LINK] = "links and messages",
        [PLAN_GAIN_COMMIT] = "commit and optimizer",
    };
    double gains[PLAN_GAINS];
    bg_status status = plan_chosen_gains(c, err, gains);
    if (status)
        return status;
    const char *bound = "the machines";
    if (gains[PLAN_GAIN_LINK] > gains[PLAN_GAIN_COMPUTE] && gains[PLAN_GAIN_LINK] > gains[PLAN_GAIN_COMMIT])
        bound = "the link";
    else if (gains[PLAN_GAIN_COMMIT] > gains[PLAN_GAIN_COMPUTE])
        bound = "commit and optimizer";
    else if (c->choice.stage_count > 1 && gains[PLAN_GAIN_STAGE] > 0.7 * gains[PLAN_GAIN_COMPUTE])
        bound = "the slowest stage";
    bg_str_addf(text, "What bounds it: %s. The step would be shorter with", bound);
    for (int g = 0; g < PLAN_GAINS; g++)
        bg_str_addf(text, "%s %s twice as fast by %.1f %%", g ? g + 1 == PLAN_GAINS ? " and" : "," : "", names[g],
                    100 * fmax(0, gains[g]));
    bg_str_add(text, ".\n");
    return BG_OK;
}

// ---- Passes ----

static bool has_traffic(const struct plan *plan)
{
    bool replicas = plan->follow_count > 0;
    for (uint32_t i = 0; i < plan->seat_count; i++)
        replicas |= plan->seats[i].replica > 0;
    return replicas;
}

static void explain_pass(const struct plan_chosen *c, enum plan_pass pass, struct bg_str *text)
{
    const struct plan_pass_gain *gain = &c->gains[pass];
    const double won = gain->before_s - gain->after_s;
    static const char *const names[PLAN_PASSES] = {"wait-free", "one-owner", "chunks"};
    static const char *const what[PLAN_PASSES] = {
        "sums of a unit leave while the next is computed",
        "one replica folds all sums",
        "a unit's sums go in so many messages",
    };
    const uint32_t numbers[PLAN_PASSES] = {0, c->passes.owner - 1, c->passes.chunks};
    if (!gain->applied && !c->wish.open[pass])
        return;
    bg_str_addf(text, "Pass %s", names[pass]);
    if (gain->applied && pass != PLAN_PASS_WAIT_FREE)
        bg_str_addf(text, ":%u", numbers[pass]);
    bg_str_addf(text, " (%s) ", what[pass]);
    if (!gain->applied)
        bg_str_add(text, "would not make the step shorter: left out.\n");
    else if (fabs(won) < 1e-6 * gain->before_s)
        bg_str_add(text, "makes no difference here.\n");
    else
        say(text, won > 0 ? "makes the step shorter by " : "makes the step longer by ", fabs(won), ".\n");
}

static void bytes_text(double bytes, char text[32])
{
    if (bytes >= 0.9995e9)
        snprintf(text, 32, "%.3g GB", 1e-9 * bytes);
    else
        snprintf(text, 32, "%.3g MB", 1e-6 * bytes);
}

static void explain_factors(const struct plan_chosen *c, struct bg_str *text)
{
    const struct plan_factors *f = &c->factors;
    char full[32], spared[32];
    if (!c->wish.factors)
        return;
    bytes_text(f->full, full);
    bytes_text(f->full - f->factors, spared);
    if (f->full <= 0) {
        bg_str_add(text, "Factors in place of gradients: no stage has several replicas.\n");
    } else if (f->units == 0) {
        bg_str_addf(text,
                    "Factors in place of gradients are more bytes for every unit; the busiest worker moves %s of "
                    "gradients a step.\n",
                    full);
    } else {
        bg_str_addf(text,
                    "Factors in place of the gradients of %u unit%s could spare the busiest worker %s of %s a step. "
                    "Refused: each worker would sum outer products in an order of its own, which is not the canonical "
                    "tree; ",
                    f->units, plural(f->units), spared, full);
        say(text, "the form that keeps the tree computes all their weight gradients on every replica, ", f->weight_s,
            " more a step.\n");
    }
}

static void explain_passes(const struct plan_chosen *c, struct bg_str *text)
{
    if (!c->wished)
        return;
    if (!has_traffic(&c->plan)) {
        bg_str_add(text, "Passes: each gradient is made and used by one worker, so none travels.\n");
        return;
    }
    for (int pass = 0; pass < PLAN_PASSES; pass++)
        explain_pass(c, (enum plan_pass)pass, text);
    explain_factors(c, text);
}

static void explain_memory(const struct plan_chosen *c, struct bg_str *text)
{
    const struct plan_profile *p = &c->profile;
    uint32_t fullest = UINT32_MAX;
    double most = 0;
    for (uint32_t w = 0; w < c->timeline.worker_count && w < p->machine_count; w++) {
        const double memory = p->machines[w].memory_bytes;
        if (memory > 0 && c->timeline.workers[w].peak_bytes / memory > most) {
            most = c->timeline.workers[w].peak_bytes / memory;
            fullest = w;
        }
    }
    if (fullest == UINT32_MAX)
        bg_str_add(text, "Memory: no machine has a limit.\n");
    else
        bg_str_addf(text, "Memory: worker %u (%s) is the fullest, with %.3g %% of its %.4g GB.\n", fullest,
                    p->machines[fullest].name, 100 * most, 1e-9 * p->machines[fullest].memory_bytes);
    for (uint32_t s = 0; s < c->choice.stage_count; s++)
        if (c->choice.stages[s].mode & PLAN_SYNC_RECOMPUTE)
            bg_str_addf(text, "Stage %u computes its forwards again to save memory.\n", s);
        else if (c->choice.stages[s].mode & PLAN_SYNC_OFFLOAD)
            bg_str_addf(text, "Stage %u keeps its stashes on disk to save memory.\n", s);
}

// What the other plan has more of, and less of, by the planner's terms.
static void explain_other(const struct plan_chosen *best, const struct plan_chosen *next, const char *title,
                          struct bg_str *text)
{
    const struct plan_sync_choice *a = &best->choice, *b = &next->choice;
    const struct {
        const char *name;
        double more;
    } terms[] = {{"to fill the pipeline", b->fill_s - a->fill_s},
                 {"at the slowest stage", b->wait_s - a->wait_s},
                 {"for gradients and optimizer", b->exposed_s - a->exposed_s}};
    const double more = next->timeline.step_s / best->timeline.step_s - 1;
    char shape[64];
    plan_chosen_shape(next, shape);
    bg_str_addf(text, "%s %s in items of %u", title, shape, next->group);
    say(text, ", ", next->timeline.step_s, "");
    bg_str_addf(text, ", %.1f %% %s.", 100 * fabs(more), more < 0 ? "less" : "more");
    const char *between = " By the formula it needs ";
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
        if (fabs(terms[i].more) < 1e-3 * a->step_s)
            continue;
        say(text, between, fabs(terms[i].more), terms[i].more > 0 ? " more " : " less ");
        bg_str_add(text, terms[i].name);
        between = ", ";
    }
    bg_str_add(text, *between == ',' ? ".\n" : " The formula sees no difference to speak of.\n");
    if (plan_chosen_recomputes(next) && !plan_chosen_recomputes(best))
        bg_str_add(text, "It fits only with forwards computed again.\n");
    if (plan_chosen_offloads(next) && !plan_chosen_offloads(best))
        bg_str_add(text, "It fits only with stashes on disk.\n");
}

static bool same(const struct plan_chosen *a, const struct plan_chosen *b)
{
    char one[64], other[64];
    plan_chosen_shape(a, one);
    plan_chosen_shape(b, other);
    return strcmp(one, other) == 0 && fabs(a->timeline.step_s - b->timeline.step_s) <= 1e-9 * a->timeline.step_s;
}

static void explain_others(const struct plan_chosen_list *list, const struct plan_chosen_list *freely,
                           struct bg_str *text)
{
    const struct plan_chosen *best = &list->items[0];
    if (list->given && !freely) {
        bg_str_add(text, "The shape was given: no other was considered.\n");
        return;
    }
    const struct plan_chosen_list *others = list->given ? freely : list;
    if (list->given && !same(best, &freely->items[0])) {
        explain_other(best, &freely->items[0], "The shape was given; chosen freely it is", text);
        return;
    }
    if (list->given)
        bg_str_add(text, "The shape was given; chosen freely it is the same.\n");
    for (uint32_t i = 1; i < others->count && i <= NEXT; i++)
        explain_other(best, &others->items[i], "Next:", text);
    if (others->count == 1)
        bg_str_add(text, "There is no plan of another shape for these machines.\n");
}

bg_status plan_chosen_explain(const struct plan_chosen_list *list, const struct plan_chosen_list *freely,
                              struct bg_error *err, char **text)
{
    struct bg_str out = {0};
    const struct plan_chosen *best = &list->items[0];
    explain_step(best, &out);
    bg_status status = explain_bound(best, err, &out);
    explain_passes(best, &out);
    explain_memory(best, &out);
    explain_others(list, freely, &out);
    bg_str_addf(&out, "%s\n",
                list->exact && (!freely || freely->exact)
                    ? "Every way to cut and to place was considered; of each shape the best was simulated."
                    : "There are too many ways to cut and to place: the best that a search found was simulated.");
    if (status)
        bg_str_fini(&out);
    else
        *text = bg_str_take(&out);
    return status;
}
