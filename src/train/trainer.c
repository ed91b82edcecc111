// The training loop of one process. Its state is (weights, moments, losses) after `commit.steps` steps; everything else
// follows from the job. At the top of the loop, in this order: stop if asked (a checkpoint first), evaluate if due,
// checkpoint if due, then one step. So a run that was stopped and resumed does the same things as one that was not.
#include "train/trainer_int.h"

#include "base/mem.h"

static bg_status save(struct trainer *t, struct bg_error *err)
{
    struct run *run = &t->run;
    if (run->options->dry)
        return BG_OK;
    uint64_t start = env_now_ns(run->env);
    struct material_progress progress = {.step = t->commit.steps,
                                         .seconds = run->seconds_before + run_seconds(run),
                                         .losses = run->losses,
                                         .evaluations = run->evaluations,
                                         .evaluation_count = run->evaluation_count};
    char *path = NULL;
    bg_status status = runlog_sync(&run->log, err);
    if (!status)
        status = material_checkpoint(&run->material, &t->state, &progress, err, &path);
    if (!status)
        status = run_checkpointed(run, progress.step, path, 1e-9 * (double)(env_now_ns(run->env) - start), err);
    bg_free(path);
    return status;
}

static bool evaluation_due(const struct trainer *t)
{
    const struct run *run = &t->run;
    uint64_t step = t->commit.steps;
    bool known = run->evaluation_count && run->evaluations[run->evaluation_count - 1].step >= step;
    return !run->options->dry && !known && run->material.corpus->valid.count >= 2 &&
           run_due(run, step, run->job->train.eval_every);
}

// A signal in the middle of an evaluation is no failure: the resumed run evaluates first.
static bg_status evaluate(struct trainer *t, struct bg_error *err)
{
    struct evaluate_memory memory = {.lane_scratch = step_scratch(t->executor),
                                     .memory = step_memory(t->executor),
                                     .sequences = t->layout.evaluate_sequences};
    struct evaluate_result r;
    bg_status status = material_evaluate(&t->run.material, t->state.weights, &memory, err, &r);
    if (status)
        return status == BG_STOPPED ? BG_OK : status;
    return run_evaluated(&t->run, t->commit.steps, &r, err);
}

static bg_status advance(struct trainer *t, struct trainer_result *result, struct bg_error *err)
{
    struct run *run = &t->run;
    uint64_t step = t->commit.steps, allocations = bg_mem_count(), start = env_now_ns(run->env);
    struct step_record record;
    struct run_step told = {.record = &record, .lr = job_lr(run->job, step), .workers = 1};
    bg_status status = step_run(t->executor, &t->commit.base, step, told.lr, err, &record);
    if (status)
        return status;
    told.seconds = 1e-9 * (double)(env_now_ns(run->env) - start);
    status = run_step(run, &told, err);
    if (run->paced > 1) // the first step may warm things up
        result->step_allocations += bg_mem_count() - allocations;
    return status;
}

static bg_status loop(struct trainer *t, struct trainer_result *result, struct bg_error *err)
{
    struct run *run = &t->run;
    for (;;) {
        uint64_t step = t->commit.steps;
        bool last = step == run->job->train.steps, stop = !last && run_stop_asked(run, step);
        bg_status status = BG_OK;
        if (!stop && evaluation_due(t))
            status = evaluate(t, err);
        bool unsaved = step > 0 && !(run->written && run->written_step == step);
        if (!status && unsaved && (stop || run_due(run, step, run->job->train.checkpoint_every)))
            status = save(t, err);
        if (status || last)
            return status;
        if (stop || run_stop_asked(run, step)) { // also when the signal came during the evaluation
            if (stop || !unsaved)
                return bg_fail(err, BG_STOPPED, "stopped after step %llu of %llu; --resume goes on from there",
                               (unsigned long long)step, (unsigned long long)run->job->train.steps);
            continue;
        }
        status = advance(t, result, err);
        if (status)
            return status;
    }
}

static void fill_result(const struct trainer *t, struct trainer_result *r)
{
    run_fill_result(&t->run, t->commit.steps, r);
    r->memory_bytes = t->memory_bytes;
    model_weights_sha256(t->run.material.model, t->state.weights, r->weights_sha256);
}

static bg_status run_opened(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                            struct trainer_result *result, struct bg_error *err)
{
    bg_status status = trainer_open(t, env, options, err, &result->nothing_to_do);
    if (status)
        return status;
    t->run.start_ns = env_now_ns(env);
    if (!result->nothing_to_do)
        status = loop(t, result, err);
    result->steps = t->commit.steps;
    if (!status || status == BG_STOPPED)
        fill_result(t, result);
    return result->nothing_to_do ? BG_OK : run_end(&t->run, status, result, NULL, err);
}

bg_status trainer_run(struct bg_env *env, const struct trainer_options *options, struct bg_error *err,
                      struct trainer_result *out)
{
    uint32_t fp = kern_fp_enter();
    struct trainer t = {0};
    struct trainer_result result = {.valid_loss = -1};
    struct bg_error own; // the loop's messages are logged, so there always is a place for them
    bg_status status = run_opened(&t, env, options, &result, err ? err : &own);
    if (!status || status == BG_STOPPED)
        *out = result;
    trainer_close(&t);
    kern_fp_leave(fp);
    return status;
}
