// An index of one chain: blocks in and out, and what two indexers compare.

import { actionOf, anchorOf, authorOf, readBlock, reversed, sha256 } from './wire.mjs';
import { Links } from './links.mjs';
import { Anchors } from './anchors.mjs';
import { stateRoot } from './statemap.mjs';

export class Index {
  #links = new Links();
  #anchors = new Anchors();
  #transactions = new Map(); // by txid, of all blocks that were ever connected
  #blocks = []; // {height, hash, stateHash, marks: where the maps stood before}
  #start;

  /** start is the height of the first block that is connected. */
  constructor(start) { this.#start = start; }

  /** The last block: height, hash in display order, and the state hash after it. */
  get tip() {
    const { height, hash, stateHash } = this.#blocks.at(-1);
    return { height, block: reversed(hash), stateHash };
  }
  get stateRoot() { return stateRoot(this.#links.records()); }

  /** Connects a serialized block, and returns its effects in hex. */
  connect(raw) {
    const block = readBlock(raw);
    const before = this.#blocks.at(-1);
    if (before && block.previous !== before.hash) throw new Error(`block ${reversed(block.hash)} does not follow ${reversed(before.hash)}`);
    for (const tx of block.txs) this.#transactions.set(tx.txid, tx);

    const height = before ? before.height + 1 : this.#start;
    const marks = this.#maps.map((m) => m.mark());
    const acts = block.txs.map((tx, index) => ({ txid: tx.txid, index, inputs: tx.inputs, ...actionOf(tx), record: anchorOf(tx) }));
    for (const [i, act] of acts.entries()) if (act.kind || act.record) act.author = authorOf(block.txs[i], this.#transactions);
    const effects = [...this.#links.connect(height, acts.filter((a) => a.kind)), ...this.#anchors.connect(acts)];

    const digest = sha256(Buffer.from(effects.join(''), 'hex'));
    const stateHash = sha256(Buffer.from(before?.stateHash ?? '00'.repeat(32), 'hex'), Buffer.from(block.hash, 'hex'), digest).toString('hex');
    this.#blocks.push({ height, hash: block.hash, stateHash, marks });
    return effects;
  }

  /** Takes the last block back. */
  disconnect() {
    const { marks } = this.#blocks.pop();
    this.#maps.forEach((m, i) => m.undo(marks[i]));
  }

  get #maps() { return [...this.#links.maps, ...this.#anchors.maps]; }
}
