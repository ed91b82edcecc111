// One question to a fleet policy: its answer, its text, the answer again. The text is words: names and numbers in a
// fixed order; numbers are written so that they read back bit for bit.
#include "plan/fleet/fleet_ask.h"

#include "base/mem.h"
#include "plan/fleet/liveput.h"
#include "plan/words.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DRAWS = 100, COUNTS_MAX = 10000000 };

// Whether the machines left can be those of the shape and of the present.
static bg_status check(const struct plan_fleet_question *q, struct bg_error *err)
{
    const struct plan_fleet_shape s = q->left.shape;
    uint64_t live = 0;
    bool good = q->count > 0 && s.stages < PLAN_FLEET_NODES_MAX && s.replicas <= PLAN_FLEET_NODES_MAX &&
                s.longer <= s.replicas && plan_fleet_nodes(s) <= PLAN_FLEET_NODES_MAX &&
                s.stages + (s.longer > 0) <= q->model.layers + (uint64_t)2;
    for (uint32_t i = 0; i < PLAN_FLEET_NODES_MAX; i++) {
        const uint32_t here = i < s.stages ? s.replicas - s.longer : 0;
        const uint32_t deeper = i < s.stages + 1 ? s.longer : 0;
        good = good && q->left.live[0][i] <= here && q->left.live[1][i] <= deeper;
        live += q->left.live[0][i] + (uint64_t)q->left.live[1][i];
    }
    if (!good || live > q->counts[q->count - 1] || live > q->options.nodes_max)
        return bg_fail(err, BG_INVALID,
                       "%llu machines left of %u x %u + %u: expected a shape of at most %d, and no more "
                       "than are there",
                       (unsigned long long)live, s.replicas, s.stages, s.longer, PLAN_FLEET_NODES_MAX);
    return BG_OK;
}

bg_status plan_fleet_of(const struct plan_fleet_question *q, struct bg_error *err, struct plan_fleet **fleet)
{
    struct plan_profile profile = {0};
    bg_status status = plan_fleet_transformer(&q->model, err, &profile);
    if (!status)
        status = plan_fleet_create(&profile, &q->options, err, fleet);
    plan_profile_fini(&profile);
    return status;
}

bg_status plan_fleet_ask(const struct plan_fleet_question *q, struct bg_error *err, struct plan_fleet_shape *shape)
{
    struct plan_fleet *fleet = NULL;
    bg_status status = check(q, err);
    if (!status)
        status = plan_fleet_of(q, err, &fleet);
    if (status)
        return status;
    struct plan_fleet_snapshot now = {.fleet = fleet,
                                      .counts = q->counts,
                                      .count = q->count,
                                      .left = q->left,
                                      .coming = q->coming,
                                      .coming_count = q->coming_count};
    now.liveput = plan_liveput_create(fleet, DRAWS, q->seed);
    *shape = q->policy->decide(&now);
    plan_liveput_destroy(now.liveput);
    plan_fleet_destroy(fleet);
    return BG_OK;
}

// ---- Text ----

#define WHOLES  8
#define NUMBERS 11
static const char *const whole_names[WHOLES] = {"layers", "dim",           "vocabulary", "tokens",
                                                "nodes",  "micro-batches", "stages-min", "seed"};
static const char *const number_names[NUMBERS] = {"flops",      "link",  "memory",          "samples",
                                                  "interval",   "state", "rendezvous",      "group-add",
                                                  "group-drop", "store", "checkpoint-every"};

static void numbers_of(struct plan_fleet_question *q, uint32_t *wholes[WHOLES - 1], double *numbers[NUMBERS])
{
    struct plan_fleet_transformer *m = &q->model;
    struct plan_fleet_options *o = &q->options;
    uint32_t *const w[WHOLES - 1] = {&m->layers,    &m->dim,           &m->vocabulary, &m->tokens,
                                     &o->nodes_max, &o->micro_batches, &o->stages_min};
    double *const n[NUMBERS] = {&m->flops,        &m->link_bytes_s,  &m->memory_bytes,      &o->samples,
                                &o->interval_s,   &o->state_factor,  &o->rendezvous_s,      &o->group_add_s,
                                &o->group_drop_s, &o->store_bytes_s, &o->checkpoint_every_s};
    memcpy(wholes, w, sizeof w);
    memcpy(numbers, n, sizeof n);
}

char *plan_fleet_decision_format(const struct plan_fleet_question *question, struct plan_fleet_shape decided)
{
    struct plan_fleet_question q = *question;
    uint32_t *wholes[WHOLES - 1];
    double *numbers[NUMBERS];
    struct bg_str text = {0};
    numbers_of(&q, wholes, numbers);
    bg_str_addf(&text, "fleet %s decided %ux%u+%u on", q.policy->name, decided.replicas, decided.stages,
                decided.longer);
    for (size_t i = 0; i < WHOLES - 1; i++)
        bg_str_addf(&text, " %s %u", whole_names[i], *wholes[i]);
    bg_str_addf(&text, " %s %llu", whole_names[WHOLES - 1], (unsigned long long)q.seed);
    for (size_t i = 0; i < NUMBERS; i++)
        bg_str_addf(&text, " %s %.17g", number_names[i], *numbers[i]);
    const struct plan_fleet_shape s = q.left.shape;
    bg_str_addf(&text, " left %ux%u+%u", s.replicas, s.stages, s.longer);
    for (uint32_t deep = 0; deep < 2; deep++)
        for (uint32_t i = 0; i < s.stages + deep; i++)
            bg_str_addf(&text, " %u", q.left.live[deep][i]);
    bg_str_add(&text, " machines");
    for (uint32_t i = 0; i < q.count; i++)
        bg_str_addf(&text, " %u", q.counts[i]);
    if (q.policy->clairvoyant)
        bg_str_add(&text, " coming");
    for (uint32_t i = 0; i < q.coming_count && q.policy->clairvoyant; i++)
        bg_str_addf(&text, " %u", q.coming[i]);
    return bg_str_take(&text);
}

static bool take_shape(struct plan_words *r, struct plan_fleet_shape *shape)
{
    const char *word = plan_words_next(r);
    char end;
    return strlen(word) < 40 && strspn(word, "0123456789x+") == strlen(word) &&
           sscanf(word, "%9ux%9u+%9u%c", &shape->replicas, &shape->stages, &shape->longer, &end) == 3;
}

static bool take_numbers(struct plan_words *r, struct plan_fleet_question *q)
{
    uint32_t *wholes[WHOLES - 1];
    double *numbers[NUMBERS];
    uint64_t value;
    numbers_of(q, wholes, numbers);
    for (size_t i = 0; i < WHOLES; i++) {
        if (!plan_words_take(r, whole_names[i]) ||
            !plan_words_whole(r, i + 1 < WHOLES ? UINT32_MAX : UINT64_MAX, &value))
            return false;
        if (i + 1 < WHOLES)
            *wholes[i] = (uint32_t)value;
        else
            q->seed = value;
    }
    for (size_t i = 0; i < NUMBERS; i++) {
        if (!plan_words_take(r, number_names[i]) || !plan_words_number(r, numbers[i]))
            return false;
    }
    return true;
}

static bool take_left(struct plan_words *r, struct plan_fleet_left *left)
{
    uint64_t value;
    if (!plan_words_take(r, "left") || !take_shape(r, &left->shape) || left->shape.stages >= PLAN_FLEET_NODES_MAX)
        return false;
    for (uint32_t deep = 0; deep < 2; deep++)
        for (uint32_t i = 0; i < left->shape.stages + deep; i++) {
            if (!plan_words_whole(r, PLAN_FLEET_NODES_MAX, &value))
                return false;
            left->live[deep][i] = (uint32_t)value;
        }
    return true;
}

// counts: room for all words.
static bg_status take_line(struct plan_words *r, struct bg_error *err, struct plan_fleet_question *q,
                           struct plan_fleet_shape *decided, uint32_t *counts)
{
    bool good = plan_words_take(r, "fleet");
    const char *name = plan_words_next(r);
    q->policy = plan_fleet_policy_find(name);
    if (good && !q->policy)
        return bg_fail(err, BG_FORMAT, "no fleet policy '%.60s' here: was the log written by another version?", name);
    good = good && plan_words_take(r, "decided") && take_shape(r, decided) && plan_words_take(r, "on") &&
           take_numbers(r, q) && take_left(r, &q->left) && plan_words_take(r, "machines");
    uint64_t value = 0;
    q->counts = counts;
    while (good && r->at < r->count && q->count + q->coming_count < COUNTS_MAX) {
        if (q->policy->clairvoyant && !q->coming && strcmp(r->word[r->at], "coming") == 0) {
            q->coming = counts + q->count;
            r->at++;
            continue;
        }
        good = plan_words_whole(r, UINT32_MAX, &value);
        counts[q->count + q->coming_count] = (uint32_t)value;
        ++*(q->coming ? &q->coming_count : &q->count);
    }
    return good && q->count && (q->coming != NULL) == q->policy->clairvoyant
               ? BG_OK
               : bg_fail(err, BG_FORMAT,
                         "word %zu of a decision: expected \"fleet POLICY decided SHAPE on\", numbers with "
                         "their names, \"left SHAPE\" with machines a stage, \"machines\" with a count for "
                         "every interval (an oracle's also \"coming\" with those to come)",
                         r->at);
}

bool plan_fleet_decision_is(const char *line)
{
    return strncmp(line, "fleet ", 6) == 0;
}

bg_status plan_fleet_decision_replay(const char *line, struct bg_error *err)
{
    struct bg_strlist words = {0};
    struct plan_fleet_question q = {0};
    struct plan_fleet_shape decided = {0}, again = {0};
    bg_strlist_split(&words, line, ' ');
    struct plan_words r = {words.items, 0, words.count};
    uint32_t *counts = bg_alloc_array(words.count + 1, sizeof *counts);
    bg_status status = take_line(&r, err, &q, &decided, counts);
    if (!status)
        status = plan_fleet_ask(&q, err, &again);
    if (!status) {
        char *text = plan_fleet_decision_format(&q, again);
        if (memcmp(&again, &decided, sizeof again) != 0)
            status = bg_fail(err, BG_MISMATCH, "interval %u: %s decided %ux%u+%u, and decides %ux%u+%u now",
                             q.count - 1, q.policy->name, decided.replicas, decided.stages, decided.longer,
                             again.replicas, again.stages, again.longer);
        else if (strcmp(text, line) != 0)
            status = bg_fail(err, BG_MISMATCH,
                             "interval %u: the same decision, but the line is written differently now", q.count - 1);
        bg_free(text);
    }
    bg_strlist_fini(&words);
    bg_free(counts);
    return status;
}
