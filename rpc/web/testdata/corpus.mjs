// Verifies state proofs that another implementation has made or changed, a line of JSON each on standard input: the
// file, the policy, whether it must verify ("ok"), and what it must show then. Prints how many there were; the first of
// which this implementation thinks otherwise ends it.
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

const counts = { proofs: 0, refused: 0, subjects: 0, absent: 0, merged: 0, cut: 0 };
for await (const line of createInterface({ input: process.stdin })) {
  const one = JSON.parse(line);
  counts.proofs++;
  let proven, refusal;
  try {
    proven = await verifyStateProof(one.base64 ? Buffer.from(one.file, "base64") : one.file, one.policy);
  } catch (error) {
    if (!(error instanceof StateProofError && error.reason === "INVALID")) throw error;
    refusal = error;
  }
  if (Boolean(proven) !== one.ok || proven && shown(proven) !== wanted(one)) {
    console.error(`proof ${counts.proofs}: ${refusal?.message ?? shown(proven)}, want ${one.ok ? wanted(one) : "it to be refused"}\n${line}`);
    process.exit(1);
  }
  if (refusal) counts.refused++;
  for (const { records, cut, state } of proven?.subjects ?? []) {
    counts.subjects++;
    if (records.length === 0) counts.absent++;
    if (state === "MERGED") counts.merged++;
    if (cut) counts.cut++;
  }
}
console.log(JSON.stringify(counts));
