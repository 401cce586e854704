// The state root: SPEC.md §12.

import { sha256 } from './wire.mjs';

const bit = (key, i) => (key[i >> 3] >> (7 - (i & 7))) & 1;

const uvarint = (n) => {
  const bytes = [];
  for (; n >= 0x80; n >>>= 7) bytes.push((n & 0x7f) | 0x80);
  return Buffer.from([...bytes, n]);
};

/** The hash of leaves in ascending order of their keys: {key, hash}. */
function hash(leaves) {
  if (leaves.length === 0) return sha256();
  if (leaves.length === 1) return leaves[0].hash;
  const first = leaves[0].key, last = leaves[leaves.length - 1].key;
  let b = 0;
  while (bit(first, b) === bit(last, b)) b++;
  const right = leaves.findIndex(({ key }) => bit(key, b) === 1);
  return sha256(Buffer.of(1), uvarint(b), hash(leaves.slice(0, right)), hash(leaves.slice(right)));
}

/** The root in hex of a map with these records, as Links.records gives them. */
export function stateRoot(records) {
  const leaves = Array.from(records, ([prefix, name, hex]) => {
    const key = sha256(prefix, Buffer.from(name, 'hex')), value = Buffer.from(hex, 'hex');
    return { key, hash: sha256(Buffer.of(0), uvarint(key.length), key, uvarint(value.length), value) };
  });
  leaves.sort((a, b) => Buffer.compare(a.key, b.key));
  return hash(leaves).toString('hex');
}
