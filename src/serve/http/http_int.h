// Inside the adapter: a connection's exchange, and what routes may do with it. Everything here belongs to the HTTP
// thread but what the gate guards.
#ifndef SERVE_HTTP_HTTP_INT_H
#define SERVE_HTTP_HTTP_INT_H

#include "serve/http/door.h"
#include "serve/http/http.h"
#include "serve/openai.h"

#include <microhttpd.h>

struct told { // an event, copied
    struct serve_event event;
    struct told *next;
};

struct exchange;
// What is not answered at once: the exchange is suspended until x->ready.
struct exchange_work {
    // Of one of its requests, or, where event->request is 0, the end of its chore; counts x->running down.
    void (*hear)(struct exchange *x, const struct serve_event *event);
    enum MHD_Result (*answer)(struct exchange *x); // when it is ready
    void (*abandon)(struct exchange *x);           // the client is gone; what runs still ends by hear()
    void (*forget)(struct exchange *x);            // frees; NULL: nothing
};

// Threads for what the HTTP thread must not wait for. WORKER_WAITS waits for the engine and for files. The others
// compute: they read bodies and write answers, large ones apart so that small ones need not wait for them.
enum worker_kind { WORKER_SMALL, WORKER_LARGE, WORKER_WAITS, WORKERS };
enum { WORKER_HELD_MAX = 64 }; // bodies of the largest size that wait for them; then 429 for large ones
struct worker {
    struct http *http;
    enum worker_kind kind;
    struct bg_thread *thread;
    struct bg_gate *gate;
    struct exchange *chores, **chores_end; // gate: in order of arrival
    bool stopping;                         // gate
};

struct exchange { // one HTTP request
    struct http *http;
    struct door_wait wait; // its connection is NULL once the client is gone
    const char *method;
    char *path;
    struct bg_str body;
    const char *rest;   // of the path, where its route has a *
    const char *allow;  // of a 405: the method that would do
    const char *digest; // of the model, for who may know it; NULL: it is loading, or the client has no key
    bool knows_key;
    bool too_large, refused, answered, counted, given_up, gone;
    uint64_t taken; // bytes of the body that came
    uint64_t started_ns;
    uint32_t status;
    const struct exchange_work *work; // NULL: none
    void *work_of;
    uint32_t running;                  // requests to the engine, or a chore, whose end was not told yet
    bool ready;                        // to be answered
    bool complete;                     // of a stream: nothing more comes
    void (*chore)(struct exchange *x); // worker.c
    struct worker *worker;             // that has it, or will; NULL: none
    struct exchange *next_chore;       // the worker's gate
    size_t held;                       // bytes of the body, while they count in http->held
    // Of a text request:
    bool asking; // the ask is in use
    struct openai_ask ask;
    struct openai_reply reply;
    char id[48];
    struct openai_choice *choices;
    uint64_t *requests; // engine ids
    uint32_t choice_count;
    struct bg_str out; // of a stream: not sent yet
    size_t sent;       // of out
    struct exchange *next, *previous;
};

struct http {
    struct bg_env *env;
    struct http_options o;
    struct http_model model;
    struct engine *engine; // gate; NULL: loading
    struct MHD_Daemon *daemon;
    uint16_t port;
    int epoll, bell;
    struct bg_thread *thread;
    struct bg_gate *gate;
    struct worker workers[WORKERS];
    size_t held;                   // bytes of bodies that wait for a worker, or are with one
    struct told *told, **told_end; // gate
    struct told *taken;            // of those: to be heard before all others
    bool stopping, draining;       // gate
    uint32_t open;                 // gate: exchanges that began before draining and are not over yet
    struct exchange *exchanges;
    struct door_keys keys;
    uint64_t answers[600]; // by status
    uint64_t next_id;
    const char *certificate, *tls_key;
};

// server.c
void exchange_suspend(struct exchange *x);
void exchange_resume(struct exchange *x);
enum MHD_Result exchange_send(struct exchange *x, uint32_t status, const char *type, const void *bytes, size_t size);
enum MHD_Result exchange_send_json(struct exchange *x, uint32_t status, json_t *json);
enum MHD_Result exchange_give(struct exchange *x, const char *type, void *bytes, size_t size); // 200; frees them
enum MHD_Result exchange_send_text(struct exchange *x, char *text); // JSON, which it frees; NULL: 500
char *exchange_json(json_t *json);                                  // as text; NULL: it cannot be written
enum MHD_Result exchange_refuse(struct exchange *x, struct openai_error *error);
enum MHD_Result exchange_stream(struct exchange *x); // what comes into x->out, until x->complete

enum MHD_Result exchange_wait(struct exchange *x);    // suspends it until it is complete
void http_tell(struct http *http, struct told *told); // from any thread: the exchange of its event hears it

// routes.c
enum MHD_Result route_handle(struct exchange *x);                   // the body is whole
json_t *route_body(struct exchange *x, struct openai_error *error); // an object; NULL: refused

// ask.c
enum MHD_Result ask_completion(struct exchange *x, struct engine *engine);
enum MHD_Result ask_chat(struct exchange *x, struct engine *engine);
bool ask_render(struct exchange *x, json_t *messages, json_t *extra, char **text, size_t *size,
                struct openai_error *error); // the text of a chat, as its template has it
bool ask_prompt(struct exchange *x, size_t p, struct token_list *tokens, struct openai_error *error); // the p-th
void ask_fini(struct exchange *x);

// worker.c. A chore has the exchange for itself: until its end is told nobody else writes to it, and only what the log
// and the socket need is read.
// Suspends the exchange and puts it to work, which begins with a chore; 429 where too many large bodies wait
// for that.
enum MHD_Result exchange_begin(struct exchange *x, enum worker_kind kind, void (*chore)(struct exchange *x),
                               const struct exchange_work *work, void *work_of);
// A further one. first: before all but those that are the same.
void exchange_chore(struct exchange *x, enum worker_kind kind, bool first, void (*chore)(struct exchange *x));
enum worker_kind worker_for(size_t bytes);                                    // that are read, or written
void worker_chore_ended(struct exchange *x, const struct serve_event *event); // hear() of work that is one chore
void worker_finish(struct exchange *x);         // abandon() of chores that are done to their end, come what may
void worker_drop(struct exchange *x);           // abandon() of those that need not begin any more
void worker_let_go(struct exchange *x);         // the end of its chore was told
uint32_t worker_waiting(struct worker *worker); // chores that it has not begun
BG_MUST_USE bg_status worker_start(struct http *http, enum worker_kind kind, struct bg_error *err);
void worker_stop(struct worker *worker); // joins; worker_drop() goes on working
void worker_fini(struct worker *worker);

// embeddings.c, slots.c, ship.c
enum MHD_Result embeddings(struct exchange *x, struct engine *engine);
enum MHD_Result slots_list(struct exchange *x, struct engine *engine);
enum MHD_Result slots_act(struct exchange *x, struct engine *engine);
enum MHD_Result ship_save(struct exchange *x, struct engine *engine);
enum MHD_Result ship_restore(struct exchange *x, struct engine *engine);

// metrics.c
char *metrics_text(struct http *http);
// page.c
extern const char page_html[];
extern const size_t page_html_size;
extern const char page_key_html[]; // asks for a key

#endif
