// Compares ripemd160.js with OpenSSL's, and aead.js with OpenSSL's ChaCha20-Poly1305, and with the example of RFC 8439 §2.8.2 that has no additional data
// left: its ciphertext is the same.
import { createCipheriv, createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";

const load = async (name) => import(`data:text/javascript;base64,${(await readFile(new URL(`../pages/${name}`, import.meta.url))).toString("base64")}`);
const { seal, open } = await load("aead.js");
const { ripemd160 } = await load("ripemd160.js");

const fail = (text) => { console.error(text); process.exit(1); };
const unhex = (text) => Uint8Array.from(text.match(/../g), (byte) => parseInt(byte, 16));

for (let length = 0; length < 300; length++) {
  const [key, nonce, text] = [randomBytes(32), randomBytes(12), randomBytes(length)];
  const cipher = createCipheriv("chacha20-poly1305", key, nonce, { authTagLength: 16 });
  const want = Buffer.concat([cipher.update(text), cipher.final(), cipher.getAuthTag()]);
  const got = seal(Uint8Array.from(key), Uint8Array.from(nonce), Uint8Array.from(text));
  if (!want.equals(got)) fail(`${length} bytes: ${Buffer.from(got).toString("hex")}, want ${want.toString("hex")}`);
  if (!text.equals(open(Uint8Array.from(key), Uint8Array.from(nonce), got))) fail(`${length} bytes are opened wrongly`);
  for (const at of new Set([0, length, got.length - 1])) {
    const changed = got.slice();
    changed[at] ^= 1;
    try {
      open(Uint8Array.from(key), Uint8Array.from(nonce), changed);
    } catch { continue; }
    fail(`${length} bytes, of which one was changed, are opened`);
  }
  for (const short of [got.subarray(0, got.length - 1), got.subarray(0, 15)]) {
    try {
      open(Uint8Array.from(key), Uint8Array.from(nonce), short);
    } catch { continue; }
    fail("what is cut short is opened");
  }
}

const text = new TextEncoder().encode("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.");
const key = Uint8Array.from({ length: 32 }, (_, i) => 0x80 + i);
const sealed = Buffer.from(seal(key, unhex("070000004041424344454647"), text)).toString("hex");
if (!sealed.startsWith("d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6")) fail(`the example of RFC 8439 is ${sealed}`);

for (let i = 0; i < 200; i++) {
  const bytes = randomBytes(32);
  const want = createHash("ripemd160").update(bytes).digest("hex");
  const got = Buffer.from(ripemd160(Uint8Array.from(bytes))).toString("hex");
  if (got !== want) fail(`RIPEMD-160 of ${bytes.toString("hex")}: ${got}, want ${want}`);
}
