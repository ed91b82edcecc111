// The job as a worker process finds it in a run directory: the resolved job.yaml, and what is trained through the token
// cache that the controller filled.
#ifndef TRAIN_WORKER_JOB_H
#define TRAIN_WORKER_JOB_H

#include "train/job.h"
#include "train/worker.h"

struct worker_source;
// `job` (of the run directory) outlives it.
BG_MUST_USE bg_status worker_source_open(struct bg_env *env, const struct job *job, struct bg_error *err,
                                         struct worker_source **source);
void worker_source_close(struct worker_source *source);
const struct worker_job *worker_source_job(const struct worker_source *source);

#endif
