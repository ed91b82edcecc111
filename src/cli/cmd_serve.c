// `brigade serve`: one model behind OpenAI's API, in this process. It listens at once, answers 503 while the model
// loads, and at a signal finishes what runs within the grace period. One that comes while it loads ends it at once: a
// thread of its own looks out for that, since reading, packing and hashing may wait for a disk that is slow, or gone.
#include "cli/cli.h"

#include "base/hash.h"
#include "base/mem.h"
#include "model/packed_cache.h"
#include "os/fault.h"
#include "os/live.h"
#include "serve/chat.h"
#include "serve/http/http.h"
#include "serve/watchdog.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

struct request {
    const char *host, *cors, *certificate, *key, *name, *weights, *speculate, *draft, *tree, *tokenizer, *template,
        *access, *pack_cache, *disk_cache, *slots_path, *key_file;
    struct bg_strlist keys;
    uint32_t port, context, slots, chunk, queue, threads, grace_s, body_mib, watchdog_s, idle_s, draft_max;
    uint64_t queue_tokens, kv_bytes, host_cache, disk_bytes;
    float batch_wait_us;
    bool no_key, vllm;
    uint8_t expand[ENGINE_SPECULATE_MAX]; // tree, read
};

struct server {
    struct cli *cli;
    struct request r;
    struct model_files files, draft_files;
    struct tokenizer *own;
    struct tokenizer *tokenizer;
    struct packed_model *packed, *draft;
    struct packed_cache *pack_cache, *disk_cache;
    struct chat_template *chat;
    struct engine *engine;
    struct http *http;
    struct watchdog *watchdog;
    char *certificate, *tls_key, *chat_text, *name;
    struct bg_file *log;
    char digest[65];
    struct bg_gate *gate; // while it loads, as what follows
    struct bg_thread *lookout;
    bool loaded; // gate
};

static const char *const weight_names[] = {"f32", "q8_0", "q4_0", "int8"}; // of enum kern_weight
enum { WEIGHT_NAMES = sizeof weight_names / sizeof *weight_names };

static size_t weight_index(const char *name) // WEIGHT_NAMES: none of them
{
    size_t at = 0;
    while (at < WEIGHT_NAMES && strcmp(name, weight_names[at]) != 0)
        at++;
    return at;
}

static unsigned speculation(const struct request *r)
{
    static const char *const names[] = {"none", "ngram", "draft", "tree"}; // as engine_options has them
    unsigned at = 0;
    while (at < sizeof names / sizeof *names && strcmp(r->speculate, names[at]) != 0)
        at++;
    return at;
}

// "2,2,1": guesses for the next token, after each of those, ..; their product are the leaves.
static bool read_tree(struct request *r)
{
    size_t depth = 0;
    unsigned long leaves = 1;
    for (const char *at = r->tree;; at++) {
        char *end;
        const unsigned long each = *at >= '1' && *at <= '9' ? strtoul(at, &end, 10) : 0;
        if (each == 0 || each > ENGINE_LANES_MAX || depth == ENGINE_SPECULATE_MAX)
            return false;
        leaves *= each;
        r->expand[depth++] = (uint8_t)each;
        at = end;
        if (leaves > ENGINE_LANES_MAX || (*at && *at != ','))
            return false;
        if (!*at)
            return true;
    }
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0;
}

static int check_numbers(const struct request *r)
{
    const struct {
        const char *name;
        uint32_t value, least, most;
    } numbers[] = {{"port", r->port, 0, 65535},
                   {"slots", r->slots, 1, 4096},
                   {"chunk", r->chunk, 1, 65536},
                   {"queue", r->queue, 1, UINT32_MAX},
                   {"body-limit", r->body_mib, 1, 1024},
                   {"grace", r->grace_s, 0, 86400},
                   {"idle", r->idle_s, 1, 86400},
                   {"watchdog", r->watchdog_s, 1, 86400},
                   {"draft-max", r->draft_max, 1, ENGINE_SPECULATE_MAX}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < numbers[i].least || numbers[i].value > numbers[i].most)
            return cli_misuse("serve", "--%s %u: expected %u to %u", numbers[i].name, numbers[i].value,
                              numbers[i].least, numbers[i].most);
    if (r->batch_wait_us < 0 || r->batch_wait_us > 1e6f)
        return cli_misuse("serve", "--batch-wait %g: expected 0 to 1000000 microseconds", (double)r->batch_wait_us);
    return 0;
}

static int check(struct request *r)
{
    if (r->disk_bytes && !r->disk_cache)
        return cli_misuse("serve", "--disk-cache-bytes without --disk-cache DIR");
    if (r->no_key && !is_loopback(r->host))
        return cli_misuse("serve", "--no-key with --host %s: without a key only this machine may ask; give --api-key",
                          r->host);
    if (r->no_key && (r->keys.count || r->key_file))
        return cli_misuse("serve", "--no-key or --api-key, not both");
    for (size_t i = 0; i < r->keys.count; i++)
        if (!cli_is_header(r->keys.items[i]))
            return cli_misuse("serve", "--api-key: expected a key without control characters, and not an empty one");
    if (r->cors && !cli_is_header(r->cors))
        return cli_misuse("serve", "--cors: expected an origin such as https://example.org, or *");
    if (!r->certificate != !r->key)
        return cli_misuse("serve", "--tls-cert and --tls-key belong together");
    if (speculation(r) > ENGINE_TREE)
        return cli_misuse("serve", "--speculate %s: expected none, ngram, draft or tree", r->speculate);
    if ((speculation(r) >= ENGINE_DRAFT) != (r->draft != NULL))
        return cli_misuse("serve", "--speculate draft (or tree) and --draft MODEL belong together");
    if (r->tree && speculation(r) != ENGINE_TREE)
        return cli_misuse("serve", "--draft-tree belongs to --speculate tree");
    if (r->tree && !read_tree(r))
        return cli_misuse("serve",
                          "--draft-tree %s: expected at most %d numbers of guesses such as 2,2,1, with a product of at "
                          "most %d",
                          r->tree, ENGINE_SPECULATE_MAX, ENGINE_LANES_MAX);
    if (strcmp(r->weights, "auto") != 0 && weight_index(r->weights) == WEIGHT_NAMES)
        return cli_misuse("serve", "--weights %s: expected auto, f32, q8_0, q4_0 or int8", r->weights);
    return check_numbers(r);
}

static void write_access(void *arg, const char *line)
{
    struct server *s = arg;
    struct bg_env *env = s->cli->env;
    struct bg_error err;
    char *text = bg_format("%s\n", line);
    if (!s->log)
        fprintf(stderr, "%s", text);
    else if (env->ops->file_write(env, s->log, text, strlen(text), &err))
        fprintf(stderr, "brigade: access log: %s\n", err.text);
    bg_free(text);
}

// ---- Parts ----
static bg_status load_chat(struct server *s, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    char *text = NULL;
    bg_status status = s->r.template ? cli_read_file(env, s->r.template, err, &text)
                                     : model_chat_template(env, s->files.path, err, &text);
    const char *use = text ? text : chat_template_default;
    if (!status)
        status = chat_template_compile(use, strlen(use), err, &s->chat);
    if (status)
        bg_fail_prefix(err, "chat template of %s", s->r.template ? s->r.template : s->files.path);
    else
        tokenizer_add_end(s->tokenizer, chat_turn_end(s->chat, s->tokenizer));
    s->chat_text = bg_strdup(use);
    bg_free(text);
    return status;
}

enum { CACHED_BYTES_MIN = 64 << 20 }; // smaller models are packed as fast as they are read

// NULL: nowhere. bg_free it.
static char *pack_directory(const struct server *s, enum kern_weight type)
{
    const char *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (s->r.pack_cache)
        return strcmp(s->r.pack_cache, "none") == 0 ? NULL : bg_strdup(s->r.pack_cache);
    if (packed_bytes(s->files.model, type) < CACHED_BYTES_MIN)
        return NULL;
    if (caches && *caches)
        return bg_format("%s/brigade", caches);
    return home && *home ? bg_format("%s/.cache/brigade", home) : NULL;
}

static bg_status load_weights(struct server *s, enum kern_weight type, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    const uint64_t begin = env_now_ns(env);
    struct bg_error unkept;
    char count[32], *directory = pack_directory(s, type);
    cli_count(count, sizeof count, (double)s->files.model->elements);
    fprintf(stderr, "brigade: %s parameters, weights %s, class %s\n", count, weight_names[type], packed_class(type));
    bg_status status = packed_open(env, &s->files, type, directory, err, &s->packed, &s->pack_cache, &unkept);
    if (!status)
        fprintf(stderr, "brigade: %.1f MB %s%s in %.2f s\n", (double)packed_bytes(s->files.model, type) * 1e-6,
                s->pack_cache ? "mapped from " : "packed", s->pack_cache ? directory : "",
                (double)(env_now_ns(env) - begin) * 1e-9);
    if (!status && unkept.status)
        fprintf(stderr, "brigade: packed weights are not kept: %s\n", unkept.text);
    bg_free(directory);
    return status;
}

static bg_status load(struct server *s, const char *path, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    enum kern_weight type;
    fprintf(stderr, "brigade: reading %s\n", path);
    env_point(env, "serve-load");
    bg_status status = model_open_blocks(env, path, err, &s->files, &type);
    if (!status && s->r.tokenizer)
        status = tokenizer_open(env, s->r.tokenizer, err, &s->own);
    if (status)
        return status;
    s->tokenizer = s->own ? s->own : s->files.tokenizer;
    if (!s->tokenizer)
        return bg_fail(err, BG_NOT_FOUND, "%s holds no tokenizer; name one with --tokenizer", path);
    if (s->own)
        status = model_read_ends(env, s->files.path, err, s->own);
    if (status)
        return status;
    if (strcmp(s->r.weights, "auto") != 0)
        type = (enum kern_weight)weight_index(s->r.weights);
    status = load_chat(s, err);
    if (!status)
        status = load_weights(s, type, err);
    if (!status && s->r.draft)
        status = model_open(env, s->r.draft, err, &s->draft_files);
    if (!status && s->r.draft)
        status = packed_create(env, s->draft_files.model, s->draft_files.weights, NULL, KERN_F32, err, &s->draft);
    return status;
}

static bg_status start_engine(struct server *s, struct bg_error *err)
{
    const struct request *r = &s->r;
    struct engine_options options = {.slots = r->slots,
                                     .context = r->context,
                                     .kv_bytes = r->kv_bytes,
                                     .chunk = r->chunk,
                                     .queue_max = r->queue,
                                     .queue_tokens_max = r->queue_tokens,
                                     .batch_wait_us = (double)r->batch_wait_us,
                                     .host_cache_bytes = r->host_cache,
                                     .disk_cache = r->disk_cache,
                                     .disk_cache_bytes = r->disk_bytes,
                                     .speculate = speculation(r),
                                     .draft = s->draft,
                                     .speculate_max = r->draft_max,
                                     .event = http_event,
                                     .arg = s->http};
    memcpy(options.expand, r->expand, sizeof r->expand);
    return engine_create(s->cli->env, s->packed, kern_select(s->cli->env->isa), s->tokenizer, &options, err,
                         &s->engine);
}

// Two servers with the same digest give the same tokens: it is of the weights as they are computed with, the tokenizer,
// what ends a text, the chat template and the context. Names, slots, threads, caches and speculation show in no token.
static void digest_of(struct server *s, uint32_t context)
{
    char tokenizer[65], chat[65];
    struct bg_str text = {0};
    tokenizer_sha256(s->tokenizer, tokenizer);
    bg_sha256_hex(s->chat_text, strlen(s->chat_text), chat);
    bg_str_addf(&text, "brigade tokens 1\nweights %016llx %s\ntokenizer %s\nchat %s\ncontext %u\n",
                (unsigned long long)engine_fingerprint(s->engine), weight_names[s->packed->type], tokenizer, chat,
                context);
    if (s->packed->type == KERN_INT8)
        bg_str_addf(&text, "class %s\n", packed_class(s->packed->type));
    for (uint32_t id = 0; id < tokenizer_size(s->tokenizer); id++)
        if (tokenizer_ends(s->tokenizer, (int32_t)id))
            bg_str_addf(&text, "end %u\n", id);
    bg_sha256_hex(bg_str_text(&text), text.size, s->digest);
    bg_str_fini(&text);
}

// Blanks around a key, and empty lines, do not count.
static bg_status read_keys(struct bg_env *env, const char *path, struct bg_error *err, struct bg_strlist *keys)
{
    static const char blank[] = " \t\r";
    const size_t before = keys->count;
    char *text = NULL;
    bg_status status = cli_read_file(env, path, err, &text);
    size_t line = 1;
    for (const char *at = text; at && *at && !status; line++) {
        at += strspn(at, blank);
        const size_t size = strcspn(at, " \t\r\n"), rest = strspn(at + size, blank);
        if (size > 0)
            bg_strlist_add_bytes(keys, at, size);
        at += size + rest;
        if ((*at && *at != '\n') || (size > 0 && !cli_is_header(keys->items[keys->count - 1])))
            status =
                bg_fail(err, BG_INVALID, "--api-key-file %s, line %zu: expected one key without blanks", path, line);
        at += *at == '\n';
    }
    bg_free(text);
    if (!status && keys->count == before)
        status = bg_fail(err, BG_INVALID, "--api-key-file %s: there is no key in it", path);
    return status;
}

static bg_status start_http(struct server *s, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    struct request *r = &s->r;
    bg_status status = BG_OK;
    if (r->certificate)
        status = cli_read_file(env, r->certificate, err, &s->certificate);
    if (!status && r->key)
        status = cli_read_file(env, r->key, err, &s->tls_key);
    if (!status && r->key_file)
        status = read_keys(env, r->key_file, err, &r->keys);
    if (!status && r->keys.count == 0 && !r->no_key) {
        uint8_t random[32];
        char hex[65];
        status = env->ops->entropy(env, random, sizeof random, err);
        bg_sha256_from_bytes(random, hex);
        hex[32] = '\0';
        bg_strlist_add(&r->keys, hex);
    }
    if (status)
        return status;
    const struct http_options options = {.host = r->host,
                                         .port = (uint16_t)r->port,
                                         .keys = (const char *const *)r->keys.items,
                                         .key_count = (uint32_t)r->keys.count,
                                         .cors = r->cors,
                                         .tls_certificate = s->certificate,
                                         .tls_key = s->tls_key,
                                         .body_max = (size_t)r->body_mib << 20,
                                         .idle_s = r->idle_s,
                                         .vllm_metrics = r->vllm,
                                         .slot_save_path = r->slots_path,
                                         .access = r->access ? write_access : NULL,
                                         .arg = s};
    return http_start(env, &options, err, &s->http);
}

static void say_address(const struct server *s, bool drawn_key)
{
    fprintf(stderr, "brigade: listening at %s://%s:%u/", s->r.certificate ? "https" : "http", s->r.host,
            http_port(s->http));
    if (drawn_key)
        fprintf(stderr, "?key=%s\nbrigade: key %s", s->r.keys.items[0], s->r.keys.items[0]);
    fprintf(stderr, "\n");
    fflush(stderr);
}

// ---- Loading ----
// Nobody was let in yet, and what is written by then is made anew by the next start: there is nothing to wind down.
static void look_out(void *arg, struct bg_env *own)
{
    struct server *s = arg;
    struct bg_env *env = s->cli->env;
    own->ops->gate_enter(own, s->gate);
    while (!s->loaded) {
        if (env->ops->stop_signal(env)) {
            fprintf(stderr, "brigade: asked to stop while loading: stopped, nothing was served\n");
            fflush(stderr);
            _Exit(EX_OK);
        }
        own->ops->gate_wait(own, s->gate, 20000000);
    }
    own->ops->gate_leave(own, s->gate);
}

static bg_status look_out_start(struct server *s, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    bg_status status = env->ops->gate_create(env, err, &s->gate);
    return status ? status : env->ops->thread_start(env, look_out, s, err, &s->lookout);
}

static void look_out_end(struct server *s)
{
    struct bg_env *env = s->cli->env;
    if (s->lookout) {
        env->ops->gate_enter(env, s->gate);
        s->loaded = true;
        env->ops->gate_ring(env, s->gate);
        env->ops->gate_leave(env, s->gate);
        env->ops->thread_join(env, s->lookout);
    }
    if (s->gate)
        env->ops->gate_destroy(env, s->gate);
    s->lookout = NULL;
    s->gate = NULL;
}

// ---- Stopping ----
// Steps until no request is open; at most so long.
static void finish_open(struct server *s, struct bg_gate *gate, uint64_t limit_ns)
{
    struct bg_env *env = s->cli->env;
    const uint64_t begin = env_now_ns(env);
    while (http_open_requests(s->http) > 0 && env_now_ns(env) - begin < limit_ns)
        if (!engine_step(s->engine)) { // computed, but not all sent
            env->ops->gate_enter(env, gate);
            env->ops->gate_wait(env, gate, 2000000);
            env->ops->gate_leave(env, gate);
        }
}

// Finishes what runs; what is not done in time is handed over: its clients get what is there so far. A second signal
// ends all at once.
static bg_status drain(struct server *s, struct bg_error *err)
{
    struct bg_env *env = s->cli->env;
    struct bg_gate *gate;
    bg_status status = env->ops->gate_create(env, err, &gate);
    if (status)
        return status;
    os_signals_stop();
    fprintf(stderr, "brigade: draining %u requests for at most %u s\n", http_open_requests(s->http), s->r.grace_s);
    http_drain(s->http); // who was let in before may still be submitted
    finish_open(s, gate, (uint64_t)s->r.grace_s * 1000000000u);
    const uint32_t left = http_open_requests(s->http);
    engine_drain(s->engine, true);
    engine_step(s->engine);
    finish_open(s, gate, 5000000000u); // what is there still goes out
    env->ops->gate_destroy(env, gate);
    fprintf(stderr, "brigade: stopped, %u requests were handed over\n", left);
    return BG_OK;
}

// Nothing can be mended from here: whoever started this process sees it end and starts another.
static void on_dead(void *arg, const char *doing, double seconds)
{
    (void)arg;
    fprintf(stderr, "brigade: the engine has not stepped for %.1f s (%s): giving up\n", seconds, doing);
    fflush(stderr);
    _Exit(EX_SOFTWARE);
}

// What is wrong with a path or a name is said before minutes of loading.
static bg_status check_names(struct server *s, const char *path, struct bg_error *err)
{
    struct bg_file_info info = {.is_directory = true};
    size_t size = strlen(path), begin;
    while (size > 1 && path[size - 1] == '/')
        size--;
    for (begin = size; begin > 0 && path[begin - 1] != '/';)
        begin--;
    s->name = s->r.name ? bg_strdup(s->r.name) : bg_strndup(path + begin, size - begin);
    json_t *name = json_string(s->name);
    const bool good = name && *s->name;
    json_decref(name);
    if (!good)
        return bg_fail(err, BG_INVALID, "the model's name, \"%s\", is empty or no UTF-8: give it one with --name",
                       s->name);
    struct bg_env *env = s->cli->env;
    bg_status status = s->r.slots_path ? env->ops->path_info(env, s->r.slots_path, err, &info) : BG_OK;
    if (!status && !info.is_directory)
        status = bg_fail(err, BG_NOT_FOUND, "--slot-save-path %s: expected a directory that is there", s->r.slots_path);
    if (status || !s->r.disk_cache)
        return status;
    status = env->ops->make_directories(env, s->r.disk_cache, err);
    return status ? bg_fail_prefix(err, "--disk-cache") : BG_OK;
}

static int serve(struct server *s, const char *path)
{
    struct bg_error err = {0};
    const bool drawn = s->r.keys.count == 0 && !s->r.no_key && !s->r.key_file;
    if (check_names(s, path, &err) || start_http(s, &err))
        return cli_fail(&err);
    say_address(s, drawn);
    const struct watchdog_options watchdog = {.limit_s = s->r.watchdog_s, .dead = on_dead};
    if (look_out_start(s, &err) || load(s, path, &err) || start_engine(s, &err) ||
        watchdog_start(s->cli->env, s->engine, &watchdog, &err, &s->watchdog))
        return cli_fail(&err);
    const struct model_config *config = &s->files.model->config;
    const uint32_t context = s->r.context && s->r.context < config->context ? s->r.context : config->context;
    digest_of(s, context);
    const struct http_model model = {.name = s->name,
                                     .tokenizer = s->tokenizer,
                                     .config = config,
                                     .context = context,
                                     .chat = s->chat,
                                     .chat_text = s->chat_text,
                                     .chat_is_default = strcmp(s->chat_text, chat_template_default) == 0,
                                     .digest = s->digest,
                                     .numerics = packed_class(s->packed->type),
                                     .created = s->cli->env->ops->wall_ms(s->cli->env) / 1000};
    look_out_end(s);
    engine_step(s->engine); // /health asks for one
    http_ready(s->http, s->engine, &model);
    fprintf(stderr, "brigade: serving %s, digest %s\n", model.name, s->digest);
    engine_run(s->engine);
    return drain(s, &err) ? cli_fail(&err) : 0;
}

static void close_all(struct server *s)
{
    look_out_end(s);
    watchdog_stop(s->watchdog);
    http_stop(s->http);
    engine_destroy(s->engine);
    chat_template_destroy(s->chat);
    packed_destroy(s->packed);
    packed_destroy(s->draft);
    packed_cache_close(s->cli->env, s->pack_cache);
    tokenizer_destroy(s->own);
    model_close(&s->files);
    model_close(&s->draft_files);
    bg_free(s->certificate);
    bg_free(s->tls_key);
    bg_free(s->chat_text);
    bg_free(s->name);
    struct bg_error err;
    if (s->log && s->cli->env->ops->file_close(s->cli->env, s->log, &err))
        fprintf(stderr, "brigade: access log: %s\n", err.text);
}

int cmd_serve(struct cli *cli, int argc, char **argv)
{
    struct server s = {.cli = cli,
                       .r = {.host = "127.0.0.1",
                             .port = 8080,
                             .weights = "auto",
                             .speculate = "none",
                             .slots = 16,
                             .chunk = 256,
                             .queue = 256,
                             .grace_s = 30,
                             .watchdog_s = 120,
                             .idle_s = 60,
                             .draft_max = 4,
                             .body_mib = 4}};
    struct request *r = &s.r;
    const struct cli_option options[] = {
        {"host", CLI_TEXT, &r->host, "H", "address to listen at (default 127.0.0.1)"},
        {"port", CLI_U32, &r->port, "P", "0: any (default 8080)"},
        {"api-key", CLI_LIST, &r->keys, "K", "who has it may ask; may be given again (default: one is drawn and told)"},
        {"api-key-file", CLI_TEXT, &r->key_file, "FILE",
         "more of them, one a line: not to be seen among the processes"},
        {"no-key", CLI_FLAG, &r->no_key, NULL, "nobody is asked for a key; on loopback only"},
        {"name", CLI_TEXT, &r->name, "NAME", "of the model (default: the last part of MODEL)"},
        {"weights", CLI_TEXT, &r->weights, "TYPE",
         "f32, q8_0, q4_0, int8 (numeric class int8/1: other answers) or auto: the file's (default auto)"},
        {"pack-cache", CLI_TEXT, &r->pack_cache, "DIR",
         "where packed weights of 64 MiB and more are kept; none: nowhere"},
        {"context", CLI_U32, &r->context, "N", "most tokens of prompt and answer (default: the model's)"},
        {"slots", CLI_U32, &r->slots, "N", "requests that run at once (default 16)"},
        {"chunk", CLI_U32, &r->chunk, "N", "prompt tokens computed at once (default 256)"},
        {"queue", CLI_U32, &r->queue, "N", "requests that may wait; beyond: 429 (default 256)"},
        {"queue-tokens", CLI_U64, &r->queue_tokens, "N",
         "prompt tokens that may wait; beyond: 429 (default 64 contexts)"},
        {"kv-bytes", CLI_U64, &r->kv_bytes, "BYTES", "memory for keys and values (default: slots x context)"},
        {"host-cache", CLI_U64, &r->host_cache, "BYTES", "memory for prompts dropped from there (default 0)"},
        {"disk-cache", CLI_TEXT, &r->disk_cache, "DIR", "prompts dropped from memory, also over restarts"},
        {"disk-cache-bytes", CLI_U64, &r->disk_bytes, "BYTES", "most of --disk-cache (default 1 GiB)"},
        {"batch-wait", CLI_FLOAT, &r->batch_wait_us, "US", "wait so long for a companion when one is likely"},
        {"speculate", CLI_TEXT, &r->speculate, "HOW",
         "none, ngram, draft or tree; the tokens stay the same (default none)"},
        {"draft", CLI_TEXT, &r->draft, "MODEL", "a smaller model with the same vocabulary"},
        {"draft-max", CLI_U32, &r->draft_max, "N", "of ngram and draft: tokens guessed in a row (default 4)"},
        {"draft-tree", CLI_TEXT, &r->tree, "N,N,..",
         "of tree: guesses for the next token, after each of those, .. (default 2,2,1,1)"},
        {"tokenizer", CLI_TEXT, &r->tokenizer, "SOURCE", "instead of the model's own"},
        {"chat-template", CLI_TEXT, &r->template, "FILE", "instead of the model's own"},
        {"tls-cert", CLI_TEXT, &r->certificate, "FILE", "certificate chain, PEM: HTTPS"},
        {"tls-key", CLI_TEXT, &r->key, "FILE", "its key, PEM"},
        {"cors", CLI_TEXT, &r->cors, "ORIGIN", "pages of that origin may ask"},
        {"access-log", CLI_TEXT, &r->access, "FILE", "one JSON line a request, never its text; -: standard error"},
        {"slot-save-path", CLI_TEXT, &r->slots_path, "DIR", "where /slots may keep keys and values (default: nowhere)"},
        {"vllm-metrics", CLI_FLAG, &r->vllm, NULL, "vllm:* names in /metrics beside brigade_*"},
        {"body-limit", CLI_U32, &r->body_mib, "MIB", "largest body of a request (default 4)"},
        {"grace", CLI_U32, &r->grace_s, "S", "time to finish requests after SIGTERM (default 30)"},
        {"idle", CLI_U32, &r->idle_s, "S",
         "close who sends or reads nothing for so long, unless it waits (default 60)"},
        {"watchdog", CLI_U32, &r->watchdog_s, "S", "end with code 70 when no step ended for so long (default 120)"},
        {"threads", CLI_U32, &r->threads, "N", "default: all cores"},
    };
    const struct cli_usage usage = {
        "serve MODEL [options]",
        "Serves a model over HTTP as OpenAI's API has it: /v1/completions, /v1/chat/completions, /v1/models and more,\n"
        "with a page to chat at /. An answer is a function of model, prompt, options and seed: not of what else runs.\n"
        "MODEL is a run directory, a checkpoint, a Hugging Face directory or a .gguf.",
        options,
        sizeof options / sizeof *options,
        1,
        1,
        false};
    struct bg_strlist words = {0};
    int code = cli_parse(cli, &usage, argc, argv, &words);
    if (code < 0)
        code = check(r);
    else
        goto undo_words;
    if (!code)
        code = cli_env(cli, r->threads);
    struct bg_error err;
    os_pipes_may_break();
    if (!code && os_fault_name("serve", &err))
        code = cli_fail(&err);
    if (!code && r->access && strcmp(r->access, "-") != 0 &&
        cli->env->ops->file_open(cli->env, r->access, BG_FILE_APPEND, &err, &s.log))
        code = cli_fail(&err);
    if (!code)
        code = serve(&s, words.items[0]);
    close_all(&s);
    bg_strlist_fini(&r->keys);
undo_words:
    bg_strlist_fini(&words);
    return code;
}
