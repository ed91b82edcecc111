// `brigade doctor`: facts about this machine and a few checks that tell why a run would be slow or wrong: every kernel
// table agrees with the reference, the floating-point state is the contract's, threads scale, the disk can be written.
#include "cli/cli.h"

#include "base/mem.h"
#include "kern/kern.h"
#include "os/host.h"
#include "train/agree.h"
#include "train/peak.h"

#include <sysexits.h>

struct report {
    json_t *json;
    bool print;
    int failed;
};

static void fact(struct report *r, const char *name, const char *text)
{
    json_object_set_new(r->json, name, json_string(text));
    if (r->print)
        printf("%-18s %s\n", name, text);
}

static void check(struct report *r, const char *name, bool good, const char *text)
{
    char *line = bg_format("%s%s", good ? "ok: " : "FAILED: ", text);
    fact(r, name, line);
    bg_free(line);
    r->failed += !good;
}

static void check_kernels(struct report *r, struct bg_env *env)
{
    const struct kern *tables[KERN_TABLES];
    size_t count = kern_tables(env->isa, tables);
    for (size_t i = 1; i < count; i++) {
        char *name = bg_format("kernels %s", tables[i]->isa);
        const char *differ = kernels_differ(tables[0], tables[i]);
        char *text = differ ? bg_format("%s: bits that are not of the reference", differ) : NULL;
        check(r, name, !differ, text ? text : "bit-equal to the reference");
        bg_free(text);
        bg_free(name);
    }
    fact(r, "isa", tables[count - 1]->isa);
    uint32_t state = kern_fp_enter();
    kern_fp_leave(state);
    check(r, "rounding", (state & ~0x3fu) == 0x1f80, "round to nearest, denormals kept");
}

static void check_disk(struct report *r, struct bg_env *env)
{
    struct bg_error err = {0};
    uint64_t bytes = 0;
    char text[32];
    if (!env->ops->disk_free(env, ".", &err, &bytes)) {
        cli_bytes(text, sizeof text, bytes);
        fact(r, "disk free", text);
    }
    bg_status status = env_write_file(env, ".brigade-doctor", "x", 1, &err);
    bg_status removed = env->ops->path_remove(env, ".brigade-doctor", &err);
    check(r, "disk write", !status && !removed, status || removed ? err.text : "a file in this directory");
}

static void add_machine(struct report *r, struct bg_env *env)
{
    char text[256];
    os_cpu_model(text, sizeof text);
    fact(r, "cpu", text);
    snprintf(text, sizeof text, "%u", env->threads);
    fact(r, "threads", text);
    cli_bytes(text, sizeof text, env->ops->memory_total(env));
    fact(r, "memory", text);
    os_kernel_name(text, sizeof text);
    fact(r, "system", text);
}

static void add_peak(struct report *r, struct cli *cli)
{
    const struct kern *kern = kern_select(cli->env->isa);
    double all = peak_flops(cli->env, kern) / 1e9;
    unsigned threads = cli->env->threads;
    if (cli_env(cli, 1))
        return;
    double one = peak_flops(cli->env, kern) / 1e9;
    char *text = bg_format("%.0f GFLOP/s with 1 thread, %.0f with %u", one, all, threads);
    fact(r, "fp32 peak", text);
    bg_free(text);
    text = bg_format("%u threads gain %.2fx over one", threads, all / one);
    check(r, "threads gain", all / one > 0.6 * threads, text);
    bg_free(text);
}

int cmd_doctor(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {
        "doctor", "Checks this machine. Exit 0: all is well, 69: a check failed.", NULL, 0, 0, 0, true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = cli_env(cli, 0);
    else
        goto undo_words;
    if (!code) {
        struct report r = {json_object(), !cli->json, 0};
        add_machine(&r, cli->env);
        check_kernels(&r, cli->env);
        check_disk(&r, cli->env);
        add_peak(&r, cli);
        if (cli->json) {
            json_object_set_new(r.json, "ok", json_boolean(!r.failed));
            json_dumpf(r.json, stdout, JSON_COMPACT);
            printf("\n");
        }
        json_decref(r.json);
        code = r.failed ? EX_UNAVAILABLE : 0;
    }
undo_words:
    bg_strlist_fini(&words);
    return code;
}
