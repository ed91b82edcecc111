// What `brigade plan` can be asked, one file each; cmd_plan.c chooses.
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli/cli.h"
#include "train/job.h"
#include "train/measure.h"

int cli_plan_job(struct cli *cli, int argc, char **argv);       // JOB.yaml
int cli_plan_graph(struct cli *cli, int argc, char **argv);     // --graph FILE
int cli_plan_placement(struct cli *cli, int argc, char **argv); // --placement SHAPE|FILE
int cli_plan_lengths(struct cli *cli, int argc, char **argv);   // --lengths FILE
int cli_plan_frontier(struct cli *cli, int argc, char **argv);  // --frontier SCHEDULE
int cli_plan_schedule(struct cli *cli, int argc, char **argv);  // --schedule NAME
int cli_plan_profile(struct cli *cli, int argc, char **argv);   // --profile [JOB.yaml], --profile FILE --plan FILE

// The number of an option, all of its text, from 0 to max. 0, or the exit code after a message.
int cli_plan_number(const char *option, const char *text, double max, double *value);

// One thread, and signals end the process: a search keeps nothing.
int cli_plan_env(struct cli *cli);

// Measures this machine for a job whose workers have as many threads as the environment; takes about `seconds` (0:
// some). The controller's log is tried in a temporary directory.
bg_status cli_plan_measure(struct cli *cli, const struct job *job, double seconds, struct bg_error *err,
                           struct measure *measure);

#endif
