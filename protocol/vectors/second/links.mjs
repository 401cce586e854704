// What actions do: SPEC.md §3 to §5, the effects 01 to 07 of §9, and the records of §12.

import { MLR, MLA, MCR, reversed } from './wire.mjs';
import { UndoableMap } from './undoable.mjs';

const MALFORMED = 1, NO_AUTHOR = 2, SELF_LINK = 3, WRONG_KIND = 4, REQUEST_REFUSED = 5, NOT_THE_PARENT = 6, REQUEST_USED = 7,
  CHILD_HAS_PARENT = 8, LOOP = 9, ACCEPT_REFUSED = 10, ALREADY_REVOKED = 11;

// States of an action. A request is open when it has taken effect; then an accept may use it up. An accept
// has put a link in force when it has taken effect; then a revoke may cut it.
const WAITS = 'waits', REFUSED = 'refused', EFFECTIVE = 'effective', USED = 'used', CUT = 'cut';

const byte = (n) => n.toString(16).padStart(2, '0');
const zero = (bytes) => '00'.repeat(bytes);
const byPosition = (a, b) => a.height - b.height || a.index - b.index;

export class Links {
  /** Keys that are or were in a link: parent and accept, the MLA's txid, of a child; id of a root; since, the height. */
  #keys = new UndoableMap();
  /** Identities: height and index of the transaction that named it; root, or into, the id that it merged into. */
  #ids = new UndoableMap();
  /** Confirmed actions by txid; state; decided, the height of the block that decided it. */
  #actions = new UndoableMap();
  /** Txids of waiting actions, by the reference that they wait for. */
  #waiting = new UndoableMap();

  #height;
  #effects;
  #keysBefore; // as they were before the block, of those that it set

  get maps() { return [this.#keys, this.#ids, this.#actions, this.#waiting]; }

  /**
   * Applies a block's actions, in order of position, and returns their effects in hex. An action has
   * txid, kind, item (null: malformed), author (null: none) and index.
   */
  connect(height, actions) {
    this.#height = height;
    this.#effects = [];
    this.#keysBefore = new Map();
    for (const a of actions) this.#actions.set(a.txid, { ...a, height });
    const own = actions.map((a) => this.#actions.get(a.txid));
    const released = own.flatMap((a) => this.#release(a.txid));

    // Phase 0.
    const isSound = (a) => a.item !== null && a.author !== null;
    for (const a of own) if (!isSound(a)) this.#refuse(a, a.item === null ? MALFORMED : NO_AUTHOR);
    const sound = own.filter(isSound);

    // Phase 1.
    for (const a of sound) if (a.kind === MLR) this.#request(a);

    // Phase 2.
    const revokes = sound.filter((a) => a.kind === MCR);
    const early = revokes.filter((a) => {
      const accept = this.#referredTo(a);
      return accept?.kind === MLA && accept.decided < height;
    });
    for (const a of early) this.#revoke(a);

    // Phase 3.
    const accepts = [...released, ...sound].filter((a) => a.kind === MLA).sort(byPosition);
    for (const a of accepts) this.#accept(a);

    // Phase 4. The block's own accepts have released who waited for them; those that were released themselves do now.
    const decided = accepts.filter((a) => this.#actions.get(a.txid).state !== WAITS);
    const late = [
      ...released.filter((a) => a.kind === MCR),
      ...decided.flatMap((a) => this.#release(a.txid)),
      ...revokes.filter((a) => !early.includes(a)),
    ];
    for (const a of late.sort(byPosition)) this.#revoke(a);

    this.#dateKeys();
    return this.#effects;
  }

  // Actions and who waits for them.

  #referredTo(a) { return this.#actions.get(a.item) ?? this.#actions.get(reversed(a.item)); }

  /** Takes away and returns the actions that wait for a transaction, in either byte order. */
  #release(txid) {
    return [txid, reversed(txid)].flatMap((reference) => {
      const waiting = this.#waiting.get(reference);
      if (waiting === undefined) return [];
      this.#waiting.set(reference, undefined);
      return waiting.map((t) => this.#actions.get(t));
    });
  }
  #wait(a) {
    this.#waiting.set(a.item, [...(this.#waiting.get(a.item) ?? []), a.txid]);
    if (a.state === WAITS) return; // it goes on waiting, now for the accept to be decided
    this.#put(a, { state: WAITS });
    this.#effects.push('05' + a.txid + byte(a.kind) + a.author + a.item);
  }
  #put(a, changes) { this.#actions.set(a.txid, { ...this.#actions.get(a.txid), ...changes }); }
  #take(a, changes) { this.#put(a, { state: EFFECTIVE, decided: this.#height, ...changes }); }
  #refuse(a, reason) {
    this.#put(a, { state: REFUSED, decided: this.#height });
    this.#effects.push('04' + a.txid + byte(a.kind) + byte(reason) + (a.author ?? zero(20)));
  }

  // The three kinds.

  #request(a) {
    if (a.author === a.item) return this.#refuse(a, SELF_LINK);
    this.#take(a);
    this.#effects.push('01' + a.txid + a.author + a.item);
  }

  #accept(a) {
    const request = this.#referredTo(a);
    if (request === undefined) return this.#wait(a);
    if (request.kind !== MLR) return this.#refuse(a, WRONG_KIND);
    if (request.state === REFUSED) return this.#refuse(a, REQUEST_REFUSED);
    const child = request.author, parent = request.item;
    if (a.author !== parent) return this.#refuse(a, NOT_THE_PARENT);
    if (request.state === USED) return this.#refuse(a, REQUEST_USED);
    if (this.#keys.get(child)?.parent) return this.#refuse(a, CHILD_HAS_PARENT);
    const root = this.#root(parent);
    if (root === child) return this.#refuse(a, LOOP);

    this.#put(request, { state: USED });
    this.#take(a, { request: request.txid });
    const upper = this.#keys.get(root)?.id, lower = this.#keys.get(child)?.id;
    let id = upper ?? lower ?? request.txid, merged;
    if (upper && lower && byPosition(this.#ids.get(lower), this.#ids.get(upper)) < 0) [id, merged] = [lower, upper];
    else if (upper && lower) [id, merged] = [upper, lower];
    this.#effects.push('02' + a.txid + request.txid + child + parent + id);
    if (!upper && !lower) this.#name(request, root);
    if (merged) {
      this.#effects.push('07' + merged + id);
      this.#ids.set(merged, { ...this.#ids.get(merged), root: undefined, into: id });
    }
    this.#ids.set(id, { ...this.#ids.get(id), root });
    this.#setKey(child, { parent, accept: a.txid });
    this.#setKey(root, { id });
  }

  #revoke(a) {
    const accept = this.#referredTo(a);
    if (accept === undefined) return this.#wait(a);
    if (accept.kind !== MLA) return this.#refuse(a, WRONG_KIND);
    if (accept.state === WAITS) return this.#wait(a);
    if (accept.state === REFUSED) return this.#refuse(a, ACCEPT_REFUSED);
    if (a.author !== accept.author) return this.#refuse(a, NOT_THE_PARENT);
    if (accept.state === CUT) return this.#refuse(a, ALREADY_REVOKED);

    this.#put(accept, { state: CUT });
    this.#take(a);
    const { author: child, item: parent } = this.#actions.get(accept.request);
    this.#effects.push('03' + a.txid + accept.txid + child + parent + this.#keys.get(this.#root(parent)).id);
    this.#setKey(child, { id: a.txid });
    this.#name(a, child);
  }

  // Keys and identities.

  #root(key) {
    for (let parent; (parent = this.#keys.get(key)?.parent); ) key = parent;
    return key;
  }
  #name({ txid, height, index }, root) {
    this.#ids.set(txid, { height, index, root });
    this.#effects.push('06' + txid + root);
  }
  #setKey(key, { parent, accept, id }) {
    const was = this.#keys.get(key);
    if (!this.#keysBefore.has(key)) this.#keysBefore.set(key, was);
    this.#keys.set(key, { parent, accept, id, since: was?.since });
  }
  /** Gives the keys that the block has left otherwise than it found them its height. */
  #dateKeys() {
    for (const [key, was] of this.#keysBefore) {
      const is = this.#keys.get(key);
      const same = was && was.parent === is.parent && was.accept === is.accept && was.id === is.id;
      if (!same) this.#keys.set(key, { ...is, since: this.#height });
    }
  }

  /** The records of SPEC.md §12: [what comes before it in the map key, key or id in hex, value in hex]. */
  *records() {
    for (const [key, { parent, accept, id, since }] of this.#keys.entries()) {
      const height = Buffer.alloc(4);
      height.writeUInt32LE(since);
      yield ['keytree/key\0', key, '01' + key + (parent ?? zero(20)) + (accept ?? zero(32)) + (id ?? zero(32)) + height.toString('hex')];
    }
    for (const [id, { root, into }] of this.#ids.entries()) {
      yield ['keytree/id\0', id, '02' + id + (into ? '01' : '00') + (root ?? zero(20)) + (into ?? zero(32))];
    }
  }
}
