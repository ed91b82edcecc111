// The replay: a handle of libcurl for each request that is out. Time to the first token counts from when the request
// should have been sent, so that a server that makes its clients wait does not look fast.
#include "cli/replay.h"

#include "base/assert.h"
#include "base/json.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <math.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1 << 20 };

struct flight { // a request that is out
    struct replay *replay;
    struct replay_answer *answer;
    CURL *easy;
    char *body;
    struct bg_str line;
    uint64_t due_ns, first_ns, last_ns;
    uint32_t tokens; // seen
    struct flight *next, **from;
    char error[CURL_ERROR_SIZE];
};

struct replay {
    struct bg_env *env;
    const struct replay_options *o;
    struct replay_result *r;
    CURLM *multi;
    struct curl_slist *headers;
    char *url;
    struct flight *flights;
};

static void times_add(struct replay_times *times, double seconds)
{
    if (times->count == times->capacity) {
        times->capacity = times->capacity ? 2 * times->capacity : 1024;
        times->at = bg_realloc_array(times->at, times->capacity, sizeof *times->at);
    }
    times->at[times->count++] = seconds;
}

// ---- What comes ----
// Tokens that a chunk brings: as it lists them, else one where there is text.
static uint32_t tokens_of(const json_t *choice)
{
    const json_t *list = json_object_get(choice, "tokens");
    if (json_is_array(list))
        return (uint32_t)json_array_size(list);
    const char *text = json_string_value(json_object_get(choice, "text"));
    return text && *text ? 1 : 0;
}

static void take_chunk(struct flight *f, const json_t *chunk)
{
    const json_t *usage = json_object_get(chunk, "usage");
    const uint32_t count = tokens_of(json_array_get(json_object_get(chunk, "choices"), 0));
    const uint64_t now = env_now_ns(f->replay->env);
    if (json_is_object(usage)) {
        f->answer->prompt = (uint32_t)json_integer_value(json_object_get(usage, "prompt_tokens"));
        f->answer->generated = (uint32_t)json_integer_value(json_object_get(usage, "completion_tokens"));
        f->replay->r->cached_tokens += (uint64_t)json_integer_value(
            json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
    }
    if (!count)
        return;
    for (uint32_t i = 0; f->tokens && i < count; i++)
        times_add(&f->replay->r->between, (double)(now - f->last_ns) * 1e-9 / count);
    if (!f->tokens)
        f->first_ns = now;
    f->last_ns = now;
    f->tokens += count;
}

static void take_line(struct flight *f)
{
    const char *line = bg_str_text(&f->line);
    if (strncmp(line, "data: ", 6) != 0)
        return;
    if (strcmp(line + 6, "[DONE]") == 0) {
        f->answer->whole = true;
        return;
    }
    json_t *chunk = json_loads(line + 6, 0, NULL);
    take_chunk(f, chunk);
    json_decref(chunk);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
    struct flight *f = arg;
    for (size_t i = 0; i < size * count; i++) {
        if (bytes[i] == '\n') {
            take_line(f);
            bg_str_reset(&f->line);
        } else if (bytes[i] != '\r') {
            bg_str_add_bytes(&f->line, &bytes[i], 1);
        }
    }
    return f->line.size > LINE_MAX_BYTES ? CURL_WRITEFUNC_ERROR : size * count;
}

// ---- What goes ----
// A prompt of its own for every request, so that no prefix is shared; the ids are above those of control tokens.
static char *body_of(const struct replay_options *o, size_t index, uint32_t prompt, uint32_t generated)
{
    json_t *ids = json_array();
    uint64_t state = index + 1;
    for (uint32_t i = 0; i < prompt; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const uint32_t low = o->vocab > 16 ? 8 : 0;
        json_array_append_new(ids, json_integer((json_int_t)(low + (state >> 33) % (o->vocab - low))));
    }
    json_t *body = json_pack("{s:o, s:I, s:b, s:i, s:b, s:b, s:{s:b}}", "prompt", ids, "max_tokens",
                             (json_int_t)generated, "stream", 1, "temperature", 0, "ignore_eos", 1, "return_tokens", 1,
                             "stream_options", "include_usage", 1);
    if (o->model)
        json_object_set_new(body, "model", json_string(o->model));
    char *text = bg_json_text(body, JSON_COMPACT);
    json_decref(body);
    return text;
}

static CURL *handle_for(const char *url, struct curl_slist *headers, char *error)
{
    CURL *easy = curl_easy_init();
    BG_ASSERT(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
    return easy;
}

static struct curl_slist *headers_for(const char *key)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    headers = curl_slist_append(headers, "Expect:");
    if (key) {
        char *line = bg_format("Authorization: Bearer %s", key);
        headers = curl_slist_append(headers, line);
        bg_free(line);
    }
    return headers;
}

static void send_request(struct replay *p, size_t index, uint64_t due_ns)
{
    const struct plan_trace_request *request = &p->o->requests[index];
    const uint32_t room = p->o->context - 1;
    uint32_t prompt = request->prompt ? request->prompt : 1, generated = request->generated ? request->generated : 1;
    if (prompt > room || generated > p->o->context - prompt) { // the answer keeps its length as far as half of all
        generated = generated < p->o->context / 2 ? generated : p->o->context / 2;
        generated = generated ? generated : 1;
        prompt = prompt < p->o->context - generated ? prompt : p->o->context - generated;
        p->r->cut++;
    }
    struct flight *f = bg_alloc(sizeof *f);
    *f = (struct flight){.replay = p, .answer = &p->r->answers[index], .due_ns = due_ns, .next = p->flights};
    f->body = body_of(p->o, index, prompt, generated);
    f->easy = handle_for(p->url, p->headers, f->error);
    curl_easy_setopt(f->easy, CURLOPT_PRIVATE, f);
    curl_easy_setopt(f->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(f->easy, CURLOPT_POSTFIELDS, f->body);
    curl_easy_setopt(f->easy, CURLOPT_POSTFIELDSIZE, (long)strlen(f->body));
    curl_easy_setopt(f->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(f->easy, CURLOPT_WRITEDATA, f);
    curl_easy_setopt(f->easy, CURLOPT_TIMEOUT_MS, (long)p->o->timeout_ms);
    f->from = &p->flights;
    if (f->next)
        f->next->from = &f->next;
    p->flights = f;
    CURLMcode code = curl_multi_add_handle(p->multi, f->easy);
    BG_ASSERT(code == CURLM_OK);
    const double late = (double)(env_now_ns(p->env) - due_ns) * 1e-9;
    p->r->late_s = late > p->r->late_s ? late : p->r->late_s;
}

static void flight_end(struct flight *f)
{
    *f->from = f->next;
    if (f->next)
        f->next->from = f->from;
    curl_multi_remove_handle(f->replay->multi, f->easy);
    curl_easy_cleanup(f->easy);
    bg_str_fini(&f->line);
    bg_free(f->body);
    bg_free(f);
}

static void landed(struct flight *f, CURLcode code)
{
    struct replay_result *r = f->replay->r;
    struct replay_answer *a = f->answer;
    long status = 0;
    curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK && status == 200 && a->whole && f->tokens) {
        a->generated = a->generated ? a->generated : f->tokens;
        a->first_s = (double)(f->first_ns - f->due_ns) * 1e-9;
        a->token_s = f->tokens > 1 ? (double)(f->last_ns - f->first_ns) * 1e-9 / (f->tokens - 1) : 0;
        times_add(&r->first, a->first_s);
        r->answered++;
        r->prompt_tokens += a->prompt;
        r->generated_tokens += a->generated;
    } else {
        a->whole = false;
        r->refused += code == CURLE_OK && status == 429;
        if (code != CURLE_OK || status != 429) {
            if (!r->failed++)
                snprintf(r->failure, sizeof r->failure, "status %ld: %.150s", status,
                         code != CURLE_OK ? *f->error ? f->error : curl_easy_strerror(code)
                         : status == 200 ? "the stream ended early"
                                          : bg_str_text(&f->line));
        }
    }
    flight_end(f);
}

static void collect(struct replay *p)
{
    const CURLMsg *message;
    int left;
    while ((message = curl_multi_info_read(p->multi, &left))) {
        struct flight *f = NULL;
        const CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &f);
        landed(f, code);
    }
}

bg_status replay_run(struct bg_env *env, const struct replay_options *o, struct bg_error *err,
                     struct replay_result *result)
{
    struct replay p = {.env = env, .o = o, .r = result, .headers = headers_for(o->key), .multi = curl_multi_init()};
    BG_ASSERT(p.multi && o->context >= 2 && o->vocab >= 1 && o->count > 0);
    *result = (struct replay_result){.answers = bg_alloc_array(o->count, sizeof *result->answers)};
    p.url = bg_format("%s/v1/completions", o->url);
    const uint64_t begin = env_now_ns(env);
    size_t sent = 0;
    int running = 0;
    bg_status status = BG_OK;
    while (sent < o->count || p.flights) {
        const uint64_t now = env_now_ns(env);
        uint64_t due = 0;
        for (; sent < o->count; sent++) {
            due = begin + (uint64_t)((double)(o->requests[sent].at_ns - o->requests[0].at_ns) / o->speed);
            if (due > now)
                break;
            send_request(&p, sent, due);
        }
        curl_multi_perform(p.multi, &running);
        if (o->tick)
            o->tick(o->arg);
        collect(&p);
        if (env->ops->stop_signal(env)) {
            status = bg_fail(err, BG_STOPPED, "stopped by a signal");
            break;
        }
        const double wait_ms = sent < o->count ? ceil((double)(due - now) * 1e-6) : 100;
        if (sent < o->count || p.flights)
            curl_multi_poll(p.multi, NULL, 0, (int)(wait_ms < 100 ? wait_ms : 100), NULL);
    }
    result->seconds = (double)(env_now_ns(env) - begin) * 1e-9;
    while (p.flights)
        flight_end(p.flights);
    curl_multi_cleanup(p.multi);
    curl_slist_free_all(p.headers);
    bg_free(p.url);
    if (status)
        replay_result_fini(result);
    return status;
}

void replay_result_fini(struct replay_result *result)
{
    bg_free(result->answers);
    bg_free(result->first.at);
    bg_free(result->between.at);
    *result = (struct replay_result){0};
}

// ---- The server ----
static size_t on_text(char *bytes, size_t size, size_t count, void *arg)
{
    struct bg_str *text = arg;
    if (text->size + size * count > LINE_MAX_BYTES)
        return CURL_WRITEFUNC_ERROR;
    bg_str_add_bytes(text, bytes, size * count);
    return size * count;
}

bg_status replay_ask(const char *url, const char *key, struct bg_error *err, struct replay_server *server)
{
    struct curl_slist *headers = headers_for(key);
    struct bg_str text = {0};
    char *models = bg_format("%s/v1/models", url), error[CURL_ERROR_SIZE] = "";
    CURL *easy = handle_for(models, headers, error);
    long http = 0;
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_text);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &text);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 10000L);
    const CURLcode code = curl_easy_perform(easy);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &http);
    bg_status status = BG_OK;
    *server = (struct replay_server){0};
    if (code != CURLE_OK || http != 200) {
        status = bg_fail(err, BG_IO, "%s: %s%.300s", models, code != CURLE_OK ? error : "",
                         code == CURLE_OK ? bg_str_text(&text) : "");
    } else {
        json_t *answer = json_loadb(bg_str_text(&text), text.size, 0, NULL);
        const json_t *model = json_array_get(json_object_get(answer, "data"), 0);
        const json_t *meta = json_object_get(model, "meta"), *context = json_object_get(meta, "n_ctx");
        const char *id = json_string_value(json_object_get(model, "id"));
        context = context ? context : json_object_get(model, "max_model_len");
        server->model = id ? bg_strdup(id) : NULL;
        server->context = (uint32_t)json_integer_value(context);
        server->vocab = (uint32_t)json_integer_value(json_object_get(meta, "n_vocab"));
        json_decref(answer);
    }
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    bg_str_fini(&text);
    bg_free(models);
    return status;
}
