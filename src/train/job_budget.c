// The budget section of a job: which policy rents machines for it, and the terms that the policy is asked under.
#include "train/job.h"

#include "base/str.h"

#include <string.h>

enum { NAMES_MAX = 64 };

bool job_has_budget(const struct job *job)
{
    return job->budget.policy || job->budget.fleet_policy;
}

static bg_status unknown(const char *key, const char *name, const char *const *names, size_t count,
                         struct bg_error *err)
{
    const char *nearest = bg_nearest(name, names, count);
    if (nearest)
        return bg_fail(err, BG_INVALID, "%s: no policy '%.60s'; did you mean %s?", key, name, nearest);
    struct bg_str known = {0};
    for (size_t i = 0; i < count; i++)
        bg_str_addf(&known, "%s%s", i ? ", " : "", names[i]);
    const bg_status status =
        bg_fail(err, BG_INVALID, "%s: no policy '%.60s'; there are %s", key, name, bg_str_text(&known));
    bg_str_fini(&known);
    return status;
}

static bg_status find_policy(const char *name, struct bg_error *err, const struct plan_policy **policy)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    for (size_t i = 0; plan_policies[i] && count < NAMES_MAX; i++)
        if (!plan_policies[i]->oracle)
            names[count++] = plan_policies[i]->name;
    *policy = plan_policy_find(name);
    if (*policy && (*policy)->oracle)
        return bg_fail(err, BG_INVALID, "budget.policy: %s is told what is to come, which nobody can tell it here",
                       name);
    return *policy ? BG_OK : unknown("budget.policy", name, names, count, err);
}

static bool is_live(const struct plan_fleet_policy *policy)
{
    return policy->recovery == PLAN_FLEET_LIVE && !policy->clairvoyant;
}

static bg_status find_fleet_policy(const char *name, struct bg_error *err, const struct plan_fleet_policy **policy)
{
    const char *names[NAMES_MAX];
    size_t count = 0;
    for (size_t i = 0; plan_fleet_policies[i] && count < NAMES_MAX; i++)
        if (is_live(plan_fleet_policies[i]))
            names[count++] = plan_fleet_policies[i]->name;
    *policy = plan_fleet_policy_find(name);
    if (*policy && !is_live(*policy))
        return bg_fail(err, BG_INVALID,
                       "budget.fleet_policy: %s is for comparison in `brigade sim fleet`: here state moves between "
                       "machines, and nobody knows what is to come",
                       name);
    return *policy ? BG_OK : unknown("budget.fleet_policy", name, names, count, err);
}

bg_status job_budget(const struct job *job, uint32_t instances, struct bg_error *err, const struct plan_policy **policy,
                     const struct plan_fleet_policy **fleet, struct plan_deadline *out)
{
    const struct plan_deadline deadline = {
        .gap_s = job->budget.gap,
        .work_s = job->budget.work,
        .deadline_s = job->budget.deadline,
        .overhead_s = job->budget.overhead,
        .price = {0, job->budget.spot_price, job->budget.on_demand_price},
        .instances = instances,
    };
    *policy = NULL;
    *fleet = NULL;
    if (job->budget.policy && job->budget.fleet_policy)
        return bg_fail(err, BG_INVALID, "budget.fleet_policy: beside budget.policy %s: one of the two",
                       job->budget.policy);
    if (instances > PLAN_FLEET_NODES_MAX && job->budget.fleet_policy)
        return bg_fail(err, BG_INVALID, "budget.fleet_policy: of %u machines, at most %d", instances,
                       PLAN_FLEET_NODES_MAX);
    if (job->budget.zones.count && job->budget.trace)
        return bg_fail(err, BG_INVALID, "budget.zones: beside budget.trace: take one; a zone brings its trace");
    if (job->budget.zones.count && job->budget.fleet_policy)
        return bg_fail(err, BG_INVALID, "budget.zones: beside budget.fleet_policy: a fleet stands in one place");
    bg_status status = job->budget.fleet_policy ? find_fleet_policy(job->budget.fleet_policy, err, fleet)
                                                : find_policy(job->budget.policy, err, policy);
    if (!status && *fleet) {
        *out = deadline;
        return BG_OK;
    }
    if (!status && deadline.deadline_s <= 0)
        status = bg_fail(err, BG_INVALID, "budget.policy: budget.deadline is missing, such as 60h");
    if (!status && deadline.work_s > 0) {
        status = plan_deadline_check(&deadline, err);
        if (status)
            bg_fail_prefix(err, "budget.deadline");
    }
    if (!status)
        *out = deadline;
    return status;
}
