// The replicas: who they are, who is well, what they have to do. Each that is well is asked for its metrics ten times a
// second and for its health every second; one that is not is asked for its health, less and less often.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { HEALTH_EVERY = 10, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 2000, BARRED_MAX_MS = 5000, FILE_MS = 500 };

static const char *const state_names[] = {"away", "up", "stalled", "draining", "refused"};

static void tell(struct route *route, const struct replica *r, const char *what)
{
    if (!route->o.say)
        return;
    char *line = bg_format("%s %s%s%s", r->url, what, *r->said ? ": " : "", r->said);
    route->o.say(route->o.arg, line);
    bg_free(line);
}

// ---- Who they are ----
// What follows the last colon of the host; none is good too.
static bool port_good(const char *host, size_t size)
{
    const char *path = memchr(host, '/', size);
    size_t end = path ? (size_t)(path - host) : size, at = end;
    uint32_t port = 0;
    while (at > 0 && host[at - 1] >= '0' && host[at - 1] <= '9')
        at--;
    if (at == 0 || host[at - 1] != ':')
        return end > 0 && host[end - 1] != ':' && host[0] != ':';
    for (size_t i = at; i < end && port <= 65535; i++)
        port = port * 10 + (uint32_t)(host[i] - '0');
    return at > 1 && port >= 1 && port <= 65535;
}

static bool url_good(const char *url, size_t size)
{
    const size_t scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;
    if (scheme == 0 || size <= scheme || size > 500)
        return false;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)url[i] <= ' ' || strchr("?#@\"\\\x7f", url[i]))
            return false;
    return port_good(url + scheme, size - scheme);
}

static bg_status add(struct route *route, const char *url, size_t size, struct bg_error *err)
{
    while (size > 0 && url[size - 1] == '/')
        size--;
    if (!url_good(url, size))
        return bg_fail(err, BG_INVALID, "replica \"%.*s\": expected a URL such as http://127.0.0.1:8080",
                       (int)(size < 200 ? size : 200), url);
    for (uint32_t i = 0; i < route->replica_count; i++)
        if (strlen(route->replicas[i]->url) == size && memcmp(route->replicas[i]->url, url, size) == 0) {
            route->replicas[i]->leaving = false;
            return BG_OK;
        }
    if (route->replica_count == ROUTE_REPLICAS_MAX)
        return bg_fail(err, BG_INVALID, "more than %d replicas", ROUTE_REPLICAS_MAX);
    struct replica *r = bg_alloc(sizeof *r);
    *r = (struct replica){.id = route->next_replica++, .credit = {ROUTE_CREDITS_BEGIN}};
    r->url = bg_strndup(url, size);
    snprintf(r->said, sizeof r->said, "not asked yet");
    route->replicas = bg_realloc_array(route->replicas, route->replica_count + 1u, sizeof(struct replica *));
    route->replicas[route->replica_count++] = r;
    return BG_OK;
}

static bg_status read_file(struct route *route, struct bg_error *err, uint32_t *count)
{
    struct bg_map map;
    bg_status status = route->env->ops->map_open(route->env, route->o.replica_file, err, &map);
    if (status)
        return status;
    uint32_t line_number = 1;
    for (size_t at = 0; at < map.size && !status; line_number++) {
        const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.size - at);
        size_t size = end ? (size_t)(end - line) : map.size - at;
        at += size + 1;
        const char *comment = memchr(line, '#', size);
        size = comment ? (size_t)(comment - line) : size;
        while (size > 0 && (unsigned char)line[size - 1] <= ' ')
            size--;
        while (size > 0 && (unsigned char)*line <= ' ') {
            line++;
            size--;
        }
        if (size == 0)
            continue;
        status = add(route, line, size, err);
        ++*count;
        if (status)
            bg_fail_prefix(err, "%s:%u", route->o.replica_file, line_number);
    }
    route->env->ops->map_close(route->env, &map);
    return status;
}

// *count: how many the file names.
static bg_status list(struct route *route, struct bg_error *err, uint32_t *count)
{
    bg_status status = BG_OK;
    *count = 0;
    for (uint32_t i = 0; i < route->o.replica_count && !status; i++)
        status = add(route, route->o.replicas[i], strlen(route->o.replicas[i]), err);
    if (!status && route->o.replica_file)
        status = read_file(route, err, count);
    return status;
}

bg_status replicas_open(struct route *route, struct bg_error *err)
{
    struct bg_error unseen;
    uint32_t count;
    if (route->o.replica_file && route->env->ops->path_info(route->env, route->o.replica_file, &unseen, &route->file))
        route->file = (struct bg_file_info){0};
    bg_status status = list(route, err, &count);
    if (!status && route->replica_count == 0 && !route->o.replica_file)
        status = bg_fail(err, BG_INVALID, "no replicas: name them with --replica URL or --replicas FILE");
    if (!status && route->replica_count == 0 && route->o.say) {
        char *line = bg_format("%s lists no replica: until it does, nobody answers", route->o.replica_file);
        route->o.say(route->o.arg, line);
        bg_free(line);
    }
    return status;
}

static void replica_free(struct replica *r)
{
    if (r->probe)
        transfer_end(r->probe);
    bg_free(r->url);
    bg_free(r);
}

// What it lists replaces the list; a file that is wrong, or lists nobody, changes nothing.
static void reread(struct route *route)
{
    struct bg_error err;
    uint32_t count;
    bool *left = bg_alloc_array(route->replica_count + 1u, sizeof *left);
    const uint32_t before = route->replica_count;
    for (uint32_t i = 0; i < before; i++) {
        left[i] = route->replicas[i]->leaving;
        route->replicas[i]->leaving = true;
    }
    bg_status status = list(route, &err, &count);
    if (!status && count == 0)
        status = bg_fail(&err, BG_INVALID, "%s lists no replica", route->o.replica_file);
    if (status)
        for (uint32_t i = 0; i < route->replica_count; i++)
            route->replicas[i]->leaving = i < before ? left[i] : true;
    bg_free(left);
    if (!route->o.say)
        return;
    char *line = status ? bg_format("%s: the list of replicas stays as it was", err.text)
                        : bg_format("%s lists %u replicas", route->o.replica_file, count);
    route->o.say(route->o.arg, line);
    bg_free(line);
}

static void watch_file(struct route *route, uint64_t now)
{
    struct bg_file_info info;
    struct bg_error err;
    const unsigned asked = route->o.rereads ? route->o.rereads() : 0;
    const bool told = asked != route->reread;
    if (!route->o.replica_file || (!told && now < route->file_due_ns))
        return;
    route->reread = asked;
    route->file_due_ns = now + FILE_MS * 1000000ull;
    const bool there = !route->env->ops->path_info(route->env, route->o.replica_file, &err, &info) && info.exists;
    if (!told && (!there || (info.mtime_ns == route->file.mtime_ns && info.size == route->file.size)))
        return;
    route->file = there ? info : (struct bg_file_info){0};
    reread(route);
}

static void forget_unlisted(struct route *route)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < route->replica_count; i++) {
        struct replica *r = route->replicas[i];
        if (r->leaving && r->ours == 0)
            replica_free(r);
        else
            route->replicas[kept++] = r;
    }
    route->replica_count = kept;
}

// ---- How they are ----
void replica_away(struct replica *r, struct route *route, enum replica_state state, const char *said)
{
    const uint64_t now = env_now_ns(route->env);
    snprintf(r->said, sizeof r->said, "%s", said);
    r->failed++;
    if (r->state == state) {
        if (r->failed == 1) // it never was there
            tell(route, r, state_names[state]);
        return;
    }
    if (r->state == REPLICA_UP &&
        state == REPLICA_AWAY) { // well when probed, and not when asked: less and less trusted
        const uint64_t ms = BACKOFF_MIN_MS * (1ull << (r->strikes < 10 ? r->strikes : 10));
        r->strikes++;
        r->barred_ns = now + (ms < BARRED_MAX_MS ? ms : BARRED_MAX_MS) * 1000000ull;
    }
    if (r->state == REPLICA_UP || state == REPLICA_AWAY) {
        r->backoff_ns = BACKOFF_MIN_MS * 1000000ull;
        r->probe_due_ns = now + r->backoff_ns;
    }
    if (state == REPLICA_DRAINING)
        r->leaves_ns = now + route->o.notice_ms * 1000000ull;
    r->noticed = r->noticed && state == REPLICA_STALLED;
    r->state = state;
    tell(route, r, state_names[state]);
}

// Who is told first is believed, unless the command line says it.
static void take_digest(struct route *route, const struct replica *r)
{
    if (*route->digest || !*r->digest)
        return;
    memcpy(route->digest, r->digest, sizeof route->digest);
    if (!route->o.say)
        return;
    char *line = bg_format("%s is the first: all must serve its model, digest %s", r->url, r->digest);
    route->o.say(route->o.arg, line);
    bg_free(line);
}

bool replica_is_ours(const struct transfer *t)
{
    struct replica *r = t->replica;
    struct route *route = t->route;
    char said[200];
    if (!*t->digest && t->status != 200) // it loads, or wants another key, or is none of ours: its status tells
        return true;
    memcpy(r->digest, t->digest, sizeof r->digest);
    if (t->status == 200)
        take_digest(route, r);
    if (*t->digest && strcmp(t->digest, route->digest) == 0)
        return true;
    if (*t->digest)
        snprintf(said, sizeof said, "it serves another model: digest %.16s.., not %.16s..", t->digest, route->digest);
    else
        snprintf(said, sizeof said, "it does not tell what it serves: is --replica-key its key?");
    route->others += r->state != REPLICA_OTHER;
    replica_away(r, route, REPLICA_OTHER, said);
    return false;
}

bool replica_notice(struct route *route, const char *url, double seconds)
{
    size_t size = strlen(url);
    while (size > 0 && url[size - 1] == '/')
        size--;
    for (uint32_t i = 0; i < route->replica_count; i++) {
        struct replica *r = route->replicas[i];
        if (strlen(r->url) != size || memcmp(r->url, url, size) != 0)
            continue;
        replica_away(r, route, REPLICA_DRAINING, "its machine goes");
        r->noticed = true;
        r->leaves_ns = env_now_ns(route->env) + (uint64_t)(seconds * 1e9);
        return true;
    }
    return false;
}

static void come_up(struct replica *r, struct route *route)
{
    r->state = REPLICA_UP;
    r->probes = 0;
    r->noticed = false;
    r->sampled = false;
    r->told = r->ours_then = 0;
    snprintf(r->said, sizeof r->said, "ok");
    tell(route, r, r->alive ? "is back" : "is up");
    r->alive = true;
}

static double later(double old, double fresh)
{
    return old > 0 ? 0.7 * old + 0.3 * fresh : fresh;
}

static void sample(struct replica *r, struct route *route, const struct transfer *t)
{
    struct route_sample now;
    if (!route_read_sample(bg_str_text(&t->in), t->in.size, &now))
        return;
    const struct route_sample *then = &r->sample;
    const double firsts = now.ttft_count - then->ttft_count, gaps = now.gap_count - then->gap_count,
                 queued = now.queued_count - then->queued_count;
    if (r->sampled && firsts >= 0 && gaps >= 0 && queued >= 0) {
        if (firsts > 0)
            r->latency_s = later(r->latency_s, (now.ttft_s - then->ttft_s) / firsts);
        const double read = now.prompt_tokens - then->prompt_tokens - (now.cached_tokens - then->cached_tokens);
        const double reading_s = now.ttft_s - then->ttft_s - (now.queued_s - then->queued_s);
        if (firsts > 0 && read > 0 && reading_s > 0)
            r->prompt_s = later(r->prompt_s, reading_s / read);
        if (gaps > 0)
            r->token_s = later(r->token_s, (now.gap_s - then->gap_s) / gaps);
        if (queued > 0)
            route_credit_update(&r->credit, (now.queued_s - then->queued_s) / queued, route->o.wait_target_s, 1,
                                r->ours);
        else if (now.waiting > 0 && now.running > 0) // all wait, nobody was seated in between: at least so long
            route_credit_update(&r->credit, route->o.probe_ms * 1e-3, route->o.wait_target_s, 1, r->ours);
    }
    r->sample = now;
    r->sampled = true;
    r->told = now.running + now.waiting;
    r->ours_then = r->ours_asked; // what was sent since may not be in what it told
    snprintf(r->said, sizeof r->said, "ok");
}

void replicas_probed(struct transfer *t)
{
    struct replica *r = t->replica;
    struct route *route = t->route;
    const uint64_t now = env_now_ns(route->env);
    char said[200];
    bool good = t->code == CURLE_OK && t->status == 200;
    transfer_tell(t, said, sizeof said);
    r->probe = NULL;
    r->probe_due_ns = now + route->o.probe_ms * 1000000ull;
    if (t->code == CURLE_OK && !replica_is_ours(t)) {
        good = false;
    } else if (good && t->health && r->state != REPLICA_UP && now < r->barred_ns) {
        snprintf(r->said, sizeof r->said, "it answers probes and no requests: tried again soon");
    } else if (good && t->health && r->state != REPLICA_UP) {
        if (r->noticed && now <= r->leaves_ns)
            r->state = REPLICA_DRAINING;
        else // also when it is still there after its time
            come_up(r, route);
    } else if (good && !t->health) {
        sample(r, route, t);
    } else if (!good && t->code == CURLE_OPERATION_TIMEDOUT) {
        if (r->state == REPLICA_UP || r->state == REPLICA_DRAINING)
            replica_away(r, route, REPLICA_STALLED, said);
        else if (r->state == REPLICA_AWAY)
            replica_away(r, route, REPLICA_AWAY, said);
    } else if (!good && t->status == 503 && strstr(said, "drain")) {
        replica_away(r, route, REPLICA_DRAINING, said);
    } else if (!good && t->status == 503 && r->state != REPLICA_AWAY) { // its engine steps no more
        replica_away(r, route, REPLICA_STALLED, said);
    } else if (!good) {
        replica_away(r, route, REPLICA_AWAY, said);
    }
    if (r->state != REPLICA_UP) {
        r->probe_due_ns = now + r->backoff_ns;
        r->backoff_ns =
            r->backoff_ns * 2 < BACKOFF_MAX_MS * 1000000ull ? r->backoff_ns * 2 : BACKOFF_MAX_MS * 1000000ull;
        if (r->backoff_ns == 0)
            r->backoff_ns = BACKOFF_MIN_MS * 1000000ull;
    }
    transfer_end(t);
}

void replicas_tick(struct route *route, uint64_t now)
{
    watch_file(route, now);
    forget_unlisted(route);
    for (uint32_t i = 0; i < route->replica_count; i++) {
        struct replica *r = route->replicas[i];
        if (r->probe || now < r->probe_due_ns)
            continue;
        const bool health = r->state != REPLICA_UP || ++r->probes % HEALTH_EVERY == 0;
        r->probe = transfer_start(route, TRANSFER_PROBE, r, r, "GET", health ? "/health" : "/metrics", NULL, 0,
                                  route->o.stall_ms);
        r->probe->health = health;
        r->ours_asked = r->ours;
    }
}

// ---- Who answers ----
bool replicas_any_up(const struct route *route)
{
    for (uint32_t i = 0; i < route->replica_count; i++)
        if (route->replicas[i]->state == REPLICA_UP && !route->replicas[i]->leaving)
            return true;
    return false;
}

bool replicas_any_to_leave(const struct route *route)
{
    for (uint32_t i = 0; i < route->replica_count; i++) {
        const struct replica *r = route->replicas[i];
        if (r->ours > 0 && (r->state == REPLICA_STALLED || r->state == REPLICA_DRAINING))
            return true;
    }
    return false;
}

struct replica *replica_choose(struct route *route, const struct branch *branch, bool fresh)
{
    struct route_load loads[ROUTE_REPLICAS_MAX];
    uint32_t liked = ROUTE_NOBODY, avoided = ROUTE_NOBODY;
    const uint32_t liked_id = !branch ? ROUTE_NOBODY
                              : branch->prefer != ROUTE_NOBODY
                                  ? branch->prefer
                                  : route_affinity_find(route->affinity, branch->hashes, branch->hash_count);
    for (uint32_t i = 0; i < route->replica_count; i++) {
        const struct replica *r = route->replicas[i];
        const uint32_t since = r->ours > r->ours_then ? r->ours - r->ours_then : 0;
        loads[i] = (struct route_load){.usable = r->state == REPLICA_UP && !r->leaving &&
                                                 (!fresh || r->ours < (uint32_t)r->credit.credits),
                                       .in_flight = r->told + since,
                                       .latency_s = r->latency_s};
        if (r->id == liked_id && liked_id != ROUTE_NOBODY)
            liked = i;
        if (branch && branch->moved && r->id == branch->avoid)
            avoided = i;
    }
    route->turn++;
    if (avoided != ROUTE_NOBODY) { // another one, if there is one
        struct route_load kept = loads[avoided];
        loads[avoided].usable = false;
        const uint32_t other = route_choose(loads, route->replica_count, ROUTE_HOT_QUANTILE, liked, route->turn);
        if (other != ROUTE_NOBODY)
            return route->replicas[other];
        loads[avoided] = kept;
    }
    const uint32_t best = route_choose(loads, route->replica_count, ROUTE_HOT_QUANTILE, liked, route->turn);
    route->preferred += best != ROUTE_NOBODY && best == liked;
    return best == ROUTE_NOBODY ? NULL : route->replicas[best];
}

void replicas_say(const struct route *route, struct bg_str *text)
{
    for (uint32_t i = 0; i < route->replica_count && text->size < 1500; i++)
        bg_str_addf(text, "%s%s (%s: %.100s)", i ? ", " : "", route->replicas[i]->url,
                    state_names[route->replicas[i]->state], route->replicas[i]->said);
    if (route->replica_count == 0)
        bg_str_add(text, "none is listed");
}

json_t *replicas_json(const struct route *route)
{
    json_t *all = json_array();
    for (uint32_t i = 0; i < route->replica_count; i++) {
        const struct replica *r = route->replicas[i];
        json_t *said = json_string(r->said);
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:o, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:I, s:I}", "url", r->url, "state",
                           state_names[r->state], "said", said ? said : json_null(), "digest", r->digest, "in_flight",
                           (json_int_t)r->ours, "told_in_flight", (json_int_t)r->told, "credits", r->credit.credits,
                           "first_token_seconds", r->latency_s, "token_seconds", r->token_s, "prompt_token_seconds",
                           r->prompt_s, "sent", (json_int_t)r->sent, "failed", (json_int_t)r->failed));
    }
    return all;
}

void replicas_close(struct route *route)
{
    for (uint32_t i = 0; i < route->replica_count; i++)
        replica_free(route->replicas[i]);
    bg_free(route->replicas);
}
