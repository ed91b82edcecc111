// The registry of deadline policies, the safety net, what a job may be, and the text of a snapshot.
#include "plan/spot/policy_int.h"

#include "base/mem.h"
#include "base/str.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY(name) &plan_deadline_##name,
const struct plan_policy *const plan_policies[] = {PLAN_POLICIES(ENTRY) NULL};
#undef ENTRY

static const char *const rent_names[PLAN_RENTS] = {"none", "spot", "on-demand"};

const struct plan_policy *plan_policy_find(const char *name)
{
    for (size_t i = 0; plan_policies[i]; i++)
        if (strcmp(plan_policies[i]->name, name) == 0)
            return plan_policies[i];
    return NULL;
}

const char *plan_rent_name(enum plan_rent rent)
{
    return rent_names[rent];
}

static double whole_ticks_up(double seconds, double gap_s)
{
    return ceil(seconds / gap_s) * gap_s;
}

enum plan_rent policy_safety_net(const struct plan_snapshot *now, double work_s, double deadline_s, enum plan_rent wish)
{
    const double gap_s = now->job.gap_s, overhead_s = now->job.overhead_s;
    const double left_s = floor((deadline_s - now->tick * gap_s) / gap_s) * gap_s, undone_s = work_s - now->done_s;
    const bool started = now->starting_s < 1e-3;
    // One tick more without work and it would be late: what starts now must be able to start once more.
    if (whole_ticks_up(undone_s + 2 * overhead_s, gap_s) >= left_s && now->rent != PLAN_RENT_SPOT)
        wish = PLAN_RENT_ON_DEMAND;
    if (whole_ticks_up(undone_s + overhead_s, gap_s) >= left_s) {
        wish = now->rent == PLAN_RENT_SPOT && started ? PLAN_RENT_SPOT : PLAN_RENT_ON_DEMAND;
        if (overhead_s == 0 && has_spot(now))
            wish = PLAN_RENT_SPOT;
    }
    return wish;
}

bg_status plan_deadline_check(const struct plan_deadline *job, struct bg_error *err)
{
    const struct {
        const char *name;
        double value;
        bool positive;
    } numbers[] = {{"tick", job->gap_s, true},
                   {"work", job->work_s, true},
                   {"deadline", job->deadline_s, true},
                   {"overhead", job->overhead_s, false},
                   {"spot price", job->price[PLAN_RENT_SPOT], false},
                   {"on-demand price", job->price[PLAN_RENT_ON_DEMAND], false},
                   {"most work", job->work_most_s, false},
                   {"most overhead", job->overhead_most_s, false}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= 0 && numbers[i].value <= 1e12) || (numbers[i].positive && numbers[i].value <= 0))
            return bg_fail(err, BG_INVALID, "the %s is %g: expected a number %s 0", numbers[i].name, numbers[i].value,
                           numbers[i].positive ? "above" : "of at least");
    if (job->instances < 1)
        return bg_fail(err, BG_INVALID, "0 instances: expected 1 or more");
    const double work_s = fmax(job->work_s, job->work_most_s), overhead_s = fmax(job->overhead_s, job->overhead_most_s);
    if (job->deadline_s / job->gap_s > 1e7)
        return bg_fail(err, BG_INVALID, "the deadline of %g s is more than 10 million ticks of %g s", job->deadline_s,
                       job->gap_s);
    if (whole_ticks_up(work_s + overhead_s, job->gap_s) > floor(job->deadline_s / job->gap_s) * job->gap_s)
        return bg_fail(
            err, BG_INVALID,
            "%g s of work and %g s of overhead do not fit into %g s in ticks of %g s, even on demand: take a "
            "later deadline",
            work_s, overhead_s, job->deadline_s, job->gap_s);
    return BG_OK;
}

// ---- Text ----

// The numbers of a snapshot in their order; the two functions below walk the same table.
#define NUMBERS 11
static const char *const number_names[NUMBERS] = {"starting",        "done",      "gap",          "work",
                                                  "deadline",        "overhead",  "price-none",   "price-spot",
                                                  "price-on-demand", "work-most", "overhead-most"};

static void numbers_of(struct plan_snapshot *now, double *numbers[NUMBERS])
{
    struct plan_deadline *job = &now->job;
    double *const all[NUMBERS] = {&now->starting_s, &now->done_s,      &job->gap_s,          &job->work_s,
                                  &job->deadline_s, &job->overhead_s,  &job->price[0],       &job->price[1],
                                  &job->price[2],   &job->work_most_s, &job->overhead_most_s};
    memcpy(numbers, all, sizeof all);
}

char *plan_snapshot_format(const struct plan_snapshot *now)
{
    struct bg_str text = {0};
    struct plan_snapshot copy = *now;
    double *numbers[NUMBERS];
    numbers_of(&copy, numbers);
    bg_str_addf(&text, "rent %s instances %u turn %u", rent_names[now->rent], now->job.instances, now->turn);
    for (size_t i = 0; i < NUMBERS; i++)
        bg_str_addf(&text, " %s %.17g", number_names[i], *numbers[i]);
    bg_str_add(&text, " spot");
    for (uint32_t t = 0; t <= now->tick; t++)
        bg_str_addf(&text, " %u", now->spot[t]);
    return bg_str_take(&text);
}

static bool take_u32(const char *word, uint32_t *value)
{
    char *end;
    const unsigned long long read = strtoull(word, &end, 10);
    if (*word < '0' || *word > '9' || *end || read > UINT32_MAX)
        return false;
    *value = (uint32_t)read;
    return true;
}

// The words in pairs, then "spot" and a count a tick.
static bg_status take_words(const struct bg_strlist *words, struct bg_error *err, struct plan_snapshot *now,
                            uint32_t *spot)
{
    double *numbers[NUMBERS];
    numbers_of(now, numbers);
    const size_t first_number = 6, first_count = first_number + 2 * NUMBERS + 1;
    char *const *word = words->items;
    if (words->count <= first_count || strcmp(word[0], "rent") != 0 || strcmp(word[first_count - 1], "spot") != 0)
        return bg_fail(err, BG_FORMAT,
                       "a snapshot of %zu words: expected \"rent NAME instances N turn N\", %d numbers with their "
                       "names, and \"spot\" with a count for every tick",
                       words->count, NUMBERS);
    size_t rent = 0;
    while (rent < PLAN_RENTS && strcmp(word[1], rent_names[rent]) != 0)
        rent++;
    if (rent == PLAN_RENTS)
        return bg_fail(err, BG_FORMAT, "word 2 of a snapshot: expected none, spot or on-demand, found '%.40s'",
                       word[1]);
    now->rent = (enum plan_rent)rent;
    if (strcmp(word[2], "instances") != 0 || !take_u32(word[3], &now->job.instances) || strcmp(word[4], "turn") != 0 ||
        !take_u32(word[5], &now->turn))
        return bg_fail(err, BG_FORMAT,
                       "word 3 of a snapshot: expected \"instances N turn N\", found \"%.40s %.40s %.40s %.40s\"",
                       word[2], word[3], word[4], word[5]);
    for (size_t i = 0; i < NUMBERS; i++) {
        const char *name = word[first_number + 2 * i], *value = word[first_number + 2 * i + 1];
        char *end;
        *numbers[i] = strtod(value, &end);
        if (strcmp(name, number_names[i]) != 0 || end == value || *end || !isfinite(*numbers[i]))
            return bg_fail(err, BG_FORMAT, "word %zu of a snapshot: expected \"%s NUMBER\", found \"%.40s %.40s\"",
                           first_number + 2 * i + 1, number_names[i], name, value);
    }
    for (size_t i = first_count; i < words->count; i++)
        if (!take_u32(word[i], &spot[i - first_count]))
            return bg_fail(err, BG_FORMAT, "word %zu of a snapshot: expected a count of spot instances, found '%.40s'",
                           i + 1, word[i]);
    now->tick = (uint32_t)(words->count - first_count - 1);
    return BG_OK;
}

bg_status plan_snapshot_parse(const char *text, struct bg_error *err, struct plan_snapshot *now, uint32_t **spot)
{
    struct bg_strlist words = {0};
    bg_strlist_split(&words, text, ' ');
    struct plan_snapshot read = {0};
    uint32_t *counts = bg_alloc_array(words.count, sizeof *counts);
    const bg_status status = take_words(&words, err, &read, counts);
    bg_strlist_fini(&words);
    if (status) {
        bg_free(counts);
        return status;
    }
    read.spot = counts;
    *now = read;
    *spot = counts;
    return BG_OK;
}

// ---- Decisions ----

char *plan_decision_format(const struct plan_policy *policy, const struct plan_snapshot *now, enum plan_rent decided)
{
    char *snapshot = plan_snapshot_format(now);
    char *line = bg_format("policy %s decided %s on %s", policy->name, rent_names[decided], snapshot);
    bg_free(snapshot);
    return line;
}

bg_status plan_decision_replay(const char *line, struct bg_error *err)
{
    char policy_name[64], decided[16];
    int used = 0;
    if (sscanf(line, "policy %63s decided %15s on %n", policy_name, decided, &used) != 2 || !used)
        return bg_fail(err, BG_FORMAT, "expected \"policy NAME decided RENT on SNAPSHOT\", found '%.60s'", line);
    const struct plan_policy *policy = plan_policy_find(policy_name);
    if (!policy)
        return bg_fail(err, BG_FORMAT, "no policy '%s' here: was the log written by another version?", policy_name);
    struct plan_snapshot now;
    uint32_t *spot = NULL;
    bg_status status = plan_snapshot_parse(line + used, err, &now, &spot);
    if (status)
        return status;
    const enum plan_rent again = policy->decide(&now);
    char *text = plan_decision_format(policy, &now, again);
    if (strcmp(rent_names[again], decided) != 0)
        status = bg_fail(err, BG_MISMATCH, "tick %u: %s decided %s, and decides %s now", now.tick, policy_name, decided,
                         rent_names[again]);
    else if (strcmp(text, line) != 0)
        status =
            bg_fail(err, BG_MISMATCH, "tick %u: the same decision, but the line is written differently now", now.tick);
    bg_free(text);
    bg_free(spot);
    return status;
}
