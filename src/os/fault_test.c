// Faults at named points: the right process, point and count; what a bad value is told; the list of points passed.
#include "os/fault.h"

#include "os/live.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

// How a child of that name ends (or stops) that passes "a" and "b" by turns, five times each; 0: it went through.
static int fate(const char *faults, const char *name, int *passed)
{
    int counts[2];
    assert_int_equal(pipe(counts), 0);
    setenv("BRIGADE_FAULT", faults, 1);
    pid_t child = fork();
    if (child == 0) {
        struct bg_env *env = NULL;
        if (os_env_create(&(struct os_options){.threads = 1}, NULL, &env) || os_fault_name(name, NULL))
            _exit(99);
        for (int i = 0; i < 5; i++) {
            env_point(env, "a");
            if (write(counts[1], "a", 1) != 1)
                _exit(98);
            env_point(env, "b");
            if (write(counts[1], "b", 1) != 1)
                _exit(98);
        }
        _exit(0);
    }
    close(counts[1]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    int how = WIFSTOPPED(status) ? WSTOPSIG(status) : WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    if (WIFSTOPPED(status)) {
        kill(child, SIGCONT);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        how = SIGSTOP;
    }
    char text[16];
    ssize_t size = 0;
    for (ssize_t got; (got = read(counts[0], text, sizeof text)) > 0;)
        size += got;
    close(counts[0]);
    *passed = (int)size;
    unsetenv("BRIGADE_FAULT");
    return how;
}

static void strikes_where_told(void **state)
{
    (void)state;
    int passed = 0;
    assert_int_equal(fate("w1:b:3:KILL", "w1", &passed), SIGKILL);
    assert_int_equal(passed, 5); // a b a b a
    assert_int_equal(fate("w1:b:3:KILL", "w2", &passed), 0);
    assert_int_equal(passed, 10);
    assert_int_equal(fate("w2:a:1:KILL,w1:a:1:TERM", "w1", &passed), SIGTERM);
    assert_int_equal(passed, 0);
    assert_int_equal(fate("w1:a:5:STOP", "w1", &passed), SIGSTOP);
    assert_int_equal(passed, 10);
    assert_int_equal(fate("w1:a:6:KILL", "w1", &passed), 0);
    assert_int_equal(fate("", "w1", &passed), 0);
}

static void refuses_what_is_unclear(void **state)
{
    (void)state;
    static const struct {
        const char *text, *place;
    } bad[] = {
        {"w1", "character 1"},
        {"w1:a:1", "character 1"},
        {"w1:a:0:KILL", "character 1"},
        {"w1:a:x:KILL", "character 1"},
        {"w1:a:-1:KILL", "character 1"},
        {"w1:a:1:EXIT", "character 1"},
        {"w1:a:1:KILL:", "character 1"},
        {"w1:a:1:KILL,", "character 13"},
        {"w1:a:1:KILL,:a:1:KILL", "character 13"},
        {"w1,a:1:KILL", "character 1"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:a:1:KILL", "character 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct bg_error err = {0};
        setenv("BRIGADE_FAULT", bad[i].text, 1);
        if (os_fault_name("w1", &err) != BG_INVALID || !strstr(err.text, bad[i].place))
            fail_msg("\"%s\": %s", bad[i].text, err.text);
    }
    unsetenv("BRIGADE_FAULT");
    assert_int_equal(os_fault_name("w1", NULL), BG_OK);
}

static void lists_the_points(void **state)
{
    (void)state;
    char path[] = "/tmp/brigade-points-XXXXXX";
    int file = mkstemp(path), passed = 0;
    setenv("BRIGADE_POINTS", path, 1);
    assert_int_equal(fate("w1:a:2:KILL", "w1", &passed), SIGKILL);
    assert_int_equal(fate("w1:a:2:KILL", "w2", &passed), 0);
    unsetenv("BRIGADE_POINTS");
    char text[512] = "";
    assert_true(read(file, text, sizeof text - 1) > 0);
    static const char start[] = "w1 a 1\nw1 b 1\nw1 a 2\nw2 a 1\nw2 b 1\nw2 a 2\n";
    assert_memory_equal(text, start, sizeof start - 1);
    close(file);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strikes_where_told),
        cmocka_unit_test(refuses_what_is_unclear),
        cmocka_unit_test(lists_the_points),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
