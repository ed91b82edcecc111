// `brigade sim spotserve`: which parallelism SpotServe takes for so many machines and such a rate, and who takes which
// place when machines go and come.
#include "cli/sim.h"

#include "base/mem.h"
#include "base/philox.h"
#include "plan/service/spotserve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char verb[] = "sim spotserve", published[] = "opt-6.7b";
enum { CHANGES_MAX = 64 };

struct command { // as given
    const char *machines, *rate, *model, *grace;
    uint32_t batch, tokens, cached;
    uint64_t seed;
};

struct change { // so many machines from now on
    uint32_t machines;
    struct plan_spotserve_config config;
    struct plan_spotserve_shape shape;
    bool moves; // something was there before, and something is now
    double needed, stays, stays_in_order;
    struct plan_spotserve_moves list;
    double moved_bytes, stored_bytes;      // between machines; from storage
    uint32_t tokens_in_grace;              // that a batch of the configuration before still gets
    uint32_t ids[PLAN_SPOTSERVE_MACHINES]; // (machines)
    struct plan_spotserve_place places[PLAN_SPOTSERVE_MACHINES];
};

struct serve {
    struct plan_spotserve_profile profile;
    uint32_t batch, tokens, cached;
    double rate, grace_s;
    uint64_t seed;
    struct change *changes; // (count)
    uint32_t count, next_id;
};

// ---- One change ----

// Who is there: of those before the first that `machines` leaves, drawn; new ones behind them.
static void meet(struct serve *s, const struct change *before, struct change *now, uint32_t index)
{
    uint32_t there = before ? before->machines : 0;
    if (before) {
        memcpy(now->ids, before->ids, sizeof now->ids);
        memcpy(now->places, before->places, sizeof now->places);
    }
    for (uint32_t k = 0; there > now->machines; k++) {
        const struct bg_philox_counter drawn =
            bg_philox((struct bg_philox_counter){{k, index}},
                      (struct bg_philox_key){{(uint32_t)s->seed, (uint32_t)(s->seed >> 32)}});
        const uint32_t gone = (uint32_t)(((uint64_t)drawn.c[0] * there) >> 32), rest = --there - gone;
        memmove(&now->ids[gone], &now->ids[gone + 1], rest * sizeof *now->ids);
        memmove(&now->places[gone], &now->places[gone + 1], rest * sizeof *now->places);
    }
    for (; there < now->machines; there++) {
        now->ids[there] = s->next_id++;
        now->places[there] = (struct plan_spotserve_place){PLAN_SPOTSERVE_NOBODY, 0, 0};
    }
}

static struct plan_spotserve_place place_of(const struct plan_spotserve_shape *shape, uint32_t index)
{
    return (struct plan_spotserve_place){index / (shape->stages * shape->width), index / shape->width % shape->stages,
                                         index % shape->width};
}

static void sum_bytes(struct change *now)
{
    const double slice = 12.0 * now->shape.hidden * now->shape.hidden / (1 << (PLAN_SPOTSERVE_LOG_MAX - 1));
    for (uint32_t i = 0; i < now->list.count; i++)
        *(now->list.transfers[i].from == PLAN_SPOTSERVE_NOBODY ? &now->stored_bytes : &now->moved_bytes) +=
            2 * slice * now->list.transfers[i].slices; // two bytes a number
}

static bg_status move(struct serve *s, const struct plan_spotserve_shape *from, struct change *now,
                      struct bg_error *err)
{
    const struct plan_spotserve_shape *to = &now->shape;
    const uint32_t places = to->replicas * to->stages * to->width;
    const double cache = (double)s->cached * now->config.batch;
    uint32_t machine_of[PLAN_SPOTSERVE_MACHINES];
    bg_status status = plan_spotserve_map(from, now->places, now->machines, to, cache, err, machine_of, &now->stays);
    if (status)
        return status;
    for (uint32_t i = 0; i < places; i++) {
        const struct plan_spotserve_place place = place_of(to, i);
        now->needed += plan_spotserve_reusable(to, place, to, place, cache);
        now->stays_in_order += plan_spotserve_reusable(from, now->places[i], to, place, cache);
    }
    plan_spotserve_migrate(from, now->places, now->machines, to, machine_of, 0, &now->list);
    sum_bytes(now);
    for (uint32_t m = 0; m < now->machines; m++)
        now->places[m].replica = PLAN_SPOTSERVE_NOBODY;
    for (uint32_t i = 0; i < places; i++)
        now->places[machine_of[i]] = place_of(to, i);
    return BG_OK;
}

static bg_status take(struct serve *s, uint32_t index, struct bg_error *err)
{
    struct change *now = &s->changes[index], *before = index ? &s->changes[index - 1] : NULL;
    const struct plan_spotserve_shape nothing = {0, 1, 1, s->profile.padded_layers, s->profile.hidden};
    meet(s, before, now, index);
    bg_status status =
        plan_spotserve_solve(&s->profile, now->machines, s->batch, s->rate, s->tokens, err, &now->config);
    if (status)
        return status;
    const struct plan_spotserve_config *c = &now->config;
    now->shape = nothing;
    if (before)
        now->tokens_in_grace = plan_spotserve_steps(&before->config, s->grace_s, s->tokens);
    if (!c->replicas) {
        for (uint32_t m = 0; m < now->machines; m++)
            now->places[m].replica = PLAN_SPOTSERVE_NOBODY;
        return BG_OK;
    }
    now->shape = (struct plan_spotserve_shape){c->replicas, c->stages, c->width, nothing.layers, nothing.hidden};
    now->moves = before && before->config.replicas;
    return move(s, before ? &before->shape : &nothing, now, err);
}

// ---- Saying ----

static json_t *places_json(const struct change *now)
{
    json_t *list = json_array();
    for (uint32_t m = 0; m < now->machines; m++) {
        const struct plan_spotserve_place p = now->places[m];
        json_t *one = json_pack("{s:I}", "machine", (json_int_t)now->ids[m]);
        if (p.replica != PLAN_SPOTSERVE_NOBODY) {
            json_object_set_new(one, "replica", json_integer(p.replica));
            json_object_set_new(one, "stage", json_integer(p.stage));
            json_object_set_new(one, "rank", json_integer(p.rank));
        }
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *change_json(const struct serve *s, const struct change *now)
{
    const struct plan_spotserve_config *c = &now->config;
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:b, s:I, s:o}", "machines",
                          (json_int_t)now->machines, "replicas", (json_int_t)c->replicas, "stages",
                          (json_int_t)c->stages, "width", (json_int_t)c->width, "batch", (json_int_t)c->batch,
                          "prompt_parts", (json_int_t)c->prompt_parts, "token_parts", (json_int_t)c->token_parts,
                          "latency_ms", c->latency_ms, "rate", c->rate, "keeps_up", c->replicas && c->rate >= s->rate,
                          "replicas_needed", (json_int_t)c->replicas_needed, "places", places_json(now));
    if (now->moves)
        json_object_set_new(o, "change",
                            json_pack("{s:f, s:f, s:I, s:f, s:f, s:I}", "stays", now->stays / now->needed,
                                      "stays_in_order", now->stays_in_order / now->needed, "transfers",
                                      (json_int_t)now->list.count, "moved_bytes", now->moved_bytes, "stored_bytes",
                                      now->stored_bytes, "tokens_in_grace", (json_int_t)now->tokens_in_grace));
    return o;
}

static void print_json(const struct command *c, const struct serve *s)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < s->count; i++)
        json_array_append_new(list, change_json(s, &s->changes[i]));
    cli_print_json(json_pack("{s:s, s:f, s:I, s:I, s:f, s:o}", "model", c->model, "rate", s->rate, "tokens",
                             (json_int_t)s->tokens, "batch_max", (json_int_t)s->batch, "grace_s", s->grace_s,
                             "configurations", list));
}

static void print_change(const struct change *now)
{
    char moved[32], stored[32];
    if (!now->moves)
        return;
    cli_bytes(moved, sizeof moved, (uint64_t)now->moved_bytes);
    cli_bytes(stored, sizeof stored, (uint64_t)now->stored_bytes);
    printf(" %6.1f%% %8.1f%% %10s %10s %6u", 100 * now->stays / now->needed, 100 * now->stays_in_order / now->needed,
           moved, stored, now->tokens_in_grace);
}

static void print_places(const struct change *now)
{
    printf("\n%u machines:", now->machines);
    for (uint32_t m = 0; m < now->machines; m++) {
        const struct plan_spotserve_place p = now->places[m];
        if (p.replica == PLAN_SPOTSERVE_NOBODY)
            printf(" %u -", now->ids[m]);
        else
            printf(" %u %u/%u/%u", now->ids[m], p.replica, p.stage, p.rank);
        printf("%s", m + 1 < now->machines ? "," : "\n");
    }
}

static void print_text(const struct serve *s)
{
    printf("%8s %14s %6s %7s %9s %8s %9s | %6s %9s %10s %10s %6s\n", "machines", "replicas", "batch", "parts",
           "latency s", "rate /s", "keeps up", "stays", "in order", "moved", "stored", "tokens");
    for (uint32_t i = 0; i < s->count; i++) {
        const struct change *now = &s->changes[i];
        const struct plan_spotserve_config *c = &now->config;
        char shape[40], parts[24];
        snprintf(shape, sizeof shape, "%ux%ux%u", c->replicas, c->stages, c->width);
        snprintf(parts, sizeof parts, "%u, %u", c->prompt_parts, c->token_parts);
        if (c->replicas)
            printf("%8u %14s %6u %7s %9.3f %8.3f %9s |", now->machines, shape, c->batch, parts, c->latency_ms / 1000,
                   c->rate, c->rate >= s->rate ? "yes" : "no");
        else
            printf("%8u %14s %42s |", now->machines, "does not fit", "");
        print_change(now);
        printf("\n");
    }
    printf("\nreplicas x stages x width; machine: replica/stage/rank\n");
    for (uint32_t i = 0; i < s->count; i++)
        print_places(&s->changes[i]);
}

// ---- The command ----

static int parse_machines(const char *text, struct serve *s)
{
    struct bg_strlist words = {0};
    int code = -1;
    bg_strlist_split(&words, text, ',');
    s->changes = bg_alloc_array(words.count, sizeof *s->changes);
    for (size_t i = 0; i < words.count && code < 0; i++) {
        const char *word = words.items[i];
        const unsigned long value = strtoul(word, NULL, 10);
        if (i == CHANGES_MAX || !*word || strlen(word) > 4 || word[strspn(word, "0123456789")] || !value ||
            value > PLAN_SPOTSERVE_MACHINES)
            code = cli_misuse(verb, "--machines: expected up to %d numbers of 1 to %d, like 12,8,10, found '%.60s'",
                              CHANGES_MAX, PLAN_SPOTSERVE_MACHINES, word);
        else
            s->changes[s->count++].machines = (uint32_t)value;
    }
    bg_strlist_fini(&words);
    return code;
}

static int parse(const struct command *c, struct serve *s)
{
    char *end;
    if (!c->machines || !c->rate)
        return cli_misuse(verb, "--machines and --rate are both needed");
    s->rate = strtod(c->rate, &end);
    if (end == c->rate || *end || !(s->rate >= 0 && s->rate <= 1e9))
        return cli_misuse(verb, "--rate: expected requests a second, found '%s'", c->rate);
    if (!cli_parse_seconds(c->grace, &s->grace_s))
        return cli_misuse(verb, "--grace: expected a time like 30s, found '%s'", c->grace);
    if (!c->tokens || c->tokens > 1000000 || c->cached > 1000000)
        return cli_misuse(verb, "--tokens and --cached: expected at most 1000000, and a token at least");
    return parse_machines(c->machines, s);
}

static bg_status read_model(struct cli *cli, const struct command *c, struct serve *s, struct bg_error *err)
{
    struct bg_map map;
    bg_status status = BG_OK;
    if (strcmp(c->model, published) == 0) {
        s->profile = plan_spotserve_published;
    } else {
        status = cli->env->ops->map_open(cli->env, c->model, err, &map);
        if (status)
            return status;
        status = plan_spotserve_read(c->model, map.data, map.size, err, &s->profile);
        cli->env->ops->map_close(cli->env, &map);
    }
    const uint32_t most = status ? 0 : plan_spotserve_batch_max(&s->profile);
    s->batch = c->batch ? c->batch : most;
    if (!status && s->batch > most)
        status = bg_fail(err, BG_INVALID, "--batch: %u, but the profile has times for batches of at most %u", s->batch,
                         most);
    return status;
}

static int run_command(struct cli *cli, const struct command *c, struct serve *s)
{
    struct bg_error err = {0};
    int code = parse(c, s);
    if (code < 0)
        code = cli_env(cli, 1);
    if (code)
        return code;
    bg_status status = read_model(cli, c, s, &err);
    for (uint32_t i = 0; i < s->count && !status; i++)
        status = take(s, i, &err);
    if (status)
        return cli_fail(&err);
    if (cli->json)
        print_json(c, s);
    else
        print_text(s);
    return cli_finish_output();
}

int sim_spotserve(struct cli *cli, int argc, char **argv)
{
    struct command c = {.model = published, .grace = "30s", .tokens = 128, .cached = 64, .seed = 1};
    const struct cli_option options[] = {
        {"machines", CLI_TEXT, &c.machines, "N,N,..",
         "one after the other; of those that were there the ones that go are drawn"},
        {"rate", CLI_TEXT, &c.rate, "X", "requests a second to keep up with"},
        {"model", CLI_TEXT, &c.model, "FILE",
         "times of a model as JSON (opt-6.7b: as SpotServe published them, on T4)"},
        {"batch", CLI_U32, &c.batch, "N", "at most, a power of two (what the model has times for)"},
        {"tokens", CLI_U32, &c.tokens, "N", "that a request gets (128)"},
        {"cached", CLI_U32, &c.cached, "N", "tokens a request has in its cache when machines change (64)"},
        {"grace", CLI_TEXT, &c.grace, "TIME", "from the warning until machines go (30s)"},
        {"seed", CLI_U64, &c.seed, "N", "of the draws (1)"},
    };
    const struct cli_usage usage = {"sim spotserve --machines N,N,.. --rate X [options]",
                                    "The parallelism that SpotServe takes: of all configurations that keep up the one "
                                    "of least latency, else that of "
                                    "the\nhighest rate; and who takes which place in it when machines change, so that "
                                    "as much as can be stays where it "
                                    "is.",
                                    options,
                                    sizeof options / sizeof *options,
                                    0,
                                    0,
                                    true};
    struct serve s = {.tokens = 0};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    s.tokens = c.tokens;
    s.cached = c.cached;
    s.seed = c.seed;
    if (code < 0)
        code = run_command(cli, &c, &s);
    for (uint32_t i = 0; i < s.count; i++)
        plan_spotserve_moves_fini(&s.changes[i].list);
    bg_free(s.changes);
    bg_strlist_fini(&words);
    return code;
}
