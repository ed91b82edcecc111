// The transport: libmicrohttpd on its own epoll, inside a loop of ours in one thread. A request that waits for the
// engine is suspended; its socket is then watched here, so that a client that goes away is noticed at once, also while
// its prompt is being read.
#include "serve/http/http_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    TAKEN_MAX = 1 << 30, // bytes of a body; more, and the connection is closed without an answer
    TOLD_AT_ONCE = 64,   // events; then it is the sockets' turn
};

// ---- Answers ----
static void add_headers(const struct exchange *x, struct MHD_Response *response, const char *type)
{
    door_headers(response, type, x->http->o.cors);
    if (x->digest)
        MHD_add_response_header(response, DOOR_DIGEST, x->digest);
}

static enum MHD_Result send_response(struct exchange *x, uint32_t status, const char *type,
                                     struct MHD_Response *response, double retry_s)
{
    char seconds[16];
    if (!response)
        return MHD_NO;
    add_headers(x, response, type);
    snprintf(seconds, sizeof seconds, "%d", retry_s >= 1 && retry_s < 3600 ? (int)(retry_s + 0.5) : 1);
    if (status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == 405)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (status == 429 || status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    x->status = status;
    x->answered = true;
    enum MHD_Result result = MHD_queue_response(x->wait.connection, status, response);
    MHD_destroy_response(response);
    return result;
}

enum MHD_Result exchange_send(struct exchange *x, uint32_t status, const char *type, const void *bytes, size_t size)
{
    return send_response(x, status, type,
                         MHD_create_response_from_buffer(size, (void *)(uintptr_t)bytes, MHD_RESPMEM_MUST_COPY), 0);
}

static enum MHD_Result give(struct exchange *x, uint32_t status, const char *type, void *bytes, size_t size,
                            double retry_s)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE);
    if (!response)
        bg_free(bytes);
    return send_response(x, status, type, response, retry_s);
}

enum MHD_Result exchange_give(struct exchange *x, const char *type, void *bytes, size_t size)
{
    return give(x, 200, type, bytes, size, 0);
}

static enum MHD_Result send_text(struct exchange *x, uint32_t status, char *text, double retry_s)
{
    if (!text) {
        text = bg_strdup("{}");
        status = 500;
    }
    return give(x, status, "application/json; charset=utf-8", text, strlen(text), retry_s);
}

char *exchange_json(json_t *json)
{
    return json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9));
}

enum MHD_Result exchange_send_text(struct exchange *x, char *text)
{
    return send_text(x, 200, text, 0);
}

enum MHD_Result exchange_send_json(struct exchange *x, uint32_t status, json_t *json)
{
    char *text = exchange_json(json);
    json_decref(json);
    return send_text(x, status, text, 0);
}

enum MHD_Result exchange_refuse(struct exchange *x, struct openai_error *error)
{
    json_t *json = openai_error_json(error);
    char *text = exchange_json(json);
    json_decref(json);
    return send_text(x, (uint32_t)error->http, text, error->retry_s);
}

static ssize_t read_stream(void *arg, uint64_t position, char *to, size_t most)
{
    struct exchange *x = arg;
    (void)position;
    if (x->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    const size_t left = x->out.size - x->sent, count = left < most ? left : most;
    if (count > 0) {
        memcpy(to, x->out.data + x->sent, count);
        x->sent += count;
        if (x->sent == x->out.size) {
            bg_str_reset(&x->out);
            x->sent = 0;
        }
        return (ssize_t)count;
    }
    if (x->complete)
        return MHD_CONTENT_READER_END_OF_STREAM;
    exchange_suspend(x);
    return 0;
}

enum MHD_Result exchange_stream(struct exchange *x)
{
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, x, NULL);
    if (!response)
        return MHD_NO;
    add_headers(x, response, "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    x->status = 200;
    x->answered = true;
    enum MHD_Result result = MHD_queue_response(x->wait.connection, 200, response);
    MHD_destroy_response(response);
    return result;
}

// ---- Waiting ----
void exchange_suspend(struct exchange *x)
{
    door_suspend(&x->wait, x->http->epoll, x);
}

void exchange_resume(struct exchange *x)
{
    door_resume(&x->wait);
}

// A client has gone, or says no more. Of the former libmicrohttpd closes the connection of a suspended exchange when it
// goes on.
static void on_peer(struct exchange *x, uint32_t events)
{
    if (!x->wait.suspended) // it had its answer, or is found out by writing
        return;
    if (!door_gone(&x->wait, x->http->epoll, x, events, x->answered)) {
        if (x->answered) { // a stream: a comment
            bg_str_add(&x->out, ":\n\n");
            exchange_resume(x);
        }
        return;
    }
    x->gone = true;
    x->status = 499;
    if (x->running > 0)
        x->work->abandon(x);
    exchange_resume(x);
}

// ---- Exchanges ----
static struct exchange *exchange_create(struct http *http, struct MHD_Connection *connection, const char *path,
                                        const char *method, const char *version)
{
    struct exchange *x = bg_alloc(sizeof *x);
    *x = (struct exchange){.http = http, .wait = door_wait_of(connection)};
    x->wait.may_half = !http->o.tls_certificate && strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    x->method = strcmp(method, "POST") == 0      ? "POST"
                : strcmp(method, "GET") == 0     ? "GET"
                : strcmp(method, "OPTIONS") == 0 ? "OPTIONS"
                : strcmp(method, "HEAD") == 0    ? "HEAD"
                                                 : "OTHER";
    x->path = bg_strdup(path);
    x->started_ns = env_now_ns(http->env);
    x->next = http->exchanges;
    if (x->next)
        x->next->previous = x;
    http->exchanges = x;
    return x;
}

enum MHD_Result exchange_wait(struct exchange *x)
{
    exchange_suspend(x);
    return MHD_YES;
}

static void exchange_destroy(struct exchange *x)
{
    struct http *http = x->http;
    if (x->counted) {
        http->env->ops->gate_enter(http->env, http->gate);
        http->open--;
        http->env->ops->gate_leave(http->env, http->gate);
    }
    *(x->previous ? &x->previous->next : &http->exchanges) = x->next;
    if (x->next)
        x->next->previous = x->previous;
    if (x->work && x->work->forget)
        x->work->forget(x);
    ask_fini(x);
    bg_str_fini(&x->out);
    bg_str_fini(&x->body);
    bg_free(x->path);
    bg_free(x);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_size, void **state)
{
    struct http *http = arg;
    struct exchange *x = *state;
    struct openai_error error;
    if (!x) {
        *state = x = exchange_create(http, connection, url, method, version);
        x->refused = strcmp(x->method, "OPTIONS") != 0 && !door_may_ask(&http->keys, connection, x->path);
        x->knows_key = door_may_ask(&http->keys, connection, NULL);
        return MHD_YES;
    }
    if (x->answered)
        return MHD_YES;
    if (*data_size > 0) { // taken in to its end also where it is refused: the answer can then be read
        x->taken += *data_size;
        x->too_large |= x->taken > http->o.body_max;
        if (!x->too_large && !x->refused)
            bg_str_add_bytes(&x->body, data, *data_size);
        *data_size = 0;
        return x->taken > TAKEN_MAX ? MHD_NO : MHD_YES;
    }
    if (!door_whole(&x->wait))
        return MHD_YES;
    if (x->refused) {
        if (strcmp(x->path, "/") == 0)
            return exchange_send(x, 401, "text/html; charset=utf-8", page_key_html, strlen(page_key_html));
        openai_refuse(&error, 401, "authentication_error", "",
                      "this needs a key: send the header Authorization: Bearer KEY");
        return exchange_refuse(x, &error);
    }
    if (x->too_large) {
        openai_refuse(&error, 413, "invalid_request_error", "", "the body is larger than %zu bytes", http->o.body_max);
        return exchange_refuse(x, &error);
    }
    return route_handle(x);
}

static void log_access(const struct exchange *x)
{
    struct http *http = x->http;
    json_int_t prompt = 0, cached = 0, drawn = 0;
    for (uint32_t i = 0; i < x->choice_count; i++) {
        prompt += x->choices[i].prompt_tokens;
        cached += x->choices[i].cached_tokens;
        drawn += x->choices[i].drawn_tokens;
    }
    json_t *o = json_pack("{s:I, s:s, s:o, s:I, s:f}", "time_ms", (json_int_t)http->env->ops->wall_ms(http->env),
                          "method", x->method, "path", openai_text(x->path, strnlen(x->path, 200)), "status",
                          (json_int_t)x->status, "seconds", (double)(env_now_ns(http->env) - x->started_ns) * 1e-9);
    if (x->choice_count > 0) {
        json_object_set_new(o, "id", json_string(x->id));
        json_object_set_new(o, "prompt_tokens", json_integer(prompt));
        json_object_set_new(o, "cached_tokens", json_integer(cached));
        json_object_set_new(o, "tokens", json_integer(drawn));
        json_object_set_new(o, "finish", json_string(serve_finish_name(x->choices[0].finish)));
    }
    char *line = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6));
    http->o.access(http->o.arg, line ? line : "{}");
    bg_free(line);
    json_decref(o);
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct http *http = arg;
    struct exchange *x = *state;
    (void)connection;
    (void)code;
    if (!x)
        return;
    *state = NULL;
    http->answers[x->status < 600 ? x->status : 0]++;
    if (http->o.access)
        log_access(x);
    door_forget(&x->wait, http->epoll);
    if (x->running > 0)
        x->work->abandon(x);
    if (x->running == 0) // else freed when the engine, or a worker, has let go of it
        exchange_destroy(x);
}

// ---- The loop ----
// True: there may be more.
static bool take_told(struct http *http)
{
    const bool rest = http->taken != NULL;
    if (!rest) {
        http->env->ops->gate_enter(http->env, http->gate);
        http->taken = http->told;
        http->told = NULL;
        http->told_end = &http->told;
        http->env->ops->gate_leave(http->env, http->gate);
    }
    for (uint32_t i = 0; http->taken && i < TOLD_AT_ONCE; i++) {
        struct told *t = http->taken;
        struct exchange *x = t->event.user;
        http->taken = t->next;
        if (t->event.request == 0)
            worker_let_go(x);
        x->work->hear(x, &t->event);
        const bool last = t->event.finish != SERVE_RUNNING && x->running == 0;
        bg_free(t);
        if (!x->wait.connection && last)
            exchange_destroy(x);
        else if (x->wait.connection && ((x->ready && !x->answered) || x->complete || x->out.size > x->sent))
            exchange_resume(x);
    }
    return rest || http->taken;
}

static void loop(void *arg, struct bg_env *own)
{
    struct http *http = arg;
    struct epoll_event events[64];
    (void)own;
    for (bool stop = false, more = false; !stop;) {
        MHD_UNSIGNED_LONG_LONG most = 1000;
        if (MHD_get_timeout(http->daemon, &most) != MHD_YES || most > 1000)
            most = 1000;
        int count = epoll_wait(http->epoll, events, 64, more ? 0 : (int)most);
        for (int i = 0; i < count; i++) {
            uint64_t rings;
            if (events[i].data.ptr == http)
                continue;
            if (events[i].data.ptr == &http->bell) {
                if (read(http->bell, &rings, sizeof rings) < 0)
                    continue;
            } else {
                on_peer(events[i].data.ptr, events[i].events);
            }
        }
        more = take_told(http);
        MHD_run(http->daemon);
        http->env->ops->gate_enter(http->env, http->gate);
        stop = http->stopping;
        http->env->ops->gate_leave(http->env, http->gate);
    }
}

void http_tell(struct http *http, struct told *t)
{
    http->env->ops->gate_enter(http->env, http->gate);
    *http->told_end = t;
    http->told_end = &t->next;
    http->env->ops->gate_leave(http->env, http->gate);
    const uint64_t one = 1;
    if (write(http->bell, &one, sizeof one) < 0)
        return; // the bell rings already
}

static const void *copy_to(char **at, const void *from, size_t size)
{
    char *to = *at;
    if (size == 0)
        return from;
    memcpy(to, from, size);
    *at += size;
    return to;
}

// In order of what they must be aligned to.
void http_event(void *arg, const struct serve_event *event)
{
    struct http *http = arg;
    const struct exchange *x = event->user;
    const size_t each = 1 + x->ask.request.top_logprobs,
                 probs = event->logprobs ? event->token_count * each * sizeof *event->logprobs : 0,
                 values = event->embedding ? http->model.config->dim * sizeof *event->embedding : 0,
                 ids = event->token_count * sizeof *event->tokens;
    struct told *t = bg_alloc(sizeof *t + probs + values + ids + event->text_bytes);
    char *at = (char *)(t + 1);
    t->event = *event;
    t->event.logprobs = copy_to(&at, event->logprobs, probs);
    t->event.embedding = copy_to(&at, event->embedding, values);
    t->event.tokens = copy_to(&at, event->tokens, ids);
    t->event.text = copy_to(&at, event->text, event->text_bytes);
    http_tell(http, t);
}

// ---- Life ----
static bg_status listen_at(struct http *http, struct bg_error *err)
{
    const struct http_options *o = &http->o;
    const struct door_options door = {o->host,   o->port,    o->tls_certificate, o->tls_key, o->connections_max,
                                      o->idle_s, on_request, on_completed,       http};
    int poll;
    bg_status status = door_listen(&door, err, &http->daemon, &poll, &http->port);
    if (status)
        return status;
    struct epoll_event own = {.events = EPOLLIN, .data.ptr = http}, bell = {.events = EPOLLIN, .data.ptr = &http->bell};
    http->epoll = epoll_create1(EPOLL_CLOEXEC);
    http->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (http->epoll < 0 || http->bell < 0 || epoll_ctl(http->epoll, EPOLL_CTL_ADD, poll, &own) ||
        epoll_ctl(http->epoll, EPOLL_CTL_ADD, http->bell, &bell))
        return bg_fail(err, BG_IO, "cannot make the event queue of the HTTP thread");
    return BG_OK;
}

bg_status http_start(struct bg_env *env, const struct http_options *options, struct bg_error *err, struct http **out)
{
    struct http *http = bg_alloc(sizeof *http);
    *http = (struct http){.env = env, .o = *options, .epoll = -1, .bell = -1};
    http->told_end = &http->told;
    http->o.host = options->host ? options->host : "127.0.0.1";
    http->o.body_max = options->body_max ? options->body_max : (size_t)4 << 20;
    http->o.connections_max = options->connections_max ? options->connections_max : 4096;
    http->o.idle_s = options->idle_s ? options->idle_s : 60;
    http->o.stalled_s = options->stalled_s > 0 ? options->stalled_s : 10;
    door_keys_init(&http->keys, options->keys, options->key_count);
    bg_status status = env->ops->gate_create(env, err, &http->gate);
    if (!status)
        status = listen_at(http, err);
    for (size_t i = 0; i < WORKERS && !status; i++)
        status = worker_start(http, (enum worker_kind)i, err);
    if (!status)
        status = env->ops->thread_start(env, loop, http, err, &http->thread);
    if (status)
        http_stop(http);
    else
        *out = http;
    return status;
}

uint16_t http_port(const struct http *http)
{
    return http->port;
}

void http_ready(struct http *http, struct engine *engine, const struct http_model *model)
{
    http->env->ops->gate_enter(http->env, http->gate);
    http->model = *model;
    http->engine = engine;
    http->env->ops->gate_leave(http->env, http->gate);
}

uint32_t http_open_requests(struct http *http)
{
    http->env->ops->gate_enter(http->env, http->gate);
    const uint32_t open = http->open;
    http->env->ops->gate_leave(http->env, http->gate);
    return open;
}

void http_drain(struct http *http)
{
    http->env->ops->gate_enter(http->env, http->gate);
    http->draining = true;
    http->env->ops->gate_leave(http->env, http->gate);
}

void http_stop(struct http *http)
{
    const uint64_t one = 1;
    if (!http)
        return;
    if (http->thread) {
        http->env->ops->gate_enter(http->env, http->gate);
        http->stopping = true;
        http->env->ops->gate_ring(http->env, http->gate);
        http->env->ops->gate_leave(http->env, http->gate);
        ssize_t rung = write(http->bell, &one, sizeof one);
        (void)rung;
        http->env->ops->thread_join(http->env, http->thread);
    }
    for (size_t i = 0; i < WORKERS; i++)
        worker_stop(&http->workers[i]);
    for (struct exchange *x = http->exchanges; x; x = x->next)
        exchange_resume(x);
    if (http->daemon)
        MHD_stop_daemon(http->daemon);
    struct told *const lists[] = {http->taken, http->told};
    for (size_t i = 0; i < 2; i++)
        for (struct told *t = lists[i], *next; t; t = next) {
            next = t->next;
            bg_free(t);
        }
    while (http->exchanges)
        exchange_destroy(http->exchanges);
    if (http->epoll >= 0)
        close(http->epoll);
    if (http->bell >= 0)
        close(http->bell);
    for (size_t i = 0; i < WORKERS; i++)
        worker_fini(&http->workers[i]);
    if (http->gate)
        http->env->ops->gate_destroy(http->env, http->gate);
    door_keys_fini(&http->keys);
    bg_free(http);
}
