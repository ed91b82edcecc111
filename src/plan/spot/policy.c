// The registry of deadline policies, the safety net, what a job may be, and the text of a snapshot.
#include "plan/spot/policy_int.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/spot/zone.h"

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

struct plan_choice plan_decide(const struct plan_policy *policy, const struct plan_snapshot *now)
{
    struct plan_choice choice = {policy->decide(now), PLAN_NOWHERE};
    if (now->zone_count && choice.rent != PLAN_RENT_NONE) {
        choice.zone = plan_zone_choose(now, choice.rent);
        choice.rent = choice.zone == PLAN_NOWHERE ? PLAN_RENT_NONE : choice.rent;
    }
    return choice;
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
            return bg_fail(err, BG_INVALID, "the %s is %g: expected a number %s 0, at most 1e12", numbers[i].name,
                           numbers[i].value, numbers[i].positive ? "above" : "of at least");
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

static const char *zone_name(const struct plan_snapshot *now, uint32_t zone)
{
    return zone < now->zone_count ? now->zones[zone].name : "-";
}

char *plan_snapshot_format(const struct plan_snapshot *now)
{
    struct bg_str text = {0};
    struct plan_snapshot copy = *now;
    double *numbers[NUMBERS];
    numbers_of(&copy, numbers);
    if (now->zone_count)
        bg_str_addf(&text, "zones %u ", now->zone_count);
    for (uint32_t z = 0; z < now->zone_count; z++)
        bg_str_addf(&text, "%s %u %.17g %.17g ", now->zones[z].name, now->zones[z].spot,
                    now->zones[z].price[PLAN_RENT_SPOT], now->zones[z].price[PLAN_RENT_ON_DEMAND]);
    if (now->zone_count)
        bg_str_addf(&text, "at %s ", zone_name(now, now->rent == PLAN_RENT_NONE ? PLAN_NOWHERE : now->zone));
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

static bool take_number(const char *word, double *value)
{
    char *end;
    *value = strtod(word, &end);
    return end != word && !*end && isfinite(*value) && *value >= 0;
}

static uint32_t find_zone(const struct plan_snapshot *now, const char *name)
{
    uint32_t zone = 0;
    while (zone < now->zone_count && strcmp(now->zones[zone].name, name) != 0)
        zone++;
    return zone < now->zone_count ? zone : PLAN_NOWHERE;
}

// "zones N", of each its name, spot and prices, then "at NAME". *used: words.
static bg_status take_zones(char *const *word, size_t count, struct bg_error *err, struct plan_snapshot *now,
                            struct plan_zone *zones, size_t *used)
{
    uint32_t all = 0;
    *used = 0;
    now->zone = PLAN_NOWHERE;
    if (!count || strcmp(word[0], "zones") != 0)
        return BG_OK;
    bool good = count > 2 && take_u32(word[1], &all) && all && all <= PLAN_ZONES_MAX && count > 4 + 4 * (size_t)all;
    for (uint32_t z = 0; z < all && good; z++) {
        char *const *w = word + 2 + (size_t)4 * z;
        good = *w[0] && *w[0] != '-' && strlen(w[0]) <= PLAN_ZONE_NAME_MAX && find_zone(now, w[0]) == PLAN_NOWHERE &&
               take_u32(w[1], &zones[z].spot) && take_number(w[2], &zones[z].price[PLAN_RENT_SPOT]) &&
               take_number(w[3], &zones[z].price[PLAN_RENT_ON_DEMAND]);
        zones[z].name = w[0];
        now->zones = zones;
        now->zone_count = z + 1;
    }
    *used = 4 + 4 * (size_t)all;
    if (!good || strcmp(word[*used - 2], "at") != 0)
        return bg_fail(
            err, BG_FORMAT,
            "zones of a snapshot: expected \"zones N\" of at most %d, each with name, spot and two prices, and "
            "\"at NAME\"",
            PLAN_ZONES_MAX);
    now->zone = find_zone(now, word[*used - 1]);
    return BG_OK;
}

// What zones and the rest say of each other.
static bool zones_agree(const struct plan_snapshot *now)
{
    uint32_t most = 0;
    for (uint32_t z = 0; z < now->zone_count; z++)
        most = now->zones[z].spot > most ? now->zones[z].spot : most;
    return !now->zone_count ||
           (most == now->spot[now->tick] && (now->zone != PLAN_NOWHERE) == (now->rent != PLAN_RENT_NONE));
}

// The words in pairs, then "spot" and a count a tick.
static bg_status take_words(char *const *word, size_t count, struct bg_error *err, struct plan_snapshot *now,
                            uint32_t *spot)
{
    double *numbers[NUMBERS];
    numbers_of(now, numbers);
    const size_t first_number = 6, first_count = first_number + 2 * NUMBERS + 1;
    if (count <= first_count || strcmp(word[0], "rent") != 0 || strcmp(word[first_count - 1], "spot") != 0)
        return bg_fail(err, BG_FORMAT,
                       "a snapshot of %zu words: expected \"rent NAME instances N turn N\", %d numbers with their "
                       "names, and \"spot\" with a count for every tick",
                       count, NUMBERS);
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
        if (strcmp(name, number_names[i]) != 0 || !take_number(value, numbers[i]))
            return bg_fail(err, BG_FORMAT, "word %zu of a snapshot: expected \"%s NUMBER\", found \"%.40s %.40s\"",
                           first_number + 2 * i + 1, number_names[i], name, value);
    }
    for (size_t i = first_count; i < count; i++)
        if (!take_u32(word[i], &spot[i - first_count]))
            return bg_fail(err, BG_FORMAT, "word %zu of a snapshot: expected a count of spot instances, found '%.40s'",
                           i + 1, word[i]);
    now->tick = (uint32_t)(count - first_count - 1);
    now->spot = spot;
    return zones_agree(now)
               ? BG_OK
               : bg_fail(err, BG_FORMAT,
                         "zones of a snapshot: expected the last count of spot to be the most that one has, "
                         "and \"at\" the one where something is rented");
}

// The words point into the memory that the snapshot gets.
bg_status plan_snapshot_parse(const char *text, struct bg_error *err, struct plan_snapshot *now, void **memory)
{
    size_t count = 1;
    for (const char *at = text; *at; at++)
        count += *at == ' ';
    struct block {
        struct plan_zone zones[PLAN_ZONES_MAX];
        char *words[];
    };
    const size_t words_size = count * sizeof(char *), counts_size = count * sizeof(uint32_t);
    struct block *block = bg_alloc(sizeof *block + words_size + counts_size + strlen(text) + 1);
    uint32_t *counts = (uint32_t *)(block->words + count);
    char *copy = memcpy((char *)(counts + count), text, strlen(text) + 1);
    for (size_t i = 0; i < count; i++) {
        block->words[i] = copy;
        copy += strcspn(copy, " ");
        *copy++ = '\0';
    }
    struct plan_snapshot read = {0};
    size_t used = 0;
    bg_status status = take_zones(block->words, count, err, &read, block->zones, &used);
    if (!status)
        status = take_words(block->words + used, count - used, err, &read, counts);
    if (status) {
        bg_free(block);
        return status;
    }
    *now = read;
    *memory = block;
    return BG_OK;
}

// ---- Decisions ----

char *plan_decision_format(const struct plan_policy *policy, const struct plan_snapshot *now,
                           struct plan_choice decided)
{
    char *snapshot = plan_snapshot_format(now);
    char *line =
        bg_format("policy %s decided %s%s%s on %s", policy->name, rent_names[decided.rent],
                  now->zone_count ? " in " : "", now->zone_count ? zone_name(now, decided.zone) : "", snapshot);
    bg_free(snapshot);
    return line;
}

bg_status plan_decision_parse(const char *line, struct bg_error *err, const struct plan_policy **policy,
                              struct plan_snapshot *now, struct plan_choice *decided, void **memory)
{
    char name[64], rent[16], zone[PLAN_ZONE_NAME_MAX + 1] = "-";
    int used = 0, in = 0;
    struct plan_choice choice = {PLAN_RENTS, PLAN_NOWHERE};
    const bool good = sscanf(line, "policy %63s decided %15s %n", name, rent, &used) == 2 && used;
    if (good && sscanf(line + used, "in %40s %n", zone, &in) == 1 && in)
        used += in;
    for (int k = 0; k < PLAN_RENTS && good; k++)
        if (strcmp(rent, rent_names[k]) == 0)
            choice.rent = (enum plan_rent)k;
    if (!good || choice.rent == PLAN_RENTS || strncmp(line + used, "on ", 3) != 0)
        return bg_fail(err, BG_FORMAT, "expected \"policy NAME decided RENT on SNAPSHOT\", found '%.60s'", line);
    *policy = plan_policy_find(name);
    if (!*policy)
        return bg_fail(err, BG_FORMAT, "no policy '%s' here: was the log written by another version?", name);
    const bg_status status = plan_snapshot_parse(line + used + 3, err, now, memory);
    if (status)
        return status;
    choice.zone = find_zone(now, zone);
    *decided = choice;
    return BG_OK;
}

bg_status plan_decision_replay(const char *line, struct bg_error *err)
{
    const struct plan_policy *policy;
    struct plan_snapshot now;
    struct plan_choice decided;
    void *memory = NULL;
    bg_status status = plan_decision_parse(line, err, &policy, &now, &decided, &memory);
    if (status)
        return status;
    const struct plan_choice again = plan_decide(policy, &now);
    char *text = plan_decision_format(policy, &now, again);
    if (decided.rent != again.rent)
        status = bg_fail(err, BG_MISMATCH, "tick %u: %s decided %s, and decides %s now", now.tick, policy->name,
                         rent_names[decided.rent], rent_names[again.rent]);
    else if (decided.zone != again.zone)
        status = bg_fail(err, BG_MISMATCH, "tick %u: %s decided %s in %s, and in %s now", now.tick, policy->name,
                         rent_names[decided.rent], zone_name(&now, decided.zone), zone_name(&now, again.zone));
    else if (strcmp(text, line) != 0)
        status =
            bg_fail(err, BG_MISMATCH, "tick %u: the same decision, but the line is written differently now", now.tick);
    bg_free(text);
    bg_free(memory);
    return status;
}
