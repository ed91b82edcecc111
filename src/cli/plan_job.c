// `brigade plan JOB.yaml`: how a job would run on given machines, what a step takes and costs, before a second is
// spent. The machines are this host's, measured, or those of files.
#include "cli/plan_job.h"

#include "base/mem.h"
#include "cli/train.h"
#include "os/host.h"
#include "os/live.h"
#include "plan/cost/picture.h"
#include "plan/cost/price.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

// ---- Input ----

static bg_status read_profile(struct bg_env *env, const char *path, struct bg_error *err, struct plan_profile *profile)
{
    struct bg_map map;
    bg_status status = env->ops->map_open(env, path, err, &map);
    if (status)
        return status;
    status = plan_profile_parse((const char *)map.data, map.size, err, profile);
    env->ops->map_close(env, &map);
    return status ? bg_fail_prefix(err, "%s", path) : BG_OK;
}

static bool is_number(const char *text)
{
    return *text && text[strspn(text, "0123456789")] == '\0';
}

// --machines N: workers of this host; a file: machines and links of others.
static bg_status read_machines(struct plan_job *p, struct bg_error *err)
{
    const struct job *job = &p->job;
    const bool automatic = job_is_auto(job);
    if (p->machines && !is_number(p->machines)) {
        bg_status status = read_profile(p->cli->env, p->machines, err, &p->others);
        if (status)
            bg_fail_prefix(err, "--machines");
        if (!status && p->others.machine_count == 0)
            status =
                bg_fail(err, BG_FORMAT, "--machines: %s: no machine in it: expected lines \"machine NAME speed X ..\"",
                        p->machines);
        return status;
    }
    if (!p->machines && p->given.machine_count)
        return BG_OK;
    const unsigned long workers = p->machines        ? strtoul(p->machines, NULL, 10)
                                  : job->run.workers ? job->run.workers
                                  : automatic        ? 1
                                                     : p->spread.seats;
    if (workers == 0 || workers > PLAN_PROFILE_MACHINES_MAX)
        return bg_fail(err, BG_INVALID, "--machines: found %s, expected 1 to %d workers of this host, or a file",
                       p->machines, PLAN_PROFILE_MACHINES_MAX);
    const unsigned cpus = os_cpu_count();
    p->workers = (uint32_t)workers;
    p->threads = job->run.threads ? job->run.threads : cpus / p->workers ? cpus / p->workers : 1;
    return BG_OK;
}

static bg_status read_prices(struct plan_job *p, struct plan_profile *profile, struct bg_error *err)
{
    struct bg_env *env = p->cli->env;
    struct plan_prices prices;
    struct bg_map map;
    bg_status status = env->ops->map_open(env, p->prices_path, err, &map);
    if (status)
        return bg_fail_prefix(err, "--prices");
    status = plan_prices_parse((const char *)map.data, map.size, err, &prices);
    env->ops->map_close(env, &map);
    if (!status) {
        status = plan_prices_apply(&prices, err, profile);
        plan_prices_fini(&prices);
    }
    return status ? bg_fail_prefix(err, "--prices: %s", p->prices_path) : BG_OK;
}

// ---- Profiles ----

static void copy_machines(const struct plan_profile *from, struct plan_profile *to)
{
    bg_free(to->machines);
    to->machine_count = from->machine_count;
    to->machines = bg_alloc_array(from->machine_count, sizeof *to->machines);
    if (from->machine_count)
        memcpy(to->machines, from->machines, from->machine_count * sizeof *to->machines);
}

static void local_machines(const struct plan_job *p, struct plan_profile *to)
{
    bg_free(to->machines);
    to->machine_count = p->workers;
    to->machines = bg_alloc_array(p->workers, sizeof *to->machines);
    for (uint32_t w = 0; w < p->workers; w++) {
        to->machines[w] = (struct plan_machine){.speed = 1, .cores = os_cpu_count(), .threads = p->threads};
        snprintf(to->machines[w].name, sizeof to->machines[w].name, "local%u", w);
    }
}

// run.speeds and run.memory_gb, which are of the workers of this host.
static bg_status as_told(const struct plan_job *p, struct bg_error *err, struct plan_profile *profile)
{
    double *speeds = bg_alloc_array(profile->machine_count, sizeof *speeds);
    bg_status status = job_speeds(&p->job, profile->machine_count, err, speeds);
    for (uint32_t m = 0; m < profile->machine_count && !status; m++) {
        profile->machines[m].speed *= speeds[m];
        if (p->job.run.memory_gb > 0)
            profile->machines[m].memory_bytes = 1e9 * p->job.run.memory_gb;
    }
    bg_free(speeds);
    return status;
}

static bool is_told(const struct plan_link *link)
{
    return link->latency_s > 0 || link->bytes_s > 0;
}

// For plan_choose: units as measured or given, machines as asked for, with their prices.
static bg_status profile_of(void *arg, uint32_t group, struct bg_error *err, struct plan_profile *profile)
{
    struct plan_job *p = arg;
    struct plan_profile made;
    bg_status status = BG_OK;
    if (p->measure) {
        status = measure_profile(p->measure, group, p->workers ? p->workers : 1, os_cpu_count(), err, &made);
        if (status)
            return status;
    } else {
        made = p->given;
        made.units = bg_alloc_array(made.unit_count, sizeof *made.units);
        if (made.unit_count)
            memcpy(made.units, p->given.units, made.unit_count * sizeof *made.units);
        made.machines = NULL;
        copy_machines(&p->given, &made);
        if (p->workers)
            local_machines(p, &made);
    }
    if (p->workers)
        status = as_told(p, err, &made);
    if (p->others.machine_count) {
        copy_machines(&p->others, &made);
        made.inner = is_told(&p->others.inner) ? p->others.inner : made.inner;
        made.outer = is_told(&p->others.outer) ? p->others.outer : made.outer;
    }
    if (!status && p->prices_path)
        status = read_prices(p, &made, err);
    if (status)
        plan_profile_fini(&made);
    else
        *profile = made;
    return status;
}

static bg_status check_units(const struct plan_job *p, const struct model_config *config, struct bg_error *err)
{
    const uint32_t units = config->layers + 2;
    if (p->measure || p->given.unit_count == units)
        return BG_OK;
    return bg_fail(err, BG_MISMATCH, "%s: %u units, but the job's model has %u (%u layers, embedding, head)",
                   p->profile_path, p->given.unit_count, units, config->layers);
}

// The job's sizes, and what its units cost.
static bg_status open_profile(struct plan_job *p, struct bg_error *err)
{
    struct model_config config;
    struct measure_options sizes = {0};
    bg_status status = measure_job_options(p->cli->env, &p->job, err, &config, &sizes);
    if (!status)
        status = job_check_slices(&p->job, sizes.length, err);
    if (status)
        return status;
    p->length = sizes.length;
    if (!p->profile_path) {
        if (!p->cli->json)
            fprintf(stderr, "measuring this machine with %u thread%s ...\n", p->threads, p->threads == 1 ? "" : "s");
        p->measure = bg_alloc(sizeof *p->measure);
        status = cli_plan_measure(p->cli, &p->job, 0, err, p->measure);
    }
    return status ? status : check_units(p, &config, err);
}

static void set_priced(struct plan_job *p)
{
    const struct plan_profile *best = &p->list.items[0].profile;
    p->priced = p->prices_path != NULL;
    for (uint32_t i = 0; i < best->machine_count; i++)
        p->priced |= best->machines[i].dollars_hour > 0;
}

// What a given shape is compared with; nothing, where nothing is found.
static void choose_freely(struct plan_job *p, const struct plan_choose *given)
{
    struct plan_choose options = *given;
    struct bg_error why;
    options.replicas = NULL;
    options.cut = NULL;
    options.saving = NULL;
    options.stages = 0;
    options.brief = true;
    (void)!plan_choose(&options, &why, &p->freely);
}

static bg_status choose(struct plan_job *p, struct bg_error *err)
{
    const struct job *job = &p->job;
    const bool automatic = job_is_auto(job), picks = p->spread.picks,
               again = !picks && p->spread.saving[0] & PLAN_RECOMPUTE,
               apart = !picks && p->spread.saving[0] & PLAN_OFFLOAD;
    // A shadow takes time of the host that it shares with the workers; elsewhere nobody has said where it would run.
    const bool shadow = p->workers > 0 && strcmp(job->run.shadow, "false") != 0;
    const struct plan_machine shadow_machine = {.name = "shadow", .speed = 1, .cores = os_cpu_count(), .threads = 1};
    const struct plan_choose options = {.profile_of = profile_of,
                                        .arg = p,
                                        .micro_batches = job->train.micro_batches,
                                        .group = job->run.group,
                                        .schedule = p->spread.schedule,
                                        .chunks = p->spread.chunks,
                                        .slices = p->spread.slices,
                                        .range = p->spread.range,
                                        .split = job->run.split,
                                        .recompute = again ? PLAN_SYNC_ON : PLAN_SYNC_AUTO,
                                        .offload = apart   ? PLAN_SYNC_ON
                                                   : again ? PLAN_SYNC_OFF
                                                           : PLAN_SYNC_AUTO,
                                        .use_all = p->workers > 0,
                                        .replicas = automatic ? NULL : p->spread.replicas,
                                        .cut = automatic ? NULL : p->spread.cut,
                                        .stages = automatic ? 0 : p->spread.stages,
                                        .saving = p->spread.picks ? p->spread.saving : NULL,
                                        .shadow = shadow ? &shadow_machine : NULL,
                                        .shadow_always = strcmp(job->run.shadow, "true") == 0,
                                        .passes = &p->wish,
                                        .rows = (double)p->length * job->train.micro_batch};
    bg_status status = plan_choose(&options, err, &p->list);
    if (!status && p->list.given && p->explain)
        choose_freely(p, &options);
    return status;
}

// ---- Output ----

static bool unequal(const struct plan_chosen *c)
{
    bool some = false;
    for (uint32_t i = 1; i < c->choice.seat_count; i++)
        some |= fabs(c->profile.machines[i].speed - c->profile.machines[0].speed) > 1e-9;
    return some;
}

// As a shell reads it back.
static void add_word(struct bg_str *text, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=,.:/@%";
    if (!word[strspn(word, plain)]) {
        bg_str_add(text, word);
        return;
    }
    bg_str_add(text, "'");
    for (; *word; word++)
        if (*word == '\'')
            bg_str_add(text, "'\\''");
        else
            bg_str_add_bytes(text, word, 1);
    bg_str_add(text, "'");
}

// The stages that save memory so, as a key names them: "true", or such as "0,2-4".
static void add_stages(struct bg_str *text, const char *key, const struct plan_chosen *c, enum plan_sync_mode mode)
{
    const struct plan_sync_stage *stages = c->choice.stages;
    uint32_t count = 0;
    for (uint32_t s = 0; s < c->choice.stage_count; s++)
        count += (stages[s].mode & mode) != 0;
    if (count == c->choice.stage_count)
        bg_str_addf(text, " %s=true", key);
    if (count == 0 || count == c->choice.stage_count)
        return;
    bg_str_addf(text, " %s", key);
    for (uint32_t s = 0, named = 0; s < c->choice.stage_count; s++) {
        const uint32_t first = s;
        if (!(stages[s].mode & mode))
            continue;
        while (s + 1 < c->choice.stage_count && stages[s + 1].mode & mode)
            s++;
        bg_str_addf(text, "%c%u", named++ ? ',' : '=', first);
        if (s > first)
            bg_str_addf(text, "-%u", s);
    }
}

char *plan_job_keys(const struct plan_job *p, const char *plan)
{
    const struct plan_chosen *best = &p->list.items[0];
    struct bg_str keys = {0};
    char shape[64], passes[64];
    plan_chosen_shape(best, shape);
    bg_str_add(&keys, "run.plan=");
    add_word(&keys, plan ? plan : strchr(shape, ' ') ? "" : shape);
    for (uint32_t s = 0; s < best->choice.stage_count && !plan && strchr(shape, ' '); s++) // too many for `shape`
        bg_str_addf(&keys, "%s%u", s ? "+" : "", best->choice.stages[s].seat_end - best->choice.stages[s].seat_first);
    bg_str_addf(&keys, " run.schedule=%s run.group=%u", p->job.run.schedule, best->group);
    if (p->workers)
        bg_str_addf(&keys, " run.threads=%u", p->threads);
    if (unequal(best))
        for (uint32_t i = 0; i < best->choice.seat_count; i++)
            bg_str_addf(&keys, "%s%g", i ? "," : " run.speeds=", best->profile.machines[i].speed);
    add_stages(&keys, "run.recompute", best, PLAN_SYNC_RECOMPUTE);
    add_stages(&keys, "run.offload", best, PLAN_SYNC_OFFLOAD);
    if (p->job.run.split)
        bg_str_add(&keys, " run.split=true");
    plan_passes_text(&best->passes, passes);
    if (strcmp(passes, "wait-free") != 0)
        bg_str_addf(&keys, " run.passes=%s", passes);
    return bg_str_take(&keys);
}

static bg_status write_text(struct plan_job *p, const char *path, char *text, struct bg_error *err)
{
    bg_status status = env_write_file(p->cli->env, path, text, strlen(text), err);
    bg_free(text);
    return status;
}

static bg_status write_plan(struct plan_job *p, struct bg_error *err)
{
    char title[160], *keys = plan_job_keys(p, p->out), *plan = plan_format(&p->list.items[0].plan);
    plan_job_title(p, title);
    char *text = bg_format("# %s\n# brigade train JOB %s\n%s", title, keys, plan);
    bg_free(keys);
    bg_free(plan);
    return write_text(p, p->out, text, err);
}

static bg_status write_files(struct plan_job *p, struct bg_error *err)
{
    const struct plan_chosen *best = &p->list.items[0];
    char title[160];
    plan_job_title(p, title);
    const struct plan_picture picture = {
        .plan = &best->plan, .timeline = &best->timeline, .profile = &best->profile, .title = title};
    bg_status status = p->out ? write_plan(p, err) : BG_OK;
    if (!status && p->svg)
        status = write_text(p, p->svg, plan_picture_step(&picture), err);
    if (!status && p->map_svg)
        status = write_text(p, p->map_svg, plan_picture_map(&picture), err);
    return status;
}

static bg_status plan_it(struct plan_job *p, struct bg_error *err)
{
    bg_status status = open_profile(p, err);
    os_signals_stop(); // a search keeps nothing: they end it
    if (!status)
        status = choose(p, err);
    if (!status) {
        set_priced(p);
        status = write_files(p, err);
    }
    if (!status && (p->explain || p->cli->json))
        status = plan_chosen_explain(&p->list, p->freely.count ? &p->freely : NULL, err, &p->explanation);
    if (!status && p->cli->json)
        plan_job_json(p);
    else if (!status)
        plan_job_table(p);
    return status;
}

// The environment has to have the threads of a worker before it can be measured.
static int run(struct plan_job *p, struct bg_strlist *words)
{
    struct bg_error err = {0};
    if (p->schedule) {
        char *override = bg_format("run.schedule=%s", p->schedule);
        bg_strlist_add(words, override);
        bg_free(override);
    }
    int code = train_load_job(p->cli, words, false, "plan", &p->job);
    if (code >= 0)
        return code;
    bg_status status = job_spread(p->cli->env, &p->job, 0, &err, &p->spread);
    if (!status && plan_passes_parse(p->passes ? p->passes : p->job.run.passes, &err, &p->wish))
        status = bg_fail_prefix(&err, "--passes");
    if (!status && p->profile_path && read_profile(p->cli->env, p->profile_path, &err, &p->given))
        status = bg_fail_prefix(&err, "--profile");
    if (!status)
        status = read_machines(p, &err);
    code = status ? cli_fail(&err) : 0;
    if (!code && p->workers)
        code = cli_env(p->cli, p->threads);
    if (!code && plan_it(p, &err))
        code = cli_fail(&err);
    return code;
}

int cli_plan_job(struct cli *cli, int argc, char **argv)
{
    struct plan_job p = {.cli = cli};
    const struct cli_option options[] = {
        {"machines", CLI_TEXT, &p.machines, "N|FILE", "workers of this host, or a file of machines and links"},
        {"profile", CLI_TEXT, &p.profile_path, "FILE", "what the units cost; else this host is measured (seconds)"},
        {"prices", CLI_TEXT, &p.prices_path, "FILE", "dollars an hour by the machines' names"},
        {"schedule", CLI_TEXT, &p.schedule, "NAME", "as run.schedule"},
        {"passes", CLI_TEXT, &p.passes, "LIST",
         "wait-free, one-owner[:R], chunks[:N], factors; none; auto: what helps"},
        {"explain", CLI_FLAG, &p.explain, NULL, "why this plan, and what bounds it"},
        {"out", CLI_TEXT, &p.out, "FILE", "the plan, for run.plan=FILE"},
        {"svg", CLI_TEXT, &p.svg, "FILE", "a picture of one step"},
        {"map-svg", CLI_TEXT, &p.map_svg, "FILE", "a picture of units, stages and machines"},
    };
    const struct cli_usage usage = {
        "plan JOB.yaml|CORPUS [key.key=value ...] [options]",
        "How a job would run on given machines: units of the model to stages, stages to machines with their shares of\n"
        "the micro-batches, and what a step takes, predicted before a second is spent. run.plan=auto chooses among "
        "all\n"
        "shapes; a shape or a plan file is priced as it is, with the best cut for a shape. docs/planning.md tells "
        "more.",
        options,
        sizeof options / sizeof *options,
        1,
        256,
        true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = run(&p, &words);
    bg_strlist_fini(&words);
    plan_chosen_list_fini(&p.list);
    plan_chosen_list_fini(&p.freely);
    plan_profile_fini(&p.given);
    plan_profile_fini(&p.others);
    bg_free(p.measure);
    bg_free(p.spread.cut);
    bg_free(p.explanation);
    job_fini(&p.job);
    return code;
}
