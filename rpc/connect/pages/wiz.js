// A client of WizardConnect (hdwalletv1 over Nostr: NIP-44, NIP-59), as far as a page needs one that has a wallet sign one
// transaction: it pairs, hears of the wallet's extended public keys, asks, and says goodbye. The relay carries sealed
// messages; it sees sizes and times, and the address of this browser. The wallet's keys stay in this page: the
// one that is asked for is looked for here, and no address goes to anybody.
//
// What comes over the relay is not believed: what does not open is dropped, as is what is not the wallet's, which has proved by a secret
// that it has the URI.

import { stream } from "./aead.js";
import { ripemd160 } from "./ripemd160.js";
import { Point, etc, getPublicKey, getSharedSecret, schnorr, utils } from "./secp256k1.js";

const hex = etc.bytesToHex;
const unhex = etc.hexToBytes;
const join = etc.concatBytes;
const utf8 = (text) => new TextEncoder().encode(text);
const random = (bytes) => crypto.getRandomValues(new Uint8Array(bytes));
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });
const now = () => Math.floor(Date.now() / 1000);

async function hmac(hash, key, text) {
  const imported = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, text));
}

// mostMessage is how many characters an event may have that is opened, patience how long a wallet has, in seconds.
const mostMessage = 200_000;
const patience = 300;

// --- NIP-44, version 2

const between = (own, other) => hmac("SHA-256", utf8("nip44-v2"), getSharedSecret(own, join(Uint8Array.of(2), unhex(other))).slice(1));

async function keysOf(conversation, nonce) {
  let last = new Uint8Array();
  let all = new Uint8Array();
  for (let i = 1; all.length < 76; i++) all = join(all, last = await hmac("SHA-256", conversation, join(last, nonce, Uint8Array.of(i))));
  return { cipher: all.slice(0, 32), nonce: all.slice(32, 44), proof: all.slice(44, 76) };
}

function padded(length) {
  if (length <= 32) return 32;
  const power = 1 << (Math.floor(Math.log2(length - 1)) + 1);
  const chunk = power <= 256 ? 32 : power / 8;
  return chunk * (Math.floor((length - 1) / chunk) + 1);
}

async function encrypt(conversation, text) {
  const plain = utf8(text);
  if (plain.length > 65535) throw new Error("That is too much for WizardConnect.");
  const whole = new Uint8Array(2 + padded(plain.length));
  new DataView(whole.buffer).setUint16(0, plain.length);
  whole.set(plain, 2);
  const nonce = random(32);
  const keys = await keysOf(conversation, nonce);
  const sealed = stream(keys.cipher, keys.nonce, whole, 0);
  const out = join(Uint8Array.of(2), nonce, sealed, await hmac("SHA-256", keys.proof, join(nonce, sealed)));
  return btoa(Array.from(out, (byte) => String.fromCharCode(byte)).join(""));
}

async function decrypt(conversation, text) {
  const all = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  if (all.length < 99 || all[0] !== 2) throw new Error("not of this version");
  const [nonce, sealed, proof] = [all.slice(1, 33), all.slice(33, -32), all.slice(-32)];
  const keys = await keysOf(conversation, nonce);
  if (hex(await hmac("SHA-256", keys.proof, join(nonce, sealed))) !== hex(proof)) throw new Error("sealed by another key, or changed");
  const whole = stream(keys.cipher, keys.nonce, sealed, 0);
  const length = new DataView(whole.buffer).getUint16(0);
  if (length === 0 || whole.length !== 2 + padded(length)) throw new Error("padded wrongly");
  return new TextDecoder("utf-8", { fatal: true }).decode(whole.subarray(2, 2 + length));
}

// --- Events

const idOf = async (event) => sha256(utf8(JSON.stringify([0, event.pubkey, event.created_at, event.kind, event.tags, event.content])));
const pubkeyOf = (key) => hex(getPublicKey(key).slice(1));

async function signed(key, event) {
  const all = { ...event, pubkey: pubkeyOf(key) };
  const id = await idOf(all);
  return { ...all, id: hex(id), sig: hex(await schnorr.signAsync(id, key)) };
}

// wrapped seals a message for somebody, so that the relay does not see from whom it is.
async function wrapped(key, peer, message) {
  const rumor = { kind: 14, created_at: now(), tags: [["p", peer]], content: JSON.stringify(message), pubkey: pubkeyOf(key) };
  const sometime = () => now() - Math.floor(Math.random() * 2 * 86400);
  const text = JSON.stringify({ ...rumor, id: hex(await idOf(rumor)) });
  const seal = await signed(key, { kind: 13, created_at: sometime(), tags: [], content: await encrypt(await between(key, peer), text) });
  const once = utils.randomSecretKey();
  return signed(once, { kind: 1059, created_at: sometime(), tags: [["p", peer]], content: await encrypt(await between(once, peer), JSON.stringify(seal)) });
}

// unwrapped opens what wrapped has sealed: what was said, and by whom. Who seals proves by that who it is.
async function unwrapped(key, event) {
  const seal = JSON.parse(await decrypt(await between(key, event.pubkey), event.content));
  const rumor = JSON.parse(await decrypt(await between(key, seal.pubkey), seal.content));
  if (seal.kind !== 13 || rumor.kind !== 14 || rumor.pubkey !== seal.pubkey) throw new Error("not what is expected");
  return { from: seal.pubkey, message: JSON.parse(rumor.content) };
}

// --- Keys

const letters = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";

// regroup makes numbers of some bits of numbers of others.
function regroup(numbers, from, to, pad) {
  const out = [];
  let [sum, bits] = [0, 0];
  for (const one of numbers) {
    sum = ((sum << from) | one) & 0xffff;
    for (bits += from; bits >= to; bits -= to) out.push((sum >> (bits - to)) & ((1 << to) - 1));
  }
  if (pad && bits > 0) out.push((sum << (to - bits)) & ((1 << to) - 1));
  return out;
}

const bech32 = (bytes) => regroup(bytes, 8, 5, true).map((one) => letters[one]).join("");

// hashOf reads the hash of a key from its address, which the server has made.
const hashOf = (address) => hex(Uint8Array.from(regroup([...address.split(":")[1]].slice(0, -8).map((one) => letters.indexOf(one)), 5, 8, false).slice(1, 21)));

// extended reads an extended public key.
async function extended(text) {
  const digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
  let number = 0n;
  for (const one of text.slice(0, 120)) number = number * 58n + BigInt(digits.indexOf(one));
  const all = unhex(number.toString(16).padStart(164, "0"));
  const check = await sha256(await sha256(all.slice(0, 78)));
  if (all.length !== 82 || hex(check.slice(0, 4)) !== hex(all.slice(78))) throw new Error("The wallet's keys cannot be read.");
  return { chain: all.slice(13, 45), key: all.slice(45, 78), point: Point.fromBytes(all.slice(45, 78)) };
}

// child returns the hash of the key below an extended one.
async function child(parent, index) {
  const number = new Uint8Array(4);
  new DataView(number.buffer).setUint32(0, index);
  const made = await hmac("SHA-512", parent.chain, join(parent.key, number));
  const key = Point.BASE.multiply(etc.bytesToNumberBE(made.slice(0, 32))).add(parent.point).toBytes(true);
  return hex(ripemd160(await sha256(key)));
}

// How many keys are looked at: so many chains, and so many keys of each.
const mostChains = 8;
const mostKeys = 500;

/** find tells where a key of an address is below the extended keys of a wallet, as NAME/INDEX; "" if it is not found. */
export async function find(paths, address) {
  const chains = [];
  for (const { name, xpub } of paths.slice(0, mostChains)) {
    if (/^[a-z_]{1,20}$/.test(name) && typeof xpub === "string") chains.push({ name, extended: await extended(xpub) });
  }
  const hash = hashOf(address);
  for (let index = 0; index < mostKeys; index++) {
    for (const one of chains) if (await child(one.extended, index) === hash) return `${one.name}/${index}`;
  }
  return "";
}

// --- The session

/** WizardConnect is one session with one wallet. */
export class WizardConnect {
  #relay; #name;
  #key = utils.randomSecretKey(); // by which the wallet knows this page, until it is closed
  #secret = hex(random(8));       // by which the wallet proves that it has the URI
  #wallet = "";                   // its public key, once it has
  #socket = null;                 // the connection, once it is open
  #closed = false;
  #ready = null;                  // who waits for the wallet
  #unsent = new Map();            // events that the relay has not taken, by their ids
  #seen = new Set();              // ids of events that were heard
  #asked = new Map();             // requests that are not answered, by their numbers
  #beat = 0;

  constructor({ relay, name }) {
    this.#relay = relay;
    this.#name = name;
  }

  /** pair returns the URI that a wallet is to be given, and a promise of its extended keys. */
  pair() {
    const approved = new Promise((resolve, reject) => {
      const late = setTimeout(() => reject(new Error("No wallet has come within five minutes.")), 1000 * patience);
      this.#ready = { resolve: (paths) => { clearTimeout(late); resolve(paths); }, reject: (error) => { clearTimeout(late); reject(error); } };
    });
    approved.catch(() => {}); // whoever calls may come later
    this.#run();
    this.#beat = setInterval(() => { if (this.#wallet && this.#socket) this.#say({ action: "ping" }).catch(() => {}); }, 10_000);
    const url = new URL(this.#relay.replace(/^ws/, "http"));
    const secure = this.#relay.startsWith("wss:");
    const uri = `wiz://${url.host}?p=${bech32(unhex(pubkeyOf(this.#key)))}&s=${bech32(unhex(this.#secret))}${secure ? "" : "&pr=ws"}`;
    return { uri, approved };
  }

  /** request asks the wallet to sign, and returns the signed transaction. params are those of links:prepare. */
  async request(params) {
    const sequence = Math.floor(Math.random() * 2 ** 40);
    const answered = new Promise((resolve, reject) => {
      const late = setTimeout(() => end(reject)(new Error("The wallet has not answered within five minutes.")), 1000 * patience);
      const end = (then) => (value) => { clearTimeout(late); this.#asked.delete(sequence); then(value); };
      this.#asked.set(sequence, { resolve: end(resolve), reject: end(reject) });
    });
    answered.catch(() => {});
    await this.#say({ action: "sign_transaction_request", sequence, ...params });
    return answered;
  }

  /** close ends the session, and all that goes on. */
  async close() {
    if (this.#closed) return;
    clearInterval(this.#beat);
    if (this.#wallet && this.#socket) {
      await Promise.race([this.#say({ action: "disconnect", reason: "user_disconnect" }).catch(() => {}), pause(1000)]);
    }
    this.#closed = true;
    this.#fail(new Error("The connection to the wallet was ended."));
    this.#socket?.close();
  }

  #fail(error) {
    for (const { reject } of this.#asked.values()) reject(error);
    this.#ready?.reject(error);
  }

  // say sends the wallet a message, over the next connection if there is none.
  async #say(message) {
    const event = await wrapped(this.#key, this.#wallet, { time: now(), ...message });
    this.#unsent.set(event.id, event);
    this.#socket?.send(JSON.stringify(["EVENT", event]));
  }

  // run keeps a connection until the session is closed.
  async #run() {
    while (!this.#closed) {
      try {
        await this.#connect();
      } catch { /* it is tried again */ }
      await pause(1000);
    }
  }

  async #connect() {
    const socket = new WebSocket(this.#relay);
    const ended = new Promise((done) => { socket.onclose = done; });
    let order = Promise.resolve(); // messages are opened one after the other
    socket.onmessage = ({ data }) => { order = order.then(() => this.#receive(data)).catch(() => {}); }; // what cannot be read is dropped
    await Promise.race([new Promise((done) => { socket.onopen = done; }), ended]);
    if (socket.readyState !== WebSocket.OPEN) return;
    this.#socket = socket;
    if (this.#closed) socket.close();
    socket.send(JSON.stringify(["REQ", "page", { kinds: [1059], "#p": [pubkeyOf(this.#key)] }]));
    for (const event of this.#unsent.values()) socket.send(JSON.stringify(["EVENT", event]));
    await ended;
    this.#socket = null;
  }

  async #receive(data) {
    if (typeof data !== "string" || data.length > mostMessage) return;
    const [what, first, second] = JSON.parse(data);
    if (what === "OK") this.#unsent.delete(first);
    if (what !== "EVENT" || second.kind !== 1059 || this.#seen.has(second.id) || this.#seen.size > 1000) return;
    this.#seen.add(second.id);
    const { from, message } = await unwrapped(this.#key, second);
    await this.#hear(from, message);
  }

  async #hear(from, message) {
    if (message.action === "wallet_ready") {
      if (message.secret !== this.#secret || message.public_key !== from || this.#wallet && this.#wallet !== from) return;
      this.#wallet = from;
      await this.#say({ action: "dapp_ready", supported_protocols: ["hdwalletv1"], selected_protocol: "hdwalletv1", wallet_discovered: true, dapp_name: this.#name, dapp_icon: "" });
      const paths = message.session?.hdwalletv1?.paths;
      if (Array.isArray(paths)) this.#ready.resolve(paths);
      else this.#ready.reject(new Error("The wallet tells no keys: it speaks another protocol than hdwalletv1."));
      return;
    }
    if (!this.#wallet || from !== this.#wallet) return;
    if (message.action === "disconnect") this.#fail(new Error("The wallet has ended the session."));
    if (message.action !== "sign_transaction_response") return;
    const waits = this.#asked.get(message.sequence);
    if (message.error) waits?.reject(new Error(`The wallet refuses: ${String(message.error).replace(/[^ -~]/g, "?").slice(0, 200)}`));
    else waits?.resolve(String(message.signedTransaction));
  }
}
