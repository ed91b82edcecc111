// What verbs that train share: the job on the command line.
#ifndef CLI_TRAIN_H
#define CLI_TRAIN_H

#include "cli/cli.h"
#include "train/job.h"

// JOB.yaml|CORPUS|RUN key.key=value ...; with resume, RUN's own job file. Returns -1, or the exit code after the
// message.
int train_load_job(struct cli *cli, const struct bg_strlist *words, bool resume, const char *verb, struct job *job);

#endif
