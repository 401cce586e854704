/** A map whose changes can be taken back to any mark. Its values must not change. */
export class UndoableMap {
  #now = new Map();
  #before = []; // what set has replaced

  get(key) { return this.#now.get(key); }
  has(key) { return this.#now.has(key); }
  entries() { return this.#now.entries(); }

  /** value undefined: the key goes. */
  set(key, value) {
    this.#before.push([key, this.#now.get(key)]);
    this.#put(key, value);
  }
  #put(key, value) {
    if (value === undefined) this.#now.delete(key);
    else this.#now.set(key, value);
  }
  mark() { return this.#before.length; }
  undo(mark) {
    while (this.#before.length > mark) this.#put(...this.#before.pop());
  }
}
