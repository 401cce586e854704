// Runs the cases in Node: SERVER and HOME_URL are URLs, as in page.html.
import { test } from "node:test";
import * as module from "../keytree.js";
import { cases } from "./cases.js";
import "./proofcases.js";

const { SERVER: server, HOME_URL: home, KEYTREE_EXHAUSTIVE: exhaustive } = process.env;

async function control(what, args = {}) {
  const response = await fetch(`${home}/control/${what}`, { method: "POST", body: JSON.stringify(args) });
  if (!response.ok) throw new Error(`${what}: ${await response.text()}`);
  return response.json();
}

for (const [name, run] of Object.entries(cases)) test(name, { timeout: exhaustive ? 3_600_000 : 60_000 }, () => run({ module, server, control, exhaustive, note: (text) => control("note", { text }) }));
