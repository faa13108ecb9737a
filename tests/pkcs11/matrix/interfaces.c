/* C_GetInterface: names, versions and flags that there are, and that there are not (section 5.4.6). */
#include "matrix.h"

static void get(const void *name, size_t name_len, CK_BYTE major, CK_BYTE minor, CK_FLAGS flags, CK_RV expected) {
    const CK_VERSION version = {major, minor};
    CK_INTERFACE **interface = room(sizeof *interface);
    scenario("an interface of version %u.%u with flags %#lx", major, minor, flags);
    EXPECT(expected, C_GetInterface, name ? lent(name, name_len) : NULL, major ? lent(&version, sizeof version) : NULL,
           interface, flags);
    if (expected != CKR_OK && !untouched(interface, sizeof *interface)) failure("there is a result");
    take_back();
}

void test_interfaces(void) {
    take_back();
    get(NULL, 0, 0, 0, 0, CKR_OK);
    get(NULL, 0, 2, 40, 0, CKR_OK);
    get("PKCS 11", 8, 3, 0, 0, CKR_OK);
    get("PKCS 11", 8, 3, 2, 0, CKR_OK);
    get("PKCS 11", 8, 3, 255, 0, CKR_ARGUMENTS_BAD);
    get("PKCS 11", 8, 3, 2, CKF_INTERFACE_FORK_SAFE, CKR_ARGUMENTS_BAD);
    get("PKCS 11", 8, 3, 2, ~0UL, CKR_ARGUMENTS_BAD);
    /* Each ends where it may not be read on. */
    get("", 1, 0, 0, 0, CKR_ARGUMENTS_BAD);
    get("PKCS", 5, 0, 0, 0, CKR_ARGUMENTS_BAD);
    get("PKCS 1", 7, 3, 2, 0, CKR_ARGUMENTS_BAD);
    get("PKCS 111", 9, 3, 2, 0, CKR_ARGUMENTS_BAD);
    get("Vendor", 7, 0, 0, 0, CKR_ARGUMENTS_BAD);
}
