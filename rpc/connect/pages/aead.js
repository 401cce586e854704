// ChaCha20-Poly1305 of RFC 8439, which browsers do not have, without additional data. Numbers of Poly1305 are of any
// length here, and take a time that depends on them: what it seals is asked of wallets by hand, not by machines that
// measure.

// block returns 64 bytes of the key stream.
function block(key, nonce, counter) {
  const words = new Uint32Array(16);
  words.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let i = 0; i < 8; i++) words[4 + i] = view(key).getUint32(4 * i, true);
  words[12] = counter;
  for (let i = 0; i < 3; i++) words[13 + i] = view(nonce).getUint32(4 * i, true);
  const x = words.slice();
  const step = (a, b, d, turn) => {
    x[a] += x[b];
    const mixed = x[d] ^ x[a];
    x[d] = (mixed << turn) | (mixed >>> (32 - turn));
  };
  const quarter = (a, b, c, d) => { step(a, b, d, 16); step(c, d, b, 12); step(a, b, d, 8); step(c, d, b, 7); };
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 4; i++) quarter(i, 4 + i, 8 + i, 12 + i);
    for (let i = 0; i < 4; i++) quarter(i, 4 + ((i + 1) % 4), 8 + ((i + 2) % 4), 12 + ((i + 3) % 4));
  }
  const out = new Uint8Array(64);
  for (let i = 0; i < 16; i++) view(out).setUint32(4 * i, x[i] + words[i], true);
  return out;
}

/** stream is ChaCha20 alone, from a block on: it seals and opens, and proves nothing. */
export function stream(key, nonce, text, first) {
  const out = text.slice();
  for (let i = 0; i < out.length; i += 64) {
    const mask = block(key, nonce, first + i / 64);
    for (let j = i; j < Math.min(i + 64, out.length); j++) out[j] ^= mask[j - i];
  }
  return out;
}

const number = (bytes) => bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);

// tag is what proves that a sealed text is whole.
function tag(key, nonce, sealed) {
  const once = block(key, nonce, 0);
  const r = number(once.subarray(0, 16)) & 0x0ffffffc0ffffffc0ffffffc0fffffffn;
  const lengths = new Uint8Array(16);
  new DataView(lengths.buffer).setUint32(8, sealed.length, true);
  let sum = 0n;
  const add = (part) => {
    const padded = new Uint8Array(17);
    padded.set(part);
    padded[16] = 1;
    sum = ((sum + number(padded)) * r) % ((1n << 130n) - 5n);
  };
  for (let i = 0; i < sealed.length; i += 16) add(sealed.subarray(i, i + 16));
  add(lengths);
  sum += number(once.subarray(16, 32));
  return Uint8Array.from({ length: 16 }, (_, i) => Number((sum >> BigInt(8 * i)) & 0xffn));
}

/** seal returns the sealed text and its tag: 16 bytes more. key has 32 bytes, nonce 12 that are never used again. */
export function seal(key, nonce, text) {
  const sealed = stream(key, nonce, text, 1);
  const out = new Uint8Array(sealed.length + 16);
  out.set(sealed);
  out.set(tag(key, nonce, sealed), sealed.length);
  return out;
}

/** open returns what was sealed, and throws if that is not whole. */
export function open(key, nonce, whole) {
  const sealed = whole.subarray(0, Math.max(0, whole.length - 16));
  const expected = tag(key, nonce, sealed);
  const got = whole.subarray(sealed.length);
  if (got.length !== 16 || expected.some((byte, i) => byte !== got[i])) throw new Error("sealed by another key, or changed");
  return stream(key, nonce, sealed, 1);
}
