// The rest of the live environment: clocks, entropy, BRIGADE_ISA, the signals, and facts about the host.
#include "os/live.h"

#include "os/host.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static void clocks_and_entropy(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct bg_env *env = NULL;
    assert_int_equal(os_env_create(NULL, &err, &env), BG_OK);
    assert_true(env->threads >= 1);
    uint64_t before = env_now_ns(env);
    usleep(2000);
    uint64_t passed = env_now_ns(env) - before;
    assert_true(passed >= 2000000 && passed < 60000000000u);
    assert_true(env->ops->wall_ms(env) > 1700000000000);
    unsigned char a[32] = {0}, b[32] = {0};
    assert_int_equal(env->ops->entropy(env, a, sizeof a, &err), BG_OK);
    assert_int_equal(env->ops->entropy(env, b, sizeof b, &err), BG_OK);
    assert_memory_not_equal(a, b, sizeof a);
    assert_int_equal(env->ops->stop_signal(env), 0);
    os_env_destroy(env);
}

static bg_status isa_of(const char *word, struct bg_error *err, unsigned *isa)
{
    if (word)
        setenv("BRIGADE_ISA", word, 1);
    else
        unsetenv("BRIGADE_ISA");
    struct bg_env *env = NULL;
    bg_status status = os_env_create(&(struct os_options){.threads = 1}, err, &env);
    if (status)
        return status;
    *isa = env->isa;
    os_env_destroy(env);
    return BG_OK;
}

static void isa_restricts(void **state)
{
    (void)state;
    struct bg_error err = {0};
    unsigned all = 0, isa = 0;
    assert_int_equal(isa_of(NULL, &err, &all), BG_OK);
    assert_int_equal(isa_of("ref", &err, &isa), BG_OK);
    assert_int_equal(isa, BG_ISA_REF);
    const char *words[] = {"avx2", "avx512", "avx512vnni"};
    const unsigned bits[] = {BG_ISA_AVX2, BG_ISA_AVX2 | BG_ISA_AVX512, BG_ISA_AVX2 | BG_ISA_AVX512 | BG_ISA_VNNI};
    for (int i = 0; i < 3; i++) {
        bool has = (all & bits[i]) == bits[i];
        assert_int_equal(isa_of(words[i], &err, &isa), has ? BG_OK : BG_UNSUPPORTED);
        if (has)
            assert_int_equal(isa, bits[i]);
        else
            assert_non_null(strstr(err.text, words[i]));
    }
    assert_int_equal(isa_of("avx3", &err, &isa), BG_INVALID);
    assert_non_null(strstr(err.text, "did you mean avx2?"));
    isa_of(NULL, &err, &isa);
}

static void first_signal_asks(void **state)
{
    (void)state;
    struct bg_error err = {0};
    struct bg_env *env = NULL, *second = NULL;
    const struct os_options o = {.threads = 1, .handle_signals = true};
    assert_int_equal(os_env_create(&o, &err, &env), BG_OK);
    assert_int_equal(os_env_create(&o, &err, &second), BG_EXISTS);
    raise(SIGTERM);
    assert_int_equal(env->ops->stop_signal(env), SIGTERM);
    os_env_destroy(env);
    assert_int_equal(os_env_create(&o, &err, &env), BG_OK);
    assert_int_equal(env->ops->stop_signal(env), 0);
    os_env_destroy(env);
}

static void second_interrupt_ends(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        struct bg_env *env = NULL;
        if (os_env_create(&(struct os_options){.threads = 1, .handle_signals = true}, NULL, &env))
            _exit(1);
        raise(SIGINT);
        if (env->ops->stop_signal(env) != SIGINT)
            _exit(2);
        raise(SIGINT);
        _exit(3);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 130);
}

static void host_facts(void **state)
{
    (void)state;
    char text[256];
    os_cpu_model(text, sizeof text);
    assert_true(strlen(text) > 0);
    os_host_name(text, sizeof text);
    assert_true(strlen(text) > 0);
    os_kernel_name(text, sizeof text);
    assert_non_null(strstr(text, "Linux"));
    os_cpu_model(text, 4);
    assert_true(strlen(text) < 4);
    assert_true(os_cpu_count() >= 1 && os_memory_peak() > 100000);
    assert_false(os_is_terminal(-1));
    assert_int_equal(os_terminal_columns(-1), 80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_and_entropy),    cmocka_unit_test(isa_restricts), cmocka_unit_test(first_signal_asks),
        cmocka_unit_test(second_interrupt_ends), cmocka_unit_test(host_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
