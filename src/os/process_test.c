// Processes: started with their environment, output and group, watched and signalled through a handle, adopted by
// number and start time.
#include "os/process.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static struct os_process shell(const char *script, const char *const *environment, int output)
{
    struct bg_error err;
    struct os_process process;
    const char *const argv[] = {"/bin/sh", "-c", script, NULL};
    const struct os_spawn_options o = {.argv = argv, .environment = environment, .output = output};
    if (os_spawn(&o, &err, &process))
        fail_msg("%s", err.text);
    return process;
}

static const char *ending(struct os_process *process)
{
    for (int i = 0; i < 5000 && !os_process_ended(process); i++)
        usleep(1000);
    return process->ending;
}

static void is_listened_to(void **state)
{
    (void)state;
    struct bg_error err;
    int reader, writer;
    char said[100] = "";
    assert_int_equal(os_pipe(&err, &reader, &writer), BG_OK);
    assert_int_equal(os_pipe_read(reader, said, sizeof said), 0); // does not wait
    struct os_process process = shell("echo out; echo error >&2", NULL, writer);
    close(writer);
    ending(&process);
    assert_int_equal(os_pipe_read(reader, said, 3), 3);
    assert_int_equal(os_pipe_read(reader, said + 3, sizeof said - 3), 7);
    assert_string_equal(said, "out\nerror\n");
    assert_int_equal(os_pipe_read(reader, said, sizeof said), 0);
    os_process_close(&process);
    close(reader);
}

static void says_how_it_ended(void **state)
{
    (void)state;
    struct bg_error err;
    struct os_process process = shell("exit 3", NULL, -1);
    assert_string_equal(ending(&process), "exited with status 3");
    assert_string_equal(ending(&process), "exited with status 3");
    assert_int_equal(os_process_kill(&process, SIGKILL, &err), BG_NOT_FOUND);
    os_process_close(&process);
    process = shell("exec sleep 100", NULL, -1); // no child, which would outlive it
    assert_false(os_process_ended(&process));
    assert_int_equal(os_process_kill(&process, SIGKILL, &err), BG_OK);
    assert_string_equal(ending(&process), "killed by signal 9");
    os_process_close(&process);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); // nothing left to wait for
    const char *const none[] = {"/no/such/program", NULL};
    assert_int_equal(os_spawn(&(struct os_spawn_options){.argv = none, .output = -1}, &err, &process), BG_NOT_FOUND);
    assert_non_null(strstr(err.text, "/no/such/program"));
}

static void gets_what_it_is_given(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int high = dup2(ends[1], 77); // not close-on-exec
    signal(SIGUSR1, SIG_IGN);
    setenv("BRIGADE_TEST_A", "inherited", 1);
    setenv("BRIGADE_TEST_B", "before", 1);
    setenv("BRIGADE_TEST_C", "gone", 1);
    const char *const environment[] = {"BRIGADE_TEST_B=after", "BRIGADE_TEST_C", NULL};
    struct os_process process =
        shell("echo $BRIGADE_TEST_A $BRIGADE_TEST_B ${BRIGADE_TEST_C-none}; read x || echo eof >&2; "
              "[ -e /proc/self/fd/77 ] && echo leaked; set -- $(cat /proc/$$/stat); [ $5 = $$ ] && echo group; "
              "kill -USR1 $$; echo ignored",
              environment, ends[1]);
    assert_string_equal(ending(&process), "killed by signal 10");
    close(ends[1]);
    close(high);
    char text[256] = "";
    ssize_t size = 0;
    for (ssize_t got; (got = read(ends[0], text + size, sizeof text - 1 - (size_t)size)) > 0;)
        size += got;
    assert_string_equal(text, "inherited after none\neof\ngroup\n");
    close(ends[0]);
    os_process_close(&process);
    signal(SIGUSR1, SIG_DFL);
}

static void adopts_by_start_time(void **state)
{
    (void)state;
    struct bg_error err;
    // A grandchild: no child of ours.
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct os_process parent = shell("sleep 100 & echo $!", NULL, ends[1]);
    close(ends[1]);
    char text[32] = "";
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    ending(&parent);
    os_process_close(&parent);
    int pid = (int)strtol(text, NULL, 10);
    uint64_t start = 0;
    struct os_process process;
    assert_int_equal(os_process_start_time(pid, &err, &start), BG_OK);
    assert_int_equal(os_process_open(pid, start + 1, &err, &process), BG_NOT_FOUND);
    assert_non_null(strstr(err.text, "another one has its number"));
    assert_int_equal(os_process_open(pid, start, &err, &process), BG_OK);
    assert_false(os_process_ended(&process));
    assert_int_equal(os_process_kill(&process, SIGTERM, &err), BG_OK);
    assert_string_equal(ending(&process), "ended");
    os_process_close(&process);
    assert_int_equal(os_process_open(-1, 0, &err, &process), BG_NOT_FOUND);
    assert_int_equal(os_process_start_time(0x7fffffff, &err, &start), BG_NOT_FOUND);
    char path[512];
    os_executable(path, sizeof path);
    assert_non_null(strstr(path, "os_process_test"));
    assert_int_equal(access(path, X_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_how_it_ended),
        cmocka_unit_test(gets_what_it_is_given),
        cmocka_unit_test(is_listened_to),
        cmocka_unit_test(adopts_by_start_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
