// Towards the clients: libmicrohttpd on our epoll. Every request is suspended until its answer is known, its socket is
// watched meanwhile: a client that goes away takes its upstream requests with it. As in serve/http, whose door this
// is; there an exchange belongs to an engine, here a visit to transfers.
#include "serve/route/route_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

enum {
    TAKEN_MAX = 1 << 30, // bytes of a body; more, and the connection is closed without an answer
};

// ---- Answers ----
void visit_answer(struct visit *v, uint32_t status, const char *type, const void *bytes, size_t size)
{
    if (v->status)
        return;
    v->status = status;
    snprintf(v->type, sizeof v->type, "%s", type);
    bg_str_add_bytes(&v->out, bytes, size);
    visit_resume(v);
}

void visit_answer_json(struct visit *v, uint32_t status, json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)); // as the replicas write
    visit_answer(v, text ? status : 500, "application/json; charset=utf-8", text ? text : "{}",
                 text ? strlen(text) : 2);
    bg_free(text);
    json_decref(json);
}

void visit_refuse(struct visit *v, uint32_t status, const char *type, const char *code, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    json_t *message = json_string(text), *code_json = code ? json_string(code) : json_null();
    visit_answer_json(v, status,
                      json_pack("{s:{s:o, s:s, s:o, s:n}}", "error", "message",
                                message ? message : json_string("what was asked is no UTF-8"), "type", type, "code",
                                code_json, "param"));
}

static enum MHD_Result send_headers(struct visit *v, struct MHD_Response *response)
{
    char seconds[16];
    if (!response)
        return MHD_NO;
    door_headers(response, v->type, v->route->o.cors);
    if (v->streams) {
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        MHD_add_response_header(response, "X-Accel-Buffering", "no");
    }
    if (v->status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (v->status == 429 || v->status == 503) {
        snprintf(seconds, sizeof seconds, "%d", v->retry_s >= 1 && v->retry_s < 3600 ? (int)(v->retry_s + 0.5) : 1);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    v->queued = true;
    enum MHD_Result result = MHD_queue_response(v->wait.connection, v->status, response);
    MHD_destroy_response(response);
    return result;
}

static void suspend(struct visit *v)
{
    door_suspend(&v->wait, v->route->epoll, v);
}

void visit_resume(struct visit *v)
{
    door_resume(&v->wait);
}

static ssize_t read_stream(void *arg, uint64_t position, char *to, size_t most)
{
    struct visit *v = arg;
    (void)position;
    if (v->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    const size_t left = v->out.size - v->sent, count = left < most ? left : most;
    if (count > 0) {
        memcpy(to, v->out.data + v->sent, count);
        v->sent += count;
        if (v->sent == v->out.size) {
            bg_str_reset(&v->out);
            v->sent = 0;
        }
        return (ssize_t)count;
    }
    if (v->complete)
        return v->broken ? MHD_CONTENT_READER_END_WITH_ERROR : MHD_CONTENT_READER_END_OF_STREAM;
    suspend(v);
    return 0;
}

static enum MHD_Result send_answer(struct visit *v)
{
    if (v->streams)
        return send_headers(v, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, read_stream, v, NULL));
    return send_headers(v, MHD_create_response_from_buffer(v->out.size, (void *)(uintptr_t)bg_str_text(&v->out),
                                                           MHD_RESPMEM_MUST_COPY));
}

// ---- Visits ----
static void drop(struct visit *v)
{
    if (v->answer)
        relay_drop(v->answer);
    v->answer = NULL;
    if (v->pass)
        transfer_end(v->pass);
    v->pass = NULL;
    reader_drop(v);
}

void front_peer(struct visit *v, uint32_t events)
{
    if (!v->wait.suspended) // it has its answer, or is found out by writing
        return;
    if (!door_gone(&v->wait, v->route->epoll, v, events, v->queued)) {
        if (v->queued) { // a stream: a comment
            bg_str_add(&v->out, ":\n\n");
            visit_resume(v);
        }
        return;
    }
    v->gone = true;
    if (!v->status)
        v->status = 499;
    drop(v);
    visit_resume(v);
}

static void visit_destroy(struct visit *v)
{
    drop(v);
    v->route->open -= v->counted;
    *(v->previous ? &v->previous->next : &v->route->visits) = v->next;
    if (v->next)
        v->next->previous = v->previous;
    bg_str_fini(&v->out);
    bg_str_fini(&v->body);
    bg_free(v->path);
    bg_free(v);
}

static struct visit *visit_create(struct route *route, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version)
{
    static const char *const methods[] = {"GET", "POST", "HEAD", "OPTIONS"};
    struct visit *v = bg_alloc(sizeof *v);
    *v = (struct visit){.route = route, .wait = door_wait_of(connection), .method = "OTHER"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(method, methods[i]) == 0)
            v->method = methods[i];
    v->wait.may_half = !route->o.tls_certificate && strcmp(version, MHD_HTTP_VERSION_1_1) == 0;
    v->path = bg_strdup(path);
    v->arrived_ns = env_now_ns(route->env);
    v->next = route->visits;
    if (v->next)
        v->next->previous = v;
    route->visits = v;
    return v;
}

static enum MHD_Result handle(struct visit *v)
{
    if (v->gone)
        return MHD_NO;
    if (v->status)
        return send_answer(v);
    if (v->taken) // woken for nothing
        goto wait;
    v->taken = true;
    if (v->refused)
        visit_refuse(v, 401, "authentication_error", "invalid_api_key",
                     "this needs a key: send the header Authorization: Bearer KEY");
    else if (v->too_large)
        visit_refuse(v, 413, "invalid_request_error", NULL, "the body is larger than %zu bytes", v->route->o.body_max);
    else
        pass_begin(v);
    if (v->status)
        return send_answer(v);
wait:
    suspend(v);
    return MHD_YES;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_size, void **state)
{
    struct route *route = arg;
    struct visit *v = *state;
    if (!v) {
        *state = v = visit_create(route, connection, url, method, version);
        v->refused = strcmp(v->method, "OPTIONS") != 0 && !door_may_ask(&route->keys, connection, v->path);
        return MHD_YES;
    }
    if (v->queued)
        return MHD_YES;
    if (*data_size > 0) { // taken in to its end also where it is refused: the answer can then be read
        v->took += *data_size;
        v->too_large |= v->took > route->o.body_max;
        if (!v->too_large && !v->refused)
            bg_str_add_bytes(&v->body, data, *data_size);
        *data_size = 0;
        return v->took > TAKEN_MAX ? MHD_NO : MHD_YES;
    }
    return door_whole(&v->wait) ? handle(v) : MHD_YES;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct route *route = arg;
    struct visit *v = *state;
    (void)connection;
    (void)code;
    if (!v)
        return;
    *state = NULL;
    door_forget(&v->wait, route->epoll);
    route->answers[v->status < 600 ? v->status : 0]++;
    visit_destroy(v);
}

// ---- Life ----
bg_status front_listen(struct route *route, struct bg_error *err)
{
    const struct route_options *o = &route->o;
    const struct door_options door = {.host = o->host,
                                      .port = o->port,
                                      .certificate = o->tls_certificate,
                                      .key = o->tls_key,
                                      .connections_max = o->connections_max,
                                      .idle_s = 60,
                                      .request = on_request,
                                      .completed = on_completed,
                                      .arg = route};
    int poll;
    door_keys_init(&route->keys, o->keys, o->key_count);
    bg_status status = door_listen(&door, err, &route->daemon, &poll, &route->port);
    if (status)
        return status;
    struct epoll_event own = {.events = EPOLLIN, .data.ptr = route};
    route->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (route->epoll < 0 || epoll_ctl(route->epoll, EPOLL_CTL_ADD, poll, &own))
        return bg_fail(err, BG_IO, "cannot make the router's event queue");
    return BG_OK;
}

void front_close(struct route *route)
{
    for (struct visit *v = route->visits; v; v = v->next) {
        v->gone = true;
        visit_resume(v);
    }
    if (route->daemon)
        MHD_stop_daemon(route->daemon);
    while (route->visits)
        visit_destroy(route->visits);
    door_keys_fini(&route->keys);
}
