/* matrix LIBRARY: exit code 0 if every call was answered as it should. */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "matrix.h"

const char *current_scenario(void);
extern const char *current_function;

static void write_text(const char *text) {
    if (write(STDOUT_FILENO, text, strlen(text)) < 0) _exit(3);
}

/* A crash or a hang: says in what, and ends. */
static void on_signal(int number) {
    write_text("FAILED ");
    write_text(current_scenario());
    write_text(": ");
    write_text(*current_function ? current_function : "the test itself");
    write_text(number == SIGALRM ? " hangs\n" : " crashes\n");
    _exit(3);
}

static void catch_signals(void) {
    static char stack[64 << 10];
    stack_t own = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM};
    sigaltstack(&own, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
}

static void load(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    CK_C_GetInterface get_interface = (CK_C_GetInterface)dlsym(library, "C_GetInterface");
    CK_VERSION version = {3, 2};
    CK_INTERFACE *interface;
    if (!get_interface || get_interface(NULL, &version, &interface, 0) != CKR_OK) {
        fprintf(stderr, "no interface of version 3.2\n");
        exit(2);
    }
    list = interface->pFunctionList;
}

static const struct {
    const char *name;
    void (*run)(void);
} chapters[] = {
    {"successes", test_successes},
    {"nulls", test_nulls},
    {"lengths", test_lengths},
    {"handles", test_handles},
    {"buffers", test_buffers},
    {"order", test_order},
    {"states", test_states},
    {"mechanisms", test_mechanisms},
    {"templates", test_templates},
    {"attributes", test_attributes},
    {"contents", test_contents},
    {"keys", test_keys},
    {"permissions", test_permissions},
    {"messages", test_messages},
    {"interfaces", test_interfaces},
};

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "Usage: %s LIBRARY\n", argv[0]);
        return 2;
    }
    catch_signals();
    load(argv[1]);
    scenario("before C_Initialize");
    test_not_initialized();
    MUST(C_Initialize, NULL);
    set_up();
    for (size_t i = 0; i < sizeof chapters / sizeof *chapters; i++) {
        unsigned long before = call_count;
        chapters[i].run();
        printf("%s: %lu calls\n", chapters[i].name, call_count - before);
    }
    take_back();
    MUST(C_Finalize, NULL);
    scenario("after C_Finalize");
    test_not_initialized();
    MUST(C_Initialize, NULL);
    test_handles_of_before();
    MUST(C_Finalize, NULL);
    alarm(0);
    printf("%lu calls, %lu failures\n", call_count, failure_count);
    return failure_count != 0;
}
