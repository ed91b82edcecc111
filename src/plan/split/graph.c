// Reads PipeDream's graph.txt. Lines become nodes and edges by name; names are resolved and cycles refused at the end.
// Memory is bounded by the size of the text and by the limits of graph.h.
#include "plan/split/graph.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SEPARATOR  " -- "
#define PARTS_MAX  4
#define NUMBER_MAX 63 // characters of a number

struct span {
    const char *at;
    size_t size;
};

// An edge whose ends are still names.
struct named_edge {
    struct span from, to;
    uint32_t line;
};

struct reader {
    struct bg_error *err;
    uint32_t line;
    struct plan_graph graph;
    uint32_t node_capacity, edge_capacity;
    uint32_t *lines; // of the nodes
    struct named_edge *named;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f';
}

static struct span trim(struct span span)
{
    while (span.size && is_blank(span.at[0]))
        span.at++, span.size--;
    while (span.size && is_blank(span.at[span.size - 1]))
        span.size--;
    return span;
}

static int shown(struct span span)
{
    return span.size < 60 ? (int)span.size : 60;
}

// Takes what stands before `mark` from *rest; false where there is no mark.
static bool take_until(struct span *rest, const char *mark, struct span *part)
{
    const size_t size = strlen(mark);
    for (size_t i = 0; i + size <= rest->size; i++) {
        if (memcmp(rest->at + i, mark, size) != 0)
            continue;
        *part = (struct span){rest->at, i};
        *rest = (struct span){rest->at + i + size, rest->size - i - size};
        return true;
    }
    return false;
}

// A number of plain decimals, not negative.
static bool read_number(struct span text, double *value)
{
    char copy[NUMBER_MAX + 1], *end;
    text = trim(text);
    if (!text.size || text.size > NUMBER_MAX)
        return false;
    for (size_t i = 0; i < text.size; i++)
        if (!memchr("0123456789.eE+-", text.at[i], 15))
            return false;
    memcpy(copy, text.at, text.size);
    copy[text.size] = '\0';
    *value = strtod(copy, &end);
    return !*end && *value >= 0 && *value <= PLAN_GRAPH_NUMBER_MAX;
}

// A number, or the sum of "[a; b; ...]".
static bool read_sum(struct span text, double *value)
{
    text = trim(text);
    if (text.size < 2 || text.at[0] != '[' || text.at[text.size - 1] != ']')
        return read_number(text, value);
    struct span rest = {text.at + 1, text.size - 2}, part;
    double sum = 0, next;
    while (take_until(&rest, ";", &part)) {
        if (!read_number(part, &next))
            return false;
        sum += next;
    }
    if (!read_number(rest, &next) || sum + next > PLAN_GRAPH_NUMBER_MAX)
        return false;
    *value = sum + next;
    return true;
}

static bg_status read_costs(struct reader *r, struct span rest, struct plan_graph_node *node)
{
    static const char *const keys[4] = {"forward_compute_time", "backward_compute_time", "activation_size",
                                        "parameter_size"};
    double *const values[4] = {&node->forward_ms, &node->backward_ms, &node->activation_bytes, &node->parameter_bytes};
    for (int k = 0; k < 4; k++) {
        struct span part = rest, key;
        const bool found = k == 3 || take_until(&rest, ",", &part);
        part = trim(part);
        if (!found || !take_until(&part, "=", &key) || key.size != strlen(keys[k]) ||
            memcmp(key.at, keys[k], key.size) != 0)
            return bg_fail(
                r->err, BG_FORMAT,
                "line %u: expected forward_compute_time=MS, backward_compute_time=MS, activation_size=BYTES, "
                "parameter_size=BYTES; %s is not where it belongs",
                r->line, keys[k]);
        if (!read_sum(part, values[k]))
            return bg_fail(r->err, BG_FORMAT, "line %u: %s is \"%.*s\", expected a number from 0 to 1e18%s", r->line,
                           keys[k], shown(part), part.at, k == 2 ? " or a list [a; b] of such" : "");
    }
    return BG_OK;
}

static bg_status read_stage(struct reader *r, struct span text, int32_t *stage)
{
    static const char key[] = "stage_id=";
    double value = 0;
    text = trim(text);
    if (text.size > sizeof key - 1 && memcmp(text.at, key, sizeof key - 1) == 0 &&
        read_number((struct span){text.at + sizeof key - 1, text.size - (sizeof key - 1)}, &value) &&
        value <= PLAN_GRAPH_NODES_MAX && value == (double)(int32_t)value) {
        *stage = (int32_t)value;
        return BG_OK;
    }
    return bg_fail(r->err, BG_FORMAT, "line %u: \"%.*s\" behind the costs, expected stage_id=N", r->line, shown(text),
                   text.at);
}

static bool is_name(struct span text)
{
    for (size_t i = 0; i < text.size; i++)
        if (is_blank(text.at[i]) || !text.at[i])
            return false;
    return text.size > 4 && memcmp(text.at, "node", 4) == 0;
}

static bg_status add_node(struct reader *r, const struct span *parts, int count)
{
    struct plan_graph *g = &r->graph;
    struct plan_graph_node node = {.stage = -1};
    if (g->node_count == PLAN_GRAPH_NODES_MAX)
        return bg_fail(r->err, BG_UNSUPPORTED, "line %u: more than %d nodes; merge layers of the profile", r->line,
                       PLAN_GRAPH_NODES_MAX);
    bg_status status = read_costs(r, parts[2], &node);
    if (!status && count == 4)
        status = read_stage(r, parts[3], &node.stage);
    if (status)
        return status;
    if (g->node_count == r->node_capacity) {
        r->node_capacity = r->node_capacity ? 2 * r->node_capacity : 64;
        g->nodes = bg_realloc_array(g->nodes, r->node_capacity, sizeof *g->nodes);
        r->lines = bg_realloc_array(r->lines, r->node_capacity, sizeof *r->lines);
    }
    node.id = bg_strndup(parts[0].at, parts[0].size);
    node.text = bg_strndup(parts[1].at, parts[1].size);
    r->lines[g->node_count] = r->line;
    g->nodes[g->node_count++] = node;
    return BG_OK;
}

static bg_status add_edge(struct reader *r, struct span from, struct span to)
{
    if (r->graph.edge_count == PLAN_GRAPH_EDGES_MAX)
        return bg_fail(r->err, BG_UNSUPPORTED, "line %u: more than %d edges", r->line, PLAN_GRAPH_EDGES_MAX);
    if (r->graph.edge_count == r->edge_capacity) {
        r->edge_capacity = r->edge_capacity ? 2 * r->edge_capacity : 64;
        r->named = bg_realloc_array(r->named, r->edge_capacity, sizeof *r->named);
    }
    r->named[r->graph.edge_count++] = (struct named_edge){from, to, r->line};
    return BG_OK;
}

static bg_status read_line(struct reader *r, struct span line)
{
    struct span parts[PARTS_MAX];
    int count = 0;
    line = trim(line);
    if (!line.size)
        return BG_OK;
    while (count < PARTS_MAX - 1 && take_until(&line, SEPARATOR, &parts[count]))
        count++;
    parts[count++] = line;
    for (int i = 0; i < count; i++)
        parts[i] = trim(parts[i]);
    if (count < 2 || !is_name(parts[0]) || (count == 2 && !is_name(parts[1])))
        return bg_fail(r->err, BG_FORMAT,
                       "line %u: expected \"node<ID> -- text -- costs\" or an edge \"node<ID> -- node<ID>\"", r->line);
    return count == 2 ? add_edge(r, parts[0], parts[1]) : add_node(r, parts, count);
}

// ---- Names ----
struct index {
    const char *id;
    uint32_t node;
};

static int by_id(const void *a, const void *b)
{
    const struct index *x = a, *y = b;
    const int order = strcmp(x->id, y->id);
    return order ? order : x->node < y->node ? -1 : x->node > y->node;
}

// The node of that name, or node_count.
static uint32_t find(const struct index *names, uint32_t count, struct span name)
{
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        const int order = strncmp(names[middle].id, name.at, name.size);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const bool same = low < count && !strncmp(names[low].id, name.at, name.size) && !names[low].id[name.size];
    return same ? names[low].node : count;
}

static bg_status resolve(struct reader *r)
{
    struct plan_graph *g = &r->graph;
    bg_status status = BG_OK;
    struct index *names = bg_alloc_array(g->node_count, sizeof *names);
    for (uint32_t i = 0; i < g->node_count; i++)
        names[i] = (struct index){g->nodes[i].id, i};
    qsort(names, g->node_count, sizeof *names, by_id);
    for (uint32_t i = 1; i < g->node_count && !status; i++)
        if (!strcmp(names[i].id, names[i - 1].id))
            status = bg_fail(r->err, BG_FORMAT, "line %u: %.60s stands in line %u already", r->lines[names[i].node],
                             names[i].id, r->lines[names[i - 1].node]);
    g->edges = bg_alloc_array(g->edge_count ? g->edge_count : 1, sizeof *g->edges);
    for (uint32_t i = 0; i < g->edge_count && !status; i++) {
        const struct named_edge *e = &r->named[i];
        g->edges[i] = (struct plan_graph_edge){find(names, g->node_count, e->from), find(names, g->node_count, e->to)};
        const bool from_is_there = g->edges[i].from < g->node_count;
        const struct span missing = from_is_there ? e->to : e->from;
        if (!from_is_there || g->edges[i].to == g->node_count)
            status = bg_fail(r->err, BG_FORMAT, "line %u: an edge with %.*s, which is no node of this file", e->line,
                             shown(missing), missing.at);
    }
    bg_free(names);
    return status;
}

static bg_status refuse_cycles(struct reader *r)
{
    const struct plan_graph *g = &r->graph;
    bg_status status = BG_OK;
    uint32_t *order = bg_alloc_array(g->node_count, sizeof *order), count = plan_graph_order(g, order);
    bool *ordered = bg_alloc_array(g->node_count, sizeof *ordered);
    for (uint32_t i = 0; i < count; i++)
        ordered[order[i]] = true;
    for (uint32_t i = 0; i < g->edge_count && !status; i++)
        if (!ordered[g->edges[i].from])
            status = bg_fail(r->err, BG_FORMAT, "line %u: this edge lies on or behind a cycle, expected none",
                             r->named[i].line);
    bg_free(order);
    bg_free(ordered);
    return status;
}

bg_status plan_graph_parse(const char *text, size_t size, struct bg_error *err, struct plan_graph *graph)
{
    struct reader r = {.err = err};
    struct span rest = {text, size}, line;
    bg_status status = BG_OK;
    while (rest.size && !status) {
        r.line++;
        if (!take_until(&rest, "\n", &line)) {
            line = rest;
            rest.size = 0;
        }
        status = read_line(&r, line);
    }
    if (!status && !r.graph.node_count)
        status = bg_fail(err, BG_FORMAT, "no node in this graph, expected lines \"node<ID> -- text -- costs\"");
    if (!status)
        status = resolve(&r);
    if (!status)
        status = refuse_cycles(&r);
    bg_free(r.named);
    bg_free(r.lines);
    if (status)
        plan_graph_fini(&r.graph);
    else
        *graph = r.graph;
    return status;
}

void plan_graph_fini(struct plan_graph *graph)
{
    for (uint32_t i = 0; i < graph->node_count; i++) {
        bg_free(graph->nodes[i].id);
        bg_free(graph->nodes[i].text);
    }
    bg_free(graph->nodes);
    bg_free(graph->edges);
    *graph = (struct plan_graph){0};
}

void plan_graph_readers(const struct plan_graph *graph, uint32_t **first, uint32_t **readers)
{
    uint32_t *begin = bg_alloc_array(graph->node_count + 2, sizeof *begin);
    uint32_t *out = bg_alloc_array(graph->edge_count + 1, sizeof *out);
    for (uint32_t i = 0; i < graph->edge_count; i++)
        begin[graph->edges[i].from + 2]++;
    for (uint32_t i = 2; i < graph->node_count + 2; i++)
        begin[i] += begin[i - 1];
    for (uint32_t i = 0; i < graph->edge_count; i++) // moves begin[v + 1] from where v begins to where it ends
        out[begin[graph->edges[i].from + 1]++] = graph->edges[i].to;
    *first = begin;
    *readers = out;
}

uint32_t plan_graph_order(const struct plan_graph *graph, uint32_t *order)
{
    uint32_t *waits = bg_alloc_array(graph->node_count + 1, sizeof *waits), *first, *readers, tail = 0;
    plan_graph_readers(graph, &first, &readers);
    for (uint32_t i = 0; i < graph->edge_count; i++)
        waits[graph->edges[i].to]++;
    for (uint32_t v = 0; v < graph->node_count; v++)
        if (!waits[v])
            order[tail++] = v;
    for (uint32_t head = 0; head < tail; head++)
        for (uint32_t i = first[order[head]]; i < first[order[head] + 1]; i++)
            if (!--waits[readers[i]])
                order[tail++] = readers[i];
    bg_free(waits);
    bg_free(first);
    bg_free(readers);
    return tail;
}

// ---- What the optimizer does not look at ----
// Drops the nodes without an edge on one side (sources, or else sinks) whose text begins so.
static void drop(struct plan_graph *g, bool sources, const char *begin)
{
    uint32_t *to = bg_alloc_array(g->node_count + 1, sizeof *to), nodes = 0, edges = 0;
    for (uint32_t i = 0; i < g->edge_count; i++)
        to[sources ? g->edges[i].to : g->edges[i].from] = 1;
    for (uint32_t i = 0; i < g->node_count; i++) {
        if (!to[i] && strncmp(g->nodes[i].text, begin, strlen(begin)) == 0) {
            bg_free(g->nodes[i].id);
            bg_free(g->nodes[i].text);
            to[i] = UINT32_MAX;
            continue;
        }
        to[i] = nodes;
        g->nodes[nodes++] = g->nodes[i];
    }
    for (uint32_t i = 0; i < g->edge_count; i++) {
        const struct plan_graph_edge e = {to[g->edges[i].from], to[g->edges[i].to]};
        if (e.from != UINT32_MAX && e.to != UINT32_MAX)
            g->edges[edges++] = e;
    }
    g->node_count = nodes;
    g->edge_count = edges;
    bg_free(to);
}

void plan_graph_trim(struct plan_graph *graph)
{
    drop(graph, true, "Input");
    drop(graph, false, "__getitem__");
}
