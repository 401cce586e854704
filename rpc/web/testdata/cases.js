// What keytree.js must do, in Node and in a browser alike. Each case is given keytree.js, the
// URL of a server, and control, which has the test in Go do something to that server and tells
// what it answers. A case that fails throws.

export const cases = {};

/** sorted writes the fields of objects in the order of their names. */
const sorted = (value) => (value && typeof value === "object" && !Array.isArray(value) ? Object.fromEntries(Object.entries(value).sort()) : value);

/** equal compares what JSON can write. */
export function equal(got, want, what = "got") {
  const [a, b] = [JSON.stringify(sorted(got)), JSON.stringify(sorted(want))];
  if (a !== b) throw new Error(`${what}: ${String(a).slice(0, 500)}, want ${b.slice(0, 500)}`);
}

/** failure is the error that a promise ends with. */
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it did not fail");
}

/** until asks again until a condition holds. Each case has a limit. More messages may have come than it waits for. */
export async function until(holds) {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}

const quick = { backoff: 5, maxAge: 0 };

cases["resolves, and says what REST says"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, { paths: true }), { addresses } = await control("addresses", { names: ["child", "parent", "nobody"] });
  const [child, parent, nobody] = await Promise.all(addresses.map((address) => keytree.resolve(address)));
  equal([child.main_address, child.path, child.depth], [addresses[1], [addresses[0], addresses[1]], 1]);
  equal([nobody.id_tx_hash, nobody.main_address], ["", addresses[2]]);
  equal(parent.id_tx_hash, child.id_tx_hash);
  equal((await keytree.resolve(addresses[0], { atHeight: 1 })).main_address, addresses[0], "as of height 1");
  equal((await keytree.resolve(addresses[0], { unconfirmed: true })).main_address, addresses[1], "with what is pending");
  equal((await keytree.resolve(addresses[0].split(":")[1])).address, addresses[0], "without prefix");
  equal((await keytree.status()).network, "regtest");
  equal((await keytree.identity(child.id_tx_hash)).key_count, 3);
  equal((await keytree.action(child.accept_tx_hash)).kind, "MLA");
  const listed = async (list) => {
    const all = [];
    for await (const one of list) all.push(one);
    return all;
  };
  equal((await listed(keytree.keys(child.id_tx_hash))).map(({ depth }) => depth), [0, 1, 2], "keys");
  equal((await listed(keytree.history(addresses[0]))).length > 4, true, "history");
  equal((await listed(keytree.requests(addresses[1], { state: "accepted" }))).map(({ child_address }) => child_address), [addresses[0]], "requests");
  equal((await listed(keytree.links(addresses[1]))).map(({ child_address }) => child_address), [addresses[0]], "links");
};

cases["asks once for a page of 5,000 addresses, and then for what changed"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, quick);
  const { addresses } = await control("addresses", { prefix: "c", count: 5000 });
  const page = () => Promise.all([...addresses, ...addresses.slice(0, 100)].map((address) => keytree.resolve(address)));
  await control("reset");
  const before = await page();
  let { requests, answered } = await control("seen");
  equal(requests, { "POST /v1/addresses:batchResolve": 1 }, "first");
  const first = answered["POST /v1/addresses:batchResolve"];

  await control("link", { children: ["c7", "c4999"], parent: "page" });
  await control("reset");
  const after = await page();
  ({ requests, answered } = await control("seen"));
  equal(requests, { "POST /v1/addresses:changed": 1 }, "then");
  if (answered["POST /v1/addresses:changed"] * 100 > first) throw new Error(`${answered["POST /v1/addresses:changed"]} bytes tell what changed, of ${first}`);
  const [parent] = (await control("addresses", { names: ["page"] })).addresses;
  equal(after.flatMap(({ main_address, address }, i) => (main_address === address ? [] : [[i, main_address]])), [[7, parent], [4999, parent], [5007, parent]], "linked");
  equal([before[7].main_address, after[8].as_of_height], [addresses[7], after[7].as_of_height], "as of");

  // Who is known is checked, who is not is asked for.
  await control("reset");
  const { addresses: more } = await control("addresses", { prefix: "d", count: 3 });
  await Promise.all([...addresses.slice(0, 10), ...more].map((address) => keytree.resolve(address)));
  equal((await control("seen")).requests, { "POST /v1/addresses:changed": 1, "POST /v1/addresses:batchResolve": 1 }, "both");

  // What was checked just now needs no request.
  const patient = new module.Keytree(server, { maxAge: 60_000 });
  await patient.resolve(addresses[0]);
  await control("reset");
  await patient.resolve(addresses[0]);
  equal((await control("seen")).requests, {}, "checked just now");
};

cases["splits what is more than a request may have, and forgets the oldest"] = async ({ module, server, control }) => {
  const { addresses } = await control("addresses", { prefix: "e", count: 10_001 });
  const keytree = new module.Keytree(server, { ...quick, cacheSize: 1 });
  await control("reset");
  const answers = await Promise.all(addresses.map((address) => keytree.resolve(address)));
  equal(answers.every(({ address }, i) => address === addresses[i]), true, "in order");
  equal((await control("seen")).requests, { "POST /v1/addresses:batchResolve": 2 }, "split");
  for (const address of addresses.slice(0, 2)) await keytree.resolve(address);
  await control("reset");
  await Promise.all([keytree.resolve(addresses[0]), keytree.resolve(addresses[1])]);
  equal((await control("seen")).requests, { "POST /v1/addresses:changed": 1, "POST /v1/addresses:batchResolve": 1 }, "one is remembered");
};

cases["resolves again after a reorganisation"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, quick), { addresses: [address] } = await control("addresses", { names: ["r"] });
  await control("link", { children: ["r"], parent: "page" });
  const linked = await keytree.resolve(address);
  equal(linked.depth, 1, "depth");
  await control("reorganise", { blocks: 1 });
  await control("reset");
  const again = await keytree.resolve(address);
  equal([again.depth, again.as_of_hash === linked.as_of_hash], [0, false], "on the new branch");
  equal((await control("seen")).requests, { "POST /v1/addresses:changed": 1, "POST /v1/addresses:batchResolve": 1 }, "requests");
};

cases["asks a server of an earlier version all again"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, quick), { addresses: [address] } = await control("addresses", { names: ["old"] });
  await keytree.resolve(address);
  await control("link", { children: ["old"], parent: "page" });
  await control("hide", { paths: ["/v1/addresses:changed"] });
  equal((await keytree.resolve(address)).depth, 1, "depth");
  await control("reset");
  await keytree.resolve(address);
  equal((await control("seen")).requests, { "POST /v1/addresses:batchResolve": 1 }, "and does not try twice");
};

cases["repeats a call whose connection is lost, or which is refused for a while"] = async ({ module, server, control }) => {
  const { addresses: [address] } = await control("addresses", { names: ["child"] });
  const keytree = new module.Keytree(server, quick);
  await control("reset");
  await control("lose", { connections: 2 });
  equal((await keytree.resolve(address)).depth, 1, "after lost connections");
  await control("refuse", { status: 503, times: 1 });
  equal((await keytree.status()).network, "regtest", "after a refusal");

  await control("lose", { connections: 100 });
  let error = await failure(keytree.resolve(address));
  equal([error.name, error.code, error.status], ["KeytreeError", "UNAVAILABLE", 0], "lost for good");
  await control("reset");
  await control("refuse", { status: 429, times: 100, retryAfter: 1 });
  error = await failure(new module.Keytree(server, { retries: 0 }).status());
  equal([error.code, error.status, error.retryAfter], ["UNAVAILABLE", 429, 1], "refused for good");
  await control("reset");
  equal((await keytree.resolve(address)).depth, 1, "and back");
};

cases["names what is wrong"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, quick), { addresses: [child] } = await control("addresses", { names: ["child"] });
  // One that only the server can refuse spoils no other.
  const stranger = "bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a";
  const [good, bad, legacy] = await Promise.all([keytree.resolve(child), failure(keytree.resolve(stranger)), failure(keytree.resolve(`1${"1".repeat(30)}`))]);
  equal([good.depth, bad.code, legacy.code], [1, "INVALID_ARGUMENT", "INVALID_ARGUMENT"]);
  for (const address of ["", "x", child.slice(0, -1), child.replace("q", "z"), child.toUpperCase().replace("Q", "q"), "bchtest:" + child.split(":")[1], undefined]) {
    equal((await failure(keytree.resolve(address))).field, "address", `of ${address}`);
  }
  let error = await failure(keytree.identity("ab".repeat(32)));
  equal([error.code, error.status], ["NOT_FOUND", 404], "no identity");
  error = await failure(keytree.resolve(child, { atHeight: 99999 }));
  equal([error.code, error.status, error.field], ["OUT_OF_RANGE", 400, "at_height"], "beyond the tip");
  error = await failure(keytree.prepareLink({ kind: "MLB", author_address: child }));
  equal([error.code, error.field], ["INVALID_ARGUMENT", "kind"], "of a link");
  error = await failure(keytree.submitLink("00"));
  equal([error.code, error.field], ["INVALID_ARGUMENT", "signed_transaction"], "of a transaction");
  for (const url of ["ftp://keytree.example", "https://keytree.example/?x=1"]) equal((await failure((async () => new module.Keytree(url))())).field, "url", url);
};

cases["ends what is aborted, and nothing else"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, quick), { addresses: [child] } = await control("addresses", { names: ["child"] });
  const end = new AbortController(), aborted = failure(keytree.resolve(child, { signal: end.signal })), other = keytree.resolve(child);
  end.abort(new Error("enough"));
  equal([(await aborted).message, (await other).depth], ["enough", 1]);
  equal((await failure(keytree.status({ signal: end.signal }))).message, "enough");
};

cases["prepares links"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server), { addresses: [child, parent] } = await control("addresses", { names: ["lone", "nobody"] });
  const { params, facts } = await keytree.prepareLink({ kind: "MLR", author_address: child, parent_address: parent });
  equal([params.broadcast, facts.expected, facts.counterpart_address], [false, "OPEN", parent]);
  equal((await keytree.submitLink((await control("link-in-hex", {})).hex)).kind, "MLR", "submitted");
};

const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");

cases["verifies messages that wallets signed"] = async ({ module, control }) => {
  const { signatures } = await control("signatures", {});
  for (const { address, message, repeat = 1, signature } of signatures) {
    const signed = { address, message: message.repeat(repeat), signature };
    equal(module.verifyMessage(signed), true, `${repeat} times ${message}`);
    equal(hex(module.signerOf(signed.message, signature)), hex(module.decodeAddress(address).hash), "signer");
  }
};

cases["takes no other message, key or form of a signature"] = async ({ module, control }) => {
  const { signatures: [, signed] } = await control("signatures", {}), [other] = (await control("signatures", {})).signatures;
  const bytes = Uint8Array.from(atob(signed.signature), (c) => c.charCodeAt(0));
  const changed = (change) => {
    const copy = Uint8Array.from(bytes);
    change(copy);
    return btoa(String.fromCharCode(...copy));
  };
  const order = 0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141n;
  const number = (value) => Uint8Array.from(value.toString(16).padStart(64, "0").match(/../g), (b) => parseInt(b, 16));
  const s = BigInt(`0x${hex(bytes.slice(33))}`);
  const wrong = {
    "another message": { message: `${signed.message} ` },
    "another key": { address: other.address },
    "another address": { address: "x" },
    "a script's address": { address: "bitcoincash:ppm2qsznhks23z7629mms6s4cwef74vcwvn0h829pq" },
    "no signature": { signature: "" },
    "no base64": { signature: "!".repeat(88) },
    "base64 with blanks": { signature: `${signed.signature.slice(0, 40)} ${signed.signature.slice(41)}` },
    "base64 that ends otherwise": { signature: signed.signature.replace(/.=$/, (c) => String.fromCharCode(c.charCodeAt(0) + 1) + "=") },
    "the other s": { signature: changed((b) => { b.set(number(order - s), 33); b[0] ^= 1; b[0] += b[0] < 27 ? 2 : 0; }) },
    "r of 0": { signature: changed((b) => b.fill(0, 1, 33)) },
    "s of 0": { signature: changed((b) => b.fill(0, 33)) },
    "r of the order": { signature: changed((b) => b.set(number(order), 1)) },
    "an r of no point": { signature: changed((b) => b.set(number(5n), 1)) },
  };
  for (let header = 0; header < 256; header++) if (header !== bytes[0]) wrong[`header byte ${header}`] = { signature: changed((b) => { b[0] = header; }) };
  for (const [name, change] of Object.entries(wrong)) equal(module.verifyMessage({ ...signed, ...change }), false, name);
};

cases["hashes as others do"] = async ({ module }) => {
  // FIPS 180-4's examples and RIPEMD-160's, and the lengths at which padding takes another block.
  const bytes = (text) => new TextEncoder().encode(text), long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  equal(hex(module.sha256(bytes(""))), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  equal(hex(module.sha256(bytes("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  equal(hex(module.sha256(bytes(long))), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  equal(hex(module.ripemd160(bytes(""))), "9c1185a5c5e9fc54612808977ee8f548b2258d31");
  equal(hex(module.ripemd160(bytes("abc"))), "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc");
  equal(hex(module.ripemd160(bytes(long))), "12a053384a9c0c88e405a06c27dcf49ada62eb2b");
  if (!globalThis.crypto?.subtle) return; // plain http beyond loopback
  for (const length of [55, 56, 63, 64, 65, 119, 120, 1000]) {
    const random = crypto.getRandomValues(new Uint8Array(length));
    equal(hex(module.sha256(random)), hex(new Uint8Array(await crypto.subtle.digest("SHA-256", random))), `${length} bytes`);
  }
};

/** played is a fetch that answers with one of some answers after the other, and the bodies that it was asked with. */
function played(...answers) {
  const asked = [];
  const fetch = async (url, { body, signal }) => {
    signal?.throwIfAborted();
    asked.push(body && JSON.parse(body));
    const answer = answers.shift() ?? new Response(null, { status: 204 });
    if (answer instanceof Error) throw answer;
    return answer;
  };
  return { fetch, asked };
}

/** events is an answer of server-sent events, in pieces of bytes. */
const events = (...pieces) => new Response(new ReadableStream({
  start(controller) {
    for (const piece of pieces) controller.enqueue(piece);
    controller.close();
  },
}), { headers: { "Content-Type": "text/event-stream" } });

const utf8 = (text) => new TextEncoder().encode(text);
const refused = (status, headers, body = {}) => new Response(JSON.stringify(body), { status, headers });
const alone = { backoff: 1, share: false };

/** told is what a stream tells until it ends. */
async function told(stream) {
  const all = [];
  for await (const message of stream) all.push(message);
  return all;
}

cases["reads server-sent events that are cut anywhere"] = async ({ module }) => {
  const text = '\uFEFFretry: 3\nid: 1-a-0\n\n: a comment\n\nevent: connect\r\nid:2-b-0\r\ndata: {"block": {"type": "CONNECT"},\r\ndata:"x": "é€😀\\u2028"}\r\n\r\n'
    + 'event: pending\rdata: {"dropped": ""}\r\rid: 2-b-0\n\nnonsense\nevent: drop\ndata: {"dropped": "ab"}\nid: 3\0\n\nid: 9-z-9\nevent: connect\ndata: {"block"';
  const want = [
    { type: "open", id: "1-a-0" }, { type: "connect", id: "2-b-0", data: { block: { type: "CONNECT" }, x: "é€😀\u2028" } },
    { type: "pending", id: "", data: { dropped: "" } }, { type: "drop", id: "", data: { dropped: "ab" } },
  ];
  const bytes = utf8(text);
  const cuts = [[...bytes].map((b) => Uint8Array.of(b)), [bytes], ...Array.from(bytes, (_, i) => [bytes.slice(0, i), bytes.slice(i)])];
  for (const pieces of cuts) {
    const { fetch, asked } = played(events(...pieces));
    const got = await told(new module.Keytree("https://keytree.example", { ...alone, fetch }).stream({ unconfirmed: true }));
    equal(got, want, `cut after ${pieces[0].length} bytes`);
    equal(asked[1].last_id, "2-b-0", "and goes on after what is whole");
  }
};

cases["makes a stream again, from where it was"] = async ({ module }) => {
  const fault = (reason, id = "") => utf8(`${id}event: fault\ndata: {"reason": "${reason}", "message": "m", "retry_after": 0}\n\n`);
  const { fetch, asked } = played(
    new TypeError("no network"), refused(503, { "Retry-After": "0" }), refused(429), refused(500),
    events(utf8("retry: 1\nid: 1-a-0\n\n"), fault("FUTURE_CURSOR")),
    new TypeError("no network"),
    events(utf8("id: 1-a-0\n\nid: 2-b-0\n\n"), fault("OUTDATED_CURSOR", "id: ended\n")),
    events(utf8("id: 7-c-0\n\n"), utf8('event: connect\nid: 8-d-0\ndata: {"unsure": true}\n\n')),
  );
  const got = await told(new module.Keytree("https://keytree.example", { ...alone, fetch }).stream());
  equal(got.map(({ type, id, data }) => [type, id, data?.reason ?? ""]), [
    ["open", "1-a-0", ""], ["fault", "", "FUTURE_CURSOR"], ["fault", "", "OUTDATED_CURSOR"], ["connect", "8-d-0", ""],
  ], "told");
  equal(asked.map(({ last_id }) => last_id ?? ""), ["", "", "", "", "", "1-a-0", "1-a-0", "", "8-d-0"], "asked");
  for (const status of [400, 403, 421]) {
    const error = await failure(told(new module.Keytree("https://keytree.example", { ...alone, fetch: played(refused(status, {}, { code: 3, message: "no" })).fetch }).stream()));
    equal([error.status, error.message], [status, "no"], "for good");
  }
};

cases["waits as long as a server asks for"] = async ({ module }) => {
  const began = performance.now();
  const { fetch } = played(refused(429, { "Retry-After": "1" }));
  await told(new module.Keytree("https://keytree.example", { ...alone, fetch }).stream());
  if (performance.now() - began < 1000) throw new Error(`it came back after ${performance.now() - began} ms`);
};

cases["has one stream for all of a page, and tells each its own"] = async ({ module }) => {
  const addresses = ["qp63uahgrxged4z5jswyt5dn5v3lzsem6cy4spdc2h", "qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"].map((a) => `bitcoincash:${a}`);
  const filters = [];
  let controller;
  const fetch = async (url, { body, signal }) => {
    filters.push(JSON.parse(body));
    return new Response(new ReadableStream({
      start(c) {
        controller = c;
        signal.addEventListener("abort", () => c.error(signal.reason));
        c.enqueue(utf8("id: 1-a-0\n\n"));
      },
    }));
  };
  const keytree = new module.Keytree("https://keytree.example", { ...alone, fetch });
  const end = new AbortController(), { signal } = end, heard = [[], [], []];
  const ends = [{ addresses: [addresses[0]] }, { addresses: [addresses[1].toUpperCase()], unconfirmed: true }, {}].map(async (filter, i) => {
    for await (const message of keytree.stream({ ...filter, signal })) heard[i].push(message.type === "open" ? "open" : message.data.n);
  }).map(failure);
  await until(() => heard.every((list) => list.length >= 1));
  equal({ ...filters.at(-1), last_id: "" }, { last_id: "", unconfirmed: true }, "what all want");
  const say = (event, data) => controller.enqueue(utf8(`event: ${event}\nid: 2-b-0\ndata: ${JSON.stringify(data)}\n\n`));
  say("connect", { n: 1, changed: [addresses[0]] });
  say("connect", { n: 2, block: { events: [{ child_address: addresses[1] }] } });
  say("connect", { n: 3, unsure: true });
  say("disconnect", { n: 4 });
  say("pending", { n: 5, changed: addresses });
  say("drop", { n: 6, dropped: "ab" });
  await until(() => heard[1].length >= 6);
  equal(heard, [["open", 1, 3, 4], ["open", 2, 3, 4, 5, 6], ["open", 1, 2, 3, 4]], "told");
  end.abort(new Error("enough"));
  equal((await Promise.all(ends)).map(({ message }) => message), ["enough", "enough", "enough"], "ends");

  // What is too much is refused who asks for it, and nobody else.
  const many = (await Promise.all(Array.from({ length: 10_001 }, (_, i) => i))).map((i) => i.toString(16).padStart(64, "0"));
  equal((await failure(keytree.stream({ ids: many }).next())).code, "RESOURCE_EXHAUSTED", "too many");
  equal((await failure(keytree.stream({ addresses: ["x"] }).next())).field, "address", "no address");
};

cases["tells who does not take what comes that something is missing"] = async ({ module }) => {
  const many = Array.from({ length: 1002 }, (_, i) => `event: connect\nid: ${i}-a-0\ndata: {"unsure": true}\n\n`).join("");
  const keytree = new module.Keytree("https://keytree.example", { ...alone, fetch: played(events(utf8(`id: 0-a-0\n\n${many}`))).fetch });
  const stream = keytree.stream();
  equal((await stream.next()).value.type, "open", "first");
  await new Promise((resolve) => setTimeout(resolve, 200)); // in which all the rest comes; if not, this proves less
  const rest = await told(stream);
  if (rest.length < 1002) equal(rest[0].data.reason, "CONSUMER_TOO_SLOW", "then");
};

/** follow collects what a stream tells, until close is called. */
function follow(keytree, filter) {
  const end = new AbortController(), all = [];
  const ended = (async () => {
    for await (const message of keytree.stream({ ...filter, signal: end.signal })) all.push(message);
  })().catch((error) => error);
  const close = () => {
    end.abort(new Error("enough"));
    return ended;
  };
  return { all, close, ended };
}

const types = (all) => all.map(({ type }) => type);

cases["is told of blocks, also of those that came while the connection was lost, and of a reorganisation"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, { backoff: 20 }), { addresses: [address, parent] } = await control("addresses", { names: ["s", "stream"] });
  const { all, close } = follow(keytree, { addresses: [address] });
  await until(() => all.length >= 1);
  equal((await keytree.resolve(address)).depth, 0, "before");
  await control("link", { children: ["s"], parent: "stream" });
  await until(() => all.length >= 2);
  equal((await keytree.resolve(address)).depth, 1, "then, though it was asked just before");
  equal([types(all), all[1].data.changed], [["open", "connect"], [address]], "linked");
  await control("lose", { connections: 2 });
  await control("lose-streams", {});
  await control("cut", { child: "s", parent: "stream" });
  await until(() => all.length >= 3);
  equal([all[2].type, all[2].data.block.events[0].type], ["connect", "LINK_CUT"], "cut");
  await control("reorganise", { blocks: 2 });
  await until(() => all.length >= 5);
  equal(types(all).slice(3), ["disconnect", "disconnect"], "reorganised");
  await control("link", { children: ["s"], parent: "stream" });
  await until(() => all.length >= 6);
  equal(all[5].data.changed, [address], "linked again");
  await close();
  // From a message on, and from a block on.
  const again = follow(keytree, { addresses: [address], lastId: all[4].id });
  await until(() => again.all.length >= 2);
  equal(again.all[1].data.block.hash, all[5].data.block.hash, "from a message on");
  await again.close();
  const early = follow(keytree, { addresses: [parent], fromHeight: 1 });
  await until(() => early.all.some(({ data }) => data?.block.hash === all[5].data.block.hash));
  await early.close();
};

cases["is told what is pending, and what is not any more"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, { backoff: 20 }), { addresses } = await control("addresses", { names: ["pending", "stream"] });
  await control("link", { children: ["pending"], parent: "stream" });
  const { all, close } = follow(keytree, { addresses, unconfirmed: true }), [address] = addresses;
  const child = follow(keytree, { addresses: [address], unconfirmed: true });
  const changes = (messages) => messages.flatMap(({ data }) => (data?.pending_changes ? [data.pending_changes.changed.includes(address)] : []));
  await until(() => all.length >= 1 && child.all.length >= 1);
  await control("pend", { child: "pending", parent: "stream" });
  await until(() => changes(all).at(-1) && changes(child.all).at(-1));
  equal(all.find(({ data }) => data?.pending)?.data.pending.action.kind, "MCR", "the action of the parent");
  await control("drop");
  await until(() => changes(all).at(-1) === false && changes(child.all).at(-1) === false && all.some(({ type }) => type === "drop"));

  // What has gone while the connection was lost is not pending any more either.
  await control("pend", { child: "pending", parent: "stream" });
  await until(() => changes(all).at(-1) && changes(child.all).at(-1));
  await lostDuring(control, () => control("drop"));
  await until(() => changes(all).at(-1) === false && changes(child.all).at(-1) === false && all.at(-1).data.all_pending);
  await Promise.all([close(), child.close()]);
};

/** lostDuring loses the streams, and lets them be made again after something has happened. */
async function lostDuring(control, happen) {
  await control("refuse", { status: 503, times: 1_000_000 });
  await control("lose-streams", {});
  await happen();
  await control("reset");
}

cases["follows a server of an earlier version, which has no streams"] = async ({ module, server, control }) => {
  await control("reset");
  await control("hide", { paths: ["/v1/stream"] });
  const keytree = new module.Keytree(server, { ...quick, pollEvery: 20 }), { addresses: [address] } = await control("addresses", { names: ["poll"] });
  const { all, close } = follow(keytree, { addresses: [address] });
  await until(() => all.length >= 1);
  await control("link", { children: ["poll"], parent: "stream" });
  await until(() => all.length >= 2);
  equal([types(all), all[1].data.block.events.at(-1).type, all[1].polled], [["open", "connect"], "LINK_FORMED", true]);
  await control("reorganise", { blocks: 1 });
  // It may ask in the middle of that, and is then told of the new branch as well.
  await until(() => all.length >= 3);
  equal([all[2].type, all[2].data.reason], ["fault", "OUTDATED_CURSOR"], "reorganised");
  await close();
  await control("reset");
};

/** signIn signs the person in. */
async function signIn(keytree, control) {
  const { addresses: [address] } = await control("addresses", { names: ["person"] }), domain = "memo.cash";
  const { message } = await keytree.challenge({ domain, uri: `https://memo.cash/?s=${Math.random()}`, address });
  const { signature } = await control("sign", { message });
  return { signed: { message, signature, domain }, address };
}

cases["signs in, and ends the session when the key is cut off"] = async ({ module, server, control }) => {
  const keytree = new module.Keytree(server, { ...quick, backoff: 20 });
  await control("link", { children: ["person"], parent: "service" });
  await new Promise((resolve) => setTimeout(resolve, 1000)); // a server takes no challenge from the second in which it began
  const { signed, address } = await signIn(keytree, control);
  equal(module.verifyMessage({ address, ...signed }), true, "verified in the page");
  let error = await failure(keytree.verify({ ...signed, domain: "evil.cash" }));
  equal([error.code, error.reason], ["INVALID_ARGUMENT", "OTHER_DOMAIN"], "another domain");
  const who = await keytree.verify(signed);
  equal([who.address, who.depth, who.pending.cut], [address, 1, false], "who");
  error = await failure(keytree.verify(signed));
  equal([error.code, error.reason], ["FAILED_PRECONDITION", "USED"], "twice");

  const calls = [];
  const watched = () => keytree.session(who, { onEnded: ({ pending, by }) => calls.push([pending, by.length]), onRestored: () => calls.push("restored") });
  const session = watched();
  // The session lasts while others come and go, and while the connection is lost.
  await control("lose-streams", {});
  await control("link", { children: ["person's"], parent: "person" }); // nobody has that key
  await control("pend", { child: "person", parent: "service" });
  await until(() => calls.length >= 1);
  await control("drop");
  await until(() => calls.length >= 2);
  equal(calls, [[true, 1], "restored"], "pending");
  await control("pend", { child: "person", parent: "service" });
  await until(() => calls.length >= 3);
  await lostDuring(control, () => control("drop"));
  await until(() => calls.length >= 4);
  equal(calls.splice(2), [[true, 1], "restored"], "pending, until the connection was lost");
  await control("pend", { child: "person", parent: "service" });
  await until(() => calls.length >= 3);
  await control("cut", { child: "person", parent: "service" });
  await until(() => calls.length >= 4);
  equal([calls.slice(2), session.id_tx_hash], [[[true, 1], [false, 0]], who.id_tx_hash], "confirmed");

  // It goes on when the identity merges into another one, and ends with that.
  await control("link", { children: ["person"], parent: "service" });
  const now = await keytree.resolve(address);
  const merged = keytree.session(now, { onEnded: ({ pending }) => calls.push(`merged ${pending}`) });
  await control("link", { children: ["service"], parent: "above" });
  await until(() => merged.main_address !== now.main_address);
  await control("cut", { child: "service", parent: "above" });
  await until(() => calls.length >= 5);
  equal(calls[4], "merged false", "with what it has merged into");

  // Who closes it is not called.
  const closed = watched();
  closed.close();
};

cases["has one stream for two tabs, and goes on when the one that has it is closed"] = async ({ module, server, control }) => {
  if (!globalThis.open) return; // Node has no tabs
  await control("reset");
  const shared = Boolean(navigator.locks), heard = [], [{ addresses: [own, other] }] = [await control("addresses", { names: ["tab0", "tab1"] })];
  const channel = new BroadcastChannel("the test's");
  channel.onmessage = ({ data }) => heard.push(data);
  const tab = (address) => open(`/tab.html?${new URLSearchParams({ server, address })}`);
  const first = tab(own);
  await until(() => heard.length >= 1);
  const keytree = new module.Keytree(server, { backoff: 20 }), { all, close } = follow(keytree, { addresses: [other] });
  await until(() => all.length >= 1);
  await control("link", { children: ["tab0"], parent: "tabs" });
  await control("link", { children: ["tab1"], parent: "tabs" });
  await until(() => heard.length >= 2 && all.length >= 2);
  equal([heard.map(({ type }) => type), heard[1].changed, all[1].data.changed], [["open", "connect"], [own], [other]], "told");
  await until(async () => (await control("seen")).streams === (shared ? 1 : 2));
  first.close();
  await control("cut", { child: "tab1", parent: "tabs" });
  await until(() => all.length >= 3);
  equal(all[2].data.block.events[0].type, "LINK_CUT", "after it was closed");
  await close();
  channel.close();
};
