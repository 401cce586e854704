// Blocks, transactions and scripts as bytes: SPEC.md §1 and §2, and the record of §10.
//
// Hashes are hex strings in internal byte order, so that they compare and serve as keys.

import { createHash } from 'node:crypto';

export const sha256 = (...parts) => {
  const h = createHash('sha256');
  for (const p of parts) h.update(p);
  return h.digest();
};
const hash256 = (bytes) => sha256(sha256(bytes));
const hash160 = (bytes) => createHash('ripemd160').update(sha256(bytes)).digest();

/** The other byte order of a hash in hex. */
export const reversed = (hex) => Buffer.from(hex, 'hex').reverse().toString('hex');

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  take(n) {
    if (n > this.bytes.length - this.at) throw new Error(`${n} bytes wanted at ${this.at}, which has ${this.bytes.length - this.at}`);
    this.at += n;
    return this.bytes.subarray(this.at - n, this.at);
  }
  uint32() { return this.take(4).readUInt32LE(); }
  /** A CompactSize, which must be the shortest. */
  size() {
    const first = this.take(1)[0];
    if (first < 0xfd) return first;
    const wide = { 0xfd: 2, 0xfe: 4, 0xff: 8 }[first];
    const bytes = this.take(wide);
    const n = wide === 2 ? bytes.readUInt16LE() : wide === 4 ? bytes.readUInt32LE() : Number(bytes.readBigUInt64LE());
    if (n < { 2: 0xfd, 4: 0x1_0000, 8: 0x1_0000_0000 }[wide]) throw new Error(`CompactSize at ${this.at} is not the shortest`);
    return n;
  }
}

function readTx(r) {
  const start = r.at;
  r.take(4); // version
  const inputs = Array.from({ length: r.size() }, () => {
    const txid = r.take(32).toString('hex');
    const index = r.uint32();
    const script = r.take(r.size());
    r.take(4); // sequence
    return { txid, index, script };
  });
  const outputs = Array.from({ length: r.size() }, () => {
    r.take(8); // satoshis
    return { script: r.take(r.size()) };
  });
  r.take(4); // lock time
  return { txid: hash256(r.bytes.subarray(start, r.at)).toString('hex'), inputs, outputs };
}

function merkleRoot(level) {
  while (level.length > 1) {
    const above = [];
    for (let i = 0; i < level.length; i += 2) above.push(hash256(Buffer.concat([level[i], level[i + 1] ?? level[i]])));
    level = above;
  }
  return level[0].toString('hex');
}

/** A serialized block: its hash, the hash of the one before, and its transactions. */
export function readBlock(bytes) {
  const r = new Reader(bytes);
  const header = r.take(80);
  const txs = Array.from({ length: r.size() }, () => readTx(r));
  if (r.at !== bytes.length) throw new Error(`${bytes.length - r.at} bytes after the last transaction`);
  if (merkleRoot(txs.map((tx) => Buffer.from(tx.txid, 'hex'))) !== header.subarray(36, 68).toString('hex')) throw new Error('merkle root differs');
  return { hash: hash256(header).toString('hex'), previous: header.subarray(4, 36).toString('hex'), txs };
}

/** The length of a valid CashTokens prefix (CHIP-2022-02), 0 if script does not start with one. */
function tokenPrefix(script) {
  if (script[0] !== 0xef) return 0;
  const r = new Reader(script);
  try {
    r.take(1 + 32);
    const bits = r.take(1)[0];
    const capability = bits & 0x0f, amount = bits & 0x10, nft = bits & 0x20, commitment = bits & 0x40;
    if (bits & 0x80 || capability > 2) return 0;
    if (nft ? false : !amount || commitment || capability) return 0;
    if (commitment) {
      const n = r.size();
      if (n < 1 || n > 128) return 0;
      r.take(n);
    }
    if (amount) {
      const start = r.at;
      r.size();
      const bytes = script.subarray(start, r.at);
      if (bytes.length === 1 && bytes[0] === 0) return 0;
      if (bytes.length === 9 && bytes.readBigUInt64LE(1) > 0x7fff_ffff_ffff_ffffn) return 0;
    }
    return r.at;
  } catch {
    return 0;
  }
}

const stripped = (script) => script.subarray(tokenPrefix(script));

/** The items that script pushes, or null if it does anything else, or ends within a push. */
function pushes(script) {
  const items = [];
  const r = new Reader(script);
  try {
    while (r.at < script.length) {
      const op = r.take(1)[0];
      if (op <= 0x4b) items.push(r.take(op));
      else if (op === 0x4c) items.push(r.take(r.take(1)[0]));
      else if (op === 0x4d) items.push(r.take(r.take(2).readUInt16LE()));
      else if (op === 0x4e) items.push(r.take(r.take(4).readUInt32LE()));
      else if (op === 0x4f) items.push(Buffer.from([0x81]));
      else if (op >= 0x51 && op <= 0x60) items.push(Buffer.from([op - 0x50]));
      else return null;
    }
  } catch {
    return null;
  }
  return items;
}

export const MLR = 1, MLA = 2, MCR = 3;

/** The action that a transaction carries: its kind, and its item in hex, null if it is malformed. */
export function actionOf(tx) {
  for (const output of tx.outputs) {
    const script = stripped(output.script);
    const prefix = script.subarray(0, 4).toString('hex');
    const kind = { '6a026d20': MLR, '6a026d21': MLA, '6a026d22': MCR }[prefix];
    if (kind === undefined) continue;
    const items = pushes(script.subarray(4));
    const wellFormed = items !== null && (items.length === 1 || items.length === 2) && items[0].length === (kind === MLR ? 20 : 32);
    return { kind, item: wellFormed ? items[0].toString('hex') : null };
  }
  return null;
}

const isHostName = (name) => name.split('.').every((label) => /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/.test(label));

/** The record of an anchor that a transaction carries, or null. */
export function anchorOf(tx) {
  for (const output of tx.outputs) {
    const script = stripped(output.script);
    if (script.subarray(0, 6).toString('hex') !== '6a044b484300') continue;
    const items = pushes(script.subarray(6));
    if (items === null || items.length !== 5) continue;
    const [version, domain, position, head, root] = items;
    if (version.length !== 1 || version[0] !== 1) continue;
    if (domain.length < 1 || domain.length > 63 || !isHostName(domain.toString('latin1'))) continue;
    if (position.length !== 8 || head.length !== 32 || root.length !== 32) continue;
    return { domain: domain.toString('latin1'), position: position.readBigUInt64LE(), head: head.toString('hex'), root: root.toString('hex') };
  }
  return null;
}

const isCoinbase = (tx) => tx.inputs[0].txid === '00'.repeat(32) && tx.inputs[0].index === 0xffff_ffff;

/**
 * The author of a transaction, a key in hex, or null. transactions has those on which it may
 * depend, by txid: they were hashed, so nobody's word is believed and no signature checked.
 */
export function authorOf(tx, transactions) {
  if (isCoinbase(tx)) return null;
  const { txid, index, script } = tx.inputs[0];
  const spent = transactions.get(txid)?.outputs[index];
  if (spent === undefined) throw new Error(`output ${index} of ${reversed(txid)}, which ${reversed(tx.txid)} spends, is missing`);
  const match = /^76a914(.{40})88ac$/.exec(stripped(spent.script).toString('hex'));
  const items = pushes(script);
  if (match === null || items === null || items.length !== 2) return null;
  const [signature, publicKey] = items;
  if (signature.length === 0) return null;
  const compressed = publicKey.length === 33 && (publicKey[0] === 2 || publicKey[0] === 3);
  if (!compressed && !(publicKey.length === 65 && publicKey[0] === 4)) return null;
  if (hash160(publicKey).toString('hex') !== match[1]) return null;
  const hashType = signature[signature.length - 1];
  if ((hashType & 0x1f) !== 1 || hashType & 0x80) return null;
  return match[1];
}
