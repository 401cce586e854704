// node follow.mjs http://HOST:PORT ADDRESS…
import { readFileSync, writeFileSync } from "node:fs";
import { Keytree } from "../../rpc/web/keytree.js"; // from elsewhere "@keytree-bch/keytree"

const [server, ...addresses] = process.argv.slice(2);
let lastId = ""; // none at first
try { lastId = readFileSync("last-id", "utf8"); } catch {}
for await (const { type, id, data } of new Keytree(server).stream({ addresses, lastId })) {
  if (data?.block) console.log(data.block.type, data.block.height, data.changed); // here you call your hook
  if (type === "fault") console.error("the stream ended:", data.reason);
  if (id) writeFileSync("last-id", id); // as soon as the hook has taken it
}
