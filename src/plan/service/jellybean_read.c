// The reader: one function a kind of entry, each of which names the file, the key and what was expected.
#include "plan/service/jellybean_read.h"

#include "base/json.h"
#include "base/mem.h"

#include <string.h>

struct reader {
    const char *path;
    struct bg_error *err;
    struct plan_jellybean *w;
    struct plan_jellybean_names *names;
};

static uint32_t find(const char *const *names, uint32_t count, const char *name)
{
    uint32_t i = 0;
    while (i < count && strcmp(names[i], name) != 0)
        i++;
    return i;
}

// A number that may be left out.
static bg_status optional(const struct reader *r, const json_t *object, const char *key, double *value)
{
    return bg_json_has(object, key) ? bg_json_number(object, r->path, key, r->err, value) : BG_OK;
}

static bg_status bounded(const struct reader *r, const json_t *object, const char *key, uint32_t most, json_t **array)
{
    const bg_status status = bg_json_array(object, r->path, key, r->err, array);
    if (!status && (!json_array_size(*array) || json_array_size(*array) > most))
        return bg_fail(r->err, BG_FORMAT, "%s: \"%s\" has %zu entries: expected 1 to %u", r->path, key,
                       json_array_size(*array), most);
    return status;
}

static bg_status known_tier(const struct reader *r, const json_t *object, const char *key, bool add, uint32_t *tier)
{
    const char *name = NULL;
    const bg_status status = bg_json_string(object, r->path, key, r->err, &name);
    if (status)
        return status;
    *tier = find(r->names->tiers, r->names->tier_count, name);
    if (*tier < r->names->tier_count)
        return BG_OK;
    if (!add)
        return bg_fail(r->err, BG_FORMAT, "%s: \"%s\": no machines are on tier '%s'", r->path, key, name);
    if (*tier == PLAN_JELLYBEAN_TIERS_MAX)
        return bg_fail(r->err, BG_FORMAT, "%s: more than %d tiers", r->path, PLAN_JELLYBEAN_TIERS_MAX);
    r->names->tiers[r->names->tier_count++] = name;
    return BG_OK;
}

static bg_status read_kind(const struct reader *r, const json_t *object)
{
    struct plan_jellybean_kind *kind = &r->w->kinds[r->w->kind_count];
    const char **name = &r->names->kinds[r->w->kind_count];
    int64_t count = 0;
    bg_status status = bg_json_string(object, r->path, "name", r->err, name);
    if (!status && find(r->names->kinds, r->w->kind_count, *name) < r->w->kind_count)
        status = bg_fail(r->err, BG_FORMAT, "%s: two machines are called '%s'", r->path, *name);
    if (!status)
        status = known_tier(r, object, "tier", true, &kind->tier);
    if (!status)
        status = bg_json_number(object, r->path, "dollars_hour", r->err, &kind->dollars_hour);
    if (!status && bg_json_has(object, "count"))
        status = bg_json_integer(object, r->path, "count", 1, 1000000, r->err, &count);
    kind->count = (uint32_t)count;
    r->w->kind_count++;
    return status;
}

static bg_status read_link(const struct reader *r, const json_t *object)
{
    uint32_t from = 0, to = 0;
    struct plan_jellybean_link link = {.there = true};
    bg_status status = known_tier(r, object, "from", false, &from);
    if (!status)
        status = known_tier(r, object, "to", false, &to);
    if (!status)
        status = optional(r, object, "dollars_gb", &link.dollars_gb);
    if (!status)
        status = optional(r, object, "gb_s", &link.gb_s);
    if (!status)
        r->w->links[from][to] = link;
    return status;
}

static bg_status read_model(const struct reader *r, const json_t *object, uint32_t o)
{
    struct plan_jellybean_operator *op = &r->w->operators[o];
    struct plan_jellybean_model *model = &op->models[op->model_count];
    json_t *rates = NULL, *value;
    const char *kind;
    bg_status status = bg_json_string(object, r->path, "name", r->err, &r->names->models[o][op->model_count]);
    if (!status)
        status = bg_json_number(object, r->path, "accuracy", r->err, &model->accuracy);
    if (!status)
        status = bg_json_object(object, r->path, "rates", r->err, &rates);
    json_object_foreach(rates, kind, value)
    {
        const uint32_t k = find(r->names->kinds, r->w->kind_count, kind);
        if (!status && k == r->w->kind_count)
            status = bg_fail(r->err, BG_FORMAT, "%s: model '%s': no machines are called '%s'", r->path,
                             r->names->models[o][op->model_count], kind);
        if (!status)
            status = bg_json_number(rates, r->path, kind, r->err, &model->rate[k]);
    }
    op->model_count++;
    return status;
}

static bg_status read_operator(const struct reader *r, const json_t *object)
{
    const uint32_t o = r->w->operator_count++;
    struct plan_jellybean_operator *op = &r->w->operators[o];
    json_t *inputs = NULL, *models = NULL, *value;
    size_t i;
    op->per_input = 1;
    bg_status status = bg_json_string(object, r->path, "name", r->err, &r->names->operators[o]);
    if (!status)
        status = optional(r, object, "per_input", &op->per_input);
    if (!status)
        status = optional(r, object, "bytes", &op->bytes);
    if (!status)
        status = bounded(r, object, "inputs", PLAN_JELLYBEAN_OPERATORS_MAX, &inputs);
    json_array_foreach(inputs, i, value)
    {
        const char *name = json_string_value(value);
        const uint32_t at = name ? find(r->names->operators, o, name) : o;
        if (!status && at == o && (!name || strcmp(name, "source") != 0))
            status = bg_fail(r->err, BG_FORMAT,
                             "%s: operator '%s': inputs[%zu]: expected \"source\" or an operator before it", r->path,
                             r->names->operators[o], i);
        op->inputs[op->input_count++] = at == o ? PLAN_JELLYBEAN_SOURCE : at;
        if (status)
            return status;
    }
    if (!status)
        status = bounded(r, object, "models", PLAN_JELLYBEAN_MODELS_MAX, &models);
    for (i = 0; !status && i < json_array_size(models); i++)
        status = read_model(r, json_array_get(models, i), o);
    return status;
}

static bg_status read_list(const struct reader *r, const json_t *root, const char *key, uint32_t most,
                           bg_status (*read)(const struct reader *, const json_t *))
{
    json_t *array = NULL;
    bg_status status = bounded(r, root, key, most, &array);
    for (size_t i = 0; !status && i < json_array_size(array); i++)
        status = read(r, json_array_get(array, i));
    return status;
}

static bg_status read_workflow(const struct reader *r, const json_t *root)
{
    bg_status status = bg_json_number(root, r->path, "rate", r->err, &r->w->rate);
    if (!status)
        status = optional(r, root, "accuracy", &r->w->accuracy);
    if (!status)
        status = optional(r, root, "source_bytes", &r->w->source_bytes);
    if (!status)
        status = read_list(r, root, "machines", PLAN_JELLYBEAN_KINDS_MAX, read_kind);
    if (!status)
        status = known_tier(r, root, "source_tier", true, &r->w->source_tier);
    if (!status && bg_json_has(root, "links"))
        status = read_list(r, root, "links", PLAN_JELLYBEAN_TIERS_MAX * PLAN_JELLYBEAN_TIERS_MAX, read_link);
    if (!status)
        status = read_list(r, root, "operators", PLAN_JELLYBEAN_OPERATORS_MAX, read_operator);
    if (status)
        return status == BG_NOT_FOUND ? (r->err->status = BG_FORMAT) : status; // the file is there, a key is not
    return plan_jellybean_check(r->w, r->err) ? bg_fail_prefix(r->err, "%s", r->path) : BG_OK;
}

bg_status plan_jellybean_read(const char *name, const void *text, size_t size, struct bg_error *err,
                              struct plan_jellybean_file **file)
{
    json_t *root = NULL;
    bg_status status = bg_json_parse(name, text, size, err, &root);
    if (status)
        return status;
    struct plan_jellybean_file *f = bg_alloc(sizeof *f);
    f->text = root;
    const struct reader r = {name, err, &f->workflow, &f->names};
    status = read_workflow(&r, root);
    if (status)
        plan_jellybean_file_destroy(f);
    else
        *file = f;
    return status;
}

void plan_jellybean_file_destroy(struct plan_jellybean_file *file)
{
    if (!file)
        return;
    json_decref(file->text);
    bg_free(file);
}
