// Runs the conformance corpus (../README.md): a second implementation of SPEC.md, written from its text alone.
//
//   node run.mjs FILE...           compares, prints each difference, and exits 1 if there is one
//   node run.mjs --values FILE...  prints what it makes of each step instead, a JSON array for each file

import { readFileSync } from 'node:fs';
import { Index } from './index.mjs';

/** What the steps of a case come to, in the fields of the file. */
function play({ start_height, steps }) {
  const index = new Index(start_height);
  const surviving = [];
  const seen = steps.map(({ connect }) => {
    let effects;
    if (connect !== undefined) {
      effects = index.connect(Buffer.from(connect, 'hex'));
      surviving.push(connect);
    } else {
      index.disconnect();
      surviving.pop();
    }
    const { height, block, stateHash } = index.tip;
    return { height, block, effects, state_hash: stateHash, state_root: index.stateRoot };
  });

  // Whatever was taken back, a fresh index of what is left says the same.
  const fresh = new Index(start_height);
  for (const connect of surviving) fresh.connect(Buffer.from(connect, 'hex'));
  if (fresh.tip.stateHash !== index.tip.stateHash || fresh.stateRoot !== index.stateRoot) throw new Error('a fresh index of the same chain differs');
  return seen;
}

function differences(want, got) {
  const found = [];
  want.steps.forEach((step, i) => {
    const say = (field, is, should) => found.push(`step ${i}: ${field} is ${is}, and should be ${should}`);
    for (const field of ['height', 'block', 'state_hash', 'state_root']) if (got[i][field] !== step[field]) say(field, got[i][field], step[field]);
    const is = got[i].effects ?? [], should = step.effects ?? [];
    for (let n = 0; n < Math.max(is.length, should.length); n++) if (is[n] !== should[n]) say(`effect ${n}`, is[n], should[n]);
  });
  return found;
}

const values = process.argv[2] === '--values';
for (const file of process.argv.slice(values ? 3 : 2)) {
  let wrong;
  try {
    const want = JSON.parse(readFileSync(file));
    const got = play(want);
    if (values) console.log(JSON.stringify(got));
    wrong = values ? [] : differences(want, got);
  } catch (error) {
    wrong = [error.message];
  }
  for (const line of wrong) console.error(`${file}: ${line}`);
  if (wrong.length > 0) process.exitCode = 1;
  else if (!values) console.log(`${file}: agrees`);
}
