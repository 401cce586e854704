// Verifies state proofs that another implementation has made: those of the files that are named, in the form of
// protocol/testdata/stateproofs.json, or a line of JSON each on standard input. Each says whether it must verify ("ok"),
// which check fails if not, and what it must show. Prints how many there were, and those of which keytree.js,
// which was written from protocol/SPEC.md alone, thinks otherwise.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { decodeAddress, StateProofError, verifyStateProof } from "../keytree.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const key = (address) => (address ? hex(decodeAddress(address).hash) : "00".repeat(20));
const hash = (display) => (display ? Buffer.from(display, "hex").reverse().toString("hex") : "00".repeat(32));
const number = (n) => Buffer.from(Uint32Array.of(n).buffer).toString("hex");

/** recordOf is a record as protocol/SPEC.md §12 writes it, in hex. */
const recordOf = (record) => ("address" in record
  ? `01${key(record.address)}${key(record.parent_address)}${hash(record.accept_tx_hash)}${hash(record.id_tx_hash)}${number(record.height)}`
  : `02${hash(record.id_tx_hash)}0${record.merged_into ? 1 : 0}${key(record.main_address)}${hash(record.merged_into)}`);

/** shown is what a proof has shown, in the words of the corpus. */
const shown = ({ as_of_height, subjects }) => JSON.stringify([as_of_height, subjects.map((one) => {
  const records = one.records.map(recordOf);
  return one.kind === "key" ? ["key", key(one.address), one.cut, records] : ["id", hash(one.id_tx_hash), one.cut, records];
})]);

const wanted = ({ as_of_height, subjects }) => JSON.stringify([as_of_height, subjects.map((one) =>
  (one.key ? ["key", one.key, Boolean(one.cut), one.keys ?? []] : ["id", one.id, Boolean(one.cut), one.ids ?? []]))]);

/** proofs are those of the files that are named, and of standard input if none are. */
async function* proofs() {
  for (const file of process.argv.slice(2)) yield* JSON.parse(await readFile(file, "utf8")).proofs;
  if (process.argv.length === 2) for await (const line of createInterface({ input: process.stdin })) yield JSON.parse(line);
}

const counts = { proofs: 0, refused: 0, subjects: 0, absent: 0, linked: 0, merged: 0, cut: 0, transactions: 0 };
for await (const one of proofs()) {
  counts.proofs++;
  let proven, refusal;
  try {
    proven = await verifyStateProof(one.file, one.policy);
  } catch (error) {
    if (!(error instanceof StateProofError && error.reason === "INVALID")) throw error;
    refusal = error;
  }
  const txids = proven?.transactions.map(({ tx_hash }) => hash(tx_hash)) ?? [];
  const differs = Boolean(proven) !== one.ok ? `${refusal?.message ?? shown(proven)}, want ${one.ok ? wanted(one) : "it to be refused"}`
    : refusal && one.check && !refusal.message.startsWith(`check ${one.check} of`) ? `${refusal.message}, want check ${one.check}`
    : proven && shown(proven) !== wanted(one) ? `${shown(proven)}, want ${wanted(one)}`
    : proven && one.cosigned_at !== undefined && proven.cosigned_at !== one.cosigned_at ? `cosigned at ${proven.cosigned_at}, want ${one.cosigned_at}`
    : proven && one.txids && txids.join() !== one.txids.join() ? `transactions ${txids}, want ${one.txids}` : "";
  if (differs) {
    console.error(`proof ${counts.proofs}, ${one.about ?? ""}: ${differs}`);
    process.exitCode = 1;
  }
  if (refusal) counts.refused++;
  counts.transactions += txids.length;
  for (const { records, cut, state, parent_address } of proven?.subjects ?? []) {
    counts.subjects++;
    if (records.length === 0) counts.absent++;
    if (parent_address) counts.linked++;
    if (state === "MERGED") counts.merged++;
    if (cut) counts.cut++;
  }
}
console.log(JSON.stringify(counts));
