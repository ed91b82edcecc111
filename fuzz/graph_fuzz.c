// A profile as PipeDream writes it, which a user gets from elsewhere. Any bytes are read or refused; of what is
// accepted every edge has its ends, no state comes before one that it follows, and what is planned covers all states.
#include "base/assert.h"
#include "plan/split/pipedream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void plan_it(const struct plan_states *states)
{
    const struct plan_pipedream_options options = {
        .level_count = 2, .levels = {{2, 1e9}, {2, 1e8}}, .compression = 1, .fewer = true};
    struct bg_error err = {0};
    struct plan_pipedream plan;
    BG_ASSERT(plan_pipedream_solve(states, &options, &err, &plan) == BG_OK);
    uint32_t at = 0;
    for (uint32_t s = 0; s < plan.stage_count && plan.stages[s].level == 2; s++) {
        BG_ASSERT(plan.stages[s].first == at);
        at = plan.stages[s].end;
    }
    BG_ASSERT(at == states->count);
    plan_pipedream_fini(&plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bg_error err = {0};
    struct plan_graph graph;
    struct plan_states states;
    if (plan_graph_parse((const char *)data, size, &err, &graph)) {
        BG_ASSERT(err.text[0]);
        return 0;
    }
    for (uint32_t e = 0; e < graph.edge_count; e++)
        BG_ASSERT(graph.edges[e].from < graph.node_count && graph.edges[e].to < graph.node_count);
    plan_graph_trim(&graph);
    if (graph.node_count <= 64 && plan_states_create(&graph, &err, &states) == BG_OK) {
        for (uint32_t i = 0; i < states.count; i++)
            for (uint32_t k = i; k < states.count; k++)
                BG_ASSERT(!(states.before[(size_t)i * states.words + k / 64] >> k % 64 & 1));
        if (states.count <= 40)
            plan_it(&states);
        plan_states_destroy(&states);
    }
    plan_graph_fini(&graph);
    return 0;
}
