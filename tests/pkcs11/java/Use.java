import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.SecureRandom;
import java.security.Security;
import java.security.Signature;
import java.security.spec.AlgorithmParameterSpec;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PSSParameterSpec;
import java.util.Arrays;
import javax.crypto.Cipher;
import javax.crypto.KeyAgreement;
import javax.crypto.KeyGenerator;
import javax.crypto.Mac;
import javax.crypto.SecretKey;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.IvParameterSpec;

/**
 * Uses a token through SunPKCS11 and compares with Java's own algorithms.
 *
 * <p>Arguments: the provider's configuration, the PIN, and the aliases of an RSA and an EC key. Prints a line for each step.
 */
public final class Use {
    private static final byte[] DATA = new byte[100_000];
    private static Provider token;

    public static void main(String[] arguments) throws Exception {
        token = Security.getProvider("SunPKCS11").configure(arguments[0]);
        // Last in the list: where no provider is named, Java's own are used.
        Security.addProvider(token);
        SecureRandom.getInstance("PKCS11", token).nextBytes(DATA);
        // Before the login: Java 17 closes the session of each digest, the last one of the token too, which logs out
        // (with SoftHSM, too).
        digests();

        char[] pin = arguments[1].toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS11", token);
        store.load(null, pin);
        for (String algorithm : new String[] {"SHA1withRSA", "SHA256withRSA", "SHA512withRSA"}) {
            signs(store, arguments[2], algorithm, null);
        }
        for (String hash : new String[] {"SHA-256", "SHA-512"}) {
            int length = hash.equals("SHA-256") ? 32 : 64;
            signs(store, arguments[2], "RSASSA-PSS", new PSSParameterSpec(hash, "MGF1", new MGF1ParameterSpec(hash), length, 1));
        }
        for (String algorithm : new String[] {"SHA256withECDSA", "SHA384withECDSA", "SHA512withECDSA"}) {
            signs(store, arguments[3], algorithm, null);
        }
        decrypts(store, arguments[2]);
        SecretKey key = generated("AES", 256);
        byte[] initial = Arrays.copyOf(DATA, 16);
        encrypts(key, "AES/ECB/NoPadding", null);
        encrypts(key, "AES/CBC/NoPadding", new IvParameterSpec(initial));
        encrypts(key, "AES/CBC/PKCS5Padding", new IvParameterSpec(initial));
        encrypts(key, "AES/CTR/NoPadding", new IvParameterSpec(initial));
        encrypts(key, "AES/GCM/NoPadding", new GCMParameterSpec(128, initial, 0, 12));
        authenticates();
        agrees();
        stores(store, key, pin);
    }

    private static void digests() throws Exception {
        for (String algorithm : new String[] {"SHA-1", "SHA-224", "SHA-256", "SHA-384", "SHA-512", "SHA3-256", "SHA3-512"}) {
            MessageDigest digest = MessageDigest.getInstance(algorithm, token);
            digest.update(DATA, 0, 1_000);
            digest.update(DATA, 1_000, DATA.length - 1_000);
            same(algorithm, MessageDigest.getInstance(algorithm, "SUN").digest(DATA), digest.digest());
        }
    }

    private static void signs(KeyStore store, String alias, String algorithm, AlgorithmParameterSpec parameters) throws Exception {
        Signature signer = Signature.getInstance(algorithm, token);
        Signature verifier = Signature.getInstance(algorithm, algorithm.endsWith("ECDSA") ? "SunEC" : "SunRsaSign");
        if (parameters != null) {
            signer.setParameter(parameters);
            verifier.setParameter(parameters);
        }
        signer.initSign((PrivateKey) store.getKey(alias, null));
        signer.update(DATA, 0, 1_000);
        signer.update(DATA, 1_000, DATA.length - 1_000);
        byte[] signature = signer.sign();
        verifier.initVerify(store.getCertificate(alias));
        verifier.update(DATA);
        holds(algorithm, verifier.verify(signature));
        signer.initVerify(store.getCertificate(alias));
        signer.update(DATA);
        holds(algorithm + " verified by the token", signer.verify(signature));
        signer.initVerify(store.getCertificate(alias));
        signer.update(DATA, 1, DATA.length - 1);
        holds(algorithm + " of other data", !signer.verify(signature));
    }

    private static void decrypts(KeyStore store, String alias) throws Exception {
        byte[] message = Arrays.copyOf(DATA, 32);
        Cipher encrypt = Cipher.getInstance("RSA/ECB/PKCS1Padding", "SunJCE");
        encrypt.init(Cipher.ENCRYPT_MODE, store.getCertificate(alias).getPublicKey());
        Cipher decrypt = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
        decrypt.init(Cipher.DECRYPT_MODE, store.getKey(alias, null));
        same("RSA/ECB/PKCS1Padding", message, decrypt.doFinal(encrypt.doFinal(message)));

        SecretKey key = generated("AES", 128);
        Cipher wrap = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
        wrap.init(Cipher.WRAP_MODE, store.getCertificate(alias).getPublicKey());
        Cipher unwrap = Cipher.getInstance("RSA/ECB/PKCS1Padding", token);
        unwrap.init(Cipher.UNWRAP_MODE, store.getKey(alias, null));
        SecretKey unwrapped = (SecretKey) unwrap.unwrap(wrap.wrap(key), "AES", Cipher.SECRET_KEY);
        Cipher one = Cipher.getInstance("AES/ECB/NoPadding", token);
        one.init(Cipher.ENCRYPT_MODE, key);
        Cipher other = Cipher.getInstance("AES/ECB/NoPadding", token);
        other.init(Cipher.DECRYPT_MODE, unwrapped);
        same("wrapped and unwrapped", message, other.doFinal(one.doFinal(message)));
    }

    private static void encrypts(SecretKey key, String mode, AlgorithmParameterSpec parameters) throws Exception {
        Cipher cipher = Cipher.getInstance(mode, token);
        byte[] data = Arrays.copyOf(DATA, 96 * 1024);
        cipher.init(Cipher.ENCRYPT_MODE, key, parameters);
        byte[] encrypted = inParts(cipher, data);
        cipher.init(Cipher.DECRYPT_MODE, key, parameters);
        same(mode, data, inParts(cipher, encrypted));
        Cipher own = Cipher.getInstance(mode, "SunJCE");
        own.init(Cipher.DECRYPT_MODE, new javax.crypto.spec.SecretKeySpec(key.getEncoded(), "AES"), parameters);
        same(mode + " for Java", data, own.doFinal(encrypted));
    }

    private static byte[] inParts(Cipher cipher, byte[] data) throws Exception {
        var result = new java.io.ByteArrayOutputStream();
        for (int start = 0; start < data.length; start += 10_007) {
            byte[] part = cipher.update(data, start, Math.min(10_007, data.length - start));
            if (part != null) {
                result.write(part);
            }
        }
        result.write(cipher.doFinal());
        return result.toByteArray();
    }

    private static void authenticates() throws Exception {
        for (String algorithm : new String[] {"HmacSHA1", "HmacSHA256", "HmacSHA384", "HmacSHA512"}) {
            SecretKey key = generated(algorithm, 256);
            Mac mac = Mac.getInstance(algorithm, token);
            mac.init(key);
            mac.update(DATA, 0, 1_000);
            mac.update(DATA, 1_000, DATA.length - 1_000);
            Mac own = Mac.getInstance(algorithm, "SunJCE");
            own.init(new javax.crypto.spec.SecretKeySpec(key.getEncoded(), algorithm));
            same(algorithm, own.doFinal(DATA), mac.doFinal());
        }
    }

    private static void agrees() throws Exception {
        for (String curve : new String[] {"secp256r1", "secp384r1", "secp521r1"}) {
            KeyPair inside = pair(curve, token.getName());
            KeyPair outside = pair(curve, "SunEC");
            KeyAgreement ours = KeyAgreement.getInstance("ECDH", token);
            ours.init(inside.getPrivate());
            ours.doPhase(outside.getPublic(), true);
            KeyAgreement theirs = KeyAgreement.getInstance("ECDH", "SunEC");
            theirs.init(outside.getPrivate());
            theirs.doPhase(inside.getPublic(), true);
            same("ECDH on " + curve, theirs.generateSecret(), ours.generateSecret());
        }
    }

    private static KeyPair pair(String curve, String provider) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC", provider);
        generator.initialize(new ECGenParameterSpec(curve));
        return generator.generateKeyPair();
    }

    private static void stores(KeyStore store, SecretKey key, char[] pin) throws Exception {
        store.setKeyEntry("stored", key, null, null);
        KeyStore again = KeyStore.getInstance("PKCS11", token);
        again.load(null, pin);
        holds("stored", again.isKeyEntry("stored"));
        again.deleteEntry("stored");
        holds("deleted", !again.containsAlias("stored"));
    }

    private static SecretKey generated(String algorithm, int bits) throws Exception {
        KeyGenerator generator = KeyGenerator.getInstance(algorithm, token);
        generator.init(bits);
        return generator.generateKey();
    }

    private static void same(String step, byte[] expected, byte[] found) {
        holds(step, Arrays.equals(expected, found));
    }

    private static void holds(String step, boolean condition) {
        if (!condition) {
            throw new AssertionError(step);
        }
        System.out.println(step + ": ok");
    }

    private Use() {}
}
