// `brigade worker`, the process that train starts, and `brigade join`, the same by hand: one more machine for a job
// that runs. It opens the job from the run directory, connects to the controller, and does what that says until it may
// leave. Signals end it at once: to a job that is a death like any other.
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/fleet.h"
#include "cli/tamper.h"
#include "kern/kern.h"
#include "os/fault.h"
#include "os/ipc.h"
#include "os/live.h"
#include "os/process.h"
#include "train/worker_job.h"

#include <stdlib.h>
#include <string.h>

struct member_options {
    const char *run, *name, *role;
    uint64_t token;
    uint32_t threads, cpu;
};

static bg_status make_comm(struct bg_env *env, const struct job *job, struct tamper *tamper, struct bg_error *err,
                           struct comm **comm)
{
    struct comm_shm_options options = fleet_comm_options(job);
    options.silence_ms = 0; // the controller judges: a stopped one that goes on finds everybody still there
    const char *faults = getenv("BRIGADE_TAMPER");
    if (faults && faults[0]) {
        bg_status status = tamper_parse(faults, (uint64_t)os_process_self(), err, tamper);
        if (status)
            return status;
        options.tamper = tamper_frame;
        options.tamper_arg = tamper;
    }
    return comm_shm_create(env, &options, err, comm);
}

static bool set(const char *name)
{
    const char *value = getenv(name);
    return value && value[0];
}

static bg_status work(struct bg_env *env, const struct job *job, const struct member_options *o,
                      const struct worker_source *source, struct bg_error *err)
{
    char address[COMM_ADDRESS_MAX];
    struct tamper tamper;
    struct comm *comm = NULL;
    struct worker *worker = NULL;
    struct worker_options options = {
        .job = worker_source_job(source),
        .controller = address,
        .token = o->token,
        .role = o->role && !strcmp(o->role, "shadow") ? MESSAGE_SHADOW : MESSAGE_WORKER,
        .process = (uint64_t)os_process_self(),
        .patience_ns = (uint64_t)job->run.patience_ms * 1000000,
        .count_allocations = set("BRIGADE_COUNT_ALLOCATIONS"), // tests
        .order_free = set("BRIGADE_BENCH_ORDER_FREE"),         // bench/fleet: what the promise costs
    };
    bg_status status = fleet_address(env, o->run, false, err, address);
    if (!status)
        status = os_process_start_time(os_process_self(), err, &options.process_start);
    if (!status)
        status = make_comm(env, job, &tamper, err, &comm);
    options.comm = comm;
    if (!status)
        status = worker_create(env, &options, err, &worker);
    if (!status)
        status = worker_run(worker, err);
    if (worker)
        worker_destroy(worker);
    if (comm)
        comm->ops->destroy(comm);
    return status;
}

// By hand there is a person who wants to know; what a controller started waits for one.
static bg_status check_runs(struct bg_env *env, const char *run, struct bg_error *err)
{
    struct bg_file *lock = NULL;
    bg_status status = env->ops->directory_lock(env, run, err, &lock);
    if (status == BG_EXISTS)
        return BG_OK;
    if (!status)
        status = env->ops->file_close(env, lock, err);
    return status ? status : bg_fail(err, BG_NOT_FOUND, "no job runs in %s: start it with brigade train", run);
}

static int run_member(struct cli *cli, const struct member_options *o)
{
    struct bg_error err = {0};
    struct job job = {0};
    struct worker_source *source = NULL;
    int code = cli_env(cli, 1);
    if (code)
        return code;
    bg_status status = os_fault_name(o->name, &err);
    if (!status)
        status = fleet_load_job(cli->env, o->run, &err, &job);
    if (!status && !o->token)
        status = check_runs(cli->env, o->run, &err);
    if (!status) {
        struct os_options options = {.threads = o->threads ? o->threads : job.run.threads, .pin = true};
        options.first_cpu = o->cpu;
        cli_env_close(cli);
        status = os_env_create(&options, &err, &cli->env);
    }
    uint32_t fp = kern_fp_enter();
    if (!status)
        status = worker_source_open(cli->env, &job, &err, &source);
    if (!status)
        status = work(cli->env, &job, o, source, &err);
    kern_fp_leave(fp);
    if (source)
        worker_source_close(source);
    job_fini(&job);
    if (status)
        bg_fail_prefix(&err, "%s", o->name);
    return status ? cli_fail(&err) : 0;
}

int cmd_worker(struct cli *cli, int argc, char **argv)
{
    struct member_options o = {.name = "worker"};
    const struct cli_option options[] = {
        {"token", CLI_U64, &o.token, "N", "names the start that this process comes from"},
        {"role", CLI_TEXT, &o.role, "ROLE", "worker (default), or shadow: follows every step, computes none"},
        {"name", CLI_TEXT, &o.name, "NAME", "in messages, and for faults"},
        {"threads", CLI_U32, &o.threads, "N", "threads; 0: run.threads"},
        {"cpu", CLI_U32, &o.cpu, "N", "1 + place of its first CPU; 0: not pinned"},
    };
    const struct cli_usage usage = {"worker RUN [options]",
                                    "One process of the job in the run directory RUN. `brigade train` starts these; "
                                    "`brigade join` is for people.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && o.role && strcmp(o.role, "worker") != 0 && strcmp(o.role, "shadow") != 0)
        code = cli_misuse("worker", "--role: expected worker or shadow, found '%s'", o.role);
    if (code < 0) {
        o.run = words.items[0];
        code = run_member(cli, &o);
    }
    bg_strlist_fini(&words);
    return code;
}

int cmd_join(struct cli *cli, int argc, char **argv)
{
    struct member_options o = {.name = "join"};
    const struct cli_option options[] = {
        {"name", CLI_TEXT, &o.name, "NAME", "in messages, and for faults"},
        {"threads", CLI_U32, &o.threads, "N", "threads; 0: run.threads"},
    };
    const struct cli_usage usage = {
        "join RUN [options]",
        "Joins the job that runs in the run directory RUN as one more machine, until the job ends or this process is\n"
        "ended (Ctrl-C, kill): the job goes on without it, and its bits are the same.",
        options,
        sizeof options / sizeof *options,
        1,
        1,
        false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        o.run = words.items[0];
        code = run_member(cli, &o);
    }
    bg_strlist_fini(&words);
    return code;
}
