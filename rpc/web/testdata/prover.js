// Makes state proofs as protocol/SPEC.md §12 and §13 have them, and any that are wrong in one thing: what signs
// here signs everything. Hashes and keys are Uint8Arrays in internal byte order.
import { sha256 } from "../keytree.js";

const utf8 = (text) => new TextEncoder().encode(text);

export function join(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) whole.set(part, at), at += part.length;
  return whole;
}

/** little writes a number of n bytes. */
export const little = (number, n) => Uint8Array.from({ length: n }, (_, i) => Math.floor(number / 256 ** i) & 255);

/** filled is a hash or key of one byte, again and again, with a number at its end. */
export function filled(byte, size, number = 0) {
  const bytes = new Uint8Array(size).fill(byte);
  if (number > 0) bytes.set(little(number, 4), size - 4);
  return bytes;
}

export const hash = (byte, number) => filled(byte, 32, number), key = (byte, number) => filled(byte, 20, number);
const none = { key: new Uint8Array(20), hash: new Uint8Array(32) };

export const base64 = (bytes) => {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
};

/** keyRecord is the record of a key: a root has an id, another one a parent and the MLA. */
export const keyRecord = ({ of, parent = none.key, accept = none.hash, id = none.hash, height = 100 }) => join([1], of, parent, accept, id, little(height, 4));

/** idRecord is the record of an id: a current one has a root, a merged one the id that it merged into. */
export const idRecord = ({ of, root = none.key, into = none.hash, state = root === none.key ? 1 : 0 }) => join([2], of, [state], root, into);

export const mapKey = (record) => (record[0] === 1 ? sha256(join(utf8("keytree/key\0"), record.subarray(1, 21))) : sha256(join(utf8("keytree/id\0"), record.subarray(1, 33))));

const bitOf = (bytes, bit) => (bytes[bit >> 3] >> (7 - (bit & 7))) & 1;

/** Trie is the map of some records. */
export class Trie {
  constructor(records) {
    const leaves = records.map((record) => ({ key: mapKey(record), record })).sort((a, b) => (compare(a.key, b.key)));
    this.whole = leaves.length > 0 ? this.#node(leaves, 0) : undefined;
    this.hash = this.whole?.hash ?? sha256(new Uint8Array(0));
  }

  #node(leaves, bit) {
    if (leaves.length === 1) {
      const [{ key, record }] = leaves;
      return { key, record, hash: sha256(join([0, 32], key, [record.length], record)) };
    }
    while (bitOf(leaves[0].key, bit) === bitOf(leaves.at(-1).key, bit)) bit++;
    const middle = leaves.findIndex(({ key }) => bitOf(key, bit) === 1), left = this.#node(leaves.slice(0, middle), bit + 1), right = this.#node(leaves.slice(middle), bit + 1);
    return { bit, left, right, hash: sha256(join([1], bit < 128 ? [bit] : [bit & 127 | 128, 1], left.hash, right.hash)) };
  }

  /** find is the leaf at which a look-up ends. */
  find(key) {
    let at = this.whole;
    while (at && !at.record) at = bitOf(key, at.bit) ? at.right : at.left;
    return at;
  }

  /** shown is the tree of a proof that shows some leaves; all of them if none are given. */
  shown(leaves) {
    return this.whole ? this.#shown(this.whole, leaves) : Uint8Array.of(0);
  }

  /** #shown is undefined if nothing is to be shown of a node. */
  #shown(node, leaves) {
    if (node.record) return !leaves || leaves.has(node) ? join([1], node.record) : undefined;
    const left = this.#shown(node.left, leaves), right = this.#shown(node.right, leaves);
    return left || right ? join([left && right ? 2 : left ? 4 : 3, node.bit], left ?? node.left.hash, right ?? node.right.hash) : undefined;
  }

  /** walk adds the leaves by which the walk of a subject comes. */
  walk(subject, leaves) {
    for (let at = mapKey(subject); ;) {
      const leaf = this.find(at);
      if (!leaf) return;
      leaves.add(leaf);
      if (compare(leaf.key, at) !== 0) return;
      const { record } = leaf, next = record[0] === 1 ? record.subarray(21, 41) : record.subarray(54, 86);
      if (next.every((byte) => byte === 0)) return;
      at = mapKey(join([record[0]], next));
    }
  }
}

function compare(a, b) {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return 0;
}

/**
 * deep is what a proof shows of records in a map with so many levels above them as 2^levels others would make,
 * whose hashes are made up.
 */
export function deep(records, levels) {
  const below = (leaves, bit) => {
    if (bit === levels) {
      const trie = new Trie(leaves);
      return { tree: trie.shown(), root: trie.hash };
    }
    const sides = [0, 1].map((side) => leaves.filter((record) => bitOf(mapKey(record), bit) === side));
    const [left, right] = sides.map((side, i) => (side.length > 0 ? below(side, bit + 1) : { tree: hash(0x40 + i, bit + 1), root: hash(0x40 + i, bit + 1) }));
    return { tree: join([sides[0].length === 0 ? 3 : sides[1].length === 0 ? 4 : 2, bit], left.tree, right.tree), root: sha256(join([1, bit], left.root, right.root)) };
  };
  return below(records, 0);
}

const size = (n) => (n < 253 ? [n] : join([253], little(n, 2)));

/** transaction has outputs with some scripts. */
export const transaction = (...scripts) => join(little(2, 4), [1], hash(1), little(0, 4), size(100), filled(0, 100), little(0, 4),
  size(scripts.length), ...scripts.map((script) => join(little(546, 8), size(script.length), script)), little(0, 4));

/** action is the script of an action: its kind's byte, and its items. */
export const action = (kind, ...items) => join([0x6a, 0x02, 0x6d, kind], ...items.map((item) => join([item.length], item)));

export const txidOf = (raw) => sha256(sha256(raw));

/**
 * mined puts a transaction into a block at an index of a branch, and mines that on regtest; change may spoil the header. What
 * it makes goes into a proof when its block is in the log: see World.
 */
export function mined(raw, { height = 90, index = 1, branch = [hash(8), hash(9)], bits = 0x207fffff, change = (header) => header } = {}) {
  let root = txidOf(raw);
  branch.forEach((sibling, i) => { root = txidOf((index >> i) & 1 ? join(sibling, root) : join(root, sibling)); });
  for (let nonce = 0; ; nonce++) {
    const header = change(join(little(1, 4), hash(3), root, little(0, 4), little(bits, 4), little(nonce, 4)));
    if (txidOf(header)[31] < 0x7f) return join(little(height, 4), header, little(index, 4), [branch.length], ...branch, little(raw.length, 4), raw);
  }
}

/** keySubject and idSubject are what a proof is about. */
export const keySubject = (of) => join([1], of), idSubject = (of) => join([2], of);

/** Signer has a key of a log (type 1) or of a witness (type 4). */
export class Signer {
  static async make(name, type) {
    const signer = new Signer(), pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
    const encoded = join([type], new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey)));
    const id = sha256(join(utf8(name), [10], encoded)).subarray(0, 4);
    return Object.assign(signer, { name, type, pair, id, vkey: `${name}+${Array.from(id, (b) => b.toString(16).padStart(2, "0")).join("")}+${base64(encoded)}` });
  }

  /** sign makes the line of a signed note; a witness says when. */
  async sign(text, time = 0) {
    const before = this.type === 4 ? utf8(`cosignature/v1\ntime ${time}\n`) : [], big = this.type === 4 ? little(time, 8).reverse() : [];
    const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", this.pair.privateKey, join(before, utf8(text))));
    return this.line(join(big, signature));
  }

  line(signature) {
    return `— ${this.name} ${base64(join(this.id, signature))}\n`;
  }
}

const leafHash = (entry) => sha256(join([0], entry)), nodeHash = (left, right) => sha256(join([1], left, right));

/** rootOf and inclusionOf are RFC 6962's §2.1, by its own words. */
export function rootOf(leaves) {
  if (leaves.length === 1) return leaves[0];
  const k = split(leaves.length);
  return nodeHash(rootOf(leaves.slice(0, k)), rootOf(leaves.slice(k)));
}

export function inclusionOf(leaves, index) {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return index < k ? [...inclusionOf(leaves.slice(0, k), index), rootOf(leaves.slice(k))] : [...inclusionOf(leaves.slice(k), index - k), rootOf(leaves.slice(0, k))];
}

const split = (n) => 2 ** Math.floor(Math.log2(n - 1));

/** entryOf is the entry of a block. */
export const entryOf = ({ height, block = hash(0xb0, height), stateHash = hash(0x5a, height), root }) => join(utf8("KTS\0"), [1], little(height, 4), block, stateHash, root);

/** extraOf is what a proof shows. */
export const extraOf = ({ entry, subjects, tree, transactions = [] }) => join(utf8("KTP\0"), [1], entry, little(subjects.length, 2), ...subjects, tree, little(transactions.length, 2), ...transactions);

/**
 * proofOf writes the file: of the entry at index among leaves, with a checkpoint that is signed by all signers,
 * witnesses at a time each.
 */
export async function proofOf({ extra, entry, leaves = [], index = 0, origin = "log.example/state/regtest/1/1", signers, more = "" }) {
  const all = leaves.with(index, leafHash(entry)), text = `${origin}\n${all.length}\n${base64(rootOf(all))}\n${more}`;
  const lines = await Promise.all(signers.map(([signer, time]) => signer.sign(text, time)));
  return `c2sp.org/tlog-proof@v1\nextra ${base64(extra)}\nindex ${index}\n${inclusionOf(all, index).map((one) => `${base64(one)}\n`).join("")}\n${text}\n${lines.join("")}`;
}

/** World is a log of one block with some records, two witnesses, and a policy that wants both. */
export class World {
  static async make(records, { height = 103, block, size = 7, index = 5, origin = "log.example/state/regtest/1/1" } = {}) {
    const [log, one, two, stranger] = await Promise.all([Signer.make(origin, 1), Signer.make("one.example/w", 4), Signer.make("two.example/w", 4), Signer.make("stranger.example", 4)]);
    const policy = `# whom to believe\nlog ${log.vkey}\nwitness one ${one.vkey} https://one.example/\nwitness two ${two.vkey}\ngroup both all one two\nquorum both\n`;
    const trie = new Trie(records), entry = entryOf({ height, block, root: trie.hash }), leaves = Array.from({ length: size }, (_, i) => leafHash(hash(7, i + 1)));
    return Object.assign(new World(), { log, one, two, stranger, policy, trie, entry, leaves, height, index, origin, time: 1_800_000_000 });
  }

  signers() {
    return [[this.log], [this.stranger, this.time], [this.one, this.time], [this.two, this.time + 60]];
  }

  /**
   * logged has the log sign the blocks of transactions that were mined, and puts the entry's H and R and its inclusion proof
   * behind each. Below its start the log goes on from its end: what takes an index below 0 takes that.
   */
  logged(...transactions) {
    const blocks = transactions.map((bytes) => {
      const height = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true), size = this.leaves.length;
      const at = (((this.index + height - this.height) % size) + size) % size;
      return { bytes, at, entry: entryOf({ height, block: txidOf(bytes.subarray(4, 84)), root: hash(0x5b, height) }) };
    });
    for (const { at, entry } of blocks) this.leaves = this.leaves.with(at, leafHash(entry));
    const all = this.leaves.with(this.index, leafHash(this.entry));
    return blocks.map(({ bytes, at, entry }) => {
      const proof = inclusionOf(all, at);
      return join(bytes, at === this.index ? this.entry.subarray(-64) : entry.subarray(-64), [proof.length], ...proof);
    });
  }

  /** extra is what is shown of subjects. */
  extra(subjects, transactions = [], leaves = new Set()) {
    for (const subject of subjects) this.trie.walk(subject, leaves);
    return extraOf({ entry: this.entry, subjects, tree: this.trie.shown(leaves), transactions });
  }

  /** proof is the file with what is shown, and whatever else is to be other than it should. */
  proof(extra, other = {}) {
    return proofOf({ extra, entry: this.entry, leaves: this.leaves, index: this.index, origin: this.origin, signers: this.signers(), ...other });
  }
}
