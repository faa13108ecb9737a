/* The calls of the table as they stand: what the other chapters vary. */
#include "matrix.h"

void test_successes(void) {
    for (const struct function *each = functions; each < functions + FUNCTIONS; each++) {
        word words[MAX_WORDS];
        if (each == &functions[FUNCTION_C_Initialize] || each == &functions[FUNCTION_C_Finalize]) continue;
        scenario("%s as the table has it", each->name);
        prepare(each, words);
        expect(each, words, each->codes[0]);
    }
    scenario("C_Initialize again");
    EXPECT(CKR_CRYPTOKI_ALREADY_INITIALIZED, C_Initialize, NULL);
}
