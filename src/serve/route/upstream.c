// Towards the replicas: libcurl's multi interface on our epoll. Its callbacks only note what came; it is taken in
// upstream_work(), where transfers may be begun and ended.
#include "serve/route/route_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

static void make_ready(struct transfer *t)
{
    if (t->ready)
        return;
    t->ready = true;
    t->next_ready = NULL;
    *t->route->ready_end = t;
    t->route->ready_end = &t->next_ready;
}

// The value of a header of that name, without blanks around it. False: it is another one.
static bool header(const char *line, size_t size, const char *name, char *value, size_t most)
{
    size_t from = strlen(name);
    if (size <= from || strncasecmp(line, name, from) != 0 || line[from++] != ':')
        return false;
    while (from < size && line[from] == ' ')
        from++;
    while (size > from && (line[size - 1] == '\n' || line[size - 1] == '\r' || line[size - 1] == ' '))
        size--;
    snprintf(value, most, "%.*s", (int)(size - from), line + from);
    return true;
}

static size_t on_header(char *line, size_t one, size_t size, void *arg)
{
    struct transfer *t = arg;
    char number[16];
    (void)one;
    if (header(line, size, "Content-Type", t->type, sizeof t->type))
        return size;
    if (header(line, size, DOOR_DIGEST, t->digest, sizeof t->digest)) {
        if (strspn(t->digest, "0123456789abcdef") != sizeof t->digest - 1)
            *t->digest = '\0'; // none of ours: it goes into logs
        return size;
    }
    if (header(line, size, "Retry-After", number, sizeof number)) {
        t->retry_s = strtod(number, NULL);
    } else if (size <= 2) { // the end of the headers
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &t->status);
        make_ready(t);
    }
    return size;
}

static size_t on_body(char *bytes, size_t one, size_t size, void *arg)
{
    struct transfer *t = arg;
    (void)one;
    if (t->in.size + size > t->limit)
        return CURL_WRITEFUNC_ERROR;
    bg_str_add_bytes(&t->in, bytes, size);
    make_ready(t);
    return size;
}

struct transfer *transfer_start(struct route *route, enum transfer_kind kind, struct replica *replica, void *owner,
                                const char *method, const char *path, char *body, size_t body_size, uint32_t timeout_ms)
{
    struct transfer *t = bg_alloc(sizeof *t);
    char *url = bg_format("%s%s", replica->url, path);
    *t = (struct transfer){.kind = kind,
                           .route = route,
                           .replica = replica,
                           .owner = owner,
                           .easy = curl_easy_init(),
                           .body = body,
                           .limit = kind == TRANSFER_BRANCH  ? RECORD_MAX
                                    : kind == TRANSFER_PROBE ? PROBE_MAX
                                                             : BODY_MAX};
    BG_ASSERT(t->easy);
    if (route->o.replica_key) {
        char *line = bg_format("Authorization: Bearer %s", route->o.replica_key);
        t->headers = curl_slist_append(t->headers, line);
        bg_free(line);
    }
    curl_easy_setopt(t->easy, CURLOPT_URL, url);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_PROXY, "");
    curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(t->easy, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS, (long)(2 * route->o.stall_ms));
    curl_easy_setopt(t->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    if (route->o.replica_ca)
        curl_easy_setopt(t->easy, CURLOPT_CAINFO, route->o.replica_ca);
    if (timeout_ms)
        curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    if (body) {
        t->headers = curl_slist_append(t->headers, path[1] == 'k' && path[4] == 'r' // /kv/restore
                                                       ? "Content-Type: application/octet-stream"
                                                       : "Content-Type: application/json");
        t->headers = curl_slist_append(t->headers, "Expect:");
        curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE, (long)body_size);
    } else if (strcmp(method, "HEAD") == 0) {
        curl_easy_setopt(t->easy, CURLOPT_NOBODY, 1L);
    }
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    bg_free(url);
    if (kind != TRANSFER_PROBE) {
        replica->ours++;
        replica->ships += kind == TRANSFER_SHIP;
        replica->sent++;
    }
    CURLMcode code = curl_multi_add_handle(route->multi, t->easy);
    BG_ASSERT(code == CURLM_OK);
    return t;
}

void transfer_end(struct transfer *t)
{
    struct route *route = t->route;
    for (struct transfer **at = &route->ready; t->ready && *at; at = &(*at)->next_ready)
        if (*at == t) {
            *at = t->next_ready;
            if (!*at)
                route->ready_end = at;
            break;
        }
    if (t->kind != TRANSFER_PROBE)
        t->replica->ours--;
    t->replica->ships -= t->kind == TRANSFER_SHIP;
    curl_multi_remove_handle(route->multi, t->easy);
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    bg_str_fini(&t->in);
    bg_free(t->body);
    bg_free(t);
}

static bool is_text(const char *text, size_t size)
{
    json_t *string = json_stringn(text, size); // NULL: no UTF-8
    const bool good = string != NULL;
    json_decref(string);
    return good;
}

// It goes into logs and answers: no control characters, no half characters.
static void clean(char *text)
{
    size_t size = strlen(text);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = ' ';
    while (size > 0 && !is_text(text, size))
        text[--size] = '\0';
}

static void tell(const struct transfer *t, char *text, size_t size)
{
    if (t->done && t->code != CURLE_OK) {
        snprintf(text, size, "%s", *t->error ? t->error : curl_easy_strerror(t->code));
        return;
    }
    json_t *o = json_loadb(bg_str_text(&t->in), t->in.size, 0, NULL);
    const char *message = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    if (t->status == 200)
        snprintf(text, size, "the stream ended early");
    else if (t->status)
        snprintf(text, size, "%ld%s%s", t->status, message ? ": " : "", message ? message : "");
    else
        snprintf(text, size, "no answer");
    json_decref(o);
}

void transfer_tell(const struct transfer *t, char *text, size_t size)
{
    tell(t, text, size);
    clean(text);
}

// ---- The loop's side ----
static uint64_t tag(int fd) // told apart from pointers, which are even
{
    return ((uint64_t)(uint32_t)fd << 1) | 1;
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    struct route *route = arg;
    struct epoll_event event = {.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u),
                                .data.u64 = tag(fd)};
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(route->epoll, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    if (epoll_ctl(route->epoll, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) != 0)
        epoll_ctl(route->epoll, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
    curl_multi_assign(route->multi, fd, route);
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *arg)
{
    struct route *route = arg;
    (void)multi;
    route->curl_due_ns = timeout_ms < 0 ? 0 : env_now_ns(route->env) + (uint64_t)timeout_ms * 1000000u;
    return 0;
}

void upstream_event(struct route *route, int fd, uint32_t events)
{
    int running;
    const int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                     (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
    curl_multi_socket_action(route->multi, fd, what, &running);
}

static void take_done(struct route *route)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(route->multi, &left));) {
        struct transfer *t = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
        t->done = true;
        t->code = m->data.result;
        make_ready(t);
    }
}

void upstream_work(struct route *route, uint64_t now)
{
    int running;
    if (route->curl_due_ns && now >= route->curl_due_ns) {
        route->curl_due_ns = 0;
        curl_multi_socket_action(route->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    }
    take_done(route);
    while (route->ready) {
        struct transfer *t = route->ready;
        route->ready = t->next_ready;
        if (!route->ready)
            route->ready_end = &route->ready;
        t->ready = false;
        if (t->kind == TRANSFER_BRANCH)
            relay_came(t);
        else if (t->done && t->kind == TRANSFER_PROBE)
            replicas_probed(t);
        else if (t->done && t->kind == TRANSFER_SHIP)
            ship_came(t);
        else if (t->done)
            pass_done(t);
    }
}

bg_status upstream_open(struct route *route, struct bg_error *err)
{
    route->ready_end = &route->ready;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return bg_fail(err, BG_IO, "cannot start libcurl");
    route->multi = curl_multi_init();
    if (!route->multi)
        return bg_fail(err, BG_IO, "cannot start libcurl");
    curl_multi_setopt(route->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(route->multi, CURLMOPT_SOCKETDATA, route);
    curl_multi_setopt(route->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(route->multi, CURLMOPT_TIMERDATA, route);
    curl_multi_setopt(route->multi, CURLMOPT_MAXCONNECTS, 256L);
    return BG_OK;
}

void upstream_close(struct route *route)
{
    if (!route->multi)
        return;
    curl_multi_cleanup(route->multi);
    curl_global_cleanup();
}
