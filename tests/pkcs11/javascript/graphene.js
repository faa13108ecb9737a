// graphene-pk11 as its documentation shows it: objects around the functions of PKCS #11.
// Environment: LIBRARY, a path, PIN and SO_PIN, of the token in the first slot.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const { after, before, describe, it } = require("node:test");
const { promisify } = require("node:util");
const graphene = require("graphene-pk11");

const { KeyGenMechanism, KeyType, MechanismEnum, ObjectClass, RsaMgf, SessionFlag, UserType } = graphene;
const MESSAGE = "Test message for crypto operations";
const AES = { class: ObjectClass.SECRET_KEY, keyType: KeyType.AES, token: false };

let module_;
let slot;
let session;

before(() => {
    module_ = graphene.Module.load(process.env.LIBRARY, "emulator");
    module_.initialize();
    slot = module_.getSlots(0);
    session = slot.open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
    session.login(process.env.PIN);
});

after(() => {
    session.logout();
    session.close();
    module_.finalize();
    module_.close();
});

function aesKey(more = {}) {
    return session.generateKey(KeyGenMechanism.AES, { ...AES, valueLen: 32, encrypt: true, decrypt: true, ...more });
}

function rsaKeys() {
    return session.generateKeyPair(
        KeyGenMechanism.RSA,
        { keyType: KeyType.RSA, modulusBits: 2048, publicExponent: Buffer.from([3]), token: false, verify: true, encrypt: true, wrap: true },
        { keyType: KeyType.RSA, token: false, sign: true, decrypt: true, unwrap: true },
    );
}

function ecKeys(curve) {
    return session.generateKeyPair(
        KeyGenMechanism.EC,
        { keyType: KeyType.EC, paramsEC: curve, token: false, verify: true, derive: true },
        { keyType: KeyType.EC, token: false, sign: true, derive: true },
    );
}

// A public key of another program.
function publicKey(label) {
    const { publicKey: made } = crypto.generateKeyPairSync("rsa", { modulusLength: 1024 });
    const { n, e } = made.export({ format: "jwk" });
    const [modulus, publicExponent] = [n, e].map((number) => Buffer.from(number, "base64url"));
    return session.create({ class: ObjectClass.PUBLIC_KEY, keyType: KeyType.RSA, wrap: true, label, modulus, publicExponent });
}

describe("module and slot", () => {
    it("describes library, slot and token", () => {
        assert.match(module_.manufacturerID, /HSM emulator/);
        assert.equal(module_.cryptokiVersion.major, 2);
        assert.equal(module_.getSlots(true).length, 2, "this one, and one for the next token");
        assert.ok(slot.flags & graphene.SlotFlag.TOKEN_PRESENT);
        const token = slot.getToken();
        assert.equal(token.label, "My slot 0");
        assert.deepEqual([token.minPinLen, token.maxPinLen], [4, 255]);
        const wanted = ["RNG", "LOGIN_REQUIRED", "USER_PIN_INITIALIZED", "TOKEN_INITIALIZED"];
        assert.ok(wanted.every((name) => token.flags & graphene.TokenFlag[name]));
    });

    it("lists mechanisms by name", () => {
        const mechanisms = slot.getMechanisms();
        const names = [];
        for (let index = 0; index < mechanisms.length; index++) {
            const mechanism = mechanisms.items(index);
            assert.ok(mechanism.minKeySize <= mechanism.maxKeySize, mechanism.name);
            names.push(mechanism.name);
        }
        for (const name of ["RSA_PKCS", "AES_CBC_PAD", "ECDH1_DERIVE", "SHA256"]) {
            assert.ok(names.includes(name), name);
        }
    });
});

describe("session", () => {
    it("changes the PINs of user and security officer", () => {
        session.logout();
        const pins = { USER: process.env.PIN, SO: process.env.SO_PIN };
        for (const [user, pin] of Object.entries(pins)) {
            for (const [old, changed] of [[pin, "987654"], ["987654", pin]]) {
                session.login(old, UserType[user]);
                session.setPin(old, changed);
                session.logout();
            }
        }
        assert.throws(() => session.login("wrong pin"), /CKR_PIN_INCORRECT/);
        session.login(process.env.PIN);
    });

    it("closes the sessions of one slot alone", () => {
        // Of the other slot, whose token nobody has initialised: this one's session is needed.
        const other = module_.getSlots(1);
        assert.throws(() => other.open(), /CKR_TOKEN_NOT_RECOGNIZED/);
        other.closeAll();
        assert.equal(session.generateRandom(8).length, 8);
    });

    it("gives random bytes", () => {
        assert.equal(session.generateRandom(64).length, 64);
    });

    it("hashes", () => {
        const digest = session.createDigest("sha1");
        digest.update("simple text 1");
        digest.update("simple text 2");
        assert.equal(digest.final().toString("hex"), "e1dc1e52e9779cd69679b3e0af87d2e288190d34");
        for (const name of ["SHA224", "SHA256", "SHA384", "SHA512"]) {
            const expected = crypto.createHash(name).update(MESSAGE).digest();
            assert.deepEqual(session.createDigest(name).once(MESSAGE), expected);
        }
    });
});

describe("objects", () => {
    it("creates and copies a public key, and changes its attributes", () => {
        const key = publicKey("label");
        assert.equal(key.getAttribute("wrap"), true);
        assert.deepEqual(key.getAttribute({ wrap: null, label: null }), { wrap: true, label: "label" });
        assert.ok(key.size > 0);
        const copy = key.copy({ label: "of the copy" }).toType();
        assert.equal(copy.label, "of the copy");
        key.setAttribute("label", "new");
        assert.equal(key.getAttribute("label"), "new");
        key.setAttribute({ label: "newer" });
        assert.equal(key.toType().label, "newer");
        copy.destroy();
        key.destroy();
    });

    it("keeps a public key that nobody could use", () => {
        // Its modulus is 1 in 128 bytes, as in this package's own tests: numbers are looked at when a key is used.
        const modulus = Buffer.alloc(128);
        modulus[127] = 1;
        const template = { class: ObjectClass.PUBLIC_KEY, keyType: KeyType.RSA, wrap: true, publicExponent: Buffer.from([1, 0, 1]) };
        session.create({ ...template, modulus }).destroy();
    });

    it("keeps data, and finds them in their order", () => {
        const before = session.find().length;
        for (const label of ["first", "second", "third"]) {
            const template = { class: ObjectClass.DATA, application: "tests", label, objectId: Buffer.from([1]) };
            session.create({ ...template, value: Buffer.from(`value of ${label}`) });
        }
        assert.equal(session.find().length, before + 3);
        const found = session.find({ application: "tests" });
        const labels = [];
        for (let index = 0; index < found.length; index++) {
            const data = found.items(index).toType();
            assert.equal(data.value.toString(), `value of ${data.label}`);
            assert.equal(data.token, false);
            assert.equal(data.modifiable, true);
            assert.equal(data.objectId.toString("hex"), "01");
            labels.push(data.label);
        }
        assert.deepEqual(labels, ["first", "second", "third"]);
        assert.equal(session.destroy({ label: "second" }), 1);
        session.destroy(session.find({ label: "first" }).items(0));
        assert.equal(session.find().length, before + 1);
        session.clear();
        assert.equal(session.find().length, 0);
    });

    it("gets an object by its handle", () => {
        const key = aesKey();
        assert.equal(session.getObject(key.handle).getAttribute("valueLen"), 32);
        assert.equal(session.getObject(Buffer.alloc(8, 0xff)), null);
    });

    it("keeps a certificate", () => {
        const template = { class: ObjectClass.CERTIFICATE, certType: graphene.CertificateType.X_509, private: false, token: false };
        const id = Buffer.from([1, 2, 3, 4, 5]);
        const subject = Buffer.from("300c310a300806035504030c0178", "hex");
        const value = Buffer.from("3003020101", "hex");
        const certificate = session.create({ ...template, id, label: "My certificate", subject, value }).toType();
        assert.equal(certificate.label, "My certificate");
        assert.deepEqual([certificate.id, certificate.subject, certificate.value], [id, subject, value]);
        assert.equal(graphene.CertificateCategory[certificate.category], "Unspecified");
        assert.equal(certificate.getAttribute("javaDomain"), 0);
        certificate.destroy();
    });

    it("copies keys and says what they are", () => {
        const key = aesKey({ extractable: true, sensitive: false });
        assert.equal(key.checkValue.length, 3);
        assert.equal(key.encrypt, true);
        assert.equal(key.getAttribute("value").length, 32);
        const copy = session.copy(key, { label: "copy of key" });
        assert.deepEqual(copy.getAttribute("value"), key.getAttribute("value"));
        const { publicKey: found, privateKey } = rsaKeys();
        assert.equal(found.class, ObjectClass.PUBLIC_KEY);
        assert.equal(privateKey.class, ObjectClass.PRIVATE_KEY);
        assert.deepEqual(found.getAttribute("publicExponent"), Buffer.from([3]));
        assert.equal(found.getAttribute("modulus").length, 256);
    });
});

// Signs and verifies, in one part and in several, and sees that another message does not fit.
async function signs(algorithm, { privateKey, publicKey: verifying }, message = MESSAGE, inParts = true) {
    const signature = session.createSign(algorithm, privateKey).once(message);
    assert.equal(session.createVerify(algorithm, verifying).once(message, signature), true);
    const other = Buffer.from(message);
    other[0] ^= 1;
    assert.equal(session.createVerify(algorithm, verifying).once(other, signature), false);
    const signing = session.createSign(algorithm, privateKey);
    const promised = await promisify(signing.once.bind(signing))(message);
    assert.equal(session.createVerify(algorithm, verifying).once(message, promised), true);
    if (inParts) {
        const sign = session.createSign(algorithm, privateKey);
        sign.update(message);
        sign.update(message);
        const verify = session.createVerify(algorithm, verifying);
        verify.update(message);
        verify.update(message);
        assert.equal(verify.final(sign.final()), true);
    }
}

describe("RSA", () => {
    let keys;
    let secret;
    before(() => {
        keys = rsaKeys();
        secret = aesKey({ extractable: true, sensitive: false });
    });

    for (const hash of ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"]) {
        it(`signs with ${hash}`, () => signs(`${hash}_RSA_PKCS`, keys));
        it(`signs with ${hash} and PSS`, () => {
            const length = crypto.createHash(hash).digest().length;
            const params = new graphene.RsaPssParams(MechanismEnum[hash], RsaMgf[`MGF1_${hash}`], length);
            return signs({ name: `${hash}_RSA_PKCS_PSS`, params }, keys);
        });
    }

    it("signs what is hashed already", () => signs("RSA_PKCS", keys, MESSAGE, false));

    for (const [name, algorithm] of [
        ["PKCS #1", "RSA_PKCS"],
        ["OAEP", { name: "RSA_PKCS_OAEP", params: new graphene.RsaOaepParams() }],
        ["OAEP with SHA-256", { name: "RSA_PKCS_OAEP", params: new graphene.RsaOaepParams(MechanismEnum.SHA256, RsaMgf.MGF1_SHA256) }],
        ["OAEP with a label", { name: "RSA_PKCS_OAEP", params: new graphene.RsaOaepParams(MechanismEnum.SHA1, RsaMgf.MGF1_SHA1, Buffer.from("label")) }],
    ]) {
        it(`encrypts and wraps with ${name}`, async () => {
            const encrypted = session.createCipher(algorithm, keys.publicKey).once(MESSAGE, Buffer.alloc(4096));
            const decrypted = session.createDecipher(algorithm, keys.privateKey).once(encrypted, Buffer.alloc(4096));
            assert.equal(decrypted.toString(), MESSAGE);
            const wrapped = session.wrapKey(algorithm, keys.publicKey, secret);
            const template = { ...AES, extractable: true, sensitive: false, encrypt: true, decrypt: true };
            const unwrapped = session.unwrapKey(algorithm, keys.privateKey, wrapped, template);
            assert.deepEqual(unwrapped.getAttribute("value"), secret.getAttribute("value"));
            const again = await promisify(session.wrapKey.bind(session))(algorithm, keys.publicKey, secret);
            assert.equal(again.length, 256);
        });
    }
});

describe("EC", () => {
    for (const name of ["secp192r1", "secp256r1", "secp384r1", "secp521r1", "secp256k1"]) {
        it(`signs on ${name}`, async () => {
            const keys = ecKeys(graphene.NamedCurve.getByName(name).value);
            await signs("ECDSA", keys, "1234567890abcdef", false);
            for (const hash of ["SHA1", "SHA224", "SHA256", "SHA384", "SHA512"]) {
                await signs(`ECDSA_${hash}`, keys);
            }
        });
    }

    it("lets templates name uses that are not of the key's type", () => {
        const more = { token: false, encrypt: true, wrap: true };
        const curve = graphene.NamedCurve.getByName("secp256r1").value;
        session.generateKeyPair(
            KeyGenMechanism.EC,
            { keyType: KeyType.EC, paramsEC: curve, verify: true, ...more },
            { keyType: KeyType.EC, sign: true, token: false, decrypt: true, unwrap: true },
        );
    });

    for (const kdf of ["NULL", "SHA1"]) {
        it(`derives a key with ${kdf}`, async () => {
            const [ours, theirs] = [0, 1].map(() => ecKeys(graphene.NamedCurve.getByName("secp256r1").value));
            const point = (keys) => keys.publicKey.getAttribute({ pointEC: null }).pointEC;
            const algorithm = (keys) => ({ name: "ECDH1_DERIVE", params: new graphene.EcdhParams(graphene.EcKdf[kdf], null, point(keys)) });
            const template = { ...AES, valueLen: 32, encrypt: true, decrypt: true, extractable: true, sensitive: false };
            const key = session.deriveKey(algorithm(theirs), ours.privateKey, template);
            const derive = promisify(session.deriveKey.bind(session));
            const other = await derive(algorithm(ours), theirs.privateKey, template);
            assert.deepEqual(other.getAttribute("value"), key.getAttribute("value"));
        });
    }
});

describe("AES", () => {
    const iv = crypto.randomBytes(16);
    const blocks = "sixteen bytes ok".repeat(4);
    for (const [name, params] of [
        ["AES_ECB", null],
        ["AES_CBC", iv],
        ["AES_CBC_PAD", iv],
        ["AES_GCM", new graphene.AesGcmParams(iv.subarray(0, 12), Buffer.from("seen"), 128)],
    ]) {
        it(`encrypts and decrypts with ${name}`, () => {
            const key = aesKey();
            const algorithm = { name, params };
            const once = session.createCipher(algorithm, key).once(blocks, Buffer.alloc(256));
            assert.equal(session.createDecipher(algorithm, key).once(once, Buffer.alloc(256)).toString(), blocks);
            const cipher = session.createCipher(algorithm, key);
            const parts = Buffer.concat([cipher.update(blocks.slice(0, 20)), cipher.update(blocks.slice(20)), cipher.final()]);
            assert.deepEqual(parts, once);
            // The last call has to have room for everything where a tag decides whether there is a result at all:
            // with the 16 bytes that the package gives by default, SoftHSM says CKR_BUFFER_TOO_SMALL, too.
            const decipher = session.createDecipher(algorithm, key, 256);
            assert.equal(Buffer.concat([decipher.update(parts), decipher.final()]).toString(), blocks);
        });
    }

    it("derives a key by encrypting data", () => {
        const exposed = { extractable: true, sensitive: false };
        const key = aesKey({ derive: true, ...exposed });
        const data = crypto.randomBytes(32);
        const algorithm = { name: "AES_CBC_ENCRYPT_DATA", params: new graphene.AesCbcEncryptDataParams(iv, data) };
        const derived = session.deriveKey(algorithm, key, { ...AES, valueLen: 32, ...exposed });
        const cipher = crypto.createCipheriv("aes-256-cbc", key.getAttribute("value"), iv);
        assert.deepEqual(derived.getAttribute("value"), cipher.update(data));
    });
});
