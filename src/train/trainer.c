// The training loop. Its state is (weights, moments, losses) after `commit.steps` steps; everything else follows from
// the job. At the top of the loop, in this order: stop if asked (a checkpoint first), evaluate if due, checkpoint if
// due, then one step. So a run that was stopped and resumed does the same things as one that was not.
#include "train/trainer_int.h"

#include "base/json.h"
#include "base/mem.h"
#include "train/signature.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void trainer_warn(const struct trainer *t, const char *format, ...)
{
    const struct trainer_observer *observer = t->options->observer;
    if (!observer || !observer->warning)
        return;
    char text[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    observer->warning(observer->arg, text);
}

static double seconds_since(const struct trainer *t, uint64_t start_ns)
{
    return 1e-9 * (double)(env_now_ns(t->env) - start_ns);
}

static bool stop_asked(const struct trainer *t)
{
    const struct trainer_options *o = t->options;
    if (t->env->ops->stop_signal(t->env) || (o->stop_after && t->commit.steps >= o->stop_after))
        return true;
    return o->observer && o->observer->stop && o->observer->stop(o->observer->arg);
}

// ---- Checkpoints and evaluation ----

static bg_status save(struct trainer *t, struct bg_error *err)
{
    if (t->options->dry)
        return BG_OK;
    uint64_t step = t->commit.steps, start = env_now_ns(t->env);
    struct manifest manifest = {
        .step = step,
        .sample_position = step * t->job->train.micro_batches * t->job->train.micro_batch,
        .tokens = step * t->tokens_per_step,
        .seconds = t->seconds_before + seconds_since(t, t->start_ns),
        .signature = t->signature,
        .evaluations = t->evaluations,
        .evaluation_count = t->evaluation_count,
    };
    memcpy(manifest.signature_sha256, t->signature_sha256, sizeof manifest.signature_sha256);
    struct checkpoint_source source = {t->model, t->tokenizer, t->state, t->losses, &manifest};
    char *path = NULL;
    bg_status status = runlog_sync(&t->log, err);
    if (!status)
        status = checkpoint_write(t->env, t->job->run.dir, &source, t->job->train.keep, err, &path);
    if (status)
        return status;
    bg_free(t->written_path);
    t->written_path = path;
    t->written = true;
    t->written_step = step;
    double seconds = seconds_since(t, start);
    const struct trainer_observer *observer = t->options->observer;
    if (observer && observer->checkpointed)
        observer->checkpointed(observer->arg, step, path, seconds);
    return runlog_event(&t->log, "checkpoint", json_pack("{s:I, s:f}", "step", (json_int_t)step, "seconds", seconds),
                        err);
}

static bool due(uint64_t step, uint64_t every, uint64_t steps)
{
    return step > 0 && (step == steps || (every && step % every == 0));
}

static bool evaluation_due(const struct trainer *t)
{
    uint64_t step = t->commit.steps;
    bool known = t->evaluation_count && t->evaluations[t->evaluation_count - 1].step >= step;
    return !t->options->dry && !known && t->corpus->valid.count >= 2 &&
           due(step, t->job->train.eval_every, t->job->train.steps);
}

// A signal in the middle of an evaluation is no failure: the resumed run evaluates first.
static bg_status evaluate(struct trainer *t, struct bg_error *err)
{
    struct evaluate_options options = {
        .tokens_max = t->job->train.eval_tokens, .length = t->length, .bytes = t->corpus->valid_bytes};
    struct evaluate_memory memory = {.lane_scratch = step_scratch(t->executor),
                                     .memory = step_memory(t->executor),
                                     .sequences = t->layout.evaluate_sequences};
    struct evaluate_result r;
    bg_status status =
        evaluate_in(t->env, t->model, t->kern, t->state.weights, &t->corpus->valid, &options, &memory, err, &r);
    if (status)
        return status == BG_STOPPED ? BG_OK : status;
    uint64_t step = t->commit.steps;
    t->evaluations = bg_realloc_array(t->evaluations, t->evaluation_count + 1, sizeof *t->evaluations);
    t->evaluations[t->evaluation_count++] = (struct evaluation_point){step, r.tokens, r.loss, r.bits_per_byte};
    const struct trainer_observer *observer = t->options->observer;
    if (observer && observer->evaluated)
        observer->evaluated(observer->arg, step, &r);
    char bits[17];
    curve_bits_format(r.loss, bits);
    return runlog_event(&t->log, "evaluation",
                        json_pack("{s:I, s:f, s:s, s:f, s:f, s:I, s:f}", "step", (json_int_t)step, "loss", r.loss,
                                  "loss_bits", bits, "perplexity", r.perplexity, "bits_per_byte", r.bits_per_byte,
                                  "tokens", (json_int_t)r.tokens, "seconds", r.seconds),
                        err);
}

// ---- One step and what is told about it ----

struct pace { // smoothed over the last steps of this call
    uint64_t steps;
    double seconds; // a step
};

static void tell_step(const struct trainer *t, const struct step_record *record, double lr, double seconds,
                      const struct pace *pace)
{
    const struct trainer_observer *observer = t->options->observer;
    if (!observer || !observer->step)
        return;
    uint64_t sequences = (uint64_t)t->job->train.micro_batch * t->job->train.micro_batches;
    double rate = pace->seconds > 0 ? 1 / pace->seconds : 0;
    struct trainer_step step = {
        .step = record->step,
        .steps = t->job->train.steps,
        .loss = record->loss,
        .grad_norm = record->norm,
        .lr = lr,
        .tokens = t->tokens_per_step,
        .seconds = seconds,
        .tokens_per_second = (double)t->tokens_per_step * rate,
        .flops_per_second = layout_flops(t->model, sequences, t->length) * rate,
        .eta_seconds = pace->seconds * (double)(t->job->train.steps - t->commit.steps),
    };
    observer->step(observer->arg, &step);
}

static bg_status advance(struct trainer *t, struct pace *pace, struct trainer_result *result, struct bg_error *err)
{
    uint64_t step = t->commit.steps, allocations = bg_mem_count(), start = env_now_ns(t->env);
    struct step_record record;
    double lr = job_lr(t->job, step);
    bg_status status = step_run(t->executor, &t->commit.base, step, lr, err, &record);
    if (status)
        return status;
    double seconds = seconds_since(t, start);
    pace->seconds = pace->steps++ ? 0.9 * pace->seconds + 0.1 * seconds : seconds;
    if (t->logging) {
        double rate = seconds > 0 ? (double)t->tokens_per_step / seconds : 0;
        struct runlog_step line = {&record, lr, t->tokens_per_step, rate};
        status = runlog_step(&t->log, &line, err);
    }
    if (pace->steps > 1) // the first step may warm things up
        result->step_allocations += bg_mem_count() - allocations;
    if (!status)
        tell_step(t, &record, lr, seconds, pace);
    return status;
}

static bg_status loop(struct trainer *t, struct trainer_result *result, struct bg_error *err)
{
    struct pace pace = {0};
    for (;;) {
        uint64_t step = t->commit.steps;
        bool last = step == t->job->train.steps, stop = !last && stop_asked(t);
        bg_status status = BG_OK;
        if (!stop && evaluation_due(t))
            status = evaluate(t, err);
        bool unsaved = step > 0 && !(t->written && t->written_step == step);
        if (!status && unsaved && (stop || due(step, t->job->train.checkpoint_every, t->job->train.steps)))
            status = save(t, err);
        if (status || last)
            return status;
        if (stop || stop_asked(t)) { // also when the signal came during the evaluation
            if (stop || !unsaved)
                return bg_fail(err, BG_STOPPED, "stopped after step %llu of %llu; --resume goes on from there",
                               (unsigned long long)step, (unsigned long long)t->job->train.steps);
            continue;
        }
        status = advance(t, &pace, result, err);
        if (status)
            return status;
    }
}

// ---- The end ----

static json_t *evaluations_json(const struct trainer *t)
{
    json_t *list = json_array();
    for (size_t i = 0; i < t->evaluation_count; i++) {
        const struct evaluation_point *e = &t->evaluations[i];
        char bits[17];
        curve_bits_format(e->loss, bits);
        json_array_append_new(list, json_pack("{s:I, s:f, s:s, s:f}", "step", (json_int_t)e->step, "loss", e->loss,
                                              "loss_bits", bits, "bits_per_byte", e->bits_per_byte));
    }
    return list;
}

static bg_status write_result(const struct trainer *t, const struct trainer_result *r, struct bg_error *err)
{
    json_t *root = json_pack(
        "{s:s, s:I, s:{s:f, s:f}, s:o, s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:s}", "class", TRAIN_CLASS, "steps",
        (json_int_t)r->steps, "losses", "first", t->losses[0], "last", r->loss, "validation", evaluations_json(t),
        "curve_sha256", r->curve_sha256, "weights_sha256", r->weights_sha256, "signature_sha256", r->signature_sha256,
        "tokens", (json_int_t)r->tokens, "seconds", t->seconds_before + r->seconds, "memory_bytes",
        (json_int_t)r->memory_bytes, "parameters", (json_int_t)t->model->elements, "checkpoint", r->checkpoint);
    return runlog_result(t->env, t->job->run.dir, root, err);
}

static void fill_result(const struct trainer *t, struct trainer_result *r)
{
    r->steps = t->commit.steps;
    r->finished = r->steps == t->job->train.steps;
    r->loss = r->steps ? t->losses[r->steps - 1] : 0;
    r->valid_loss = t->evaluation_count ? t->evaluations[t->evaluation_count - 1].loss : -1;
    r->tokens = r->steps * t->tokens_per_step;
    r->seconds = seconds_since(t, t->start_ns);
    r->memory_bytes = t->memory_bytes;
    curve_sha256(t->losses, r->steps, r->curve_sha256);
    model_weights_sha256(t->model, t->state.weights, r->weights_sha256);
    memcpy(r->signature_sha256, t->signature_sha256, sizeof r->signature_sha256);
    if (t->written_path)
        snprintf(r->checkpoint, sizeof r->checkpoint, "%s", t->written_path);
}

static bg_status finish(struct trainer *t, bg_status status, struct trainer_result *r, struct bg_error *err)
{
    if (status && status != BG_STOPPED) {
        struct bg_error ignored; // the disk may be what failed
        if (t->logging &&
            runlog_event(&t->log, "failed",
                         json_pack("{s:I, s:s}", "step", (json_int_t)t->commit.steps, "error", err ? err->text : ""),
                         &ignored))
            trainer_warn(t, "%s", ignored.text);
        return status;
    }
    fill_result(t, r);
    if (!t->logging)
        return status;
    bg_status second = status ? BG_OK : write_result(t, r, err);
    struct bg_error *where = status ? NULL : err; // the text that says "stopped" stays
    if (!second)
        second =
            runlog_event(&t->log, status ? "stopped" : "finished",
                         json_pack("{s:I, s:s}", "step", (json_int_t)r->steps, "curve_sha256", r->curve_sha256), where);
    if (!second)
        second = runlog_sync(&t->log, where);
    return status ? status : second;
}

static bg_status run_open(struct trainer *t, struct bg_env *env, const struct trainer_options *options,
                          struct trainer_result *result, struct bg_error *err)
{
    bg_status status = trainer_open(t, env, options, err);
    if (status)
        return status;
    t->start_ns = env_now_ns(env);
    result->nothing_to_do = t->resumed && !t->logging && !options->dry;
    if (result->nothing_to_do) {
        fill_result(t, result);
        return BG_OK;
    }
    return finish(t, loop(t, result, err), result, err);
}

bg_status trainer_run(struct bg_env *env, const struct trainer_options *options, struct bg_error *err,
                      struct trainer_result *out)
{
    uint32_t fp = kern_fp_enter();
    struct trainer t = {0};
    struct trainer_result result = {.valid_loss = -1};
    struct bg_error own; // the loop's messages are logged, so there always is a place for them
    bg_status status = run_open(&t, env, options, &result, err ? err : &own);
    if (!status || status == BG_STOPPED)
        *out = result;
    trainer_close(&t);
    kern_fp_leave(fp);
    return status;
}
