// The verbs of `brigade sim`: each is a row of the table in cmd_sim.c and a function in a sim_*.c.
#ifndef CLI_SIM_H
#define CLI_SIM_H

#include "cli/cli.h"
#include "plan/fleet/fleet.h"
#include "plan/service/service.h"

// argv[0] is "sim VERB", for messages. Returns a sysexits code.
int sim_deadline(struct cli *cli, int argc, char **argv);
int sim_compare(struct cli *cli, int argc, char **argv);
int sim_replay(struct cli *cli, int argc, char **argv);
int sim_fleet(struct cli *cli, int argc, char **argv);
int sim_service(struct cli *cli, int argc, char **argv);
int sim_workflow(struct cli *cli, int argc, char **argv);
int sim_experts(struct cli *cli, int argc, char **argv);
int sim_spotserve(struct cli *cli, int argc, char **argv);

// Writes and frees a picture or a log: to `path`, or where a policy is named to a path with its name before the
// ending. 0, or the exit code after the message.
int sim_write_each(struct cli *cli, const char *path, const char *policy, char *text);

// Machines there and at work, and samples per second; replicas ready against the target. SVG, bg_free it.
char *sim_picture_fleet(const struct plan_fleet_result *result, const char *title);
char *sim_picture_service(const struct plan_service_result *result, double interval_s, const char *title);

#endif
