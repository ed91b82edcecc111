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
// What is not answered at once: the exchange is suspended until x->complete.
struct exchange_work {
    void (*hear)(struct exchange *x, const struct serve_event *event); // of one of its requests; counts x->running down
    enum MHD_Result (*answer)(struct exchange *x);                     // when it is complete
    void (*abandon)(struct exchange *x); // the client is gone; what runs still ends by hear()
    void (*forget)(struct exchange *x);  // frees; NULL: nothing
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
    bool too_large, refused, whole, answered, counted, given_up, gone;
    uint64_t taken; // bytes of the body that came
    uint64_t started_ns;
    uint32_t status;
    const struct exchange_work *work; // NULL: none
    void *work_of;
    uint32_t running;                  // requests to the engine, or a chore, whose end was not told yet
    bool complete;                     // all have ended
    void (*chore)(struct exchange *x); // worker.c
    struct exchange *next_chore;
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
    struct bg_thread *thread, *worker;
    struct bg_gate *gate;
    struct exchange *chores, **chores_end; // gate
    struct told *told, **told_end;         // gate
    bool stopping, draining;               // gate
    uint32_t open;                         // gate: exchanges that began before draining and are not over yet
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

// worker.c: has the worker's thread do what may take a while, and waits for it.
enum MHD_Result exchange_chore(struct exchange *x, void (*chore)(struct exchange *x), const struct exchange_work *work,
                               void *work_of);
void worker_chore_ended(struct exchange *x, const struct serve_event *event); // hear() of all such work
void worker_abandon(struct exchange *x);                                      // abandon() of it: goes on
void worker_loop(void *http, struct bg_env *own);

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
