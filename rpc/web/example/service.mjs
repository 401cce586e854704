// An app where people sign in by any key of their identity. It suspends a session as soon as a
// revocation of its key is pending, and ends it when that is confirmed. protocol/SIGNIN.md says
// why it does what it does.
//
//	POST /challenge  address=ADDRESS      gives a text for the wallet to sign
//	POST /login      signature=SIGNATURE  signs in
//	POST /logout                          signs out
//	GET  /                                shows who is signed in
//
// Run it with: node service.mjs. DOMAIN and URI are its own, and never taken from a request.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { Keytree, KeytreeError } from "../keytree.js";

const { KEYTREE = "http://127.0.0.1:8080", LISTEN = "8081", DOMAIN = `localhost:${LISTEN}`, URI = `http://${DOMAIN}/login` } = process.env;
const keytree = new Keytree(KEYTREE);

/** Of each browser, by its cookie: what it is to sign, or who is signed in. The oldest goes when there are too many. */
const sessions = new Map();
const mostSessions = 5000;

const cookieOf = (request) => /(?:^|; )session=([\w-]+)/.exec(request.headers.cookie ?? "")?.[1];

/** forget ends a session. */
function forget(id) {
  sessions.get(id)?.watch?.close();
  sessions.delete(id);
}

/** begin gives the browser another session than it has had. */
function begin(request, response, session) {
  forget(cookieOf(request));
  if (sessions.size >= mostSessions) forget(sessions.keys().next().value);
  const id = randomBytes(18).toString("base64url");
  sessions.set(id, session);
  response.setHeader("Set-Cookie", `session=${id}; HttpOnly; SameSite=Lax; Path=/${URI.startsWith("https:") ? "; Secure" : ""}`);
  return id;
}

/** challenge gives this browser a text that no other one gets, since its URI has something random. */
async function challenge(request, response, form) {
  const uri = `${URI}?s=${randomBytes(6).toString("base64url")}`;
  const { message } = await keytree.challenge({ domain: DOMAIN, uri, address: form.get("address") ?? "" });
  begin(request, response, { message });
  return [200, message];
}

/** login takes nothing but the signature from the browser, which has one try for a text. */
async function login(request, response, form) {
  const message = sessions.get(cookieOf(request))?.message;
  forget(cookieOf(request));
  if (!message) return [401, "ask for a challenge first"];
  const who = await keytree.verify({ message, signature: form.get("signature") ?? "", domain: DOMAIN });
  if (who.pending?.cut) return [401, "this key is being revoked"];
  const session = { who, suspended: false }, id = begin(request, response, session);
  session.watch = keytree.session(who, {
    onEnded: ({ pending }) => (pending ? (session.suspended = true) : forget(id)),
    onRestored: () => { session.suspended = false; },
  });
  return [200, `signed in as ${who.main_address}`];
}

function logout(request) {
  forget(cookieOf(request));
  return [200, "signed out"];
}

function show(request) {
  const { watch, suspended } = sessions.get(cookieOf(request)) ?? {};
  if (!watch) return [401, "nobody is signed in"];
  if (suspended) return [403, "suspended: the key is being revoked"];
  return [200, `${watch.address} of account ${watch.id_tx_hash || watch.address}`];
}

const calls = { "POST /challenge": challenge, "POST /login": login, "POST /logout": logout, "GET /": show };

/** formOf reads what a page has sent, of 4 kB at most. */
async function formOf(request) {
  let text = "";
  for await (const chunk of request) if ((text += chunk).length > 4096) throw new KeytreeError("too much", { status: 413 });
  return new URLSearchParams(text);
}

const server = createServer(async (request, response) => {
  let status, text;
  try {
    // A page of another site must not sign anybody in.
    const foreign = request.method === "POST" && !["same-origin", "none", undefined].includes(request.headers["sec-fetch-site"]);
    const call = foreign ? () => [403, "no page of another site may ask"] : calls[`${request.method} ${request.url}`] ?? (() => [404, "no such page"]);
    [status, text] = await call(request, response, request.method === "POST" ? await formOf(request) : undefined);
  } catch (error) {
    [status, text] = error instanceof KeytreeError ? [error.code === "UNAVAILABLE" ? 503 : error.status || 400, error.message] : [500, "internal error"];
  }
  response.writeHead(status, { "Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store" }).end(`${text}\n`);
});
server.listen(Number(LISTEN), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}`));
