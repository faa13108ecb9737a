/* The parameters of mechanisms. */
#include "matrix.h"

static const CK_BYTE iv[16] = "initialisation..";

#define STRUCTURE(type, ...) lent(&(type){__VA_ARGS__}, *len = sizeof(type))

void *fitting_parameter(CK_MECHANISM_TYPE type, CK_ULONG *len) {
    switch (type) {
    case CKM_AES_CBC: case CKM_AES_CBC_PAD: return lent(iv, *len = sizeof iv);
    case CKM_AES_CTR: return STRUCTURE(CK_AES_CTR_PARAMS, 64, {0});
    case CKM_AES_GCM: return STRUCTURE(CK_GCM_PARAMS, lent(iv, 12), 12, 96, lent("aad", 3), 3, 128);
    case CKM_RSA_PKCS_OAEP:
        return STRUCTURE(CK_RSA_PKCS_OAEP_PARAMS, CKM_SHA256, CKG_MGF1_SHA256, CKZ_DATA_SPECIFIED, NULL, 0);
    case CKM_SHA1_RSA_PKCS_PSS: return STRUCTURE(CK_RSA_PKCS_PSS_PARAMS, CKM_SHA_1, CKG_MGF1_SHA1, 20);
    case CKM_SHA224_RSA_PKCS_PSS: return STRUCTURE(CK_RSA_PKCS_PSS_PARAMS, CKM_SHA224, CKG_MGF1_SHA224, 28);
    case CKM_RSA_PKCS_PSS: case CKM_SHA256_RSA_PKCS_PSS:
        return STRUCTURE(CK_RSA_PKCS_PSS_PARAMS, CKM_SHA256, CKG_MGF1_SHA256, 32);
    case CKM_SHA384_RSA_PKCS_PSS: return STRUCTURE(CK_RSA_PKCS_PSS_PARAMS, CKM_SHA384, CKG_MGF1_SHA384, 48);
    case CKM_SHA512_RSA_PKCS_PSS: return STRUCTURE(CK_RSA_PKCS_PSS_PARAMS, CKM_SHA512, CKG_MGF1_SHA512, 64);
    case CKM_ECDH1_DERIVE:
        return STRUCTURE(CK_ECDH1_DERIVE_PARAMS, CKD_NULL, 0, NULL, sizeof ec_point, lent(ec_point, sizeof ec_point));
    case CKM_AES_ECB_ENCRYPT_DATA: return STRUCTURE(CK_KEY_DERIVATION_STRING_DATA, lent(iv, 16), 16);
    case CKM_AES_CBC_ENCRYPT_DATA: return STRUCTURE(CK_AES_CBC_ENCRYPT_DATA_PARAMS, {0}, lent(iv, 16), 16);
    default: *len = 0; return NULL;
    }
}

void *message_parameter(CK_ULONG *len) {
    return STRUCTURE(CK_GCM_MESSAGE_PARAMS, lent_writable(iv, 12), 12, 0, CKG_NO_GENERATE,
                     lent_writable(message_tag, sizeof message_tag), 128);
}

CK_MECHANISM *lent_mechanism(CK_MECHANISM_TYPE type) {
    CK_MECHANISM given = {type, NULL, 0};
    given.pParameter = fitting_parameter(type, &given.ulParameterLen);
    return lent(&given, sizeof given);
}
