// What `brigade plan` can be asked, one file each; cmd_plan.c chooses by the option that is there.
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli/cli.h"

int cli_plan_graph(struct cli *cli, int argc, char **argv);     // --graph FILE
int cli_plan_placement(struct cli *cli, int argc, char **argv); // --placement SHAPE|FILE
int cli_plan_schedule(struct cli *cli, int argc, char **argv);  // --schedule NAME

#endif
