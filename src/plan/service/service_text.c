// A decision of a service policy as a line of words, and the same decision again.
#include "plan/service/service.h"

#include "base/mem.h"
#include "base/str.h"
#include "plan/words.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// What a number in a snapshot may be: no policy looks at more.
static const uint64_t replicas_max = PLAN_SERVICE_REPLICAS_MAX;
static const char head[] = "service ", between[] = " on target ";

char *plan_service_decision_format(const struct plan_service_policy *policy, const struct plan_service_snapshot *now,
                                   const struct plan_service_decision *decided)
{
    struct bg_str text = {0};
    bg_str_addf(&text, "%s%s decided launch", head, policy->name);
    for (uint32_t z = 0; z < now->zone_count; z++)
        bg_str_addf(&text, " %u", decided->launch[z]);
    bg_str_add(&text, " stop");
    for (uint32_t z = 0; z < now->zone_count; z++)
        bg_str_addf(&text, " %u", decided->stop[z]);
    bg_str_addf(&text, " on-demand %u%s%u base %u extra %u on-demand %u %u zones %u", decided->on_demand, between,
                now->target, now->base, now->extra, now->on_demand_starting, now->on_demand_ready, now->zone_count);
    for (uint32_t z = 0; z < now->zone_count; z++) {
        const struct plan_service_zone *zone = &now->zones[z];
        bg_str_addf(&text, " %.17g %d %u %u", zone->price, zone->preempted, zone->starting, zone->ready);
    }
    return bg_str_take(&text);
}

bool plan_service_decision_is(const char *line)
{
    return strncmp(line, head, sizeof head - 1) == 0;
}

static bool take_whole(struct plan_words *r, uint32_t most, uint32_t *value)
{
    uint64_t whole;
    const bool good = plan_words_whole(r, most, &whole);
    *value = good ? (uint32_t)whole : *value;
    return good;
}

static bool take_zone(struct plan_words *r, struct plan_service_zone *zone)
{
    uint32_t preempted = 0;
    const bool good = plan_words_number(r, &zone->price) && zone->price >= 0 && take_whole(r, 1, &preempted) &&
                      take_whole(r, replicas_max, &zone->starting) && take_whole(r, replicas_max, &zone->ready);
    zone->preempted = preempted;
    return good;
}

// The words behind "target".
static bool take_snapshot(struct plan_words *r, struct plan_service_snapshot *now)
{
    bool good = take_whole(r, replicas_max, &now->target) && plan_words_take(r, "base") &&
                take_whole(r, UINT32_MAX, &now->base) && plan_words_take(r, "extra") &&
                take_whole(r, replicas_max, &now->extra) && plan_words_take(r, "on-demand") &&
                take_whole(r, replicas_max, &now->on_demand_starting) &&
                take_whole(r, replicas_max, &now->on_demand_ready) && plan_words_take(r, "zones") &&
                take_whole(r, PLAN_SERVICE_ZONES_MAX, &now->zone_count);
    for (uint32_t z = 0; z < now->zone_count && good; z++)
        good = take_zone(r, &now->zones[z]);
    return good && now->zone_count && r->at == r->count;
}

static bg_status take_line(const char *line, struct bg_error *err, const struct plan_service_policy **policy,
                           struct plan_service_snapshot *now)
{
    char name[64] = "";
    const char *on = strstr(line, between), *rest = strstr(line, " decided ");
    const size_t size = rest && on && rest < on && plan_service_decision_is(line)
                            ? (size_t)(rest - line) - (sizeof head - 1)
                            : sizeof name;
    struct bg_strlist words = {0};
    if (size >= sizeof name)
        return bg_fail(err, BG_FORMAT, "expected \"service NAME decided ... on target ...\", found '%.60s'", line);
    memcpy(name, line + sizeof head - 1, size);
    *policy = plan_service_policy_find(name);
    if (!*policy)
        return bg_fail(err, BG_FORMAT, "no service policy '%s' here: was the log written by another version?", name);
    bg_strlist_split(&words, on + sizeof between - 1, ' ');
    struct plan_words r = {words.items, 0, words.count};
    const bool good = take_snapshot(&r, now);
    bg_strlist_fini(&words);
    return good ? BG_OK
                : bg_fail(
                      err, BG_FORMAT,
                      "word %zu behind \"on target\": expected target, \"base\", \"extra\", \"on-demand\" starting and "
                      "ready, \"zones\" with price, preempted, starting and ready of each; at most %d replicas, %d "
                      "zones",
                      r.at, PLAN_SERVICE_REPLICAS_MAX, PLAN_SERVICE_ZONES_MAX);
}

bg_status plan_service_decision_replay(const char *line, struct bg_error *err)
{
    const struct plan_service_policy *policy = NULL;
    struct plan_service_snapshot now = {0};
    struct plan_service_decision again = {0};
    bg_status status = take_line(line, err, &policy, &now);
    if (status)
        return status;
    policy->decide(&now, &again);
    char *text = plan_service_decision_format(policy, &now, &again);
    const size_t decided = (size_t)(strstr(text, between) - text);
    if (strncmp(text, line, decided) != 0 || strncmp(line + decided, between, sizeof between - 1) != 0)
        status =
            bg_fail(err, BG_MISMATCH, "%.200s; it decides now: %.*s", line, (int)(decided < 200 ? decided : 200), text);
    else if (strcmp(text, line) != 0)
        status = bg_fail(err, BG_MISMATCH, "the same decision, but the line is written differently now: '%.60s'",
                         line + decided);
    bg_free(text);
    return status;
}
