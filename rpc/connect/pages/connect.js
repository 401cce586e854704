// What the connect pages do besides showing: they have the server make what is to be signed, compare what comes back from
// a wallet with it, send it, and follow the chain. What a page shows comes from the server alone, so that it
// is read again whenever something happens. Nothing here leads anywhere by itself.

const element = (id) => document.getElementById(id);

const pause = (milliseconds) => new Promise((done) => { setTimeout(done, milliseconds); });

// tell says what happens, to the eye and to the ear.
function tell(text) {
  const news = element("news");
  news.hidden = !text;
  news.textContent = text;
}

// complain says what went wrong with what somebody did; "" takes it back.
function complain(text) {
  const problem = element("problem");
  if (!problem) { // the page has become another one meanwhile
    tell(text);
    return;
  }
  problem.hidden = !text;
  problem.textContent = text;
}

// --- Transactions

const reversed = (hex) => hex.match(/../g).reverse().join("");
const little = (number, bytes) => reversed(BigInt(number).toString(16).padStart(2 * bytes, "0"));

// decode reads a transaction in hex: what of it is signed, and its outputs.
function decode(hex) {
  if (!/^(?:[0-9a-f]{2})+$/.test(hex)) throw new Error("What you have pasted is no transaction in hex, and no wallet's answer.");
  let at = 0;
  const take = (bytes) => {
    if (at + 2 * bytes > hex.length) throw new Error("The transaction ends too early: not all of it was copied.");
    at += 2 * bytes;
    return hex.slice(at - 2 * bytes, at);
  };
  const number = (bytes) => Number(BigInt(`0x${reversed(take(bytes))}`));
  const count = () => {
    const first = number(1);
    return first < 0xfd ? first : number({ 0xfd: 2, 0xfe: 4, 0xff: 8 }[first]);
  };
  const tx = { version: take(4), inputs: [], outputs: [], locktime: "" };
  for (let left = count(); left > 0; left--) {
    const outpoint = take(36);
    take(count()); // the signature
    tx.inputs.push(outpoint + take(4));
  }
  for (let left = count(); left > 0; left--) {
    const value = take(8);
    tx.outputs.push({ value, script: take(count()) });
  }
  tx.locktime = take(4);
  if (at !== hex.length) throw new Error("There is more than one transaction in what you have pasted.");
  return tx;
}

// bytes and satoshis read the forms that wallets read.
const bytes = (text) => /^<Uint8Array: 0x([0-9a-f]*)>$/.exec(text)[1];
const satoshis = (text) => /^<bigint: ([0-9]+)n>$/.exec(text)[1];

// prepared is what decode gives for what a wallet is asked to sign.
function prepared(params) {
  if (typeof params === "string") return decode(params);
  if (params.inputPaths) return decode(params.transaction.transaction);
  const { version, inputs, outputs, locktime } = params.transaction;
  return {
    version: little(version, 4),
    inputs: inputs.map((input) => reversed(bytes(input.outpointTransactionHash)) + little(input.outpointIndex, 4) + little(input.sequenceNumber, 4)),
    outputs: outputs.map((output) => ({ value: little(satoshis(output.valueSatoshis), 8), script: bytes(output.lockingBytecode) })),
    locktime: little(locktime, 4),
  };
}

// signedIn finds the transaction in what somebody has pasted.
function signedIn(text) {
  text = text.trim();
  if (!text.startsWith("{")) return text.toLowerCase();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error("The wallet's answer is cut short: not all of it was copied.");
  }
  if (typeof answer.signedTransaction !== "string") throw new Error("The wallet has not signed: its answer has no signedTransaction. Nothing was sent.");
  return answer.signedTransaction.toLowerCase();
}

let made = null; // what was made on this page for a wallet to sign, as decode has it

// check refuses what is not what was to be signed.
function check(hex) {
  const tx = decode(hex);
  const same = made && JSON.stringify(made) === JSON.stringify(tx);
  if (made && !same) {
    throw new Error("That is not the transaction that was made here: the wallet has changed it. Nothing was sent from here. To send one that was made elsewhere, load this page anew.");
  }
  const { record } = element("sign").dataset;
  if (!tx.outputs.some(({ script }) => script.startsWith(record))) {
    throw new Error("That transaction does not do what this page is about. Nothing was sent.");
  }
}

// --- Calls

// call asks the server, and throws what it says is wrong.
async function call(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer. Try it again: what is sent twice counts once.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.message ?? `The server answers with status ${response.status}. Try it again.`);
  return answer;
}

// coin reads what a person has named to pay with.
function coin() {
  const text = element("coin").value.trim();
  if (!text) return [];
  const parts = /^([0-9a-fA-F]{64}):([0-9]{1,10}):([0-9]{1,16})$/.exec(text);
  if (!parts) throw new Error("Expected a coin as TXID:OUTPUT:SATOSHI.");
  return [{ tx_hash: parts[1], output_index: Number(parts[2]), value_satoshi: parts[3] }];
}

// make has the server make what is to be signed, by the key at a path if the wallet is to be told.
async function make(format, path = "") {
  const { kind, author, ref } = element("sign").dataset;
  const answer = await call("/v1/links:prepare", { kind, author_address: author, ref_tx_hash: ref, format, key_path: path, coins: coin() });
  made = prepared(answer.params);
  return answer;
}

// prepare shows what is to be signed.
async function prepare() {
  const { params, facts } = await make(element("format").value);
  element("made").hidden = false;
  element("prompt").textContent = params.userPrompt ?? "";
  element("asked").value = typeof params === "string" ? params : JSON.stringify(params);
  if (!["IN_FORCE", "DONE", "WAITING", ""].includes(facts.expected)) complain(`It would be refused now: ${facts.expected}. Do not sign it.`);
}

// send has the server send what was signed. It is not to be sent twice, but may be.
async function send(text) {
  const hex = signedIn(text);
  check(hex);
  const { known } = await call("/v1/links:submit", { signed_transaction: hex });
  tell(known ? "The network has it already. This page shows it as soon as this server sees it." : "It is sent. This page shows it as soon as this server sees it.");
  await refresh();
}

// --- Wallets over a relay

let wallet = null; // the session, from when somebody asks for one until it is closed

// release ends the session with a wallet.
function release() {
  wallet?.close();
  wallet = null;
}

// draw shows a text as a picture for a camera.
async function draw(into, text) {
  const { encode } = await import("./uqr.mjs");
  const { data, size } = encode(text, { ecc: "L", border: 4 });
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "The same as a QR code");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", data.flatMap((row, y) => row.map((dark, x) => (dark ? `M${x} ${y}h1v1h-1z` : ""))).join(""));
  svg.append(path);
  into.replaceChildren(svg);
}

// over are the ways to a wallet: each opens a session, and has it sign once the wallet is there.
const over = {
  async walletconnect({ relay, project }, author) {
    const { WalletConnect } = await import("./wc.js");
    const session = new WalletConnect({
      relay, project, chain: `bch:${author.split(":")[0]}`,
      metadata: { name: `keytree at ${location.host}`, description: "Answer a link request of MIP-0003", url: location.origin, icons: [] },
    });
    const sign = async (accounts) => {
      if (accounts[0] !== author) {
        throw new Error(`Your wallet uses ${accounts[0] ?? "no address of this network"}. The key that is asked is ${author}: choose that in your wallet, and connect again.`);
      }
      const { params } = await make("walletconnect");
      return () => session.request("bch_signTransaction", params);
    };
    return { session, sign };
  },
  async wizardconnect({ relay }, author) {
    const { WizardConnect, find } = await import("./wiz.js");
    const session = new WizardConnect({ relay, name: `keytree at ${location.host}` });
    const sign = async (paths) => {
      const path = await find(paths, author);
      if (!path) throw new Error(`Your wallet does not have the key that is asked, ${author}, or not among the first of its keys: connect the one that has it.`);
      const { params } = await make("wizardconnect", path);
      return async () => ({ signedTransaction: await session.request(params) });
    };
    return { session, sign };
  },
};

// ask has a wallet sign over a relay, and sends that.
async function ask(section) {
  const part = (name) => section.querySelector(`.${name}`);
  const show = (text) => { part("now").textContent = text; };
  release();
  const { session, sign } = await over[section.id](section.dataset, element("sign").dataset.author);
  wallet = session;
  try {
    show("Connecting.");
    const { uri, approved } = await session.pair();
    part("uri").value = uri;
    part("launch").href = uri;
    await draw(part("code"), uri);
    part("pair").hidden = false;
    show("Waiting for your wallet.");
    const there = await approved;
    part("pair").hidden = true;
    show("Your wallet is there.");
    const request = await sign(there);
    show("Sign it in your wallet.");
    const answer = await request();
    if (wallet !== session) return; // the page has become another one meanwhile
    await send(JSON.stringify(answer ?? {}));
  } finally {
    if (wallet === session) release();
    show("");
    part("pair").hidden = true;
  }
}

// on does something for a form, with its button out of reach meanwhile.
function on(form, act) {
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    complain("");
    try {
      await act();
    } catch (error) {
      complain(error.message);
    } finally {
      button.disabled = false;
    }
  });
}

function enhance() {
  on(element("prepare"), prepare);
  on(element("send"), () => send(element("signed").value));
  for (const section of Object.keys(over).map(element).filter(Boolean)) {
    const begin = section.querySelector(".begin");
    begin.addEventListener("click", async () => {
      begin.disabled = true;
      complain("");
      try {
        await ask(section);
      } catch (error) {
        if (begin.isConnected) complain(error.message);
      } finally {
        begin.disabled = false;
      }
    });
  }
  element("copy")?.addEventListener("click", async () => {
    element("asked").select();
    await navigator.clipboard?.writeText(element("asked").value).then(() => tell("Copied."), () => {});
  });
}

// --- What happens

// read reads this page again, and shows what has changed: what somebody types stays as long as it can be sent.
async function read() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const next = page.getElementById("main");
  if (!next) throw new Error("no page");
  const now = element("main");
  if (now.dataset.state === next.dataset.state && next.dataset.state === "ask") {
    if (now.querySelector("#view").innerHTML !== next.querySelector("#view").innerHTML) {
      now.querySelector("#view").replaceWith(document.adoptNode(next.querySelector("#view")));
    }
  } else if (now.outerHTML !== next.outerHTML) {
    if (now.dataset.state !== next.dataset.state) {
      tell("");
      release();
      made = null;
    }
    now.replaceWith(document.adoptNode(next));
    document.title = page.title;
    enhance();
  }
  document.querySelector("footer")?.replaceWith(document.adoptNode(page.querySelector("footer")));
  follow();
}

let reading = null; // the page is being read
let again = false;  // something has happened since that began

// refresh reads the page until it is as of now. Whoever awaits it is answered when it is.
function refresh() {
  again = true;
  reading ??= (async () => {
    while (again) {
      again = false;
      try {
        await read();
      } catch {
        tell("This server does not answer. What was sent is not lost; the page will follow.");
        again = true;
        await pause(2000);
        if (again && element("news").textContent.startsWith("This server does not answer")) tell("");
      }
    }
    reading = null;
  })();
  return reading;
}

let stream = null;

// follow listens to what concerns the page. Where that is not known yet it asks now and then.
function follow() {
  const { live, state } = element("main").dataset;
  if (!live) {
    stream?.source.close();
    stream = null;
    if (state === "unknown") setTimeout(refresh, 3000);
    return;
  }
  if (stream?.live === live) return;
  stream?.source.close();
  const source = new EventSource(`/v1/stream?${new URLSearchParams({ unconfirmed: "true", addresses: live })}`);
  stream = { live, source };
  // What happened while it was away is not told: the page is read again.
  for (const type of ["open", "connect", "disconnect", "pending", "drop"]) source.addEventListener(type, () => refresh());
  source.addEventListener("open", () => { document.documentElement.dataset.following = ""; });
  source.addEventListener("error", async () => {
    if (source.readyState !== EventSource.CLOSED) return; // it connects again by itself
    await pause(3000);
    if (stream?.source !== source) return;
    stream = null;
    follow();
  });
}

addEventListener("pagehide", () => { release(); stream?.source.close(); stream = null; });
addEventListener("pageshow", (event) => { if (event.persisted) { follow(); refresh(); } });

enhance();
follow();
