// Inside the job: values as YAML gives them, and the one table of keys that parsing, defaults, help and output share.
#ifndef TRAIN_JOB_INT_H
#define TRAIN_JOB_INT_H

#include "base/str.h"
#include "train/job.h"

// What stands behind a key. Plain scalars are unquoted; a number is always plain.
enum job_value_kind { JOB_NOTHING, JOB_SCALAR, JOB_SEQUENCE, JOB_MAPPING };
struct job_value {
    enum job_value_kind kind;
    struct bg_strlist items; // one for a scalar
    bool plain;              // scalar: unquoted; sequence: all its items are
    bool nested;             // a sequence that holds something else than scalars, or than mappings of scalars
    struct bg_strlist keys;  // of a sequence of mappings, beside items: of each mapping "" first, then its keys
};
void job_value_fini(struct job_value *value);

// job_yaml.c

enum { JOB_TEXT_MAX = 1 << 20, JOB_ITEMS_MAX = 1 << 16 };

// One key of a job file, in its order. `where` is "FILE:LINE". `key` NULL: a section opens (JOB_MAPPING), or what
// stands where one should.
typedef bg_status (*job_yaml_fn)(void *arg, const char *where, const char *section, const char *key,
                                 const struct job_value *value, struct bg_error *err);
BG_MUST_USE bg_status job_yaml_read(const char *file, const char *text, size_t size, job_yaml_fn fn, void *arg,
                                    struct bg_error *err);
// One value in flow style: 3e-4, [a, b], "text". `where` is for errors.
BG_MUST_USE bg_status job_yaml_value(const char *where, const char *text, struct bg_error *err,
                                     struct job_value *value);

struct job_writer; // emits sections of keys
struct job_writer *job_writer_create(void);
void job_writer_section(struct job_writer *writer, const char *name);
void job_writer_key(struct job_writer *writer, const char *key, const struct job_value *value);
char *job_writer_finish(struct job_writer *writer); // destroys it; the text, bg_free it

// job_keys.c

enum job_type {
    JOB_COUNT32, // unsigned integer from min to max
    JOB_COUNT64,
    JOB_NUMBER, // double
    JOB_TIME,   // seconds as double; written 90, 90s, 20m, 48h, 3d
    JOB_FLAG,   // bool
    JOB_TEXT,   // string
    JOB_WORD,   // enum: the index of the word
    JOB_CHOICE, // string, one of the words
    JOB_PATHS,  // one string or a list
    JOB_PAIR,   // two numbers, beside each other in struct job
    JOB_SPLIT,  // data.valid: a fraction or files
    JOB_BIAS,   // model.bias: three flags
    JOB_ORDER,  // run.order: ascending, descending or shuffle:SEED
    JOB_ZONES,  // budget.zones: a list of mappings or of their short forms, kept as these
};

enum job_bound { JOB_CLOSED, JOB_ABOVE_MIN, JOB_BELOW_MAX }; // which end of the range is left out

// A row of the table of keys.
struct job_key {
    const char *name;
    enum job_type type;
    size_t offset; // in struct job
    double min, max;
    enum job_bound bound;
    const char *words;    // of JOB_WORD and JOB_CHOICE, separated by '|'
    const char *standard; // default as YAML; NULL: see derived
    const char *derived;  // how the default follows from other keys, for help
    const char *meaning;
};

enum { JOB_KEYS_MAX = 96 };
#define JOB_U64_MAX 18446744073709551615.0

size_t job_key_count(void);
const struct job_key *job_key_at(size_t index);
// The index of "section.leaf"; an unknown one is an error that names the nearest. `leaf` NULL: the section is asked
// for.
BG_MUST_USE bg_status job_key_find(const char *where, const char *section, const char *leaf, struct bg_error *err,
                                   size_t *index);

// job_values.c

// Checks type and bounds, and puts the value into *job.
BG_MUST_USE bg_status job_key_set(const struct job_key *key, const char *where, const struct job_value *value,
                                  struct bg_error *err, struct job *job);
// The key's value in *job; JOB_NOTHING where it is unset.
void job_key_get(const struct job_key *key, const struct job *job, struct job_value *value);
void job_key_free(const struct job_key *key, struct job *job); // what set has allocated
// What the key takes, in words.
const char *job_key_takes(const struct job_key *key, char text[256]);

// job_zones.c

// Short forms of zones from a list of them or of mappings; errors name zone and key.
BG_MUST_USE bg_status job_zones_read(const struct job_value *value, struct bg_error *err, struct bg_strlist *texts);

// job.c

struct job_source {
    const char *file; // of the text, for errors
    const char *text; // of a job file; NULL: none
    size_t size;
    const char *train; // a text to train on without a job file; NULL: none
    const char *stem;  // names the run unless run.dir does; NULL: from the first text
};
BG_MUST_USE bg_status job_resolve(const struct job_source *source, const char *const *overrides, size_t count,
                                  struct bg_error *err, struct job *job);

#endif
