// `brigade sim replay`: every decision of a log is made once more from its snapshot and must come out the same, byte
// for byte. Live runs and `sim deadline|fleet|service --log` write such logs.
#include "cli/sim.h"

#include "base/mem.h"
#include "plan/fleet/fleet_ask.h"
#include "plan/service/service.h"
#include "plan/spot/policy.h"

#include <string.h>

static bg_status replay_line(const char *line, struct bg_error *err)
{
    if (plan_fleet_decision_is(line))
        return plan_fleet_decision_replay(line, err);
    if (plan_service_decision_is(line))
        return plan_service_decision_replay(line, err);
    return plan_decision_replay(line, err);
}

static bg_status replay(const char *path, const struct bg_map *map, struct bg_error *err, size_t *decisions)
{
    const char *text = (const char *)map->data;
    for (size_t at = 0, line = 1; at < map->size; line++) {
        const char *end = memchr(text + at, '\n', map->size - at);
        const size_t size = end ? (size_t)(end - (text + at)) : map->size - at;
        char *one = bg_strndup(text + at, size);
        bg_status status = replay_line(one, err);
        bg_free(one);
        if (!status && !end)
            status = bg_fail(err, BG_FORMAT, "the line has no end: the log was cut off");
        if (status) {
            err->status = status == BG_INVALID ? BG_FORMAT : status; // numbers that no job can have
            return bg_fail_prefix(err, "%s:%zu", path, line);
        }
        ++*decisions;
        at += size + 1;
    }
    return *decisions ? BG_OK : bg_fail(err, BG_FORMAT, "%s: no decisions", path);
}

int sim_replay(struct cli *cli, int argc, char **argv)
{
    const struct cli_usage usage = {
        "sim replay LOG",
        "Makes every decision of a log once more, as live runs and `sim deadline`, `sim "
        "fleet` and `sim service` with\n"
        "--log write them: \"policy NAME decided RENT [in ZONE] on SNAPSHOT\", \"fleet NAME "
        "decided SHAPE on ...\",\n"
        "\"service NAME decided ... on ...\". They must be the same, byte for byte; the first "
        "that is not is named, and\n"
        "the exit code is 65.",
        NULL,
        0,
        1,
        1,
        true};
    struct bg_strlist words = {0};
    struct bg_error err = {0};
    struct bg_map map;
    size_t decisions = 0;
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0 && (code = cli_env(cli, 1)) == 0) {
        const char *path = words.items[0];
        bg_status status = cli->env->ops->map_open(cli->env, path, &err, &map);
        if (!status) {
            status = replay(path, &map, &err, &decisions);
            cli->env->ops->map_close(cli->env, &map);
        }
        if (status)
            code = cli_fail(&err);
        else if (cli->json)
            cli_print_json(json_pack("{s:I, s:b}", "decisions", (json_int_t)decisions, "same", 1));
        else
            printf("%zu decisions, all the same\n", decisions);
    }
    bg_strlist_fini(&words);
    return code;
}
