// `brigade plan JOB.yaml`, in parts: what was asked and found, and what a person sees of it.
#ifndef CLI_PLAN_JOB_H
#define CLI_PLAN_JOB_H

#include "cli/plan.h"
#include "plan/split/choose.h"

#include <stdbool.h>

struct plan_job {
    struct cli *cli;
    // As given.
    const char *machines, *profile_path, *prices_path, *out, *svg, *map_svg, *schedule, *passes;
    bool explain;
    // The job.
    struct job job;
    struct job_spread spread;
    struct plan_pass_wish wish;
    uint32_t length; // tokens of a sequence
    // What it runs on.
    struct measure *measure;    // NULL: a profile was given
    struct plan_profile given;  // that profile
    struct plan_profile others; // machines and links of --machines FILE
    uint32_t workers;           // of this host; 0: the machines are others
    uint32_t threads;           // of each
    bool priced;                // machines have prices
    // What came of it.
    struct plan_chosen_list list;
    struct plan_chosen_list freely; // of a shape that is given, to be explained: what there is without one
    char *explanation;
};

void plan_job_table(const struct plan_job *p);
void plan_job_json(const struct plan_job *p);
// "1f1b 2x1, 8 items of 2 micro-batches".
void plan_job_title(const struct plan_job *p, char text[160]);
// The keys of `brigade train` that make it run so; bg_free it.
char *plan_job_keys(const struct plan_job *p, const char *plan);

#endif
