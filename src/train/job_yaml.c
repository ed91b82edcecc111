// Job files through libyaml's events: sections of keys, whose values are scalars, or lists of scalars or of mappings of
// scalars. What a job has no
// use for is refused where it stands: anchors, aliases, tags, merge keys, several documents, deeper nesting. So the
// depth is bounded by the grammar below, and size by JOB_TEXT_MAX and JOB_ITEMS_MAX.
#include "train/job_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

struct reader {
    const char *file;
    bool lines; // errors carry a line: a file, not one value of the command line
    yaml_parser_t parser;
    yaml_event_t event; // the current one
    char where[512];
};

static bg_status read_sections(struct reader *reader, job_yaml_fn fn, void *arg, struct bg_error *err);
static bg_status read_value(struct reader *reader, struct bg_error *err, struct job_value *value);

static void set_where(struct reader *reader, size_t line)
{
    if (reader->lines)
        snprintf(reader->where, sizeof reader->where, "%.480s:%zu", reader->file, line + 1);
    else
        snprintf(reader->where, sizeof reader->where, "%.500s", reader->file);
}

static const void *event_anchor(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor;
    default:
        return NULL;
    }
}

static const void *event_tag(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.tag;
    default:
        return NULL;
    }
}

// Moves on to the next event, and sets `where` to its line.
static bg_status next(struct reader *reader, struct bg_error *err)
{
    yaml_event_delete(&reader->event);
    if (!yaml_parser_parse(&reader->parser, &reader->event)) {
        const yaml_parser_t *p = &reader->parser;
        memset(&reader->event, 0, sizeof reader->event);
        bool placed = p->error != YAML_READER_ERROR && p->error != YAML_MEMORY_ERROR;
        set_where(reader, placed ? p->problem_mark.line : p->mark.line);
        return bg_fail(err, BG_FORMAT, "%s: not valid YAML: %s%s%s", reader->where,
                       p->problem ? p->problem : "cannot be read", p->context ? " " : "", p->context ? p->context : "");
    }
    set_where(reader, reader->event.start_mark.line);
    if (reader->event.type == YAML_ALIAS_EVENT || event_anchor(&reader->event))
        return bg_fail(err, BG_FORMAT, "%s: anchors and aliases (& and *) are not taken here: write the value out",
                       reader->where);
    if (event_tag(&reader->event))
        return bg_fail(err, BG_FORMAT, "%s: tags (!) are not taken here: write the plain value", reader->where);
    return BG_OK;
}

static bg_status reader_start(struct reader *reader, const char *text, size_t size, struct bg_error *err)
{
    if (!yaml_parser_initialize(&reader->parser))
        return bg_fail(err, BG_NO_MEMORY, "%s: no memory to read YAML", reader->file);
    memset(&reader->event, 0, sizeof reader->event);
    yaml_parser_set_input_string(&reader->parser, (const unsigned char *)text, size);
    bg_status status = next(reader, err); // stream start
    if (status == BG_OK)
        status = next(reader, err); // document start, or the end of an empty stream
    return status;
}

// After the document's content: nothing else may follow.
static bg_status expect_end(struct reader *reader, struct bg_error *err)
{
    bg_status status = next(reader, err); // document end
    if (status == BG_OK)
        status = next(reader, err);
    if (status == BG_OK && reader->event.type != YAML_STREAM_END_EVENT)
        status = bg_fail(err, BG_FORMAT, "%s: a second document (---) is not taken here", reader->where);
    return status;
}

bg_status job_yaml_read(const char *file, const char *text, size_t size, job_yaml_fn fn, void *arg,
                        struct bg_error *err)
{
    if (size > JOB_TEXT_MAX)
        return bg_fail(err, BG_FORMAT,
                       "%s: %zu bytes are too many for a job file (at most %d); a text to train on "
                       "must not be named .yaml",
                       file, size, JOB_TEXT_MAX);
    struct reader reader = {.file = file, .lines = true};
    bg_status status = reader_start(&reader, text, size, err);
    if (status == BG_OK && reader.event.type == YAML_DOCUMENT_START_EVENT) {
        status = next(&reader, err);
        bool empty = reader.event.type == YAML_SCALAR_EVENT && reader.event.data.scalar.length == 0;
        if (status == BG_OK && !empty)
            status = read_sections(&reader, fn, arg, err);
        if (status == BG_OK)
            status = expect_end(&reader, err);
    }
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    return status;
}

bg_status job_yaml_value(const char *where, const char *text, struct bg_error *err, struct job_value *value)
{
    struct job_value got = {.kind = JOB_NOTHING};
    struct reader reader = {.file = where};
    bg_status status = reader_start(&reader, text, strlen(text), err);
    if (status == BG_OK && reader.event.type == YAML_DOCUMENT_START_EVENT) {
        status = next(&reader, err);
        if (status == BG_OK)
            status = read_value(&reader, err, &got);
        if (status == BG_OK && got.kind != JOB_MAPPING && !got.nested)
            status = expect_end(&reader, err);
    }
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    if (status == BG_OK)
        *value = got;
    else
        job_value_fini(&got);
    return status;
}

void job_value_fini(struct job_value *value)
{
    bg_strlist_fini(&value->items);
    bg_strlist_fini(&value->keys);
    *value = (struct job_value){0};
}

static const char *scalar_text(const struct reader *reader)
{
    return (const char *)reader->event.data.scalar.value;
}

static bg_status add_scalar(struct reader *reader, struct bg_error *err, struct job_value *value)
{
    if (strlen(scalar_text(reader)) != reader->event.data.scalar.length)
        return bg_fail(err, BG_FORMAT, "%s: a text with a zero byte in it", reader->where);
    if (value->items.count == JOB_ITEMS_MAX)
        return bg_fail(err, BG_FORMAT, "%s: a list of more than %d items", reader->where, JOB_ITEMS_MAX);
    bg_strlist_add(&value->items, scalar_text(reader));
    value->plain = value->plain && reader->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    return BG_OK;
}

static bool is_null(const char *text)
{
    return !*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 || strcmp(text, "Null") == 0 ||
           strcmp(text, "NULL") == 0;
}

// A mapping of scalars in a list, from its first event to behind its last.
static bg_status read_row(struct reader *reader, struct bg_error *err, struct job_value *value)
{
    bg_strlist_add(&value->keys, "");
    bg_strlist_add(&value->items, "");
    bg_status status = next(reader, err);
    while (status == BG_OK && reader->event.type == YAML_SCALAR_EVENT) {
        if (strlen(scalar_text(reader)) != reader->event.data.scalar.length || !*scalar_text(reader))
            return bg_fail(err, BG_FORMAT, "%s: expected the name of a key", reader->where);
        bg_strlist_add(&value->keys, scalar_text(reader));
        status = next(reader, err);
        if (status == BG_OK && reader->event.type != YAML_SCALAR_EVENT)
            break;
        if (status == BG_OK)
            status = add_scalar(reader, err, value);
        if (status == BG_OK)
            status = next(reader, err);
    }
    value->nested = status == BG_OK && reader->event.type != YAML_MAPPING_END_EVENT;
    return status == BG_OK && !value->nested ? next(reader, err) : status;
}

// The value that starts at the current event; leaves its last event current. Of a mapping, of a list inside a list and
// of what is mixed only the kind is told: no key takes one.
static bg_status read_value(struct reader *reader, struct bg_error *err, struct job_value *value)
{
    *value = (struct job_value){.kind = JOB_SCALAR, .plain = true};
    if (reader->event.type == YAML_SCALAR_EVENT) {
        bg_status status = add_scalar(reader, err, value);
        if (status == BG_OK && value->plain && is_null(value->items.items[0]))
            value->kind = JOB_NOTHING;
        return status;
    }
    value->kind = JOB_MAPPING;
    if (reader->event.type != YAML_SEQUENCE_START_EVENT)
        return BG_OK;
    value->kind = JOB_SEQUENCE;
    bg_status status = next(reader, err);
    while (status == BG_OK && reader->event.type == YAML_SCALAR_EVENT) {
        status = add_scalar(reader, err, value);
        if (status == BG_OK)
            status = next(reader, err);
    }
    while (status == BG_OK && reader->event.type == YAML_MAPPING_START_EVENT && !value->nested &&
           (!value->items.count || value->keys.count))
        status = read_row(reader, err, value);
    value->nested = value->nested || (status == BG_OK && reader->event.type != YAML_SEQUENCE_END_EVENT);
    return status;
}

// The current event as a key.
static bg_status read_key(struct reader *reader, struct bg_error *err, char **key)
{
    if (reader->event.type != YAML_SCALAR_EVENT || strlen(scalar_text(reader)) != reader->event.data.scalar.length)
        return bg_fail(err, BG_FORMAT, "%s: expected the name of a key", reader->where);
    if (strcmp(scalar_text(reader), "<<") == 0)
        return bg_fail(err, BG_FORMAT, "%s: merge keys (<<) are not taken here: write the keys out", reader->where);
    *key = bg_strdup(scalar_text(reader));
    return BG_OK;
}

// One key and its value, handed to fn; the next key's event becomes current.
static bg_status read_entry(struct reader *reader, const char *section, job_yaml_fn fn, void *arg, struct bg_error *err)
{
    char *key = NULL, where[sizeof reader->where];
    bg_status status = read_key(reader, err, &key);
    memcpy(where, reader->where, sizeof where);
    struct job_value value = {0};
    if (status == BG_OK)
        status = next(reader, err);
    if (status == BG_OK)
        status = read_value(reader, err, &value);
    if (status == BG_OK)
        status = fn(arg, where, section, key, &value, err);
    // A value whose kind alone was told: fn has no use for it, and its events were not read.
    BG_ASSERT(status != BG_OK || (value.kind != JOB_MAPPING && !value.nested));
    job_value_fini(&value);
    bg_free(key);
    return status == BG_OK ? next(reader, err) : status;
}

static bg_status read_section(struct reader *reader, job_yaml_fn fn, void *arg, struct bg_error *err)
{
    char *section = NULL, where[sizeof reader->where];
    bg_status status = read_key(reader, err, &section);
    memcpy(where, reader->where, sizeof where);
    struct job_value value = {0};
    if (status == BG_OK)
        status = next(reader, err);
    if (status == BG_OK)
        status = read_value(reader, err, &value);
    if (status == BG_OK)
        status = fn(arg, where, section, NULL, &value, err);
    BG_ASSERT(status != BG_OK || value.kind == JOB_MAPPING || value.kind == JOB_NOTHING);
    if (status == BG_OK && value.kind == JOB_MAPPING) {
        status = next(reader, err);
        while (status == BG_OK && reader->event.type != YAML_MAPPING_END_EVENT)
            status = read_entry(reader, section, fn, arg, err);
    }
    job_value_fini(&value);
    bg_free(section);
    return status == BG_OK ? next(reader, err) : status;
}

static bg_status read_sections(struct reader *reader, job_yaml_fn fn, void *arg, struct bg_error *err)
{
    if (reader->event.type != YAML_MAPPING_START_EVENT)
        return bg_fail(err, BG_FORMAT, "%s: expected the sections model, data, train and run, each with its keys",
                       reader->where);
    bg_status status = next(reader, err);
    while (status == BG_OK && reader->event.type != YAML_MAPPING_END_EVENT)
        status = read_section(reader, fn, arg, err);
    return status;
}

struct job_writer {
    yaml_emitter_t emitter;
    struct bg_str text;
    bool open; // inside a section
};

static int take_output(void *arg, unsigned char *bytes, size_t size)
{
    bg_str_add_bytes(arg, bytes, size);
    return 1;
}

// Emitting fails only on text that is not UTF-8, which job_load refuses, or without memory.
static void emit(struct job_writer *writer, int made, yaml_event_t *event)
{
    BG_ASSERT(made && yaml_emitter_emit(&writer->emitter, event));
}

static void emit_scalar(struct job_writer *writer, const char *text, bool quoted)
{
    yaml_event_t event;
    yaml_scalar_style_t style = quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE;
    int made =
        yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text), 1, 1, style);
    emit(writer, made, &event);
}

static void emit_mapping(struct job_writer *writer)
{
    yaml_event_t event;
    emit(writer, yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE), &event);
}

static void emit_mapping_end(struct job_writer *writer)
{
    yaml_event_t event;
    emit(writer, yaml_mapping_end_event_initialize(&event), &event);
}

struct job_writer *job_writer_create(void)
{
    struct job_writer *writer = bg_alloc(sizeof *writer);
    BG_ASSERT(yaml_emitter_initialize(&writer->emitter));
    yaml_emitter_set_output(&writer->emitter, take_output, &writer->text);
    yaml_emitter_set_unicode(&writer->emitter, 1);
    yaml_emitter_set_width(&writer->emitter, -1);
    yaml_event_t event;
    emit(writer, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING), &event);
    emit(writer, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1), &event);
    emit_mapping(writer);
    return writer;
}

void job_writer_section(struct job_writer *writer, const char *name)
{
    if (writer->open)
        emit_mapping_end(writer);
    writer->open = true;
    emit_scalar(writer, name, false);
    emit_mapping(writer);
}

void job_writer_key(struct job_writer *writer, const char *key, const struct job_value *value)
{
    BG_ASSERT(writer->open && (value->kind == JOB_SCALAR || value->kind == JOB_SEQUENCE));
    emit_scalar(writer, key, false);
    yaml_event_t event;
    if (value->kind == JOB_SEQUENCE)
        emit(writer, yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_FLOW_SEQUENCE_STYLE), &event);
    for (size_t i = 0; i < value->items.count; i++)
        emit_scalar(writer, value->items.items[i], !value->plain);
    if (value->kind == JOB_SEQUENCE)
        emit(writer, yaml_sequence_end_event_initialize(&event), &event);
}

char *job_writer_finish(struct job_writer *writer)
{
    yaml_event_t event;
    if (writer->open)
        emit_mapping_end(writer);
    emit_mapping_end(writer);
    emit(writer, yaml_document_end_event_initialize(&event, 1), &event);
    emit(writer, yaml_stream_end_event_initialize(&event), &event);
    yaml_emitter_delete(&writer->emitter);
    char *text = bg_str_take(&writer->text);
    bg_free(writer);
    return text;
}
