// What keytree.js must do with state proofs, in Node and in a browser alike: see cases.js.
import { cases, equal, failure } from "./cases.js";
import { World, Trie, Signer, action, base64, deep, entryOf, extraOf, filled, hash, idRecord, idSubject, join, key, keyRecord, keySubject, little, mined, proofOf, transaction, txidOf } from "./prover.js";

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** The records of the example of protocol/SPEC.md §12, with their roots. */
const [k1, k2, aa, bb, cc, ee] = [key(0x11), key(0x22), hash(0xaa), hash(0xbb), hash(0xcc), hash(0xee)];
const example = {
  "5d752d9222a57f5c034b37cfca29acc1aff0f724e48be17d7206d69164094fdb": [keyRecord({ of: k1, parent: k2, accept: bb }), keyRecord({ of: k2, id: aa }), idRecord({ of: aa, root: k2 })],
  "f6a2836a0d7a09ecb0935c11359ca1e1f8f867d81cf8cf1200ebaa6a5a2c3a3b": [
    keyRecord({ of: k1, id: cc, height: 102 }), keyRecord({ of: k2, id: aa }), idRecord({ of: aa, root: k2 }), idRecord({ of: cc, root: k1 }),
  ],
  "e9c49d0ad68ff4a963a2e9c413cfa1333658f8216545f5de7d3f8c43d0e1d495": [
    keyRecord({ of: k1, id: aa, height: 103 }), keyRecord({ of: k2, parent: k1, accept: ee, height: 103 }), idRecord({ of: aa, root: k1 }), idRecord({ of: cc, into: aa }),
  ],
};
const last = Object.values(example)[2];

/** The CashAddrs of keys, by a byte. */
const a1 = "bchreg:qqg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zy8lyg7mcr", a2 = "bchreg:qq3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygax8t2fxn", a9 = "bchreg:qqysjzgfpyysjzgfpyysjzgfpyysjzgfpyfvdrnchd";

/** hasEd25519 is what a page on plain http has not. */
const hasEd25519 = Boolean(globalThis.crypto?.subtle);

/** provenOnly is a case that needs Ed25519. */
function provenOnly(name, run) {
  cases[name] = async (world) => (hasEd25519 ? run(world) : undefined);
}

cases["says that it cannot check a state proof where there is no Ed25519"] = async ({ module }) => {
  if (hasEd25519) return;
  const note = `log.example/state/regtest/1/1\n1\n${base64(hash(1))}\n\n— log.example/state/regtest/1/1 `;
  const vkey = join([1], hash(5)), id = module.sha256(join(new TextEncoder().encode("log.example/state/regtest/1/1\n"), vkey)).subarray(0, 4);
  const { hash: root } = new Trie([]), extra = extraOf({ entry: entryOf({ height: 1, root }), subjects: [keySubject(k1)], tree: new Trie([]).shown() });
  const file = `c2sp.org/tlog-proof@v1\nextra ${base64(extra)}\nindex 0\n\n${note}${base64(join(id, new Uint8Array(64)))}\n`;
  const error = await failure(module.verifyStateProof(file, `log log.example/state/regtest/1/1+${hex(id)}+${base64(vkey)}\nquorum none\n`));
  equal([error.name, error.reason], ["StateProofError", "UNSUPPORTED"]);
};

provenOnly("proves what the example of SPEC.md §12 has", async ({ module }) => {
  equal(Object.values(example).map((records) => hex(new Trie(records).hash)), Object.keys(example), "roots");
  const world = await World.make(last), file = await world.proof(world.extra([keySubject(k2), idSubject(cc), keySubject(key(9)), idSubject(hash(3)), idSubject(aa)]));
  const proven = await module.verifyStateProof(file, world.policy, { addresses: [a2, a9.split(":")[1]], ids: [hex(cc)], now: world.time * 1000 });
  const { subjects, as_of_hash, state_hash, ...rest } = proven;
  equal(rest, {
    network: "regtest", as_of_height: 103, state_root: Object.keys(example)[2], log: world.origin, log_index: "5", log_size: "7",
    cosigners: ["one", "two"], cosigned_at: world.time, old: false, transactions: [], unproven: ["key_count", "named_by"],
  });
  equal([as_of_hash, state_hash], [`67${"b0".repeat(31)}`.replace(/^(..)(.*)$/, "000000$1$2").slice(0, 64), `${"5a".repeat(28)}67000000`], "block");
  const [linked, merged, nobody, nothing, current] = subjects.map(({ records, ...one }) => one);
  equal(linked, {
    kind: "key", address: a2, found: true, cut: false, parent_address: a1, path: [a2, a1], main_address: a1, id_tx_hash: hex(aa), accept_tx_hash: hex(ee),
  });
  equal(merged, { kind: "identity", id_tx_hash: hex(cc), found: true, cut: false, state: "MERGED", merged_into: hex(aa), main_address: a1 });
  equal(nobody, { kind: "key", address: a9, found: false, cut: false, parent_address: "", path: [a9], main_address: a9, id_tx_hash: "", accept_tx_hash: "" });
  equal(nothing, { kind: "identity", id_tx_hash: hex(hash(3)), found: false, cut: false, state: "", merged_into: "", main_address: "" });
  equal(current, { kind: "identity", id_tx_hash: hex(aa), found: true, cut: false, state: "CURRENT", merged_into: "", main_address: a1 });
  equal(subjects[0].records.map(({ height }) => height), [103, 103], "heights");

  // The bytes of the same file are as good, and an empty map proves that nobody is in it.
  equal((await module.verifyStateProof(new TextEncoder().encode(file), world.policy, { now: world.time * 1000 })).subjects, subjects);
  const empty = await World.make([], { size: 1, index: 0 });
  equal((await module.verifyStateProof(await empty.proof(empty.extra([keySubject(k1)])), empty.policy)).subjects[0].found, false, "in an empty map");
});

provenOnly("calls what was cosigned long ago old, and asks whose proof it is", async ({ module }) => {
  const world = await World.make(last), file = await world.proof(world.extra([keySubject(k2)])), at = (seconds, more) => module.verifyStateProof(file, world.policy, { now: (world.time + seconds) * 1000, ...more });
  equal([(await at(86_400)).old, (await at(86_401)).old, (await at(61, { maxAge: 60_000 })).old, (await at(-1e6)).old], [false, true, true, false]);
  const reason = async (options) => (await failure(module.verifyStateProof(file, world.policy, options))).reason;
  equal(await reason({ addresses: [a2, a1] }), "SUBJECT", "of the parent");
  equal(await reason({ ids: [hex(aa)] }), "SUBJECT", "of the identity");
  const { hash: bare } = module.decodeAddress(a2);
  equal(hex(bare), hex(k2));
  equal(await reason({ addresses: ["bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"] }), "SUBJECT", "on another network");
  equal((await failure(module.verifyStateProof(file, world.policy, { addresses: ["nonsense"] }))).field, "address");

  // Who asks for no witness learns no time, and takes any checkpoint of the log.
  const log = `log ${world.log.vkey}\nquorum none`, alone = await world.proof(world.extra([keySubject(k2)]), { signers: [[world.log]] });
  const { cosigned_at, cosigners, old } = await module.verifyStateProof(alone, log);
  equal([cosigned_at, cosigners, old], [0, [], true]);
});

/** wrongs are proofs that are wrong in one thing each, with the check of protocol/SPEC.md §13 that must find it. */
const wrongs = (w) => {
  const subjects = [keySubject(k2), idSubject(cc)], extra = w.extra(subjects), tree = w.trie.shown();
  /** lied has the log and its witnesses lie: they have signed the root of other records. */
  const lied = (records, of) => () => {
    const trie = new Trie(records), entry = entryOf({ height: 103, root: trie.hash });
    return w.proof(extraOf({ entry, subjects: of, tree: trie.shown() }), { entry });
  };
  const shows = (of, tree, count = 0) => () => w.proof(join(extraOf({ entry: w.entry, subjects: of, tree }).slice(0, -2), little(count, 2)));
  const swapped = (change) => () => w.proof(change(extra.slice()));
  const file = (change) => async () => change(await w.proof(extra));
  const signed = (signers) => () => w.proof(extra, { signers });
  const [record] = last, at = 5 + 105 + 2 + 21 + 33; // where the tree begins
  return {
    "a byte order mark": [1, file((text) => `\ufeff${text}`)],
    "another first line": [1, file((text) => text.replace("@v1", "@v2"))],
    "lines of Windows": [1, file((text) => text.replaceAll("\n", "\r\n"))],
    "no extra": [1, file((text) => text.replace(/extra .*\n/, ""))],
    "extra without padding": [1, file((text) => text.replace(/=+\nindex/, "\nindex"))],
    "unused bits": [1, () => w.proof(extra).then((text) => text.replace(/AAA=\nindex/, "AAB=\nindex").replace(/AA==\nindex/, "AB==\nindex"))],
    "an index with a zero before it": [1, file((text) => text.replace("index 5", "index 05"))],
    "an index with a sign": [1, file((text) => text.replace("index 5", "index +5"))],
    "a space behind the index": [1, file((text) => text.replace("index 5", "index 5 "))],
    "something behind it": [1, file((text) => `${text}x`)],
    "an empty line behind it": [1, file((text) => `${text}\n`)],
    "no end of the last line": [1, file((text) => text.slice(0, -1))],
    "no signatures": [1, file((text) => text.replace(/\n— [^]*/, ""))],
    "a tab in the checkpoint": [1, () => w.proof(extra, { more: "a\tb\n" })],
    "an empty line in the checkpoint": [1, () => w.proof(extra, { more: "more\n\nmore\n" })],
    "half of a character": [1, file((text) => `${text.slice(0, -1)}\ud800\n`)],
    "64 hashes of an inclusion proof": [1, file((text) => text.replace(/index 5\n/, `index 5\n${`${base64(hash(1))}\n`.repeat(64)}`))],
    "a size with a zero before it": [1, file((text) => text.replace("\n7\n", "\n07\n"))],
    "a size of 2^63": [1, file((text) => text.replace("\n7\n", `\n${2n ** 63n}\n`))],
    "a plain name in a signature": [1, file((text) => text.replace("— stranger", "— stran+ger"))],
    "a signature of four bytes": [1, async () => `${await w.proof(extra)}— x ${base64(little(1, 4))}\n`],
    "another id": [1, swapped((bytes) => (bytes[0]++, bytes))],
    "another version": [1, swapped((bytes) => (bytes[4]++, bytes))],
    "another entry's version": [1, swapped((bytes) => (bytes[9]++, bytes))],
    "no subject": [1, shows([], tree)],
    "a subject twice": [1, shows([keySubject(k2), keySubject(k2)], tree)],
    "another kind of subject": [1, shows([join([3], k2)], tree)],
    "something behind what is shown": [1, swapped((bytes) => join(bytes, [0]))],
    "another kind of node": [1, swapped((bytes) => (bytes[at] = 5, bytes))],
    "an empty side": [1, shows(subjects, join([2, 0, 0], tree))],
    "a bit that does not grow": [1, shows(subjects, join([3, 9], hash(1), [3, 9], hash(2), [1], record))],
    "a record on the wrong side": [1, shows(subjects, join([3, w.trie.whole.bit], hash(1), [1], w.trie.find(filled(0, 32)).record))],
    "a record of another kind": [1, shows(subjects, join([1, 3], record.subarray(1)))],
    "a parent without MLA": [1, lied([keyRecord({ of: k2, parent: k1 }), keyRecord({ of: k1, id: aa })], [keySubject(k2)])],
    "an MLA without parent": [1, lied([keyRecord({ of: k2, accept: ee, id: aa })], [keySubject(k2)])],
    "a root without id": [1, lied([keyRecord({ of: k2 })], [keySubject(k2)])],
    "an id of who has a parent": [1, lied([keyRecord({ of: k2, parent: k1, accept: ee, id: aa }), keyRecord({ of: k1, id: aa })], [keySubject(k2)])],
    "a record that is later than the block": [1, lied([keyRecord({ of: k2, id: aa, height: 104 })], [keySubject(k2)])],
    "an id of state 2": [1, lied([idRecord({ of: aa, root: k1, state: 2 })], [idSubject(aa)])],
    "a current id without root": [1, lied([idRecord({ of: aa, state: 0 })], [idSubject(aa)])],
    "a current id that has merged": [1, lied([idRecord({ of: aa, root: k1, into: cc })], [idSubject(aa)])],
    "an id merged into itself": [1, lied([idRecord({ of: aa, into: aa })], [idSubject(aa)])],
    "too many transactions": [1, shows(subjects, tree, 2001)],
    "an odd number of transactions": [1, shows(subjects, tree, 1)],
    "a log of another network": [2, () => w.proof(extra, { origin: "log.example/state/litecoin/1/1" })],
    "a log of other rules": [2, () => w.proof(extra, { origin: "log.example/state/regtest/2/1" })],
    "a log of epoch 0": [2, () => w.proof(extra, { origin: "log.example/state/regtest/1/0" })],
    "a log of an epoch that is too late": [2, () => w.proof(extra, { origin: `log.example/state/regtest/1/${2 ** 32}` })],
    "a log with a path before it": [2, () => w.proof(extra, { origin: "log.example/logs/state/regtest/1/1" })],
    "101 signatures": [1, async () => `${await w.proof(extra)}${`— x ${base64(new Uint8Array(5))}\n`.repeat(97)}`],
    "a log without host": [2, () => w.proof(extra, { origin: "/state/regtest/1/1" })],
    "a keyserver's log": [2, () => w.proof(extra, { origin: "log.example/keytree" })],
    "another log": [2, () => w.proof(extra, { origin: "other.example/state/regtest/1/1" })],
    "no signature of the log": [2, signed(w.signers().slice(1))],
    "one cosignature": [2, signed(w.signers().slice(0, 3))],
    "a cosignature twice": [2, signed([...w.signers(), [w.one, 2]])],
    "the log's signature twice": [2, signed([...w.signers(), [w.log]])],
    "a signature of the log that is not by it": [2, async () => `${await w.proof(extra)}${w.log.line(new Uint8Array(64))}`],
    "a cosignature that is not by it": [2, async () => `${await w.proof(extra)}${w.one.line(new Uint8Array(72))}`],
    "a cosignature that is too long": [2, async () => `${await w.proof(extra)}${w.one.line(new Uint8Array(73))}`],
    "another time": [2, file((text) => text.replace(/(two.example\/w \S{7})(.)/, (_, before, c) => `${before}${c === "A" ? "B" : "A"}`))],
    "another entry": [3, swapped((bytes) => (bytes[5 + 9]++, bytes))],
    "another index": [3, file((text) => text.replace("index 5", "index 4"))],
    "an index of 2^64": [1, file((text) => text.replace("index 5", `index ${2n ** 64n}`))],
    "an index of 2^64 - 1": [3, file((text) => text.replace("index 5", `index ${2n ** 64n - 1n}`))],
    "an index that is not in the log": [3, file((text) => text.replace("index 5", "index 7"))],
    "an index that is beyond the log by a power of two": [3, file((text) => text.replace("index 5", "index 13"))],
    "a hash less": [3, file((text) => text.replace(/(index 5\n).*\n/, "$1"))],
    "a hash more": [3, file((text) => text.replace("\n\n", `\n${base64(hash(1))}\n\n`))],
    "another tree": [4, shows(subjects, new Trie(last.slice(0, 3)).shown())],
    "an empty tree": [4, shows(subjects, little(0, 1))],
    "a parent that is not shown": [5, shows([keySubject(k2)], w.trie.shown(new Set([w.trie.find(mapKeyOf(last[1]))])))],
    "a subject that is not shown": [5, shows([keySubject(k1)], w.trie.shown(new Set([w.trie.find(mapKeyOf(last[2]))])))],
    "a parent without record": [5, lied([keyRecord({ of: k2, parent: k1, accept: ee })], [keySubject(k2)])],
    "an id merged into nothing": [5, lied([idRecord({ of: cc, into: aa })], [idSubject(cc)])],
    "keys in a circle": [5, lied([keyRecord({ of: k2, parent: k1, accept: ee }), keyRecord({ of: k1, parent: k2, accept: bb })], [keySubject(k2)])],
    "ids in a circle": [5, lied([idRecord({ of: cc, into: aa }), idRecord({ of: aa, into: cc })], [idSubject(cc)])],
    "a record that says nothing": [6, shows([keySubject(k2)], tree)],
    // Where more is wrong, the first check of the list says so.
    "another version, and a log of another network": [1, () => w.proof(extra.with(4, 2), { origin: "log.example/state/litecoin/1/1" })],
    "another version, and no signature of the log": [1, () => w.proof(extra.with(4, 2), { signers: w.signers().slice(1) })],
    "one cosignature, and another entry": [2, () => w.proof(extra.with(5 + 9, extra[5 + 9] ^ 1), { signers: w.signers().slice(0, 3) })],
    "another index, and another tree": [3, () => shows(subjects, new Trie(last.slice(0, 3)).shown())().then((text) => text.replace("index 5", "index 4"))],
  };
};

const mapKeyOf = (record) => new Trie([record]).whole.key;

provenOnly("refuses a state proof that is wrong in one thing", async ({ module }) => {
  const world = await World.make(last);
  for (const [what, [check, make]] of Object.entries(wrongs(world))) {
    const file = await make(), error = await failure(module.verifyStateProof(file, world.policy)).catch(() => ({ message: "it is taken" }));
    if (error.reason !== "INVALID" || !error.message.startsWith(`check ${check} of`)) throw new Error(`${what}: ${error.stack ?? error.message}, want check ${check}`);
  }
});

provenOnly("believes whom a policy names, and no other", async ({ module }) => {
  const world = await World.make(last), { log, one, two, stranger } = world, extra = world.extra([keySubject(k2)]), third = await Signer.make("third.example", 4);
  const all = await world.proof(extra, { signers: [[log], [one, 100], [two, 300], [third, 200]] });
  const policy = (...lines) => [`log ${log.vkey}`, `witness one ${one.vkey}`, `witness two ${two.vkey}`, `witness three ${third.vkey}`, `witness away ${stranger.vkey}`, ...lines, ""].join("\n");
  const since = async (...lines) => (await module.verifyStateProof(all, policy(...lines))).cosigned_at;
  equal(await since("quorum one"), 100);
  equal(await since("group g any one two three away", "quorum g"), 300);
  equal(await since("group g 2 one two three away", "quorum g"), 200);
  equal(await since("group g 3 one two three away", "quorum g"), 100);
  equal(await since("  group\tinner any  two away", "# group inner all one", "", "group outer all inner three", "\tquorum outer"), 200, "groups of groups");
  const refused = async (text) => {
    const { reason, message } = await failure(module.verifyStateProof(all, text)).catch(() => ({ message: "it is taken" }));
    return message === "it is taken" ? message : reason;
  };
  equal(await refused(policy("group g all one away", "quorum g")), "INVALID", "who has not cosigned");
  for (const lines of [
    [], ["quorum"], ["quorum one two"], ["quorum one", "quorum two"], ["quorum nobody"], ["quorum g", "group g any one"], ["group none any one", "quorum none"], ["group one any two", "quorum one"],
    ["group g 0 one", "quorum g"], ["group g 2 one", "quorum g"], ["group g some one", "quorum g"], ["group g any", "quorum g"], ["group g all one one", "quorum g"],
    ["group g any one", "group h any one", "quorum h"], ["group g any none", "quorum g"], [`witness four ${one.vkey}`, "quorum one"], ["witness four", "quorum one"], [`witness four ${log.vkey}`, "quorum one"],
    [`log ${one.vkey}`, "quorum one"], [`log ${log.vkey}`, "quorum one"], ["unknown line", "quorum one"], ["quorum one\r"], [`log ${log.vkey.replace(/\+........\+/, "+00000000+")}`, "quorum one"],
    [`witness four ${third.vkey.slice(0, -4)}`, "quorum one"],
  ]) equal(await refused(policy(...lines)), "POLICY", lines.join("; "));
  equal(await refused(`witness one ${one.vkey}\nquorum one`), "POLICY", "without log");
  equal(await refused(undefined), "POLICY", "none");
  // Two logs: what another one signs is passed over, but it must be by it.
  const other = await Signer.make("log.example/state/regtest/1/2", 1);
  const both = await world.proof(extra, { signers: [[other], [log], [one, 100]] });
  equal((await module.verifyStateProof(both, `log ${other.vkey}\nlog ${log.vkey}\nwitness one ${one.vkey}\nquorum one`)).log, log.name);
});

/** chained are the records of a path of keys, from the root down. */
const chained = (count) => Array.from({ length: count }, (_, i) => (i === 0 ? keyRecord({ of: key(1, 1), id: aa }) : keyRecord({ of: key(1, i + 1), parent: key(1, i), accept: hash(2, i) })));

provenOnly("says where a walk is cut short", async ({ module }) => {
  const world = await World.make(chained(10_001)), { trie } = world, bottom = keySubject(key(1, 10_001)), leaves = new Set(), all = new Set();
  trie.walk(bottom, all);
  for (const leaf of all) if (leaves.size < 10_000) leaves.add(leaf);
  const shown = async (some, subjects) => {
    const extra = extraOf({ entry: world.entry, subjects, tree: trie.shown(some) });
    return module.verifyStateProof(await world.proof(extra), world.policy);
  };
  const { subjects: [cut, stranger] } = await shown(leaves, [bottom, keySubject(key(1, 5))]);
  equal([cut.cut, cut.found, cut.main_address, cut.id_tx_hash, cut.records.length, cut.path.length], [true, true, "", "", 10_000, 10_001]);
  equal(cut.path.at(-1), cut.records.at(-1).parent_address, "the last link");
  equal([stranger.cut, stranger.records.length], [true, 4], "one on the way");
  leaves.delete([...leaves][9999]);
  equal((await failure(shown(leaves, [bottom]))).message.startsWith("check 5"), true, "9,999 records");
  equal((await failure(shown(all, [bottom]))).message.startsWith("check 1"), true, "10,001 records");
});

provenOnly("takes the transactions of a link along, and no others", async ({ module }) => {
  const token = (bits, ...more) => join([0xef], hash(4), [bits], ...more), note = new TextEncoder().encode("hello");
  const request = transaction(Uint8Array.of(0x51), action(0x20, k1, note), action(0x21, cc)), mlr = txidOf(request), reversed = mlr.slice().reverse();
  const accept = transaction(join(token(0x72, [2, 7, 7], [0xff], little(5, 7), [0x7f]), action(0x21, reversed)));
  // The log begins with block 90.
  const world = await World.make([keyRecord({ of: k2, parent: k1, accept: txidOf(accept), height: 95 }), keyRecord({ of: k1, id: aa })], { size: 16, index: 13 });
  const show = async (...transactions) => module.verifyStateProof(await world.proof(world.extra([keySubject(k2)], transactions)), world.policy);
  const verify = (...transactions) => show(...world.logged(...transactions));
  const good = mined(accept, { height: 95, index: 3 }), asked = mined(request), size = accept.length;
  const blockOf = (bytes) => hex(txidOf(bytes.subarray(4, 84)).reverse()), { transactions, unproven } = await verify(good, asked);
  equal(transactions, [
    { tx_hash: hex(txidOf(accept).reverse()), kind: "MLA", height: 95, block_hash: blockOf(good), tx_index: 3 },
    { tx_hash: hex(reversed), kind: "MLR", height: 90, block_hash: blockOf(asked), tx_index: 1 },
  ]);
  equal(unproven, ["key_count", "named_by"]);
  const refused = async (what, check, verified) => {
    const error = await failure(verified).catch(() => ({ message: "it is taken" }));
    if (!error.message.startsWith(`check ${check} of`)) throw new Error(`${what}: ${error.message}, want check ${check}`);
  };
  const wrong = (what, check, ...some) => refused(what, check, verify(...some));
  await wrong("one alone", 7, good);
  await wrong("the other way round", 7, asked, good);
  await wrong("twice", 7, good, asked, good, asked);
  await wrong("later than the link", 7, mined(accept, { height: 96 }), asked);
  await wrong("asked later than the link", 7, good, mined(request, { height: 96 }));
  await wrong("another merkle root", 7, mined(accept, { height: 95, change: (header) => header.with(36, header[36] ^ 1) }), asked);
  await wrong("an index beyond the branch", 7, good.with(84, 7), asked);
  await wrong("a copy", 7, mined(accept, { height: 95, index: 1, branch: [txidOf(accept)] }), asked);
  await wrong("33 hashes", 1, mined(accept, { height: 95, branch: Array.from({ length: 33 }, (_, i) => hash(i + 1)) }), asked);
  await wrong("a target that is not met", 7, mined(accept, { height: 95, bits: 0x03000001 }), asked);
  await wrong("a target below zero", 7, mined(accept, { height: 95, bits: 0x20ffffff }), asked);
  await wrong("a target that is too easy", 7, mined(accept, { height: 95, bits: 0x2100ffff }), asked);
  await wrong("64 bytes", 1, join(good.subarray(0, -4 - size), little(64, 4), accept.subarray(0, 64)), asked);
  await wrong("something behind the transaction", 1, mined(join(accept, [0]), { height: 95 }), asked);

  // Their blocks are those that the log has at their heights.
  await wrong("below the log's start", 7, good, mined(request, { height: 89 }));
  const [logged, other] = world.logged(good, asked), behind = good.length, hashes = logged[behind + 64], flip = (at) => logged.with(at, logged[at] ^ 1);
  equal((await show(logged, other)).transactions, transactions);
  equal(hashes, 4);
  const remined = mined(accept, { height: 95, index: 3, change: (header) => header.with(0, 2) });
  for (const [what, check, changed] of [
    ["another height", 7, logged.with(0, 94)], ["a height far below", 7, logged.with(0, 0)], ["another header", 7, join(remined, logged.subarray(behind))],
    ["another H", 7, flip(behind)], ["another R", 7, flip(behind + 32)], ["another hash of the inclusion proof", 7, flip(logged.length - 1)],
    ["a hash less", 7, logged.with(behind + 64, hashes - 1).subarray(0, -32)], ["a hash more", 7, join(logged.with(behind + 64, hashes + 1), hash(1))],
    ["no hash", 7, logged.with(behind + 64, 0).subarray(0, behind + 65)], ["63 hashes", 7, join(logged.with(behind + 64, 63).subarray(0, behind + 65), filled(1, 63 * 32))],
    ["64 hashes", 1, join(logged.with(behind + 64, 64).subarray(0, behind + 65), filled(1, 64 * 32))], ["a count that is not there", 1, logged.with(behind + 64, hashes - 1)],
    ["the entry of the request's block", 7, join(logged.subarray(0, behind), other.subarray(-hashes * 32 - 65))],
  ]) await refused(what, check, show(changed, other));
  await refused("an inclusion proof that is cut", 1, show(logged, other.subarray(0, -1)));
  await refused("another index, under which nothing is", 3, world.proof(world.extra([keySubject(k2)], [logged, other])).then((text) => module.verifyStateProof(text.replace("index 13", "index 12"), world.policy)));
  for (const [block, taken] of [[txidOf(mined(accept, { height: 103 }).subarray(4, 84)), true], [hash(5), false]]) {
    const now = await World.make([keyRecord({ of: k2, parent: k1, accept: txidOf(accept), height: 103 }), keyRecord({ of: k1, id: aa })], { size: 16, index: 13, block });
    const shown = module.verifyStateProof(await now.proof(now.extra([keySubject(k2)], now.logged(mined(accept, { height: 103 }), asked))), now.policy);
    if (taken) equal((await shown).transactions[0].block_hash, (await shown).as_of_hash, "in the entry's block");
    else await refused("another block than the entry's", 7, shown);
  }
  for (const [what, other] of Object.entries({
    "no action": transaction(Uint8Array.of(0x51)), "a request for another parent": transaction(action(0x20, k2)), "no item": transaction(action(0x20)),
    "three items": transaction(action(0x20, k1, note, note)), "an item of 19 bytes": transaction(action(0x20, k1.subarray(1))), "a revocation": transaction(action(0x22, hash(1))),
    "malformed before well-formed": transaction(action(0x20), action(0x20, k1)), "no valid token": transaction(join(token(0x60, [0]), action(0x20, k1))), "a push that is cut": transaction(join([0x6a, 2, 0x6d, 0x20, 20], k1.subarray(1))),
  })) {
    // The accept is of this request, so that nothing else is wrong.
    const of = transaction(action(0x21, txidOf(other))), lied = await World.make([keyRecord({ of: k2, parent: k1, accept: txidOf(of) }), keyRecord({ of: k1, id: aa })], { size: 16, index: 13 });
    const file = await lied.proof(lied.extra([keySubject(k2)], lied.logged(mined(of, { height: 95 }), mined(other))));
    await refused(what, 7, module.verifyStateProof(file, lied.policy));
  }
});

/** random is a generator that always gives the same (mulberry32). */
const random = (seed) => (most) => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
  t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
  return ((t ^ (t >>> 14)) >>> 0) % most;
};

provenOnly("takes no state proof that was changed anywhere for another one", async ({ module, exhaustive }) => {
  const request = transaction(action(0x20, key(1, 1))), accept = transaction(action(0x21, txidOf(request)));
  const linked = keyRecord({ of: key(3), parent: key(1, 1), accept: txidOf(accept) });
  const world = await World.make([...last, ...chained(50), linked], { size: 16, index: 13 }), below = random(28), transactions = world.logged(mined(accept, { height: 95 }), mined(request));
  const whole = new TextEncoder().encode(await world.proof(world.extra([keySubject(k2), idSubject(cc), keySubject(key(9)), keySubject(key(1, 5)), keySubject(key(3))], transactions), { signers: [[world.log], [world.one, world.time], [world.two, world.time]] }));
  // The proof of another key that is absent at the same place is as valid: so it is said whose it must be.
  const proven = await module.verifyStateProof(whole, world.policy), { subjects } = proven, of = { addresses: subjects.flatMap(({ address }) => address ?? []), ids: [hex(cc)] };
  const rounds = exhaustive ? 100_000 : 500;
  let refused = 0;
  for (let i = 0; i < rounds; i++) {
    const at = below(whole.length), file = [
      () => whole.with(at, whole[at] ^ (1 << below(8))), () => whole.with(at, whole[at] ^ (1 + below(255))),
      () => join(whole.subarray(0, at), whole.subarray(at + 1)), () => join(whole.subarray(0, at), [below(128)], whole.subarray(at)), () => whole.subarray(0, at),
      () => join(whole.subarray(0, at), whole.subarray(below(whole.length))),
    ][below(6)]();
    if (file.length === whole.length && file.every((byte, j) => byte === whole[j])) continue;
    try {
      equal(await module.verifyStateProof(file, world.policy, of), proven, `mutation ${i} at ${at}`); // with a signature more, by nobody whom the policy names
    } catch (error) {
      if (error.reason !== "INVALID" && error.reason !== "SUBJECT") throw error;
      refused++;
    }
  }
  if (refused < 0.98 * rounds) throw new Error(`${refused} of ${rounds} changed proofs are refused`);
});

provenOnly("checks a state proof of depth 1 among 1,000,000 keys", async ({ module, note }) => {
  const records = [keyRecord({ of: k2, parent: k1, accept: ee, height: 103 }), keyRecord({ of: k1, id: aa, height: 103 })];
  const { tree, root } = deep(records, 20), world = await World.make([], { size: 1_000, index: 999 }), entry = entryOf({ height: 103, root });
  const file = await proofOf({ extra: extraOf({ entry, subjects: [keySubject(k2)], tree }), entry, leaves: world.leaves, index: 512, signers: [[world.log], [world.one, world.time], [world.two, world.time]] });
  const times = [];
  for (let i = 0; i < 51; i++) {
    const began = performance.now();
    equal((await module.verifyStateProof(file, world.policy, { addresses: [a2] })).subjects[0].main_address, a1);
    times.push(performance.now() - began);
  }
  const [first] = times, median = times.sort((a, b) => a - b)[25];
  note(`a state proof of depth 1 among 2^20 keys has ${file.length} bytes, and is checked in ${median.toFixed(2)} ms (median of 51; the first one ${first.toFixed(2)} ms)`);
});

provenOnly("resolves what this server has proven of a chain", async ({ module, server, control }) => {
  const keytree = new module.Keytree(server), { policy } = await control("state-policy"), { addresses: [child, parent, nobody] } = await control("addresses", { names: ["child", "parent", "nobody"] });
  const { state, key: proven, resolution } = await keytree.resolveProven(child, { policy });
  equal([proven.found, proven.main_address, proven.path, resolution.id_tx_hash === proven.id_tx_hash, state.network, state.old], [true, parent, [child, parent], true, "regtest", true]);
  equal((await keytree.resolveProven(child, { policy, atHeight: 1 })).key.found, false, "before it was in a link");
  equal((await keytree.resolveProven(nobody, { policy })).key.main_address, nobody, "who was never in one");
  equal((await keytree.resolveProven(child, { policy, atHeight: 5 })).key.main_address, child, "after it was cut off");
  const own = (await keytree.resolve(child, { atHeight: 5 })).id_tx_hash;
  equal((await keytree.identityProven(own, { policy })).proven.merged_into, proven.id_tx_hash, "the identity that it was then");
  equal((await keytree.identityProven("ab".repeat(32), { policy })).proven.found, false, "an id that names nothing");
  const { proof, cut } = await keytree.proveAddresses([child, parent, nobody]);
  equal([(await module.verifyStateProof(proof, policy, { addresses: [nobody, parent] })).subjects.length, cut], [3, []], "of three");
  equal((await failure(keytree.resolveProven(child, { policy, atHeight: 1e6 }))).code, "OUT_OF_RANGE", "of a block that is not covered");
});

provenOnly("resolves what a server has proven, and finds out who lies", async ({ module }) => {
  const world = await World.make(last), proof = await world.proof(world.extra([keySubject(k2)])), asked = [];
  const honest = {
    address: a2, parent_address: a1, main_address: a1, id_tx_hash: hex(aa), accept_tx_hash: hex(ee), path: [a2, a1], path_truncated: false, depth: 1,
    as_of_height: 103, as_of_hash: (await module.verifyStateProof(proof, world.policy)).as_of_hash,
  };
  const server = (says, file = proof) => new module.Keytree("https://keytree.example", {
    retries: 0, fetch: async (url, init) => {
      asked.push([new URL(url).pathname + new URL(url).search, init.body]);
      return Response.json(String(url).includes("/proof") ? { as_of_height: 103, proof: file, cut: [] } : { resolutions: [{ ...honest, ...says }] });
    },
  });
  const { policy } = world, { state, key: proven, resolution } = await server({}).resolveProven(a2, { policy });
  equal([state.as_of_height, proven.main_address, resolution.parent_address], [103, a1, a1]);
  equal(asked.map(([path]) => path), [`/v1/addresses/${encodeURIComponent(a2)}/proof`, "/v1/addresses:batchResolve"]);
  equal(JSON.parse(asked[1][1]).at_height, 103, "as of the block that is proven");
  await server({}).resolveProven(a2, { policy, atHeight: 103 });
  equal(asked[2][0].endsWith("/proof?at_height=103"), true, "as of a block");
  equal((await failure(server({}).resolveProven(a2, { policy, atHeight: 102 }))).reason, "SUBJECT", "as of another block");
  for (const [field, lie] of Object.entries({ parent_address: a9, main_address: a9, id_tx_hash: hex(cc), accept_tx_hash: hex(bb), path: [a2, a9], depth: 2, as_of_hash: hex(bb), as_of_height: 102 })) {
    const error = await failure(server({ [field]: lie }).resolveProven(a2, { policy }));
    equal([error.reason, error.message.includes(field)], ["DIFFERS", true], field);
  }
  for (const path of [[], [a2], [a2, a1, a9]]) equal((await failure(server({ path }).resolveProven(a2, { policy }))).reason, "DIFFERS", `a path of ${path.length}`);
  await server({ path: [a2], path_truncated: true }).resolveProven(a2, { policy });
  equal((await failure(server({}, await world.proof(world.extra([keySubject(k1)]))).resolveProven(a2, { policy }))).reason, "SUBJECT", "another's proof");
  equal((await failure(server({}, proof.replace("index 5", "index 4")).resolveProven(a2, { policy }))).reason, "INVALID", "a broken proof");

  // The same of an identity.
  const [merged, unknown] = [await world.proof(world.extra([idSubject(cc)])), await world.proof(world.extra([idSubject(hash(3))]))];
  const ids = (says, file = merged) => new module.Keytree("https://keytree.example", {
    retries: 0, fetch: async (url) => (String(url).includes("/proof") ? Response.json({ proof: file }) : says === undefined ? Response.json({ code: 5 }, { status: 404 }) : Response.json(says)),
  });
  const identity = { id_tx_hash: hex(cc), state: "MERGED", merged_into: hex(aa), main_address: a1, as_of_height: 103, as_of_hash: honest.as_of_hash };
  equal((await ids(identity).identityProven(hex(cc), { policy })).proven.merged_into, hex(aa));
  for (const [field, lie] of Object.entries({ state: "CURRENT", merged_into: hex(bb), main_address: a2, as_of_hash: hex(bb) })) {
    const error = await failure(ids({ ...identity, [field]: lie }).identityProven(hex(cc), { policy }));
    equal([error.reason, error.message.includes(field)], ["DIFFERS", true], `identity's ${field}`);
  }
  equal((await failure(ids(undefined).identityProven(hex(cc), { policy }))).reason, "DIFFERS", "an identity that it has proven, and does not know");
  equal((await ids(undefined, unknown).identityProven(hex(hash(3)), { policy })).proven.found, false, "an id that names nothing");
  equal((await failure(ids(identity, unknown).identityProven(hex(cc), { policy }))).reason, "SUBJECT", "another id's proof");
  const posted = server({});
  await posted.proveAddresses([a1, a2], { atHeight: 7, transactions: true }).catch(() => {});
  await posted.proveIdentity(hex(aa)).catch(() => {});
  equal(asked.slice(-2), [["/v1/addresses:prove", JSON.stringify({ addresses: [a1, a2], at_height: 7, transactions: true })], [`/v1/identities/${hex(aa)}/proof`, undefined]], "asked");
});
