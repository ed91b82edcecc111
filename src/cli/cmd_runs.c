// The verbs that look at finished or stopped runs: `plot`, `verify`, `diff`.
#include "cli/cli.h"

#include "base/mem.h"
#include "train/diff.h"
#include "train/plot.h"
#include "train/verify.h"

#include <string.h>

int cmd_plot(struct cli *cli, int argc, char **argv)
{
    const char *out = "loss.svg";
    struct plot_options plot = {0};
    const struct cli_option options[] = {
        {"out", CLI_TEXT, &out, "FILE", "the SVG (default loss.svg; - for standard output)"},
        {"title", CLI_TEXT, &plot.title, "TEXT", "above the curves"},
        {"log", CLI_FLAG, &plot.log_y, NULL, "logarithmic loss axis"},
        {"width", CLI_U32, &plot.width, "PIXELS", "default 900"},
        {"height", CLI_U32, &plot.height, "PIXELS", "default 540"},
    };
    const struct cli_usage usage = {"plot RUN... [--out FILE] [options]",
                                    "Draws the loss curves of one or several run directories as one SVG.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    64,
                                    false};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    char *svg = NULL;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = cli_env(cli, 1);
    else
        goto undo_words;
    if (!code && plot_runs(cli->env, (const char *const *)words.items, words.count, &plot, &err, &svg))
        code = cli_fail(&err);
    if (!code && out[0] == '-' && !out[1])
        fputs(svg, stdout);
    else if (!code && env_write_file(cli->env, out, svg, strlen(svg), &err))
        code = cli_fail(&err);
    else if (!code)
        printf("%s\n", out);
    bg_free(svg);
undo_words:
    bg_strlist_fini(&words);
    return code;
}

static void print_verified(const struct cli *cli, const char *path, const struct verify_result *r)
{
    if (cli->json) {
        json_t *o =
            json_pack("{s:s, s:b, s:I, s:b, s:i, s:b, s:I, s:b, s:s, s:s, s:s}", "run", path, "verified", 1, "steps",
                      (json_int_t)r->steps, "finished", r->finished, "checkpoints", (int)r->checkpoints,
                      "signature_recomputed", r->signature_recomputed, "replayed", (json_int_t)r->replayed,
                      "weights_replayed", r->weights_replayed, "curve_sha256", r->curve_sha256, "weights_sha256",
                      r->weights_sha256, "signature_sha256", r->signature_sha256);
        cli_print_json(o);
        return;
    }
    printf("steps            %llu%s\n", (unsigned long long)r->steps, r->finished ? "" : " (not finished)");
    printf("checkpoints      %u verified\n", r->checkpoints);
    if (r->replayed)
        printf("replayed         %llu steps, every loss equal%s\n", (unsigned long long)r->replayed,
               r->weights_replayed ? ", weights equal" : "");
    printf("signature_sha256 %s%s\n", r->signature_sha256, r->signature_recomputed ? "" : " (data gone: as stored)");
    printf("curve_sha256     %s\nweights_sha256   %s\nverified         yes\n", r->curve_sha256, r->weights_sha256);
}

int cmd_verify(struct cli *cli, int argc, char **argv)
{
    struct verify_options verify = {0};
    bool replay_all = false;
    uint32_t threads = 0;
    const struct cli_option options[] = {
        {"replay", CLI_U64, &verify.replay, "N", "train the first N steps again and compare every loss"},
        {"replay-all", CLI_FLAG, &replay_all, NULL, "train the whole run again"},
        {"threads", CLI_U32, &threads, "N", "default: all cores"},
    };
    const struct cli_usage usage = {"verify RUN [--replay N]",
                                    "Recomputes the hashes of a run directory or a checkpoint from its files.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    1,
                                    true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct verify_result result = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = cli_env(cli, threads);
    else
        goto undo_words;
    if (replay_all)
        verify.replay = UINT64_MAX;
    if (!code && verify_run(cli->env, words.items[0], &verify, &err, &result))
        code = cli_fail(&err);
    else if (!code)
        print_verified(cli, words.items[0], &result);
undo_words:
    bg_strlist_fini(&words);
    return code;
}

static void print_diff(const struct cli *cli, const struct diff_result *r, const char *a, const char *b)
{
    if (!cli->json) {
        char *text = diff_text(r, a, b);
        printf("%s\n", text);
        bg_free(text);
        return;
    }
    json_t *o = json_pack("{s:b, s:b, s:b}", "identical", r->identical, "curves_compared", r->curves,
                          "weights_compared", r->weights);
    if (r->step_differs)
        json_object_set_new(
            o, "step",
            json_pack("{s:I, s:f, s:f}", "first", (json_int_t)r->step, "loss_a", r->loss_a, "loss_b", r->loss_b));
    if (r->tensor_differs)
        json_object_set_new(o, "tensor",
                            json_pack("{s:s, s:s, s:I, s:f, s:f, s:I, s:f}", "name", r->tensor, "reason", r->reason,
                                      "element", (json_int_t)r->element, "value_a", (double)r->value_a, "value_b",
                                      (double)r->value_b, "elements_differ", (json_int_t)r->elements_differ,
                                      "max_difference", r->max_difference));
    cli_print_json(o);
}

int cmd_diff(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {
        "diff A B",
        "The first step and the first tensor in which two runs, checkpoints or models differ,\n"
        "bit by bit. Exit 0: identical, 1: they differ.",
        NULL,
        0,
        2,
        2,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct diff_result result = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = cli_env(cli, 1);
    else
        goto undo_words;
    if (!code && diff_compare(cli->env, words.items[0], words.items[1], &err, &result)) {
        code = cli_fail(&err);
    } else if (!code) {
        print_diff(cli, &result, words.items[0], words.items[1]);
        code = result.identical ? 0 : 1;
    }
undo_words:
    bg_strlist_fini(&words);
    return code;
}
