// A client of WalletConnect 2 (https://specs.walletconnect.com/2.0, wc2-bch-bcr for Bitcoin Cash), as far as a page needs
// one that has a wallet sign one transaction: it pairs, settles a session, asks, and ends the session. The relay carries
// sealed messages; it sees topics, sizes and times, and the address of this browser. What comes over it is not believed:
// what does not open is dropped, what nobody waits for too.

import { open, seal } from "./aead.js";

const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (byte) => parseInt(byte, 16));
const base64 = (bytes) => btoa(String.fromCharCode(...bytes));
const base64url = (bytes) => base64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const utf8 = (text) => new TextEncoder().encode(text);
const random = (bytes) => crypto.getRandomValues(new Uint8Array(bytes));
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });
const newID = () => Date.now() * 1000 + Math.floor(Math.random() * 1000);

// mostMessage is how many characters a message may have that is opened, and patience how long a wallet has, in seconds.
const mostMessage = 200_000;
const patience = 300;

// Lifetimes in seconds and tags of what is published, as wallets expect them.
const kinds = {
  wc_sessionPropose: [300, 1100], wc_sessionRequest: [300, 1108], wc_sessionDelete: [86400, 1112],
};
const answers = {
  wc_sessionSettle: [300, 1103], wc_sessionUpdate: [86400, 1105], wc_sessionExtend: [86400, 1107], wc_sessionEvent: [300, 1111],
  wc_sessionDelete: [86400, 1113], wc_sessionPing: [86400, 1115],
};

// base58 is that of did:key.
function base58(bytes) {
  const digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  let out = "";
  for (let n = BigInt(`0x${hex(bytes)}`); n > 0n; n /= 58n) out = digits[Number(n % 58n)] + out;
  return out;
}

/** WalletConnect is one session with one wallet. */
export class WalletConnect {
  #relay; #project; #metadata; #chain;
  #socket = null;      // the connection, once it is open
  #closed = false;
  #identity = null;    // the keys by which the relay knows this client, until it is closed
  #keys = new Map();   // of topics
  #calls = new Map();  // to the relay that are not answered, by their numbers
  #asked = new Map();  // of the wallet, by their numbers
  #settle = null;      // who waits for a session
  #wallet = "";        // the public key with which the wallet has answered
  #session = "";       // its topic

  /**
   * @param {{ relay: string, project: string, metadata: object, chain: string }} options relay is a wss:// address, chain is
   *   of CAIP-2, as bch:bitcoincash.
   */
  constructor({ relay, project, metadata, chain }) {
    this.#relay = relay;
    this.#project = project;
    this.#metadata = metadata;
    this.#chain = chain;
  }

  /**
   * pair returns the URI that a wallet is to be given, and a promise of the accounts that it opens, as addresses.
   * @returns {Promise<{ uri: string, approved: Promise<string[]> }>}
   */
  async pair() {
    this.#identity = await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
    const own = await crypto.subtle.generateKey({ name: "X25519" }, false, ["deriveBits"]);
    const publicKey = hex(new Uint8Array(await crypto.subtle.exportKey("raw", own.publicKey)));
    const pairing = hex(random(32));
    const symKey = random(32);
    this.#keys.set(pairing, symKey);
    const expiry = Math.floor(Date.now() / 1000) + patience;
    const id = newID();
    const settled = new Promise((resolve, reject) => { this.#settle = { resolve, reject }; });
    settled.catch(() => {}); // whoever pairs awaits it too
    const answered = this.#await(id);
    this.#run();
    await this.#call("irn_subscribe", { topic: pairing });
    const proposal = { id, jsonrpc: "2.0", method: "wc_sessionPropose", params: {
      requiredNamespaces: {},
      optionalNamespaces: { bch: { chains: [this.#chain], methods: ["bch_getAddresses", "bch_signTransaction", "bch_signMessage"], events: ["addressesChanged"] } },
      relays: [{ protocol: "irn" }], pairingTopic: pairing, proposer: { publicKey, metadata: this.#metadata }, expiryTimestamp: expiry,
    } };
    await this.#call("wc_proposeSession", { pairingTopic: pairing, sessionProposal: this.#seal(pairing, proposal) });
    const approved = (async () => {
      const { responderPublicKey } = await answered;
      if (!/^[0-9a-f]{64}$/.test(responderPublicKey)) throw new Error("The wallet's answer is not one of WalletConnect.");
      this.#wallet = responderPublicKey;
      const key = await crypto.subtle.importKey("raw", unhex(responderPublicKey), { name: "X25519" }, false, []);
      const shared = await crypto.subtle.deriveBits({ name: "X25519", public: key }, own.privateKey, 256);
      const base = await crypto.subtle.importKey("raw", shared, "HKDF", false, ["deriveBits"]);
      const sessionKey = new Uint8Array(await crypto.subtle.deriveBits({ name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: new Uint8Array() }, base, 256));
      this.#session = hex(await sha256(sessionKey));
      this.#keys.set(this.#session, sessionKey);
      await this.#call("irn_subscribe", { topic: this.#session });
      return settled;
    })();
    approved.catch(() => {}); // whoever calls may come later
    const query = new URLSearchParams({ "relay-protocol": "irn", symKey: hex(symKey), expiryTimestamp: expiry });
    return { uri: `wc:${pairing}@2?${query}`, approved };
  }

  /** request asks the wallet, and returns what it answers. */
  async request(method, params) {
    const id = newID();
    const answered = this.#await(id);
    await this.#publish(this.#session, { id, jsonrpc: "2.0", method: "wc_sessionRequest",
      params: { request: { method, params, expiryTimestamp: Math.floor(Date.now() / 1000) + patience }, chainId: this.#chain } }, kinds.wc_sessionRequest);
    return answered;
  }

  /** close ends the session, and all that goes on. */
  async close() {
    if (this.#closed) return;
    if (this.#session && this.#socket) {
      const farewell = { id: newID(), jsonrpc: "2.0", method: "wc_sessionDelete", params: { code: 6000, message: "The page is done." } };
      await Promise.race([this.#publish(this.#session, farewell, kinds.wc_sessionDelete).catch(() => {}), pause(1000)]);
    }
    this.#closed = true;
    this.#fail(new Error("The connection to the wallet was ended."));
    this.#socket?.close();
  }

  // fail ends all that somebody waits for.
  #fail(error) {
    for (const { reject } of [...this.#calls.values(), ...this.#asked.values()]) reject(error);
    this.#settle?.reject(error);
  }

  // wait notes that the wallet is to answer. Only the first answer counts.
  #await(id) {
    const answered = new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("The wallet has not answered within five minutes.")), 1000 * patience);
      const end = (then) => (value) => { clearTimeout(late); this.#asked.delete(id); then(value); };
      this.#asked.set(id, { resolve: end(resolve), reject: end(reject) });
    });
    answered.catch(() => {});
    return answered;
  }

  #seal(topic, message) {
    const nonce = random(12);
    const sealed = seal(this.#keys.get(topic), nonce, utf8(JSON.stringify(message)));
    return base64(Uint8Array.of(0, ...nonce, ...sealed));
  }

  #publish(topic, message, [ttl, tag]) {
    return this.#call("irn_publish", { topic, message: this.#seal(topic, message), ttl, prompt: tag === 1108, tag });
  }

  // --- The relay

  // run keeps a connection until the session is closed. What was subscribed to is again.
  async #run() {
    while (!this.#closed) {
      try {
        await this.#connect();
      } catch { /* it is tried again */ }
      await pause(1000);
    }
  }

  async #connect() {
    const socket = new WebSocket(`${this.#relay}?${new URLSearchParams({ auth: await this.#token(), projectId: this.#project, ua: "wc-2/js-keytree/browser" })}`);
    const ended = new Promise((done) => { socket.onclose = done; });
    socket.onmessage = ({ data }) => { this.#receive(data).catch(() => {}); }; // what cannot be read is dropped
    await Promise.race([new Promise((done) => { socket.onopen = done; }), ended]);
    if (socket.readyState !== WebSocket.OPEN) return;
    this.#socket = socket;
    if (this.#closed) socket.close();
    for (const topic of this.#keys.keys()) this.#call("irn_subscribe", { topic }).catch(() => {});
    for (const { send } of this.#calls.values()) send(); // what was not answered is sent again: numbers are the same
    await ended;
    this.#socket = null;
  }

  // token proves to the relay whose subscriptions these are.
  async #token() {
    const part = (value) => base64url(utf8(JSON.stringify(value)));
    const key = new Uint8Array(await crypto.subtle.exportKey("raw", this.#identity.publicKey));
    const now = Math.floor(Date.now() / 1000);
    const text = `${part({ alg: "EdDSA", typ: "JWT" })}.${part({ iss: `did:key:z${base58(Uint8Array.of(0xed, 0x01, ...key))}`, sub: hex(random(32)), aud: this.#relay, iat: now, exp: now + 86400 })}`;
    return `${text}.${base64url(new Uint8Array(await crypto.subtle.sign("Ed25519", this.#identity.privateKey, utf8(text))))}`;
  }

  // call asks the relay, over the next connection if there is none.
  #call(method, params) {
    const id = newID();
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(new Error("The connection to the wallet was ended."));
        return;
      }
      const late = setTimeout(() => end(reject)(new Error("The relay of WalletConnect does not answer.")), 60_000);
      const end = (then) => (value) => { clearTimeout(late); this.#calls.delete(id); then(value); };
      const send = () => this.#socket?.send(JSON.stringify({ id, jsonrpc: "2.0", method, params }));
      this.#calls.set(id, { resolve: end(resolve), reject: end(reject), send });
      send();
    });
  }

  async #receive(data) {
    if (typeof data !== "string" || data.length > mostMessage) return;
    const { id, method, params, result, error } = JSON.parse(data);
    if (method === undefined) {
      if (error) this.#calls.get(id)?.reject(new Error(`The relay of WalletConnect refuses: ${String(error.message).slice(0, 200)}`));
      else this.#calls.get(id)?.resolve(result);
      return;
    }
    if (method !== "irn_subscription") return;
    this.#socket?.send(JSON.stringify({ id, jsonrpc: "2.0", result: true }));
    const { topic, message } = params.data;
    const key = this.#keys.get(topic);
    if (!key) return;
    const envelope = Uint8Array.from(atob(message), (one) => one.charCodeAt(0));
    if (envelope[0] !== 0) return;
    await this.#hear(topic, JSON.parse(new TextDecoder().decode(open(key, envelope.subarray(1, 13), envelope.subarray(13)))));
  }

  // --- The wallet

  async #hear(topic, { id, method, params, result, error }) {
    if (method === undefined) {
      if (error) this.#asked.get(id)?.reject(new Error(`The wallet refuses: ${String(error.message).replace(/[^ -~]/g, "?").slice(0, 200)}`));
      else this.#asked.get(id)?.resolve(result);
      return;
    }
    if (topic !== this.#session || !answers[method]) return;
    if (method === "wc_sessionSettle") {
      if (params.controller.publicKey !== this.#wallet) return;
      const accounts = params.namespaces.bch?.accounts ?? [];
      this.#settle?.resolve(accounts.filter((account) => account.startsWith(`${this.#chain}:`)).map((account) => account.slice("bch:".length)));
    }
    await this.#publish(topic, { id, jsonrpc: "2.0", result: true }, answers[method]);
    if (method !== "wc_sessionDelete") return;
    this.#session = "";
    this.#fail(new Error("The wallet has ended the session."));
  }
}
