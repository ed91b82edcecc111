// The budget section of a job: which policy rents machines for it, and the terms that the policy is asked under.
#include "train/job.h"

#include "base/str.h"

#include <string.h>

enum { NAMES_MAX = 64 };

static bg_status find_policy(const char *name, struct bg_error *err, const struct plan_policy **policy)
{
    const char *names[NAMES_MAX];
    struct bg_str known = {0};
    size_t count = 0;
    for (size_t i = 0; plan_policies[i] && count < NAMES_MAX; i++)
        if (!plan_policies[i]->oracle) {
            bg_str_addf(&known, "%s%s", count ? ", " : "", plan_policies[i]->name);
            names[count++] = plan_policies[i]->name;
        }
    bg_status status = BG_OK;
    *policy = plan_policy_find(name);
    if (*policy && (*policy)->oracle) {
        status =
            bg_fail(err, BG_INVALID, "budget.policy: %s is told what is to come, which nobody can tell it here", name);
    } else if (!*policy) {
        const char *nearest = bg_nearest(name, names, count);
        status = nearest ? bg_fail(err, BG_INVALID, "budget.policy: no policy '%.60s'; did you mean %s?", name, nearest)
                         : bg_fail(err, BG_INVALID, "budget.policy: no policy '%.60s'; there are %s", name,
                                   bg_str_text(&known));
    }
    bg_str_fini(&known);
    return status;
}

bg_status job_budget(const struct job *job, uint32_t instances, struct bg_error *err, const struct plan_policy **policy,
                     struct plan_deadline *out)
{
    const struct plan_deadline deadline = {
        .gap_s = job->budget.gap,
        .work_s = job->budget.work,
        .deadline_s = job->budget.deadline,
        .overhead_s = job->budget.overhead,
        .price = {0, job->budget.spot_price, job->budget.on_demand_price},
        .instances = instances,
    };
    bg_status status = find_policy(job->budget.policy, err, policy);
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
