/**
 * keytree.js asks a keytree server, from a page or from Node: which identity is behind a
 * Bitcoin Cash address, what changes, and who signs in; and checks what is proven. It is one file without dependencies,
 * which every server has at /keytree.js:
 *
 *     import { Keytree } from "https://keytree.example/keytree.js";
 *
 *     const keytree = new Keytree("https://keytree.example");
 *     const { id_tx_hash, main_address } = await keytree.resolve(address);
 *
 * README.md beside it has more, with examples. Answers are what REST gives, with its names; /docs
 * of the server says what they mean. 64-bit numbers are strings. A Keytree may be used by all of a page at a time.
 *
 * It needs what browsers have since 2024, or Node 20. What it uses beyond that it does
 * without where it is missing: on plain http beyond loopback there are no locks, so each tab
 * has a stream of its own.
 *
 * @module
 */

/**
 * @typedef {object} Resolution The identity behind one key as of a block.
 * @property {string} address CashAddr with prefix.
 * @property {string} id_tx_hash The identity; "" for a key that was never in a link.
 * @property {string} main_address The root of the key's tree; the key itself if it has no parent.
 * @property {string} parent_address "" for a key without a parent.
 * @property {string[]} path From the key up to the root, the first 100; empty unless asked for.
 * @property {boolean} path_truncated
 * @property {number} depth Links between the key and the root.
 * @property {string} accept_tx_hash The MLA of the link to the parent.
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {Unconfirmed | null} [unconfirmed] What would differ, if that was asked for and something would.
 */

/**
 * @typedef {object} Unconfirmed What would differ if the pending transactions made up the next block.
 * @property {boolean} available
 * @property {string} reason Why it is not available.
 * @property {number} height
 * @property {boolean} differs
 * @property {{ tx_hash: string, double_spend: boolean, seen_ago?: number | null }[]} by
 * @property {boolean} more
 * @property {Resolution | null} [resolution]
 * @property {Identity | null} [identity]
 * @property {Resolution[]} [keys]
 * @property {Action[]} [actions]
 * @property {LinkRequest[]} [requests]
 * @property {ChildLink[]} [links]
 */

/**
 * @typedef {object} Identity
 * @property {string} id_tx_hash
 * @property {"CURRENT" | "MERGED" | "UNCONFIRMED" | (string & {})} state
 * @property {string} merged_into
 * @property {string} main_address
 * @property {number} key_count
 * @property {{ tx_hash: string, height: number } | null} named_by
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {Unconfirmed | null} [unconfirmed]
 */

/**
 * @typedef {object} IdentityKey
 * @property {string} address
 * @property {string} parent_address
 * @property {number} depth
 * @property {string} accept_tx_hash
 * @property {number} linked_height
 */

/**
 * @typedef {object} Action One MLR, MLA or MCR, and what has become of it.
 * @property {string} tx_hash
 * @property {string} kind
 * @property {string} author_address
 * @property {string} child_address
 * @property {string} parent_address
 * @property {string} reference
 * @property {string} ref_tx_hash
 * @property {string} message What its author wrote: show it as that person's word alone.
 * @property {string} message_hex
 * @property {string} state
 * @property {string} reason
 * @property {number} height
 * @property {number} tx_index
 * @property {number} decided_height
 * @property {string} by_tx_hash
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {Unconfirmed | null} [unconfirmed]
 */

/**
 * @typedef {object} LinkRequest
 * @property {string} tx_hash
 * @property {string} child_address
 * @property {string} message What a stranger wrote: show it as that person's word alone.
 * @property {string} message_hex
 * @property {string} state
 * @property {string} reason
 * @property {number} height
 * @property {number} tx_index
 * @property {number} decided_height
 * @property {string} accept_tx_hash
 * @property {string} revoke_tx_hash
 * @property {{ tx_hash: string, double_spend: boolean, seen_ago?: number | null } | null} [pending]
 */

/**
 * @typedef {object} ChildLink
 * @property {string} child_address
 * @property {string} accept_tx_hash
 * @property {number} linked_height
 * @property {string} state
 * @property {boolean} has_links
 */

/**
 * @typedef {object} SignedIn Who has signed in, as of a block.
 * @property {string} address
 * @property {string} id_tx_hash An app's account is this identity's, or the address's while there is none.
 * @property {string} main_address
 * @property {string[]} path
 * @property {boolean} path_truncated
 * @property {number} depth
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {{ available: boolean, reason: string, cut: boolean, link: boolean } | null} pending What is pending for its
 *   place: take a key as cut off whose cut is pending.
 */

/**
 * @typedef {object} AsOf How a question may be asked.
 * @property {number} [atHeight] As of which block; left out, the tip.
 * @property {boolean} [unconfirmed] Whether to say as well what would differ by what is pending.
 * @property {boolean} [paths] Whether a resolution has its path; left out, as the Keytree's options say.
 * @property {AbortSignal} [signal] Ends the call.
 */

/**
 * @typedef {object} Options
 * @property {typeof fetch} [fetch] What asks; left out, the page's own.
 * @property {boolean} [paths] Whether resolutions have their path.
 * @property {number} [cacheSize] How many resolutions are remembered; 0 for none. Default 50,000.
 * @property {number} [maxAge] For how many milliseconds what is remembered needs no check. Default 5,000.
 * @property {number} [retries] How often a call is repeated whose connection is lost, or which the
 *   server has no time for. Default 2.
 * @property {number} [backoff] How many milliseconds the first repetition waits at most. Default 1,000;
 *   each further one waits twice as long, up to 60 times that.
 * @property {number} [timeout] For how many milliseconds a call may go on. Default 30,000.
 * @property {boolean} [share] Whether tabs share one stream. Default true.
 * @property {number} [pollEvery] How often, in milliseconds, a server of an earlier version, which has no
 *   streams, is asked what changed. Default 10,000.
 */

const mostAddresses = 10_000; // in a request
const mostSilence = 45_000; // milliseconds; a stream tells something every 15 s

/** The codes of gRPC, by their numbers. */
const codes = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
  "UNAUTHENTICATED",
];

/**
 * KeytreeError is what a call ends with that is not answered: by the server's error, or with
 * the code UNAVAILABLE and the status 0 if the server could not be reached.
 */
export class KeytreeError extends Error {
  /**
   * @param {string} message
   * @param {{ code?: string, status?: number, field?: string, reason?: string, retryAfter?: number, cause?: unknown }} [of]
   */
  constructor(message, { code = "UNKNOWN", status = 0, field = "", reason = "", retryAfter = 0, cause } = {}) {
    super(message, { cause });
    this.name = "KeytreeError";
    /** The code of gRPC, as INVALID_ARGUMENT. */
    this.code = code;
    /** The HTTP status; 0 if no answer came. */
    this.status = status;
    /** The field of the request that is wrong, as addresses[3]; "" if none is named. */
    this.field = field;
    /** Why, in a word of a fixed set; "" if there is none. */
    this.reason = reason;
    /** After how many seconds to try again; 0 if the server does not say. */
    this.retryAfter = retryAfter;
  }
}

/**
 * refusal is the error of an answer.
 * @param {Response} response
 */
async function refusal(response) {
  /** @type {any} */
  let error = {};
  try {
    error = await response.json();
  } catch {
    // Whoever stands before the server has answered.
  }
  let field = "", reason = "";
  for (const detail of Array.isArray(error?.details) ? error.details : []) {
    field ||= detail.field_violations?.[0]?.field ?? "";
    reason ||= detail.reason ?? "";
  }
  const after = Number(response.headers.get("Retry-After") ?? 0);
  return new KeytreeError(error?.message ?? `${response.status} ${response.statusText}`, {
    code: codes[error?.code] ?? (response.status >= 500 || response.status === 429 ? "UNAVAILABLE" : "UNKNOWN"),
    status: response.status, field, reason, retryAfter: after > 0 ? after : 0,
  });
}

/** wrong is the error of a question that need not be asked. @param {string} field @param {string} message */
const wrong = (field, message) => new KeytreeError(`${field}: ${message}`, { code: "INVALID_ARGUMENT", field });

/** isMissing tells of the error of a server that does not know the call. @param {unknown} error */
const isMissing = (error) => error instanceof KeytreeError && [404, 405, 501].includes(error.status);

/**
 * isPassing tells of an error that may be gone when the call is repeated.
 * @param {unknown} error
 * @returns {error is KeytreeError}
 */
const isPassing = (error) => error instanceof KeytreeError && (error.status === 0 ? error.code === "UNAVAILABLE" : error.status === 429 || error.status >= 500);

/**
 * wait waits for some milliseconds, and throws the signal's reason when that comes first.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
const wait = (ms, signal) => new Promise((resolve, reject) => {
  signal?.throwIfAborted();
  const end = () => {
    clearTimeout(timer);
    reject(signal?.reason);
  };
  const timer = setTimeout(() => {
    signal?.removeEventListener("abort", end);
    resolve();
  }, ms);
  signal?.addEventListener("abort", end, { once: true });
});

/**
 * delay is how many milliseconds to wait before another attempt: up to twice as long each time,
 * and never less than the server asks for. It is by chance, lest all pages come back at once.
 * @param {number} attempt From 0 on.
 * @param {number} step Of the first attempt; the longest is 60 times that.
 * @param {number} [least]
 */
const delay = (attempt, step, least = 0) => least + Math.random() * Math.min(60 * step, step * 2 ** attempt);

/** Keytree is a server, with what was learned from it. */
export class Keytree {
  #base;
  /** @type {Required<Options>} */
  #options;
  #resolver;
  #hub;

  /**
   * @param {string | URL} url Of the server, as https://keytree.example.
   * @param {Options} [options]
   */
  constructor(url, options = {}) {
    const base = new URL(url);
    if (base.protocol !== "https:" && base.protocol !== "http:" || base.search || base.hash) {
      throw wrong("url", `expected that of a server, as https://keytree.example, got ${url}`);
    }
    this.#base = base.href.replace(/\/+$/, "");
    this.#options = {
      fetch: (input, init) => globalThis.fetch(input, init), paths: false, cacheSize: 50_000, maxAge: 5000, retries: 2, backoff: 1000, timeout: 30_000,
      share: true, pollEvery: 10_000, ...options,
    };
    this.#hub = new Hub((filter, id, signal) => this.#follow(filter, id, signal), this.#base, this.#options.share);
    this.#resolver = new Resolver(this.#options, (path, body) => this.#post(path, body));
  }

  /**
   * resolve tells which identity is behind an address. What is asked within one tick is asked in
   * one request. What is known as of an earlier block is only checked. The answer is shared:
   * it cannot be changed.
   * @param {string} address CashAddr, with or without prefix, or legacy.
   * @param {AsOf} [asOf]
   * @returns {Promise<Readonly<Resolution>>}
   */
  resolve(address, asOf = {}) {
    return this.#resolver.resolve(address, asOf);
  }

  /** status tells what the server has indexed. @param {AsOf} [asOf] @returns {Promise<any>} */
  status({ signal } = {}) {
    return this.#get("/v1/status", {}, signal);
  }

  /** identity describes an identity. @param {string} id @param {AsOf} [asOf] @returns {Promise<Identity>} */
  identity(id, asOf = {}) {
    return this.#get(`/v1/identities/${encodeURIComponent(id)}`, query(asOf), asOf.signal);
  }

  /**
   * proveAddress asks for the state proof of a key, for verifyStateProof or to be kept: left out, as of the newest
   * block that a cosigned checkpoint covers, which is not the tip.
   * @param {string} address
   * @param {ProofOf} [of]
   * @returns {Promise<StateProof>}
   */
  proveAddress(address, { atHeight, transactions, signal } = {}) {
    return this.#get(`/v1/addresses/${encodeURIComponent(address)}/proof`, { at_height: atHeight, transactions: transactions || undefined }, signal);
  }

  /** proveAddresses asks for one state proof of up to 1,000 keys. @param {string[]} addresses @param {ProofOf} [of] @returns {Promise<StateProof>} */
  proveAddresses(addresses, { atHeight, transactions, signal } = {}) {
    return this.#post("/v1/addresses:prove", { addresses, at_height: atHeight, transactions: transactions || undefined }, signal);
  }

  /** proveIdentity asks for the state proof of an identity's id. @param {string} id @param {Omit<ProofOf, "transactions">} [of] @returns {Promise<StateProof>} */
  proveIdentity(id, { atHeight, signal } = {}) {
    return this.#get(`/v1/identities/${encodeURIComponent(id)}/proof`, { at_height: atHeight }, signal);
  }

  /**
   * resolveProven tells which identity is behind an address, and believes nothing of the server that it has not proven
   * by a policy (see verifyStateProof). It throws a StateProofError, with the reason DIFFERS if the server's answer
   * as of that block is another than what it has proven. What came after that block is not in it.
   * @param {string} address CashAddr.
   * @param {Believing} options
   * @returns {Promise<{ state: ProvenState, key: ProvenKey, resolution: Readonly<Resolution> }>} The resolution is as of the
   *   proven block.
   */
  async resolveProven(address, { policy, atHeight, maxAge, signal }) {
    const { proof } = await this.proveAddress(address, { atHeight, signal });
    const state = await verifyStateProof(proof, policy, { addresses: [address], maxAge }), key = provenOf(state, address);
    checkHeight(state, atHeight);
    const resolution = await this.resolve(address, { atHeight: state.as_of_height, paths: true, signal });
    agree(resolution, key, state);
    return { state, key, resolution };
  }

  /**
   * identityProven describes an identity as resolveProven does a key. An id that names nothing, which the server has
   * to prove as well, has no answer beside it.
   * @param {string} id
   * @param {Believing} options
   * @returns {Promise<{ state: ProvenState, proven: ProvenIdentity, identity?: Identity }>}
   */
  async identityProven(id, { policy, atHeight, maxAge, signal }) {
    const { proof } = await this.proveIdentity(id, { atHeight, signal });
    const state = await verifyStateProof(proof, policy, { ids: [id], maxAge });
    checkHeight(state, atHeight);
    const proven = /** @type {ProvenIdentity} */ (state.subjects.find((one) => one.kind === "identity" && one.id_tx_hash === id.toLowerCase()));
    try {
      const identity = await this.identity(id, { atHeight: state.as_of_height, signal });
      agree(identity, proven, state);
      return { state, proven, identity };
    } catch (error) {
      if (!(error instanceof KeytreeError && error.status === 404)) throw error;
      if (proven.found !== false) throw new StateProofError(`the server knows no identity ${id} as of block ${state.as_of_height}, and has proven it`, "DIFFERS", { cause: error });
      return { state, proven };
    }
  }

  /** action tells what has become of an action. @param {string} tx @param {AsOf} [asOf] @returns {Promise<Action>} */
  action(tx, asOf = {}) {
    return this.#get(`/v1/actions/${encodeURIComponent(tx)}`, query(asOf), asOf.signal);
  }

  /** keys lists the keys of an identity, from its root on. @param {string} id @param {AsOf} [asOf] @returns {AsyncGenerator<IdentityKey>} */
  keys(id, asOf = {}) {
    return this.#list(`/v1/identities/${encodeURIComponent(id)}/keys`, "keys", asOf);
  }

  /** history lists the actions by and about a key, the first one first. @param {string} address @param {AsOf} [asOf] @returns {AsyncGenerator<Action>} */
  history(address, asOf = {}) {
    return this.#list(`/v1/addresses/${encodeURIComponent(address)}/actions`, "actions", asOf);
  }

  /**
   * requests lists the link requests that name a key as the parent, the newest first: what its
   * wallet may accept.
   * @param {string} address
   * @param {AsOf & { state?: "open" | "accepted" | "cut" | "refused" | "all" }} [asOf]
   * @returns {AsyncGenerator<LinkRequest>}
   */
  requests(address, asOf = {}) {
    return this.#list(`/v1/addresses/${encodeURIComponent(address)}/requests`, "requests", asOf, { state: asOf.state });
  }

  /** links lists the links directly below a key: what its wallet may revoke. @param {string} address @param {AsOf} [asOf] @returns {AsyncGenerator<ChildLink>} */
  links(address, asOf = {}) {
    return this.#list(`/v1/addresses/${encodeURIComponent(address)}/links`, "links", asOf);
  }

  /**
   * prepareLink makes the transaction of an action for a wallet to sign: params are what it is
   * asked with.
   * @param {{ kind: "MLR" | "MLA" | "MCR", author_address: string, parent_address?: string, ref_tx_hash?: string, message?: string,
   *   coins?: { tx_hash: string, output_index: number, value_satoshi: string }[], fee_rate?: number,
   *   format?: "walletconnect" | "wizardconnect" | "hex", key_path?: string }} request
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<{ params: any, facts: { kind: string, author_address: string, counterpart_address: string, says: string,
   *   fee_satoshi: string, change_satoshi: string, expected: string } }>}
   */
  prepareLink(request, { signal } = {}) {
    return this.#post("/v1/links:prepare", request, signal);
  }

  /**
   * submitLink sends what a wallet has signed. Sent twice is success twice.
   * @param {string} signedTransaction In hex.
   * @param {{ force?: boolean, signal?: AbortSignal }} [options] Force sends what would be refused.
   * @returns {Promise<{ tx_hash: string, kind: string, known: boolean, expected: string }>}
   */
  submitLink(signedTransaction, { force = false, signal } = {}) {
    return this.#post("/v1/links:submit", { signed_transaction: signedTransaction, force }, signal);
  }

  /**
   * challenge makes the text that a key is to sign now, to sign in (protocol/SIGNIN.md). The
   * app keeps it for this browser's session.
   * @param {{ domain: string, uri: string, address: string, allow_long?: boolean }} request
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<{ message: string, nonce: string, expires_at: string }>}
   */
  challenge(request, { signal } = {}) {
    return this.#post("/v1/signin:challenge", request, signal);
  }

  /**
   * verify tells who has signed a challenge. It can be told once: so it is not asked again if
   * the connection is lost. It is for an app's server, whose domain is a constant, and which has
   * kept the message: what a browser says of itself proves nothing.
   * @param {{ message: string, signature: string, domain: string, max_depth?: number, root_only?: boolean, allow_long?: boolean }} request
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<SignedIn>}
   */
  verify(request, { signal } = {}) {
    return this.#post("/v1/signin:verify", request, signal, 0);
  }

  /**
   * session watches over a key that has signed in, until it is cut off from its identity or
   * close is called. All sessions have one stream.
   * @param {{ address: string, id_tx_hash: string, main_address: string }} who As verify tells.
   * @param {Watcher} watcher
   * @returns {Session}
   */
  session(who, watcher) {
    const [address] = filtered([who.address]);
    return new Session(who, watcher, {
      stream: (signal) => this.stream({ addresses: [address], unconfirmed: true, signal }),
      now: (signal) => this.#now(address, signal),
      backoff: this.#options.backoff,
    });
  }

  /** now is what an address is, not from memory, with its path and what is pending. @param {string} address @param {AbortSignal} signal */
  async #now(address, signal) {
    try {
      return await this.resolve(address, { unconfirmed: true, paths: true, signal });
    } catch (error) {
      if (!(error instanceof KeytreeError && error.code === "INVALID_ARGUMENT")) throw error;
      return this.#get(`/v1/addresses/${address}`, {}, signal); // a server of an earlier version
    }
  }

  /**
   * stream tells what changes, from the first message taken on, which is "open". Lost connections are made
   * again, and nothing is missed by that. All streams of a page, and of all tabs of its origin, are
   * one: then blocks may have events of others' filters as well. It goes on until the loop is
   * left, or the signal comes, whose reason is thrown. Without fromHeight and lastId it ends when the
   * server has no more to tell.
   * @param {Filter & { fromHeight?: number, lastId?: string, signal?: AbortSignal }} [filter] fromHeight and
   *   lastId begin a stream of its own earlier: with a block, or after a message.
   * @returns {AsyncGenerator<Message>}
   */
  async *stream({ addresses = [], ids = [], unconfirmed = false, fromHeight, lastId = "", signal } = {}) {
    const filter = { addresses: filtered(addresses), ids: ids.map((id) => id.toLowerCase()), unconfirmed };
    const own = fromHeight !== undefined || lastId !== "";
    for await (const message of own ? this.#follow(filter, lastId, signal, fromHeight) : this.#hub.subscribe(filter, signal)) {
      if (message.type === "heartbeat") continue;
      this.#resolver.expire();
      yield /** @type {Message} */ (message);
    }
  }

  /**
   * follow is one stream, which is made again as long as there is hope.
   * @param {Filter} filter
   * @param {string} id Of the last message, or "".
   * @param {AbortSignal} [signal]
   * @param {number} [fromHeight]
   * @returns {AsyncGenerator<Told>}
   */
  async *#follow(filter, id, signal, fromHeight) {
    for (let attempt = 0; ; attempt++) {
      const round = new AbortController(), began = performance.now();
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let silence;
      const heard = () => {
        clearTimeout(silence);
        silence = setTimeout(() => round.abort(), mostSilence);
      };
      let open = false, least = 0;
      try {
        heard();
        const body = JSON.stringify({ ...filter, from_height: fromHeight, last_id: id || undefined });
        const response = await this.#send("/v1/stream", {
          method: "POST", headers: { "Content-Type": "application/json" }, body, signal: signal ? AbortSignal.any([signal, round.signal]) : round.signal, cache: "no-store",
        }, signal);
        if (response.status === 204) return;
        if (!response.ok || !response.body) throw await refusal(response);
        for await (const message of messagesOf(response.body, heard)) {
          least = message.retry ?? least;
          const data = message.data ? JSON.parse(message.data) : undefined;
          if (message.event === "fault") {
            if (data.reason === "OUTDATED_CURSOR") id = "", fromHeight = undefined;
            yield { type: "fault", id: "", data };
            break;
          }
          id = message.id || id;
          if (data) yield { type: /** @type {Message["type"]} */ (message.event), id: message.id, data };
          else if (message.id) yield { type: open ? "heartbeat" : "open", id };
          open ||= Boolean(message.id);
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (isMissing(error)) {
          yield* this.#poll(signal);
          return;
        }
        if (error instanceof KeytreeError && !isPassing(error)) throw error;
        least = error instanceof KeytreeError ? error.retryAfter * 1000 : least;
      } finally {
        clearTimeout(silence);
        round.abort();
      }
      signal?.throwIfAborted();
      if (performance.now() - began > 10 * this.#options.backoff) attempt = 0; // it held for a while
      await wait(delay(attempt, this.#options.backoff, least), signal);
    }
  }

  /**
   * poll is the stream of a server of an earlier version, which has none: it asks now and then.
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Message>}
   */
  async *#poll(signal) {
    let { tip_height: height, tip_hash: hash } = await this.status({ signal });
    yield { type: "open", id: "", polled: true };
    for (;;) {
      await wait(this.#options.pollEvery, signal);
      try {
        const tip = await this.status({ signal });
        if (tip.tip_hash === hash) continue;
        let found = false;
        const range = { from_height: height, to_height: tip.tip_height };
        for await (const block of tip.tip_height > height ? this.#list("/v1/events", "blocks", { signal }, range) : []) {
          if (found) yield { type: "connect", id: "", data: { block }, polled: true };
          found ||= block.type === "CONNECT" && block.hash === hash && !block.more;
        }
        // What was the tip has left the chain, and what has changed by that is not known.
        if (!found) yield { type: "fault", id: "", data: { reason: "OUTDATED_CURSOR", message: `block ${height}, ${hash}, has left the chain`, retry_after: 0 }, polled: true };
        [height, hash] = [tip.tip_height, tip.tip_hash];
      } catch (error) {
        if (!isPassing(error)) throw error;
      }
    }
  }

  /** @param {string} path @param {Record<string, string | number | boolean | undefined>} values @param {AbortSignal} [signal] */
  #get(path, values, signal) {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (value !== undefined) search.set(name, String(value));
    return this.#ask(search.size > 0 ? `${path}?${search}` : path, {}, this.#options.retries, signal);
  }

  /** @param {string} path @param {unknown} body @param {AbortSignal} [signal] */
  #post(path, body, signal, retries = this.#options.retries) {
    return this.#ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }, retries, signal);
  }

  /**
   * @param {string} path
   * @param {string} name Of the list in the answer.
   * @param {AsOf} asOf
   * @param {Record<string, string | number | undefined>} [more]
   */
  async *#list(path, name, asOf, more) {
    let token;
    do {
      const page = await this.#get(path, { ...query(asOf), ...more, page_size: 1000, page_token: token }, asOf.signal);
      yield* page[name];
      token = page.next_page_token || undefined;
    } while (token);
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   * @param {number} retries
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async #ask(path, init, retries, signal) {
    for (let attempt = 0; ; attempt++) {
      try {
        const timeout = AbortSignal.timeout(this.#options.timeout);
        const response = await this.#send(path, { ...init, signal: signal ? AbortSignal.any([signal, timeout]) : timeout }, signal);
        if (!response.ok) throw await refusal(response);
        return await response.json().catch((cause) => this.#lost(cause, signal));
      } catch (error) {
        if (attempt >= retries || !isPassing(error)) throw error;
        await wait(delay(attempt, this.#options.backoff, error.retryAfter * 1000), signal);
      }
    }
  }

  /**
   * @param {string} path
   * @param {RequestInit} init
   * @param {AbortSignal} [signal] The caller's.
   * @returns {Promise<Response>}
   */
  #send(path, init, signal) {
    return this.#options.fetch(this.#base + path, { credentials: "omit", ...init }).catch((cause) => this.#lost(cause, signal));
  }

  /** @param {any} cause @param {AbortSignal} [signal] @returns {never} */
  #lost(cause, signal) {
    signal?.throwIfAborted();
    throw new KeytreeError(`${this.#base} cannot be reached: ${cause?.message ?? cause}`, { code: "UNAVAILABLE", cause });
  }
}

/** query is how REST is asked as of a block. @param {AsOf} asOf */
const query = ({ atHeight, unconfirmed }) => ({ at_height: atHeight, unconfirmed: unconfirmed || undefined });

/**
 * @typedef {object} Asked What one tick asks in one way.
 * @property {AsOf} asOf
 * @property {Map<string, PromiseWithResolvers<Resolution>>} answers By address; from when it is asked until it is answered.
 * @property {string[]} queue What no request was sent for.
 */

/**
 * Resolver asks about many addresses at once, and remembers the answers as of the tip.
 */
class Resolver {
  #options;
  #post;
  /** @type {Map<string, { resolution: Readonly<Resolution>, checked: number }>} By address as asked, the least recently used first. */
  #known = new Map();
  /** @type {Map<string, Asked>} By the way in which it is asked. */
  #asked = new Map();
  #expired = -1; // when something was last known to have changed
  #changed = true; // whether the server can tell what has changed

  /** @param {Required<Options>} options @param {(path: string, body: unknown) => Promise<any>} post */
  constructor(options, post) {
    this.#options = options;
    this.#post = post;
  }

  /** @param {string} address @param {AsOf} asOf @returns {Promise<Readonly<Resolution>>} */
  async resolve(address, { atHeight, unconfirmed = false, paths = this.#options.paths, signal }) {
    signal?.throwIfAborted();
    checkAddress(address);
    const plain = isPlain({ atHeight, unconfirmed, paths }, this.#options);
    const known = plain && this.#known.get(address);
    if (known && known.checked > this.#expired && performance.now() - known.checked < this.#options.maxAge) return this.#remember(address, known);
    const way = `${atHeight} ${unconfirmed} ${paths}`;
    let asked = this.#asked.get(way);
    if (!asked) this.#asked.set(way, asked = { asOf: { atHeight, unconfirmed, paths }, answers: new Map(), queue: [] });
    let answer = asked.answers.get(address);
    if (!answer) {
      asked.answers.set(address, answer = withResolvers());
      answer.promise.catch(() => {}); // a caller that has gone does not make it unhandled
      if (asked.queue.push(address) === 1) setTimeout(this.#flush, 0, way, asked);
    }
    return signal ? orAborted(answer.promise, signal) : answer.promise;
  }

  /** expire is called when something has changed: what was asked before need not be true any more. */
  expire() {
    this.#expired = performance.now();
    this.#asked.clear();
  }

  /** flush asks what was queued in one way. @param {string} way @param {Asked} asked */
  #flush = (way, asked) => {
    const unknown = [], blocks = /** @type {Map<string, string[]>} */ (new Map());
    for (const address of asked.queue.splice(0)) {
      const known = this.#changed && isPlain(asked.asOf, this.#options) && this.#known.get(address);
      if (!known) {
        unknown.push(address);
        continue;
      }
      const { as_of_height, as_of_hash } = known.resolution, block = `${as_of_height} ${as_of_hash}`;
      if (!blocks.get(block)?.push(address)) blocks.set(block, [address]);
    }
    for (const addresses of blocks.values()) for (const some of split(addresses)) this.#answer(way, asked, some, this.#refresh(some));
    for (const some of split(unknown)) this.#answer(way, asked, some, this.#fetch(asked, some));
  };

  /**
   * answer hands on what a request for some addresses comes to.
   * @param {string} way
   * @param {Asked} asked
   * @param {string[]} addresses
   * @param {Promise<(Resolution | KeytreeError)[]>} request
   */
  async #answer(way, asked, addresses, request) {
    /** @type {(Resolution | Error)[]} */
    let answers;
    const checked = performance.now();
    try {
      answers = await request;
    } catch (error) {
      answers = addresses.map(() => /** @type {Error} */ (error));
    }
    const plain = isPlain(asked.asOf, this.#options);
    addresses.forEach((address, i) => {
      const answer = answers[i], waiting = asked.answers.get(address);
      asked.answers.delete(address);
      if (answer instanceof Error) waiting?.reject(answer);
      else waiting?.resolve(plain ? this.#remember(address, { resolution: Object.freeze(answer), checked }) : Object.freeze(answer));
    });
    if (asked.answers.size === 0 && this.#asked.get(way) === asked) this.#asked.delete(way);
  }

  /** @param {string} address @param {{ resolution: Readonly<Resolution>, checked: number }} known */
  #remember(address, known) {
    this.#known.delete(address);
    this.#known.set(address, known);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= this.#options.cacheSize) break;
      this.#known.delete(oldest);
    }
    return known.resolution;
  }

  /**
   * refresh asks which of some addresses have changed since the block that they are known as
   * of, which is one. If that cannot be told, it asks about all of them anew.
   * @param {string[]} addresses
   * @returns {Promise<(Resolution | KeytreeError)[]>}
   */
  async #refresh(addresses) {
    const known = addresses.map((address) => /** @type {{ resolution: Resolution }} */ (this.#known.get(address)).resolution);
    const body = {
      addresses: known.map(({ address }) => address), since_height: known[0].as_of_height, since_hash: known[0].as_of_hash, omit_path: !this.#options.paths,
    };
    let answer;
    try {
      answer = await this.#post("/v1/addresses:changed", body);
    } catch (error) {
      if (isMissing(error)) this.#changed = false; // a server of an earlier version
      // The block is gone, is not yet known to another server behind the same name, or is too long ago.
      else if (!(error instanceof KeytreeError && ["ABORTED", "OUT_OF_RANGE", "FAILED_PRECONDITION"].includes(error.code))) throw error;
      return this.#fetch({ asOf: { paths: this.#options.paths } }, addresses);
    }
    const changed = new Map(answer.resolutions.map((/** @type {Resolution} */ r) => [r.address, r]));
    return known.map((old) => changed.get(old.address) ?? { ...old, as_of_height: answer.as_of_height, as_of_hash: answer.as_of_hash });
  }

  /**
   * fetch asks about addresses. The server refuses all of them for a bad one, which is then left out.
   * @param {Pick<Asked, "asOf">} asked
   * @param {string[]} addresses
   * @returns {Promise<(Resolution | KeytreeError)[]>}
   */
  async #fetch({ asOf: { atHeight, unconfirmed, paths } }, addresses) {
    const bad = /** @type {Map<string, KeytreeError>} */ (new Map());
    for (;;) {
      const good = addresses.filter((address) => !bad.has(address));
      if (good.length === 0) return addresses.map((address) => /** @type {KeytreeError} */ (bad.get(address)));
      try {
        const body = { addresses: good, at_height: atHeight, unconfirmed: unconfirmed || undefined, omit_path: !paths };
        const { resolutions, unconfirmed: pending } = await this.#post("/v1/addresses:batchResolve", body);
        // Where nothing would differ the answer as a whole says so, or that it is not known.
        if (pending) for (const resolution of resolutions) resolution.unconfirmed ??= { ...pending, differs: false };
        let next = 0;
        return addresses.map((address) => bad.get(address) ?? resolutions[next++]);
      } catch (error) {
        const at = error instanceof KeytreeError && /^addresses\[(\d+)\]$/.exec(error.field);
        if (!at || bad.size >= mostBad || !(Number(at[1]) < good.length)) throw error;
        bad.set(good[Number(at[1])], /** @type {KeytreeError} */ (error));
      }
    }
  }
}

/** isPlain tells of questions whose answers are remembered. @param {AsOf} asOf @param {Required<Options>} options */
const isPlain = ({ atHeight, unconfirmed, paths }, options) => atHeight === undefined && !unconfirmed && paths === options.paths;

/** mostBad is how many addresses of one request are found out, by one request each. All others then share the error. */
const mostBad = 10;

/**
 * split cuts a list into what one request may have.
 * @param {string[]} addresses
 */
function* split(addresses) {
  for (let i = 0; i < addresses.length; i += mostAddresses) yield addresses.slice(i, i + mostAddresses);
}

/** @returns {PromiseWithResolvers<any>} */
function withResolvers() {
  /** @type {any} */
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}

/**
 * orAborted is a promise, or the signal's reason if that comes first.
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
function orAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    signal.addEventListener("abort", end, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", end));
  });
}

/**
 * messagesOf reads server-sent events (WHATWG HTML §9.2.6) from a body that is cut anywhere. One
 * without data is yielded as well: it may have an id. What has no end is none.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} heard Called when something has come.
 * @returns {AsyncGenerator<{ event: string, data: string, id: string, retry: number | undefined }>}
 */
async function* messagesOf(body, heard) {
  const reader = body.getReader(), decoder = new TextDecoder(); // which skips a byte order mark
  let rest = "", event = "", data = "", id = "", /** @type {number | undefined} */ retry;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const lines = (rest + decoder.decode(value, { stream: true })).split(/\r\n|\n|\r(?!$)/); // CR at the end may be half of CR LF
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const colon = line.indexOf(":"), name = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
        if (line === "") {
          yield { event, data: data.slice(0, -1), id, retry };
          event = data = id = "";
          retry = undefined;
        } else if (name === "event") event = text;
        else if (name === "data") data += `${text}\n`;
        else if (name === "id" && !text.includes("\0")) id = text;
        else if (name === "retry" && /^\d+$/.test(text)) retry = Number(text);
      }
      if (rest.length + data.length > mostMessage) throw new Error(`a message of more than ${mostMessage} characters`);
    }
  } finally {
    reader.cancel().catch(() => {}); // of a connection that is lost
  }
}

const mostMessage = 32 << 20; // characters
const mostQueued = 1000; // messages that a subscriber has not taken

/**
 * @typedef {object} Filter What a stream is about; neither addresses nor ids: everything.
 * @property {string[]} [addresses] Up to 10,000, as CashAddr.
 * @property {string[]} [ids] Of identities, up to 10,000.
 * @property {boolean} [unconfirmed] Whether to tell of what is pending as well.
 */

/**
 * @typedef {object} Message What a stream tells.
 * @property {"open" | "connect" | "disconnect" | "pending" | "drop" | "fault"} type Open: from
 *   now on you are told; read what you need now. Connect and disconnect: a block. Pending and
 *   drop: a transaction. Fault: something is wrong, which passes; only after OUTDATED_CURSOR and
 *   CONSUMER_TOO_SLOW must you read again what you have.
 * @property {string} id Names what you have now: with lastId a later stream goes on there. "" if
 *   nothing about that has changed.
 * @property {any} [data] A WatchResponse, as /docs of the server says, or a StreamFault.
 * @property {boolean} [polled] Whether it was found by asking again and again, since the server is of
 *   an earlier version: then there are no pending messages, and blocks that do not concern you.
 */

/** @typedef {Omit<Message, "type"> & { type: Message["type"] | "heartbeat" }} Told What comes; a heartbeat has an id alone. */

/**
 * concerns tells whether a message is for who has a filter. Those of all of a page's and of all its
 * tabs' filters come in one stream.
 * @param {Filter} filter
 * @param {Message} message
 * @param {Set<string>} named The addresses and ids in it.
 */
function concerns({ addresses = [], ids = [], unconfirmed }, { type, data, polled }, named) {
  if (type === "pending" || type === "drop") {
    if (!unconfirmed) return false;
  } else if (type !== "connect") return true;
  // Pending changes are all that there are: that somebody has none any more, too, has to be told.
  if (type === "drop" || polled || data.unsure || data.pending_changes || data.all_pending || addresses.length + ids.length === 0) return true;
  return addresses.some((address) => named.has(address)) || ids.some((id) => named.has(id));
}

/** textsIn are the texts in a value that JSON has made. @param {any} value @param {Set<string>} texts */
function textsIn(value, texts = new Set()) {
  if (typeof value === "string") texts.add(value);
  else if (value && typeof value === "object") for (const one of Object.values(value)) textsIn(one, texts);
  return texts;
}

/** Subscriber is somebody who is told of a filter. */
class Subscriber {
  /** @type {Message[]} */
  #queue = [];
  #wake = () => {};
  #ended = false;
  /** @type {unknown} */
  #error;
  #open = false;

  /** @param {Filter} filter @param {number} version Of the tab's filters, when it came. */
  constructor(filter, version) {
    this.filter = filter;
    this.version = version;
  }

  /** miss is called when a message was made while its filter was not known: it has to read again once it is. */
  miss() {
    this.#open = false;
  }

  /** tell is called with a message that concerns it, and that was made when its filter was known. @param {Message} message */
  tell(message) {
    if (message.type === "open" && this.#open) return; // it misses nothing
    this.#open ||= message.type === "open";
    if (!this.#open) return;
    if (this.#queue.push(message) > mostQueued) {
      this.#queue = [{ type: "fault", id: message.id, data: { reason: "CONSUMER_TOO_SLOW", message: `${mostQueued} messages were not taken`, retry_after: 0 } }];
    }
    this.#wake();
  }

  /** end ends it, with an error if there is one. @param {unknown} [error] */
  end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake();
  }

  /** messages yields what it is told. @returns {AsyncGenerator<Message>} */
  async *messages() {
    for (;;) {
      const message = this.#queue.shift();
      if (message) yield message;
      else if (!this.#ended) await new Promise((resolve) => { this.#wake = () => resolve(undefined); });
      else if (this.#error !== undefined) throw this.#error;
      else return;
    }
  }
}

/**
 * Hub has one stream for all subscribers of a page and, where there are locks and channels, of
 * all tabs of its origin: a browser has six connections to a server over HTTP/1.1. The tab that
 * holds a lock leads: it has the stream, for the filters of all, and tells the others. When it
 * is closed another one goes on where it was.
 */
class Hub {
  #follow;
  #name;
  #tab = `${Date.now()} ${Math.random()}`;
  #version = 0; // of this tab's filters
  /** @type {Set<Subscriber>} */
  #subscribers = new Set();
  /** @type {Map<string, { filters: Filter[], version: number }>} By tab, those of other tabs; of the one that leads. */
  #others = new Map();
  #id = ""; // of the last message
  /** @type {BroadcastChannel | undefined} */
  #channel;
  /** @type {AbortController | undefined} */
  #round; // of the stream, if this tab leads
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #soon;
  #running = false; // whether it leads, or waits for that

  /**
   * @param {(filter: Filter, id: string, signal: AbortSignal) => AsyncGenerator<Told>} follow
   * @param {string} name Of the server, among tabs.
   * @param {boolean} share
   */
  constructor(follow, name, share) {
    this.#follow = follow;
    this.#name = `keytree ${name}`;
    if (!share || !globalThis.navigator?.locks || !globalThis.BroadcastChannel) return;
    this.#channel = new BroadcastChannel(this.#name);
    /** @type {any} */ (this.#channel).unref?.(); // Node need not go on for it
    this.#channel.onmessage = ({ data }) => this.#hear(data);
  }

  /** @param {Filter} filter @param {AbortSignal} [signal] @returns {AsyncGenerator<Message>} */
  async *subscribe(filter, signal) {
    signal?.throwIfAborted();
    this.#union([filter]); // it throws if they are too many
    const subscriber = new Subscriber(filter, ++this.#version), end = () => subscriber.end(signal?.reason);
    signal?.addEventListener("abort", end);
    this.#subscribers.add(subscriber);
    this.#changed();
    try {
      yield* subscriber.messages();
    } finally {
      signal?.removeEventListener("abort", end);
      this.#subscribers.delete(subscriber);
      this.#version++;
      this.#changed();
    }
  }

  /** changed lets who leads know this tab's filters, and sees to it that somebody leads. */
  #changed() {
    this.#channel?.postMessage({ wants: { tab: this.#tab, filters: this.#filters(), version: this.#version } });
    if (this.#round) this.#again();
    if (!this.#running && this.#subscribers.size > 0) this.#run();
  }

  #filters() {
    return Array.from(this.#subscribers, ({ filter }) => filter);
  }

  /** again has the stream begin again soon, for other filters, where it was. */
  #again() {
    clearTimeout(this.#soon);
    this.#soon = setTimeout(() => this.#round?.abort(), 20);
  }

  /** run leads as long as somebody here is told, as soon as no other tab does. */
  async #run() {
    this.#running = true;
    try {
      if (!this.#channel) await this.#lead();
      else {
        // Others see by this lock that this tab is there.
        const { locks } = navigator, held = withResolvers();
        await new Promise((resolve, reject) => {
          locks.request(`${this.#name} ${this.#tab}`, () => (resolve(undefined), held.promise)).catch(reject);
        });
        this.#channel.postMessage({ wants: { tab: this.#tab, filters: this.#filters(), version: this.#version } });
        await locks.request(this.#name, () => this.#lead());
        held.resolve(undefined);
      }
    } catch {
      this.#channel?.close(); // a page in a sandbox may have no locks: then it leads alone
      this.#channel = undefined;
    }
    this.#running = false;
    if (this.#subscribers.size > 0) this.#run(); // who came while it ended
  }

  async #lead() {
    const leading = new AbortController();
    this.#others.clear();
    this.#round = leading; // so that filters that come are known
    if (this.#channel) {
      this.#channel.postMessage({ hello: true });
      await wait(100); // for the other tabs' filters
    }
    try {
      while (this.#subscribers.size > 0) {
        clearTimeout(this.#soon);
        const round = this.#round = new AbortController();
        const covers = Object.fromEntries([[this.#tab, this.#version], ...Array.from(this.#others, ([tab, { version }]) => [tab, version])]);
        try {
          for await (const message of this.#follow(this.#union(), this.#id, round.signal)) {
            this.#channel?.postMessage({ message, covers });
            this.#deliver(message, covers);
          }
          this.#channel?.postMessage({ end: true });
          this.#end();
        } catch (error) {
          if (round.signal.aborted) continue;
          const { message, ...fields } = error instanceof KeytreeError ? { ...error, message: error.message } : { message: String(error) };
          this.#channel?.postMessage({ end: true, message, fields: { ...fields, cause: undefined } });
          this.#end(error);
        }
      }
    } finally {
      this.#round = undefined;
      clearTimeout(this.#soon);
    }
  }

  /** union is what all together want to be told, and somebody who comes. @param {Filter[]} [coming] @returns {Filter} */
  #union(coming = []) {
    const filters = [...coming, ...this.#filters(), ...Array.from(this.#others.values(), (other) => other.filters).flat()];
    const unconfirmed = filters.some((filter) => filter.unconfirmed);
    if (filters.some(({ addresses = [], ids = [] }) => addresses.length + ids.length === 0)) return { unconfirmed };
    const addresses = new Set(filters.flatMap((filter) => filter.addresses ?? [])), ids = new Set(filters.flatMap((filter) => filter.ids ?? []));
    if (addresses.size > mostAddresses || ids.size > mostAddresses) {
      throw new KeytreeError(`expected up to ${mostAddresses} addresses and ids in the filters of all tabs, got ${addresses.size} and ${ids.size}`, {
        code: "RESOURCE_EXHAUSTED", field: "addresses",
      });
    }
    return { addresses: [...addresses], ids: [...ids], unconfirmed };
  }

  /** deliver hands a message on to those whom it concerns. @param {Told} told @param {Record<string, number>} covers */
  #deliver(told, covers) {
    if (told.id) this.#id = told.id;
    if (told.type === "heartbeat") return;
    const message = /** @type {Message} */ (told);
    if (message.data?.reason === "OUTDATED_CURSOR") this.#id = "";
    const named = textsIn(message.data);
    for (const subscriber of this.#subscribers) {
      if (!(subscriber.version <= covers[this.#tab])) subscriber.miss();
      else if (concerns(subscriber.filter, message, named)) subscriber.tell(message);
    }
  }

  /** @param {unknown} [error] */
  #end(error) {
    for (const subscriber of this.#subscribers) subscriber.end(error);
    this.#subscribers.clear();
  }

  /** hear is told what other tabs say. @param {any} said */
  #hear({ wants, hello, message, covers, end, fields }) {
    if (hello && this.#running) this.#channel?.postMessage({ wants: { tab: this.#tab, filters: this.#filters(), version: this.#version } });
    else if (wants && this.#round) {
      if (!this.#others.has(wants.tab)) {
        // The lock is free when the tab is closed.
        navigator.locks.request(`${this.#name} ${wants.tab}`, () => {
          if (this.#others.delete(wants.tab) && this.#round) this.#again();
        });
      }
      this.#others.set(wants.tab, wants);
      this.#again();
    } else if (end) this.#end(message === undefined ? undefined : new KeytreeError(message, fields));
    else if (covers && !this.#round) this.#deliver(message, covers);
  }
}

/**
 * @typedef {object} Ended How a session has ended.
 * @property {boolean} pending Whether what cut the key off is not confirmed yet. Take it as cut off all the same.
 * @property {string[]} by The pending transactions that do so.
 * @property {Readonly<Resolution>} resolution What the key is then.
 */

/**
 * @typedef {object} Watcher Whom a session calls.
 * @property {(ended: Ended) => void} onEnded Called when the key is cut off from its identity: at once, with
 *   pending, while that is unconfirmed, and when it is confirmed. Then the session is over.
 * @property {() => void} [onRestored] Called when what was pending will not be confirmed after all.
 */

/** Session watches whether a key that has signed in still belongs to its identity. */
class Session {
  #watcher;
  #asks;
  #over = new AbortController();
  #pending = false; // whether a cut is pending, and was told

  /**
   * @param {{ address: string, id_tx_hash: string, main_address: string }} who
   * @param {Watcher} watcher
   * @param {{ stream: (signal: AbortSignal) => AsyncGenerator<Message>, now: (signal: AbortSignal) => Promise<Readonly<Resolution>>, backoff: number }} asks
   */
  constructor({ address, id_tx_hash, main_address }, watcher, asks) {
    this.#watcher = watcher;
    this.#asks = asks;
    /** The key. */
    this.address = address;
    /** The identity that it speaks for, which changes when that merges; "" while there is none. */
    this.id_tx_hash = id_tx_hash;
    /** The root of that. */
    this.main_address = main_address;
    this.#run();
  }

  /** close ends the watch. Nobody is called any more. */
  close() {
    this.#over.abort();
  }

  async #run() {
    const { signal } = this.#over;
    for (let attempt = 0; !signal.aborted; attempt++) {
      try {
        if (attempt > 0) this.#look(await this.#asks.now(signal));
        for await (const _ of this.#asks.stream(signal)) {
          for (let failed = 0; ; failed++) {
            try {
              this.#look(await this.#asks.now(signal));
              break;
            } catch {
              await wait(delay(failed, this.#asks.backoff), signal); // what the key is has to be known, however long that takes
            }
          }
          attempt = 0;
        }
      } catch {
        // There is no stream now, or it is over.
      }
      await wait(delay(attempt, this.#asks.backoff), signal).catch(() => {});
    }
  }

  /** look calls whom it has to, for what the key is now. @param {Readonly<Resolution>} now */
  #look(now) {
    if (this.#over.signal.aborted) return;
    if (this.#isCut(now)) {
      this.close();
      queueMicrotask(() => this.#watcher.onEnded({ pending: false, by: [], resolution: now }));
      return;
    }
    this.id_tx_hash = now.id_tx_hash;
    this.main_address = now.main_address;
    const { unconfirmed } = now, next = unconfirmed?.resolution;
    if (unconfirmed?.available === false) return;
    const pending = Boolean(next && this.#isCut(next));
    if (pending === this.#pending) return;
    this.#pending = pending;
    const by = unconfirmed?.by.map(({ tx_hash }) => tx_hash) ?? [];
    queueMicrotask(() => (pending && next ? this.#watcher.onEnded({ pending, by, resolution: next }) : this.#watcher.onRestored?.()));
  }

  /** isCut: it is not if its identity has merged into another one, whose root is then above its own. @param {Readonly<Resolution>} as */
  #isCut(as) {
    return as.id_tx_hash !== this.id_tx_hash && as.main_address !== this.main_address && !as.path.includes(this.main_address);
  }
}

// Addresses and signatures. A verifier knows no secret, so what follows may take any time.

const prefixes = ["bitcoincash", "bchtest", "bchreg"];
const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"; // of CashAddr
const kinds = ["P2PKH", "P2SH", "P2PKH", "P2SH"]; // by version; the last two take tokens

/** The generators of CashAddr's checksum, by their upper and their lower 20 bits. */
const generators = [[0x98f2b, 0xc8e61], [0x79b76, 0xd99e2], [0xf33e5, 0xfb3c4], [0xae2ea, 0xbe2a8], [0x1e4f4, 0x3e470]];

/** checksum is CashAddr's: 0 for an address that has its own at its end. @param {ArrayLike<number>} values Of 5 bits. */
function checksum(values) {
  let upper = 0, lower = 1; // 20 bits each
  for (let at = 0; at < values.length; at++) {
    const top = upper >> 15;
    upper = ((upper & 0x7fff) << 5) | (lower >> 15);
    lower = ((lower & 0x7fff) << 5) ^ values[at];
    for (let i = 0; i < 5; i++) {
      if (!((top >> i) & 1)) continue;
      upper ^= generators[i][0];
      lower ^= generators[i][1];
    }
  }
  return upper * 2 ** 20 + (lower ^ 1);
}

/** prefixValues are what a prefix adds to what is summed. @param {string} prefix */
const prefixValues = (prefix) => [...Array.from(prefix, (c) => c.charCodeAt(0) & 31), 0];

/**
 * decodeAddress reads a CashAddr, with or without prefix, of any kind. It throws a KeytreeError
 * that says what is wrong with another text.
 * @param {string} address
 * @returns {{ prefix: string, kind: string, tokens: boolean, hash: Uint8Array }} Tokens tells
 *   whether it takes them.
 */
export function decodeAddress(address) {
  const refuse = (/** @type {string} */ why) => wrong("address", `${why}, got ${JSON.stringify(String(address).slice(0, 100))}`);
  if (typeof address !== "string" || address.length > 130) throw refuse("expected a CashAddr");
  const lower = address.toLowerCase();
  if (lower !== address && address.toUpperCase() !== address) throw refuse("expected one case");
  const colon = lower.indexOf(":"), values = [...lower.slice(colon + 1)].map((c) => alphabet.indexOf(c));
  if (values.length < 9 || values.includes(-1)) throw refuse("expected the characters of CashAddr");
  const prefix = (colon >= 0 ? [lower.slice(0, colon)] : prefixes).find((p) => checksum([...prefixValues(p), ...values]) === 0);
  if (!prefix) throw refuse("expected the checksum of another address, or another prefix");
  let bits = 0, n = 0;
  const bytes = [];
  for (const value of values.slice(0, -8)) {
    bits = ((bits << 5) | value) & 0xfff;
    if ((n += 5) >= 8) bytes.push((bits >> (n -= 8)) & 0xff);
  }
  const version = bytes[0], size = [20, 24, 28, 32, 40, 48, 56, 64][version & 7];
  if (n >= 5 || (bits & ((1 << n) - 1)) !== 0 || !(version >> 3 < kinds.length) || bytes.length !== size + 1) throw refuse("expected the hash of a key or script");
  return { prefix, kind: kinds[version >> 3], tokens: version >> 3 >= 2, hash: Uint8Array.from(bytes.slice(1)) };
}

/** checkAddress throws unless a server may take an address. Legacy ones are left to it. @param {string} address */
function checkAddress(address) {
  if (typeof address === "string" && /^[1mn][1-9A-HJ-NP-Za-km-z]{25,34}$/.test(address)) return;
  const { kind, hash } = decodeAddress(address);
  if (kind !== "P2PKH" || hash.length !== 20) throw wrong("address", `expected that of a key (P2PKH), got ${address}`);
}

/** filtered are addresses as messages have them. @param {string[]} addresses */
const filtered = (addresses) => addresses.map((address) => {
  const { prefix, kind, tokens, hash } = decodeAddress(address);
  if (kind !== "P2PKH" || tokens || hash.length !== 20) throw wrong("addresses", `expected the CashAddr of a key (P2PKH), not token-aware, got ${address}`);
  return `${prefix}:${address.toLowerCase().split(":").pop()}`;
});

/** The curve secp256k1: y² = x³ + 7 over the field of p, with the generator (gx, gy) of order n. */
const p = 2n ** 256n - 2n ** 32n - 977n;
const n = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
const gx = 0x79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798n;
const gy = 0x483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8n;

/** mod is the remainder that is not negative. @param {bigint} a @param {bigint} m */
const mod = (a, m) => ((a % m) + m) % m;

/** power is a to the e, modulo m. @param {bigint} a @param {bigint} e @param {bigint} m */
function power(a, e, m) {
  let result = 1n;
  for (let base = mod(a, m); e > 0n; e >>= 1n, base = (base * base) % m) if (e & 1n) result = (result * base) % m;
  return result;
}

/** inverse is 1 / a, modulo a prime m (Fermat). @param {bigint} a @param {bigint} m */
const inverse = (a, m) => power(a, m - 2n, m);

/** @typedef {[bigint, bigint, bigint]} Point In Jacobian coordinates: x / z², y / z³; z is 0 at infinity. */

/** double is 2 P. @param {Point} P @returns {Point} */
function double([x, y, z]) {
  const yy = mod(y * y, p), s = mod(4n * x * yy, p), m = mod(3n * x * x, p);
  const x3 = mod(m * m - 2n * s, p);
  return [x3, mod(m * (s - x3) - 8n * yy * yy, p), mod(2n * y * z, p)];
}

/** add is P + Q. @param {Point} P @param {Point} Q @returns {Point} */
function add(P, Q) {
  if (P[2] === 0n) return Q;
  if (Q[2] === 0n) return P;
  const [x1, y1, z1] = P, [x2, y2, z2] = Q, zz1 = mod(z1 * z1, p), zz2 = mod(z2 * z2, p);
  const u1 = mod(x1 * zz2, p), s1 = mod(y1 * z2 * zz2, p);
  const h = mod(x2 * zz1 - u1, p), r = mod(y2 * z1 * zz1 - s1, p);
  if (h === 0n) return r === 0n ? double(P) : [1n, 1n, 0n];
  const hh = mod(h * h, p), hhh = mod(h * hh, p), v = mod(u1 * hh, p);
  const x3 = mod(r * r - hhh - 2n * v, p);
  return [x3, mod(r * (v - x3) - s1 * hhh, p), mod(h * z1 * z2, p)];
}

/** times is a G + b R. @param {bigint} a @param {bigint} b @param {Point} R @returns {Point} */
function times(a, b, R) {
  /** @type {Point} */
  const G = [gx, gy, 1n], both = add(G, R);
  /** @type {Point} */
  let sum = [1n, 1n, 0n];
  for (let bit = 255n; bit >= 0n; bit--) {
    sum = double(sum);
    const inA = (a >> bit) & 1n, inB = (b >> bit) & 1n;
    if (inA || inB) sum = add(sum, inA && inB ? both : inA ? G : R);
  }
  return sum;
}

/** @param {Uint8Array} bytes In big-endian order. */
const toNumber = (bytes) => BigInt(`0x${Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("")}`);

/** toBytes writes 32 bytes in big-endian order. @param {bigint} number */
const toBytes = (number) => Uint8Array.from(number.toString(16).padStart(64, "0").match(/../g) ?? [], (b) => parseInt(b, 16));

/** @param {...(Uint8Array | number[])} parts */
function join(...parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** withLength puts the length of a text before it, as a CompactSize. @param {string} text */
function withLength(text) {
  const bytes = new TextEncoder().encode(text), size = bytes.length;
  const length = size < 253 ? [size] : size < 0x10000 ? [253, size & 255, size >> 8] : [254, size & 255, (size >> 8) & 255, (size >> 16) & 255, size >>> 24];
  return join(length, bytes);
}

/**
 * signerOf returns the hash of the public key that signed a message, 20 bytes: of a recoverable
 * ECDSA signature in base64, as wallets give for bch_signMessage (protocol/SIGNIN.md §3). There
 * is one for nearly every signature, so compare it with the one expected, or call verifyMessage.
 * It throws a KeytreeError that says what is wrong with a signature.
 * @param {string} message
 * @param {string} signature
 * @returns {Uint8Array}
 */
export function signerOf(message, signature) {
  const refuse = (/** @type {string} */ why) => wrong("signature", why);
  if (typeof signature !== "string" || signature.length !== 88) throw refuse("expected 88 characters of base64");
  let text = "";
  try {
    text = atob(signature);
  } catch {
    // Then it is not what is compared below.
  }
  if (btoa(text) !== signature || text.length !== 65) throw refuse("expected base64 of 65 bytes");
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0)), header = bytes[0];
  if (header < 27 || header > 34) throw refuse(`expected a header byte of 27 to 34, got ${header}`);
  const r = toNumber(bytes.slice(1, 33)), s = toNumber(bytes.slice(33)), i = (header - 27) & 3;
  if (r === 0n || r >= n) throw refuse("expected r of 1 to the order of the curve less 1");
  if (s === 0n || s > n / 2n) throw refuse("expected s of 1 to half the order of the curve");
  const x = i >= 2 ? r + n : r;
  if (x >= p) throw refuse("no point has x = r + order");
  const square = mod(x ** 3n + 7n, p), root = power(square, (p + 1n) / 4n, p);
  if (mod(root * root, p) !== square) throw refuse("no point has its r");
  const y = Number(root & 1n) === (i & 1) ? root : p - root;
  const z = toNumber(sha256(sha256(join(withLength("Bitcoin Signed Message:\n"), withLength(message)))));
  const overR = inverse(r, n), key = times(mod(-z * overR, n), mod(s * overR, n), [x, y, 1n]);
  if (key[2] === 0n) throw refuse("no key made it");
  const overZ = inverse(key[2], p), keyX = toBytes(mod(key[0] * overZ ** 2n, p)), keyY = mod(key[1] * overZ ** 3n, p);
  return ripemd160(sha256(header >= 31 ? join([keyY & 1n ? 3 : 2], keyX) : join([4], keyX, toBytes(keyY))));
}

/**
 * verifyMessage tells whether the key of an address signed a message, as wallets do for
 * bch_signMessage. A signature in another form is none.
 * @param {{ address: string, message: string, signature: string }} signed
 * @returns {boolean}
 */
export function verifyMessage({ address, message, signature }) {
  try {
    const { kind, hash } = decodeAddress(address), signer = signerOf(message, signature);
    return kind === "P2PKH" && hash.length === signer.length && hash.every((byte, i) => byte === signer[i]);
  } catch (error) {
    if (error instanceof KeytreeError) return false;
    throw error;
  }
}

/** The first 32 bits of the fractional parts of the roots of primes (FIPS 180-4 §4.2.2 and §5.3.3). */
const cubeRoots = Int32Array.of(
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
);
const squareRoots = Int32Array.of(
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
);

/**
 * padded is what SHA-256 and RIPEMD-160 hash of some bytes.
 * @param {Uint8Array} bytes
 * @param {boolean} littleEndian The order of the length at its end.
 */
function padded(bytes, littleEndian) {
  const whole = new DataView(new ArrayBuffer((Math.floor((bytes.length + 8) / 64) + 1) * 64));
  new Uint8Array(whole.buffer).set(bytes);
  whole.setUint8(bytes.length, 0x80);
  whole.setBigUint64(whole.byteLength - 8, BigInt(bytes.length) * 8n, littleEndian);
  return whole;
}

const schedule = new Int32Array(64); // of one block of SHA-256

/**
 * compress takes a block of 64 bytes into a state of SHA-256 (FIPS 180-4 §6.2.2).
 * @param {Int32Array} state
 * @param {DataView} whole
 * @param {number} at Where the block begins.
 */
function compress(state, whole, at) {
  const w = schedule;
  for (let i = 0; i < 16; i++) w[i] = whole.getInt32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15], y = w[i - 2];
    w[i] = w[i - 16] + (((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)) +
      w[i - 7] + (((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10));
  }
  let a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
  for (let i = 0; i < 64; i++) {
    const t1 = (h + (((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))) + ((e & f) ^ (~e & g)) + cubeRoots[i] + w[i]) | 0;
    const t2 = ((((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g, g = f, f = e, e = (d + t1) | 0, d = c, c = b, b = a, a = (t1 + t2) | 0;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

/**
 * sha256 is here because pages on plain http beyond loopback have no WebCrypto, and because WebCrypto's takes
 * longer for the many short texts of a state proof.
 * @param {Uint8Array} bytes
 * @returns {Uint8Array}
 */
export function sha256(bytes) {
  const whole = padded(bytes, false), state = Int32Array.from(squareRoots);
  for (let at = 0; at < whole.byteLength; at += 64) compress(state, whole, at);
  const out = new DataView(new ArrayBuffer(32));
  for (let i = 0; i < 8; i++) out.setInt32(4 * i, state[i]);
  return new Uint8Array(out.buffer);
}

/** The tables of RIPEMD-160, a hex digit a step: which word, and by how much it is rotated. */
const ripemd = [
  {
    words: "0123456789abcdef74d1a6f3c0952eb83ae49f812706db5c19ba08c4d37fe56240597c2ae138b6fd",
    by: "befc5879bdef6798768db97f7cf9b7dcbd67e9dfe8d65c75bcefef989e56865c9f5b68dc5cdeb856",
    add: [0, 0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xa953fd4e],
  },
  {
    words: "5e7092b4d6f81a3c6b370d5aef8c4912f5137e69b8c2a04d86413bf05c2d97aecfa4158762de039b",
    by: "899bdff5778beec69df7c89b77c76fdb97fb866ecd5edd75f58bee6e69c9c5f885c9c5e68d65fdbb",
    add: [0x50a28be6, 0x5c4dd124, 0x6d703ef3, 0x7a6d76e9, 0],
  },
];

/** @param {Uint8Array} bytes @returns {Uint8Array} */
export function ripemd160(bytes) {
  const rotate = (/** @type {number} */ x, /** @type {number} */ by) => (x << by) | (x >>> (32 - by));
  /** @type {((x: number, y: number, z: number) => number)[]} */
  const mixers = [(x, y, z) => x ^ y ^ z, (x, y, z) => (x & y) | (~x & z), (x, y, z) => (x | ~y) ^ z, (x, y, z) => (x & z) | (y & ~z), (x, y, z) => x ^ (y | ~z)];
  const whole = padded(bytes, true), state = Uint32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);
  for (let at = 0; at < whole.byteLength; at += 64) {
    const [left, right] = ripemd.map(({ words, by, add }, line) => {
      let [a, b, c, d, e] = state;
      for (let i = 0; i < 80; i++) {
        const round = Math.floor(i / 16), word = whole.getUint32(at + 4 * parseInt(words[i], 16), true);
        const mixed = (a + mixers[line === 0 ? round : 4 - round](b, c, d) + word + add[round]) | 0;
        [a, b, c, d, e] = [e, (rotate(mixed, parseInt(by[i], 16)) + e) | 0, b, rotate(c, 10), d];
      }
      return [a, b, c, d, e];
    });
    state.set([1, 2, 3, 4, 0].map((from, i) => state[from] + left[(from + 1) % 5] + right[(from + 2) % 5]));
  }
  const out = new DataView(new ArrayBuffer(20));
  state.forEach((x, i) => out.setUint32(4 * i, x, true));
  return new Uint8Array(out.buffer);
}

// State proofs (protocol/SPEC.md §13): what is so of a key, shown to who trusts nobody but the witnesses of a policy.

/**
 * @typedef {object} KeyRecord What the map has of a key (protocol/SPEC.md §12).
 * @property {string} address
 * @property {string} parent_address "" for a root.
 * @property {string} accept_tx_hash The MLA of the link to the parent; "" for a root.
 * @property {string} id_tx_hash Of the tree of which the key is the root; "" for another key.
 * @property {number} height Of the last block that changed this.
 */

/**
 * @typedef {object} IDRecord What the map has of an id (protocol/SPEC.md §12).
 * @property {string} id_tx_hash
 * @property {string} merged_into The id that it merged into; "" if it is current.
 * @property {string} main_address The root of its tree; "" if it has merged.
 */

/**
 * @typedef {object} ProvenKey What is proven of a key.
 * @property {"key"} kind
 * @property {string} address
 * @property {boolean | undefined} found Whether it was ever in a link; undefined if the proof does not come to it.
 * @property {boolean} cut Whether the way up is longer than what a proof may show: then the root and the identity are not proven.
 * @property {string} parent_address "" for a key without a parent.
 * @property {string[]} path From the key up to the root, or as far as it is proven.
 * @property {string} main_address The root; the key itself if it has no parent; "" if that is not proven.
 * @property {string} id_tx_hash The identity; "" for a key that was never in a link, or if that is not proven.
 * @property {string} accept_tx_hash The MLA of the link to the parent.
 * @property {KeyRecord[]} records From the key's up to the root's; none if it was never in a link.
 */

/**
 * @typedef {object} ProvenIdentity What is proven of an id.
 * @property {"identity"} kind
 * @property {string} id_tx_hash
 * @property {boolean | undefined} found Whether it ever named an identity; undefined if the proof does not come to it.
 * @property {boolean} cut Whether it has merged more often than a proof may show: then what it is now is not proven.
 * @property {"CURRENT" | "MERGED" | ""} state "" if it was not found.
 * @property {string} merged_into The identity that it is part of now; "" if it is current, or if that is not proven.
 * @property {string} main_address The root of the identity that it is or is part of; "" if that is not proven.
 * @property {IDRecord[]} records From the id's to that of the identity that it is part of now.
 */

/**
 * @typedef {object} ShownTransaction A transaction that a proof brings along.
 * @property {string} tx_hash
 * @property {"MLA" | "MLR"} kind
 * @property {number} height Of its block.
 * @property {string} block_hash Of its block, which is the one that the state log has at that height.
 * @property {number} tx_index
 */

/**
 * @typedef {object} ProvenState What a state proof shows: what was so after one block, and nothing of what came later.
 * @property {string} network
 * @property {number} as_of_height
 * @property {string} as_of_hash Whether that block is on the best chain is the witnesses' word.
 * @property {string} state_hash After the block (protocol/SPEC.md §9).
 * @property {string} state_root After the block (protocol/SPEC.md §12).
 * @property {string} log The name of the state log.
 * @property {string} log_index Of the block's entry.
 * @property {string} log_size Of the checkpoint.
 * @property {string[]} cosigners The witnesses that have cosigned it, by the names that the policy gives them.
 * @property {number} cosigned_at The latest time at which, or later, as many witnesses as the policy asks for have
 *   cosigned it, in Unix seconds; 0 if it asks for none.
 * @property {boolean} old Whether that is longer ago than maxAge, or not known: what is proven may have changed since.
 * @property {(ProvenKey | ProvenIdentity)[]} subjects
 * @property {ShownTransaction[]} transactions
 * @property {string[]} unproven What a server says of an identity, and no such file can show.
 */

/**
 * @typedef {object} VerifyOptions
 * @property {string[]} [addresses] Of what keys it must be a proof, as CashAddr.
 * @property {string[]} [ids] Of what ids.
 * @property {number} [maxAge] After how many milliseconds a cosignature is old. Default a day.
 * @property {number} [now] The time in milliseconds; left out, the clock's.
 */

/**
 * @typedef {object} ProofOf What a proof is asked to be.
 * @property {number} [atHeight] As of which block.
 * @property {boolean} [transactions] Whether to bring the MLAs and MLRs of the links along.
 * @property {AbortSignal} [signal] Ends the call.
 */

/**
 * @typedef {object} Believing How something is asked that must be proven.
 * @property {string} policy Whom to believe (C2SP's tlog-policy).
 * @property {number} [atHeight] As of which block; left out, the newest that can be proven.
 * @property {number} [maxAge] After how many milliseconds a cosignature is old. Default a day.
 * @property {AbortSignal} [signal] Ends the call.
 */

/**
 * @typedef {object} StateProof A state proof, and what the server says of it.
 * @property {number} as_of_height
 * @property {string} as_of_hash
 * @property {string} log
 * @property {number} log_size
 * @property {string} proof The file. Only what verifyStateProof finds in it is proven.
 * @property {number[]} cut Which of the addresses that were asked for, from 0 on, are cut short.
 * @property {number} links_without_transactions
 */

/** StateProofError is what the check of a state proof ends with that shows nothing. */
export class StateProofError extends Error {
  /**
   * @param {string} message
   * @param {"INVALID" | "POLICY" | "SUBJECT" | "DIFFERS" | "UNSUPPORTED"} reason
   * @param {{ cause?: unknown }} [options]
   */
  constructor(message, reason, options) {
    super(message, options);
    this.name = "StateProofError";
    /**
     * INVALID: the file proves nothing. POLICY: the policy cannot be used. SUBJECT: the file is about somebody
     * else. DIFFERS: the server's answer is another than what it has proven. UNSUPPORTED: nothing
     * was found out, since there is no Ed25519 here.
     */
    this.reason = reason;
  }
}

/** invalid is the error of a file. @param {number} check Which one of protocol/SPEC.md §13 fails. @param {string} message */
const invalid = (check, message) => new StateProofError(`check ${check} of a state proof: ${message}`, "INVALID");

const mostOfFile = 64 << 20, mostOfCheckpoint = 64 << 10; // bytes
const mostSignatures = 100, mostSubjects = 1000, mostRecords = 10_000, mostTransactions = 2000, mostInclusion = 63;
const mostNumber = 2n ** 63n - 1n; // of a size, a time

/** The networks with the prefix of their addresses. @type {Record<string, string>} */
const networks = { mainnet: "bitcoincash", testnet3: "bchtest", testnet4: "bchtest", chipnet: "bchtest", regtest: "bchreg" };

/** @param {Uint8Array} bytes */
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** toDisplay writes a hash as explorers do. @param {Uint8Array} hash */
const toDisplay = (hash) => toHex(hash.slice().reverse());

/** @param {Uint8Array} a @param {Uint8Array} b */
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

/** @param {Uint8Array} bytes */
const isZero = (bytes) => bytes.every((byte) => byte === 0);

/** @param {string} text */
const toUTF8 = (text) => new TextEncoder().encode(text);

/** hash256 is SHA-256 twice. @param {Uint8Array} bytes */
const hash256 = (bytes) => sha256(sha256(bytes));

/** formatAddress is the CashAddr of a key. @param {Uint8Array} key @param {string} prefix */
function formatAddress(key, prefix) {
  const values = [];
  let bits = 0, n = 0;
  for (const byte of [0, ...key]) {
    bits = ((bits << 8) | byte) & 0xfff;
    for (n += 8; n >= 5;) values.push((bits >> (n -= 5)) & 31);
  }
  if (n > 0) values.push((bits << (5 - n)) & 31);
  const sum = checksum([...prefixValues(prefix), ...values, 0, 0, 0, 0, 0, 0, 0, 0]);
  for (let i = 7; i >= 0; i--) values.push(Math.floor(sum / 32 ** i) & 31);
  return `${prefix}:${values.map((value) => alphabet[value]).join("")}`;
}

/** The values of base64's characters by their codes, and 255. */
const base64 = new Uint8Array(128).fill(255);
for (let i = 0; i < 64; i++) base64["ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".charCodeAt(i)] = i;

/**
 * fromBase64 reads what is written in the one way that there is (RFC 4648 §4), and undefined for another text.
 * @param {string} text
 */
function fromBase64(text) {
  const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0, digits = text.length - padding;
  if (text.length % 4 !== 0) return undefined;
  const bytes = new Uint8Array((text.length / 4) * 3 - padding);
  let bits = 0, n = 0, at = 0;
  for (let i = 0; i < digits; i++) {
    const value = base64[text.charCodeAt(i)] ?? 255;
    if (value === 255) return undefined;
    bits = ((bits << 6) | value) & 0xffff;
    if ((n += 6) >= 8) bytes[at++] = bits >> (n -= 8);
  }
  return (bits & ((1 << n) - 1)) === 0 ? bytes : undefined;
}

/** toNumberUpTo reads a decimal without leading zeros, and undefined for another text. @param {string} text @param {bigint} most */
function toNumberUpTo(text, most) {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(text)) return undefined;
  const number = BigInt(text);
  return number <= most ? number : undefined;
}

/**
 * @typedef {object} NoteKey A key of a policy.
 * @property {string} name
 * @property {string} id In hex.
 * @property {Uint8Array} key
 * @property {string} called The name that the policy gives a witness.
 */

/** @typedef {(times: Map<string, bigint>) => bigint | undefined} Quorum Since when there is one, by when each witness has cosigned. */

/**
 * readKey reads a verifier key of the signed notes.
 * @param {string} text
 * @param {number} algorithm
 * @param {string} called
 * @returns {NoteKey}
 */
function readKey(text, algorithm, called) {
  const [, name, id, encoded] = /^([^+]+)\+([0-9a-f]{8})\+(.*)$/.exec(text) ?? [], bytes = encoded === undefined ? undefined : fromBase64(encoded);
  if (!bytes || /\p{White_Space}/u.test(name)) throw new Error(`expected a key as NAME+ID+BASE64, got ${text}`);
  if (bytes[0] !== algorithm || bytes.length !== 33) throw new Error(`expected an Ed25519 key of type ${algorithm}, got ${text}`);
  if (toHex(sha256(join(toUTF8(name), [10], bytes)).subarray(0, 4)) !== id) throw new Error(`the id of ${text} is not that of its name and key`);
  return { name, id, key: bytes.subarray(1), called };
}

/**
 * Policy says which log and which witnesses are believed (C2SP's tlog-policy).
 */
class Policy {
  /** @type {NoteKey[]} */
  logs = [];
  /** @type {NoteKey[]} */
  witnesses = [];
  /** @type {Quorum | undefined} */
  quorum;
  /** @type {Map<string, Quorum>} Of witnesses and groups, by their names; each may be in one group. */
  #named = new Map();
  #members = new Set();

  /** @param {string} text */
  constructor(text) {
    if (typeof text !== "string") throw new StateProofError("expected the text of a policy", "POLICY");
    for (const [i, line] of text.split("\n").entries()) {
      try {
        if (/[^\t\x20-\x7e\x80-\u{10ffff}]/u.test(line)) throw new Error("expected no control characters");
        const [kind, ...rest] = line.split(/[ \t]+/).filter((word) => word !== "");
        if (kind !== undefined && !kind.startsWith("#")) this.#add(kind, rest);
      } catch (error) {
        throw new StateProofError(`line ${i + 1} of the policy: ${/** @type {Error} */ (error).message}`, "POLICY");
      }
    }
    if (!this.#quorum) throw new StateProofError('the policy has no line "quorum NAME"', "POLICY");
    if (this.logs.length === 0) throw new StateProofError('the policy has no line "log KEY", which a state proof needs', "POLICY");
    this.quorum = this.#quorum === "none" ? undefined : this.#named.get(this.#quorum);
  }

  #quorum = "";

  /** @param {string} kind @param {string[]} words */
  #add(kind, words) {
    const [name, ...rest] = words;
    switch (kind) {
      case "log":
        if (words.length < 1 || words.length > 2) throw new Error("expected log KEY [URL]");
        this.#addKey(this.logs, readKey(name, 1, ""));
        return;
      case "witness":
        if (words.length < 2 || words.length > 3) throw new Error("expected witness NAME KEY [URL]");
        this.#addKey(this.witnesses, readKey(rest[0], 4, name));
        this.#name(name, (times) => times.get(name));
        return;
      case "group":
        this.#addGroup(name, rest);
        return;
      case "quorum":
        if (words.length !== 1) throw new Error("expected quorum NAME");
        if (this.#quorum) throw new Error("expected one quorum");
        if (name !== "none" && !this.#named.has(name)) throw new Error(`expected a witness or group of a line above, or none, got ${name}`);
        this.#quorum = name;
        return;
      default:
        throw new Error(`expected log, witness, group or quorum, got ${kind}`);
    }
  }

  /** @param {NoteKey[]} keys @param {NoteKey} key */
  #addKey(keys, key) {
    if (keys.some((other) => same(other.key, key.key))) throw new Error(`the key of ${key.name} is there twice`);
    keys.push(key);
  }

  /** @param {string} name @param {string[]} words */
  #addGroup(name, [threshold, ...members]) {
    if (members.length === 0) throw new Error("expected group NAME all|any|NUMBER MEMBER...");
    const least = threshold === "any" ? 1 : threshold === "all" ? members.length : /^[1-9][0-9]{0,8}$/.test(threshold) ? Number(threshold) : 0;
    if (least < 1 || least > members.length) throw new Error(`expected all, any or a number of 1 to ${members.length}, got ${threshold}`);
    const quorums = members.map((member) => {
      const quorum = this.#named.get(member);
      if (!quorum) throw new Error(`expected a witness or group of a line above, got ${member}`);
      if (this.#members.has(member)) throw new Error(`${member} is a member twice`);
      this.#members.add(member);
      return quorum;
    });
    this.#name(name, (times) => {
      const since = /** @type {bigint[]} */ (quorums.map((quorum) => quorum(times)).filter((time) => time !== undefined));
      return since.sort((a, b) => (a < b ? 1 : -1))[least - 1];
    });
  }

  /** @param {string} name @param {Quorum} quorum */
  #name(name, quorum) {
    if (name === "none" || this.#named.has(name)) throw new Error(`the name ${name} is taken`);
    this.#named.set(name, quorum);
  }
}

/**
 * verifyEd25519 tells whether a key has signed a text. Only this takes WebCrypto.
 * @param {Uint8Array} key
 * @param {Uint8Array} signature
 * @param {Uint8Array} text
 */
async function verifyEd25519(key, signature, text) {
  const { subtle } = globalThis.crypto ?? {};
  const bytes = (/** @type {Uint8Array} */ array) => /** @type {BufferSource} */ (array);
  try {
    if (!subtle) throw new Error("no WebCrypto: a page needs https, or loopback");
    return await subtle.verify("Ed25519", await subtle.importKey("raw", bytes(key), "Ed25519", false, ["verify"]), bytes(signature), bytes(text));
  } catch (cause) {
    if (cause instanceof Error && cause.name === "DataError") return false; // it is no key
    throw new StateProofError(`state proofs cannot be checked here, since there is no Ed25519: ${/** @type {any} */ (cause).message}`, "UNSUPPORTED", { cause });
  }
}

/**
 * @typedef {object} Checkpoint
 * @property {string} origin
 * @property {string} network "" if the origin is no state log of these rules.
 * @property {bigint} size
 * @property {Uint8Array} root
 * @property {string} text What is signed.
 * @property {{ name: string, id: string, bytes: Uint8Array }[]} signatures
 */

/** readCheckpoint reads a signed note, of whose signatures none is checked. @param {string} note @returns {Checkpoint} */
function readCheckpoint(note) {
  if (note.length > mostOfCheckpoint || toUTF8(note).length > mostOfCheckpoint) throw invalid(1, `the checkpoint has more than ${mostOfCheckpoint} bytes`);
  if (/[\0-\x09\x0b-\x1f\p{Surrogate}]/u.test(note)) throw invalid(1, "the checkpoint has a control character, or is not Unicode");
  const end = note.lastIndexOf("\n\n") + 1;
  if (end === 0 || !note.endsWith("\n")) throw invalid(1, "the checkpoint has no signatures behind an empty line");
  const text = note.slice(0, end), lines = text.slice(0, -1).split("\n");
  if (lines.length < 3 || lines.includes("")) throw invalid(1, "expected origin, size, root and no empty line in the checkpoint");
  const size = toNumberUpTo(lines[1], mostNumber), root = fromBase64(lines[2]);
  if (size === undefined) throw invalid(1, "the size in the checkpoint is no number");
  if (root?.length !== 32) throw invalid(1, "the root in the checkpoint is not 32 bytes in base64");
  const signatures = note.slice(end + 1, -1).split("\n").map((line) => {
    const [, name, encoded] = /^— ([^ ]+) ([^ ]+)$/.exec(line) ?? [], bytes = encoded === undefined ? undefined : fromBase64(encoded);
    if (!bytes || bytes.length < 5 || /[\p{White_Space}+]/u.test(name)) throw invalid(1, "a line of the checkpoint is no signature");
    return { name, id: toHex(bytes.subarray(0, 4)), bytes: bytes.subarray(4) };
  });
  if (signatures.length > mostSignatures) throw invalid(1, `the checkpoint has more than ${mostSignatures} signatures`);
  const [, network, epoch] = /^[^/]+\/state\/([a-z0-9]+)\/1\/([1-9][0-9]{0,9})$/.exec(lines[0]) ?? [];
  const isOfRules = network !== undefined && Object.hasOwn(networks, network) && Number(epoch) < 2 ** 32;
  return { origin: lines[0], network: isOfRules ? network : "", size, root, text, signatures };
}

/**
 * checkSignatures finds that a checkpoint is signed as a policy wants it.
 * @param {Checkpoint} checkpoint
 * @param {Policy} policy
 * @returns {Promise<{ cosigners: string[], since: bigint }>} Who has cosigned, and since when that is enough.
 */
async function checkSignatures({ origin, network, text, signatures }, policy) {
  if (network === "") throw invalid(2, `${JSON.stringify(origin.slice(0, 100))} is no state log of these rules`);
  const whole = toUTF8(text), seen = new Set(), times = /** @type {Map<string, bigint>} */ (new Map());
  let signed = false;
  for (const { name, id, bytes } of signatures) {
    const by = (/** @type {NoteKey} */ key) => key.name === name && key.id === id, log = policy.logs.find(by), witness = policy.witnesses.find(by);
    if (!log && !witness) continue;
    let signature = bytes, said = whole;
    if (witness) {
      if (bytes.length !== 72) throw invalid(2, `the signature of ${name} is not by it`);
      const time = new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0);
      if (time > mostNumber) throw invalid(2, `${name} has cosigned at no time`);
      signature = bytes.subarray(8);
      said = join(toUTF8(`cosignature/v1\ntime ${time}\n`), whole);
      times.set(witness.called, time);
    }
    const { key } = /** @type {NoteKey} */ (log ?? witness);
    if (signature.length !== 64 || !(await verifyEd25519(key, signature, said))) throw invalid(2, `the signature of ${name} is not by it`);
    if (seen.has(key)) throw invalid(2, `${name} has signed twice`);
    seen.add(key);
    signed ||= Boolean(log) && name === origin;
  }
  if (!signed) throw invalid(2, `no log that the policy names has signed the checkpoint of ${origin}`);
  const since = policy.quorum ? policy.quorum(times) : 0n;
  if (since === undefined) throw invalid(2, "the witnesses that have cosigned the checkpoint are no quorum of the policy");
  return { cosigners: [...times.keys()], since };
}

/**
 * isIncluded tells whether an inclusion proof leads from an entry to a checkpoint's root (RFC 9162 §2.1.3.2).
 * @param {Checkpoint} checkpoint
 * @param {bigint} index Of the entry; one that the log does not have, as one below 0, has no proof.
 * @param {Uint8Array} entry
 * @param {Uint8Array[]} proof
 */
function isIncluded({ size, root }, index, entry, proof) {
  if (index < 0n || index >= size) return false;
  let hash = sha256(join([0], entry)), at = index, last = size - 1n;
  for (const sibling of proof) {
    if (last === 0n) return false;
    if ((at & 1n) === 1n || at === last) {
      hash = sha256(join([1], sibling, hash));
      while ((at & 1n) === 0n && at !== 0n) at >>= 1n, last >>= 1n;
    } else hash = sha256(join([1], hash, sibling));
    at >>= 1n, last >>= 1n;
  }
  return last === 0n && same(hash, root);
}

/** Bytes are read from their beginning on. */
class Bytes {
  #at = 0;

  /** @param {Uint8Array} bytes @param {string} what */
  constructor(bytes, what) {
    this.bytes = bytes;
    this.what = what;
  }

  /** @param {number} n */
  take(n) {
    if (n > this.left()) throw invalid(1, `${this.what} ends too early`);
    return this.bytes.subarray(this.#at, this.#at += n);
  }

  /** number is one of up to 6 bytes, little-endian. @param {number} n */
  number(n) {
    return this.take(n).reduceRight((number, byte) => number * 256 + byte, 0);
  }

  /** hashes are as many as the byte before them says. @param {number} most @param {string} what They are. */
  hashes(most, what) {
    const count = this.number(1);
    if (count > most) throw invalid(1, `${what} has ${count} hashes`);
    return Array.from({ length: count }, () => this.take(32));
  }

  /** size is a CompactSize, which must be the shortest. */
  size() {
    const first = this.number(1);
    if (first < 0xfd) return first;
    const [lower, upper] = first === 0xfd ? [this.number(2), 0] : first === 0xfe ? [this.number(4), 0] : [this.number(4), this.number(4)];
    const size = upper * 2 ** 32 + lower;
    if (size < [0xfd, 0x10000, 2 ** 32][first - 0xfd]) throw invalid(1, `${this.what} has a CompactSize that is not the shortest`);
    return size;
  }

  /** left is how many bytes are still to be read. */
  left() {
    return this.bytes.length - this.#at;
  }

  /** end has nothing come behind. */
  end() {
    if (this.left() > 0) throw invalid(1, `something is behind ${this.what}`);
  }
}

const keyPrefix = toUTF8("keytree/key\0"), idPrefix = toUTF8("keytree/id\0");

/** mapKey is where the map has a record (protocol/SPEC.md §12). @param {Uint8Array} prefix @param {Uint8Array} of */
const mapKey = (prefix, of) => sha256(join(prefix, of));

/** isRight tells the side of a map key. @param {Uint8Array} key @param {number} bit */
const isRight = (key, bit) => ((key[bit >> 3] >> (7 - (bit & 7))) & 1) === 1;

/**
 * @typedef {object} Leaf A record that is shown.
 * @property {Uint8Array} key Its map key.
 * @property {Uint8Array} next The map key of the record that comes next on a walk; empty if it is the last.
 * @property {boolean} reached Whether a look-up has ended at it.
 * @property {KeyRecord | IDRecord} record
 * @property {Uint8Array} parent Of a key's record; empty of an id's.
 * @property {Leaf} [after] What was found at next.
 */

/** @typedef {{ bit: number, left: Tree | undefined, right: Tree | undefined }} Branch What is undefined is not shown. */
/** @typedef {Branch | Leaf} Tree */

/** ShownMap is that part of the map which a proof shows. */
class ShownMap {
  /** @type {Leaf[]} */
  leaves = [];
  /** @type {Tree | undefined} */
  #whole; // undefined if the map is empty
  #prefix;
  #height;
  #from;
  /** @type {{ bit: number, right: boolean }[]} */
  #way = []; // down to what is read

  /**
   * @param {Bytes} from
   * @param {number} height Of the entry.
   * @param {string} prefix Of addresses.
   */
  constructor(from, height, prefix) {
    this.#from = from;
    this.#height = height;
    this.#prefix = prefix;
    const [whole, hash] = this.#read();
    this.#whole = whole;
    /** The state root. */
    this.root = hash;
  }

  /** @returns {[Tree | undefined, Uint8Array]} What it is, and its hash. */
  #read() {
    const kind = this.#from.number(1);
    if (kind === 0 && this.#way.length === 0) return [undefined, sha256(new Uint8Array(0))];
    if (kind === 1) return this.#readLeaf();
    if (kind < 2 || kind > 4) throw invalid(1, `a node of the tree begins with ${kind}`);
    const bit = this.#from.number(1), above = this.#way.at(-1);
    if (above && bit <= above.bit) throw invalid(1, `bit ${bit} of the tree is below bit ${above.bit}`);
    const [left, leftHash] = kind === 3 ? [undefined, this.#from.take(32)] : this.#readSide(bit, false);
    const [right, rightHash] = kind === 4 ? [undefined, this.#from.take(32)] : this.#readSide(bit, true);
    return [{ bit, left, right }, sha256(join([1], bit < 128 ? [bit] : [bit, 1], leftHash, rightHash))];
  }

  /** @param {number} bit @param {boolean} right */
  #readSide(bit, right) {
    this.#way.push({ bit, right });
    const read = this.#read();
    this.#way.pop();
    return read;
  }

  /** @returns {[Leaf, Uint8Array]} */
  #readLeaf() {
    if (this.leaves.length === mostRecords) throw invalid(1, `it shows more than ${mostRecords} records`);
    const kind = this.#from.number(1);
    if (kind !== 1 && kind !== 2) throw invalid(1, `a record begins with ${kind}`);
    const fields = this.#from.take(kind === 1 ? 108 : 85), leaf = kind === 1 ? this.#readKey(fields) : this.#readID(fields);
    for (const { bit, right } of this.#way) if (isRight(leaf.key, bit) !== right) throw invalid(1, `a record is on the wrong side of bit ${bit}`);
    this.leaves.push(leaf);
    return [leaf, sha256(join([0, 32], leaf.key, [fields.length + 1, kind], fields))];
  }

  /** @param {Uint8Array} fields @returns {Leaf} */
  #readKey(fields) {
    const from = new Bytes(fields, "a record"), key = from.take(20), parent = from.take(20), accept = from.take(32), id = from.take(32), height = from.number(4);
    const isRoot = isZero(parent);
    if (isZero(accept) !== isRoot || isZero(id) === isRoot || height > this.#height) throw invalid(1, "there is no such record of a key");
    return {
      key: mapKey(keyPrefix, key), next: isRoot ? fields.subarray(0, 0) : mapKey(keyPrefix, parent), reached: false, parent,
      record: {
        address: formatAddress(key, this.#prefix), parent_address: isRoot ? "" : formatAddress(parent, this.#prefix),
        accept_tx_hash: isRoot ? "" : toDisplay(accept), id_tx_hash: isRoot ? toDisplay(id) : "", height,
      },
    };
  }

  /** @param {Uint8Array} fields @returns {Leaf} */
  #readID(fields) {
    const from = new Bytes(fields, "a record"), id = from.take(32), state = from.number(1), root = from.take(20), into = from.take(32);
    if (state > 1 || isZero(root) !== (state === 1) || isZero(into) !== (state === 0) || same(into, id)) throw invalid(1, "there is no such record of an id");
    return {
      key: mapKey(idPrefix, id), next: state === 0 ? fields.subarray(0, 0) : mapKey(idPrefix, into), reached: false, parent: fields.subarray(0, 0),
      record: { id_tx_hash: toDisplay(id), merged_into: state === 1 ? toDisplay(into) : "", main_address: state === 0 ? formatAddress(root, this.#prefix) : "" },
    };
  }

  /** find looks a map key up. @param {Uint8Array} key @returns {Leaf | "ABSENT" | "NOT SHOWN"} */
  #find(key) {
    let at = this.#whole;
    while (at && "bit" in at) {
      at = isRight(key, at.bit) ? at.right : at.left;
      if (!at) return "NOT SHOWN";
    }
    if (at) at.reached = true;
    return at && same(at.key, key) ? at : "ABSENT";
  }

  /**
   * walk looks a map key up, and then what comes next, up to the last.
   * @param {Uint8Array} key
   * @returns {{ leaves: Leaf[], cut: boolean }}
   */
  walk(key) {
    const leaves = [];
    for (let found = this.#find(key); ;) {
      if (found === "NOT SHOWN") {
        if (this.leaves.length !== mostRecords) throw invalid(5, `a walk comes to what is not shown, though there are only ${this.leaves.length} records`);
        return { leaves, cut: true };
      }
      if (found === "ABSENT") {
        if (leaves.length > 0) throw invalid(5, "a walk comes to what has no record");
        return { leaves, cut: false };
      }
      if (leaves.push(found) > this.leaves.length) throw invalid(5, "a walk goes round");
      if (found.next.length === 0) return { leaves, cut: false };
      /** @type {Leaf | "ABSENT" | "NOT SHOWN"} */
      const next = found.after ?? this.#find(found.next);
      if (typeof next === "object") found.after = next; // many walks may come by
      found = next;
    }
  }
}

/** provenKey is what a walk shows of a key. @param {string} address @param {{ leaves: Leaf[], cut: boolean }} walk @returns {ProvenKey} */
function provenKey(address, { leaves, cut }) {
  const records = leaves.map(({ record }) => /** @type {KeyRecord} */ (record)), first = records[0], last = records.at(-1);
  const path = last ? records.map((record) => record.address) : [address];
  if (cut && last) path.push(last.parent_address);
  return {
    kind: "key", address, found: last ? true : cut ? undefined : false, cut, parent_address: first?.parent_address ?? "", path,
    main_address: cut ? "" : last?.address ?? address, id_tx_hash: cut ? "" : last?.id_tx_hash ?? "", accept_tx_hash: first?.accept_tx_hash ?? "", records,
  };
}

/** provenIdentity is what a walk shows of an id. @param {string} id @param {{ leaves: Leaf[], cut: boolean }} walk @returns {ProvenIdentity} */
function provenIdentity(id, { leaves, cut }) {
  const records = leaves.map(({ record }) => /** @type {IDRecord} */ (record)), last = records.at(-1), merged = records[0]?.merged_into;
  return {
    kind: "identity", id_tx_hash: id, found: last ? true : cut ? undefined : false, cut, state: merged === undefined ? "" : merged ? "MERGED" : "CURRENT",
    merged_into: merged && last && !cut ? last.id_tx_hash : "", main_address: cut ? "" : last?.main_address ?? "", records,
  };
}

/** withoutToken is a script without its prefix of CashTokens (CHIP-2022-02), if it has a valid one. @param {Uint8Array} script */
function withoutToken(script) {
  if (script[0] !== 0xef) return script;
  const from = new Bytes(script, "a script");
  try {
    from.take(33);
    const bits = from.number(1), has = { amount: bits & 0x10, nft: bits & 0x20, commitment: bits & 0x40 }, capability = bits & 15;
    if (bits & 0x80 || capability > 2 || !has.nft && (has.commitment || capability || !has.amount)) return script;
    if (has.commitment) {
      const size = from.size();
      if (size === 0 || size > 128) return script;
      from.take(size);
    }
    if (has.amount) {
      const amount = script.subarray(script.length - from.left());
      if (from.size() === 0 || amount[0] === 0xff && amount[8] >= 0x80) return script; // which is 2⁶³ or more
    }
    return from.take(from.left());
  } catch (error) {
    if (error instanceof StateProofError) return script; // which ends too early
    throw error;
  }
}

/**
 * itemsOf are what a script pushes, the first three; undefined if it does anything else.
 * @param {Uint8Array} script
 */
function itemsOf(script) {
  const from = new Bytes(script, "a script"), items = [];
  try {
    while (from.left() > 0 && items.length < 3) {
      const op = from.number(1);
      if (op <= 0x4b) items.push(from.take(op));
      else if (op <= 0x4e) items.push(from.take(from.number(1 << (op - 0x4c))));
      else if (op === 0x4f || op >= 0x51 && op <= 0x60) items.push(Uint8Array.of(op === 0x4f ? 0x81 : op - 0x50));
      else return undefined;
    }
  } catch (error) {
    if (error instanceof StateProofError) return undefined; // it ends within a push
    throw error;
  }
  return items;
}

/**
 * actionOf is the action that a transaction carries (protocol/SPEC.md §1): undefined if there is none, or if it is malformed.
 * @param {Uint8Array} raw
 * @returns {{ kind: string, of: Uint8Array } | undefined} Of: the parent, or the transaction referred to.
 */
function actionOf(raw) {
  const from = new Bytes(raw, "a transaction"), scripts = [];
  from.take(4);
  for (let inputs = from.size(); inputs > 0; inputs--) from.take(36), from.take(from.size()), from.take(4);
  for (let outputs = from.size(); outputs > 0; outputs--) from.take(8), scripts.push(from.take(from.size()));
  from.take(4);
  from.end();
  for (const script of scripts.map(withoutToken)) {
    const kind = ["MLR", "MLA", "MCR"][script[3] - 0x20];
    if (!kind || script[0] !== 0x6a || script[1] !== 0x02 || script[2] !== 0x6d) continue;
    const items = itemsOf(script.subarray(4));
    return items && (items.length === 1 || items.length === 2) && items[0].length === (kind === "MLR" ? 20 : 32) ? { kind, of: items[0] } : undefined;
  }
  return undefined;
}

/**
 * hasWork tells whether the hash of a block's header meets the target that its bits claim, and whether that is one of
 * its network.
 * @param {Uint8Array} header
 * @param {Uint8Array} hash
 * @param {string} network
 */
function hasWork(header, hash, network) {
  const target = targetOf(header[75], header[72] | (header[73] << 8) | (header[74] << 16)), easiest = network === "regtest" ? targetOf(0x20, 0x7fffff) : targetOf(0x1d, 0xffff);
  return target <= easiest && toNumber(hash.slice().reverse()) <= target;
}

/** targetOf is what the bits of a header claim; 0, which no hash meets, if that is negative. @param {number} size @param {number} mantissa */
const targetOf = (size, mantissa) => (mantissa >= 0x800000 ? 0n : size <= 3 ? BigInt(mantissa >> (8 * (3 - size))) : BigInt(mantissa) << BigInt(8 * (size - 3)));

/** What the entry of a block in a state log begins with: id and version (protocol/STATELOG.md §1). */
const entryPrefix = Uint8Array.of(0x4b, 0x54, 0x53, 0, 1);

/**
 * readTransaction reads a transaction that a proof brings along.
 * @param {Bytes} from
 */
function readTransaction(from) {
  const height = from.take(4), header = from.take(80), index = from.number(4), branch = from.hashes(32, "a merkle branch"), size = from.number(4);
  if (size < 65 || size > 1_000_000) throw invalid(1, `a transaction has ${size} bytes`);
  const raw = from.take(size), stateHash = from.take(32), root = from.take(32), inclusion = from.hashes(mostInclusion, "an inclusion proof"), block = hash256(header);
  return {
    height: new Bytes(height, "a height").number(4), header, block, index, branch, txid: hash256(raw), action: actionOf(raw),
    entry: join(entryPrefix, height, block, stateHash, root), inclusion,
  };
}

/**
 * checkBlock finds that a transaction is in the block that the log has at its height.
 * @param {ReturnType<typeof readTransaction>} transaction
 * @param {{ checkpoint: Checkpoint, index: bigint, height: number }} of The proof: the index of its entry, and the height.
 */
function checkBlock({ height, header, block, index, branch, txid, entry, inclusion }, of) {
  let hash = txid, at = index;
  for (const sibling of branch) {
    if (at & 1 && same(sibling, hash)) throw invalid(7, "a transaction is the copy that fills a level of its block's merkle tree");
    hash = hash256(at & 1 ? join(sibling, hash) : join(hash, sibling));
    at >>>= 1;
  }
  if (at !== 0 || !same(hash, header.subarray(36, 68))) throw invalid(7, "a transaction is not under the merkle root of its block");
  if (!hasWork(header, block, of.checkpoint.network)) throw invalid(7, "the header of a block has not the work that it claims");
  if (!isIncluded(of.checkpoint, of.index - BigInt(of.height - height), entry, inclusion)) throw invalid(7, `the log has not block ${toDisplay(block)} at height ${height}`);
}

/**
 * checkTransactions finds that the transactions of a proof are the pairs of an accept and its request of links that it shows.
 * @param {ReturnType<typeof readShown>} shown
 * @param {Checkpoint} checkpoint
 * @param {bigint} index Of the proof's entry.
 * @returns {ShownTransaction[]}
 */
function checkTransactions({ transactions, map, height }, checkpoint, index) {
  const count = transactions.length, checked = /** @type {ShownTransaction[]} */ ([]), accepts = new Set();
  if (count % 2 !== 0) throw invalid(7, `it has ${count} transactions, which are no pairs`);
  /** @type {Map<string, Leaf>} */
  const links = new Map(count === 0 ? [] : map.leaves.flatMap((leaf) => ("address" in leaf.record ? [[leaf.record.accept_tx_hash, leaf]] : [])));
  for (let i = 0; i < count; i += 2) {
    const [accept, request] = transactions.slice(i, i + 2), txid = toDisplay(accept.txid), link = links.get(txid);
    const linked = /** @type {KeyRecord | undefined} */ (link?.record)?.height;
    if (!link || linked === undefined || accept.action?.kind !== "MLA") throw invalid(7, `transaction ${txid} is not the MLA of a record that is shown`);
    if (accepts.has(txid)) throw invalid(7, `transaction ${txid} is there twice`);
    accepts.add(txid);
    const refersTo = accept.action.of;
    if (request.action?.kind !== "MLR" || !same(refersTo, request.txid) && !same(refersTo, request.txid.slice().reverse())) throw invalid(7, `what is behind MLA ${txid} is not its MLR`);
    if (!same(request.action.of, link.parent)) throw invalid(7, `MLR ${toDisplay(request.txid)} names another parent`);
    if (accept.height > linked || request.height > linked) throw invalid(7, `MLA ${txid} and its MLR claim to be later than their link`);
    for (const [kind, one] of /** @type {const} */ ([["MLA", accept], ["MLR", request]])) {
      checkBlock(one, { checkpoint, index, height });
      checked.push({ tx_hash: toDisplay(one.txid), kind, height: one.height, block_hash: toDisplay(one.block), tx_index: one.index });
    }
  }
  return checked;
}

/**
 * readShown reads what a proof shows, and checks nothing but its form.
 * @param {Uint8Array} extra
 * @param {string} prefix Of addresses.
 */
function readShown(extra, prefix) {
  const from = new Bytes(extra, "what is shown");
  if (!same(from.take(5), Uint8Array.of(0x4b, 0x54, 0x50, 0, 1))) throw invalid(1, "it is no state proof of version 1");
  const entry = from.take(105), fields = new Bytes(entry, "the entry");
  if (!same(fields.take(5), entryPrefix)) throw invalid(1, "its entry is none of a state log");
  const height = fields.number(4), block = fields.take(32), stateHash = fields.take(32), root = fields.take(32);
  const count = from.number(2), seen = new Set();
  if (count < 1 || count > mostSubjects) throw invalid(1, `it has ${count} subjects`);
  const subjects = Array.from({ length: count }, () => {
    const kind = from.number(1);
    if (kind !== 1 && kind !== 2) throw invalid(1, `a subject begins with ${kind}`);
    const of = from.take(kind === 1 ? 20 : 32), name = toHex(of);
    if (seen.has(name)) throw invalid(1, "a subject is there twice");
    seen.add(name);
    return { kind, of };
  });
  const map = new ShownMap(from, height, prefix), carried = from.number(2);
  if (carried > mostTransactions) throw invalid(1, `it has ${carried} transactions`);
  const transactions = Array.from({ length: carried }, () => readTransaction(from));
  from.end();
  return { entry, height, block, stateHash, root, subjects, map, transactions };
}

/**
 * checkSubjects walks what is shown from each subject.
 * @param {ReturnType<typeof readShown>} shown
 * @param {string} prefix Of addresses.
 */
function checkSubjects({ root, subjects, map }, prefix) {
  if (!same(map.root, root)) throw invalid(4, "the tree's hash is not the entry's state root");
  const proven = subjects.map(({ kind, of }) => {
    const walk = map.walk(mapKey(kind === 1 ? keyPrefix : idPrefix, of));
    return kind === 1 ? provenKey(formatAddress(of, prefix), walk) : provenIdentity(toDisplay(of), walk);
  });
  if (!map.leaves.every(({ reached }) => reached)) throw invalid(6, "it shows a record that says nothing of its subjects");
  return proven;
}

/**
 * verifyStateProof finds what a state proof shows (protocol/SPEC.md §13), by a policy that says which log and
 * which witnesses are believed (C2SP's tlog-policy), and nothing else: no server is asked. It throws a
 * StateProofError for a file that shows nothing.
 *
 * What it shows is what was so after one block. Look how old that is, and give the addresses that you asked for: the
 * proof for another address is as valid.
 * @param {string | Uint8Array} file
 * @param {string} policy
 * @param {VerifyOptions} [options]
 * @returns {Promise<ProvenState>}
 */
export async function verifyStateProof(file, policy, { addresses = [], ids = [], maxAge = 24 * 60 * 60 * 1000, now = Date.now() } = {}) {
  const believed = new Policy(policy);
  if (file.length > mostOfFile) throw invalid(1, `it has more than ${mostOfFile} bytes`);
  let text = file;
  if (typeof text !== "string") {
    try {
      text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text);
    } catch {
      throw invalid(1, "it is no text");
    }
  }
  let at = 0;
  const line = () => {
    const end = text.indexOf("\n", at);
    if (end < 0) throw invalid(1, "it ends too early");
    const read = text.slice(at, end);
    at = end + 1;
    return read;
  };
  if (line() !== "c2sp.org/tlog-proof@v1") throw invalid(1, "it is no tlog-proof");
  const extraLine = line(), extra = extraLine.startsWith("extra ") ? fromBase64(extraLine.slice(6)) : undefined;
  if (!extra) throw invalid(1, "it has no extra data in base64");
  const indexLine = line(), index = indexLine.startsWith("index ") ? toNumberUpTo(indexLine.slice(6), 2n ** 64n - 1n) : undefined;
  if (index === undefined) throw invalid(1, "it has no index");
  const inclusion = [];
  for (let next = line(); next !== ""; next = line()) {
    const hash = fromBase64(next);
    if (hash?.length !== 32 || inclusion.push(hash) > mostInclusion) throw invalid(1, `it has no inclusion proof of up to ${mostInclusion} hashes`);
  }
  const checkpoint = readCheckpoint(text.slice(at)), { network, origin, size } = checkpoint;
  if (at + toUTF8(text.slice(at)).length > mostOfFile) throw invalid(1, `it has more than ${mostOfFile} bytes`);
  const prefix = networks[network] ?? "", shown = readShown(extra, prefix);
  const { cosigners, since } = await checkSignatures(checkpoint, believed);
  if (!isIncluded(checkpoint, index, shown.entry, inclusion)) throw invalid(3, "the entry is not in the log at its index");
  const subjects = checkSubjects(shown, prefix), transactions = checkTransactions(shown, checkpoint, index);
  /** @type {ProvenState} */
  const proven = {
    network, as_of_height: shown.height, as_of_hash: toDisplay(shown.block), state_hash: toHex(shown.stateHash), state_root: toHex(shown.root),
    log: origin, log_index: String(index), log_size: String(size), cosigners, cosigned_at: Number(since),
    old: since === 0n || now - Number(since) * 1000 > maxAge, subjects, transactions, unproven: ["key_count", "named_by"],
  };
  for (const address of addresses) provenOf(proven, address);
  for (const id of ids) if (!subjects.some((one) => one.kind === "identity" && one.id_tx_hash === id.toLowerCase())) throw new StateProofError(`it is no proof of identity ${id}`, "SUBJECT");
  return proven;
}

/** provenOf is what a proof shows of an address. @param {ProvenState} proven @param {string} address @returns {ProvenKey} */
function provenOf({ network, subjects }, address) {
  const { prefix, kind, hash } = decodeAddress(address);
  if (kind !== "P2PKH" || hash.length !== 20) throw wrong("address", `expected that of a key (P2PKH), got ${address}`);
  const whole = formatAddress(hash, prefix), found = subjects.find((one) => one.kind === "key" && one.address === whole);
  if (!found || prefix !== networks[network]) throw new StateProofError(`it is no proof of ${whole}, of ${network}`, "SUBJECT");
  return /** @type {ProvenKey} */ (found);
}

/**
 * differences names the fields in which what a server says of a key or an identity as of a block is another than what
 * was proven as of the same block: none if there is nothing that is not so. What is not proven differs in nothing.
 * @param {Readonly<Resolution> | Identity} said
 * @param {ProvenKey | ProvenIdentity} proven
 * @returns {string[]}
 */
export function differences(said, proven) {
  /** @type {Record<string, boolean>} */
  let agrees;
  if (proven.kind === "identity") {
    const { id_tx_hash, state, merged_into, main_address } = /** @type {Identity} */ (said);
    agrees = {
      id_tx_hash: id_tx_hash === proven.id_tx_hash,
      state: proven.found === undefined || (state === "UNCONFIRMED" ? "" : state) === proven.state,
      merged_into: proven.cut || merged_into === proven.merged_into,
      main_address: proven.cut || main_address === proven.main_address,
    };
  } else {
    const { path, path_truncated: truncated, ...one } = /** @type {Resolution} */ (said), both = Math.min(path.length, proven.path.length);
    const hasLength = path.length === proven.path.length || (path.length < proven.path.length ? truncated : proven.cut);
    agrees = {
      address: one.address === proven.address,
      parent_address: proven.found === undefined || one.parent_address === proven.parent_address,
      accept_tx_hash: proven.found === undefined || one.accept_tx_hash === proven.accept_tx_hash,
      path: hasLength && path.slice(0, both).every((address, i) => address === proven.path[i]),
      main_address: proven.cut || one.main_address === proven.main_address,
      id_tx_hash: proven.cut || one.id_tx_hash === proven.id_tx_hash,
      depth: proven.cut || one.depth === proven.path.length - 1,
    };
  }
  return Object.entries(agrees).flatMap(([field, does]) => (does ? [] : [field]));
}

/**
 * agree throws unless what a server says as of a block is what was proven as of that block.
 * @param {Readonly<Resolution> | Identity} said
 * @param {ProvenKey | ProvenIdentity} proven
 * @param {ProvenState} state
 */
function agree(said, proven, { as_of_height, as_of_hash }) {
  const differs = differences(said, proven);
  if (said.as_of_height !== as_of_height) differs.push("as_of_height");
  if (said.as_of_hash !== as_of_hash) differs.push("as_of_hash");
  if (differs.length > 0) throw new StateProofError(`the server says another ${differs.join(" and ")} as of block ${as_of_height} than it has proven`, "DIFFERS");
}

/** checkHeight throws unless a proof is as of the block that was asked for. @param {ProvenState} state @param {number} [atHeight] */
function checkHeight({ as_of_height }, atHeight) {
  if (atHeight !== undefined && as_of_height !== atHeight) throw new StateProofError(`it is a proof of block ${as_of_height}, not ${atHeight}`, "SUBJECT");
}
