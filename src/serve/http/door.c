// Keys are compared by hash, all of them and in constant time: how much of one is right never shows.
#include "serve/http/door.h"

#include "base/hash.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SILENT_MS = 60000 }; // a peer that acknowledges nothing for so long is gone

static void hash_of(const char *text, uint8_t hash[32])
{
    char hex[65];
    bg_sha256_hex(text, strlen(text), hex);
    bg_sha256_to_bytes(hex, hash);
}

void door_keys_init(struct door_keys *keys, const char *const *texts, uint32_t count)
{
    *keys = (struct door_keys){bg_alloc_array(count + 1u, sizeof *keys->hash), count};
    for (uint32_t i = 0; i < count; i++)
        hash_of(texts[i], keys->hash[i]);
}

void door_keys_fini(struct door_keys *keys)
{
    bg_free(keys->hash);
    *keys = (struct door_keys){0};
}

bool door_may_ask(const struct door_keys *keys, struct MHD_Connection *connection, const char *path)
{
    uint8_t hash[32];
    int good = 0;
    if (keys->count == 0 || (path && strcmp(path, "/health") == 0))
        return true;
    const char *key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (key && strncmp(key, "Bearer ", 7) == 0)
        key += 7;
    else
        key = path && strcmp(path, "/") == 0 ? MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "key")
                                             : NULL;
    if (!key)
        return false;
    hash_of(key, hash);
    for (uint32_t i = 0; i < keys->count; i++)
        good |= CRYPTO_memcmp(hash, keys->hash[i], sizeof hash) == 0;
    return good != 0;
}

struct door_wait door_wait_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return (struct door_wait){.connection = connection, .fd = info ? info->connect_fd : -1};
}

bool door_whole(struct door_wait *wait)
{
    const bool whole = wait->whole;
    wait->whole = true;
    return whole;
}

// Errors and the end of both halves are told always.
static void watch(struct door_wait *wait, int epoll, void *owner)
{
    struct epoll_event event = {.events = (wait->half ? 0 : EPOLLRDHUP) | EPOLLONESHOT, .data.ptr = owner};
    if (epoll_ctl(epoll, wait->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, wait->fd, &event) == 0)
        wait->watched = true;
}

void door_suspend(struct door_wait *wait, int epoll, void *owner)
{
    if (wait->suspended)
        return;
    MHD_suspend_connection(wait->connection);
    wait->suspended = true;
    watch(wait, epoll, owner);
}

bool door_gone(struct door_wait *wait, int epoll, void *owner, uint32_t events, bool begun)
{
    static const char nothing[] = "HTTP/1.1 100 Continue\r\n\r\n"; // may come any number of times before an answer
    const size_t size = sizeof nothing - 1;
    if (!wait->may_half || wait->half || events & (EPOLLERR | EPOLLHUP))
        return true;
    wait->half = true;
    if (!begun && send(wait->fd, nothing, size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)size)
        return true;
    watch(wait, epoll, owner);
    return false;
}

void door_resume(struct door_wait *wait)
{
    if (!wait->suspended)
        return;
    wait->suspended = false;
    MHD_resume_connection(wait->connection);
}

void door_forget(struct door_wait *wait, int epoll)
{
    if (wait->watched)
        epoll_ctl(epoll, EPOLL_CTL_DEL, wait->fd, NULL);
    *wait = (struct door_wait){.fd = -1};
}

// A peer that vanished without a word is found out within a minute.
static void on_connection(void *arg, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    const int on = 1, idle_s = SILENT_MS / 2000, unanswered_ms = SILENT_MS;
    (void)arg;
    (void)state;
    if (code != MHD_CONNECTION_NOTIFY_STARTED || !info)
        return;
    const int fd = info->connect_fd;
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

// As many files as this process may have open: a connection is one.
static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

// Why libmicrohttpd did not listen: it does not tell, so the same is tried here.
static bg_status why_not(const struct door_options *o, const struct sockaddr_in *address, struct bg_error *err)
{
    const int yes = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool bound = fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) &&
                       !bind(fd, (const struct sockaddr *)address, sizeof *address) && !listen(fd, 1);
    const int code = errno;
    if (fd >= 0)
        close(fd);
    if (bound && o->certificate)
        return bg_fail(
            err, BG_INVALID,
            "TLS cannot be served: expected a certificate (its chain) and the key that belongs to it, both PEM");
    if (bound)
        return bg_fail(err, BG_IO, "cannot serve HTTP at %s port %u", o->host, o->port);
    if (code == EADDRINUSE)
        return bg_fail(err, BG_IO,
                       "cannot listen at %s port %u: the port is in use; another one: --port, any: --port 0", o->host,
                       o->port);
    if (code == EADDRNOTAVAIL)
        return bg_fail(err, BG_INVALID, "cannot listen at %s: no address of this machine; all of them: --host 0.0.0.0",
                       o->host);
    if (code == EACCES)
        return bg_fail(err, BG_DENIED,
                       "cannot listen at %s port %u: this user may not; a port of 1024 and above: --port", o->host,
                       o->port);
    return bg_fail(err, BG_IO, "cannot listen at %s port %u: error %d of the system", o->host, o->port, code);
}

bg_status door_listen(const struct door_options *o, struct bg_error *err, struct MHD_Daemon **daemon, int *epoll,
                      uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(o->port)};
    if (inet_pton(AF_INET, o->host, &address.sin_addr) != 1)
        return bg_fail(err, BG_INVALID, "--host %s: expected an IPv4 address such as 127.0.0.1 or 0.0.0.0", o->host);
    raise_file_limit();
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)o->certificate},
                                   {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)o->key},
                                   {MHD_OPTION_END, 0, NULL}};
    if (o->certificate)
        flags |= MHD_USE_TLS;
    else
        tls[0] = tls[2];
    *daemon = MHD_start_daemon(flags, o->port, NULL, NULL, o->request, o->arg, MHD_OPTION_SOCK_ADDR, &address,
                               MHD_OPTION_NOTIFY_COMPLETED, o->completed, o->arg, MHD_OPTION_NOTIFY_CONNECTION,
                               on_connection, o->arg, MHD_OPTION_CONNECTION_LIMIT, o->connections_max,
                               MHD_OPTION_CONNECTION_TIMEOUT, o->idle_s, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                               (size_t)64 << 10, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    if (!*daemon)
        return why_not(o, &address, err);
    const union MHD_DaemonInfo *bound = MHD_get_daemon_info(*daemon, MHD_DAEMON_INFO_BIND_PORT);
    const union MHD_DaemonInfo *poll = MHD_get_daemon_info(*daemon, MHD_DAEMON_INFO_EPOLL_FD);
    *port = bound ? bound->port : o->port;
    if (!poll)
        return bg_fail(err, BG_IO, "cannot make an event queue for HTTP");
    *epoll = poll->epoll_fd;
    return BG_OK;
}

void door_headers(struct MHD_Response *response, const char *type, const char *cors)
{
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (cors) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", cors);
        MHD_add_response_header(response, "Access-Control-Allow-Headers", "Authorization, Content-Type");
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(response, "Access-Control-Max-Age", "3600");
    }
}
