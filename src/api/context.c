// Contexts, status texts and training through the installed API.
#include "api/api_int.h"

#include "base/mem.h"
#include "os/live.h"
#include "train/trainer.h"

#include <stdio.h>
#include <string.h>

const char *bg_version(void)
{
    return BRIGADE_VERSION;
}

const char *bg_status_name(enum bg_status status)
{
    return bg_status_text(status);
}

enum bg_scope bg_status_loses(enum bg_status status)
{
    return bg_status_scope(status);
}

enum bg_status bg_context_create(unsigned threads, bg_context **context)
{
    struct bg_context *c = bg_alloc(sizeof *c);
    struct os_options options = {.threads = threads, .pin = true, .keep_caller = true};
    bg_status status = os_env_create(&options, &c->err, &c->env);
    if (status) {
        bg_free(c);
        return status;
    }
    c->numbers = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    *context = c;
    return BG_OK;
}

void bg_context_destroy(bg_context *context)
{
    if (!context)
        return;
    os_env_destroy(context->env);
    freelocale(context->numbers);
    bg_free(context);
}

const char *bg_error_text(const bg_context *context)
{
    return context->err.text;
}

struct api_training {
    const struct bg_train_options *options;
    bool stop;
};

static void on_step(void *arg, const struct trainer_step *step)
{
    struct api_training *training = arg;
    struct bg_train_step out = {step->step,      step->steps, step->loss,
                                step->grad_norm, step->lr,    step->tokens_per_second};
    if (training->options->on_step(training->options->arg, &out))
        training->stop = true;
}

static bool wants_stop(void *arg)
{
    return ((struct api_training *)arg)->stop;
}

static void copy_result(const struct trainer_result *from, struct bg_train_result *to)
{
    *to = (struct bg_train_result){.steps = from->steps,
                                   .tokens = from->tokens,
                                   .finished = from->finished,
                                   .loss = from->loss,
                                   .valid_loss = from->valid_loss};
    memcpy(to->curve_sha256, from->curve_sha256, sizeof to->curve_sha256);
    memcpy(to->weights_sha256, from->weights_sha256, sizeof to->weights_sha256);
    memcpy(to->signature_sha256, from->signature_sha256, sizeof to->signature_sha256);
    snprintf(to->checkpoint, sizeof to->checkpoint, "%s", from->checkpoint);
}

// A library starts no processes of its own.
static bg_status one_process(bg_context *context, const struct job *job)
{
    struct job_spread spread;
    bg_status status = job_spread(context->env, job, 0, &context->err, &spread);
    if (status)
        return status;
    bool many = job_is_spread(&spread);
    bg_free(spread.cut);
    return many ? bg_fail(
                      &context->err, BG_UNSUPPORTED,
                      "run.workers, run.plan, run.shadow: many processes are started by the command (brigade train), "
                      "not by the library; the same job in one process has the same bits")
                : BG_OK;
}

enum bg_status bg_train(bg_context *context, const struct bg_train_options *options, struct bg_train_result *result)
{
    if (!options || options->size != sizeof *options)
        return bg_fail(&context->err, BG_INVALID,
                       "bg_train: options->size is not set; begin with BG_TRAIN_OPTIONS_INIT");
    struct api_frame frame = api_enter(context);
    struct api_training training = {options, false};
    struct trainer_observer observer = {.arg = &training, .stop = wants_stop};
    if (options->on_step)
        observer.step = on_step;
    struct job job = {0};
    struct trainer_result out = {0};
    bg_status status =
        job_load(context->env, options->source, options->overrides, options->override_count, &context->err, &job);
    if (!status)
        status = one_process(context, &job);
    if (!status) {
        struct trainer_options how = {.job = &job, .resume = options->resume != 0, .observer = &observer};
        status = trainer_run(context->env, &how, &context->err, &out);
    }
    if (result && (status == BG_OK || status == BG_STOPPED))
        copy_result(&out, result);
    job_fini(&job);
    return api_leave(frame, status);
}
