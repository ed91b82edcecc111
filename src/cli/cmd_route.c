// `brigade route`: one address in front of several `brigade serve`.
#include "base/hash.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "os/live.h"
#include "serve/route/route.h"

#include <string.h>

struct request {
    const char *host, *file, *replica_key, *replica_ca, *certificate, *key, *cors, *digest;
    struct bg_strlist replicas, keys;
    uint32_t port, queue, wait_s, stall_ms, probe_ms, notice_s, grace_s, body_mib;
    uint64_t bandwidth;
    bool no_key, quiet;
    char *certificate_text, *key_text;
};

static int check(const struct request *r)
{
    if (r->port > 65535)
        return cli_misuse("route", "--port %u: expected 0 to 65535", r->port);
    if (r->body_mib < 1 || r->body_mib > 1024 || r->queue < 1)
        return cli_misuse("route", "--body-limit %u, --queue %u: expected 1 to 1024, and 1 or more", r->body_mib,
                          r->queue);
    if (r->no_key && strncmp(r->host, "127.", 4) != 0)
        return cli_misuse("route", "--no-key with --host %s: without a key only this machine may ask; give --api-key",
                          r->host);
    if (r->no_key && r->keys.count)
        return cli_misuse("route", "--no-key or --api-key, not both");
    for (size_t i = 0; i < r->keys.count; i++)
        if (!cli_is_header(r->keys.items[i]))
            return cli_misuse("route", "--api-key: expected a key without control characters, and not an empty one");
    if (r->replica_key && !cli_is_header(r->replica_key))
        return cli_misuse("route", "--replica-key: expected a key without control characters, and not an empty one");
    if (r->cors && !cli_is_header(r->cors))
        return cli_misuse("route", "--cors: expected an origin such as https://example.org, or *");
    if (r->digest && (strlen(r->digest) != 64 || strspn(r->digest, "0123456789abcdef") != 64))
        return cli_misuse("route", "--digest %.70s: expected the 64 digits that `brigade serve` prints", r->digest);
    if (!r->certificate != !r->key)
        return cli_misuse("route", "--tls-cert and --tls-key belong together");
    if (r->replicas.count == 0 && !r->file)
        return cli_misuse("route", "no replicas: name them with --replica URL or --replicas FILE");
    if (r->stall_ms < 10 || r->stall_ms > 60000 || r->probe_ms < 1 || r->probe_ms > 60000)
        return cli_misuse("route", "--stall %u, --probe %u: expected 10 and 1 to 60000 milliseconds", r->stall_ms,
                          r->probe_ms);
    if (r->wait_s == 0 || r->wait_s > 86400 || r->notice_s == 0 || r->notice_s > 86400 || r->grace_s > 86400)
        return cli_misuse("route", "--wait, --notice, --grace: expected 1 to 86400 seconds");
    return 0;
}

static void say(void *arg, const char *line)
{
    fprintf(arg, "brigade: %s\n", line);
    fflush(arg);
}

// What the command line names: the certificate and its key, and a key of our own where none is given.
static bg_status prepare(struct bg_env *env, struct request *r, struct bg_error *err)
{
    struct bg_file_info info = {0};
    uint8_t random[32];
    char hex[65];
    bg_status status = r->certificate ? cli_read_file(env, r->certificate, err, &r->certificate_text) : BG_OK;
    if (!status && r->key)
        status = cli_read_file(env, r->key, err, &r->key_text);
    if (!status && r->replica_ca)
        status = env->ops->path_info(env, r->replica_ca, err, &info);
    if (!status && r->replica_ca && !info.exists)
        status = bg_fail(err, BG_NOT_FOUND, "--replica-ca %s: there is no such file", r->replica_ca);
    if (status || r->keys.count > 0 || r->no_key)
        return status;
    status = env->ops->entropy(env, random, sizeof random, err);
    bg_sha256_from_bytes(random, hex);
    hex[32] = '\0';
    bg_strlist_add(&r->keys, hex);
    return status;
}

static int route(struct cli *cli, struct request *r)
{
    struct bg_error err = {0};
    struct route *route = NULL;
    const bool drawn = r->keys.count == 0 && !r->no_key;
    if (prepare(cli->env, r, &err))
        return cli_fail(&err);
    const struct route_options options = {.host = r->host,
                                          .port = (uint16_t)r->port,
                                          .keys = (const char *const *)r->keys.items,
                                          .key_count = (uint32_t)r->keys.count,
                                          .replicas = (const char *const *)r->replicas.items,
                                          .replica_count = (uint32_t)r->replicas.count,
                                          .replica_file = r->file,
                                          .rereads = os_hangups,
                                          .digest = r->digest,
                                          .replica_key = r->replica_key,
                                          .replica_ca = r->replica_ca,
                                          .cors = r->cors,
                                          .tls_certificate = r->certificate_text,
                                          .tls_key = r->key_text,
                                          .queue_max = r->queue,
                                          .wait_ms = r->wait_s * 1000,
                                          .stall_ms = r->stall_ms,
                                          .probe_ms = r->probe_ms,
                                          .notice_ms = r->notice_s * 1000,
                                          .grace_ms = r->grace_s * 1000,
                                          .bandwidth = (double)r->bandwidth,
                                          .body_max = (size_t)r->body_mib << 20,
                                          .stopping = os_signals_stop,
                                          .say = r->quiet ? NULL : say,
                                          .arg = stderr};
    os_pipes_may_break();
    if (r->file)
        os_hangups_count();
    if (route_create(cli->env, &options, &err, &route))
        return cli_fail(&err);
    fprintf(stderr, "brigade: routing at %s://%s:%u/", r->certificate ? "https" : "http", r->host, route_port(route));
    if (drawn)
        fprintf(stderr, "?key=%s\nbrigade: key %s", r->keys.items[0], r->keys.items[0]);
    fprintf(stderr, "\n");
    fflush(stderr);
    route_run(route);
    route_destroy(route);
    return 0;
}

// --replica A,B is --replica A --replica B.
static void split_replicas(struct request *r)
{
    struct bg_strlist each = {0};
    for (size_t i = 0; i < r->replicas.count; i++)
        bg_strlist_split(&each, r->replicas.items[i], ',');
    bg_strlist_fini(&r->replicas);
    r->replicas = each;
}

int cmd_route(struct cli *cli, int argc, char **argv)
{
    struct request r = {.host = "127.0.0.1",
                        .port = 8000,
                        .queue = 256,
                        .wait_s = 30,
                        .stall_ms = 400,
                        .probe_ms = 100,
                        .notice_s = 30,
                        .grace_s = 30,
                        .body_mib = 4};
    const struct cli_option options[] = {
        {"replica", CLI_LIST, &r.replicas, "URL", "a `brigade serve`, or several with commas; may be given again"},
        {"replicas", CLI_TEXT, &r.file, "FILE",
         "more of them, one URL a line; read again when it changes, and at SIGHUP"},
        {"digest", CLI_TEXT, &r.digest, "HEX", "of the model that replicas must serve (default: the first one's)"},
        {"replica-key", CLI_TEXT, &r.replica_key, "K", "the replicas' --api-key"},
        {"replica-ca", CLI_TEXT, &r.replica_ca, "FILE", "who signs https:// replicas, PEM (default: the system's)"},
        {"host", CLI_TEXT, &r.host, "H", "address to listen at (default 127.0.0.1)"},
        {"port", CLI_U32, &r.port, "P", "0: any (default 8000)"},
        {"api-key", CLI_LIST, &r.keys, "K", "who has it may ask; may be given again (default: one is drawn and told)"},
        {"no-key", CLI_FLAG, &r.no_key, NULL, "nobody is asked for a key; on loopback only"},
        {"tls-cert", CLI_TEXT, &r.certificate, "FILE", "certificate chain, PEM: HTTPS"},
        {"tls-key", CLI_TEXT, &r.key, "FILE", "its key, PEM"},
        {"cors", CLI_TEXT, &r.cors, "ORIGIN", "pages of that origin may ask"},
        {"queue", CLI_U32, &r.queue, "N", "requests that may wait for a replica; beyond: 429 (default 256)"},
        {"wait", CLI_U32, &r.wait_s, "S", "most time without a replica before a request fails (default 30)"},
        {"stall", CLI_U32, &r.stall_ms, "MS", "a replica silent for so long is given up (default 400)"},
        {"probe", CLI_U32, &r.probe_ms, "MS", "between probes of a replica (default 100)"},
        {"notice", CLI_U32, &r.notice_s, "S", "what a replica that drains has left: its --grace (default 30)"},
        {"bandwidth", CLI_U64, &r.bandwidth, "BYTES", "a second between replicas, until measured (default 125000000)"},
        {"grace", CLI_U32, &r.grace_s, "S", "time to finish requests after SIGTERM (default 30)"},
        {"body-limit", CLI_U32, &r.body_mib, "MIB", "largest body of a request (default 4)"},
        {"quiet", CLI_FLAG, &r.quiet, NULL, "do not tell what happens to replicas"},
    };
    const struct cli_usage usage = {"route --replica URL [options]",
                                    "One address in front of several `brigade serve` of the same model. A request "
                                    "whose replica dies, stalls or is\n"
                                    "drained goes on at another one, and its client sees one stream with the same "
                                    "bytes. The replica that answers is\n"
                                    "chosen by what it has in flight, how fast it is, and who had the like before.",
                                    options,
                                    sizeof options / sizeof *options,
                                    0,
                                    0,
                                    false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0) {
        split_replicas(&r);
        code = check(&r);
        if (!code)
            code = cli_env(cli, 1);
        if (!code)
            code = route(cli, &r);
    }
    bg_free(r.certificate_text);
    bg_free(r.key_text);
    bg_strlist_fini(&r.replicas);
    bg_strlist_fini(&r.keys);
    bg_strlist_fini(&words);
    return code;
}
