// The HTTP front: OpenAI's API over one engine, on libmicrohttpd in a thread of its own. It answers 503 from the moment
// it listens until http_ready(). Every route but /health asks for a key.
#ifndef SERVE_HTTP_HTTP_H
#define SERVE_HTTP_HTTP_H

#include "serve/engine.h"
#include "serve/template.h"

struct http_model { // what is served
    const char *name;
    const struct tokenizer *tokenizer;
    const struct model_config *config;
    uint32_t context;
    const struct chat_template *chat; // NULL: no chat
    const char *chat_text;            // its source
    bool chat_is_default;             // ours: the model brought none
    int64_t created;
    const char *digest;   // of all that a token is a function of but the request: hex
    const char *numerics; // the class of its numbers: fp32/1, int8/1
};

struct http_options {
    const char *host; // "127.0.0.1"
    uint16_t port;    // 0: any
    const char *const *keys;
    uint32_t key_count;                    // 0: no key is asked for; the caller sees to it that host is loopback then
    const char *cors;                      // Access-Control-Allow-Origin; NULL: none
    const char *tls_certificate, *tls_key; // PEM texts; NULL: plain HTTP
    size_t body_max;                       // default 4 MiB
    uint32_t connections_max;              // default 4096
    uint32_t idle_s;                       // a connection that sends nothing is closed after; default 60
    bool vllm_metrics;                     // vllm:* beside brigade_*
    const char *slot_save_path;            // directory of /slots/N?action=save; NULL: 501
    // One line for each request: method, path, status, tokens, seconds; never text. NULL: none.
    void (*access)(void *arg, const char *line);
    void *arg;
    double stalled_s; // /health is 503 when requests run and no step ended for so long; default 10
};

struct http;
BG_MUST_USE bg_status http_start(struct bg_env *env, const struct http_options *options, struct bg_error *err,
                                 struct http **http);
uint16_t http_port(const struct http *http);
// From here on requests are answered. The engine's options must have http_event as event and the http as arg.
void http_ready(struct http *http, struct engine *engine, const struct http_model *model);
void http_event(void *http, const struct serve_event *event);
// Requests in flight; for draining.
uint32_t http_open_requests(struct http *http);
void http_drain(struct http *http); // 503 to whoever comes
void http_stop(struct http *http);  // closes what is open, joins, frees

#endif
