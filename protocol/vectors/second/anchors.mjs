// Chains of anchors: SPEC.md §10, and the effects 08 and 09 of §9.

import { UndoableMap } from './undoable.mjs';

const NO_RECORD = 1, OTHER_DOMAIN = 2, NOT_BY_INPUT_0 = 3, LOWER_POSITION = 4, OTHER_HEAD = 5;

const byte = (n) => n.toString(16).padStart(2, '0');

export class Anchors {
  /** Open chains by the txid whose output 0 is the baton: {genesis, record}. */
  #open = new UndoableMap();
  #effects;

  get maps() { return [this.#open]; }

  /** Takes a block's transactions, {txid, inputs, record or null, author}, in order of position. */
  connect(txs) {
    this.#effects = [];
    const inBlock = new Map(txs.filter((tx) => tx.record).map((tx) => [tx.txid, tx]));
    const taken = new Set();
    for (const tx of inBlock.values()) this.#take(tx, inBlock, taken);
    for (const tx of txs) if (!tx.record) this.#apply(tx);
    return this.#effects;
  }

  #take(tx, inBlock, taken) {
    if (taken.has(tx.txid)) return;
    taken.add(tx.txid);
    for (const { txid, index } of tx.inputs) if (index === 0 && inBlock.has(txid)) this.#take(inBlock.get(txid), inBlock, taken);
    this.#apply(tx);
  }

  #apply(tx) {
    const { record } = tx;
    let genesis = tx.txid, open = true;
    const broken = [];
    tx.inputs.forEach(({ txid, index }, i) => {
      const chain = index === 0 ? this.#open.get(txid) : undefined;
      if (!chain) return;
      this.#open.set(txid, undefined);
      const breaks = (how) => broken.push('09' + tx.txid + chain.genesis + byte(how));
      const { record: last } = chain;
      if (!record) return breaks(NO_RECORD);
      if (record.domain !== last.domain) return breaks(OTHER_DOMAIN);
      if (i !== 0) return breaks(NOT_BY_INPUT_0);
      genesis = chain.genesis;
      if (record.position < last.position) {
        open = false;
        breaks(LOWER_POSITION);
      } else if (record.position === last.position && (record.head !== last.head || record.root !== last.root)) {
        open = false;
        breaks(OTHER_HEAD);
      }
    });
    if (record) {
      const position = Buffer.alloc(8);
      position.writeBigUInt64LE(record.position);
      const domain = Buffer.from(record.domain);
      this.#effects.push('08' + tx.txid + genesis + position.toString('hex') + record.head + record.root + (tx.author ?? '00'.repeat(20)) + byte(domain.length) + domain.toString('hex'));
      if (open) this.#open.set(tx.txid, { genesis, record });
    }
    this.#effects.push(...broken);
  }
}
