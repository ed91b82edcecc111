// `brigade bench serve`: the requests of a trace against a server, and how long their clients waited. The server is
// there already (--url), or is started here for as long as it takes, on a free port of this machine.
#include "cli/cli.h"

#include "base/mem.h"
#include "cli/replay.h"
#include "cli/trace.h"
#include "os/ipc.h"
#include "os/process.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

enum { TERM_SIGNAL = 15, KILL_SIGNAL = 9, START_S = 300, STOP_S = 40 };

struct request {
    const char *trace, *url, *key;
    struct bg_strlist with; // arguments of `brigade serve`
    float speed, slo_first_ms, slo_token_ms;
    uint32_t limit, context, vocab, timeout_s;
};

// ---- A server of our own ----
struct own {
    struct os_process process;
    int said_by; // its output; -1: none
    struct bg_str said;
    char url[300];
    bool started;
};

static void pause_ms(uint32_t ms)
{
    struct bg_error ignored;
    uint64_t tags[OS_READY_MAX];
    int poller = -1;
    if (os_poller_create(&ignored, &poller))
        return;
    (void)os_poller_wait(poller, (uint64_t)ms * 1000000, tags);
    os_fd_close(poller);
}

// Reads what the server said, at the end its last line; true once it serves.
static bool listen_to(struct own *own, const char **last)
{
    char bytes[4096];
    for (size_t size; (size = os_pipe_read(own->said_by, bytes, sizeof bytes)) > 0;)
        bg_str_add_bytes(&own->said, bytes, size);
    const char *text = bg_str_text(&own->said), *address = strstr(text, "listening at ");
    if (address && strchr(address, '\n'))
        (void)sscanf(address, "listening at %255[^ \n]", own->url);
    if (*own->url && own->url[strlen(own->url) - 1] == '/')
        own->url[strlen(own->url) - 1] = '\0';
    for (const char *line = text; *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : line + strlen(line))
        *last = line;
    return address && strstr(text, "brigade: serving ");
}

// What it says later is not kept, but it must not wait for a reader.
static void overhear(void *arg)
{
    const struct own *own = arg;
    char bytes[4096];
    while (own->started && os_pipe_read(own->said_by, bytes, sizeof bytes) > 0)
        continue;
}

static bg_status own_start(struct cli *cli, const struct request *r, const char *model, struct bg_error *err,
                           struct own *own)
{
    char path[4096];
    const char *last = "it said nothing";
    int writer = -1;
    os_executable(path, sizeof path);
    const char **argv = bg_alloc_array(r->with.count + 7, sizeof *argv);
    const char *const first[] = {path, "serve", model, "--port", "0", "--no-key"};
    memcpy(argv, first, sizeof first);
    for (size_t i = 0; i < r->with.count; i++)
        argv[6 + i] = r->with.items[i];
    bg_status status = os_pipe(err, &own->said_by, &writer);
    if (!status)
        status = os_spawn(&(struct os_spawn_options){.argv = argv, .output = writer}, err, &own->process);
    os_fd_close(writer);
    bg_free(argv);
    if (status)
        return status;
    own->started = true;
    const uint64_t begin = env_now_ns(cli->env);
    while (!listen_to(own, &last)) {
        if (os_process_ended(&own->process))
            return bg_fail(err, BG_IO, "the server %s: %.*s", own->process.ending, (int)strcspn(last, "\n"), last);
        if (cli->env->ops->stop_signal(cli->env))
            return bg_fail(err, BG_STOPPED, "stopped by a signal");
        if (env_now_ns(cli->env) - begin > START_S * 1000000000ull)
            return bg_fail(err, BG_IO, "the server does not serve after %d s: %.*s", START_S, (int)strcspn(last, "\n"),
                           last);
        pause_ms(20);
    }
    return BG_OK;
}

static void own_stop(struct own *own)
{
    struct bg_error ignored;
    if (own->started) {
        bool asked = !os_process_kill(&own->process, TERM_SIGNAL, &ignored);
        for (int i = 0; asked && i < STOP_S * 50 && !os_process_ended(&own->process); i++)
            pause_ms(20), overhear(own);
        if (!os_process_ended(&own->process) && os_process_kill(&own->process, KILL_SIGNAL, &ignored))
            fprintf(stderr, "brigade: %s\n", ignored.text);
        os_process_close(&own->process);
    }
    os_fd_close(own->said_by);
    bg_str_fini(&own->said);
}

// ---- What is told ----
static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// In milliseconds, of sorted times: the smallest that `percent` of them do not pass.
static double quantile(const struct replay_times *times, size_t percent)
{
    const size_t rank = (times->count * percent + 99) / 100;
    return rank ? times->at[rank - 1] * 1e3 : 0;
}

static json_t *times_json(const struct replay_times *t)
{
    return json_pack("{s:f, s:f, s:f}", "p50", quantile(t, 50), "p90", quantile(t, 90), "p99", quantile(t, 99));
}

// Answers within both limits.
static size_t count_good(const struct request *r, const struct replay_result *result, size_t count)
{
    size_t good = 0;
    for (size_t i = 0; i < count; i++) {
        const struct replay_answer *a = &result->answers[i];
        good += a->whole && a->first_s * 1e3 <= (double)r->slo_first_ms && a->token_s * 1e3 <= (double)r->slo_token_ms;
    }
    return good;
}

static void tell(struct cli *cli, const struct request *r, const struct replay_result *result, size_t count)
{
    const double s = result->seconds;
    const size_t good = count_good(r, result, count);
    if (result->first.count)
        qsort(result->first.at, result->first.count, sizeof(double), by_value);
    if (result->between.count)
        qsort(result->between.at, result->between.count, sizeof(double), by_value);
    if (cli->json) {
        cli_print_json(json_pack(
            "{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:f}", "requests",
            (json_int_t)count, "answered", (json_int_t)result->answered, "refused_429", (json_int_t)result->refused,
            "failed", (json_int_t)result->failed, "cut_to_context", (json_int_t)result->cut, "seconds", s,
            "late_seconds_max", result->late_s, "ttft_ms", times_json(&result->first), "itl_ms",
            times_json(&result->between), "good", (json_int_t)good, "goodput_per_second", (double)good / s,
            "slo_ttft_ms", (double)r->slo_first_ms, "slo_itl_ms", (double)r->slo_token_ms, "prompt_tokens",
            (json_int_t)result->prompt_tokens, "generated_tokens", (json_int_t)result->generated_tokens,
            "cached_tokens", (json_int_t)result->cached_tokens, "prompt_tokens_per_second",
            (double)result->prompt_tokens / s, "generated_tokens_per_second", (double)result->generated_tokens / s));
        return;
    }
    printf("requests   %zu in %.1f s: %zu answered, %zu refused (429), %zu failed; %zu cut to the context\n", count, s,
           result->answered, result->refused, result->failed, result->cut);
    printf("tokens     %.1f/s of prompts, %.1f/s generated\n", (double)result->prompt_tokens / s,
           (double)result->generated_tokens / s);
    printf("           %10s %10s %10s\n", "p50", "p90", "p99");
    printf("TTFT ms    %10.1f %10.1f %10.1f\n", quantile(&result->first, 50), quantile(&result->first, 90),
           quantile(&result->first, 99));
    printf("ITL ms     %10.2f %10.2f %10.2f\n", quantile(&result->between, 50), quantile(&result->between, 90),
           quantile(&result->between, 99));
    printf("goodput    %.2f requests/s of %.2f (first token within %.0f ms, then one within %.0f ms on average)\n",
           (double)good / s, (double)count / s, (double)r->slo_first_ms, (double)r->slo_token_ms);
    if (result->late_s > 0.1)
        printf("note       a request was sent %.2f s late: this machine is too busy to ask on time\n", result->late_s);
    if (result->failed)
        printf("failed     %s\n", result->failure);
}

// ---- The run ----
static bg_status replay(struct cli *cli, const struct request *r, struct own *own, const struct plan_trace *trace,
                        struct bg_error *err)
{
    const char *url = r->url ? r->url : own->url;
    struct replay_server server;
    struct replay_result result;
    const size_t count = r->limit && r->limit < trace->count ? r->limit : trace->count;
    bg_status status = replay_ask(url, r->key, err, &server);
    if (status)
        return status;
    const struct replay_options options = {.url = url,
                                           .key = r->key,
                                           .requests = trace->requests,
                                           .count = count,
                                           .speed = (double)r->speed,
                                           .model = server.model,
                                           .context = r->context ? r->context : server.context,
                                           .vocab = r->vocab ? r->vocab : server.vocab,
                                           .timeout_ms = r->timeout_s * 1000,
                                           .tick = overhear,
                                           .arg = own};
    if (options.context < 2 || !options.vocab)
        status =
            bg_fail(err, BG_INVALID, "%s does not tell its context and vocabulary: give --context and --vocab", url);
    if (!status)
        status = replay_run(cli->env, &options, err, &result);
    bg_free(server.model);
    if (status)
        return status;
    tell(cli, r, &result, count);
    if (!result.answered)
        status = bg_fail(err, BG_IO, "no request was answered%s%s", *result.failure ? ": " : "", result.failure);
    replay_result_fini(&result);
    return status;
}

static int run(struct cli *cli, const struct request *r, const char *model)
{
    struct bg_error err = {0};
    struct plan_trace trace = {0};
    struct own own = {.said_by = -1};
    bg_status status = trace_load(cli->env, r->trace, &err, &trace);
    if (!status && (trace.kind != PLAN_TRACE_REQUESTS || !trace.count))
        status = bg_fail(&err, BG_INVALID, "%s is a trace of %s; expected one of requests", r->trace,
                         plan_trace_kind_name(trace.kind));
    if (!status && model)
        status = own_start(cli, r, model, &err, &own);
    if (!status)
        status = replay(cli, r, &own, &trace, &err);
    own_stop(&own);
    plan_trace_fini(&trace);
    return status ? cli_fail(&err) : 0;
}

static int check(const struct request *r, const char *model)
{
    if (!r->trace)
        return cli_misuse("bench serve", "--trace FILE is missing");
    if (!r->url == !model)
        return cli_misuse("bench serve", "one of --url URL, for a server that is there, and MODEL, for one of our own");
    if (r->with.count && !model)
        return cli_misuse("bench serve", "--with is for a server of our own");
    if (!(r->speed > 0) || !(r->speed < 1e9f))
        return cli_misuse("bench serve", "--time-scale: expected a number above 0");
    return 0;
}

int cmd_bench(struct cli *cli, int argc, char **argv)
{
    struct request r = {.speed = 1, .slo_first_ms = 2000, .slo_token_ms = 200, .timeout_s = 600};
    const struct cli_option options[] = {
        {"trace", CLI_TEXT, &r.trace, "FILE", "TIMESTAMP,ContextTokens,GeneratedTokens, a request a line"},
        {"url", CLI_TEXT, &r.url, "URL", "of a server that is there, e.g. http://127.0.0.1:8080"},
        {"api-key", CLI_TEXT, &r.key, "K", "its key"},
        {"with", CLI_LIST, &r.with, "ARG",
         "argument of `brigade serve MODEL`, as --with=--weights=q8_0; may be repeated"},
        {"time-scale", CLI_FLOAT, &r.speed, "X", "the trace's time goes X times as fast (default 1)"},
        {"limit", CLI_U32, &r.limit, "N", "only the first N requests"},
        {"context", CLI_U32, &r.context, "N", "cut prompt and answer to N tokens (default: the server's context)"},
        {"vocab", CLI_U32, &r.vocab, "N", "prompts of token ids below N (default: the server's vocabulary)"},
        {"slo-ttft", CLI_FLOAT, &r.slo_first_ms, "MS", "a good answer's first token within (default 2000)"},
        {"slo-itl", CLI_FLOAT, &r.slo_token_ms, "MS", "and then one within, on average (default 200)"},
        {"timeout", CLI_U32, &r.timeout_s, "S", "given up then (default 600)"},
    };
    const struct cli_usage usage = {"bench serve --trace FILE [--url URL | MODEL] [options]",
                                    "Sends the requests of a trace at their times, whatever was answered by then, and "
                                    "tells how long clients waited:\n"
                                    "TTFT from when a request was due to its first token, ITL between tokens. Answers "
                                    "have the trace's length, as far\n"
                                    "as the context holds them; prompts are random tokens, each of its own.",
                                    options,
                                    sizeof options / sizeof *options,
                                    1,
                                    2,
                                    true};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code >= 0)
        goto undo_words;
    const char *model = words.count > 1 ? words.items[1] : NULL;
    if (strcmp(words.items[0], "serve") != 0)
        code = cli_misuse("bench", "expected serve, found '%s'", words.items[0]);
    else
        code = check(&r, model);
    if (!code)
        code = cli_env_unpinned(cli);
    if (!code)
        code = run(cli, &r, model);
    bg_strlist_fini(&r.with);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
