// The verbs of `brigade sim`: each is a row of the table in cmd_sim.c and a function in a sim_*.c.
#ifndef CLI_SIM_H
#define CLI_SIM_H

#include "cli/cli.h"

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

#endif
