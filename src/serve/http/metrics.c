// Prometheus' text form (exposition format 0.0.4). Names are stable: brigade_*; with vllm_metrics the names that
// dashboards of vLLM read stand beside them.
#include "serve/http/http_int.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>

static void head(struct bg_str *s, const char *name, const char *type, const char *help)
{
    bg_str_addf(s, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct bg_str *s, const char *name, const char *type, const char *help, double v)
{
    head(s, name, type, help);
    bg_str_addf(s, "%s %.17g\n", name, v);
}

static void histogram(struct bg_str *s, const char *name, const char *help, const uint64_t *buckets, double sum)
{
    uint64_t count = 0;
    head(s, name, "histogram", help);
    for (size_t i = 0; i < 24; i++) {
        count += buckets[i];
        if (isinf(engine_bucket_s[i]))
            bg_str_addf(s, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)count);
        else
            bg_str_addf(s, "%s_bucket{le=\"%g\"} %llu\n", name, engine_bucket_s[i], (unsigned long long)count);
    }
    bg_str_addf(s, "%s_sum %.17g\n%s_count %llu\n", name, sum, name, (unsigned long long)count);
}

static void vllm(struct bg_str *s, const struct engine_stats *e)
{
    value(s, "vllm:num_requests_running", "gauge", "As brigade_requests_running.", e->running);
    value(s, "vllm:num_requests_waiting", "gauge", "As brigade_requests_waiting.", e->waiting);
    value(s, "vllm:kv_cache_usage_perc", "gauge", "As brigade_kv_cache_usage_ratio.",
          e->pages ? (double)e->pages_used / e->pages : 0);
    value(s, "vllm:prompt_tokens_total", "counter", "As brigade_prompt_tokens_total.", (double)e->prompt_tokens);
    value(s, "vllm:generation_tokens_total", "counter", "As brigade_generated_tokens_total.", (double)e->drawn_tokens);
    value(s, "vllm:prefix_cache_queries_total", "counter", "As brigade_prompt_tokens_total.", (double)e->prompt_tokens);
    value(s, "vllm:prefix_cache_hits_total", "counter", "As brigade_cached_tokens_total.", (double)e->cached_tokens);
    histogram(s, "vllm:time_to_first_token_seconds", "As brigade_time_to_first_token_seconds.", e->ttft, e->ttft_s);
    histogram(s, "vllm:inter_token_latency_seconds", "As brigade_inter_token_latency_seconds.", e->gap, e->gap_s);
    histogram(s, "vllm:e2e_request_latency_seconds", "As brigade_request_seconds.", e->total, e->total_s);
    histogram(s, "vllm:request_queue_time_seconds", "As brigade_queue_seconds.", e->queued, e->queued_s);
}

// The lines beside the HTTP thread. Who finds them long asks why answers begin late while slots are free.
static void bodies(struct bg_str *s, struct http *http)
{
    static const char *const names[WORKERS] = {"small", "large", "waits"}; // of enum worker_kind
    head(s, "brigade_bodies_waiting", "gauge",
         "Requests that wait for the thread that reads their body or writes their answer.");
    for (size_t i = 0; i < WORKERS; i++)
        bg_str_addf(s, "brigade_bodies_waiting{thread=\"%s\"} %u\n", names[i], worker_waiting(&http->workers[i]));
    value(s, "brigade_bodies_held_bytes", "gauge", "Bytes of bodies that wait to be read, or are being read.",
          (double)http->held);
    value(s, "brigade_bodies_held_limit_bytes", "gauge", "Large bodies that find so many bytes are told 429.",
          (double)WORKER_HELD_MAX * (double)http->o.body_max);
}

char *metrics_text(struct http *http)
{
    struct engine_stats e = {0};
    struct bg_str s = {0};
    if (http->engine)
        engine_get_stats(http->engine, &e, NULL, 0);
    value(&s, "brigade_requests_running", "gauge", "Requests in slots.", e.running);
    value(&s, "brigade_requests_waiting", "gauge", "Requests in the queue.", e.waiting);
    value(&s, "brigade_waiting_tokens", "gauge", "Prompt tokens in the queue.", (double)e.waiting_tokens);
    head(&s, "brigade_requests_total", "counter", "Requests that ended, by the reason.");
    for (int f = SERVE_STOP; f <= SERVE_FAILED; f++)
        bg_str_addf(&s, "brigade_requests_total{finish=\"%s\"} %llu\n", serve_finish_name((enum serve_finish)f),
                    (unsigned long long)e.finished[f]);
    head(&s, "brigade_http_responses_total", "counter", "Answers by status.");
    for (uint32_t i = 100; i < 600; i++)
        if (http->answers[i])
            bg_str_addf(&s, "brigade_http_responses_total{status=\"%u\"} %llu\n", i,
                        (unsigned long long)http->answers[i]);
    bodies(&s, http);
    value(&s, "brigade_prompt_tokens_total", "counter", "Prompt tokens of requests that ran.", (double)e.prompt_tokens);
    value(&s, "brigade_cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
          (double)e.cached_tokens);
    value(&s, "brigade_generated_tokens_total", "counter", "Tokens drawn.", (double)e.drawn_tokens);
    value(&s, "brigade_speculated_tokens_total", "counter", "Tokens proposed by speculation.", (double)e.speculated);
    value(&s, "brigade_accepted_tokens_total", "counter", "Proposed tokens that were drawn.", (double)e.accepted);
    value(&s, "brigade_steps_total", "counter", "Batches computed.", (double)e.steps);
    value(&s, "brigade_rows_total", "counter", "Rows of those batches.", (double)e.rows);
    value(&s, "brigade_kv_cache_pages", "gauge", "Pages of the pool.", e.pages);
    value(&s, "brigade_kv_cache_usage_ratio", "gauge", "Share of the pages that requests hold.",
          e.pages ? (double)e.pages_used / e.pages : 0);
    value(&s, "brigade_kv_cache_cached_ratio", "gauge", "Share of the pages that are kept for later.",
          e.pages ? (double)e.pages_cached / e.pages : 0);
    value(&s, "brigade_host_cache_bytes", "gauge", "Pages kept in memory beside the pool.", (double)e.outside_bytes);
    value(&s, "brigade_host_cache_hits_total", "counter", "Pages that came back from memory.", (double)e.outside_hits);
    value(&s, "brigade_disk_cache_bytes", "gauge", "Pages kept on disk.", (double)e.disk_bytes);
    value(&s, "brigade_disk_cache_hits_total", "counter", "Pages that came back from disk.", (double)e.disk_hits);
    value(&s, "brigade_disk_cache_errors_total", "counter", "Pages not written, or found damaged.",
          (double)e.disk_errors);
    histogram(&s, "brigade_time_to_first_token_seconds", "From submission to the first token.", e.ttft, e.ttft_s);
    histogram(&s, "brigade_inter_token_latency_seconds", "Between tokens of a request.", e.gap, e.gap_s);
    histogram(&s, "brigade_request_seconds", "From submission to the end.", e.total, e.total_s);
    histogram(&s, "brigade_queue_seconds", "From submission to a slot.", e.queued, e.queued_s);
    if (http->o.vllm_metrics)
        vllm(&s, &e);
    return bg_str_take(&s);
}
