// What `sim deadline` and `sim compare` share: a job, traces, and windows of them, from options.
#ifndef CLI_SIM_WINDOWS_H
#define CLI_SIM_WINDOWS_H

#include "cli/cli.h"
#include "cli/zones.h"
#include "plan/spot/deadline.h"
#include "plan/spot/trace.h"

struct sim_input { // as given
    struct bg_strlist traces;
    struct bg_strlist zones; // instead of traces; their names are then the one entry of it
    const char *starts, *work, *work_most, *overhead, *overhead_most, *spot_price, *on_demand_price, *gap;
    uint32_t ticks, windows, instances;
    uint64_t seed;
};
#define SIM_INPUT_DEFAULTS                                                                                             \
    {                                                                                                                  \
        .overhead = "0", .gap = "10m", .instances = 1, .seed = 1                                                       \
    }
enum { SIM_INPUT_OPTIONS = 13 };
void sim_input_options(struct sim_input *input, struct cli_option options[SIM_INPUT_OPTIONS]);
// The words besides options are traces too (--trace A B C). Everything of the job but its deadline; -1 or the exit
// code.
int sim_input_job(const char *verb, struct sim_input *input, const struct bg_strlist *words, struct plan_deadline *job);

#define SIM_OMNISCIENT "omniscient"
// The policy of that name, NULL for the optimum; -1 or the exit code.
int sim_policy_parse(const char *verb, const char *name, const struct plan_policy **policy);
char *sim_about_policies(const char *first); // `first`, then a line a policy; bg_free it

struct sim_windows {
    const struct sim_input *input;
    struct plan_deadline job;  // its tick is of no account: every trace has its own
    struct plan_trace *traces; // counts
    size_t trace_count;
    struct zones zones; // where there are any, traces[0] is the most that one of them has
    uint32_t *starts;   // (traces, windows): first ticks
    size_t window_count;
    size_t first; // of the windows as drawn, where only one of them is left
};
// Reads the traces; windows for a deadline of at most `deadline_s`. Where --starts says one that is too late for it:
// BG_FORMAT, or with `earlier` it is moved to the last tick that will do, and that is said.
BG_MUST_USE bg_status sim_windows_read(struct bg_env *env, const struct sim_input *input,
                                       const struct plan_deadline *job, double deadline_s, bool earlier,
                                       struct bg_error *err, struct sim_windows *windows);
void sim_windows_fini(struct sim_windows *windows);
struct plan_deadline sim_windows_job(const struct sim_windows *windows, size_t trace);
// One window, `index` of traces x windows. `moments` as for plan_deadline_run, NULL for the optimum. of_zones: NULL or
// (zones).
void sim_windows_run(const struct sim_windows *windows, const struct plan_policy *policy, size_t index,
                     struct plan_moment *moments, struct plan_bill *bill, struct plan_zone_bill *of_zones);

// The job from its start to its deadline: what was there, what was held, progress against the straight line. zones:
// NULL, or those of the window: where it was held.
char *sim_picture_window(const struct plan_deadline *job, const uint32_t *spot, const struct plan_zones *zones,
                         const struct plan_moment *moments, const char *title);

// Mean costs against slack, a line a policy: costs (policies, slacks).
char *sim_picture_slack(const double *slacks, size_t slack_count, char *const *policies, size_t policy_count,
                        const double *costs);

#endif
