// pkcs11js as its documentation shows it: a thin layer over the functions of PKCS #11.
// Environment: LIBRARY, a path, and PIN, of the token in the first slot.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const { after, before, describe, it } = require("node:test");
const pkcs11js = require("pkcs11js");

const DATA = crypto.randomBytes(10_000);
// What the package has no names for.
const RW_USER_FUNCTIONS = 3;
const DATA_SPECIFIED = 1;
const P256 = Buffer.from("06082A8648CE3D030107", "hex");

const pkcs11 = new pkcs11js.PKCS11();
let slot;
let session;

before(() => {
    pkcs11.load(process.env.LIBRARY);
    pkcs11.C_Initialize();
    slot = pkcs11.C_GetSlotList(true)[0];
    session = pkcs11.C_OpenSession(slot, pkcs11js.CKF_SERIAL_SESSION | pkcs11js.CKF_RW_SESSION);
    pkcs11.C_Login(session, pkcs11js.CKU_USER, process.env.PIN);
});

after(() => {
    pkcs11.C_Logout(session);
    pkcs11.C_CloseSession(session);
    pkcs11.C_Finalize();
    pkcs11.close();
});

function attributes(values) {
    return Object.entries(values).map(([name, value]) => ({ type: pkcs11js[`CKA_${name}`], value }));
}

function attribute(object, name) {
    return pkcs11.C_GetAttributeValue(session, object, [{ type: pkcs11js[`CKA_${name}`] }])[0].value;
}

function aesKey(more = {}) {
    const template = { CLASS: pkcs11js.CKO_SECRET_KEY, TOKEN: false, VALUE_LEN: 32, ENCRYPT: true, DECRYPT: true };
    return pkcs11.C_GenerateKey(session, { mechanism: pkcs11js.CKM_AES_KEY_GEN }, attributes({ ...template, ...more }));
}

function rsaKeys() {
    return pkcs11.C_GenerateKeyPair(
        session,
        { mechanism: pkcs11js.CKM_RSA_PKCS_KEY_PAIR_GEN },
        attributes({ TOKEN: false, MODULUS_BITS: 2048, PUBLIC_EXPONENT: Buffer.from([1, 0, 1]), VERIFY: true, ENCRYPT: true, WRAP: true }),
        attributes({ TOKEN: false, SIGN: true, DECRYPT: true, UNWRAP: true }),
    );
}

function ecKeys() {
    return pkcs11.C_GenerateKeyPair(
        session,
        { mechanism: pkcs11js.CKM_EC_KEY_PAIR_GEN },
        attributes({ TOKEN: false, EC_PARAMS: P256, VERIFY: true }),
        attributes({ TOKEN: false, SIGN: true, DERIVE: true }),
    );
}

function refuses(code, call) {
    assert.throws(call, (error) => error.message.startsWith(`${code}:`) || error.message === code);
}

describe("module, slot and session", () => {
    it("does not load what is no library", () => {
        assert.throws(() => new pkcs11js.PKCS11().load("/none"));
    });

    it("says what it is", () => {
        const info = pkcs11.C_GetInfo();
        assert.equal(info.cryptokiVersion.major, 2);
        assert.equal(info.flags, 0);
        assert.match(info.manufacturerID, /HSM emulator/);
    });

    it("describes slot, token, mechanisms and session", () => {
        assert.equal(pkcs11.C_GetSlotInfo(slot).flags & pkcs11js.CKF_TOKEN_PRESENT, pkcs11js.CKF_TOKEN_PRESENT);
        const token = pkcs11.C_GetTokenInfo(slot);
        assert.equal(token.label.trimEnd(), "My slot 0");
        assert.equal(token.flags & pkcs11js.CKF_LOGIN_REQUIRED, pkcs11js.CKF_LOGIN_REQUIRED);
        const mechanisms = pkcs11.C_GetMechanismList(slot);
        for (const name of ["RSA_PKCS", "AES_CBC", "ECDSA", "SHA256"]) {
            assert.ok(mechanisms.includes(pkcs11js[`CKM_${name}`]), name);
        }
        const aes = pkcs11.C_GetMechanismInfo(slot, pkcs11js.CKM_AES_KEY_GEN);
        assert.deepEqual([aes.minKeySize, aes.maxKeySize], [16, 32]);
        const info = pkcs11.C_GetSessionInfo(session);
        assert.deepEqual(info.slotID, slot);
        assert.equal(info.state, RW_USER_FUNCTIONS);
        assert.equal(info.deviceError, 0);
    });

    it("has no event of a slot to tell", () => {
        assert.equal(pkcs11.C_WaitForSlotEvent(pkcs11js.CKF_DONT_BLOCK), null);
    });

    it("names the codes of errors", () => {
        refuses("CKR_USER_ALREADY_LOGGED_IN", () => pkcs11.C_Login(session, pkcs11js.CKU_USER, process.env.PIN));
        refuses("CKR_CRYPTOKI_ALREADY_INITIALIZED", () => pkcs11.C_Initialize());
        refuses("CKR_OBJECT_HANDLE_INVALID", () => pkcs11.C_DestroyObject(session, Buffer.alloc(8, 0xff)));
        refuses("CKR_SESSION_HANDLE_INVALID", () => pkcs11.C_GetSessionInfo(Buffer.alloc(8, 0xff)));
        refuses("CKR_MECHANISM_INVALID", () => pkcs11.C_DigestInit(session, { mechanism: 0x7fff }));
        refuses("CKR_OPERATION_NOT_INITIALIZED", () => pkcs11.C_DigestUpdate(session, DATA));
    });

    it("seeds and gives random bytes", () => {
        pkcs11.C_SeedRandom(session, Buffer.from("a seed"));
        const first = Buffer.from(pkcs11.C_GenerateRandom(session, Buffer.alloc(20)));
        const second = pkcs11.C_GenerateRandom(session, Buffer.alloc(20));
        assert.notDeepEqual(first, second);
    });

    it("changes the PIN", () => {
        pkcs11.C_SetPIN(session, process.env.PIN, "54321");
        refuses("CKR_PIN_INCORRECT", () => pkcs11.C_SetPIN(session, process.env.PIN, "00000"));
        pkcs11.C_SetPIN(session, "54321", process.env.PIN);
    });
});

describe("objects", () => {
    it("creates, changes, copies, finds and destroys", () => {
        const template = { CLASS: pkcs11js.CKO_DATA, TOKEN: false, PRIVATE: false, LABEL: "My custom data", VALUE: DATA };
        const object = pkcs11.C_CreateObject(session, attributes(template));
        pkcs11.C_SetAttributeValue(session, object, attributes({ LABEL: "My custom data!!!" }));
        const [label, token] = pkcs11.C_GetAttributeValue(session, object, [
            { type: pkcs11js.CKA_LABEL },
            { type: pkcs11js.CKA_TOKEN },
        ]);
        assert.equal(label.value.toString(), "My custom data!!!");
        assert.equal(token.value[0], 0);
        assert.deepEqual(attribute(object, "VALUE"), DATA);
        assert.ok(Number(pkcs11.C_GetObjectSize(session, object)) >= DATA.length);

        const copy = pkcs11.C_CopyObject(session, object, attributes({ LABEL: "the copy" }));
        assert.notDeepEqual(copy, object);
        assert.equal(attribute(copy, "LABEL").toString(), "the copy");
        assert.deepEqual(found({ CLASS: pkcs11js.CKO_DATA }), [object, copy]);
        assert.deepEqual(found({ LABEL: "the copy" }), [copy]);
        pkcs11.C_DestroyObject(session, object);
        assert.deepEqual(found({ CLASS: pkcs11js.CKO_DATA }), [copy]);
        refuses("CKR_OBJECT_HANDLE_INVALID", () => attribute(object, "LABEL"));
        pkcs11.C_DestroyObject(session, copy);
    });

    it("hides the value of a sensitive key", () => {
        refuses("CKR_ATTRIBUTE_SENSITIVE", () => attribute(aesKey({ SENSITIVE: true }), "VALUE"));
        assert.equal(attribute(aesKey({ SENSITIVE: false, EXTRACTABLE: true }), "VALUE").length, 32);
    });

    function found(template) {
        pkcs11.C_FindObjectsInit(session, attributes(template));
        const handles = [];
        for (let handle; (handle = pkcs11.C_FindObjects(session)); ) {
            handles.push(Buffer.from(handle));
        }
        pkcs11.C_FindObjectsFinal(session);
        return handles;
    }
});

describe("digests", () => {
    for (const [name, length] of [["SHA_1", 20], ["SHA256", 32], ["SHA384", 48], ["SHA512", 64]]) {
        it(name, async () => {
            const expected = crypto.createHash(name.replace("_", "")).update(DATA).digest();
            const mechanism = { mechanism: pkcs11js[`CKM_${name}`] };
            pkcs11.C_DigestInit(session, mechanism);
            assert.deepEqual(pkcs11.C_Digest(session, DATA, Buffer.alloc(length)), expected);
            pkcs11.C_DigestInit(session, mechanism);
            pkcs11.C_DigestUpdate(session, DATA.subarray(0, 99));
            pkcs11.C_DigestUpdate(session, DATA.subarray(99));
            assert.deepEqual(pkcs11.C_DigestFinal(session, Buffer.alloc(length)), expected);
            pkcs11.C_DigestInit(session, mechanism);
            assert.deepEqual(await pkcs11.C_DigestAsync(session, DATA, Buffer.alloc(length)), expected);
        });
    }
});

describe("signatures", () => {
    let rsa;
    let ec;
    before(() => {
        rsa = rsaKeys();
        ec = ecKeys();
    });

    function publicRsa() {
        const [n, e] = ["MODULUS", "PUBLIC_EXPONENT"].map((name) => attribute(rsa.publicKey, name).toString("base64url"));
        return crypto.createPublicKey({ key: { kty: "RSA", n, e }, format: "jwk" });
    }

    function publicEc() {
        // An octet string around 04, x and y.
        const point = attribute(ec.publicKey, "EC_POINT").subarray(3);
        const [x, y] = [point.subarray(0, 32), point.subarray(32)].map((half) => half.toString("base64url"));
        return crypto.createPublicKey({ key: { kty: "EC", crv: "P-256", x, y }, format: "jwk" });
    }

    const pss = {
        type: pkcs11js.CK_PARAMS_RSA_PSS,
        hashAlg: pkcs11js.CKM_SHA256,
        mgf: pkcs11js.CKG_MGF1_SHA256,
        saltLen: 32,
    };
    for (const [name, keys, hash, options, parameter] of [
        ["SHA1_RSA_PKCS", () => rsa, "sha1", {}],
        ["SHA256_RSA_PKCS", () => rsa, "sha256", {}],
        ["SHA512_RSA_PKCS", () => rsa, "sha512", {}],
        ["SHA256_RSA_PKCS_PSS", () => rsa, "sha256", { padding: crypto.constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }, pss],
        ["ECDSA_SHA256", () => ec, "sha256", { dsaEncoding: "ieee-p1363" }],
    ]) {
        it(name, async () => {
            const { privateKey, publicKey } = keys();
            const mechanism = { mechanism: pkcs11js[`CKM_${name}`], parameter };
            const key = name.startsWith("EC") ? publicEc() : publicRsa();
            const room = Buffer.alloc(256);
            pkcs11.C_SignInit(session, mechanism, privateKey);
            const signature = Buffer.from(pkcs11.C_Sign(session, DATA, room));
            assert.ok(crypto.verify(hash, DATA, { key, ...options }, signature));
            pkcs11.C_VerifyInit(session, mechanism, publicKey);
            assert.equal(pkcs11.C_Verify(session, DATA, signature), true);
            pkcs11.C_VerifyInit(session, mechanism, publicKey);
            refuses("CKR_SIGNATURE_INVALID", () => pkcs11.C_Verify(session, DATA.subarray(1), signature));

            pkcs11.C_SignInit(session, mechanism, privateKey);
            pkcs11.C_SignUpdate(session, DATA.subarray(0, 99));
            pkcs11.C_SignUpdate(session, DATA.subarray(99));
            const inParts = Buffer.from(pkcs11.C_SignFinal(session, room));
            assert.ok(crypto.verify(hash, DATA, { key, ...options }, inParts));
            pkcs11.C_VerifyInit(session, mechanism, publicKey);
            pkcs11.C_VerifyUpdate(session, DATA);
            assert.equal(pkcs11.C_VerifyFinal(session, inParts), true);

            pkcs11.C_SignInit(session, mechanism, privateKey);
            const promised = await pkcs11.C_SignAsync(session, DATA, Buffer.alloc(256));
            pkcs11.C_VerifyInit(session, mechanism, publicKey);
            assert.equal(await pkcs11.C_VerifyAsync(session, DATA, promised), true);
        });
    }
});

describe("encryption", () => {
    const iv = DATA.subarray(0, 16);
    const gcm = { type: pkcs11js.CK_PARAMS_AES_GCM, iv: DATA.subarray(0, 12), aad: Buffer.from("seen"), tagBits: 128 };
    // CK_AES_CTR_PARAMS, which the package does not build: a counter of 128 bits.
    const ctr = Buffer.concat([Buffer.from([128, 0, 0, 0, 0, 0, 0, 0]), iv]);
    for (const [name, parameter, more] of [
        ["AES_ECB", undefined, 0],
        ["AES_CBC", iv, 0],
        ["AES_CBC_PAD", iv, 16],
        ["AES_CTR", ctr, 0],
        ["AES_GCM", gcm, 16],
    ]) {
        it(name, async () => {
            const key = aesKey();
            const mechanism = { mechanism: pkcs11js[`CKM_${name}`], parameter };
            const plain = DATA.subarray(0, 4096);
            pkcs11.C_EncryptInit(session, mechanism, key);
            const encrypted = Buffer.from(pkcs11.C_Encrypt(session, plain, Buffer.alloc(plain.length + 32)));
            assert.equal(encrypted.length, plain.length + more);
            pkcs11.C_DecryptInit(session, mechanism, key);
            const room = Buffer.alloc(encrypted.length + 32);
            const parts = [
                Buffer.from(pkcs11.C_DecryptUpdate(session, encrypted.subarray(0, 1000), room)),
                Buffer.from(pkcs11.C_DecryptUpdate(session, encrypted.subarray(1000), room)),
                Buffer.from(pkcs11.C_DecryptFinal(session, room)),
            ];
            assert.deepEqual(Buffer.concat(parts), plain);
            pkcs11.C_EncryptInit(session, mechanism, key);
            const inParts = [
                Buffer.from(pkcs11.C_EncryptUpdate(session, plain.subarray(0, 1000), room)),
                Buffer.from(pkcs11.C_EncryptUpdate(session, plain.subarray(1000), room)),
                Buffer.from(pkcs11.C_EncryptFinal(session, room)),
            ];
            assert.deepEqual(Buffer.concat(inParts), encrypted);
            pkcs11.C_DecryptInit(session, mechanism, key);
            assert.deepEqual(await pkcs11.C_DecryptAsync(session, encrypted, Buffer.alloc(encrypted.length)), plain);
        });
    }

    it("RSA_PKCS_OAEP", () => {
        const rsa = rsaKeys();
        const parameter = {
            type: pkcs11js.CK_PARAMS_RSA_OAEP,
            hashAlg: pkcs11js.CKM_SHA256,
            mgf: pkcs11js.CKG_MGF1_SHA256,
            source: DATA_SPECIFIED,
            sourceData: Buffer.from("a label"),
        };
        const mechanism = { mechanism: pkcs11js.CKM_RSA_PKCS_OAEP, parameter };
        pkcs11.C_EncryptInit(session, mechanism, rsa.publicKey);
        const encrypted = pkcs11.C_Encrypt(session, DATA.subarray(0, 100), Buffer.alloc(256));
        pkcs11.C_DecryptInit(session, mechanism, rsa.privateKey);
        assert.deepEqual(pkcs11.C_Decrypt(session, encrypted, Buffer.alloc(256)), DATA.subarray(0, 100));
    });

    it("says when there is too little room, and goes on", () => {
        pkcs11.C_EncryptInit(session, { mechanism: pkcs11js.CKM_AES_CBC_PAD, parameter: iv }, aesKey());
        refuses("CKR_BUFFER_TOO_SMALL", () => pkcs11.C_Encrypt(session, DATA, Buffer.alloc(16)));
        assert.ok(pkcs11.C_Encrypt(session, DATA, Buffer.alloc(DATA.length + 16)).length > DATA.length);
    });
});

describe("keys", () => {
    it("wraps and unwraps", () => {
        const rsa = rsaKeys();
        const wrapping = aesKey({ WRAP: true, UNWRAP: true });
        for (const [mechanism, wrap, unwrap] of [
            [{ mechanism: pkcs11js.CKM_RSA_PKCS }, rsa.publicKey, rsa.privateKey],
            [{ mechanism: pkcs11js.CKM_AES_KEY_WRAP }, wrapping, wrapping],
            [{ mechanism: pkcs11js.CKM_AES_CBC_PAD, parameter: DATA.subarray(0, 16) }, wrapping, wrapping],
        ]) {
            const key = aesKey({ EXTRACTABLE: true, SENSITIVE: false });
            const wrapped = Buffer.from(pkcs11.C_WrapKey(session, mechanism, wrap, key, Buffer.alloc(512)));
            const template = { CLASS: pkcs11js.CKO_SECRET_KEY, KEY_TYPE: pkcs11js.CKK_AES, TOKEN: false };
            const exposed = attributes({ ...template, EXTRACTABLE: true, SENSITIVE: false });
            const unwrapped = pkcs11.C_UnwrapKey(session, mechanism, unwrap, wrapped, exposed);
            assert.deepEqual(attribute(unwrapped, "VALUE"), attribute(key, "VALUE"));
        }
        refuses("CKR_KEY_UNEXTRACTABLE", () =>
            pkcs11.C_WrapKey(session, { mechanism: pkcs11js.CKM_RSA_PKCS }, rsa.publicKey, aesKey(), Buffer.alloc(512)),
        );
    });

    for (const kdf of ["NULL", "SHA1_KDF"]) {
        it(`derives by ECDH with ${kdf}`, () => {
            const [ours, theirs] = [ecKeys(), ecKeys()];
            const derive = (privateKey, publicKey) => {
                const parameter = {
                    type: pkcs11js.CK_PARAMS_EC_DH,
                    kdf: pkcs11js[`CKD_${kdf}`],
                    publicData: attribute(publicKey, "EC_POINT"),
                };
                const template = { CLASS: pkcs11js.CKO_SECRET_KEY, KEY_TYPE: pkcs11js.CKK_AES, TOKEN: false, VALUE_LEN: 32 };
                const key = pkcs11.C_DeriveKey(
                    session,
                    { mechanism: pkcs11js.CKM_ECDH1_DERIVE, parameter },
                    privateKey,
                    attributes({ ...template, EXTRACTABLE: true, SENSITIVE: false }),
                );
                return attribute(key, "VALUE");
            };
            const secret = derive(ours.privateKey, theirs.publicKey);
            assert.equal(secret.length, 32);
            assert.deepEqual(derive(theirs.privateKey, ours.publicKey), secret);
        });
    }

    it("makes keys in another thread", async () => {
        const made = await pkcs11.C_GenerateKeyAsync(
            session,
            { mechanism: pkcs11js.CKM_AES_KEY_GEN },
            attributes({ CLASS: pkcs11js.CKO_SECRET_KEY, TOKEN: false, VALUE_LEN: 16 }),
        );
        assert.equal(attribute(made, "VALUE_LEN").readUInt32LE(), 16);
        const pair = await pkcs11.C_GenerateKeyPairAsync(
            session,
            { mechanism: pkcs11js.CKM_EC_KEY_PAIR_GEN },
            attributes({ TOKEN: false, EC_PARAMS: P256 }),
            attributes({ TOKEN: false }),
        );
        assert.deepEqual(attribute(pair.publicKey, "EC_PARAMS"), P256);
    });
});
