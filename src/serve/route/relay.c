// Text requests. Each choice of each prompt is a branch: a chain of upstream requests, of which every one goes on after
// the tokens that are committed. A branch without a replica waits in line, first come first, those already begun before
// all others; new ones need credit.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { READ_AT_ONCE_MAX = 64 << 10, RETRY_MS = 50, MARGIN_MS = 1000, SHIP_LEAD_MS = 2000, SHIPS_AT_ONCE = 2 };
// How long a replica that answers its probes may say nothing to a request.
enum {
    HEADERS_STALLS = 25, // its headers, in stalls
    HEADERS_MS = 2000,   // and at least
    SILENCE_WAITS = 4,   // a token, in waits
    SILENCE_MS = 60000,  // and at least
    LOOK_MS = 100,       // how often that is looked at
};

static void branch_init(struct branch *b, struct answer *a, uint32_t index, uint64_t now)
{
    const char *prompt = a->prompts[index / a->n];
    *b = (struct branch){.answer = a, .index = index, .waits_ns = now, .prefer = ROUTE_NOBODY};
    b->count = b->capacity = b->given = a->drawn_count;
    b->tokens = bg_alloc_array(b->count + 1u, sizeof *b->tokens);
    memcpy(b->tokens, a->drawn, b->count * sizeof *b->tokens);
    b->hash_count = route_prefixes(prompt, strlen(prompt), b->hashes);
}

static void answer_free(struct answer *a)
{
    for (uint32_t i = 0; i < a->count && a->branches; i++) {
        struct branch *b = &a->branches[i];
        record_drop_held(b);
        bg_free(b->tokens);
        bg_str_fini(&b->text);
        json_decref(b->logprobs);
        json_decref(b->ids);
        json_decref(b->finish);
    }
    bg_free(a->branches);
    json_decref(a->frame);
    body_free(a);
}

// ---- The line ----
static void stand_in_line(struct branch *b)
{
    struct route *route = b->answer->visit->route;
    struct branch **at = &route->waiting;
    if (b->begun || b->moved) {
        while (*at && ((*at)->begun || (*at)->moved))
            at = &(*at)->next;
    } else {
        at = route->waiting_end;
    }
    b->next = *at;
    *at = b;
    if (!b->next)
        route->waiting_end = &b->next;
    route->waiting_count++;
}

static void leave_line(struct branch *b)
{
    struct route *route = b->answer->visit->route;
    for (struct branch **at = &route->waiting; *at; at = &(*at)->next)
        if (*at == b) {
            *at = b->next;
            if (!*at)
                route->waiting_end = at;
            route->waiting_count--;
            return;
        }
}

static void stop_shipping(struct branch *b)
{
    if (b->ship)
        transfer_end(b->ship);
    b->ship = NULL;
}

static void cancel_all(struct answer *a)
{
    for (uint32_t i = 0; i < a->count; i++) {
        struct branch *b = &a->branches[i];
        stop_shipping(b);
        if (b->transfer)
            transfer_end(b->transfer);
        else if (!b->ended)
            leave_line(b);
        b->transfer = NULL;
        b->ended = true;
    }
}

void relay_drop(struct answer *a)
{
    cancel_all(a);
    answer_free(a);
}

static void refuse_crowd(struct visit *v, const char *what)
{
    v->route->refused++;
    v->retry_s = 1 + v->route->request_s;
    visit_refuse(v, 429, "rate_limit_error", "rate_limit_exceeded", "%s already: ask again later", what);
}

void relay_begin(struct visit *v)
{
    const bool chat = strcmp(v->path, "/v1/chat/completions") == 0;
    v->counted = true;
    v->route->open++;
    if (v->body.size <= READ_AT_ONCE_MAX)
        relay_take(v, body_read(bg_str_text(&v->body), v->body.size, chat));
    else if (!reader_begin(v, chat))
        refuse_crowd(v, "too many large requests wait to be read");
}

void relay_take(struct visit *v, struct answer *a)
{
    struct route *route = v->route;
    struct bg_error err;
    char what[100];
    if (!a) {
        pass_on(v);
        return;
    }
    a->visit = v;
    if (!a->seed_given) {
        if (route->env->ops->entropy(route->env, &a->seed, sizeof a->seed, &err))
            a->seed = (json_int_t)env_now_ns(route->env);
        a->seed &= ((json_int_t)1 << 53) - 1; // a number that every reader of JSON can hold
    }
    if (route->waiting_count + a->count > route->o.queue_max) {
        answer_free(a);
        snprintf(what, sizeof what, "%u requests wait for a replica", route->waiting_count);
        refuse_crowd(v, what);
        return;
    }
    bg_str_fini(&v->body); // what is asked of replicas is in the answer
    v->answer = a;
    route->requests++;
    a->branches = bg_alloc_array(a->count, sizeof *a->branches);
    for (uint32_t i = 0; i < a->count; i++) {
        branch_init(&a->branches[i], a, i, v->arrived_ns);
        stand_in_line(&a->branches[i]);
    }
}

// ---- Upstream ----
static void begin(struct branch *b, struct replica *r, uint64_t now)
{
    struct answer *a = b->answer;
    struct route *route = a->visit->route;
    leave_line(b);
    b->offset_base = b->offset;
    b->leave_ns = 0;
    b->began_ns = now;
    route_affinity_note(route->affinity, b->hashes, b->hash_count, r->id);
    b->prefer = ROUTE_NOBODY;
    b->ships = b->shipping = false;
    char *body = body_write(b, now);
    b->transfer = transfer_start(route, TRANSFER_BRANCH, r, b, "POST", a->visit->path, body, strlen(body), 0);
}

// How long the reader of a choice went without: from the last that the old replica said.
static void count_resumed(struct branch *b, uint64_t now)
{
    struct route *route = b->answer->visit->route;
    const double s = (double)(now - b->lost_ns) * 1e-9;
    size_t i = 0;
    while (s > route_resume_bucket_s[i])
        i++;
    route->resume_buckets[i]++;
    route->resume_s += s;
    route->resumed++;
    route->resumed_tokens += b->count;
    b->lost_ns = 0;
}

void relay_leave(struct branch *b, enum relay_cause cause)
{
    struct route *route = b->answer->visit->route;
    const uint64_t now = env_now_ns(route->env);
    b->avoid = b->transfer->replica->id;
    if (b->transfer->status == 200) // it was taken: the time without a replica begins anew
        b->waits_ns = now;
    stop_shipping(b);
    transfer_end(b->transfer);
    b->transfer = NULL;
    record_drop_held(b);
    b->moved |= cause != RELAY_FULL;
    b->deaths += cause == RELAY_DIED;
    if (b->accepted && !b->lost_ns)
        b->lost_ns = b->heard_ns;
    stand_in_line(b);
}

// ---- Ends ----
static void refuse_stream(struct answer *a, const char *text)
{
    struct visit *v = a->visit;
    json_t *o =
        json_pack("{s:{s:s, s:s, s:n, s:n}}", "error", "message", text, "type", "unavailable_error", "code", "param");
    char *line = json_dumps(o, JSON_COMPACT);
    bg_str_addf(&v->out, "data: %s\n\n", line ? line : "{}");
    bg_free(line);
    json_decref(o);
    v->complete = v->broken = true;
    visit_resume(v);
}

// No replica within the time that was given.
static void give_up(struct branch *b, bool overload, const char *what)
{
    struct answer *a = b->answer;
    struct visit *v = a->visit;
    struct bg_str who = {0};
    replicas_say(v->route, &who);
    char *text = bg_format("%s: %s", what, bg_str_text(&who));
    cancel_all(a);
    a->failed = true;
    v->retry_s = 1 + v->route->request_s;
    v->route->refused++;
    if (v->status)
        refuse_stream(a, text);
    else if (overload)
        visit_refuse(v, 429, "rate_limit_error", "rate_limit_exceeded", "%s", text);
    else
        visit_refuse(v, 503, "unavailable_error", NULL, "%s", text);
    bg_free(text);
    bg_str_fini(&who);
}

static void finish_answer(struct answer *a)
{
    struct visit *v = a->visit;
    const double s = (double)(env_now_ns(v->route->env) - v->arrived_ns) * 1e-9;
    v->route->request_s = v->route->request_s > 0 ? 0.9 * v->route->request_s + 0.1 * s : s;
    if (!a->stream) {
        visit_answer_json(v, 200, record_answer(a));
        return;
    }
    if (a->include_usage)
        record_usage(a, &v->out);
    bg_str_add(&v->out, "data: [DONE]\n\n");
    v->complete = true;
    visit_resume(v);
}

static void end_branch(struct branch *b)
{
    struct answer *a = b->answer;
    if (b->lost_ns)
        count_resumed(b, env_now_ns(a->visit->route->env));
    stop_shipping(b);
    transfer_end(b->transfer);
    b->transfer = NULL;
    b->ended = true;
    if (++a->ended == a->count)
        finish_answer(a);
}

// ---- What comes ----
// A whole answer that is no stream: a refusal to pass on, or a reason to go elsewhere.
static void take_refusal(struct transfer *t)
{
    struct branch *b = t->owner;
    struct answer *a = b->answer;
    struct route *route = t->route;
    struct replica *r = t->replica;
    char said[200];
    transfer_tell(t, said, sizeof said);
    const bool client = t->code == CURLE_OK && t->status >= 400 && t->status < 500 && t->status != 401 &&
                        t->status != 403 && t->status != 429;
    if (client && !b->accepted) {
        const struct bg_str in = t->in;
        const uint32_t status = (uint32_t)t->status;
        char type[100];
        memcpy(type, t->type, sizeof type);
        t->in = (struct bg_str){0};
        cancel_all(a);
        visit_answer(a->visit, status, type, bg_str_text(&in), in.size);
        bg_free(in.data);
        return;
    }
    if (t->code == CURLE_OK && t->status == 429) {
        route_credit_refused(&r->credit);
        b->not_before_ns = env_now_ns(route->env) + RETRY_MS * 1000000ull;
        relay_leave(b, RELAY_FULL);
        return;
    }
    const bool drains = t->code == CURLE_OK && t->status == 503 && strstr(said, "drain");
    if (!client)
        replica_away(r, route, drains ? REPLICA_DRAINING : REPLICA_AWAY, said);
    const bool unheard = t->code == CURLE_COULDNT_CONNECT || t->code == CURLE_OPERATION_TIMEDOUT;
    relay_leave(b, unheard || t->status == 503 ? RELAY_MOVES : RELAY_DIED);
}

// No byte is looked at twice, however small the pieces are that it comes in.
static bool record_ends(struct transfer *t)
{
    for (size_t i = t->looked ? t->looked : 1; i < t->in.size; i++)
        if (t->in.data[i] == '\n' && t->in.data[i - 1] == '\n')
            return true;
    t->looked = t->in.size;
    return false;
}

// Takes the whole records in.
static bool take_records(struct branch *b, const char **why)
{
    struct bg_str *in = &b->transfer->in;
    size_t at = 0;
    bool good = true;
    const uint32_t before = b->count;
    if (!record_ends(b->transfer))
        return true;
    while (good && at < in->size) {
        const char *data;
        size_t size, used = route_record(in->data + at, in->size - at, &data, &size);
        if (used == 0)
            break;
        at += used;
        if (data)
            good = record_take(b, data, size, why);
    }
    if (at > 0 && in->size > 0) {
        memmove(in->data, in->data + at, in->size - at);
        in->size -= at;
    }
    b->transfer->looked = in->size;
    if (b->count > before) {
        b->deaths = 0;
        b->transfer->replica->strikes = 0;
        b->heard_ns = env_now_ns(b->answer->visit->route->env);
        if (b->lost_ns)
            count_resumed(b, b->heard_ns);
    }
    return good;
}

static void take_up(struct branch *b)
{
    struct answer *a = b->answer;
    if (b->accepted)
        return;
    b->accepted = true;
    b->heard_ns = env_now_ns(a->visit->route->env);
    a->accepted++;
}

void relay_came(struct transfer *t)
{
    struct branch *b = t->owner;
    struct answer *a = b->answer;
    struct visit *v = a->visit;
    if (t->status && !replica_is_ours(t)) {
        relay_leave(b, RELAY_MOVES);
        return;
    }
    if (t->status != 200) {
        if (t->done)
            take_refusal(t);
        return;
    }
    const char *why = "";
    take_up(b);
    bool good = take_records(b, &why);
    if (a->stream && a->accepted == a->count && !v->status) { // as a server does: the stream begins when all run
        v->streams = true;
        v->status = 200;
        snprintf(v->type, sizeof v->type, "text/event-stream; charset=utf-8");
        visit_resume(v);
    }
    if (a->stream && v->status && v->out.size > v->sent)
        visit_resume(v);
    if (b->done) {
        end_branch(b);
    } else if (!good || t->done) {
        char said[200];
        if (good)
            transfer_tell(t, said, sizeof said);
        else
            snprintf(said, sizeof said, "%s", why);
        const bool handed = !good && strcmp(why, "handed-over") == 0;
        replica_away(t->replica, t->route, handed ? REPLICA_DRAINING : REPLICA_AWAY, said);
        relay_leave(b, handed ? RELAY_MOVES : RELAY_DIED);
    } else if (v->out.size - v->sent > WAITING_MAX) {
        cancel_all(a);
        a->failed = true;
        refuse_stream(a, "the stream is not read");
    }
}

// ---- Time ----
// A replica that drains keeps what it can finish; the rest draws as long as it can and leaves before its machine does,
// with its keys and values where the replica can still be asked for them.
static void arrange(struct branch *b, uint64_t now)
{
    struct route *route = b->answer->visit->route;
    const struct replica *r = b->transfer->replica;
    const uint32_t most = b->answer->max_tokens, drawn = b->count;
    if (b->leave_ns && b->leave_for == r->leaves_ns)
        return;
    b->leave_for = r->leaves_ns;
    const uint64_t left = r->leaves_ns > now ? r->leaves_ns - now : 0,
                   margin = MARGIN_MS * 1000000ull < left / 4 ? MARGIN_MS * 1000000ull : left / 4;
    const struct route_notice notice = {.grace_s = (double)(left - margin) * 1e-9,
                                        .tokens_held = (uint32_t)(b->hash_count * ROUTE_BLOCK / 4) + drawn,
                                        .tokens_left = most > drawn ? most - drawn : 0,
                                        .token_s = r->token_s,
                                        .recompute_s = r->prompt_s > 0 ? r->prompt_s : r->token_s,
                                        .bytes_token = route->ship_bytes_token,
                                        .bandwidth = r->noticed ? route->ship_bandwidth : 0};
    const struct route_arrangement a = route_arrange(&notice);
    b->ships = a.leave == ROUTE_SHIP;
    b->leave_ns = r->leaves_ns - margin; // what was to be finished by then is, or it was slower than it seemed
    if (b->ships) { // others ship as well, and steps are waited for: early enough, and at most half the time earlier
        const uint64_t lead = SHIP_LEAD_MS * 1000000ull + (uint64_t)(2e9 * a.pause_s);
        b->leave_ns = r->leaves_ns - (lead < left / 2 ? lead : left / 2);
    }
}

// Ships first, few at a time: each waits for a step of the engine. Whoever has no time left for that goes as it is.
static void leave(struct branch *b, uint64_t now)
{
    const struct replica *r = b->transfer->replica;
    if (now >= r->leaves_ns || !b->ships || (b->shipping && !b->ship))
        relay_leave(b, RELAY_MOVES);
    else if (!b->shipping && r->ships < SHIPS_AT_ONCE)
        ship_begin(b, now);
}

static void move_branches(struct route *route, uint64_t now)
{
    if (!replicas_any_to_leave(route) || !replicas_any_up(route))
        return;
    for (struct visit *v = route->visits; v; v = v->next)
        for (uint32_t i = 0; v->answer && i < v->answer->count; i++) {
            struct branch *b = &v->answer->branches[i];
            if (!b->transfer)
                continue;
            const enum replica_state state = b->transfer->replica->state;
            if (state == REPLICA_DRAINING)
                arrange(b, now);
            if (state == REPLICA_STALLED) {
                route->moved_stalled++;
                relay_leave(b, RELAY_MOVES);
            } else if (state == REPLICA_DRAINING && now >= b->leave_ns) {
                leave(b, now);
            }
        }
}

// A replica that answers its probes, and a request never: libcurl bounds the bytes of headers, not their time.
static void leave_silent(struct route *route, uint64_t now)
{
    if (now < route->silence_due_ns)
        return;
    route->silence_due_ns = now + LOOK_MS * 1000000ull;
    const uint64_t headers_ms = HEADERS_STALLS * (uint64_t)route->o.stall_ms,
                   silence_ms = SILENCE_WAITS * (uint64_t)route->o.wait_ms,
                   headers_ns = (headers_ms > HEADERS_MS ? headers_ms : HEADERS_MS) * 1000000u,
                   silence_ns = (silence_ms > SILENCE_MS ? silence_ms : SILENCE_MS) * 1000000u;
    for (struct visit *v = route->visits; v; v = v->next)
        for (uint32_t i = 0; v->answer && i < v->answer->count; i++) {
            struct branch *b = &v->answer->branches[i];
            if (!b->transfer)
                continue;
            const uint64_t since = b->heard_ns > b->began_ns ? b->heard_ns : b->began_ns;
            if (b->transfer->status == 0 && now > b->began_ns + headers_ns) {
                replica_away(b->transfer->replica, route, REPLICA_AWAY, "it takes requests and does not answer them");
                relay_leave(b, RELAY_DIED);
            } else if (now > since + silence_ns) {
                relay_leave(b, RELAY_DIED);
            }
        }
}

void relay_tick(struct route *route, uint64_t now)
{
    move_branches(route, now);
    leave_silent(route, now);
    bool fresh_full = false; // nobody has credit left for a new one: the rest need not ask
    for (struct branch *b = route->waiting, *next; b; b = next) {
        const bool fresh = !b->begun && !b->moved;
        next = b->next;
        if (b->deaths > DEATHS_MAX) {
            give_up(b, false, "replica after replica died of this request, or happened to");
            next = route->waiting; // the line is another one now
            continue;
        }
        struct replica *r = now < b->not_before_ns || (fresh && fresh_full) ? NULL : replica_choose(route, b, fresh);
        if (r) {
            begin(b, r, now);
        } else if (now > b->waits_ns + route->o.wait_ms * 1000000ull) {
            const bool up = replicas_any_up(route);
            give_up(b, up, up ? "all replicas have as much to do as they can" : "no replica answers");
            next = route->waiting;
        } else {
            fresh_full |= fresh && now >= b->not_before_ns;
        }
    }
}
