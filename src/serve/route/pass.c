// Everything else: the router's own health and metrics, and what is passed to a replica as it is.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void head(struct bg_str *s, const char *name, const char *type, const char *help)
{
    bg_str_addf(s, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct bg_str *s, const char *name, const char *type, const char *help, double v)
{
    head(s, name, type, help);
    bg_str_addf(s, "%s %.17g\n", name, v);
}

const double route_resume_bucket_s[16] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
                                          0.4,   0.6,   0.8,   1,    2,    5,    10,  INFINITY};

static void resume_histogram(struct bg_str *s, const struct route *r)
{
    static const char name[] = "brigade_route_resume_seconds";
    uint64_t count = 0;
    head(s, name, "histogram", "From the last token of one replica to the first of the next.");
    for (size_t i = 0; i < 16; i++) {
        count += r->resume_buckets[i];
        if (i < 15)
            bg_str_addf(s, "%s_bucket{le=\"%g\"} %llu\n", name, route_resume_bucket_s[i], (unsigned long long)count);
        else
            bg_str_addf(s, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)count);
    }
    bg_str_addf(s, "%s_sum %.17g\n%s_count %llu\n", name, r->resume_s, name, (unsigned long long)count);
}

static void metrics(struct visit *v)
{
    struct route *r = v->route;
    struct bg_str s = {0};
    value(&s, "brigade_route_requests_total", "counter", "Text requests taken.", (double)r->requests);
    value(&s, "brigade_route_requests_open", "gauge", "Text requests whose answer is not out yet.", r->open);
    value(&s, "brigade_route_requests_waiting", "gauge", "Choices that wait for a replica.", r->waiting_count);
    value(&s, "brigade_route_bodies_waiting", "gauge", "Large bodies that wait for the thread that reads them.",
          reader_waiting(r));
    value(&s, "brigade_route_bodies_held_bytes", "gauge",
          "Bytes of large bodies that wait to be read, or are being read.", (double)r->held);
    value(&s, "brigade_route_bodies_held_limit_bytes", "gauge", "Large bodies that find so many bytes are told 429.",
          (double)HELD_MAX * (double)r->o.body_max);
    value(&s, "brigade_route_refused_total", "counter", "Text requests refused: no room, or no replica.",
          (double)r->refused);
    value(&s, "brigade_route_resumed_total", "counter", "Choices that went on at another replica.", (double)r->resumed);
    value(&s, "brigade_route_resumed_tokens_total", "counter", "Tokens they had by then.", (double)r->resumed_tokens);
    resume_histogram(&s, r);
    value(&s, "brigade_route_stalled_total", "counter", "Choices taken away from a replica that stalled.",
          (double)r->moved_stalled);
    value(&s, "brigade_route_handed_over_total", "counter", "Choices that a draining replica handed over.",
          (double)r->handed_over);
    value(&s, "brigade_route_shipped_total", "counter", "Choices whose keys and values went ahead of them.",
          (double)r->shipped);
    value(&s, "brigade_route_shipped_bytes_total", "counter", "Bytes of those.", (double)r->shipped_bytes);
    value(&s, "brigade_route_preferred_total", "counter", "Choices sent to the replica that had their prefix.",
          (double)r->preferred);
    value(&s, "brigade_route_other_models_total", "counter", "Times that a replica served another model than the rest.",
          (double)r->others);
    head(&s, "brigade_route_responses_total", "counter", "Answers by status.");
    for (uint32_t i = 100; i < 600; i++)
        if (r->answers[i])
            bg_str_addf(&s, "brigade_route_responses_total{status=\"%u\"} %llu\n", i,
                        (unsigned long long)r->answers[i]);
    head(&s, "brigade_route_replica_up", "gauge", "1: it answers and takes requests.");
    for (uint32_t i = 0; i < r->replica_count; i++)
        bg_str_addf(&s, "brigade_route_replica_up{replica=\"%s\"} %d\n", r->replicas[i]->url,
                    r->replicas[i]->state == REPLICA_UP);
    head(&s, "brigade_route_replica_refused", "gauge", "1: it serves another model than the rest, and is not used.");
    for (uint32_t i = 0; i < r->replica_count; i++)
        bg_str_addf(&s, "brigade_route_replica_refused{replica=\"%s\"} %d\n", r->replicas[i]->url,
                    r->replicas[i]->state == REPLICA_OTHER);
    head(&s, "brigade_route_replica_credits", "gauge", "Requests that it may have from here.");
    for (uint32_t i = 0; i < r->replica_count; i++)
        bg_str_addf(&s, "brigade_route_replica_credits{replica=\"%s\"} %g\n", r->replicas[i]->url,
                    r->replicas[i]->credit.credits);
    visit_answer(v, 200, "text/plain; version=0.0.4; charset=utf-8", bg_str_text(&s), s.size);
    bg_str_fini(&s);
}

static void refuse_unavailable(struct visit *v)
{
    struct bg_str who = {0};
    replicas_say(v->route, &who);
    v->retry_s = 1;
    visit_refuse(v, 503, "unavailable_error", NULL, "no replica answers: %s", bg_str_text(&who));
    bg_str_fini(&who);
}

static void health(struct visit *v)
{
    uint32_t up = 0;
    for (uint32_t i = 0; i < v->route->replica_count; i++)
        up += v->route->replicas[i]->state == REPLICA_UP && !v->route->replicas[i]->leaving;
    if (v->route->draining || up == 0) {
        v->retry_s = 1;
        visit_refuse(v, 503, "unavailable_error", NULL,
                     v->route->draining ? "this router is being drained" : "no replica answers");
        return;
    }
    visit_answer_json(v, 200,
                      json_pack("{s:s, s:I, s:I}", "status", "ok", "replicas", (json_int_t)v->route->replica_count,
                                "up", (json_int_t)up));
}

// {"url": .., "leaves_in_s": ..}: a machine that will be taken away, as those know who watch for such notices.
static void notice(struct visit *v)
{
    json_t *o = json_loadb(bg_str_text(&v->body), v->body.size, JSON_REJECT_DUPLICATES, NULL);
    const char *url = json_string_value(json_object_get(o, "url"));
    const json_t *s = json_object_get(o, "leaves_in_s");
    const double seconds = json_number_value(s);
    if (!url || !json_is_number(s) || !(seconds >= 0 && seconds <= 86400))
        visit_refuse(v, 400, "invalid_request_error", NULL,
                     "expected {\"url\": of a replica, \"leaves_in_s\": seconds from 0 to 86400}");
    else if (!replica_notice(v->route, url, seconds))
        visit_refuse(v, 404, "not_found_error", NULL, "there is no replica %.200s here", url);
    else
        visit_answer_json(v, 200, json_pack("{s:s}", "status", "noticed"));
    json_decref(o);
}

void pass_on(struct visit *v)
{
    struct replica *r = v->tries < 2 * ROUTE_REPLICAS_MAX ? replica_choose(v->route, NULL, false) : NULL;
    if (!r) {
        refuse_unavailable(v);
        return;
    }
    v->tries++;
    char *body = strcmp(v->method, "POST") == 0 ? bg_strndup(bg_str_text(&v->body), v->body.size) : NULL;
    v->pass =
        transfer_start(v->route, TRANSFER_PASS, r, v, v->method, v->path, body, v->body.size, v->route->o.wait_ms);
}

void pass_begin(struct visit *v)
{
    const bool post = strcmp(v->method, "POST") == 0;
    if (strcmp(v->method, "OPTIONS") == 0) { // what a browser asks before it lets a page ask
        visit_answer(v, 204, "text/plain", "", 0);
    } else if (strcmp(v->path, "/health") == 0) {
        health(v);
    } else if (strcmp(v->path, "/metrics") == 0) {
        metrics(v);
    } else if (strcmp(v->path, "/replicas") == 0 && post) {
        notice(v);
    } else if (strcmp(v->path, "/replicas") == 0) {
        visit_answer_json(v, 200, json_pack("{s:s, s:o}", "object", "list", "data", replicas_json(v->route)));
    } else if (strncmp(v->path, "/slots", 6) == 0 || strncmp(v->path, "/kv/", 4) == 0) {
        visit_refuse(v, 501, "not_supported_error", NULL, "slots belong to one replica: ask that one");
    } else if (strcmp(v->method, "OTHER") == 0 || strpbrk(v->path, " ?#\r\n")) {
        visit_refuse(v, 405, "invalid_request_error", NULL, "only GET and POST are passed on");
    } else if (v->route->draining && post) {
        v->retry_s = 1;
        visit_refuse(v, 503, "unavailable_error", NULL, "this router is being drained");
    } else if (post && (strcmp(v->path, "/v1/completions") == 0 || strcmp(v->path, "/v1/chat/completions") == 0)) {
        relay_begin(v);
    } else {
        pass_on(v);
    }
}

void pass_done(struct transfer *t)
{
    struct visit *v = t->owner;
    v->pass = NULL;
    if (t->code == CURLE_OK && !replica_is_ours(t)) {
        pass_on(v);
    } else if (t->code == CURLE_OK && t->status >= 200 && t->status < 600 && t->status != 503) {
        v->retry_s = t->retry_s;
        visit_answer(v, (uint32_t)t->status, *t->type ? t->type : "text/plain", bg_str_text(&t->in), t->in.size);
    } else {
        char said[200];
        transfer_tell(t, said, sizeof said);
        replica_away(t->replica, t->route, t->status == 503 && strstr(said, "drain") ? REPLICA_DRAINING : REPLICA_AWAY,
                     said);
        pass_on(v);
    }
    transfer_end(t);
}
