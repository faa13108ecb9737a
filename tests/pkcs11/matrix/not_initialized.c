/* Before C_Initialize and after C_Finalize, with good arguments and with none. */
#include <string.h>

#include "matrix.h"

/* `answer_of_the_three`: what those give that can be called at any time. */
static void test_call(const struct function *function, const word *words, CK_RV answer_of_the_three) {
    switch (function - functions) {
    case FUNCTION_C_Initialize: break;
    case FUNCTION_C_GetFunctionList: case FUNCTION_C_GetInterfaceList: case FUNCTION_C_GetInterface:
        expect(function, words, answer_of_the_three);
        break;
    default: expect(function, words, CKR_CRYPTOKI_NOT_INITIALIZED);
    }
}

static void test_initialize_arguments(void) {
    CK_C_INITIALIZE_ARGS arguments = {0};
    arguments.pReserved = &arguments;
    EXPECT(CKR_ARGUMENTS_BAD, C_Initialize, lent(&arguments, sizeof arguments));
    /* All four functions, or none. */
    arguments.pReserved = NULL;
    arguments.CreateMutex = (CK_CREATEMUTEX)test_initialize_arguments;
    EXPECT(CKR_ARGUMENTS_BAD, C_Initialize, lent(&arguments, sizeof arguments));
}

void test_not_initialized(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS] = {0};
        test_call(each, words, CKR_ARGUMENTS_BAD);
        fill(each, words);
        test_call(each, words, CKR_OK);
        take_back();
    }
    test_initialize_arguments();
    take_back();
}
