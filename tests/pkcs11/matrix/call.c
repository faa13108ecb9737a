/* Makes calls, counts them, and compares their codes with what the standard allows. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "matrix.h"

CK_FUNCTION_LIST_3_2 *list;
unsigned long call_count, failure_count;

/* No call takes as long as this, in seconds. */
#define HANG 20

static char current[256];

void scenario(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(current, sizeof current, format, arguments);
    va_end(arguments);
}

void failure(const char *format, ...) {
    va_list arguments;
    failure_count++;
    printf("FAILED %s: ", current);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

/* For the handler of signals, which tells what was called when it came. */
const char *current_scenario(void) { return current; }
const char *current_function = "";

void announce(enum function_number number) {
    current_function = functions[number].name;
    call_count++;
    alarm(HANG);
}

CK_RV judge(enum function_number number, CK_RV code) {
    const struct function *function = &functions[number];
    current_function = "";
    for (size_t i = 0; i < function->code_count; i++)
        if (function->codes[i] == code) return code;
    failure("%s gave %s (%#lx), which the standard does not list", function->name, code_name(code), code);
    return code;
}

void judge_exactly(enum function_number number, CK_RV code, CK_RV expected, int line) {
    if (code == expected)
        judge(number, code);
    else
        failure("%s gave %s (%#lx) instead of %s (line %d)", functions[number].name, code_name(code), code,
                code_name(expected), line);
}

static enum function_number number_of(const struct function *function) {
    return (enum function_number)(function - functions);
}

CK_RV call(const struct function *function, const word *words) {
    announce(number_of(function));
    return judge(number_of(function), function->call(words));
}

void expect(const struct function *function, const word *words, CK_RV expected) {
    expect_either(function, words, expected, expected);
}

void expect_either(const struct function *function, const word *words, CK_RV one, CK_RV other) {
    announce(number_of(function));
    CK_RV code = function->call(words);
    if (code == one || code == other)
        judge(number_of(function), code);
    else
        failure("%s gave %s (%#lx) instead of %s%s%s", function->name, code_name(code), code, code_name(one),
                one == other ? "" : " or ", one == other ? "" : code_name(other));
}

void must(const char *name, CK_RV code, int line) {
    if (code == CKR_OK) return;
    printf("FAILED %s: %s gave %s (%#lx), and all else depends on it (line %d)\n", current, name, code_name(code), code,
           line);
    fflush(stdout);
    _exit(2);
}
