// What the connect pages talk to, for a test: relays of WalletConnect and WizardConnect on this machine, and a wallet that
// has the clients that wallets have. A line of JSON on standard input is an order, a line of JSON the answer; the first line says where
// the relays are. The test decides what is right.
//
// @walletconnect/sign-client stays at 2.21.8: later versions have another licence.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { once } from "node:events";
import { createHash, randomBytes } from "node:crypto";
import { WebSocketServer } from "ws";
import { binToHex, deriveHdPath, deriveHdPrivateNodeChild, deriveHdPrivateNodeFromSeed, deriveHdPublicNode, encodeHdPublicKey } from "@bitauth/libauth";
import client from "@walletconnect/sign-client";
import { initiateWalletRelay } from "@wizardconnect/core";

// What the clients tell of themselves is for nobody: standard output is for answers.
for (const level of ["debug", "log", "info", "warn", "error"]) console[level] = () => {};

// --- The relay: it keeps a message until somebody else who is subscribed to its topic has taken it.

const topics = new Map();      // topic → messages that nobody has taken
const subscribers = new Map(); // topic → connections
let delay = 0;                 // of all that it does, in milliseconds
let heard = [];                // methods

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
await once(server, "listening");
const relay = `ws://127.0.0.1:${server.address().port}`;

const tell = (connection, message) => connection.send(JSON.stringify(message));
const deliver = (connection, topic, { message, tag }) => tell(connection, {
  id: Date.now() * 1000 + Math.floor(Math.random() * 1000), jsonrpc: "2.0", method: "irn_subscription",
  params: { id: topic, data: { topic, message, publishedAt: Date.now(), tag } },
});

function publish(from, topic, message, tag) {
  const others = [...(subscribers.get(topic) ?? [])].filter((one) => one !== from);
  if (others.length === 0) topics.set(topic, [...(topics.get(topic) ?? []), { from, message, tag }]);
  for (const one of others) deliver(one, topic, { message, tag });
}

function subscribe(connection, topic) {
  subscribers.set(topic, (subscribers.get(topic) ?? new Set()).add(connection));
  const waiting = topics.get(topic) ?? [];
  topics.set(topic, waiting.filter(({ from }) => from === connection));
  for (const one of waiting) if (one.from !== connection) deliver(connection, topic, one);
  return topic;
}

const calls = {
  irn_subscribe: (connection, { topic }) => subscribe(connection, topic),
  irn_batchSubscribe: (connection, { topics: list }) => list.map((topic) => subscribe(connection, topic)),
  irn_batchFetchMessages: () => ({ messages: [], hasMore: false }),
  irn_unsubscribe: (connection, { topic }) => { subscribers.get(topic)?.delete(connection); return true; },
  irn_batchUnsubscribe: (connection, { subscriptions }) => { for (const { topic } of subscriptions) subscribers.get(topic)?.delete(connection); return true; },
  irn_publish: (connection, { topic, message, tag }) => { publish(connection, topic, message, tag); return true; },
  wc_proposeSession: (connection, { pairingTopic, sessionProposal }) => { publish(connection, pairingTopic, sessionProposal, 1100); return true; },
  wc_approveSession: (connection, { sessionTopic, pairingTopic, sessionProposalResponse, sessionSettlementRequest }) => {
    subscribe(connection, sessionTopic);
    publish(connection, pairingTopic, sessionProposalResponse, 1101);
    publish(connection, sessionTopic, sessionSettlementRequest, 1102);
    return true;
  },
};

server.on("connection", (connection, request) => {
  const query = new URL(request.url, relay).searchParams;
  if (!/^[\w-]+\.[\w-]+\.[\w-]{86}$/.test(query.get("auth")) || query.get("projectId") !== "a-project") {
    connection.close(3000, "JWT validation error");
    return;
  }
  connection.on("message", async (data) => {
    const { id, method, params } = JSON.parse(data);
    if (method === undefined) return; // it has taken a message
    if (delay) await new Promise((done) => { setTimeout(done, delay); });
    heard.push(method);
    tell(connection, calls[method] ? { id, jsonrpc: "2.0", result: calls[method](connection, params) } : { id, jsonrpc: "2.0", error: { code: -32601, message: `no ${method}` } });
  });
  connection.on("close", () => { for (const set of subscribers.values()) set.delete(connection); });
});

// --- The wallet

// sign has another program sign as wallets do, with libauth.
async function sign(privateKey, params, as = "cashonize") {
  const program = spawn(process.execPath, ["wallet.mjs"], { cwd: new URL("../../../scripts/wallettest/", import.meta.url), stdio: ["pipe", "pipe", "inherit"] });
  program.stdin.end(JSON.stringify({ wallet: as, privateKey, params }) + "\n");
  for await (const line of createInterface({ input: program.stdout })) return JSON.parse(line);
}

const SignClient = client.SignClient ?? client.default ?? client;
const metadata = { name: "a wallet", description: "", url: "https://wallet.example", icons: [] };
const wallet = await SignClient.init({ relayUrl: relay, projectId: "a-project", metadata, telemetryEnabled: false, logger: "silent", storageOptions: { database: ":memory:" } });
let person = null; // whose wallet it is, and what it does
let asked = [];    // what it was asked to sign
let ended = 0;     // how many sessions the page has ended

wallet.on("session_proposal", async ({ id }) => {
  if (person.does === "reject") {
    await wallet.reject({ id, reason: { code: 5000, message: "User rejected." } });
    return;
  }
  await wallet.approve({ id, namespaces: { bch: {
    chains: ["bch:bchreg"], accounts: [`bch:${person.address}`], methods: ["bch_getAddresses", "bch_signTransaction", "bch_signMessage"], events: ["addressesChanged"],
  } } });
});
wallet.on("session_delete", () => { ended++; });
wallet.on("session_request", async ({ id, topic, params: { request } }) => {
  asked.push(request);
  if (person.does === "refuse") {
    await wallet.respond({ topic, response: { id, jsonrpc: "2.0", error: { code: 5000, message: "User rejected methods." } } });
    return;
  }
  const params = structuredClone(request.params);
  if (person.does === "change") params.transaction.outputs[0].valueSatoshis = params.transaction.outputs[0].valueSatoshis.replace(/[0-9]+/, (n) => n - 500);
  const result = await sign(person.privateKey, params);
  if (result.error) throw new Error(result.error);
  const answer = { topic, response: { id, jsonrpc: "2.0", result } };
  if (person.does === "lose") for (const connection of server.clients) connection.terminate();
  await wallet.respond(answer);
  if (person.does === "twice") await wallet.core.relayer.publish(topic, await wallet.core.crypto.encode(topic, answer.response), { ttl: 300, tag: 1109 });
});

// --- WizardConnect: a relay of Nostr, which keeps what it was sent, and throws garbage in.

const nostr = new WebSocketServer({ host: "127.0.0.1", port: 0 });
await once(nostr, "listening");
const wizard = `ws://127.0.0.1:${nostr.address().port}`;
const events = [];
const wants = (connection, event) => (connection.filter ?? []).includes(event.tags.find(([name]) => name === "p")?.[1]);

nostr.on("connection", (connection) => {
  connection.on("message", async (data) => {
    const [what, first, second] = JSON.parse(data);
    if (delay) await new Promise((done) => { setTimeout(done, delay); });
    if (what === "REQ") {
      connection.subscription = first;
      connection.filter = second["#p"];
      const garbage = { id: "x", kind: 1059, pubkey: "00".repeat(32), created_at: 0, tags: [["p", second["#p"][0]]], content: "AAAA", sig: "" };
      if (first === "page") for (const one of [garbage, { ...garbage, id: "y", content: 7 }, 5, null]) connection.send(JSON.stringify(["EVENT", first, one]));
      if (first === "page") connection.send("no JSON");
      for (const event of events) if (wants(connection, event)) connection.send(JSON.stringify(["EVENT", first, event]));
      connection.send(JSON.stringify(["EOSE", first]));
    }
    if (what !== "EVENT") return;
    events.push(first);
    connection.send(JSON.stringify(["OK", first.id, true, ""]));
    for (const one of nostr.clients) if (wants(one, first)) one.send(JSON.stringify(["EVENT", one.subscription, first]));
  });
});

// hd is a wallet of many keys.
function hd(seed) {
  const account = deriveHdPath(deriveHdPrivateNodeFromSeed(createHash("sha512").update(seed).digest(), { throwErrors: true }), "m/44'/145'/0'");
  const chain = { receive: deriveHdPrivateNodeChild(account, 0), change: deriveHdPrivateNodeChild(account, 1) };
  return {
    paths: Object.entries(chain).map(([name, node]) => ({ name, xpub: encodeHdPublicKey({ network: "mainnet", node: deriveHdPublicNode(node) }, { throwErrors: true }).hdPublicKey })),
    key: (name, index) => binToHex(deriveHdPrivateNodeChild(chain[name], index).privateKey),
  };
}

let wizardWallet = null;

function pairWizard({ uri, seed, does }) {
  wizardWallet?.cleanup();
  const keys = hd(seed);
  const now = () => Math.floor(Date.now() / 1000);
  let heardOf = false;
  const mine = initiateWalletRelay(({ client: relayed, status }) => {
    if (status.status !== "connected" || heardOf) return;
    heardOf = true;
    relayed.on("message", async (message) => {
      heard.push(message.action);
      if (message.action === "disconnect") ended++;
      if (message.action !== "sign_transaction_request") return;
      const { transaction, inputPaths, sequence } = message;
      asked.push({ transaction, inputPaths });
      const answer = { action: "sign_transaction_response", time: now(), sequence };
      if (does === "refuse") {
        await relayed.relay({ ...answer, signedTransaction: "", error: "User rejected." });
        return;
      }
      const [, name, index] = inputPaths[0];
      const { signedTransaction, error } = await sign(keys.key(name, index), { transaction, inputPaths }, "paytaca-wizard"); // bchd takes no 0x61
      if (error) throw new Error(error);
      const changed = does === "change" ? signedTransaction.replace(/00000000$/, "01000000") : signedTransaction;
      if (does === "lose") for (const connection of nostr.clients) if (connection.subscription === "page") connection.terminate();
      await relayed.relay({ ...answer, signedTransaction: changed });
      if (does === "twice") await relayed.relay({ ...answer, signedTransaction: "00" });
    });
    relayed.relay({
      action: "wallet_ready", time: now(), wallet_name: "a wallet", wallet_icon: "", dapp_discovered: false, supported_protocols: ["hdwalletv1"],
      session: { hdwalletv1: { paths: keys.paths } }, public_key: binToHex(mine.walletPublicKey), secret: does === "guess" ? "00".repeat(8) : mine.secret,
    });
  }, { uri, walletPrivateKey: Uint8Array.from(randomBytes(32)) });
  wizardWallet = mine;
}

const orders = {
  // key tells a private key of a wallet of many.
  async key({ seed, name, index }) { return { key: hd(seed).key(name, index) }; },
  async pairWizard(order) { asked = []; pairWizard(order); return {}; },
  // pair gives the wallet what the page shows.
  async pair({ uri, ...who }) { person = who; asked = []; await wallet.pair({ uri }); return {}; },
  async slow({ milliseconds }) { delay = milliseconds; return {}; },
  async lose() { for (const connection of server.clients) connection.terminate(); return {}; },
  async seen() { return { asked: asked.map((one) => JSON.stringify(one)), heard, ended }; },
};

process.stdout.write(JSON.stringify({ relay, wizard }) + "\n");
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  let answer;
  try {
    answer = await orders[order.do](order);
  } catch (error) {
    answer = { failed: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
